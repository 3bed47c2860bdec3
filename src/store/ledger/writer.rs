//! The one thread that writes. It commits together whatever waits at the moment (group commit), and tells each of those
//! who wait when their row is safe.
//!
//! A row that cannot be written is kept and tried again once in a second, and with each commit that others ask for; the
//! places of open rows bound how many those can be. While it is only that another program holds the file, the journal
//! promises on, for as long as [`PATIENCE`].
//!
//! Here are the loop and the transaction. Those who wait are told in `telling`; `files` looks after what this process needs
//! to write, and after what others know by that it lives.

mod files;
mod telling;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use rustc_hash::{FxHashMap, FxHashSet};

use self::files::{Entered, check};
use super::Sync;
use super::asked::{make, settle, unless_refused};
use super::presence::{Lost, Presence};
use super::queue::{Op, Queue, Taken};
use super::rows::Rows;
use super::run::Run;
use super::schema::{Opened, set_synced};
use super::shared::Shared;

/// How long after a commit rows that are owed are tried again, and it is looked whether the lock and the journal of this
/// process are still there.
const ROUND: Duration = Duration::from_secs(1);

/// How long another program may hold the file before that is a failure: who changes or copies it by hand is done sooner.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the thread has.
pub(super) struct Writer {
    connection: Connection,
    run: Run,
    /// How it stands with what others know it by.
    entered: Entered,
    sync: Sync,
    presence: Presence,
    /// Where its log lies.
    log: Option<Presence>,
    queue: Arc<Queue>,
    shared: Arc<Shared>,
    /// The rows of requests that are under way, by their serial numbers.
    open: FxHashMap<u64, i64>,
    /// Rows that could not be written.
    owed: Vec<Op>,
    last_commit: Option<Instant>,
    /// Since when nothing could be written.
    held_up: Option<Instant>,
    next_round: Instant,
}

/// Why nothing was committed.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error(transparent)]
    Lost(#[from] Lost),
}

/// What one commit has done.
struct Written {
    /// For each thing that was asked whether it was done; what was not never can be.
    done: Vec<bool>,
    opened: FxHashMap<u64, i64>,
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(opened: Opened, sync: Sync, queue: Arc<Queue>, shared: Arc<Shared>) -> Self {
        Self {
            connection: opened.connection,
            run: opened.run,
            entered: Entered::Yes,
            sync,
            log: opened.presence.of_log(),
            presence: opened.presence,
            queue,
            shared,
            open: FxHashMap::default(),
            owed: Vec::new(),
            last_commit: None,
            held_up: None,
            next_round: Instant::now() + ROUND,
        }
    }

    /// Waits for what is to be done, and does it. Returns whether more may come.
    pub(super) fn round(&mut self) -> bool {
        let (ops, more) = match self.queue.take(self.last_commit, self.next_round) {
            Taken::Ops(ops) => (ops, true),
            Taken::Time => (Vec::new(), true),
            Taken::Last(ops) => (ops, false),
        };
        self.commit(ops);
        more
    }

    /// Writes until the ledger is closed.
    pub(super) fn run(mut self) {
        while self.round() {}
        // What is owed still has one more chance: perhaps there is room again.
        self.commit(Vec::new());
        if !self.owed.is_empty() {
            tracing::error!(
                rows = self.owed.len(),
                "the ledger ends with rows that could not be written; the next start writes what the journal holds"
            );
        }
        if check(&self.presence, self.log.as_ref()) == Err(Lost::Log) {
            self.save_log();
            let keep_log = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
            let _ = self.connection.set_db_config(keep_log, true);
            // The next start finds the lock free, and does what is left to do.
            return;
        }
        if self.log.as_ref().is_none_or(|log| log.check().is_err()) {
            // SQLite would take what lies in its place now away, as this file's.
            let keep_log = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
            let _ = self.connection.set_db_config(keep_log, true);
        }
        self.run.finish(&mut self.connection, self.owed.is_empty());
        // A file without its log is easier to copy.
        let _ = self
            .connection
            .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
    }

    /// Writes all of it, or nothing, and tells everyone.
    fn commit(&mut self, ops: Vec<Op>) {
        let owed_before = self.owed.len();
        self.next_round = Instant::now() + ROUND;
        // Those who have waited longest come first.
        let mut all = std::mem::take(&mut self.owed);
        all.extend(ops);
        self.look(&all);
        if all.is_empty() && self.entered != Entered::Anew {
            return;
        }
        match self.write_safely(&mut all, owed_before > 0) {
            Ok(written) => {
                self.shared.owed.store(0, Ordering::Relaxed);
                self.succeeded(owed_before);
                self.queue.committed();
                self.open.extend(written.opened);
                self.tell_all(all, written.done);
            }
            Err(error) => {
                self.failed(&error);
                self.refuse_all(all);
            }
        }
        self.last_commit = Some(Instant::now());
    }

