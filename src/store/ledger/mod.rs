//! The ledger: what each request used, what it cost, and how that is known. One SQLite file, written by one thread.
//!
//! # Words
//! A *request* is one logical call of a client that has shown a valid key. One that was turned away before anything was
//! done for it (no JSON, no such model, no budget) is a row with the status *refused*; of clients that are refused all the
//! time not each has one, and the metrics count the rest. Whoever has no key has no row. An *attempt* is one try at an upstream. A request is *served from*
//! an upstream, the cache, or a *joined* flight, the attempt that an identical request had begun. One request is one
//! row of the table `request`; beneath it stands one row of `attempt` per try.
//!
//! Tokens are counted in classes that do not overlap: their sum is what was used. The *provenance* of the counts is
//! `upstream` (its own usage object), `counted` (our tokenizer, over what was really sent), `estimated` (no tokenizer of
//! the model is known, or the process died), or `drained` (the client had gone, and the upstream was read to its end
//! for its usage object). Money is a whole number of nano-dollars.
//!
//! # When a row is written
//! The row is opened, *open* and with an estimate, before the first byte goes to an upstream, and settled before the
//! last byte goes to the client. Both are promised by a record in the *journal* of the process (`journal`), and committed
//! soon after by one thread, for all that have come by then (group commit). With `sync = "always"` both wait for their
//! commit instead. Whoever reads through this process waits until what it was asked to write is committed.
//!
//! # What can be lost
//! - A killed process loses nothing: journal and commits are in the hands of the system. The next start writes what the
//!   journal still holds, once: each request has a number in its run. Rows that were open are settled as `interrupted`,
//!   at their estimate, so that nothing that was sent is free, and nothing counts twice.
//! - A power cut loses with `sync = "always"` nothing; with `"every_second"` at most the last second or two; with
//!   `"never"` what the system had not written by itself, by its usual settings half a minute. In no case does the file
//!   break: SQLite's write-ahead log is a whole number of commits.
//! - A file that is deleted, moved away or replaced while it is open is noticed before the next commit (`presence`), and
//!   is one that cannot be written: nothing goes where nobody would find it. What was promised is written when it is back,
//!   or into the new ledger that the next start begins in its place (`left`). Nobody else's file or log is touched.
//! - A journal or lock that is deleted under a process is made anew within a second. One that cannot be read is kept.
//! - While another program holds the file, or nothing can be written, what is owed stands in the journal, on the disk within
//!   a second or two, and the commit that writes it is on the disk before the journal forgets it.
//! - Rows that are older than they must be go, and leave what they had used to the budgets (`forgotten`), by the time for
//!   as long as a month may count it. A refusal that was not written down has no row; how many there were, metrics count.
//!
//! # Several processes
//! Each process is a *run* with a lock of its own beside the file, so that one process never settles the rows of another
//! that lives. The file must lie on a disk of this machine: neither the locks nor SQLite's log work across a network.

mod asked;
mod change;
mod entry;
mod journal;
mod keeper;
mod left;
mod look;
mod notice;
mod open;
mod own;
mod presence;
mod queue;
mod read;
mod receipt;
mod recent;
mod report;
mod rows;
mod run;
mod schema;
mod shared;
mod sum;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{Semaphore, oneshot};

pub use self::entry::{
    Attempt, Counts, Entry, Intent, Provenance, ServedFrom, Status, Times, Unrecorded,
};
use self::keeper::Keeper;
pub use self::look::{Seen, check_file, check_writable, peek};
pub use self::notice::Notice;
pub use self::open::OpenRow;
pub use self::own::{Own, OwnUse};
use self::queue::Queue;
pub use self::read::{ReadError, Reader};
pub use self::receipt::Receipt;
pub use self::recent::{Recent, Shown, ShownAttempt};
pub use self::report::{GroupBy, Query, Report, Sums};
pub use self::schema::{OpenError, VERSION};
use self::shared::Shared;
pub use self::shared::Snapshot;
pub use self::sum::{SUM_OF_COSTS, sum_of_costs};
use self::writer::Writer;

