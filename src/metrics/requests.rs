//! The metrics of requests: how many, how they ended, how long they took.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntGauge};

use super::declare::Declare;
use super::family::Family;
use super::{Metrics, NONE};
use crate::call::{Cause, Facts, Outcome, Try};

/// The metrics of requests.
pub(super) struct Requests {
    ended: Family<IntCounter, 7>,
    blamed: Family<IntCounter, 2>,
    in_flight: IntGauge,
    duration: Family<Histogram, 3>,
    overhead: Family<Histogram, 1>,
    first_token: Family<Histogram, 3>,
    per_token: Family<Histogram, 3>,
    key_duration: Family<Histogram, 2>,
    key_first_token: Family<Histogram, 2>,
    received: Family<IntCounter, 1>,
    sent: Family<IntCounter, 1>,
    retries: Family<IntCounter, 4>,
    degraded: Family<IntCounter, 1>,
}

/// How a request ended.
pub struct Finished<'a> {
    /// What the layers learnt.
    pub facts: &'a Facts,
    /// The status sent; `None` when the client had gone before.
    pub status: Option<u16>,
    /// From the request's head to the end of the answer.
    pub duration: Duration,
    /// Bytes of the answer's body.
    pub sent: u64,
}

/// 10 ms doubling to 655 s: from a cache's answer to the longest reasoning.
pub(super) const DURATION: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84,
    327.68, 655.36,
];
/// Every other one of them: keys may be many.
const KEY_DURATION: &[f64] = &[0.01, 0.04, 0.16, 0.64, 2.56, 10.24, 40.96, 163.84, 655.36];
/// 1 ms to 60 s.
const FIRST_TOKEN: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0,
];
/// 1 ms times four to 65 s: keys may be many.
const KEY_FIRST_TOKEN: &[f64] = &[
    0.001, 0.004, 0.016, 0.064, 0.256, 1.024, 4.096, 16.384, 65.536,
];
/// 1 ms, which no model is faster than, to 2.5 s, which nobody reads as slowly as.
const PER_TOKEN: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
];
/// 25 us to 250 ms: a gateway that needs more is broken.
const OVERHEAD: &[f64] = &[
    0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
    0.25,
];

impl Requests {
    pub(super) fn new(declare: &mut Declare) -> Result<Self, prometheus::Error> {
        let requests = Self::declared(declare)?;
        // From the start, so that the first failure of its kind is an increase.
        for cause in Cause::ALL.iter().copied().map(Some).chain([None]) {
            requests.blamed.with(blamed(cause));
        }
        Ok(requests)
    }

    fn declared(declare: &mut Declare) -> Result<Self, prometheus::Error> {
        Ok(Self {
            ended: declare.counters(
                "weir_requests_total",
                "Requests ended, by what was asked, who asked, who answered, the status (499: the client went first) and the cause of a failure.",
                ["endpoint", "team", "key", "model", "upstream", "status", "cause"],
            )?,
            blamed: declare.counters(
                "weir_requests_by_blame_total",
                "Requests ended, by who is to blame (none: nobody, all went well) and the cause. Every series stands at 0 from the start: alerts look here, since a series that is born at 1 has no rate.",
                ["blame", "cause"],
            )?,
            in_flight: declare.gauge(
                "weir_requests_in_flight",
                "Requests whose answers have not ended.",
            )?,
            duration: declare.histograms(
                "weir_request_duration_seconds",
                "Time from a request's head to the end of its answer.",
                ["endpoint", "model", "upstream"],
                DURATION,
            )?,
            overhead: declare.histograms(
                "weir_request_overhead_seconds",
                "Time until the answer's head that was spent waiting neither for the client nor for an upstream, where it is known: not where the head went before the upstream answered, or the answer was another call's.",
                ["endpoint"],
                OVERHEAD,
            )?,
            first_token: declare.histograms(
                "weir_time_to_first_token_seconds",
                "Time from a streamed request's head to the first content of its answer.",
                ["endpoint", "model", "upstream"],
                FIRST_TOKEN,
            )?,
            per_token: declare.histograms(
                "weir_time_per_output_token_seconds",
                "Time from the first content of a whole stream to its end, for each token after the first.",
                ["endpoint", "model", "upstream"],
                PER_TOKEN,
            )?,
            key_duration: declare.histograms(
                "weir_key_request_duration_seconds",
                "Time from a request's head to the end of its answer, by who asked.",
                ["team", "key"],
                KEY_DURATION,
            )?,
            key_first_token: declare.histograms(
                "weir_key_time_to_first_token_seconds",
                "Time from a streamed request's head to the first content of its answer, by who asked.",
                ["team", "key"],
                KEY_FIRST_TOKEN,
            )?,
            received: declare.counters(
                "weir_request_body_bytes_total",
                "Bytes of JSON request bodies read.",
                ["endpoint"],
            )?,
            sent: declare.counters(
                "weir_response_body_bytes_total",
                "Bytes of answers sent.",
                ["endpoint"],
            )?,
            retries: declare.counters(
                "weir_retries_total",
                "Tries at upstreams after a request's first: at the same upstream (retry), at another one (fallback), or beside a slow one (hedge), by the cause of the failure before.",
                ["model", "upstream", "kind", "cause"],
            )?,
            degraded: declare.counters(
                "weir_degraded_total",
                "Requests that the local model answered in the place of remote upstreams.",
                ["model"],
            )?,
        })
    }
}

