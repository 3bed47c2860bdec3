//! The access log: one line per request, with what the ledger knows of it. Never content, queries or credentials.
//!
//! Requests without a fault may be sampled; the others all have their line. What an upstream tells only after its client has
//! left stands in the ledger alone.

use std::time::Duration;

use http::Method;

use crate::call::{Facts, RequestId, Trace, Try};

/// How many characters of a path are logged.
const LOGGED_PATH: usize = 256;

/// Where the lines come from, for filters.
const TARGET: &str = "weir::access";

/// A line that is still to be written.
pub(super) struct Line {
    /// The share of requests without a fault that have a line.
    sample: f64,
    method: Method,
    path: String,
}

/// How a request ended, besides its facts.
pub(super) struct End<'a> {
    pub(super) id: &'a RequestId,
    /// The trace that it is a part of.
    pub(super) trace: Option<&'a Trace>,
    /// 499: its client left before there was one.
    pub(super) status: u16,
    pub(super) duration: Duration,
    pub(super) sent: u64,
}

impl Line {
    pub(super) fn new(sample: f64, method: &Method, path: &str) -> Self {
        Self {
            sample,
            method: method.clone(),
            path: path.chars().take(LOGGED_PATH).collect(),
        }
    }

    pub(super) fn write(&self, facts: &Facts, end: &End<'_>) {
        let is_fine = end.status < 400 && facts.cause.is_none();
        if is_fine && !is_drawn(self.sample, fastrand::f64()) {
            return;
        }
        let tokens = facts.usage;
        tracing::info!(
            target: TARGET,
            {
            request.id = %end.id,
            trace.id = end.trace.map(|trace| trace.id.to_string()),
            http.method = %self.method,
            url.path = self.path,
            http.status = end.status,
            endpoint = facts.endpoint,
            key.id = facts.key.as_deref(),
            team.id = facts.team.as_deref(),
            model = facts.model.as_deref(),
            model.served = facts.served_model.as_deref(),
            model.route = facts.route.as_deref(),
            upstream.name = facts.upstream.as_deref(),
            upstream.request_id = facts.upstream_request_id.as_deref(),
            attempts = facts.attempts.len(),
            tries = tries(&facts.attempts),
            degraded = facts.degraded,
            stream = facts.stream,
            cache = facts.cached.as_str(),
            duration_ms = millis(end.duration),
            queue_ms = waited(facts.queue_time),
            upstream_ms = facts.upstream_time.map(millis),
            first_token_ms = facts.first_token.map(millis),
            tokens.input = tokens.map(|usage| usage.input),
            tokens.cached_input = tokens.map(|usage| usage.cached_input),
            tokens.cache_write = tokens.map(|usage| usage.cache_write),
            tokens.input_audio = tokens.map(|usage| usage.input_audio),
            tokens.output = tokens.map(|usage| usage.output),
            tokens.reasoning = tokens.map(|usage| usage.reasoning),
            tokens.output_audio = tokens.map(|usage| usage.output_audio),
            cost_usd = facts.cost.map(tracing::field::display),
            received_bytes = facts.received,
            sent_bytes = end.sent,
            cause = facts.cause.map(|cause| cause.as_str()),
            detail = facts.detail.as_deref()
            },
            "request"
        );
    }
}

/// Returns whether a line is written, by a number drawn from 0 to below 1.
fn is_drawn(sample: f64, drawn: f64) -> bool {
    drawn < sample
}

/// More than one try is told one by one: where, after how many milliseconds, for how long, and how it ended.
fn tries(attempts: &[Try]) -> Option<String> {
    let told = attempts.iter().map(|attempt| {
        let Try {
            upstream,
            endpoint,
            result,
            ..
        } = attempt;
        let time = attempt.time.map_or(0.0, millis);
        format!(
            "{upstream} {endpoint} +{}ms {time}ms {result}",
            millis(attempt.began)
        )
    });
    (attempts.len() > 1).then(|| told.collect::<Vec<_>>().join("; "))
}

fn waited(time: Duration) -> Option<f64> {
    (!time.is_zero()).then(|| millis(time))
}

/// Returns milliseconds, with three digits of their fraction.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_of_all_is_all_and_one_of_none_is_none() {
        assert!(is_drawn(1.0, 0.999_999_999));
        assert!(!is_drawn(0.0, 0.0));
        assert!(is_drawn(0.25, 0.24) && !is_drawn(0.25, 0.25));
    }
}
