//! The metrics of upstreams: what is tried, what fails, who is left out.

use prometheus::core::Collector;
use prometheus::{IntCounterVec, IntGaugeVec, Registry};

use super::{Metrics, counters, gauges};

/// The metrics of upstreams.
pub(super) struct Upstreams {
    ready: IntGaugeVec,
    attempts: IntCounterVec,
    pub(super) degraded: IntCounterVec,
    hedges: IntCounterVec,
    ejections: IntCounterVec,
    exhausted: IntCounterVec,
    endpoints: IntGaugeVec,
    credentials: IntGaugeVec,
    in_flight: IntGaugeVec,
    waiting: IntGaugeVec,
}

/// What a credential can be, in the order of [`Snapshot::credentials`].
const CREDENTIAL_STATES: [&str; 3] = ["in_use", "limited", "refused"];

/// How an upstream's endpoints are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// All of them.
    pub endpoints: usize,
    /// Those that are left out.
    pub ejected: usize,
    /// Its credentials: those of use, those whose limit is spent, those that were refused.
    pub credentials: [usize; 3],
    /// Calls under way.
    pub in_flight: usize,
    /// Calls that wait for a place.
    pub waiting: usize,
}

impl Upstreams {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            ready: gauges(
                registry,
                "weir_upstream_ready",
                "1 when the upstream could be asked now.",
                &["upstream"],
            )?,
            attempts: counters(
                registry,
                "weir_upstream_attempts_total",
                "Tries at upstreams, by how they ended: answered, abandoned, or the cause of a failure.",
                &["upstream", "result"],
            )?,
            degraded: counters(
                registry,
                "weir_degraded_total",
                "Requests that the local model answered in the place of remote upstreams.",
                &["model"],
            )?,
            hedges: counters(
                registry,
                "weir_hedges_total",
                "Second attempts for slow answers: those started, and those that answered first.",
                &["model", "event"],
            )?,
            ejections: counters(
                registry,
                "weir_upstream_ejections_total",
                "Times that an endpoint was left out because it failed.",
                &["upstream"],
            )?,
            exhausted: counters(
                registry,
                "weir_retry_budget_exhausted_total",
                "Times that a retry at an upstream was left out because the budget of its retries was spent.",
                &["upstream"],
            )?,
            endpoints: gauges(
                registry,
                "weir_upstream_endpoints",
                "Endpoints of an upstream: those in use, and those that are left out because they fail.",
                &["upstream", "state"],
            )?,
            credentials: gauges(
                registry,
                "weir_upstream_credentials",
                "Credentials of an upstream: those in use, and those that are put aside because their limit is spent or they were refused.",
                &["upstream", "state"],
            )?,
            in_flight: gauges(
                registry,
                "weir_upstream_in_flight",
                "Calls under way at an upstream.",
                &["upstream"],
            )?,
            waiting: gauges(
                registry,
                "weir_upstream_queue_length",
                "Calls that wait for a place at an upstream.",
                &["upstream"],
            )?,
        })
    }
}

impl Metrics {
    /// Notes whether an upstream could be asked.
    pub fn set_upstream_ready(&self, upstream: &str, ready: bool) {
        self.upstreams
            .ready
            .with_label_values(&[upstream])
            .set(i64::from(ready));
    }

    /// Counts a try at an upstream.
    pub fn attempt_ended(&self, upstream: &str, result: &'static str) {
        self.upstreams
            .attempts
            .with_label_values(&[upstream, result])
            .inc();
    }

    /// Counts a second attempt: started, or with `won` the first to answer.
    pub fn hedged(&self, model: &str, won: bool) {
        let event = if won { "won" } else { "started" };
        self.upstreams
            .hedges
            .with_label_values(&[model, event])
            .inc();
    }

    /// Counts a retry that was left out because its budget was spent.
    pub fn retry_budget_exhausted(&self, upstream: &str) {
        self.upstreams
            .exhausted
            .with_label_values(&[upstream])
            .inc();
    }

    /// Counts an ejection.
    pub fn endpoint_ejected(&self, upstream: &str) {
        self.upstreams
            .ejections
            .with_label_values(&[upstream])
            .inc();
    }

    /// Notes how an upstream's endpoints are.
    pub fn set_upstream(&self, upstream: &str, snapshot: Snapshot) {
        let set = |gauges: &IntGaugeVec, labels: &[&str], count: usize| {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            gauges.with_label_values(labels).set(count);
        };
        let in_use = snapshot.endpoints.saturating_sub(snapshot.ejected);
        set(&self.upstreams.endpoints, &[upstream, "in_use"], in_use);
        set(
            &self.upstreams.endpoints,
            &[upstream, "ejected"],
            snapshot.ejected,
        );
        for (state, count) in CREDENTIAL_STATES.iter().zip(snapshot.credentials) {
            set(&self.upstreams.credentials, &[upstream, state], count);
        }
        set(&self.upstreams.in_flight, &[upstream], snapshot.in_flight);
        set(&self.upstreams.waiting, &[upstream], snapshot.waiting);
    }

    /// Forgets the gauges of upstreams that are gone. Those of the others are never away, whoever reads them meanwhile.
    pub fn keep_upstreams(&self, known: impl Fn(&str) -> bool) {
        let Upstreams {
            ready,
            endpoints,
            credentials,
            in_flight,
            waiting,
            ..
        } = &self.upstreams;
        for upstream in names(ready).filter(|name| !known(name)) {
            for gauges in [ready, in_flight, waiting] {
                // Who else looks may have removed it already.
                let _ = gauges.remove_label_values(&[&upstream]);
            }
            for state in ["in_use", "ejected"] {
                let _ = endpoints.remove_label_values(&[&*upstream, state]);
            }
            for state in CREDENTIAL_STATES {
                let _ = credentials.remove_label_values(&[&*upstream, state]);
            }
        }
    }
}

/// Returns the only label of each of these gauges.
fn names(gauges: &IntGaugeVec) -> impl Iterator<Item = String> {
    let families = gauges.collect().into_iter();
    let metrics = families.flat_map(|mut family| family.take_metric());
    metrics.filter_map(|metric| Some(metric.get_label().first()?.value().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_that_is_gone_leaves_no_gauges_and_the_others_keep_theirs() {
        let metrics = Metrics::new().unwrap();
        for name in ["stays", "goes"] {
            metrics.set_upstream(name, Snapshot::default());
            metrics.set_upstream_ready(name, true);
        }
        metrics.keep_upstreams(|name| name == "stays");
        let text = metrics.render().unwrap();
        let text = String::from_utf8_lossy(text.as_ref()).into_owned();
        assert!(!text.contains("\"goes\""), "{text}");
        assert_eq!(text.matches("upstream=\"stays\"").count(), 8, "{text}");
    }
}
