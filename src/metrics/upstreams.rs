//! The metrics of upstreams: what is tried, what fails, who is left out.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntGauge};

use super::declare::Declare;
use super::engine::EngineState;
use super::family::Family;
use super::requests::DURATION;
use super::{Metrics, signed};

/// The metrics of upstreams.
pub(super) struct Upstreams {
    ready: Family<IntGauge, 1>,
    attempts: Family<IntCounter, 2>,
    duration: Family<Histogram, 2>,
    hedges: Family<IntCounter, 2>,
    ejections: Family<IntCounter, 1>,
    exhausted: Family<IntCounter, 1>,
    endpoints: Family<IntGauge, 2>,
    credentials: Family<IntGauge, 2>,
    in_flight: Family<IntGauge, 1>,
    max_in_flight: Family<IntGauge, 1>,
    waiting: Family<IntGauge, 1>,
    max_waiting: Family<IntGauge, 1>,
    connections: Family<IntGauge, 1>,
    opened: Family<IntCounter, 1>,
}

/// What a credential can be, in the order of [`Snapshot::credentials`].
const CREDENTIAL_STATES: [&str; 3] = ["in_use", "limited", "refused"];

/// How an upstream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Whether it is well: an endpoint is in use and can answer, and where there are credentials, one was not refused. What
    /// is asked all the same, for a trial or by the floor, is not.
    pub ready: bool,
    /// Its endpoints.
    pub endpoints: usize,
    /// Those that are left out.
    pub ejected: usize,
    /// Its credentials: those of use, those whose limit is spent, those that were refused.
    pub credentials: [usize; 3],
    /// Calls under way.
    pub in_flight: usize,
    /// How many there may be; `None`: as many as come.
    pub max_in_flight: Option<usize>,
    /// Calls that wait for a place.
    pub waiting: usize,
    /// How many may wait; `None`: none has to.
    pub max_waiting: Option<usize>,
    /// How its model is, where that is in this process.
    pub engine: Option<EngineState>,
}

/// Where the connections to an upstream are counted. Clones count together.
#[derive(Clone, Debug)]
pub struct ConnectionMeter {
    open: IntGauge,
    opened: IntCounter,
}

/// A connection that is counted as long as it lives.
#[derive(Debug)]
pub struct OpenConnection(IntGauge);

impl Upstreams {
    pub(super) fn new(declare: &mut Declare) -> Result<Self, prometheus::Error> {
        let of = ["upstream"];
        Ok(Self {
            ready: declare.gauges(
                "weir_upstream_ready",
                "1 when the upstream is well: one endpoint at least is in use (the local model is loaded), and one credential was not refused. An upstream that is asked only by its floor, or for a trial, stands at 0; whether calls can be served is weir_ready.",
                of,
            )?,
            attempts: declare.counters(
                "weir_upstream_attempts_total",
                "Tries at upstreams, by how they ended: answered, abandoned, or the cause of a failure.",
                ["upstream", "result"],
            )?,
            duration: declare.histograms(
                "weir_upstream_duration_seconds",
                "Time that upstreams took to begin an answer, or to give it whole when it is not streamed, in tries that were answered.",
                ["model", "upstream"],
                DURATION,
            )?,
            hedges: declare.counters(
                "weir_hedges_total",
                "Second attempts for slow answers: those started, and those that answered first.",
                ["model", "event"],
            )?,
            ejections: declare.counters(
                "weir_upstream_ejections_total",
                "Times that an endpoint was left out because it failed.",
                of,
            )?,
            exhausted: declare.counters(
                "weir_retry_budget_exhausted_total",
                "Times that a retry at an upstream was left out because the budget of its retries was spent.",
                of,
            )?,
            endpoints: declare.gauges(
                "weir_upstream_endpoints",
                "Endpoints of an upstream: those in use, and those that are left out because they fail.",
                ["upstream", "state"],
            )?,
            credentials: declare.gauges(
                "weir_upstream_credentials",
                "Credentials of an upstream: those in use, and those that are put aside because their limit is spent or they were refused.",
                ["upstream", "state"],
            )?,
            in_flight: declare.gauges(
                "weir_upstream_in_flight",
                "Calls under way at an upstream.",
                of,
            )?,
            max_in_flight: declare.gauges(
                "weir_upstream_in_flight_limit",
                "Calls that an upstream gets at once, where that is bounded.",
                of,
            )?,
            waiting: declare.gauges(
                "weir_upstream_queue_length",
                "Calls that wait for a place at an upstream.",
                of,
            )?,
            max_waiting: declare.gauges(
                "weir_upstream_queue_limit",
                "Calls that may wait for a place at an upstream, where they have to.",
                of,
            )?,
            connections: declare.gauges(
                "weir_upstream_connections",
                "Open connections to an upstream, those that idle in the pool too.",
                of,
            )?,
            opened: declare.counters(
                "weir_upstream_connections_opened_total",
                "Connections to an upstream that were opened.",
                of,
            )?,
        })
    }