    /// Writes all of it. The journal has kept what is owed, on the disk, too; it will not any more.
    fn write_safely(&mut self, ops: &mut [Op], is_owed: bool) -> Result<Written, WriteError> {
        let is_synced = is_owed && self.sync == Sync::EverySecond;
        if is_synced {
            set_synced(&self.connection, true)?;
        }
        let written = self.write(ops);
        if is_synced {
            // Where that fails, commits take longer.
            let _ = set_synced(&self.connection, false);
        }
        if written.is_ok() && !is_synced {
            self.shared.dirty.store(true, Ordering::Release);
        }
        written
    }

    /// Writes all of it in one transaction.
    fn write(&mut self, ops: &mut [Op]) -> Result<Written, WriteError> {
        check(&self.presence, self.log.as_ref())?;
        // What ends in the commit that it begins in is written once.
        let settled: FxHashSet<u64> = ops
            .iter()
            .filter_map(|op| match op {
                Op::Settle { settled, .. } => Some(settled.serial),
                _ => None,
            })
            .collect();
        let mut opened = FxHashMap::default();
        let mut done = Vec::with_capacity(ops.len());
        let behavior = TransactionBehavior::Immediate;
        let transaction = self.connection.transaction_with_behavior(behavior)?;
        if self.entered == Entered::Anew {
            self.run.enter(&transaction)?;
        }
        let mut rows = Rows::new(&transaction, self.run.id)?;
        for op in ops {
            done.push(match op {
                Op::Open { serial, .. } if settled.contains(serial) => true,
                Op::Open { serial, intent, .. } => {
                    let row = unless_refused(rows.open(*serial, intent))?;
                    opened.extend(row.map(|row| (*serial, row)));
                    row.is_some()
                }
                Op::Settle { settled, .. } => {
                    let row = self.open.get(&settled.serial).copied();
                    unless_refused(settle(&mut rows, row, settled))?.is_some()
                }
                Op::Change(change) => {
                    make(&transaction, &mut **change)?;
                    true
                }
                Op::Note {
                    serial,
                    intent,
                    entry,
                } => unless_refused(rows.insert(*serial, intent, entry))?.is_some(),
                Op::Committed { .. } | Op::Barrier(_) => true,
            });
        }
        drop(rows);
        // It may have gone meanwhile.
        check(&self.presence, self.log.as_ref())?;
        transaction.commit()?;
        Ok(Written { done, opened })
    }

    /// Notes a commit, after which so many rows are not owed any more.
    fn succeeded(&mut self, owed: usize) {
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        if self.entered == Entered::Anew {
            self.entered = Entered::Yes;
        }
        self.shared.failing.store(false, Ordering::Relaxed);
        if self.held_up.take().is_some() {
            tracing::info!(rows = owed, "the ledger can be written again");
        }
    }

    /// Tells each state once: that the ledger is held up, and that it fails.
    fn failed(&mut self, error: &WriteError) {
        self.shared.failures.fetch_add(1, Ordering::Relaxed);
        if matches!(error, WriteError::Lost(Lost::Log)) {
            self.save_log();
        }
        let now = Instant::now();
        let is_first = self.held_up.is_none();
        let since = *self.held_up.get_or_insert(now);
        if error.is_busy() && self.queue.has_journal() && now.duration_since(since) < PATIENCE {
            if is_first {
                tracing::warn!(%error, "another program holds the ledger; what is promised meanwhile waits in the journal");
            }
        } else if !self.shared.failing.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "the ledger cannot be written");
        }
    }
}

// === impl WriteError ===

impl WriteError {
    fn is_busy(&self) -> bool {
        match self {
            Self::Sqlite(error) => error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy),
            Self::Lost(_) => false,
        }
    }
}

#[cfg(test)]
mod by_hand;

#[cfg(test)]
mod tests {
    use super::by_hand::writer;
    use super::*;

    #[test]
    fn another_program_that_holds_the_file_for_long_is_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weir.db");
        let (mut writer, queue, shared) = writer(&path);
        let other = Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let mut is_failing_after_a_commit = || {
            queue.ask(Op::Barrier(Box::new(|| {}))).unwrap();
            writer.round();
            let is_failing = shared.snapshot().failing;
            writer.held_up = writer.held_up.and_then(|since| since.checked_sub(PATIENCE));
            is_failing
        };
        assert!(!is_failing_after_a_commit());
        assert!(is_failing_after_a_commit());
        other.execute_batch("COMMIT").unwrap();
        assert!(!is_failing_after_a_commit());
    }
}
