//! Holds the first events of a stream back until it is clear that it has begun well, so that an upstream which fails
//! while starting can still be replaced by another.
//!
//! Held are at most [`MAX_EVENTS`] events or [`MAX_BYTES`], until the first content, and once anything has come only for
//! a short time: a client that waits for a role must not wait for the first word.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use serde::Deserialize;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use crate::call::{BoxBody, Reply, StreamError};
use crate::openai::endpoint::Endpoint;
use crate::openai::sse::{Events, StreamObserver};
use crate::upstream::{Phase, Timeouts, UpstreamError};

const MAX_EVENTS: u64 = 64;
const MAX_BYTES: usize = 256 << 10;
/// Characters of an upstream's own message.
const MAX_WORDS: usize = 1024;

/// How long to hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Until the first content, and between two events.
    pub(super) timeouts: Timeouts,
    /// From the first event that is no content.
    pub(super) hold: Duration,
}

/// Waits for the beginning of a stream.
pub(super) async fn hold(
    mut reply: Reply,
    endpoint: &Endpoint,
    limits: Limits,
) -> Result<Reply, UpstreamError> {
    let content_by = Instant::now() + limits.timeouts.first_content;
    let mut watch = Watch {
        observer: StreamObserver::new(),
        endpoint: endpoint.clone(),
    };
    let mut held = VecDeque::with_capacity(1);
    let mut size = 0;
    let mut release_at = None;
    let mut ended = false;
    let Some(body) = reply.body.events_mut() else {
        return Ok(reply);
    };
    while !watch.has_begun() && size < MAX_BYTES && watch.observer.observed().events < MAX_EVENTS {
        let until = release_at.unwrap_or(content_by).min(content_by);
        let frame = timeout_at(until, poll_fn(|cx| body.as_mut().poll_frame(cx))).await;
        match frame {
            Ok(Some(Ok(frame))) => {
                let events = frame.into_data().unwrap_or_default();
                watch.observer.observe(&events, endpoint);
                size += events.len();
                held.push_back(events);
                // A comment says that somebody is there, and not that the answer has begun.
                if watch.observer.observed().events > 0 {
                    release_at.get_or_insert(Instant::now() + limits.hold);
                }
            }
            Ok(Some(Err(error))) => return Err(start_error(error, limits)),
            Ok(None) if !watch.has_begun() => {
                return Err(UpstreamError::Broken(Box::new(StreamError::Broken)));
            }
            Ok(None) => {
                ended = true;
                break;
            }
            Err(_) if Instant::now() >= content_by => {
                return Err(UpstreamError::Timeout {
                    phase: Phase::FirstContent,
                    limit: limits.timeouts.first_content,
                });
            }
            Err(_) => break,
        }
    }
    let seen = watch.observer.observed();
    if seen.error && seen.deltas == 0 && !held.iter().any(|events| blames_client(events)) {
        let message = held.iter().find_map(|events| own_words(events));
        return Err(UpstreamError::ErrorEvent { message });
    }
    let waiting = (!watch.has_begun()).then_some((watch, content_by));
    reply.body = reply.body.map_events(|inner| {
        Box::pin(Resumed {
            held,
            inner,
            ended,
            waiting,
            timer: None,
        })
    });
    Ok(reply)
}

/// Returns the message of an error among these events, as far as a client is to read it.
fn own_words(events: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Told {
        error: Error,
    }
    #[derive(Deserialize)]
    struct Error {
        message: String,
    }
    let told = Events::new(events)
        .find_map(|event| serde_json::from_slice::<Told>(&event.data()?).ok())?;
    Some(told.error.message.chars().take(MAX_WORDS).collect())
}

