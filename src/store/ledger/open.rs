//! A row that waits for the end of its request.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::LedgerError;
use super::entry::{Counts, Entry, Intent, Status};
use super::queue::{Promise, Queue, Settled};
use super::receipt::Receipt;
use crate::call::Cause;

/// An open row. Dropped without being settled, it is settled as interrupted, at its estimate; or, as long as nobody has
/// taken it, as a request whose client left before anything was done for it.
pub struct OpenRow {
    inner: Option<Inner>,
    taken: bool,
}

struct Inner {
    serial: u64,
    /// Whether an open row was asked for.
    is_open: bool,
    intent: Arc<Intent>,
    place: OwnedSemaphorePermit,
    queue: Arc<Queue>,
}

impl OpenRow {
    /// Makes a row that nothing is written of before it is settled.
    pub(super) fn new(intent: Intent, place: OwnedSemaphorePermit, queue: &Arc<Queue>) -> Self {
        Self {
            inner: Some(Inner {
                serial: queue.serial(),
                is_open: false,
                intent: Arc::new(intent),
                place,
                queue: Arc::clone(queue),
            }),
            taken: false,
        }
    }

    /// Has it opened, and waits until that is safe.
    pub(super) async fn open(&mut self) -> Result<(), LedgerError> {
        let Some(inner) = &mut self.inner else {
            return Err(LedgerError::Closed);
        };
        let promise = inner.queue.open(inner.serial, &inner.intent)?;
        inner.is_open = true;
        match promise {
            Promise::Kept => Ok(()),
            Promise::Later(commit) => {
                let opened = commit.await.unwrap_or(Err(LedgerError::Closed));
                inner.is_open = opened.is_ok();
                opened
            }
            // It will be opened, sooner or later.
            Promise::Owed(commit) => commit.await.unwrap_or(Err(LedgerError::Closed)),
        }
    }

    /// Notes that somebody holds the row who will settle it.
    pub(super) fn taken(mut self) -> Self {
        self.taken = true;
        self
    }

    /// Gives up a row that could not be written: nothing was done, and nothing need be said of it unless it will be open
    /// later on.
    pub fn forget(mut self) {
        if let Some(inner) = self.inner.take_if(|inner| inner.is_open) {
            drop(inner.settle_unanswered(Status::Failed, Cause::GatewayLedger, None));
        }
        self.inner = None;
    }

    /// Settles the row. It will be written, whether anybody waits for the receipt or not.
    pub fn settle(mut self, entry: Entry) -> Receipt {
        match self.inner.take() {
            Some(inner) => inner.settle(entry),
            // Taken only here and by `drop`, which come once and in this order.
            None => Receipt::new(Err(LedgerError::Closed)),
        }
    }
}

impl Inner {
    fn settle(self, entry: Entry) -> Receipt {
        let settled = Settled {
            serial: self.serial,
            intent: self.intent,
            entry,
            place: self.place,
        };
        Receipt::new(self.queue.settle(Box::new(settled)))
    }

    /// Settles a row of which no more is known than what it was opened with.
    fn settle_unanswered(self, status: Status, cause: Cause, counts: Option<Counts>) -> Receipt {
        let age = self.intent.received.elapsed().unwrap_or(Duration::ZERO);
        let entry = Entry {
            upstream: self.intent.upstream.clone(),
            counts,
            ..Entry::unanswered(status, cause, age)
        };
        self.settle(entry)
    }
}

impl Drop for OpenRow {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else {
            return;
        };
        if !self.taken && !inner.is_open {
            return;
        }
        let (status, cause, counts) = match self.taken {
            true => (
                Status::Interrupted,
                Cause::GatewayInterrupted,
                inner.intent.estimate,
            ),
            false => (Status::ClientGone, Cause::ClientGone, None),
        };
        drop(inner.settle_unanswered(status, cause, counts));
    }
}
