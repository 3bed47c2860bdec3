//! Clients that leave before their answer is whole: their upstream is cancelled, or read on for what it has to say of
//! its usage.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body_util::BodyExt;

use super::booking::{Booking, Used};
use super::books::ClientGone;
use super::events::Reader;
use crate::call::{BoxBody, Reply};
use crate::openai::json::last_member;
use crate::openai::usage::Usage;
use crate::store::ledger::Provenance;

type AnswerFuture<E> = Pin<Box<dyn Future<Output = Result<Reply, E>> + Send>>;

/// A call that waits for its answer to begin. Dropped while it does, its client has left.
pub(super) struct Answering<E: Send + 'static> {
    /// `None` once it has ended.
    waiting: Option<(AnswerFuture<E>, Box<Booking>)>,
}

impl<E: Send + 'static> Answering<E> {
    pub(super) fn new(answering: AnswerFuture<E>, booking: Box<Booking>) -> Self {
        Self {
            waiting: Some((answering, booking)),
        }
    }
}

impl<E: Send + 'static> Future for Answering<E> {
    type Output = (Result<Reply, E>, Box<Booking>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some((answering, booking)) = self.waiting.take() else {
            return Poll::Pending;
        };
        let mut answering = answering;
        match answering.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready((result, booking)),
            Poll::Pending => {
                self.waiting = Some((answering, booking));
                Poll::Pending
            }
        }
    }
}

impl<E: Send + 'static> Drop for Answering<E> {
    fn drop(&mut self) {
        let Some((answering, booking)) = self.waiting.take() else {
            return;
        };
        let ClientGone::Drain { tokens } = booking.policy() else {
            // The upstream first, so that the row says how the tries ended; then the booking, which closes itself.
            drop(answering);
            drop(booking);
            return;
        };
        let tasks = booking.books.tasks.clone();
        tasks.spawn(async move { read_answer(answering, booking, tokens).await });
    }
}

async fn read_answer<E>(mut answering: AnswerFuture<E>, mut booking: Box<Booking>, tokens: u64) {
    let deadline = booking.books.deadline.clone();
    let answer = tokio::select! {
        // An answer that has come is booked as what it is.
        biased;
        answer = &mut answering => answer,
        // Beyond its deadline a stop waits for no upstream that does not begin to answer. It goes first, so that the row says how
        // the tries ended.
        () = deadline.cancelled() => {
            drop(answering);
            booking.leave(Used::Unknown);
            return;
        }
    };
    let Ok(mut reply) = answer else {
        booking.leave(Used::Nothing);
        return;
    };
    if let Some(bytes) = reply.body.as_full() {
        let usage = last_member(bytes, "usage").and_then(|range| bytes.get(range));
        let used = match usage.map(|usage| Usage::of_answer(usage, &booking.endpoint)) {
            Some(Ok(usage)) => Used::Known(usage, Provenance::Drained),
            _ if reply.status.is_success() && booking.endpoint.is_generation() => {
                booking.count_answer(bytes)
            }
            _ => Used::Nothing,
        };
        booking.leave(used);
    } else if reply.body.events_mut().is_some() {
        let reader = Reader::new(&booking);
        read_on(Box::pin(reply.body), booking, reader, tokens).await;
    } else {
        booking.leave(Used::Nothing);
    }
}

/// Reads a stream on whose client has left, and settles its row at the end.
pub(super) fn drain(inner: BoxBody, booking: Box<Booking>, reader: Reader, tokens: u64) {
    let tasks = booking.books.tasks.clone();
    tasks.spawn(read_on(inner, booking, reader, tokens));
}

async fn read_on(mut inner: BoxBody, mut booking: Box<Booking>, mut reader: Reader, tokens: u64) {
    let bound = reader.deltas().saturating_add(tokens);
    // What bounds the stream in time bounds this, too: idle and total timeouts are the upstream's.
    while !reader.has_ended() {
        if reader.deltas() >= bound && booking.record.ends_without_client() {
            break;
        }
        let deadline = booking.books.deadline.clone();
        let frame = tokio::select! {
            frame = inner.frame() => frame,
            () = deadline.cancelled() => None,
        };
        match frame {
            Some(Ok(frame)) => {
                let events = frame.into_data().unwrap_or_default();
                reader.read(&events, &booking);
            }
            Some(Err(_)) | None => break,
        }
    }
    drop(inner);
    let used = reader.used(&booking, Provenance::Drained);
    booking.leave(used);
}
