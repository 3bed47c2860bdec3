//! Counts tokens. Reads the usage of every answer in passing, asks the upstream for it where the client did not, and
//! takes out again what was added for that.
//!
//! It is also the layer that understands generation streams, so it tells whole ones from cut ones: a stream that ends
//! without having said that it is finished is a failure of the upstream, however orderly its connection was closed.
//! What was counted stands in the request's record when the answer has ended, whatever way it did.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use tower::{Layer, Service};

use crate::call::{BoxBody, Call, Record, Reply, StreamError};
use crate::openai::endpoint::Endpoint;
use crate::openai::json::top_level_member;
use crate::openai::sse::{StreamObserver, UsageRemover};
use crate::openai::usage::Usage;

/// Builds [`Accounting`].
#[derive(Clone, Copy, Debug, Default)]
pub struct AccountingLayer;

/// The service of this layer.
#[derive(Clone, Debug)]
pub struct Accounting<S> {
    inner: S,
}

impl<S> Layer<S> for AccountingLayer {
    type Service = Accounting<S>;

    fn layer(&self, inner: S) -> Accounting<S> {
        Accounting { inner }
    }
}

impl<S> Service<Call> for Accounting<S>
where
    S: Service<Call, Response = Reply>,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut call: Call) -> Self::Future {
        if !call.endpoint.is_generation() {
            return Box::pin(self.inner.call(call));
        }
        let endpoint = call.endpoint.clone();
        let record = Arc::clone(&call.record);
        let asked = call
            .json()
            .is_some_and(|(bytes, members)| members.include_usage(bytes));
        call.report_usage = call.stream && endpoint.has_stream_options();
        let remover = (call.report_usage && !asked).then(UsageRemover::new);
        let answering = self.inner.call(call);
        Box::pin(async move {
            answering
                .await
                .map(|reply| watch(reply, endpoint, record, remover))
        })
    }
}

fn watch(
    mut reply: Reply,
    endpoint: Endpoint,
    record: Arc<Record>,
    remover: Option<UsageRemover>,
) -> Reply {
    if let Some(bytes) = reply.body.as_full() {
        let usage = top_level_member(bytes, "usage").and_then(|range| bytes.get(range));
        record.facts().usage = usage.and_then(|json| Usage::from_json(json).ok());
        return reply;
    }
    reply.body = reply.body.map_events(|inner| {
        Box::pin(Counted {
            inner,
            endpoint,
            record,
            remover,
            observer: StreamObserver::new(),
            ended: false,
        })
    });
    reply
}

/// A stream that is read in passing. Its frames hold whole events.
struct Counted {
    inner: BoxBody,
    endpoint: Endpoint,
    record: Arc<Record>,
    /// There when the client did not ask for usage.
    remover: Option<UsageRemover>,
    observer: StreamObserver,
    ended: bool,
}

impl Counted {
    fn read(&mut self, events: &Bytes) -> Bytes {
        let had_content = self.observer.observed().deltas > 0;
        self.observer.observe(events, &self.endpoint);
        if !had_content && self.observer.observed().deltas > 0 {
            self.record.first_token_now();
        }
        match &mut self.remover {
            Some(remover) => remover.remove(events),
            None => events.clone(),
        }
    }

    /// Returns whether the last event of the answer has passed.
    fn has_ended(&self) -> bool {
        let seen = self.observer.observed();
        seen.done || seen.terminal || seen.error
    }

    /// Returns whether the answer has said that it is finished. Not every server sends `[DONE]`.
    fn is_whole(&self) -> bool {
        self.has_ended() || self.observer.observed().finish_reason
    }
}

impl Body for Counted {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let this = &mut *self;
        loop {
            if this.ended {
                return Poll::Ready(None);
            }
            match ready!(this.inner.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let events = frame.into_data().unwrap_or_default();
                    let events = this.read(&events);
                    if !events.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(events))));
                    }
                }
                Some(Err(error)) => {
                    this.ended = true;
                    // The client has had its last event: what breaks behind it is no concern of its.
                    return Poll::Ready((!this.has_ended()).then_some(Err(error)));
                }
                None => {
                    this.ended = true;
                    return Poll::Ready((!this.is_whole()).then_some(Err(StreamError::Broken)));
                }
            }
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.record.facts().usage = self.observer.observed().usage;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use http::{HeaderMap, StatusCode};
    use http_body_util::{BodyExt, StreamBody};

    use super::*;
    use crate::call::RequestId;

    fn record() -> Arc<Record> {
        Arc::new(Record::new(RequestId::fresh(), Instant::now()))
    }

    fn events(frames: &'static [&'static str]) -> Reply {
        let frames = frames
            .iter()
            .map(|frame| Ok(Frame::data(Bytes::from_static(frame.as_bytes()))));
        let body = StreamBody::new(futures_util::stream::iter(frames));
        Reply::events(StatusCode::OK, HeaderMap::new(), Box::pin(body))
    }

    #[tokio::test]
    async fn usage_that_was_added_is_counted_and_taken_out() {
        let record = record();
        let reply = events(&[
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":null}],\"usage\":null}\n\n",
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\n",
            "data: [DONE]\n\n",
        ]);
        let reply = watch(
            reply,
            Endpoint::ChatCompletions,
            Arc::clone(&record),
            Some(UsageRemover::new()),
        );
        let sent = reply.body.collect().await.unwrap().to_bytes();
        assert!(
            !String::from_utf8_lossy(&sent).contains("usage"),
            "{sent:?}"
        );
        assert!(sent.ends_with(b"data: [DONE]\n\n"));
        assert_eq!(record.facts().usage.unwrap().input, 3);
        assert!(record.facts().first_token.is_some());
    }

    #[tokio::test]
    async fn a_stream_that_never_says_that_it_is_finished_is_broken() {
        let reply = events(&[
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n",
        ]);
        let reply = watch(reply, Endpoint::ChatCompletions, record(), None);
        assert_eq!(reply.body.collect().await.unwrap_err(), StreamError::Broken);
    }

    #[tokio::test]
    async fn a_stream_without_done_is_whole_when_it_gave_its_reason_to_finish() {
        let reply =
            events(&["data: {\"choices\":[{\"text\":\"a\",\"finish_reason\":\"stop\"}]}\n\n"]);
        let reply = watch(reply, Endpoint::Completions, record(), None);
        assert!(reply.body.collect().await.is_ok());
    }

    #[tokio::test]
    async fn what_breaks_behind_the_last_event_is_not_told() {
        let frames = vec![
            Ok(Frame::data(Bytes::from_static(b"data: [DONE]\n\n"))),
            Err(StreamError::Broken),
        ];
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let reply = Reply::events(StatusCode::OK, HeaderMap::new(), Box::pin(body));
        let reply = watch(reply, Endpoint::ChatCompletions, record(), None);
        assert_eq!(
            reply.body.collect().await.unwrap().to_bytes(),
            "data: [DONE]\n\n"
        );
    }

    #[test]
    fn plain_answers_are_counted_at_once() {
        let record = record();
        let body = Bytes::from_static(b"{\"usage\":{\"prompt_tokens\":4,\"total_tokens\":4}}");
        let reply = Reply::full(StatusCode::OK, HeaderMap::new(), body);
        let _ = watch(reply, Endpoint::Embeddings, Arc::clone(&record), None);
        assert_eq!(
            record.facts().usage,
            Some(Usage {
                input: 4,
                ..Usage::default()
            })
        );
    }
}
