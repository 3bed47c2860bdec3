//! The end of an answer that is not whole yet: its last bytes wait for the ledger.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::books::OnFailure;
use crate::call::StreamError;
use crate::store::ledger::Receipt;

pub(super) type Polled = Option<Result<Frame<Bytes>, StreamError>>;

/// A body that is accounted for as it passes.
pub(super) trait Accounted: Unpin + Send {
    /// Reads on. With the frame that ends the answer, or its end or error, the row is settled, and the receipt comes
    /// along.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<(Polled, Option<Receipt>)>;
    /// Returns what is done when the row cannot be written.
    fn on_failure(&self) -> OnFailure;
    /// Returns whether nothing can come any more, as far as that is known without reading on.
    fn is_end_stream(&self) -> bool;
    /// Returns how much is still to come.
    fn size_hint(&self) -> SizeHint;
}

/// Holds back what ends an answer until its row is safe.
pub(super) struct Settling<A> {
    inner: A,
    held: Option<(Polled, Receipt)>,
    ended: bool,
}

impl<A> Settling<A> {
    pub(super) fn new(inner: A) -> Self {
        Self {
            inner,
            held: None,
            ended: false,
        }
    }
}

impl<A: Accounted> Body for Settling<A> {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Polled> {
        let this = &mut *self;
        loop {
            if this.ended {
                return Poll::Ready(None);
            }
            if let Some((_, receipt)) = &mut this.held {
                let written = ready!(Pin::new(receipt).poll(cx));
                let frame = this.held.take().and_then(|(frame, _)| frame);
                let frame = match (written, this.inner.on_failure(), frame) {
                    (Err(_), OnFailure::Refuse, Some(Ok(_)) | None) => {
                        Some(Err(StreamError::Unrecorded))
                    }
                    (_, _, frame) => frame,
                };
                this.ended = !matches!(frame, Some(Ok(_))) || this.inner.is_end_stream();
                return Poll::Ready(frame);
            }
            let (frame, receipt) = ready!(this.inner.poll_next(cx));
            match receipt {
                Some(receipt) => this.held = Some((frame, receipt)),
                None => {
                    this.ended = !matches!(frame, Some(Ok(_)));
                    return Poll::Ready(frame);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
