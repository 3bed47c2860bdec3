//! The one thread that writes. It commits together whatever waits at the moment (group commit), and tells each of those
//! who wait when their row is safe.
//!
//! A row that cannot be written is kept and tried again once in a second, and with each commit that others ask for; the
//! places of open rows bound how many those can be.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use rustc_hash::{FxHashMap, FxHashSet};

use super::LedgerError;
use super::change::Change;
use super::presence::{Lost, Presence};
use super::queue::{Op, Queue, Settled, Taken};
use super::rows::Rows;
use super::run::Run;

/// How long after a failure rows that are owed are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What others may see of the thread's work.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) failing: AtomicBool,
    pub(super) refuses: AtomicBool,
    rows: AtomicU64,
    commits: AtomicU64,
    failures: AtomicU64,
    owed: AtomicU64,
    given_up: AtomicU64,
    pub(super) left_out: AtomicU64,
    interrupted: u64,
    /// Whether something was committed that the disk was not yet made to keep.
    pub(super) dirty: AtomicBool,
    keeping: Mutex<Keeping>,
    woken: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct Keeping {
    pub(super) retention: Option<Duration>,
    pub(super) vacuum: bool,
    pub(super) stopped: bool,
}

/// The ledger, seen from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Whether the last attempt to write failed.
    pub failing: bool,
    /// Settled rows written since the start.
    pub rows: u64,
    /// Commits since the start.
    pub commits: u64,
    /// Commits that failed since the start.
    pub failures: u64,
    /// Settled rows that could not be written yet.
    pub owed: u64,
    /// Settled rows that the file refused for what is in them.
    pub given_up: u64,
    /// Refused requests that were not written down.
    pub left_out: u64,
    /// Rows of dead processes that were settled at the start.
    pub interrupted: u64,
}

pub(super) struct Writer {
    connection: Connection,
    run: Run,
    presence: Presence,
    queue: Arc<Queue>,
    shared: Arc<Shared>,
    /// The rows of requests that are under way, by their serial numbers.
    open: FxHashMap<u64, i64>,
    /// Rows that could not be written.
    owed: Vec<Op>,
    last_commit: Option<Instant>,
    last_failure: Option<Instant>,
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

// === impl Shared ===

impl Shared {
    pub(super) fn new(interrupted: u64) -> Self {
        Self {
            failing: AtomicBool::new(false),
            refuses: AtomicBool::new(true),
            rows: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            owed: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
            interrupted,
            dirty: AtomicBool::new(false),
            keeping: Mutex::default(),
            woken: Condvar::new(),
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            failing: self.failing.load(Ordering::Relaxed),
            rows: of(&self.rows),
            commits: of(&self.commits),
            failures: of(&self.failures),
            owed: of(&self.owed),
            given_up: of(&self.given_up),
            left_out: of(&self.left_out),
            interrupted: self.interrupted,
        }
    }

    pub(super) fn set_retention(&self, retention: Option<Duration>, vacuum: bool) {
        let mut keeping = self.keeping();
        keeping.retention = retention;
        keeping.vacuum = vacuum;
    }

    pub(super) fn stop_keeper(&self) {
        self.keeping().stopped = true;
        self.woken.notify_all();
    }

    /// Sleeps until it is time for the next round, and returns what counts then; `None`: stop.
    pub(super) fn next_round(&self, pause: Duration) -> Option<(Option<Duration>, bool)> {
        let waited = self
            .woken
            .wait_timeout_while(self.keeping(), pause, |keeping| !keeping.stopped);
        let (keeping, _) = waited.unwrap_or_else(PoisonError::into_inner);
        (!keeping.stopped).then_some((keeping.retention, keeping.vacuum))
    }

    fn keeping(&self) -> MutexGuard<'_, Keeping> {
        self.keeping.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(
        connection: Connection,
        run: Run,
        queue: Arc<Queue>,
        shared: Arc<Shared>,
        presence: Presence,
    ) -> Self {
        Self {
            connection,
            run,
            presence,
            queue,
            shared,
            open: FxHashMap::default(),
            owed: Vec::new(),
            last_commit: None,
            last_failure: None,
        }
    }

