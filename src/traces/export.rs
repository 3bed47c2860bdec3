//! Sends spans to a collector: in batches, with patience, and never more than are kept.
//!
//! OTLP over HTTP with protobuf, after <https://opentelemetry.io/docs/specs/otlp/#otlphttp>.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::span::Spans;
use super::{Ended, Params};
use crate::client::{Client, ClientError};
use crate::metrics::{DroppedSpans, Metrics};

/// How often a batch is sent before it is given up.
const TRIES: u32 = 5;
/// The pause behind the first try; each further one is twice as long.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause, also where the collector asks for one.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// What is read of a collector's answer.
const MAX_ANSWER: usize = 64 << 10;
/// Requests whose spans are made without a pause.
const AT_ONCE: usize = 16;

/// What a collector is told that we are.
const USER_AGENT: &str = concat!("weir/", env!("CARGO_PKG_VERSION"));

/// Sends spans.
pub(super) struct Exporter {
    endpoint: Uri,
    headers: HeaderMap,
    timeout: Duration,
    batch: usize,
    interval: Duration,
    spans: Spans,
    client: Client,
    metrics: Arc<Metrics>,
    closing: CancellationToken,
    /// Whether the last post failed: each change is told once.
    is_away: bool,
}

/// Why a batch was not taken.
struct Failure {
    why: String,
    /// Whether it may be taken later.
    is_passing: bool,
    /// When to come again, where the collector says so.
    after: Option<Duration>,
}

impl Exporter {
    pub(super) fn new(params: Params, metrics: Arc<Metrics>, closing: CancellationToken) -> Self {
        Self {
            endpoint: params.endpoint,
            headers: params.headers,
            timeout: params.timeout,
            batch: params.batch,
            interval: params.interval,
            spans: Spans::new(params.resource, params.content),
            client: Client::new(),
            metrics,
            closing,
            is_away: false,
        }
    }

    /// Exports what comes, until nothing more can come or all that waits at the close is sent.
    pub(super) async fn run(mut self, mut waiting: Receiver<Ended>) {
        loop {
            let first = tokio::select! {
                biased;
                ended = waiting.recv() => ended,
                () = self.closing.cancelled() => None,
            };
            let Some(first) = first else {
                return;
            };
            let batch = self.gather(first, &mut waiting).await;
            self.deliver(batch).await;
        }
    }

    /// Makes the spans of a request, and of those behind it until the batch is full, or nothing more comes in time.
    async fn gather(&self, first: Ended, waiting: &mut Receiver<Ended>) -> Vec<Span> {
        let until = Instant::now() + self.interval;
        let mut batch = Vec::new();
        let mut next = Some(first);
        let mut made = 0_usize;
        while let Some(ended) = next {
            self.metrics.trace_taken();
            self.spans.make(&ended, &mut batch);
            made += 1;
            if batch.len() >= self.batch {
                break;
            }
            if made.is_multiple_of(AT_ONCE) {
                tokio::task::yield_now().await;
            }
            next = tokio::select! {
                biased;
                ended = waiting.recv() => ended,
                () = sleep_until(until) => None,
                () = self.closing.cancelled() => None,
            };
        }
        batch
    }

    /// Sends a batch until it is taken, or given up.
    async fn deliver(&mut self, batch: Vec<Span>) {
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let request = ExportTraceServiceRequest {
            resource_spans: vec![self.spans.of_resource(batch)],
        };
        let body = Bytes::from(request.encode_to_vec());
        drop(request);
        let mut pause = PAUSE;
        for number in 1..=TRIES {
            let sent = timeout(self.timeout, self.post(body.clone())).await;
            let late = || Failure {
                why: "it does not answer in time".to_owned(),
                is_passing: true,
                after: None,
            };
            let failure = match sent.unwrap_or_else(|_| Err(late())) {
                Ok(rejected) => {
                    let rejected = rejected.min(count);
                    self.metrics.spans_exported(count - rejected);
                    self.metrics.spans_dropped(DroppedSpans::Rejected, rejected);
                    self.note_well();
                    return;
                }
                Err(failure) => failure,
            };
            self.note_away(&failure.why);
            if !failure.is_passing || number == TRIES || self.closing.is_cancelled() {
                break;
            }
            let wait = failure.after.unwrap_or(pause).min(LONGEST_PAUSE);
            tokio::select! {
                () = sleep(wait) => {}
                // Once more, and then no more.
                () = self.closing.cancelled() => {}
            }
            pause = pause.saturating_mul(2);
        }
        self.metrics.spans_dropped(DroppedSpans::Failed, count);
    }

    /// Posts a batch. Returns how many of its spans were not taken.
    async fn post(&self, body: Bytes) -> Result<u64, Failure> {
        let passing = |why: String| Failure {
            why,
            is_passing: true,
            after: None,
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        let headers = request.headers_mut();
        headers.clone_from(&self.headers);
        headers
            .entry(header::USER_AGENT)
            .or_insert(HeaderValue::from_static(USER_AGENT));
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/x-protobuf"),
        );
        let place = self.endpoint.to_string();
        let sent = self.client.send(request, &place).await;
        let response = sent.map_err(|error| match error {
            ClientError::Connect { why, .. } => passing(format!("cannot connect: {why}")),
            error => passing(error.to_string()),
        })?;
        let status = response.status();
        if !status.is_success() {
            return Err(Failure {
                why: format!("it answers {}", status.as_u16()),
                is_passing: matches!(
                    status,
                    StatusCode::TOO_MANY_REQUESTS
                        | StatusCode::BAD_GATEWAY
                        | StatusCode::SERVICE_UNAVAILABLE
                        | StatusCode::GATEWAY_TIMEOUT
                ),
                after: retry_after(response.headers()),
            });
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect();
        // It has the spans. What it says of them is read where it can be.
        let body = body.await.map(|body| body.to_bytes()).unwrap_or_default();
        let told = ExportTraceServiceResponse::decode(body).ok();
        let partial = told.and_then(|told| told.partial_success);
        let rejected = partial.map_or(0, |partial| partial.rejected_spans);
        Ok(u64::try_from(rejected).unwrap_or(0))
    }

    fn note_away(&mut self, why: &str) {
        if !std::mem::replace(&mut self.is_away, true) {
            let collector = self.endpoint.to_string();
            tracing::warn!(
                collector,
                why,
                "spans are not exported: the collector does not take them"
            );
        }
    }

    fn note_well(&mut self) {
        if std::mem::take(&mut self.is_away) {
            tracing::info!("spans are exported again");
        }
    }
}

/// Reads `Retry-After` in seconds, the form that collectors use.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}
