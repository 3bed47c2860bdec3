//! The metrics of answers that are kept, or shared.

use std::time::Duration;

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
    hits: Family<IntCounter, 1>,
    removed: Family<IntCounter, 1>,
    stored: IntCounter,
    too_large: IntCounter,
    redis: Family<IntCounter, 1>,
    waits: Family<IntCounter, 1>,
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
    /// Calls that were answered by it since the start.
    pub hits: u64,
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
    /// How long its answers were waited for, all together.
    pub waited: Duration,
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

const RESULTS: [Cached; 5] = [
    Cached::Hit,
    Cached::Miss,
    Cached::Joined,
    Cached::Stale,
    Cached::Bypass,
];

impl Answers {
    pub(super) fn new(declare: &mut Declare) -> Result<Self, prometheus::Error> {
        let answers = Self {
            requests: declare.counters(
                "weir_cache_requests_total",
                "Requests by what the cache did: hit, miss, joined, bypass, or stale: an answer whose time was over, since the upstream failed.",
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
            hits: declare.counters(
                "weir_cache_hits_total",
                "Requests answered by what was kept, by where it was: memory or redis.",
                ["tier"],
            )?,
            redis: declare.counters(
                "weir_cache_redis_answers_total",
                "Answers on their way to Redis, by what became of them: stored, failed (it did not take them) or dropped (too many were on their way); and what lay there and was none of this version's: unreadable.",
                ["result"],
            )?,
            waits: declare.counters(
                "weir_cache_waits_total",
                "Requests that waited for the answer that another gateway was getting, by how that ended: answered, led (they went in its place) or alone (it took too long, or Redis went away).",
                ["result"],
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
        raise(&answers.hits.with(["memory"]), state.hits);
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
            state.waited,
        );
        raise(&hits.with(["redis"]), state.hits);
        for (result, count) in [
            ("stored", state.stored),
            ("failed", state.failed),
            ("dropped", state.dropped),
            ("unreadable", state.unreadable),
        ] {
            raise(&redis.with([result]), count);
        }
        for (result, count) in &state.waits {
            raise(&waits.with([result]), *count);
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
                stale: count(label, Cached::Stale),
                bypassed: count(label, Cached::Bypass),
            };
            (label, counts)
        });
        counts.collect()
    }
}
