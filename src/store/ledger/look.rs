//! Looking at a ledger's file without opening it for good: nothing is made or changed, beside it neither.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::schema::{OpenError, failure, is_file, log_of, open_to_read, real, recognise, version};

/// How much of a file is seen by who only reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// All that was committed.
    All,
    /// What stands in the file itself. Its log cannot be read along with it here, where nothing may be written.
    WithoutLog,
}

/// Checks that a file is a ledger that this program can read.
///
/// # Errors
/// [`OpenError`] when it is none.
pub fn check_file(path: &Path) -> Result<Seen, OpenError> {
    is_file(path)?;
    let path = &real(path);
    let read_failure = |source| failure(path, source);
    let (connection, seen) = open_anyhow(path).map_err(read_failure)?;
    recognise(&connection, path)?;
    match version(&connection).map_err(read_failure)? {
        0 => Err(OpenError::Foreign {
            path: path.to_owned(),
        }),
        _ => Ok(seen),
    }
}

/// Checks that a file, or one that is made in its place, can be written, and that what belongs to it can be made beside it.
///
/// # Errors
/// [`OpenError::ReadOnly`]
pub fn check_writable(path: &Path) -> Result<(), OpenError> {
    let path = real(path);
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // Of folders that are yet to be made, the one that they are made in.
    let folder = folder.ancestors().find(|folder| folder.exists());
    let file = path.exists().then_some((&*path, Access::WRITE_OK));
    let folder = folder.map(|folder| (folder, Access::WRITE_OK | Access::EXEC_OK));
    for (place, access) in file.into_iter().chain(folder) {
        accessat(CWD, place, access, AtFlags::EACCESS).map_err(|source| OpenError::ReadOnly {
            path: path.clone(),
            place: place.to_owned(),
            source: source.into(),
        })?;
    }
    Ok(())
}

/// Reads something of a file that may be a ledger, for whoever asks whether it could be opened. `None`: it is empty, or its
/// tables are older than what is read.
///
/// # Errors
/// [`OpenError`] when it could not be opened.
pub fn peek<T>(
    path: &Path,
    read: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
) -> Result<Option<T>, OpenError> {
    is_file(path)?;
    let path = &real(path);
    let read_failure = |source| failure(path, source);
    let has_log = log_of(path).exists();
    let connection = match has_log {
        true => open_to_read(path),
        // Without a log nobody writes, and SQLite need not make one to read.
        false => open_unchanging(path),
    };
    let connection = connection.map_err(read_failure)?;
    recognise(&connection, path)?;
    match version(&connection).map_err(read_failure)? {
        0 => Ok(None),
        _ => Ok(read(&connection).ok()),
    }
}

/// Opens a file for reading alone, also where nothing can be made beside it: SQLite wants to, to read a log.
pub(super) fn open_anyhow(path: &Path) -> Result<(Connection, Seen), rusqlite::Error> {
    let opened = open_to_read(path).and_then(|connection| {
        // Only who reads finds out.
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(connection)
    });
    match opened {
        Ok(connection) => Ok((connection, Seen::All)),
        Err(error) => match error.sqlite_error_code() {
            Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly) => {
                let has_log = log_of(path).metadata().is_ok_and(|log| log.len() > 0);
                let seen = if has_log { Seen::WithoutLog } else { Seen::All };
                Ok((open_unchanging(path)?, seen))
            }
            _ => Err(error),
        },
    }
}

/// Opens a file that nobody writes.
fn open_unchanging(path: &Path) -> Result<Connection, rusqlite::Error> {
    const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'/')
        .remove(b'.')
        .remove(b'-')
        .remove(b'_');
    let path = percent_encode(path.as_os_str().as_bytes(), PLAIN);
    Connection::open_with_flags(
        format!("file:{path}?immutable=1"),
        OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_URI,
    )
}
