//! Watches every request from its head to the last byte of its answer: the id, the metrics, the access log.
//!
//! One line and one count per request, whatever way it ends: written when the answer's body has ended or was dropped.
//! Neither holds content, credentials or queries.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::access_log::{End, Line};
use crate::call::{Allowance, Allowances, Cause, Outcome, Parent, Record, RequestId, Trace};
use crate::metrics::{Finished, Metrics};
use crate::store::limits::Spelled;
use crate::traces::{self, Traces};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const UPSTREAM: HeaderName = HeaderName::from_static("x-weir-upstream");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-weir-attempts");
const REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Builds [`Telemetry`].
#[derive(Clone)]
pub struct TelemetryLayer {
    metrics: Arc<Metrics>,
    access_log: Option<f64>,
    traces: Option<Arc<Traces>>,
}

/// The service of this layer.
#[derive(Clone)]
pub struct Telemetry<S> {
    inner: S,
    metrics: Arc<Metrics>,
    access_log: Option<f64>,
    traces: Option<Arc<Traces>>,
}

impl TelemetryLayer {
    /// Reports to `metrics`, and where `access_log` is a share to the log: so many of the requests without a fault, and all
    /// others.
    pub fn new(metrics: Arc<Metrics>, access_log: Option<f64>) -> Self {
        Self {
            metrics,
            access_log,
            traces: None,
        }
    }

    /// Makes a trace of each request. Without, a client's own is told in the log, and handed on as it is.
    #[must_use]
    pub fn with_traces(mut self, traces: Option<Arc<Traces>>) -> Self {
        self.traces = traces;
        self
    }
}

impl<S> Layer<S> for TelemetryLayer {
    type Service = Telemetry<S>;

    fn layer(&self, inner: S) -> Telemetry<S> {
        Telemetry {
            inner,
            metrics: Arc::clone(&self.metrics),
            access_log: self.access_log,
            traces: self.traces.clone(),
        }
    }
}

impl<S, B, R> Service<Request<B>> for Telemetry<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible>,
    R: Body<Data = Bytes>,
{
    type Response = Response<WatchedBody<R>>;
    type Error = Infallible;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let from_client = request
            .headers()
            .get(REQUEST_ID)
            .and_then(|id| RequestId::from_client(id.as_bytes()));
        let id_is_the_clients = from_client.is_some();
        let id = from_client.unwrap_or_else(RequestId::fresh);
        let headers = request.headers();
        let trace = match &self.traces {
            Some(traces) => Some(traces.follow(headers)),
            None => Parent::read(headers).map(Trace::passing),
        };
        let record = Arc::new(Record::new(id, Instant::now()).traced(trace));
        let traces = self.traces.as_ref();
        let span = traces.and_then(|traces| traces.open(&record, &request));
        request.extensions_mut().insert(Arc::clone(&record));
        self.metrics.request_started();
        let watch = Watch {
            record,
            metrics: Arc::clone(&self.metrics),
            log: self
                .access_log
                .map(|sample| Line::new(sample, request.method(), request.uri().path())),
            status: None,
            sent: 0,
            span,
        };
        ResponseFuture {
            inner: self.inner.call(request),
            watch: Some(watch),
            id_is_the_clients,
        }
    }
}

/// Reports when it is dropped.
struct Watch {
    record: Arc<Record>,
    metrics: Arc<Metrics>,
    log: Option<Line>,
    status: Option<u16>,
    sent: u64,
    /// Ends behind the report, and sees what that has found out.
    span: Option<traces::Open>,
}

