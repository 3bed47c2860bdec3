//! The metrics of what several gateways share.

use prometheus::{IntCounterVec, IntGaugeVec, Registry};

use super::{Metrics, counters, gauges};

/// The metrics of what several gateways share. Without `[redis]` they have no series.
pub(super) struct Together {
    up: IntGaugeVec,
    calls: IntCounterVec,
    failures: IntCounterVec,
    outages: IntCounterVec,
    alone: IntCounterVec,
    lost: IntCounterVec,
}

/// How shared limits are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedState {
    /// Whether Redis answers.
    pub up: bool,
    /// Commands that Redis was sent since the start.
    pub calls: u64,
    /// Those of them that it did not answer in time, or by an error.
    pub failures: u64,
    /// How often it went away since the start.
    pub outages: u64,
    /// Calls that found it away.
    pub alone: u64,
    /// Calls whose settlement was lost.
    pub lost: u64,
}

impl Together {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let of = &["of"];
        Ok(Self {
            up: gauges(
                registry,
                "weir_redis_up",
                "Whether Redis answers (1) or is away (0), by what is shared there.",
                of,
            )?,
            calls: counters(
                registry,
                "weir_redis_calls_total",
                "Commands sent to Redis, by what is shared there.",
                of,
            )?,
            failures: counters(
                registry,
                "weir_redis_failures_total",
                "Commands that Redis did not answer in time, or answered by an error.",
                of,
            )?,
            outages: counters(
                registry,
                "weir_redis_outages_total",
                "How often Redis went away.",
                of,
            )?,
            alone: counters(
                registry,
                "weir_redis_alone_total",
                "Requests that were decided without Redis, or refused for want of it.",
                of,
            )?,
            lost: counters(
                registry,
                "weir_redis_settlements_lost_total",
                "Requests whose real use Redis was never told, since too many waited for it.",
                of,
            )?,
        })
    }
}

impl Metrics {
    /// Notes how shared limits are.
    pub fn set_shared_limits(&self, state: &SharedState) {
        const OF: &str = "limits";
        self.set_redis(OF, state.up, [state.calls, state.failures, state.outages]);
        let Together { alone, lost, .. } = &self.together;
        for (counters, to) in [(alone, state.alone), (lost, state.lost)] {
            let counter = counters.with_label_values(&[OF]);
            counter.inc_by(to.saturating_sub(counter.get()));
        }
    }

    /// Notes how Redis is for what is shared there: `limits` or `cache`.
    pub(super) fn set_redis(&self, of: &str, is_up: bool, totals: [u64; 3]) {
        let Together {
            up,
            calls,
            failures,
            outages,
            ..
        } = &self.together;
        up.with_label_values(&[of]).set(i64::from(is_up));
        for (counters, to) in [calls, failures, outages].into_iter().zip(totals) {
            let counter = counters.with_label_values(&[of]);
            counter.inc_by(to.saturating_sub(counter.get()));
        }
    }
}
