//! What waits to be written, and the way in: whatever is asked for is promised here, by the journal, and committed by the
//! writer soon after, together with all else that has come by then.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::LedgerError;
use super::change::Change;
use super::entry::{Entry, Intent};
use super::journal::{Frame, Journal, Record, Shared};

/// From how many on what waits is committed at once, whether its time has come or not. A commit holds all that waits.
const BATCH: usize = 1024;

/// How many notes may wait at once: nothing else bounds them.
const NOTES: usize = 256;

/// How long a commit that nobody waits for may be put off, so that others join it: the journal keeps what is promised, and
/// who reads the ledger here waits for the commit. Who reads the file from elsewhere sees it so much later.
const PACE: Duration = Duration::from_millis(100);

/// What the writer is asked for.
pub(super) enum Op {
    /// Open a row.
    Open {
        serial: u64,
        intent: Arc<Intent>,
        /// Who waits for the commit; `None`: the journal holds it.
        done: Option<Done>,
    },
    /// Settle a row, or write one that was never opened.
    Settle {
        settled: Box<Settled>,
        /// Who waits for the commit; `None`: the journal holds it, or they have been told.
        done: Option<Done>,
    },
    /// Change what stands beside the rows.
    Change(Box<dyn Change>),
    /// Write a row that nobody waits for, and that nothing was promised of.
    Note {
        serial: u64,
        intent: Box<Intent>,
        entry: Box<Entry>,
    },
    /// Tell when all before it is committed.
    Committed {
        done: Done,
        /// The number of the request whose end is waited for.
        settles: Option<u64>,
    },
    /// Call when all before it is committed, or could not be.
    Barrier(Box<dyn FnOnce() + Send>),
}

/// Who waits for a commit.
pub(super) type Done = oneshot::Sender<Result<(), LedgerError>>;

/// A row with its end.
pub(super) struct Settled {
    pub(super) serial: u64,
    pub(super) intent: Arc<Intent>,
    pub(super) entry: Entry,
    /// Given back when the row is written.
    #[expect(dead_code, reason = "held, not read")]
    pub(super) place: OwnedSemaphorePermit,
}

/// The queue. What can stand in it is bounded by the places of open rows.
pub(super) struct Queue {
    inner: Mutex<Inner>,
    woken: Condvar,
    serials: AtomicU64,
    /// Whether there is one now: looked at without the lock, where a moment's error does no harm.
    has_journal: AtomicBool,
}

struct Inner {
    waiting: Vec<Op>,
    /// How many of them are notes.
    notes: usize,
    /// Whether somebody waits for the commit.
    urgent: bool,
    closed: bool,
    /// `None`: everybody waits for commits.
    journal: Option<Journal>,
}

/// What the writer takes.
pub(super) enum Taken {
    /// This, in the order in which it was asked for.
    Ops(Vec<Op>),
    /// Nothing: it is time to look after what is owed.
    Time,
    /// What was left; nothing comes any more.
    Last(Vec<Op>),
}

impl Queue {
    pub(super) fn new(journal: Option<Journal>) -> Self {
        Self {
            has_journal: AtomicBool::new(journal.is_some()),
            inner: Mutex::new(Inner {
                waiting: Vec::new(),
                notes: 0,
                urgent: false,
                closed: false,
                journal,
            }),
            woken: Condvar::new(),
            serials: AtomicU64::new(1),
        }
    }

    /// Returns a number that no other request of this process has.
    pub(super) fn serial(&self) -> u64 {
        self.serials.fetch_add(1, Ordering::Relaxed)
    }

    /// Asks for a row to be opened. Where the journal cannot promise it there is a commit to be waited for.
    pub(super) fn open(&self, serial: u64, intent: &Arc<Intent>) -> Result<Promise, LedgerError> {
        let record = Record::Open {
            serial,
            intent: Shared::Borrowed(intent),
        };
        let frame = self.framed(&record);
        self.push(frame, None, |done| Op::Open {
            serial,
            intent: Arc::clone(intent),
            done,
        })
    }

    /// Asks for a row to be settled.
    pub(super) fn settle(&self, settled: Box<Settled>) -> Result<Promise, LedgerError> {
        let frame = self.framed(&settled.record());
        let serial = Some(settled.serial);
        self.push(frame, serial, |done| Op::Settle { settled, done })
    }

    /// Asks for a row that is not worth waiting for; returns whether there was room for it.
    pub(super) fn note(&self, serial: u64, intent: Intent, entry: Entry) -> bool {
        let (intent, entry) = (Box::new(intent), Box::new(entry));
        let mut inner = self.inner();
        let has_room = !inner.closed && inner.notes < NOTES;
        if has_room {
            inner.notes += 1;
            let note = Op::Note {
                serial,
                intent,
                entry,
            };
            self.wake(inner, note, false);
        }
        has_room
    }

    /// Asks for anything else; somebody waits for it.
    pub(super) fn ask(&self, op: Op) -> Result<(), LedgerError> {
        let inner = self.inner();
        if inner.closed {
            return Err(LedgerError::Closed);
        }
        self.wake(inner, op, true);
        Ok(())
    }

    /// Encodes a record before the lock is taken; `None` where there is no journal to write it to.
    fn framed(&self, record: &Record<'_>) -> Option<Frame> {
        // Strings and numbers: there is nothing in a record that cannot be encoded.
        self.has_journal().then(|| record.framed().ok()).flatten()
    }