    /// Writes until the ledger is closed.
    pub(super) fn run(mut self) {
        loop {
            let retry = match self.owed.is_empty() {
                true => None,
                false => Some(self.last_failure.map_or_else(Instant::now, |at| at + RETRY)),
            };
            match self.queue.take(self.last_commit, retry) {
                Taken::Ops(ops) => self.commit(ops),
                Taken::Time => self.commit(Vec::new()),
                Taken::Last(ops) => {
                    self.commit(ops);
                    break;
                }
            }
        }
        // What is owed still has one more chance: perhaps there is room again.
        self.commit(Vec::new());
        if !self.owed.is_empty() {
            tracing::error!(
                rows = self.owed.len(),
                "the ledger ends with rows that could not be written"
            );
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
        // Those who have waited longest come first.
        let mut all = std::mem::take(&mut self.owed);
        all.extend(ops);
        if all.is_empty() {
            return;
        }
        match self.write(&mut all) {
            Ok(written) => {
                self.shared.dirty.store(true, Ordering::Release);
                self.succeeded(owed_before);
                self.queue.committed();
                self.open.extend(written.opened);
                for (op, done) in all.into_iter().zip(written.done) {
                    self.tell(op, done);
                }
            }
            Err(error) => {
                self.failed(&error);
                all.into_iter().for_each(|op| self.refuse(op));
            }
        }
        self.last_commit = Some(Instant::now());
        self.shared
            .owed
            .store(self.owed.len() as u64, Ordering::Relaxed);
    }

    /// Writes all of it in one transaction.
    fn write(&mut self, ops: &mut [Op]) -> Result<Written, WriteError> {
        self.presence.check()?;
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
                Op::Committed(_) | Op::Barrier(_) => true,
            });
        }
        drop(rows);
        // It may have gone meanwhile.
        self.presence.check()?;
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
            Op::Committed(done) => drop(done.send(Ok(()))),
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
            Op::Settle { settled, done } => {
                if let Some(done) = done {
                    let _ = done.send(Err(error));
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
            Op::Committed(done) => drop(done.send(Err(error))),
            Op::Barrier(call) => call(),
        }
    }

    fn succeeded(&mut self, owed: usize) {
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        self.last_failure = None;
        if self.shared.failing.swap(false, Ordering::Relaxed) {
            tracing::info!(rows = owed, "the ledger can be written again");
        }
    }

    fn failed(&mut self, error: &WriteError) {
        self.shared.failures.fetch_add(1, Ordering::Relaxed);
        self.last_failure = Some(Instant::now());
        if !self.shared.failing.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "the ledger cannot be written");
        }
    }
}

/// Settles the row of a request that is under way, or writes all of it at once.
fn settle(
    rows: &mut Rows<'_>,
    row: Option<i64>,
    settled: &Settled,
) -> Result<i64, rusqlite::Error> {
    let Settled {
        serial,
        intent,
        entry,
        ..
    } = settled;
    match row {
        Some(row) => rows.update(row, entry),
        None => rows.insert(*serial, intent, entry),
    }
}

/// Makes a change; what it breaks must not undo the rows beside it.
fn make(transaction: &Transaction<'_>, change: &mut dyn Change) -> Result<(), rusqlite::Error> {
    transaction.execute_batch("SAVEPOINT change")?;
    match catch_unwind(AssertUnwindSafe(|| change.make(transaction))) {
        Ok(Ok(())) => transaction.execute_batch("RELEASE change"),
        Ok(Err(error)) if is_the_files(&error) => Err(error),
        Ok(Err(_)) | Err(_) => transaction.execute_batch("ROLLBACK TO change; RELEASE change"),
    }
}

/// A row that the file refuses for what is in it would be refused each time, and all others with it: it is given up.
/// What stands of it already stays.
fn unless_refused(written: Result<i64, rusqlite::Error>) -> Result<Option<i64>, rusqlite::Error> {
    match written {
        Err(error) if !is_the_files(&error) => {
            tracing::error!(%error, "a row cannot be written, and is given up");
            Ok(None)
        }
        written => written.map(Some),
    }
}

/// Returns whether an error is the file's, and not the statement's.
pub(super) fn is_the_files(error: &rusqlite::Error) -> bool {
    !matches!(
        error.sqlite_error_code(),
        None | Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
    )
}
