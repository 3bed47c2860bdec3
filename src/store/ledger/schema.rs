//! The tables, and how the file that holds them is opened.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior};

use super::journal::Journal;
use super::left::Executor;
use super::look::check_writable;
use super::presence::Presence;
use super::run::{Name, Run};
use super::{Params, Sync};

/// The version of the tables that this program writes.
pub const VERSION: i64 = 6;

/// "Weir", so that `file` and SQLite itself can tell whose it is.
const APPLICATION_ID: i64 = 0x5765_6972;

/// How long a commit waits for another process that writes.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

const TABLES: &str = include_str!("schema.sql");

/// What makes tables of each version those of the next one, from the first version on.
const STEPS: [&str; 5] = [
    include_str!("schema-2.sql"),
    include_str!("schema-3.sql"),
    include_str!("schema-4.sql"),
    include_str!("schema-5.sql"),
    include_str!("schema-6.sql"),
];

/// Why the ledger was not opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its folder cannot be made.
    #[error("the ledger's folder {} cannot be made: {source}; set [ledger] path to a place that can be written", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a folder, or a device.
    #[error("{} is no file; set [ledger] path to one, such as {}", path.display(), path.join("weir.db").display())]
    NoFile {
        /// The place.
        path: PathBuf,
    },
    /// It holds something else.
    #[error("{} is no ledger of Weir's; move it away, or set [ledger] path to another place", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A newer Weir wrote it.
    #[error("{} was written by a newer Weir (tables of version {found}, this one knows {VERSION}); run that version, or set [ledger] path to another place", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version of its tables.
        found: i64,
    },
    /// It is damaged.
    #[error("{} is damaged ({source}); save what can be saved by `sqlite3 {} .recover`, restore a copy, or set [ledger] path to another place", path.display(), path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: rusqlite::Error,
    },
    /// Another program holds it.
    #[error("{} is locked by another program; end it, or set [ledger] path to another place", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// Its file, or its folder, is not this user's to write.
    #[error("the ledger {} cannot be opened for writing: {}: {source}; give this user the right to write there, or set [ledger] path to another place", path.display(), place.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
        /// What cannot be written.
        place: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be written.
    #[error("the ledger {} cannot be opened for writing: {source}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// Nobody can see what dead processes have left.
    #[error("what lies beside the ledger {} cannot be looked at: {source}; give this user the right to list its folder", path.display())]
    Beside {
        /// The ledger.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// This process cannot be told from others.
    #[error("the lock of this process beside the ledger {} cannot be made: {source}", path.display())]
    Run {
        /// The ledger.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system gives no thread.
    #[error("no thread to write the ledger: {source}")]
    Thread {
        /// Why.
        source: io::Error,
    },
}

/// A ledger that can be written.
pub(super) struct Opened {
    /// Where it really lies, and all that belongs to it.
    pub(super) path: PathBuf,
    /// Which ledger it is.
    pub(super) id: String,
    pub(super) connection: Connection,
    pub(super) run: Run,
    /// Where the file lies.
    pub(super) presence: Presence,
    /// `None`: everybody waits for commits.
    pub(super) journal: Option<Journal>,
    /// How many rows of dead processes were settled.
    pub(super) interrupted: u64,
}

/// Opens the file, or makes it, and settles what dead processes left open.
pub(super) fn open(params: &Params) -> Result<Opened, OpenError> {
    let path = &params.path;
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        fs::create_dir_all(folder).map_err(|source| OpenError::Folder {
            path: folder.to_owned(),
            source,
        })?;
    }
    is_file(path)?;
    check_writable(path)?;
    begin_private(path);
    let read_failure = |source| failure(path, source);
    let mut connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(read_failure)?;
    let path = &real(path);
    let read_failure = |source| failure(path, source);
    connection
        .busy_timeout(BUSY_TIMEOUT)
        .map_err(read_failure)?;
    recognise(&connection, path)?;
    prepare(&connection).map_err(read_failure)?;
    connection.set_prepared_statement_cache_capacity(32);
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(read_failure)?;
    // Looked at once more, now that nobody else can be at it.
    let found = version(&transaction).map_err(read_failure)?;
    bring_up_to_date(&transaction, path, found).map_err(read_failure)?;
    let id = ledger_id(&transaction).map_err(read_failure)?;
    let beside = Name::beside(path).map_err(|source| OpenError::Beside {
        path: path.clone(),
        source,
    })?;
    let run_failure = |source| OpenError::Run {
        path: path.clone(),
        source,
    };
    let run = Run::begin(&transaction, path, &id, &beside).map_err(read_failure)?;
    let mut run = run.map_err(run_failure)?;
    let executor = Executor {
        transaction: &transaction,
        ledger: path,
        ledger_id: &id,
        is_new: found == 0,
        own: run.id,
    };
    let settlement = executor.settle(&beside).map_err(read_failure)?;
    // On the disk, so that the journals may go.
    transaction.commit().map_err(read_failure)?;
    let presence = Presence::of(path).map_err(run_failure)?;
    settlement.remove_done();
    set_synced(&connection, params.sync == Sync::Always).map_err(read_failure)?;
    // Where each commit reaches the disk, each request waits for its own.
    let journal = match params.sync {
        Sync::Always => None,
        Sync::EverySecond | Sync::Never => Some(run.journal().map_err(run_failure)?),
    };
    Ok(Opened {
        path: path.clone(),
        id,
        connection,
        run,
        presence,
        journal,
        interrupted: settlement.interrupted,
    })
}

