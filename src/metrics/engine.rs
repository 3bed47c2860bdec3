//! The metrics of local models.

use std::time::Duration;

use prometheus::{Counter, IntCounter, IntGauge};

use super::declare::Declare;
use super::family::Family;
use super::{Metrics, signed};

/// The metrics of local models.
pub(super) struct Engines {
    ready: Family<IntGauge, 1>,
    running: Family<IntGauge, 1>,
    max_running: Family<IntGauge, 1>,
    cache: Family<IntGauge, 1>,
    max_cache: Family<IntGauge, 1>,
    steps: Family<IntCounter, 1>,
    seconds: Family<Counter, 1>,
    tokens: Family<IntCounter, 2>,
}

/// Where a local model counts its work. Clones count together.
#[derive(Clone, Debug)]
pub struct EngineMeter {
    steps: IntCounter,
    seconds: Counter,
    prefill: IntCounter,
    decode: IntCounter,
}

/// How busy a local model is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineState {
    /// Whether the model is loaded and well.
    pub ready: bool,
    /// Requests that wait.
    pub queued: usize,
    /// How many may wait.
    pub max_queued: usize,
    /// Sequences being computed.
    pub running: usize,
    /// How many are computed together.
    pub max_running: usize,
    /// Tokens of the cache that are promised to them.
    pub cache_tokens: usize,
    /// How many there are.
    pub max_cache_tokens: usize,
}

impl Engines {
    pub(super) fn new(declare: &mut Declare) -> Result<Self, prometheus::Error> {
        let of = ["upstream"];
        Ok(Self {
            ready: declare.gauges(
                "weir_engine_ready",
                "1 when the local model is loaded and well.",
                of,
            )?,
            running: declare.gauges(
                "weir_engine_running_sequences",
                "Sequences that the local model computes.",
                of,
            )?,
            max_running: declare.gauges(
                "weir_engine_running_sequences_limit",
                "Sequences that the local model computes together at most.",
                of,
            )?,
            cache: declare.gauges(
                "weir_engine_cache_tokens",
                "Tokens of the local model's key-value cache that are promised to running sequences.",
                of,
            )?,
            max_cache: declare.gauges(
                "weir_engine_cache_tokens_limit",
                "Tokens that the local model's key-value cache holds.",
                of,
            )?,
            steps: declare.counters(
                "weir_engine_steps_total",
                "Passes through the local model.",
                of,
            )?,
            seconds: declare.sums(
                "weir_engine_step_seconds_total",
                "Time spent in passes through the local model.",
                of,
            )?,
            tokens: declare.counters(
                "weir_engine_tokens_total",
                "Tokens that went through the local model: of prompts (prefill), and generated ones (decode).",
                ["upstream", "phase"],
            )?,
        })
    }

    pub(super) fn set(&self, upstream: &str, state: &EngineState) {
        let of = [upstream];
        self.ready.with(of).set(i64::from(state.ready));
        for (gauges, count) in [
            (&self.running, state.running),
            (&self.max_running, state.max_running),
            (&self.cache, state.cache_tokens),
            (&self.max_cache, state.max_cache_tokens),
        ] {
            gauges.with(of).set(signed(count as u64));
        }
    }

    pub(super) fn keep(&self, known: &impl Fn(&str) -> bool) {
        for gauges in [
            &self.ready,
            &self.running,
            &self.max_running,
            &self.cache,
            &self.max_cache,
        ] {
            gauges.keep(|[upstream]| known(upstream));
        }
    }
}

impl EngineMeter {
    /// Counts a pass.
    pub fn step(&self, time: Duration, prefill: usize, decode: usize) {
        self.steps.inc();
        self.seconds.inc_by(time.as_secs_f64());
        self.prefill.inc_by(prefill as u64);
        self.decode.inc_by(decode as u64);
    }
}

impl Metrics {
    /// Returns where the local model of an upstream counts its work.
    pub fn engine(&self, upstream: &str) -> EngineMeter {
        let engines = &self.engines;
        EngineMeter {
            steps: engines.steps.with([upstream]),
            seconds: engines.seconds.with([upstream]),
            prefill: engines.tokens.with([upstream, "prefill"]),
            decode: engines.tokens.with([upstream, "decode"]),
        }
    }
}
