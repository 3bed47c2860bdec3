//! The metrics of answers that are kept, or shared.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};

use super::{Metrics, counter, counters, gauge};
use crate::call::{Cached, Facts};
use crate::openai::endpoint::Endpoint;

/// The metrics of the cache. Without one they are all zero.
pub(super) struct Answers {
    requests: IntCounterVec,
    entries: IntGauge,
    bytes: IntGauge,
    stored: IntCounter,
    too_large: IntCounter,
}

/// How the cache is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheState {
    /// Answers in it.
    pub entries: u64,
    /// The bytes that they take.
    pub bytes: u64,
    /// Answers that were put in since the start.
    pub stored: u64,
    /// Answers that were too large for it.
    pub too_large: u64,
}

/// What became of the calls of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Answered by what was kept.
    pub hits: u64,
    /// Looked up, and answered by an upstream.
    pub misses: u64,
    /// Answered by what another call was getting.
    pub joined: u64,
    /// Answered by what was kept and too old, since the upstream failed.
    pub stale: u64,
    /// Not looked up.
    pub bypassed: u64,
}

/// The endpoints whose calls can be looked up.
const ENDPOINTS: [Endpoint; 4] = [
    Endpoint::ChatCompletions,
    Endpoint::Completions,
    Endpoint::Embeddings,
    Endpoint::Responses,
];

impl Answers {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            requests: counters(
                registry,
                "weir_cache_requests_total",
                "Requests by what the cache did: hit, miss, joined, bypass, or stale: an answer whose time was over, since the upstream failed.",
                &["endpoint", "result"],
            )?,
            entries: gauge(registry, "weir_cache_entries", "Answers in memory.")?,
            bytes: gauge(
                registry,
                "weir_cache_bytes",
                "Bytes that the answers in memory take.",
            )?,
            stored: counter(
                registry,
                "weir_cache_stored_total",
                "Answers that were put into memory.",
            )?,
            too_large: counter(
                registry,
                "weir_cache_too_large_total",
                "Answers that were too large to be kept.",
            )?,
        })
    }

    /// Counts a request that has ended.
    pub(super) fn finished(&self, endpoint: &str, facts: &Facts) {
        if facts.cache_status.is_some() {
            let result = facts.cached.as_str();
            self.requests.with_label_values(&[endpoint, result]).inc();
        }
    }
}

impl Metrics {
    /// Notes how the cache is doing.
    pub fn set_cache(&self, state: &CacheState) {
        let Answers {
            entries,
            bytes,
            stored,
            too_large,
            ..
        } = &self.answers;
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        entries.set(signed(state.entries));
        bytes.set(signed(state.bytes));
        for (counter, to) in [(stored, state.stored), (too_large, state.too_large)] {
            counter.inc_by(to.saturating_sub(counter.get()));
        }
    }

    /// Returns what became of the calls of each endpoint that can be looked up.
    pub fn cache_counts(&self) -> Vec<(&'static str, CacheCounts)> {
        let count = |endpoint: &str, cached: Cached| {
            let labels = [endpoint, cached.as_str()];
            self.answers.requests.with_label_values(&labels).get()
        };
        let counts = ENDPOINTS.iter().map(|endpoint| {
            let label = endpoint.label();
            let counts = CacheCounts {
                hits: count(label, Cached::Hit),
                misses: count(label, Cached::Miss),
                joined: count(label, Cached::Joined),
                stale: count(label, Cached::Stale),
                bypassed: count(label, Cached::Bypass),
            };
            (label, counts)
        });
        counts.collect()
    }
}