/// Makes the tables, or makes those of an older version today's.
fn bring_up_to_date(
    transaction: &Connection,
    path: &Path,
    found: i64,
) -> Result<(), rusqlite::Error> {
    if found == 0 {
        owner_only(path);
        transaction.execute_batch(TABLES)?;
    } else {
        let done = usize::try_from(found - 1).unwrap_or(0);
        for step in STEPS.iter().skip(done) {
            transaction.execute_batch(step)?;
        }
    }
    transaction.execute_batch(&format!(
        "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"
    ))
}

/// Opens the file for reading alone.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

/// Returns where a file lies that links may lead to. SQLite follows them, and makes the log beside the file itself: whatever
/// else belongs to the ledger must be looked for there, too, by whichever way it was opened.
pub(super) fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Returns where the log of a file lies, which no link leads to.
pub(super) fn log_of(path: &Path) -> PathBuf {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

/// Makes sure that nothing but a file is there.
pub(super) fn is_file(path: &Path) -> Result<(), OpenError> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(OpenError::NoFile {
            path: path.to_owned(),
        }),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Makes sure that the file is ours, or empty.
pub(super) fn recognise(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let read_failure = |source| failure(path, source);
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let application = pragma("application_id").map_err(read_failure)?;
    let found = version(connection).map_err(read_failure)?;
    let table: Option<String> = connection
        .query_row("SELECT name FROM sqlite_schema LIMIT 1", [], |row| {
            row.get(0)
        })
        .optional()
        .map_err(read_failure)?;
    let is_empty = table.is_none() && found == 0;
    if !is_empty && application != APPLICATION_ID {
        return Err(OpenError::Foreign {
            path: path.to_owned(),
        });
    }
    if found > VERSION {
        return Err(OpenError::Newer {
            path: path.to_owned(),
            found,
        });
    }
    Ok(())
}

pub(super) fn version(connection: &Connection) -> Result<i64, rusqlite::Error> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn ledger_id(connection: &Connection) -> Result<String, rusqlite::Error> {
    let sql = "SELECT value FROM meta WHERE name = 'ledger_id'";
    connection.query_row(sql, [], |row| row.get(0))
}

fn prepare(connection: &Connection) -> Result<(), rusqlite::Error> {
    // Before the first table is made, or it has no effect.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    set_synced(connection, true)?;
    // The keeper copies the log back; a request must not wait for that.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "foreign_keys", false)?;
    connection.pragma_update(None, "trusted_schema", false)
}

/// Says whether the disk is made to keep each commit. Where it is not, it still keeps the log before that is copied into the
/// file, which keeps the file whole; the keeper adds what `every_second` promises.
pub(super) fn set_synced(connection: &Connection, is_synced: bool) -> Result<(), rusqlite::Error> {
    let synchronous = match is_synced {
        true => "FULL",
        false => "NORMAL",
    };
    connection.pragma_update(None, "synchronous", synchronous)
}

/// Makes a new file its owner's alone before anything is in it: its log is given the same rights. What stands in the way is
/// told by whoever opens it.
fn begin_private(path: &Path) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut new = fs::OpenOptions::new();
    let _ = new.write(true).create_new(true).mode(0o600).open(path);
}

/// Usage of people and digests of keys are nobody else's.
fn owner_only(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    // Where the file system has no such thing, there is nothing to protect.
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o600));
}

pub(super) fn failure(path: &Path, source: rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OpenError::Foreign { path },
        Some(ErrorCode::DatabaseCorrupt) => OpenError::Damaged { path, source },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenError::Locked { path },
        _ => OpenError::Unwritable { path, source },
    }
}