    fn push(
        &self,
        frame: Option<Frame>,
        settles: Option<u64>,
        op: impl FnOnce(Option<Done>) -> Op,
    ) -> Result<Promise, LedgerError> {
        let mut inner = self.inner();
        if inner.closed {
            return Err(LedgerError::Closed);
        }
        let Some((frame, journal)) = frame.zip(inner.journal.as_mut()) else {
            let (done, commit) = oneshot::channel();
            self.wake(inner, op(Some(done)), true);
            return Ok(Promise::Later(commit));
        };
        let place = journal.place(&frame);
        self.wake(inner, op(None), false);
        // It may be committed before it stands in the journal, where it is nothing by then: nobody is told either before.
        if place.write(frame).is_ok() {
            return Ok(Promise::Kept);
        }
        let (done, commit) = oneshot::channel();
        self.ask(Op::Committed { done, settles })?;
        Ok(Promise::Owed(commit))
    }

    /// Adds to what waits, and wakes the writer where it must be.
    fn wake(&self, mut inner: MutexGuard<'_, Inner>, op: Op, is_urgent: bool) {
        inner.waiting.push(op);
        inner.urgent |= is_urgent;
        let waiting = inner.waiting.len();
        let is_awaited = inner.urgent || waiting == 1 || waiting == BATCH;
        drop(inner);
        if is_awaited {
            self.woken.notify_one();
        }
    }

    /// Lets nothing more in.
    pub(super) fn close(&self) {
        self.inner().closed = true;
        self.woken.notify_one();
    }

    /// Waits for what is to be done: until somebody waits for it, or `PACE` after the last commit. But no
    /// longer than until the next `round`.
    pub(super) fn take(&self, last_commit: Option<Instant>, round: Instant) -> Taken {
        let due = last_commit.map(|at| at + PACE);
        let mut inner = self.inner();
        loop {
            let now = Instant::now();
            if inner.closed {
                return Taken::Last(inner.take());
            }
            let is_due = due.is_none_or(|due| now >= due);
            let has_work = !inner.waiting.is_empty();
            if has_work && (inner.urgent || is_due || inner.waiting.len() >= BATCH) {
                return Taken::Ops(inner.take());
            }
            if now >= round {
                return Taken::Time;
            }
            let until = due.filter(|_| has_work).map_or(round, |due| due.min(round));
            let pause = until.saturating_duration_since(now);
            let waited = self.woken.wait_timeout(inner, pause);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Forgets what the journal holds of all that was taken: it is committed.
    pub(super) fn committed(&self) {
        if let Some(journal) = &mut self.inner().journal
            && let Err(error) = journal.empty()
        {
            // It is tried again with the next commit; what is written twice is found by its number.
            tracing::warn!(%error, "the journal of the ledger cannot be emptied");
        }
    }

    /// Puts another journal in the place of the one that is gone, once it promises what is not committed: `taken`, and
    /// what has come since; and once `install` has put its files where they are looked for.
    pub(super) fn renew(
        &self,
        mut journal: Journal,
        taken: &[Op],
        install: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut inner = self.inner();
        for op in taken.iter().chain(&inner.waiting) {
            if let Some(frame) = op.record().and_then(|record| record.framed().ok()) {
                journal.place(&frame).write(frame)?;
            }
        }
        install()?;
        inner.journal = Some(journal);
        self.has_journal.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Promises nothing any more: everybody waits for commits.
    pub(super) fn lose_journal(&self) {
        let mut inner = self.inner();
        inner.journal = None;
        self.has_journal.store(false, Ordering::Relaxed);
    }

    /// Returns the journal's files, to make the disk keep them.
    pub(super) fn journal_files(&self) -> io::Result<Vec<File>> {
        match &self.inner().journal {
            Some(journal) => journal.files().map(Vec::from),
            None => Ok(Vec::new()),
        }
    }

    /// Returns whether what is promised need not wait for its commit.
    pub(super) fn has_journal(&self) -> bool {
        self.has_journal.load(Ordering::Relaxed)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Op {
    /// Returns what the journal says of it.
    fn record(&self) -> Option<Record<'_>> {
        match self {
            Self::Open { serial, intent, .. } => Some(Record::Open {
                serial: *serial,
                intent: Shared::Borrowed(intent),
            }),
            Self::Settle { settled, .. } => Some(settled.record()),
            _ => None,
        }
    }
}

impl Settled {
    fn record(&self) -> Record<'_> {
        Record::Settled {
            serial: self.serial,
            intent: Shared::Borrowed(&self.intent),
            entry: Shared::Borrowed(&self.entry),
        }
    }
}

impl Inner {
    fn take(&mut self) -> Vec<Op> {
        self.urgent = false;
        self.notes = 0;
        if let Some(journal) = &mut self.journal {
            journal.turn();
        }
        std::mem::take(&mut self.waiting)
    }
}

/// How it is known that a row will be written.
pub(super) enum Promise {
    /// By the journal.
    Kept,
    /// By the commit; when that fails, nothing will be.
    Later(oneshot::Receiver<Result<(), LedgerError>>),
    /// By the commit, since the journal could not be written; when that fails, it is tried again.
    Owed(oneshot::Receiver<Result<(), LedgerError>>),
}