/// How the ledger is kept.
#[derive(Clone, Debug)]
pub struct Params {
    /// The file. Its folder is made if it is missing.
    pub path: PathBuf,
    /// When the disk is made to keep what was written.
    pub sync: Sync,
    /// How many requests may have an open row at once.
    pub max_open: usize,
    /// What is kept, and for how long.
    pub retention: Retention,
}

/// What is kept, and for how long. Default: all of it, for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// How long rows are kept; `None`: for ever.
    pub rows: Option<Duration>,
    /// How long it is known who changed keys and teams; `None`: for ever.
    pub audit: Option<Duration>,
    /// Whether the file shrinks when old rows have gone.
    pub vacuum: bool,
}

/// When the disk is made to keep what was written (fsync).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sync {
    /// With each commit.
    Always,
    /// Once in a second, off the requests' way.
    #[default]
    EverySecond,
    /// When the system likes.
    Never,
}

/// Why a row could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// As many rows are open as there may be.
    #[error("too many requests are under way")]
    Crowded,
    /// The file cannot be written: the disk is full, read-only or broken.
    #[error("the ledger cannot be written")]
    Unwritable,
    /// The ledger has been closed.
    #[error("the ledger is closed")]
    Closed,
}

/// Why a change of what stands beside the rows was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError<E> {
    /// Nothing could be written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// What stands in a row cannot be understood.
    #[error("what stands in the ledger cannot be understood: {0}")]
    Row(#[source] rusqlite::Error),
    /// It may not be made.
    #[error("refused")]
    Refused(E),
}

/// A handle to the ledger; clones are the same one.
#[derive(Clone)]
pub struct Ledger {
    id: Arc<str>,
    path: Arc<Path>,
    queue: Arc<Queue>,
    /// Ends the threads with the last handle, should nobody have closed the ledger.
    _end: Arc<End>,
    /// Bounds what can stand in the queue: each row that is open holds one of these.
    places: Arc<Semaphore>,
    /// How many of them there are.
    max_open: usize,
    shared: Arc<Shared>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

struct End(Arc<Queue>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Ledger {
    /// Opens the file, or makes it, and settles what processes that have died left open.
    ///
    /// # Errors
    /// [`OpenError`] when it cannot be opened or is not ours: another file is never made in its place.
    pub fn open(params: &Params) -> Result<Self, OpenError> {
        let mut opened = schema::open(params)?;
        let params = &Params {
            path: opened.path.clone(),
            ..params.clone()
        };
        let shared = Arc::new(Shared::new(opened.interrupted));
        let id = opened.id.as_str().into();
        let queue = Arc::new(Queue::new(opened.journal.take()));
        let places = Arc::new(Semaphore::new(params.max_open.min(Semaphore::MAX_PERMITS)));
        let presence = opened.presence.clone();
        let keeper = Keeper::new(params, &shared, Arc::clone(&queue), presence);
        let writer = Writer::new(opened, params.sync, Arc::clone(&queue), Arc::clone(&shared));
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.to_owned());
            thread
                .spawn(work)
                .map_err(|source| OpenError::Thread { source })
        };
        let threads = vec![
            spawn("ledger", Box::new(move || writer.run()))?,
            spawn("ledger-keeper", Box::new(move || keeper.run()))?,
        ];
        Ok(Self {
            id,
            path: params.path.clone().into(),
            _end: Arc::new(End(Arc::clone(&queue))),
            queue,
            places,
            max_open: params.max_open,
            shared,
            threads: Arc::new(Mutex::new(threads)),
        })
    }

