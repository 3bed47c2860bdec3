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
    hits: IntCounterVec,
    stored: IntCounter,
    too_large: IntCounter,
    redis: IntCounterVec,
    waits: IntCounterVec,
}

/// How the cache is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheState {
    /// Answers in it.
    pub entries: u64,
    /// The bytes that they take.
    pub bytes: u64,
    /// Calls that were answered by it since the start.
    pub hits: u64,
    /// Answers that were put in since the start.
    pub stored: u64,
    /// Answers that were too large for it.
    pub too_large: u64,
}

/// How the answers that gateways share are doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedCacheState {
    /// Whether Redis answers.
    pub up: bool,
    /// Commands that Redis was sent since the start.
    pub calls: u64,
    /// Those of them that it did not answer in time, or by an error.
    pub failures: u64,
    /// How often it went away since the start.
    pub outages: u64,
    /// Calls that were answered by what was there.
    pub hits: u64,
    /// Answers that were put there.
    pub stored: u64,
    /// Answers that it did not take.
    pub failed: u64,
    /// Answers for which there was no room on the way.
    pub dropped: u64,
    /// What was found there and was no answer.
    pub unreadable: u64,
    /// Calls that waited for another gateway's answer, by how that ended.
    pub waits: Vec<(&'static str, u64)>,
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
                "Requests by what the cache did: hit, miss, joined or bypass.",
                &["endpoint", "result"],
            )?,
            entries: gauge(registry, "weir_cache_entries", "Answers in memory.")?,
            bytes: gauge(
                registry,
                "weir_cache_bytes",
                "Bytes that the answers in memory take.",
            )?,
            hits: counters(
                registry,
                "weir_cache_hits_total",
                "Requests answered by what was kept, by where it was: memory or redis.",
                &["tier"],
            )?,
            redis: counters(
                registry,
                "weir_cache_redis_answers_total",
                "Answers on their way to Redis, by what became of them: stored, failed (it did not take them) or dropped (too many were on their way); and what lay there and was none of this version's: unreadable.",
                &["result"],
            )?,
            waits: counters(
                registry,
                "weir_cache_waits_total",
                "Requests that waited for the answer that another gateway was getting, by how that ended: answered, led (they went in its place) or alone (it took too long, or Redis went away).",
                &["result"],
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
            hits,
            stored,
            too_large,
            ..
        } = &self.answers;
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        entries.set(signed(state.entries));
        bytes.set(signed(state.bytes));
        let hits = hits.with_label_values(&["memory"]);
        for (counter, to) in [
            (&hits, state.hits),
            (stored, state.stored),
            (too_large, state.too_large),
        ] {
            counter.inc_by(to.saturating_sub(counter.get()));
        }
    }

    /// Notes how the answers that gateways share are doing.
    pub fn set_shared_cache(&self, state: &SharedCacheState) {
        let Answers {
            hits, redis, waits, ..
        } = &self.answers;
        self.set_redis(
            "cache",
            state.up,
            [state.calls, state.failures, state.outages],
        );
        let set = |counters: &IntCounterVec, label: &str, to: u64| {
            let counter = counters.with_label_values(&[label]);
            counter.inc_by(to.saturating_sub(counter.get()));
        };
        set(hits, "redis", state.hits);
        set(redis, "stored", state.stored);
        set(redis, "failed", state.failed);
        set(redis, "dropped", state.dropped);
        set(redis, "unreadable", state.unreadable);
        for (result, to) in &state.waits {
            set(waits, result, *to);
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
                bypassed: count(label, Cached::Bypass),
            };
            (label, counts)
        });
        counts.collect()
    }
}
