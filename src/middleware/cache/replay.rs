//! Answers that were kept, once more.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body::{Body, Frame, SizeHint};

use crate::call::{BoxBody, Reply, StreamError};
use crate::store::cache::{Entry, Stored};

/// How many bytes of a stream that is replayed go out at a time.
const AT_ONCE: usize = 64 << 10;

/// Builds the reply that an entry is.
pub(super) fn replay(entry: &Entry) -> Reply {
    let mut headers = entry.headers.clone();
    headers.insert(header::AGE, HeaderValue::from(entry.age().as_secs()));
    match &entry.body {
        Stored::Whole(bytes) => Reply::full(StatusCode::OK, headers, bytes.clone()),
        Stored::Events(events, ends) => {
            let body: BoxBody = Box::pin(Replay {
                events: events.clone(),
                ends: Arc::clone(ends),
                next: 0,
            });
            Reply::events(StatusCode::OK, headers, body)
        }
    }
}

/// A stream that was kept, as fast as it is read: many of its blocks at a time.
struct Replay {
    /// What is left.
    events: Bytes,
    ends: Arc<[usize]>,
    /// The number of the next block.
    next: usize,
}

impl Body for Replay {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let start = self.next.checked_sub(1).map_or(0, |last| self.ends[last]);
        let rest = self.ends.get(self.next..).unwrap_or_default();
        // The first one in any case.
        let fitting = rest.iter().take_while(|end| **end - start <= AT_ONCE);
        let count = fitting.count().max(1).min(rest.len());
        let Some(end) = count.checked_sub(1).map(|last| rest[last]) else {
            return Poll::Ready(None);
        };
        self.next += count;
        Poll::Ready(Some(Ok(Frame::data(self.events.split_to(end - start)))))
    }

    fn is_end_stream(&self) -> bool {
        self.next >= self.ends.len()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.events.len() as u64)
    }
}
