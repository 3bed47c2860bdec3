//! A row that waits for the end of its request.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::LedgerError;
use super::entry::{Entry, Intent, Status, Times};
use super::queue::{Promise, Queue, Settled};
use super::receipt::Receipt;

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
        let opened = match promise {
            Promise::Kept => Ok(()),
            Promise::Later(commit) => commit.await.unwrap_or(Err(LedgerError::Closed)),
        };
        inner.is_open = opened.is_ok();
        opened
    }

    /// Notes that somebody holds the row who will settle it.
    pub(super) fn taken(mut self) -> Self {
        self.taken = true;
        self
    }

    /// Gives up a row that could not be written: nothing was done, and nothing need be said of it.
    pub fn forget(mut self) {
        if self.inner.as_ref().is_some_and(|inner| !inner.is_open) {
            self.inner = None;
        }
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
}

impl Drop for OpenRow {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else {
            return;
        };
        if !self.taken && !inner.is_open {
            return;
        }
        let (status, error, counts) = match self.taken {
            true => (
                Status::Interrupted,
                "gateway_interrupted",
                inner.intent.estimate,
            ),
            false => (Status::ClientGone, "client_gone", None),
        };
        let age = inner.intent.received.elapsed().unwrap_or(Duration::ZERO);
        let entry = Entry {
            status,
            http_status: None,
            error: Some(error.into()),
            served_model: None,
            upstream: None,
            counts,
            uncounted: false,
            served_from: None,
            cache: "bypass".into(),
            degraded: false,
            received_bytes: 0,
            sent_bytes: 0,
            times: Times {
                total: age,
                ..Times::default()
            },
            attempts: Vec::new(),
        };
        drop(inner.settle(entry));
    }
}
