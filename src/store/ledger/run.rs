//! Which process wrote what: each one holds a lock for as long as it lives, and whoever finds a lock free knows that its
//! owner has died.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rusqlite::{Connection, Transaction, params};

use super::schema::OpenError;

/// This process, as the ledger knows it.
pub(super) struct Run {
    pub(super) id: i64,
    path: PathBuf,
    /// Held for as long as the process lives.
    _lock: File,
}

impl Run {
    /// Enters this process. The transaction keeps others from taking it for dead before it has its lock.
    pub(super) fn begin(transaction: &Transaction<'_>, ledger: &Path) -> Result<Self, OpenError> {
        let fail = |source| OpenError::Unwritable {
            path: ledger.to_owned(),
            source,
        };
        transaction
            .execute(
                "INSERT INTO run (began) VALUES (?)",
                [micros(SystemTime::now())],
            )
            .map_err(fail)?;
        let id = transaction.last_insert_rowid();
        let path = lock_path(ledger, id);
        let lock = || {
            let file = File::create(&path)?;
            file.try_lock().map_err(io::Error::from)?;
            Ok(file)
        };
        let lock = lock().map_err(|source| OpenError::Run {
            path: ledger.to_owned(),
            source,
        })?;
        Ok(Self {
            id,
            path,
            _lock: lock,
        })
    }

    /// Settles what processes left open that live no more. Returns how many rows that were.
    pub(super) fn settle_the_dead(
        &self,
        transaction: &Transaction<'_>,
        ledger: &Path,
    ) -> Result<u64, OpenError> {
        let settle = || {
            let mut others =
                transaction.prepare("SELECT id FROM run WHERE ended IS NULL AND id <> ?")?;
            let others: Vec<i64> = others
                .query_map([self.id], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            let mut settled = 0;
            for run in others {
                let lock = lock_path(ledger, run);
                if is_held(&lock) {
                    continue;
                }
                settled += interrupt(transaction, run)?;
                end(transaction, run)?;
                let _ = fs::remove_file(lock);
            }
            Ok(settled)
        };
        settle().map_err(|source| OpenError::Unwritable {
            path: ledger.to_owned(),
            source,
        })
    }

    /// Notes the end, and settles what is open even now: whoever holds it will not be heard any more.
    pub(super) fn finish(self, connection: &mut Connection) {
        let mut finish = || {
            let transaction = connection.transaction()?;
            interrupt(&transaction, self.id)?;
            end(&transaction, self.id)?;
            transaction.commit()
        };
        // Should it fail, the next start finds the lock free and does it.
        if finish().is_ok() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Settles the open rows of a run at their estimates, each with an attempt that says the same.
fn interrupt(transaction: &Transaction<'_>, run: i64) -> Result<u64, rusqlite::Error> {
    transaction.execute(
        "INSERT OR REPLACE INTO attempt (request, number, upstream, endpoint, model, began, result, input_tokens,
            output_tokens, provenance, cost)
         SELECT id, 1, coalesce(upstream, ''), '', model, 0, 'interrupted', input_tokens, output_tokens, provenance, cost
         FROM request WHERE run = ? AND status = 'open' AND true",
        [run],
    )?;
    let settled = transaction.execute(
        "UPDATE request SET status = 'interrupted', error = 'gateway_interrupted', attempts = 1
         WHERE run = ? AND status = 'open'",
        [run],
    )?;
    Ok(settled as u64)
}

fn end(connection: &Connection, run: i64) -> Result<(), rusqlite::Error> {
    connection.execute(
        "UPDATE run SET ended = ? WHERE id = ?",
        params![micros(SystemTime::now()), run],
    )?;
    Ok(())
}

fn lock_path(ledger: &Path, run: i64) -> PathBuf {
    let mut name = ledger.as_os_str().to_owned();
    name.push(format!("-run-{run}"));
    name.into()
}

/// Returns whether somebody lives behind a lock. One that cannot be asked is taken for alive: a row too few settled is
/// found at the next start, one too many would be counted twice.
fn is_held(lock: &Path) -> bool {
    match File::open(lock) {
        Ok(file) => match file.try_lock() {
            Ok(()) => false,
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => true,
        },
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Microseconds since 1970.
pub(super) fn micros(time: SystemTime) -> i64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
