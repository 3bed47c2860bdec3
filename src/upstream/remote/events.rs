//! An event stream on its way through: cut into whole events, each leaving as soon as it is complete.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::{Body, Frame};

use super::answer;
use super::body::{Clock, Timed};
use crate::call::headers::keep_end_to_end;
use crate::call::{BoxBody, Reply, StreamError};
use crate::openai::sse::{Framer, Tail};

const EVENT_STREAM: &str = "text/event-stream";

/// Returns whether an answer to a request for a stream is one. Some servers do not say what they send.
pub(super) fn is_stream(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(header::CONTENT_TYPE) else {
        return true;
    };
    let media_type = content_type
        .as_bytes()
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default();
    media_type
        .trim_ascii()
        .eq_ignore_ascii_case(EVENT_STREAM.as_bytes())
}

/// Builds the reply.
pub(super) fn reply(response: Response<BoxBody>, clock: Clock) -> Reply {
    let (parts, body) = response.into_parts();
    let mut headers = parts.headers;
    keep_end_to_end(&mut headers, &answer::NOT_RETURNED);
    headers
        .entry(header::CONTENT_TYPE)
        .or_insert(HeaderValue::from_static(EVENT_STREAM));
    let body = Events {
        inner: Timed::new(body, clock),
        framer: Framer::default(),
        ended: false,
    };
    Reply::events(parts.status, headers, Box::pin(body))
}

/// Frames of whole events.
struct Events {
    inner: Timed<BoxBody>,
    framer: Framer,
    ended: bool,
}

impl Body for Events {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let this = &mut *self;
        while !this.ended {
            let events = match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let chunk = frame.into_data().unwrap_or_default();
                    this.framer.push(chunk).map_err(|_| StreamError::TooLarge)
                }
                Some(Err(error)) => Err(error),
                None => {
                    this.ended = true;
                    match this.framer.finish() {
                        Tail::Nothing => Ok(Bytes::new()),
                        Tail::Complete(events) => Ok(events),
                        Tail::Truncated => Err(StreamError::Broken),
                    }
                }
            };
            match events {
                Ok(events) if events.is_empty() => {}
                Ok(events) => return Poll::Ready(Some(Ok(Frame::data(events)))),
                Err(error) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        Poll::Ready(None)
    }
}
