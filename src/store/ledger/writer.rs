//! The one thread that writes. It commits together whatever waits at the moment (group commit), and tells each of those
//! who wait when their row is safe.
//!
//! A row that cannot be written is kept and tried again once in a second, and with each commit that others ask for; the
//! places of open rows bound how many those can be.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::LedgerError;
use super::change::Change;
use super::entry::{Entry, Intent};
use super::open::OpenRow;
use super::rows::{open_row, settle_row};
use super::run::Run;

/// How many rows one commit holds at most; more wait for the next one, so that the first of them need not wait long.
const BATCH: usize = 512;
/// How long after a failure rows that are owed are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What the thread is asked for.
pub(super) enum Op {
    /// Open a row.
    Begin {
        intent: Arc<Intent>,
        place: OwnedSemaphorePermit,
        /// By which the row will be settled.
        ops: UnboundedSender<Op>,
        done: oneshot::Sender<Begun>,
    },
    /// Settle a row, or write one that was never opened.
    Settle {
        settled: Box<Settled>,
        /// Taken once it has been told.
        done: Option<Done<()>>,
    },
    /// Change what stands beside the rows.
    Change(Box<dyn Change>),
    /// Write what has been asked for, and end.
    Close,
}

/// A row, or why it could not be written; then it has no number yet.
pub(super) type Begun = Result<OpenRow, (LedgerError, OpenRow)>;

type Done<T> = oneshot::Sender<Result<T, LedgerError>>;

/// A row with its end.
pub(super) struct Settled {
    pub(super) id: Option<i64>,
    pub(super) intent: Arc<Intent>,
    pub(super) entry: Entry,
    /// Given back when the row is written.
    #[expect(dead_code, reason = "held, not read")]
    pub(super) place: OwnedSemaphorePermit,
}

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
    /// Rows of dead processes that were settled at the start.
    pub interrupted: u64,
}

/// Tells when a row is safe. Dropping it changes nothing: the row is written all the same.
#[derive(Debug)]
pub struct Receipt(Told);

#[derive(Debug)]
enum Told {
    Already(Result<(), LedgerError>),
    Later(oneshot::Receiver<Result<(), LedgerError>>),
}

pub(super) struct Writer {
    connection: Connection,
    run: Run,
    queue: UnboundedReceiver<Op>,
    shared: Arc<Shared>,
    /// Settled rows that could not be written.
    owed: Vec<Op>,
    last_failure: Option<Instant>,
}

// === impl Receipt ===

impl Receipt {
    pub(super) fn new(receiver: oneshot::Receiver<Result<(), LedgerError>>) -> Self {
        Self(Told::Later(receiver))
    }

    pub(super) fn failed(error: LedgerError) -> Self {
        Self(Told::Already(Err(error)))
    }

    /// Returns the receipt of a row that needs no writing any more.
    pub fn written() -> Self {
        Self(Told::Already(Ok(())))
    }
}

