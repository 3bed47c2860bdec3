//! Keeps what is said in a call, prompts and answer, for the span of its request. It stands in the stack only where that is
//! configured, and does nothing for calls whose trace is not recorded.
//!
//! Nothing is changed, and nothing waits: a bounded beginning of the texts is copied as they pass. They are redacted where
//! the span is made. An answer that is cut short, or left, is kept as far as it went.

mod said;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tower::{Layer, Service};

use self::said::Heard;
use crate::call::{BoxBody, Call, Content as Said, Message, Record, Reply, StreamError};
use crate::openai::sse::Events;

/// How many bytes are kept beyond those that are told, so that a secret at their end is known as one.
const BEYOND: usize = 1 << 10;

/// Builds [`Content`].
#[derive(Clone, Copy, Debug)]
pub struct ContentLayer {
    max: usize,
}

/// The service of this layer.
#[derive(Clone, Debug)]
pub struct Content<S> {
    inner: S,
    max: usize,
}

impl ContentLayer {
    /// Keeps so many bytes of the prompts, and of the answer, and a few more.
    pub fn new(max: usize) -> Self {
        let max = max.saturating_add(BEYOND);
        Self { max }
    }
}

impl<S> Layer<S> for ContentLayer {
    type Service = Content<S>;

    fn layer(&self, inner: S) -> Content<S> {
        Content {
            inner,
            max: self.max,
        }
    }
}

impl<S> Service<Call> for Content<S>
where
    S: Service<Call, Response = Reply>,
    S::Error: Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let (record, endpoint) = (Arc::clone(&call.record), call.endpoint.clone());
        let is_recorded = record.trace.as_ref().is_some_and(|trace| trace.sampled);
        let json = call.json().filter(|_| is_recorded);
        let Some((bytes, _)) = json else {
            return Box::pin(self.inner.call(call));
        };
        let input = said::asked(bytes, &endpoint, self.max);
        record.facts().content = Some(Box::new(Said {
            input,
            output: Vec::new(),
        }));
        let answering = self.inner.call(call);
        let max = self.max;
        Box::pin(async move {
            let mut reply = answering.await?;
            if let Some(bytes) = reply.body.as_full() {
                keep(&record, said::answered(bytes, &endpoint, max));
            }
            reply.body = reply.body.map_events(|inner| {
                Box::pin(Listening {
                    inner,
                    heard: Heard::new(endpoint, max),
                    record,
                })
            });
            Ok(reply)
        })
    }
}

fn keep(record: &Record, output: Vec<Message>) {
    if let Some(content) = &mut record.facts().content {
        content.output = output;
    }
}

/// A stream that is listened to.
struct Listening {
    inner: BoxBody,
    heard: Heard,
    record: Arc<Record>,
}

impl Body for Listening {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let frame = ready!(self.inner.as_mut().poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(block) = frame.data_ref()
            && !self.heard.is_full()
        {
            for event in Events::new(block) {
                if let Some(data) = event.data() {
                    self.heard.hear(&data);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        keep(&self.record, self.heard.take());
    }
}
