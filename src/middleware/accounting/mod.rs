//! Keeps the books: no call goes to an upstream before it stands in the ledger, and no answer's last byte leaves before
//! the ledger says what it used.
//!
//! The upstream is asked for the usage of a stream where the client did not ask, and what that adds is taken out again;
//! what an upstream does not tell is counted here. Whatever way an answer ends, also by its client leaving, its row is
//! settled exactly once, and with it the room that was kept for the call.
//!
//! It is also the layer that understands generation streams, so it tells whole ones from cut ones: a stream that ends
//! without having said that it is finished is a failure of the upstream, however orderly its connection was closed.
//!
//! When the ledger cannot be written, calls are refused, or served and written down later, as configured.

mod apart;
mod booking;
mod books;
mod entries;
mod events;
mod leaving;
mod passing;
mod settling;
#[cfg(test)]
mod tests;
mod tunnelling;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Method;
use http_body::Body;
use tower::{Layer, Service};

use self::booking::{Booking, End, Used};
pub use self::books::{Books, ClientGone, OnFailure};
use self::events::Events;
use self::leaving::Answering;
use self::passing::Passing;
use self::settling::Settling;
use self::tunnelling::Tunnelling;
use super::explain::Explain;
use crate::call::{Call, Reply};
use crate::openai::json::last_member;
use crate::openai::usage::Usage;
use crate::store::ledger::{LedgerError, Provenance, Status};

/// Why a call is not let through: it could not be written down.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct AccountingError(
    /// Why.
    #[from]
    pub LedgerError,
);

/// Builds [`Accounting`].
#[derive(Clone)]
pub struct AccountingLayer {
    books: Arc<Books>,
}

/// The service of this layer.
#[derive(Clone)]
pub struct Accounting<S> {
    inner: S,
    books: Arc<Books>,
}

impl AccountingLayer {
    /// Keeps these books.
    pub fn new(books: Arc<Books>) -> Self {
        Self { books }
    }
}

impl<S> Layer<S> for AccountingLayer {
    type Service = Accounting<S>;

    fn layer(&self, inner: S) -> Accounting<S> {
        Accounting {
            inner,
            books: Arc::clone(&self.books),
        }
    }
}

impl<S> Service<Call> for Accounting<S>
where
    S: Service<Call, Response = Reply> + Clone + Send + 'static,
    S::Error: From<AccountingError> + Explain + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        let books = Arc::clone(&self.books);
        Box::pin(account(inner, books, call))
    }
}

async fn account<S>(mut inner: S, books: Arc<Books>, mut call: Call) -> Result<Reply, S::Error>
where
    S: Service<Call, Response = Reply>,
    S::Error: From<AccountingError> + Explain + Send + 'static,
    S::Future: Send + 'static,
{
    let mut booking = open(Box::new(Booking::new(books, &mut call))).await?;
    booking.goes();
    let asked = call
        .json()
        .is_some_and(|(bytes, members)| members.include_usage(bytes));
    // What is only read again was booked when it was made. Of these an upstream is asked to answer without a coding.
    let may_use = call.head.method == Method::POST;
    call.report_usage = call.stream && call.endpoint.has_stream_options();
    let removes_usage = call.report_usage && !asked;
    let (result, mut booking) = Answering::new(Box::pin(inner.call(call)), booking).await;
    match result {
        Ok(reply) => Ok(watch(reply, booking, may_use, removes_usage).await?),
        Err(error) => {
            let explanation = error.explain();
            // What the client may mend, and no upstream has heard of, was turned away.
            let is_refused =
                explanation.cause.is_refusal() && booking.record.facts().attempts.is_empty();
            let receipt = booking.close(End {
                status: match is_refused {
                    true => Status::Refused,
                    false => Status::Failed,
                },
                http_status: Some(explanation.status.as_u16()),
                error: Some(explanation.cause),
                used: Used::Nothing,
            });
            // It fails in any case; that it cannot be written is told where that is handled.
            let _ = receipt.await;
            Err(error)
        }
    }
}

/// Opens the row, unless there is nothing to pay for: then one at the end is enough.
async fn open(mut booking: Box<Booking>) -> Result<Box<Booking>, AccountingError> {
    if booking.is_free {
        return Ok(booking);
    }
    match booking.open().await {
        Err(error)
            if error == LedgerError::Crowded || booking.books.on_failure == OnFailure::Refuse =>
        {
            booking.forget();
            Err(error.into())
        }
        _ => Ok(booking),
    }
}

/// Counts an answer that is whole, and watches every other one to its end.
async fn watch(
    mut reply: Reply,
    mut booking: Box<Booking>,
    may_use: bool,
    removes_usage: bool,
) -> Result<Reply, AccountingError> {
    booking.http_status = Some(reply.status.as_u16());
    if let Some(tunnel) = reply.tunnel_mut() {
        tunnel.keep(Tunnelling::new(booking, tunnel.traffic()));
        return Ok(reply);
    }
    if reply.body.as_full().is_some() || reply.body.is_end_stream() {
        let bytes = reply.body.as_full();
        let is_answer = reply.status.is_success() && booking.endpoint.is_generation();
        booking.sent = bytes.map_or(0, |bytes| bytes.len() as u64);
        booking.holds_head = true;
        let used = match bytes.filter(|_| is_answer) {
            Some(bytes) => used_by_whole(bytes, &booking),
            None => Used::Nothing,
        };
        let policy = booking.books.on_failure;
        let receipt = booking.close(complete(used));
        return match (receipt.await, policy) {
            (Err(error), OnFailure::Refuse) => Err(error.into()),
            _ => Ok(reply),
        };
    }
    if reply.body.is_events() {
        reply.body = reply.body.map_events(|inner| {
            let events = Events::new(inner, booking, removes_usage);
            Box::pin(Settling::new(events))
        });
    } else {
        let reads_usage = may_use && Passing::reads_usage(&reply.headers);
        reply.body = reply.body.map_stream(|inner| {
            let passing = Passing::new(inner, booking, reads_usage);
            Box::pin(Settling::new(passing))
        });
    }
    Ok(reply)
}

fn complete(used: Used) -> End {
    End {
        status: Status::Complete,
        http_status: None,
        error: None,
        used,
    }
}

fn used_by_whole(bytes: &[u8], booking: &Booking) -> Used {
    // The bytes are those of which it was read when they were kept.
    if let Some(kept) = booking.record.facts().usage_of_kept() {
        return Used::Known(kept, Provenance::Upstream);
    }
    let usage = last_member(bytes, "usage").and_then(|range| bytes.get(range));
    match usage.map(|usage| Usage::of_answer(usage, &booking.endpoint)) {
        Some(Ok(usage)) => Used::Known(usage, Provenance::Upstream),
        Some(Err(error)) => {
            booking.books.metrics.usage_refused(error.label());
            booking.count_answer(bytes)
        }
        None => booking.count_answer(bytes),
    }
}
