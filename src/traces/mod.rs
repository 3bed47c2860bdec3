//! Traces: a span for each request and one for each of its attempts, sent to a collector over OTLP/HTTP.
//!
//! A request that has ended leaves its [`Record`] in a bounded queue, and that is all that it does for its spans: a task
//! of its own makes them, and sends them in batches. When the collector is slow or away the queue fills, and what comes
//! then is dropped and counted; no request ever waits.
//!
//! Attributes are those of OpenTelemetry's semantic conventions for HTTP and for generative AI, and a few of our own that
//! begin with `weir.`. What was said is in them only where that is configured, and redacted then.

mod attribute;
mod export;
mod redact;
mod span;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, Method, Request, Uri, Version};
use tokio::sync::mpsc::{self, Sender};
use tokio_util::sync::CancellationToken;

use self::export::Exporter;
pub use self::redact::{MAX_PATTERN, MAX_PATTERNS, PatternError, Redactor};
use crate::call::{Parent, Record, Trace, TraceId};
use crate::metrics::{DroppedSpans, Metrics};

/// How many bytes of a path are told.
const TOLD_PATH: usize = 256;

/// How traces are made and where they go.
#[derive(Clone, Debug)]
pub struct Params {
    /// Where batches are posted to: http or https.
    pub endpoint: Uri,
    /// Further headers of each post.
    pub headers: HeaderMap,
    /// How long a post may take.
    pub timeout: Duration,
    /// Requests whose spans may wait.
    pub queue: usize,
    /// Spans from which on a batch is sent; those of one request stay together.
    pub batch: usize,
    /// How long a batch that is not full waits for more.
    pub interval: Duration,
    /// The share of the traces that begin here which is recorded, from 0 to 1.
    pub sample: f64,
    /// What describes this process: names and values.
    pub resource: Vec<(String, String)>,
    /// What is told of what was said. Default: nothing.
    pub content: Option<ContentParams>,
}

/// How much of what was said is told.
#[derive(Clone, Debug)]
pub struct ContentParams {
    /// Bytes of a request's prompts, and as many of its answers.
    pub max: usize,
    /// What is taken out of it.
    pub redactor: Redactor,
}

/// Makes traces.
pub struct Traces {
    queue: Sender<Ended>,
    metrics: Arc<Metrics>,
    sample: f64,
    content: Option<usize>,
}

/// A request that is under way, whose spans are made when this is dropped.
pub struct Open {
    traces: Arc<Traces>,
    record: Arc<Record>,
    method: Method,
    path: String,
    version: Version,
    /// The status that the client was sent.
    pub status: Option<u16>,
}

/// A request that has ended.
struct Ended {
    record: Arc<Record>,
    method: Method,
    path: String,
    version: Version,
    status: Option<u16>,
    at: SystemTime,
    /// From its head to the end of its answer.
    age: Duration,
}

// === impl Traces ===

impl Traces {
    /// Makes traces, and returns the task that exports them: it ends when nobody makes any, or with `closing`, when it has
    /// sent what waits.
    pub fn new(
        params: Params,
        metrics: Arc<Metrics>,
        closing: CancellationToken,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        let (queue, waiting) = mpsc::channel(params.queue.max(1));
        let traces = Arc::new(Self {
            queue,
            metrics: Arc::clone(&metrics),
            sample: params.sample,
            content: params.content.as_ref().map(|content| content.max),
        });
        let exporter = Exporter::new(params, metrics, closing);
        (traces, exporter.run(waiting))
    }

    /// Returns the trace of a request: the client's, or a new one.
    pub fn follow(&self, headers: &HeaderMap) -> Trace {
        Trace::continuing(Parent::read(headers), |id| is_drawn(id, self.sample))
    }

    /// Returns how many bytes of what is said are to be kept, of each side; `None`: nothing.
    pub fn content(&self) -> Option<usize> {
        self.content
    }

    /// Follows a request to its end, if its trace is recorded.
    pub fn open<B>(self: &Arc<Self>, record: &Arc<Record>, request: &Request<B>) -> Option<Open> {
        record.trace.as_ref().filter(|trace| trace.sampled)?;
        Some(Open {
            traces: Arc::clone(self),
            record: Arc::clone(record),
            method: request.method().clone(),
            path: request.uri().path().chars().take(TOLD_PATH).collect(),
            version: request.version(),
            status: None,
        })
    }
}

/// Returns whether a trace is one of the recorded ones. All gateways with the same share agree on it.
fn is_drawn(id: &TraceId, share: f64) -> bool {
    // The upper 53 bits are a whole number that a float holds.
    const LOTS: f64 = (1_u64 << 53) as f64;
    ((id.lot() >> 11) as f64) < share * LOTS
}

// === impl Open ===

impl Drop for Open {
    fn drop(&mut self) {
        let Self {
            traces,
            record,
            method,
            path,
            version,
            status,
        } = self;
        let ended = Ended {
            record: Arc::clone(record),
            method: std::mem::take(method),
            path: std::mem::take(path),
            version: *version,
            status: *status,
            at: SystemTime::now(),
            age: record.received.elapsed(),
        };
        traces.metrics.trace_waits();
        if traces.queue.try_send(ended).is_err() {
            let attempts = record.facts().attempts.len();
            let spans = u64::try_from(attempts).unwrap_or(u64::MAX);
            traces.metrics.trace_taken();
            traces
                .metrics
                .spans_dropped(DroppedSpans::QueueFull, spans.saturating_add(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_traces_is_recorded() {
        let ids: Vec<TraceId> = (0..2000).map(|_| TraceId::random()).collect();
        let drawn = |share| ids.iter().filter(|id| is_drawn(id, share)).count();
        assert_eq!((drawn(0.0), drawn(1.0)), (0, 2000));
        let half = drawn(0.5);
        assert!((800..1200).contains(&half), "{half} of 2000");
        // Who is recorded at a small share is recorded at a larger one, too.
        let both = ids.iter().filter(|id| is_drawn(id, 0.2));
        assert!(both.clone().count() > 0 && both.into_iter().all(|id| is_drawn(id, 0.3)));
    }
}