    /// Observes how long an upstream took.
    pub(super) fn took(&self, model: &str, upstream: &str, time: Duration) {
        let times = self.duration.with([model, upstream]);
        times.observe(time.as_secs_f64());
    }
}

impl ConnectionMeter {
    /// Counts a connection that was opened.
    pub fn opened(&self) -> OpenConnection {
        self.opened.inc();
        self.open.inc();
        OpenConnection(self.open.clone())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Counts a try at an upstream.
    pub fn attempt_ended(&self, upstream: &str, result: &'static str) {
        self.upstreams.attempts.with([upstream, result]).inc();
    }

    /// Counts a second attempt: started, or with `won` the first to answer.
    pub fn hedged(&self, model: &str, won: bool) {
        let event = if won { "won" } else { "started" };
        self.upstreams.hedges.with([model, event]).inc();
    }

    /// Counts a retry that was left out because its budget was spent.
    pub fn retry_budget_exhausted(&self, upstream: &str) {
        self.upstreams.exhausted.with([upstream]).inc();
    }

    /// Counts an ejection.
    pub fn endpoint_ejected(&self, upstream: &str) {
        self.upstreams.ejections.with([upstream]).inc();
    }

    /// Returns where the connections to an upstream are counted.
    pub fn connections_to(&self, upstream: &str) -> ConnectionMeter {
        ConnectionMeter {
            open: self.upstreams.connections.with([upstream]),
            opened: self.upstreams.opened.with([upstream]),
        }
    }

    /// Notes how an upstream is. From then on all that may happen to it is counted, were it zero.
    pub fn set_upstream(&self, upstream: &str, snapshot: Snapshot) {
        let upstreams = &self.upstreams;
        let of = [upstream];
        let number = |count: usize| signed(count as u64);
        upstreams.ready.with(of).set(i64::from(snapshot.ready));
        let in_use = snapshot.endpoints.saturating_sub(snapshot.ejected);
        for (state, count) in [("in_use", in_use), ("ejected", snapshot.ejected)] {
            let gauge = upstreams.endpoints.with([upstream, state]);
            gauge.set(number(count));
        }
        for (state, count) in CREDENTIAL_STATES.iter().zip(snapshot.credentials) {
            let gauge = upstreams.credentials.with([upstream, state]);
            gauge.set(number(count));
        }
        upstreams.in_flight.with(of).set(number(snapshot.in_flight));
        upstreams.waiting.with(of).set(number(snapshot.waiting));
        for (gauges, limit) in [
            (&upstreams.max_in_flight, snapshot.max_in_flight),
            (&upstreams.max_waiting, snapshot.max_waiting),
        ] {
            match limit {
                Some(limit) => gauges.with(of).set(number(limit)),
                None => gauges.keep(|other| other != of),
            }
        }
        if let Some(engine) = &snapshot.engine {
            self.engines.set(upstream, engine);
        }
        upstreams.ejections.with(of);
        upstreams.exhausted.with(of);
        upstreams.attempts.with([upstream, "answered"]);
    }

    /// Forgets the gauges of upstreams that are gone. Those of the others are never away, whoever reads them meanwhile.
    pub fn keep_upstreams(&self, known: impl Fn(&str) -> bool) {
        let upstreams = &self.upstreams;
        for gauges in [
            &upstreams.ready,
            &upstreams.in_flight,
            &upstreams.max_in_flight,
            &upstreams.waiting,
            &upstreams.max_waiting,
        ] {
            gauges.keep(|[upstream]| known(upstream));
        }
        for gauges in [&upstreams.endpoints, &upstreams.credentials] {
            gauges.keep(|[upstream, _]| known(upstream));
        }
        self.engines.keep(&known);
    }
}