    /// Returns which ledger this is: made once, with the file, and kept in it. A copy of the file is the same ledger.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Opens a row and waits until a killed process would not lose it.
    ///
    /// # Errors
    /// [`LedgerError`] with the row all the same: whoever serves nevertheless settles it, and it is written when that
    /// is possible again. Only when there is no place for it, there is none.
    pub async fn begin(&self, intent: Intent) -> Result<OpenRow, (LedgerError, Option<OpenRow>)> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Err((LedgerError::Crowded, None));
        };
        let mut row = OpenRow::new(intent, place, &self.queue);
        if !self.is_ready() {
            return Err((LedgerError::Unwritable, Some(row.taken())));
        }
        match row.open().await {
            Ok(()) => Ok(row.taken()),
            Err(LedgerError::Closed) => Err((LedgerError::Closed, None)),
            Err(error) => Err((error, Some(row.taken()))),
        }
    }

    /// Notes a request that no upstream was asked for, in one step. It needs no open row: when the process dies,
    /// nothing was spent.
    pub fn note(&self, intent: Intent, entry: Entry) -> Receipt {
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => OpenRow::new(intent, place, &self.queue)
                .taken()
                .settle(entry),
            Err(_) => Receipt::new(Err(LedgerError::Crowded)),
        }
    }

    /// Notes a request that was refused before anything was done for it. Nothing was spent: where too many wait, the row is
    /// left out, as it is when the file cannot be written.
    pub fn note_refusal(&self, intent: Intent, entry: Entry) {
        let serial = self.queue.serial();
        if !self.queue.note(serial, intent, entry) {
            self.leave_out();
        }
    }

    /// Counts a refusal that is not written down.
    pub fn leave_out(&self) {
        self.shared.left_out.fetch_add(1, Ordering::Relaxed);
    }

    /// Changes what stands beside the rows, in a transaction of its own: all of it, or nothing.
    ///
    /// # Errors
    /// [`ChangeError`], the closure's own among them.
    pub async fn change<T, E>(
        &self,
        change: impl FnOnce(&Connection) -> Result<Result<T, E>, rusqlite::Error> + Send + 'static,
    ) -> Result<T, ChangeError<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        let (done, receipt) = oneshot::channel();
        self.queue.ask(change::change_op(change, done))?;
        match receipt.await {
            Ok(answer) => answer,
            Err(_) => Err(LedgerError::Closed.into()),
        }
    }

    /// Returns a way to read, which never holds up writing.
    pub fn reader(&self) -> Reader {
        Reader::new(&self.path, &self.queue)
    }

    /// Returns what notices changes of keys and teams, this process's own and those of others.
    pub fn notice(&self) -> Notice {
        Notice::new(&self.path)
    }

    /// Returns whether calls can be taken: the ledger can be written, or nothing is refused while it cannot.
    pub fn is_ready(&self) -> bool {
        let (failing, refuses) = (&self.shared.failing, &self.shared.refuses);
        !(failing.load(Ordering::Relaxed) && refuses.load(Ordering::Relaxed))
    }

    /// Says whether calls are refused while nothing can be written.
    pub fn set_refuses(&self, refuses: bool) {
        self.shared.refuses.store(refuses, Ordering::Relaxed);
    }

    /// Returns what can be seen of the ledger from outside.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.snapshot()
    }

    /// Returns how many rows are open or wait to be written, and how many may.
    pub fn places(&self) -> (usize, usize) {
        let free = self.places.available_permits();
        (self.max_open.saturating_sub(free), self.max_open)
    }

    /// Returns the size in bytes of the file, of its write-ahead log and of the journals beside it, as far as the system tells
    /// it. Asks the disk.
    pub fn file_size(&self) -> Option<u64> {
        let size = |path: &Path| std::fs::metadata(path).map(|file| file.len()).ok();
        let mut log = self.path.as_os_str().to_owned();
        log.push("-wal");
        let names = run::Name::beside(&self.path).unwrap_or_default();
        let journals = names
            .iter()
            .flat_map(|name| journal::files(&name.path(&self.path)));
        let beside = std::iter::once(PathBuf::from(log)).chain(journals);
        Some(size(&self.path)? + beside.filter_map(|path| size(&path)).sum::<u64>())
    }

    /// Changes what is kept, and for how long.
    pub fn set_retention(&self, retention: Retention) {
        self.shared.set_retention(retention);
    }

    /// Writes what is still to be written, and ends. Blocks for as long as that takes.
    pub fn close(&self) {
        self.queue.close();
        self.shared.stop_keeper();
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