/// Returns whether an error among these events is about the request rather than about the upstream: another try would
/// hear the same, and the endpoint is well.
fn blames_client(events: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Told {
        error: Error,
    }
    #[derive(Deserialize)]
    struct Error {
        #[serde(rename = "type")]
        kind: Option<String>,
        code: Option<serde_json::Value>,
    }
    // OpenAI's word for it, and those of servers that are named after their classes.
    const KINDS: [&str; 4] = [
        "invalid_request_error",
        "BadRequestError",
        "NotFoundError",
        "UnprocessableEntityError",
    ];
    let mut told =
        Events::new(events).filter_map(|event| serde_json::from_slice::<Told>(&event.data()?).ok());
    told.any(|Told { error }| {
        let kind = error.kind.as_deref().unwrap_or_default();
        let status = error.code.and_then(|code| code.as_u64());
        let may_pass = |status| matches!(status, 401..=403 | 408 | 409 | 429);
        KINDS.contains(&kind)
            || status.is_some_and(|status| (400..500).contains(&status) && !may_pass(status))
    })
}

fn start_error(error: StreamError, limits: Limits) -> UpstreamError {
    match error {
        StreamError::Idle => UpstreamError::Timeout {
            phase: Phase::Idle,
            limit: limits.timeouts.idle,
        },
        StreamError::Overdue => UpstreamError::Timeout {
            phase: Phase::Total,
            limit: limits.timeouts.total,
        },
        StreamError::TooLarge => UpstreamError::Invalid("an event without end"),
        StreamError::Broken
        | StreamError::Drained
        | StreamError::Engine
        | StreamError::Unrecorded
        | StreamError::Behind
        | StreamError::Abandoned => UpstreamError::Broken(Box::new(error)),
    }
}

/// Tells when a stream has begun.
struct Watch {
    observer: StreamObserver,
    endpoint: Endpoint,
}

impl Watch {
    /// Content, an end or an error: whatever it is, it will not begin otherwise.
    fn has_begun(&self) -> bool {
        let seen = self.observer.observed();
        seen.deltas > 0 || seen.done || seen.terminal || seen.finish_reason || seen.error
    }
}