impl Future for Receipt {
    type Output = Result<(), LedgerError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().0 {
            Told::Later(receiver) => Pin::new(receiver)
                .poll(cx)
                .map(|told| told.unwrap_or(Err(LedgerError::Closed))),
            Told::Already(told) => Poll::Ready(*told),
        }
    }
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
        queue: UnboundedReceiver<Op>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            connection,
            run,
            queue,
            shared,
            owed: Vec::new(),
            last_failure: None,
        }
    }

    /// Writes until the ledger is closed.
    pub(super) fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut open = true;
        while open {
            open = self.gather(&mut batch);
            self.commit(&mut batch);
        }
        // What is owed still has one more chance: perhaps there is room again.
        self.commit(&mut batch);
        if !self.owed.is_empty() {
            tracing::error!(
                rows = self.owed.len(),
                "the ledger ends with rows that could not be written"
            );
        }
        self.run.finish(&mut self.connection);
        // A file without its log is easier to copy.
        let _ = self
            .connection
            .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
    }

    /// Waits for the next thing to do, and takes what else is there. Returns whether more can come.
    fn gather(&mut self, batch: &mut Vec<Op>) -> bool {
        let first = if self.owed.is_empty() {
            self.queue.blocking_recv()
        } else {
            match self.wait_a_second() {
                Some(op) => op,
                None => return true,
            }
        };
        let mut next = first;
        loop {
            match next {
                // What has been asked for by now is written.
                Some(Op::Close) => {
                    while let Ok(op) = self.queue.try_recv() {
                        batch.push(op);
                    }
                    return false;
                }
                None => return false,
                Some(op) => batch.push(op),
            }
            if batch.len() == BATCH {
                return true;
            }
            next = match self.queue.try_recv() {
                Ok(op) => Some(op),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => None,
            };
        }
    }

    /// Waits for the next thing to do while rows are owed: `None` when it is time to try those again.
    fn wait_a_second(&mut self) -> Option<Option<Op>> {
        let until = self.last_failure.map_or_else(Instant::now, |at| at + RETRY);
        loop {
            match self.queue.try_recv() {
                Ok(op) => return Some(Some(op)),
                Err(TryRecvError::Disconnected) => return Some(None),
                Err(TryRecvError::Empty) if Instant::now() >= until => return None,
                // The queue has no wait with a bound; while the disk is full nobody minds these.
                Err(TryRecvError::Empty) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Writes all of a batch, or nothing, and tells everyone.
    fn commit(&mut self, batch: &mut Vec<Op>) {
        let owed_before = self.owed.len();
        // Those who have waited longest come first.
        let mut ops = std::mem::take(&mut self.owed);
        ops.append(batch);
        if ops.is_empty() {
            return;
        }
        match write(&mut self.connection, self.run.id, &mut ops) {
            Ok(ids) => {
                self.shared.dirty.store(true, Ordering::Release);
                self.succeeded(owed_before);
                for (op, id) in ops.into_iter().zip(ids) {
                    self.tell(op, id);
                }
            }
            Err(error) => {
                self.failed(&error);
                ops.into_iter().for_each(|op| self.refuse(op));
            }
        }
        self.shared
            .owed
            .store(self.owed.len() as u64, Ordering::Relaxed);
    }

    fn tell(&self, op: Op, id: Option<i64>) {
        match op {
            Op::Begin {
                intent,
                place,
                ops,
                done,
            } => {
                let is_open = id.is_some();
                let row = OpenRow::new(id, intent, place, ops);
                // Should nobody wait for it any more, it settles itself.
                drop(done.send(match is_open {
                    true => Ok(row),
                    false => Err((LedgerError::Unwritable, row)),
                }));
            }
            Op::Settle { settled, done } => {
                let written = id.map(|_| ()).ok_or(LedgerError::Unwritable);
                match written {
                    Ok(()) => self.shared.rows.fetch_add(1, Ordering::Relaxed),
                    Err(_) => self.shared.given_up.fetch_add(1, Ordering::Relaxed),
                };
                drop(settled);
                if let Some(done) = done {
                    let _ = done.send(written);
                }
            }
            Op::Change(change) => change.tell(Ok(())),
            Op::Close => {}
        }
    }

    fn refuse(&mut self, op: Op) {
        let error = LedgerError::Unwritable;
        match op {
            Op::Begin {
                intent,
                place,
                ops,
                done,
            } => {
                drop(done.send(Err((error, OpenRow::new(None, intent, place, ops)))));
            }
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
            Op::Close => {}
        }
    }

    fn succeeded(&mut self, owed: usize) {
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        self.last_failure = None;
        if self.shared.failing.swap(false, Ordering::Relaxed) {
            tracing::info!(rows = owed, "the ledger can be written again");
        }
    }

    fn failed(&mut self, error: &rusqlite::Error) {
        self.shared.failures.fetch_add(1, Ordering::Relaxed);
        self.last_failure = Some(Instant::now());
        if !self.shared.failing.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "the ledger cannot be written");
        }
    }
}

/// Writes all of it in one transaction. Returns each one's row; `None` where it can never be written.
fn write(
    connection: &mut Connection,
    run: i64,
    ops: &mut [Op],
) -> Result<Vec<Option<i64>>, rusqlite::Error> {
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut ids = Vec::with_capacity(ops.len());
    for op in ops {
        ids.push(match op {
            Op::Begin { intent, .. } => unless_refused(open_row(&transaction, run, intent))?,
            Op::Settle { settled, .. } => unless_refused(settle_row(&transaction, run, settled))?,
            Op::Change(change) => {
                // What one change breaks must not undo the rows beside it.
                let part = transaction.savepoint()?;
                let made = catch_unwind(AssertUnwindSafe(|| change.make(&part)));
                match made {
                    Ok(Ok(())) => part.commit()?,
                    Ok(Err(error)) if is_the_files(&error) => return Err(error),
                    Ok(Err(_)) | Err(_) => drop(part),
                }
                Some(0)
            }
            Op::Close => Some(0),
        });
    }
    transaction.commit()?;
    Ok(ids)
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
fn is_the_files(error: &rusqlite::Error) -> bool {
    !matches!(
        error.sqlite_error_code(),
        None | Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
    )
}
