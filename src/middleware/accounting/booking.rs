//! One request on its way through the books: from its open row to the settled one, whatever way it ends.
//!
//! Here it begins, asks for room, and leaves without its client. What it has used is counted and priced in `counting`; how it
//! ends is written down by `closing`, and told by `noting`.

mod closing;
mod counting;
mod noting;

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Method;

use super::books::{Books, ClientGone};
use super::entries::intent;
use crate::call::{Cached, Call, CallBody, Cause, Estimate, Record, Room, StreamError};
use crate::openai::endpoint::Endpoint;
use crate::openai::usage::Usage;
use crate::store::ledger::{Intent, LedgerError, OpenRow, Provenance, Status};

/// Prompts that are kept until the answer's end, to be counted where the upstream does not: larger ones are estimated.
const KEPT_PROMPT: usize = 256 << 10;

/// A request that is being accounted for. Dropped before it is closed, its client has left.
pub(super) struct Booking {
    pub(super) books: Arc<Books>,
    pub(super) record: Arc<Record>,
    pub(super) endpoint: Endpoint,
    row: Row,
    room: Option<Box<dyn Room>>,
    estimate: Option<Estimate>,
    key: Arc<str>,
    model: Option<Arc<str>>,
    /// Whether it goes to no upstream that could charge for it.
    pub(super) is_free: bool,
    /// Empty where it is too large to be kept.
    prompt: Bytes,
    /// Whether an answer without usage may be charged for all the same, by what it made: an image, a file.
    may_be_charged: bool,
    /// The status that was sent, once it was.
    pub(super) http_status: Option<u16>,
    pub(super) sent: u64,
    /// Whether the answer's head waits for the row, and not its end alone.
    pub(super) holds_head: bool,
}

/// Where the row stands.
enum Row {
    /// Nothing was spent so far, and nothing will be: it is written in one step.
    Unopened(Box<Intent>),
    Open(OpenRow),
    Closed,
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) status: Status,
    /// The status that is sent now, unless one was before.
    pub(super) http_status: Option<u16>,
    pub(super) error: Option<Cause>,
    pub(super) used: Used,
}

/// What is known of what it used.
#[derive(Clone, Copy, Debug)]
pub(super) enum Used {
    /// Nothing.
    Nothing,
    /// This.
    Known(Usage, Provenance),
    /// The prompt, and so many generated tokens.
    Generated {
        /// How many.
        tokens: u64,
        /// Whether they were counted, not estimated.
        is_exact: bool,
    },
    /// The upstream was asked, and nobody knows what it did.
    Unknown,
}

impl Booking {
    /// Begins with a call, before anything is written.
    pub(super) fn new(books: Arc<Books>, call: &mut Call) -> Self {
        let prompt = match &call.body {
            CallBody::Json { bytes, .. } if bytes.len() <= KEPT_PROMPT => bytes.clone(),
            _ => Bytes::new(),
        };
        call.record.facts().booked = true;
        let intent = intent(call);
        Self {
            books,
            record: Arc::clone(&call.record),
            endpoint: call.endpoint.clone(),
            row: Row::Unopened(Box::new(intent)),
            room: call.room.take(),
            estimate: call.estimate,
            key: Arc::clone(&call.caller.key),
            model: call.model.clone(),
            is_free: call.endpoint.is_listing() || call.is_answered(),
            prompt,
            may_be_charged: call.endpoint == Endpoint::PassThrough
                && call.head.method == Method::POST,
            http_status: None,
            sent: 0,
            holds_head: false,
        }
    }

    /// Writes the open row, and waits until it is safe.
    pub(super) async fn open(&mut self) -> Result<(), LedgerError> {
        let Row::Unopened(intent) = std::mem::replace(&mut self.row, Row::Closed) else {
            return Ok(());
        };
        match self.books.ledger.begin(*intent).await {
            Ok(row) => {
                self.row = Row::Open(row);
                Ok(())
            }
            Err((error, row)) => {
                if let Some(row) = row {
                    self.row = Row::Open(row);
                }
                Err(error)
            }
        }
    }

    /// Notes that it goes to an upstream now.
    pub(super) fn goes(&mut self) {
        if let Some(room) = &mut self.room {
            room.sent();
        }
    }

    /// Returns whether there is room for so many generated tokens, all in all.
    pub(super) fn holds(&mut self, generated: u64) -> bool {
        self.room.as_mut().is_none_or(|room| room.holds(generated))
    }

    /// Is pending while nobody knows whether there is room for what goes out.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let room = self.room.as_mut();
        room.map_or(Poll::Ready(()), |room| room.poll_known(cx))
    }

    /// Forgets a request that was refused before anything was asked for it.
    pub(super) fn forget(mut self: Box<Self>) {
        self.room = None;
        self.record.facts().booked = false;
        if let Row::Open(row) = std::mem::replace(&mut self.row, Row::Closed) {
            row.forget();
        }
    }

    /// Returns what is done with the answer now that its client has left.
    pub(super) fn policy(&self) -> ClientGone {
        let cached = self.record.facts().cached;
        let own = self.books.policy();
        match cached {
            // Another call's books know what it used.
            Cached::Hit | Cached::Joined | Cached::Stale => ClientGone::Cancel,
            // It goes on for others, and this is the call that pays.
            Cached::Bypass | Cached::Miss
                if !self.books.deadline.is_cancelled()
                    && self
                        .record
                        .goes_on_without_client(own != ClientGone::Cancel) =>
            {
                match own {
                    // It ends with those who get it, or who may ask for it again.
                    ClientGone::Cancel => ClientGone::Drain { tokens: u64::MAX },
                    // Beyond that it is read for others alone.
                    ClientGone::Drain { .. } => own,
                }
            }
            Cached::Bypass | Cached::Miss => own,
        }
    }

    /// Closes the request of a client that has left, or whose answer a stop ends. Nobody waits for the row; it is
    /// written all the same.
    pub(super) fn leave(&mut self, used: Used) {
        let (status, error) = match self.books.deadline.is_cancelled() {
            true => (Status::Failed, StreamError::Drained.cause()),
            false => (Status::ClientGone, Cause::ClientGone),
        };
        drop(self.close(End {
            status,
            http_status: None,
            error: Some(error),
            used,
        }));
    }
}

impl Drop for Booking {
    fn drop(&mut self) {
        if !matches!(self.row, Row::Closed) {
            self.leave(Used::Unknown);
        }
    }
}
