//! What the threads of the ledger tell each other, and others.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Retention;

/// What others may see of the thread's work.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) failing: AtomicBool,
    pub(super) refuses: AtomicBool,
    pub(super) rows: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) owed: AtomicU64,
    pub(super) given_up: AtomicU64,
    pub(super) left_out: AtomicU64,
    interrupted: u64,
    /// Whether something was committed that the disk was not yet made to keep.
    pub(super) dirty: AtomicBool,
    keeping: Mutex<Keeping>,
    woken: Condvar,
}

#[derive(Debug, Default)]
struct Keeping {
    retention: Retention,
    stopped: bool,
}

/// The ledger, seen from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Whether nothing can be written. That another program holds the file for a moment is no failure.
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

    pub(super) fn set_retention(&self, retention: Retention) {
        self.keeping().retention = retention;
    }

    pub(super) fn stop_keeper(&self) {
        self.keeping().stopped = true;
        self.woken.notify_all();
    }

    /// Sleeps until it is time for the next round, and returns what counts then; `None`: stop.
    pub(super) fn next_round(&self, pause: Duration) -> Option<Retention> {
        let waited = self
            .woken
            .wait_timeout_while(self.keeping(), pause, |keeping| !keeping.stopped);
        let (keeping, _) = waited.unwrap_or_else(PoisonError::into_inner);
        (!keeping.stopped).then_some(keeping.retention)
    }

    fn keeping(&self) -> MutexGuard<'_, Keeping> {
        self.keeping.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
