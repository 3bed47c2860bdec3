//! The metrics of the export of traces.

use prometheus::{IntCounter, IntGauge};

use super::Metrics;
use super::declare::Declare;
use super::family::Family;

/// The metrics of the export of traces. Without one they are all zero.
pub(super) struct Spans {
    exported: IntCounter,
    dropped: Family<IntCounter, 1>,
    waiting: IntGauge,
}

/// Why spans are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DroppedSpans {
    /// The queue was full.
    QueueFull,
    /// The collector could not be reached, or did not take them, however often it was tried.
    Failed,
    /// The collector took the others of their batch, and not them.
    Rejected,
}

// === impl DroppedSpans ===

impl DroppedSpans {
    const ALL: [Self; 3] = [Self::QueueFull, Self::Failed, Self::Rejected];

    fn label(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
        }
    }
}

// === impl Spans ===

impl Spans {
    pub(super) fn new(declare: &mut Declare) -> Result<Self, prometheus::Error> {
        let spans = Self {
            exported: declare.counter(
                "weir_spans_exported_total",
                "Spans that the collector has taken.",
            )?,
            dropped: declare.counters(
                "weir_spans_dropped_total",
                "Spans that the collector has not got, by why: queue_full (it is slower than they come), failed (it is away, or refuses them), rejected (it took the others of their batch).",
                ["reason"],
            )?,
            waiting: declare.gauge(
                "weir_traces_waiting",
                "Requests that have ended and whose spans wait to be exported.",
            )?,
        };
        for reason in DroppedSpans::ALL {
            spans.dropped.with([reason.label()]);
        }
        Ok(spans)
    }
}

// === impl Metrics ===

impl Metrics {
    /// Counts spans that the collector has taken.
    pub fn spans_exported(&self, count: u64) {
        self.spans.exported.inc_by(count);
    }

    /// Counts spans that nobody gets.
    pub fn spans_dropped(&self, reason: DroppedSpans, count: u64) {
        let dropped = self.spans.dropped.with([reason.label()]);
        dropped.inc_by(count);
    }

    /// Counts a request whose spans wait.
    pub fn trace_waits(&self) {
        self.spans.waiting.inc();
    }

    /// Counts one whose spans do not wait any more.
    pub fn trace_taken(&self) {
        self.spans.waiting.dec();
    }
}
