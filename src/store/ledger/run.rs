//! Which process wrote what: each one holds a lock for as long as it lives, and whoever finds a lock free knows that its
//! owner has died.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rusqlite::{Connection, Transaction, params};

use super::journal::{self, Journal, Record};
use super::rows::Rows;
use super::schema::OpenError;

/// This process, as the ledger knows it.
pub(super) struct Run {
    pub(super) id: i64,
    path: PathBuf,
    /// Held for as long as the process lives. What it has promised stands in the same file.
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
            // A number that was used before a file was put back from a copy comes again: what it left is not ours.
            let mut file = OpenOptions::new();
            let file = file.create(true).append(true).mode(0o600).open(&path)?;
            file.try_lock().map_err(io::Error::from)?;
            file.set_len(0)?;
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

    /// Begins the journal of this process.
    pub(super) fn journal(&self) -> io::Result<Journal> {
        Journal::begin(&self.path)
    }

    /// Writes what processes have promised that live no more, and settles what they left open. Returns how many rows
    /// that were, and the files to [`journal::remove`] once it is committed.
    pub(super) fn settle_the_dead(
        &self,
        transaction: &Transaction<'_>,
        ledger: &Path,
    ) -> Result<(u64, Vec<PathBuf>), OpenError> {
        let mut dead = Vec::new();
        let mut settle = || {
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
                let left = journal::read(&lock).unwrap_or_else(|error| {
                    tracing::error!(%error, "what a process that died has left cannot be read");
                    Vec::new()
                });
                replay(transaction, run, left)?;
                settled += interrupt(transaction, run)?;
                end(transaction, run)?;
                dead.push(lock);
            }
            Ok(settled)
        };
        let settled = settle().map_err(|source| OpenError::Unwritable {
            path: ledger.to_owned(),
            source,
        })?;
        Ok((settled, dead))
    }

    /// Notes the end, and settles what is open even now: whoever holds it will not be heard any more. Where not all of
    /// the journal is written, the next start does it.
    pub(super) fn finish(self, connection: &mut Connection, is_all: bool) {
        if !is_all {
            return;
        }
        let mut finish = || {
            let transaction = connection.transaction()?;
            interrupt(&transaction, self.id)?;
            end(&transaction, self.id)?;
            transaction.commit()
        };
        // Should it fail, the next start finds the lock free and does it.
        if finish().is_ok() {
            journal::remove(&self.path);
        }
    }
}

/// Writes what a process had promised and not committed.
fn replay(
    transaction: &Transaction<'_>,
    run: i64,
    records: Vec<Record<'_>>,
) -> Result<(), rusqlite::Error> {
    let arrivals = records.iter().map(|record| match record {
        Record::Open { intent, .. } | Record::Settled { intent, .. } => {
            micros(intent.get().received)
        }
    });
    let Some(first) = arrivals.min() else {
        return Ok(());
    };
    let mut known = HashMap::new();
    let mut select = transaction.prepare(
        "SELECT serial, id, status = 'open' FROM request WHERE run = ?1 AND id >= ?2 AND serial IS NOT NULL",
    )?;
    let mut rows = select.query(params![run, first])?;
    while let Some(row) = rows.next()? {
        let (serial, id, is_open): (i64, i64, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
        known.insert(serial.cast_unsigned(), (id, is_open));
    }
    let mut writes = Rows::new(transaction, run)?;
    let (settled, open): (Vec<_>, Vec<_>) = records
        .into_iter()
        .partition(|record| matches!(record, Record::Settled { .. }));
    for record in settled.into_iter().chain(open) {
        match record {
            Record::Settled {
                serial,
                intent,
                entry,
            } => match known.get(&serial) {
                // Committed, and the process died before the journal could be emptied.
                Some((_, false)) => {}
                Some((id, true)) => {
                    writes.update(*id, entry.get())?;
                    known.insert(serial, (*id, false));
                }
                None => {
                    let id = writes.insert(serial, intent.get(), entry.get())?;
                    known.insert(serial, (id, false));
                }
            },
            Record::Open { serial, intent } => {
                if let Entry::Vacant(unknown) = known.entry(serial) {
                    let id = writes.open(serial, intent.get())?;
                    unknown.insert((id, true));
                }
            }
        }
    }
    Ok(())
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