impl Watch {
    fn head<B>(&mut self, response: &mut Response<B>, id_is_the_clients: bool) {
        let age = self.record.received.elapsed();
        let status = response.status().as_u16();
        self.status = Some(status);
        if let Some(span) = &mut self.span {
            span.status = Some(status);
        }
        let mut facts = self.record.facts();
        if let Some(cause) = response.extensions_mut().remove() {
            facts.cause = Some(cause);
        }
        let headers = response.headers_mut();
        // A client's own id comes back to it. Otherwise the upstream's is the one that its operator can look up; ours
        // stands in the log beside it.
        if let Some(id) = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()) {
            facts.upstream_request_id = Some(id.chars().take(128).collect());
        }
        if (id_is_the_clients || !headers.contains_key(REQUEST_ID))
            && let Ok(id) = HeaderValue::from_str(self.record.id.as_str())
        {
            headers.insert(REQUEST_ID, id);
        }
        let upstream = facts
            .upstream
            .as_deref()
            .filter(|_| !facts.head_first)
            .and_then(|name| HeaderValue::from_str(name).ok());
        if let Some(upstream) = upstream {
            headers.insert(UPSTREAM, upstream);
            headers.insert(ATTEMPTS, HeaderValue::from(facts.attempts.len()));
        }
        let Allowances { requests, tokens } = facts.allowances;
        tell_allowance(headers, &REQUESTS, requests);
        tell_allowance(headers, &TOKENS, tokens);
        if let Some(own) = facts.overhead(age) {
            headers.append(SERVER_TIMING, server_timing(own, facts.upstream_time));
        }
        self.metrics.answer_began(&facts, age);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let duration = self.record.received.elapsed();
        let mut facts = self.record.facts();
        let gone = self.status.is_none() || facts.outcome == Some(Outcome::ClientGone);
        if gone && facts.cause.is_none() {
            facts.cause = Some(Cause::ClientGone);
        }
        self.metrics.request_finished(&Finished {
            facts: &facts,
            status: self.status,
            duration,
            sent: self.sent,
        });
        if let Some(line) = &self.log {
            let end = End {
                id: &self.record.id,
                trace: self.record.trace.as_ref(),
                status: self.status.unwrap_or(499),
                duration,
                sent: self.sent,
            };
            line.write(&facts, &end);
        }
    }
}

/// Tells a limit of ours, in OpenAI's spelling, in the place of the upstream's. Where we have none, the upstream's stands.
fn tell_allowance(headers: &mut HeaderMap, names: &[HeaderName; 3], told: Option<Allowance>) {
    let Some(Allowance {
        limit,
        remaining,
        reset,
    }) = told
    else {
        return;
    };
    let [limit_name, remaining_name, reset_name] = names.clone();
    headers.insert(limit_name, limit.into());
    headers.insert(remaining_name, remaining.into());
    // What is spelled there are digits and letters.
    let reset = HeaderValue::try_from(Spelled(reset).to_string());
    headers.insert(reset_name, reset.unwrap_or(HeaderValue::from_static("0s")));
}

/// <https://www.w3.org/TR/server-timing/>: our own milliseconds and the upstream's.
fn server_timing(own: Duration, upstream: Option<Duration>) -> HeaderValue {
    let own = Millis(own);
    let text = match upstream {
        Some(upstream) => format!("weir;dur={own}, upstream;dur={}", Millis(upstream)),
        None => format!("weir;dur={own}"),
    };
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("weir"))
}

/// Spells milliseconds with three decimals, rounded as in the access log.
struct Millis(Duration);

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let micros = (self.0.as_nanos() + 500) / 1000;
        write!(f, "{}.{:03}", micros / 1000, micros % 1000)
    }
}

pin_project! {
    /// The future of [`Telemetry`].
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        watch: Option<Watch>,
        id_is_the_clients: bool,
    }
}

impl<F, R> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, Infallible>>,
{
    type Output = Result<Response<WatchedBody<R>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(mut response) = ready!(this.inner.poll(cx));
        let mut watch = this.watch.take();
        if let Some(watch) = &mut watch {
            watch.head(&mut response, *this.id_is_the_clients);
        }
        Poll::Ready(Ok(response.map(|inner| WatchedBody { inner, watch })))
    }
}

pin_project! {
    /// An answer's body whose bytes are counted.
    pub struct WatchedBody<B> {
        #[pin]
        inner: B,
        watch: Option<Watch>,
    }
}

impl<B> Body for WatchedBody<B>
where
    B: Body<Data = Bytes>,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        if let (Some(watch), Some(Ok(frame))) = (this.watch, &frame) {
            watch.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_milliseconds() {
        for (own, upstream, told) in [
            (67_499, None, "weir;dur=0.067"),
            (67_500, None, "weir;dur=0.068"),
            (
                0,
                Some(1_234_567_891),
                "weir;dur=0.000, upstream;dur=1234.568",
            ),
        ] {
            let upstream = upstream.map(Duration::from_nanos);
            assert_eq!(server_timing(Duration::from_nanos(own), upstream), told);
        }
    }
}