impl Metrics {
    /// Counts a request in.
    pub fn request_started(&self) {
        self.requests.in_flight.inc();
    }

    /// Observes the head of an answer.
    pub fn answer_began(&self, facts: &Facts, age: Duration) {
        let endpoint = facts.endpoint.unwrap_or(NONE);
        if let Some(overhead) = facts.overhead(age) {
            let overhead = overhead.as_secs_f64();
            self.requests.overhead.with([endpoint]).observe(overhead);
        }
    }

    /// Counts a request out.
    pub fn request_finished(&self, finished: &Finished<'_>) {
        let Finished {
            facts, duration, ..
        } = *finished;
        let requests = &self.requests;
        let endpoint = facts.endpoint.unwrap_or(NONE);
        let team = facts.team.as_deref().unwrap_or(NONE);
        let key = facts.key.as_deref().unwrap_or(NONE);
        let model = facts.route.as_deref().unwrap_or(NONE);
        let upstream = facts.upstream.as_deref().unwrap_or(NONE);
        let blame = blamed(facts.cause);
        let [_, cause] = blame;
        let mut digits = [0; 3];
        let status = status_label(finished.status.unwrap_or(499), &mut digits);
        requests.in_flight.dec();
        let labels = [endpoint, team, key, model, upstream, status, cause];
        requests.ended.with(labels).inc();
        requests.blamed.with(blame).inc();
        let seconds = duration.as_secs_f64();
        let way = [endpoint, model, upstream];
        requests.duration.with(way).observe(seconds);
        if facts.key.is_some() {
            requests.key_duration.with([team, key]).observe(seconds);
        }
        requests.sent.with([endpoint]).inc_by(finished.sent);
        if facts.received > 0 {
            requests.received.with([endpoint]).inc_by(facts.received);
        }
        if let Some(first) = facts.first_token {
            let first = first.as_secs_f64();
            requests.first_token.with(way).observe(first);
            requests.key_first_token.with([team, key]).observe(first);
        }
        if let Some(time) = per_output_token(facts, duration) {
            requests.per_token.with(way).observe(time);
        }
        if facts.degraded {
            requests.degraded.with([model]).inc();
        }
        for attempt in &facts.attempts {
            if let (Try::ANSWERED, Some(time)) = (attempt.result, attempt.time) {
                self.upstreams.took(model, &attempt.upstream, time);
            }
        }
        for pair in facts.attempts.windows(2) {
            if let [before, again] = pair {
                let (kind, cause) = kind_of_retry(before, again);
                let labels = [model, &*again.upstream, kind, cause];
                requests.retries.with(labels).inc();
            }
        }
        self.answers.finished(endpoint, facts);
    }
}

/// Returns who is to blame, and the cause.
fn blamed(cause: Option<Cause>) -> [&'static str; 2] {
    cause.map_or([NONE, ""], |cause| [cause.blame().as_str(), cause.as_str()])
}

/// Returns the seconds that a whole stream took for each token after the first.
fn per_output_token(facts: &Facts, duration: Duration) -> Option<f64> {
    let first = facts.first_token?;
    let more = facts.usage?.completion().checked_sub(1)?;
    let is_whole = facts.outcome == Some(Outcome::Complete) && facts.stream && more > 0;
    is_whole.then(|| duration.saturating_sub(first).as_secs_f64() / more as f64)
}

/// Returns what a try was after the one before it, and why it was made.
fn kind_of_retry(before: &Try, again: &Try) -> (&'static str, &'static str) {
    let had_ended = before
        .time
        .is_some_and(|time| before.began.saturating_add(time) <= again.began);
    match had_ended && before.result != Try::ANSWERED {
        false => ("hedge", NONE),
        true if before.upstream == again.upstream => ("retry", before.result),
        true => ("fallback", before.result),
    }
}

fn status_label(status: u16, digits: &mut [u8; 3]) -> &str {
    *digits = [status / 100 % 10, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8);
    std::str::from_utf8(digits).unwrap_or(NONE)
}
