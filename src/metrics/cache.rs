//! The metrics of answers that are kept, or shared.

use prometheus::{IntCounter, IntGauge};

use super::declare::Declare;
use super::family::Family;
use super::{Metrics, raise, signed};
use crate::call::{Cached, Facts};
use crate::openai::endpoint::Endpoint;

/// The metrics of the cache. Without one they are all zero.
pub(super) struct Answers {
    requests: Family<IntCounter, 2>,
    entries: IntGauge,
    bytes: IntGauge,
    limit: IntGauge,
    removed: Family<IntCounter, 1>,
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
    /// The bytes that they may take.
    pub max_bytes: u64,
    /// Answers that were put in since the start.
    pub stored: u64,
    /// Answers that were too large for it.
    pub too_large: u64,
    /// Answers that were removed since the start.
    pub removed: CacheRemoved,
}

/// Why answers were removed, and how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheRemoved {
    /// There was no room.
    pub size: u64,
    /// Their time was over.
    pub expired: u64,
    /// A newer answer took their place.
    pub replaced: u64,
    /// Somebody purged them.
    pub purged: u64,
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

const RESULTS: [Cached; 4] = [Cached::Hit, Cached::Miss, Cached::Joined, Cached::Bypass];

impl Answers {
    pub(super) fn new(declare: &mut Declare) -> Result<Self, prometheus::Error> {
        let answers = Self {
            requests: declare.counters(
                "weir_cache_requests_total",
                "Requests by what the cache did: hit, miss, joined or bypass.",
                ["endpoint", "result"],
            )?,
            entries: declare.gauge("weir_cache_entries", "Answers in memory.")?,
            bytes: declare.gauge(
                "weir_cache_bytes",
                "Bytes that the answers in memory take.",
            )?,
            limit: declare.gauge(
                "weir_cache_limit_bytes",
                "Bytes that the answers in memory may take.",
            )?,
            removed: declare.counters(
                "weir_cache_removed_total",
                "Answers that left memory: for want of room (size), as their time was over (expired), for a newer one (replaced), or purged.",
                ["reason"],
            )?,
            stored: declare.counter(
                "weir_cache_stored_total",
                "Answers that were put into memory.",
            )?,
            too_large: declare.counter(
                "weir_cache_too_large_total",
                "Answers that were too large to be kept.",
            )?,
        };
        for endpoint in ENDPOINTS {
            for result in RESULTS {
                answers.requests.with([endpoint.label(), result.as_str()]);
            }
        }
        Ok(answers)
    }

    /// Counts a request that has ended.
    pub(super) fn finished(&self, endpoint: &str, facts: &Facts) {
        if facts.cache_status.is_some() {
            let result = facts.cached.as_str();
            self.requests.with([endpoint, result]).inc();
        }
    }
}

impl Metrics {
    /// Notes how the cache is doing.
    pub fn set_cache(&self, state: &CacheState) {
        let answers = &self.answers;
        answers.entries.set(signed(state.entries));
        answers.bytes.set(signed(state.bytes));
        answers.limit.set(signed(state.max_bytes));
        raise(&answers.stored, state.stored);
        raise(&answers.too_large, state.too_large);
        let CacheRemoved {
            size,
            expired,
            replaced,
            purged,
        } = state.removed;
        for (reason, count) in [
            ("size", size),
            ("expired", expired),
            ("replaced", replaced),
            ("purged", purged),
        ] {
            raise(&answers.removed.with([reason]), count);
        }
    }

    /// Returns what became of the calls of each endpoint that can be looked up.
    pub fn cache_counts(&self) -> Vec<(&'static str, CacheCounts)> {
        let count = |endpoint: &str, cached: Cached| {
            let labels = [endpoint, cached.as_str()];
            self.answers.requests.with(labels).get()
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