/// A stream from its first event on, still held to the time of its first content.
struct Resumed {
    held: VecDeque<Bytes>,
    inner: BoxBody,
    ended: bool,
    waiting: Option<(Watch, Instant)>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Body for Resumed {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let this = &mut *self;
        if let Some(events) = this.held.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(events))));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        let frame = this.inner.as_mut().poll_frame(cx);
        let Some((watch, content_by)) = &mut this.waiting else {
            return frame;
        };
        match &frame {
            Poll::Ready(Some(Ok(events))) => {
                let events = events.data_ref().map_or(&[][..], |data| data);
                watch.observer.observe(events, &watch.endpoint);
                if watch.has_begun() {
                    this.waiting = None;
                    this.timer = None;
                }
            }
            Poll::Ready(_) => {}
            Poll::Pending => {
                let until = *content_by;
                let timer = this
                    .timer
                    .get_or_insert_with(|| Box::pin(sleep_until(until)));
                ready!(timer.as_mut().poll(cx));
                this.ended = true;
                return Poll::Ready(Some(Err(StreamError::Idle)));
            }
        }
        frame
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};
    use http_body_util::{BodyExt, StreamBody};
    use tokio::sync::mpsc;

    use super::*;

    const LIMITS: Limits = Limits {
        timeouts: Timeouts {
            first_byte: Duration::from_secs(60),
            first_content: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            total: Duration::from_secs(600),
        },
        hold: Duration::from_millis(100),
    };
    const ROLE: &str = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n";
    const WORD: &str =
        "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n";
    const ERROR: &str = "data: {\"error\":{\"message\":\"no\"}}\n\n";

    type Sender = mpsc::UnboundedSender<Result<Frame<Bytes>, StreamError>>;

    fn stream() -> (Sender, Reply) {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let frames = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
        let body: BoxBody = Box::pin(StreamBody::new(frames));
        (
            sender,
            Reply::events(StatusCode::OK, HeaderMap::new(), body),
        )
    }

    fn send(sender: &Sender, text: &'static str) {
        sender
            .send(Ok(Frame::data(Bytes::from_static(text.as_bytes()))))
            .unwrap();
    }

    async fn start(reply: Reply) -> Result<Reply, UpstreamError> {
        hold(reply, &Endpoint::ChatCompletions, LIMITS).await
    }

    #[tokio::test(start_paused = true)]
    async fn content_ends_the_hold_and_nothing_is_lost() {
        let (sender, reply) = stream();
        let began = Instant::now();
        send(&sender, ROLE);
        send(&sender, WORD);
        let held = start(reply).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(began.elapsed(), Duration::ZERO);
        send(&sender, WORD);
        drop(sender);
        let all = held.body.collect().await.unwrap().to_bytes();
        assert_eq!(all, [ROLE, WORD, WORD].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn a_role_waits_only_a_short_time_for_the_first_word() {
        let (sender, reply) = stream();
        send(&sender, ROLE);
        let began = Instant::now();
        assert!(start(reply).await.is_ok());
        assert_eq!(began.elapsed(), LIMITS.hold);
    }

    #[tokio::test(start_paused = true)]
    async fn a_comment_begins_no_stream() {
        let (sender, reply) = stream();
        send(&sender, ": processing\n\n");
        let began = Instant::now();
        let waiting = tokio::time::timeout(Duration::from_secs(5), start(reply));
        assert!(waiting.await.is_err());
        assert_eq!(began.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_as_the_first_event_is_a_failed_start() {
        for events in [&[ERROR][..], &[ROLE, ERROR]] {
            let (sender, reply) = stream();
            events.iter().for_each(|text| send(&sender, text));
            let error = start(reply).await.err();
            let Some(UpstreamError::ErrorEvent { message }) = error else {
                panic!("{error:?}");
            };
            assert_eq!(message.as_deref(), Some("no"));
        }
        let (sender, reply) = stream();
        send(&sender, WORD);
        send(&sender, ERROR);
        assert!(start(reply).await.is_ok());
    }

    #[test]
    fn an_error_about_the_request_is_no_failure_of_the_upstream() {
        for (error, expected) in [
            (
                r#"{"type":"invalid_request_error","code":"context_length_exceeded"}"#,
                true,
            ),
            (
                r#"{"object":"error","type":"BadRequestError","code":400}"#,
                true,
            ),
            (r#"{"code":404}"#, true),
            (r#"{"code":429}"#, false),
            (r#"{"type":"server_error","code":503}"#, false),
            (r#"{"message":"overloaded"}"#, false),
            (r#""overloaded""#, false),
        ] {
            let event = format!(": comment\n\ndata: {{\"error\":{error}}}\n\n");
            assert_eq!(blames_client(event.as_bytes()), expected, "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_ends_or_breaks_before_it_began_is_none() {
        for end in [None, Some(StreamError::Broken)] {
            let (sender, reply) = stream();
            send(&sender, ROLE);
            if let Some(error) = end {
                sender.send(Err(error)).unwrap();
            }
            drop(sender);
            assert!(matches!(start(reply).await, Err(UpstreamError::Broken(_))));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_content_has_its_time_before_and_after_the_hold() {
        let (_sender, reply) = stream();
        let error = start(reply).await.err();
        let Some(UpstreamError::Timeout { phase, .. }) = error else {
            panic!("{error:?}");
        };
        assert_eq!(phase, Phase::FirstContent);

        let (sender, reply) = stream();
        let began = Instant::now();
        send(&sender, ROLE);
        let mut body = start(reply).await.unwrap_or_else(|e| panic!("{e}")).body;
        assert!(body.frame().await.unwrap().is_ok());
        let end = body.frame().await.unwrap();
        assert_eq!(end.unwrap_err(), StreamError::Idle);
        assert_eq!(began.elapsed(), LIMITS.timeouts.first_content);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_held_than_the_bounds_allow() {
        let (sender, reply) = stream();
        (0..100).for_each(|_| send(&sender, ROLE));
        let began = Instant::now();
        assert!(start(reply).await.is_ok());
        assert_eq!(began.elapsed(), Duration::ZERO, "64 events");
        let (sender, reply) = stream();
        let comment: &'static str = Box::leak(format!(": {}\n\n", "x".repeat(MAX_BYTES)).into());
        send(&sender, comment);
        assert!(start(reply).await.is_ok());
        assert_eq!(began.elapsed(), Duration::ZERO, "256 KiB");
    }
}
