//! The metrics of what several gateways share.

use std::time::Duration;

use prometheus::{Counter, IntCounter, IntGauge};

use super::declare::Declare;
use super::family::Family;
use super::{Metrics, raise};

/// The metrics of what several gateways share. Without `[redis]` they have no series.
pub(super) struct Together {
    up: Family<IntGauge, 1>,
    calls: Family<IntCounter, 1>,
    waited: Family<Counter, 1>,
    failures: Family<IntCounter, 1>,
    outages: Family<IntCounter, 1>,
    alone: Family<IntCounter, 1>,
    lost: Family<IntCounter, 1>,
}

/// How shared limits are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedState {
    /// Whether Redis answers.
    pub up: bool,
    /// Commands that Redis was sent since the start.
    pub calls: u64,
    /// How long their answers were waited for, all together.
    pub waited: Duration,
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
    pub(super) fn new(declare: &mut Declare) -> Result<Self, prometheus::Error> {
        let of = ["of"];
        Ok(Self {
            up: declare.gauges(
                "weir_redis_up",
                "Whether Redis answers (1) or is away (0), by what is shared there.",
                of,
            )?,
            calls: declare.counters(
                "weir_redis_calls_total",
                "Commands sent to Redis, by what is shared there.",
                of,
            )?,
            waited: declare.sums(
                "weir_redis_call_seconds_total",
                "Time that answers of Redis were waited for.",
                of,
            )?,
            failures: declare.counters(
                "weir_redis_failures_total",
                "Commands that Redis did not answer in time, or answered by an error.",
                of,
            )?,
            outages: declare.counters(
                "weir_redis_outages_total",
                "How often Redis went away.",
                of,
            )?,
            alone: declare.counters(
                "weir_redis_alone_total",
                "Requests that were decided without Redis, or refused for want of it.",
                of,
            )?,
            lost: declare.counters(
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
        self.set_redis(
            OF,
            state.up,
            [state.calls, state.failures, state.outages],
            state.waited,
        );
        let Together { alone, lost, .. } = &self.together;
        raise(&alone.with([OF]), state.alone);
        raise(&lost.with([OF]), state.lost);
    }

    /// Notes how Redis is for what is shared there: `limits` or `cache`.
    pub(super) fn set_redis(&self, of: &str, is_up: bool, totals: [u64; 3], time: Duration) {
        let Together {
            up,
            calls,
            waited,
            failures,
            outages,
            ..
        } = &self.together;
        up.with([of]).set(i64::from(is_up));
        for (counters, to) in [calls, failures, outages].into_iter().zip(totals) {
            raise(&counters.with([of]), to);
        }
        let waited = waited.with([of]);
        waited.inc_by((time.as_secs_f64() - waited.get()).max(0.0));
    }
}
