//! Turns every failure into the OpenAI envelope: as a response while there is none, as the last event of a stream
//! after that.
//!
//! Inside this layer services fail with typed errors; outside of it there are only responses. A stream of events that
//! breaks ends with an error event and without `[DONE]`; any other body that breaks breaks the client's connection,
//! because nothing else tells a client that bytes are missing. When the drain deadline passes, what still streams is
//! ended the same way.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::{Layer, Service};

use super::explain::{Explain, Explanation};
use crate::call::{Record, ReplyBody, StreamError};

/// What the cache did, also where that was of no help (RFC 9211).
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Builds [`Respond`].
#[derive(Clone, Debug)]
pub struct RespondLayer {
    deadline: CancellationToken,
}

/// The service of this layer.
#[derive(Clone, Debug)]
pub struct Respond<S> {
    inner: S,
    deadline: CancellationToken,
}

// === impl RespondLayer ===

impl RespondLayer {
    /// `deadline` is cancelled when the drain timeout is over: what still streams then is ended.
    pub fn new(deadline: CancellationToken) -> Self {
        Self { deadline }
    }
}

impl<S> Layer<S> for RespondLayer {
    type Service = Respond<S>;

    fn layer(&self, inner: S) -> Respond<S> {
        Respond {
            inner,
            deadline: self.deadline.clone(),
        }
    }
}

impl<S, B> Service<Request<B>> for Respond<S>
where
    S: Service<Request<B>, Response = Response<ReplyBody>>,
    S::Error: Explain + From<StreamError>,
{
    type Response = Response<ClientBody>;
    type Error = Infallible;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // A service that will never be ready says so again when it is called, where it can be answered.
        self.inner.poll_ready(cx).map(|_| Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let record = request.extensions().get::<Arc<Record>>().cloned();
        ResponseFuture {
            inner: self.inner.call(request),
            record,
            deadline: self.deadline.clone(),
            drained: None,
        }
    }
}

type Drained = Pin<Box<WaitForCancellationFutureOwned>>;

pin_project! {
    /// The future of [`Respond`].
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        record: Option<Arc<Record>>,
        deadline: CancellationToken,
        drained: Option<Drained>,
    }
}

impl<F, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<ReplyBody>, E>>,
    E: Explain + From<StreamError>,
{
    type Output = Result<Response<ClientBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = match this.inner.poll(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => {
                // Only what has to wait has to know when waiting ends.
                let deadline = &*this.deadline;
                let drained = this
                    .drained
                    .get_or_insert_with(|| Box::pin(deadline.clone().cancelled_owned()));
                ready!(drained.as_mut().poll(cx));
                Err(StreamError::Drained.into())
            }
        };
        let record = this.record.take();
        let response = result.unwrap_or_else(|error| {
            let explanation = error.explain();
            explanation.note(record.as_deref());
            let mut response = explanation
                .response(record.as_deref().map(|r| r.id.as_str()))
                .map(ReplyBody::from);
            let status = record
                .as_deref()
                .and_then(|r| r.facts().cache_status.clone());
            if let Some(status) = status {
                response.headers_mut().insert(CACHE_STATUS, status);
            }
            response
        });
        let (deadline, drained) = (&*this.deadline, this.drained.take());
        Poll::Ready(Ok(response.map(|inner| {
            let streams = inner.as_full().is_none();
            let watch = || drained.unwrap_or_else(|| Box::pin(deadline.clone().cancelled_owned()));
            ClientBody {
                drained: streams.then(watch),
                broken: None,
                events: inner.is_events(),
                inner: Some(inner),
                record,
                explain: |error| E::from(error).explain(),
            }
        })))
    }
}

/// The body that clients get.
pub struct ClientBody {
    /// Taken when it has ended.
    inner: Option<ReplyBody>,
    /// What is to be told at the next turn.
    broken: Option<StreamError>,
    /// Whether an error can be told as an event.
    events: bool,
    /// Fires when the drain timeout is over.
    drained: Option<Drained>,
    record: Option<Arc<Record>>,
    explain: fn(StreamError) -> Explanation,
}

impl ClientBody {
    /// Ends the body after a failure.
    fn fail(
        &mut self,
        error: StreamError,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let explanation = (self.explain)(error);
        explanation.note(self.record.as_deref());
        if let Some(mut inner) = self.inner.take() {
            inner.fail(error);
        }
        if self.events {
            let event = explanation.event(self.record.as_deref().map(|r| r.id.as_str()));
            return Poll::Ready(Some(Ok(Frame::data(event))));
        }
        // An error makes hyper drop what it has not written yet. One turn later the client has all that came before.
        self.broken = Some(error);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let this = &mut *self;
        if let Some(error) = this.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        if this
            .drained
            .as_mut()
            .is_some_and(|drained| drained.as_mut().poll(cx).is_ready())
        {
            return this.fail(StreamError::Drained, cx);
        }
        match ready!(Pin::new(inner).poll_frame(cx)) {
            Some(Err(error)) => this.fail(error, cx),
            Some(Ok(frame)) => Poll::Ready(Some(Ok(frame))),
            None => {
                this.inner = None;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.broken.is_none() && self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(SizeHint::default, Body::size_hint)
    }
}

/// Builds the whole bytes of an HTTP/1.1 answer, for connections on which no request could be read.
pub fn raw_response(explanation: &Explanation, request_id: &str) -> Bytes {
    let body = explanation.body(Some(request_id));
    let status = explanation.status;
    let head = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\nx-request-id: {request_id}\r\n\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default(),
        body.len(),
    );
    [head.as_bytes(), &body].concat().into()
}
