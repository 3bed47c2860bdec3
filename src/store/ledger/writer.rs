//! The one thread that writes. It commits together whatever waits at the moment (group commit), and tells each of those
//! who wait when their row is safe.
//!
//! A row that cannot be written is kept and tried again once in a second, and with each commit that others ask for; the
//! places of open rows bound how many those can be. While it is only that another program holds the file, the journal
//! promises on, for as long as [`PATIENCE`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use rustc_hash::{FxHashMap, FxHashSet};

use super::asked::{make, settle, unless_refused};
use super::presence::{Lost, Presence};
use super::queue::{Op, Queue, Taken};
use super::rows::Rows;
use super::run::Run;
use super::schema::{Opened, set_synced};
use super::shared::Shared;
use super::{LedgerError, Sync};

/// How long after a commit rows that are owed are tried again, and it is looked whether the lock and the journal of this
/// process are still there.
const ROUND: Duration = Duration::from_secs(1);

/// How long another program may hold the file before that is a failure: who changes or copies it by hand is done sooner.
const PATIENCE: Duration = Duration::from_secs(10);

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

/// How it stands with the lock and the journal of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entered {
    /// They are there.
    Yes,
    /// They were gone for a moment, in which others may have taken it for dead.
    Anew,
    /// They are gone, and cannot be made.
    No,
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
                for (op, done) in all.into_iter().zip(written.done) {
                    self.tell(op, done);
                }
            }
            Err(error) => {
                self.failed(&error);
                // What is owed first: whoever is told of the failure sees it.
                let is_row = |op: &Op| matches!(op, Op::Open { .. } | Op::Settle { .. });
                let (rows, others): (Vec<_>, Vec<_>) = all.into_iter().partition(is_row);
                rows.into_iter().for_each(|op| self.refuse(op));
                let owed = self.owed.len() as u64;
                self.shared.owed.store(owed, Ordering::Relaxed);
                others.into_iter().for_each(|op| self.refuse(op));
            }
        }
        self.last_commit = Some(Instant::now());
    }

    /// Looks whether others still know that this process lives, and what it has promised: `waiting` is not committed.
    fn look(&mut self, waiting: &[Op]) {
        if self.entered != Entered::No && self.run.is_there() {
            return;
        }
        match self.renew(waiting) {
            Ok(()) => {
                self.entered = Entered::Anew;
                tracing::warn!("the journal of this process was deleted, and is made anew");
            }
            Err(error) if self.entered != Entered::No => {
                self.entered = Entered::No;
                self.queue.lose_journal();
                tracing::error!(%error, "the journal of this process was deleted, and cannot be made anew");
            }
            Err(_) => {}
        }
    }

    /// Makes lock and journal anew.
    fn renew(&mut self, waiting: &[Op]) -> io::Result<()> {
        let renewal = self.run.renew()?;
        if !self.run.has_journal() {
            return self.run.install(renewal);
        }
        let journal = renewal.journal()?;
        let install = || self.run.install(renewal);
        self.queue.renew(journal, waiting, install)
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

    /// Copies what is committed into the file, out of a log that nobody else finds any more: a process that is killed would
    /// lose it. Where another log has begun in its place, that is the file's, and nothing is copied.
    fn save_log(&self) {
        if self.log.as_ref().is_some_and(Presence::is_empty) {
            let checkpoint = "PRAGMA wal_checkpoint(FULL)";
            // Should it fail, it is tried again with the next commit.
            let _ = self.connection.query_row(checkpoint, [], |_| Ok(()));
        }
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

    fn tell(&mut self, op: Op, is_done: bool) {
        let told = match is_done {
            true => Ok(()),
            false => Err(LedgerError::Unwritable),
        };
        match op {
            Op::Open { done, .. } => {
                if let Some(done) = done {
                    let _ = done.send(told);
                }
            }
            Op::Settle { settled, done } => {
                match is_done {
                    true => self.shared.rows.fetch_add(1, Ordering::Relaxed),
                    false => self.shared.given_up.fetch_add(1, Ordering::Relaxed),
                };
                self.open.remove(&settled.serial);
                drop(settled);
                if let Some(done) = done {
                    let _ = done.send(told);
                }
            }
            Op::Change(change) => change.tell(Ok(())),
            Op::Note { .. } => {}
            Op::Committed { done, .. } => drop(done.send(Ok(()))),
            Op::Barrier(call) => call(),
        }
    }

    fn refuse(&mut self, op: Op) {
        let error = LedgerError::Unwritable;
        match op {
            // Whoever waits is told, and opens nothing.
            Op::Open {
                done: Some(done), ..
            } => drop(done.send(Err(error))),
            promised @ Op::Open { done: None, .. } => self.owed.push(promised),
            Op::Settle { mut settled, done } => {
                if done.is_some_and(|done| done.send(Err(error)).is_ok()) {
                    settled.entry.tell_unrecorded();
                }
                self.owed.push(Op::Settle {
                    settled,
                    done: None,
                });
            }
            Op::Change(change) => change.tell(Err(error)),
            Op::Note { .. } => {
                self.shared.left_out.fetch_add(1, Ordering::Relaxed);
            }
            Op::Committed { done, settles } => {
                let owed = self.owed.iter_mut().find_map(|owed| match owed {
                    Op::Settle { settled, .. } if Some(settled.serial) == settles => Some(settled),
                    _ => None,
                });
                match (settles, owed) {
                    // Its row came with a commit before this one, and stands.
                    (Some(_), None) => drop(done.send(Ok(()))),
                    (_, owed) => {
                        if done.send(Err(error)).is_ok()
                            && let Some(settled) = owed
                        {
                            settled.entry.tell_unrecorded();
                        }
                    }
                }
            }
            Op::Barrier(call) => call(),
        }
    }

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

/// Looks whether the file and its log are where they were.
fn check(file: &Presence, log: Option<&Presence>) -> Result<(), Lost> {
    file.check()?;
    log.map_or(Ok(()), |log| log.check().map_err(|_| Lost::Log))
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
mod tests {
    use std::path::Path;

    use tokio::sync::oneshot;

    use super::super::{Params, schema};
    use super::*;

    fn writer(path: &Path) -> (Writer, Arc<Queue>, Arc<Shared>) {
        let params = Params {
            path: path.to_owned(),
            sync: Sync::EverySecond,
            max_open: 1,
            retention: Default::default(),
        };
        let mut opened = schema::open(&params).unwrap();
        let shared = Arc::new(Shared::new(0));
        let queue = Arc::new(Queue::new(opened.journal.take()));
        let writer = Writer::new(opened, params.sync, Arc::clone(&queue), Arc::clone(&shared));
        (writer, queue, shared)
    }

    #[test]
    fn a_row_that_stands_is_not_told_to_be_missing_when_a_later_commit_fails() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weir.db");
        let (mut writer, queue, _) = writer(&path);
        let other = Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let (done, mut told) = oneshot::channel();
        let settles = Some(7);
        queue.ask(Op::Committed { done, settles }).unwrap();
        writer.round();
        assert_eq!(told.try_recv(), Ok(Ok(())));
        // What nobody knows of is not promised.
        let (done, mut told) = oneshot::channel();
        let settles = None;
        queue.ask(Op::Committed { done, settles }).unwrap();
        writer.round();
        assert_eq!(told.try_recv(), Ok(Err(LedgerError::Unwritable)));
    }

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
