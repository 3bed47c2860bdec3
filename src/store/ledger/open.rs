//! A row that waits for the end of its request.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::entry::{Entry, Intent, Status, Times};
use super::writer::{Op, Receipt, Settled};

/// An open row. Dropped without being settled, it is settled as interrupted, at its estimate; or, as long as nobody has
/// taken it, as a request whose client left before anything was done for it.
pub struct OpenRow {
    inner: Option<Inner>,
    taken: bool,
}

struct Inner {
    /// `None` where it could not be written yet.
    id: Option<i64>,
    intent: Arc<Intent>,
    place: OwnedSemaphorePermit,
    ops: UnboundedSender<Op>,
}

impl OpenRow {
    pub(super) fn new(
        id: Option<i64>,
        intent: Arc<Intent>,
        place: OwnedSemaphorePermit,
        ops: UnboundedSender<Op>,
    ) -> Self {
        Self {
            inner: Some(Inner {
                id,
                intent,
                place,
                ops,
            }),
            taken: false,
        }
    }

    /// Notes that somebody holds the row who will settle it.
    pub(super) fn taken(mut self) -> Self {
        self.taken = true;
        self
    }

    /// Gives up a row that could not be written: nothing was done, and nothing need be said of it.
    pub fn forget(mut self) {
        if self.inner.as_ref().is_some_and(|inner| inner.id.is_none()) {
            self.inner = None;
        }
    }

    /// Settles the row. It will be written, whether anybody waits for the receipt or not.
    pub fn settle(mut self, entry: Entry) -> Receipt {
        match self.inner.take() {
            Some(inner) => inner.settle(entry),
            // Taken only here and by `drop`, which come once and in this order.
            None => Receipt::failed(super::LedgerError::Closed),
        }
    }
}

impl Inner {
    fn settle(self, entry: Entry) -> Receipt {
        let (done, receipt) = oneshot::channel();
        let settled = Settled {
            id: self.id,
            intent: self.intent,
            entry,
            place: self.place,
        };
        // A closed ledger drops it, and the receipt tells.
        let _ = self.ops.send(Op::Settle {
            settled: Box::new(settled),
            done: Some(done),
        });
        Receipt::new(receipt)
    }
}

impl Drop for OpenRow {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else {
            return;
        };
        if !self.taken && inner.id.is_none() {
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
            error: Some(error),
            served_model: None,
            upstream: None,
            counts,
            served_from: None,
            cache: "bypass",
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
