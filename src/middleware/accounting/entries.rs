//! What the ledger says of a call: the row that it is opened with, and what its tries cost together.

use std::sync::Arc;

use super::booking::Used;
use crate::call::{Call, Estimate, Try, written_name};
use crate::money::Nanos;
use crate::store::ledger::{Attempt, Counts, Intent, Provenance};

/// Returns whether nobody knows what an upstream did that was asked and has begun to answer.
pub(super) fn is_guess(used: Used, has_answered: bool) -> bool {
    matches!(used, Used::Unknown) && has_answered
}

/// The answer's tokens, or where there is none those of all attempts, at the cost of all attempts.
pub(super) fn total(counts: Option<Counts>, attempts: &[Attempt]) -> Option<Counts> {
    let billed = attempts.iter().filter_map(|attempt| attempt.counts);
    // One price that is not known leaves the sum unknown.
    let cost = billed.clone().try_fold(Nanos::ZERO, |sum, counts| {
        Some(sum.saturating_add(counts.cost?))
    });
    let counts = counts.or_else(|| {
        billed.reduce(|sum, counts| Counts {
            usage: sum.usage.saturating_add(&counts.usage),
            ..counts
        })
    })?;
    Some(Counts { cost, ..counts })
}

/// Returns what the ledger says of a try.
pub(super) fn ledger_attempt(attempt: Try, counts: Option<Counts>) -> Attempt {
    Attempt {
        upstream: attempt.upstream,
        endpoint: attempt.endpoint,
        model: attempt.model.as_ref().map(written_model),
        began: attempt.began,
        time: attempt.time,
        result: attempt.result.into(),
        http_status: attempt.status,
        counts,
    }
}

/// Returns a model's name as far as it is written down: clients may send longer ones.
pub(super) fn written_model(name: &Arc<str>) -> Arc<str> {
    let written = written_name(name);
    match written.len() < name.len() {
        true => written.into(),
        false => Arc::clone(name),
    }
}

/// Returns what is known of a call before it goes anywhere.
pub(super) fn intent(call: &Call) -> Intent {
    let age = call.record.received.elapsed();
    let endpoint = call.endpoint.written(Some(call.head.target.path()));
    Intent {
        team: call.caller.team.clone(),
        model: call.model.as_ref().map(written_model),
        stream: call.stream,
        upstream: call.upstream.clone(),
        estimate: call.estimate.map(|Estimate { likely, .. }| Counts {
            usage: likely.usage,
            provenance: Provenance::Estimated,
            cost: likely.cost,
        }),
        ..Intent::new(
            call.record.id.as_str(),
            age,
            Arc::clone(&call.caller.key),
            endpoint,
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::openai::usage::Usage;

    fn attempt(cost: Option<u64>, billed: bool) -> Attempt {
        Attempt {
            upstream: "u".into(),
            endpoint: "e".into(),
            model: None,
            began: Duration::ZERO,
            time: None,
            result: "answered".into(),
            http_status: None,
            counts: billed.then(|| Counts {
                usage: Usage {
                    input: 3,
                    ..Usage::default()
                },
                provenance: Provenance::Upstream,
                cost: cost.map(Nanos::new),
            }),
        }
    }

    #[test]
    fn a_request_costs_what_all_its_attempts_cost() {
        let attempts = [
            attempt(Some(5), true),
            attempt(None, false),
            attempt(Some(7), true),
        ];
        let sum = total(attempts[2].counts, &attempts).unwrap();
        assert_eq!((sum.cost, sum.usage.input), (Some(Nanos::new(12)), 3));
    }

    #[test]
    fn one_unknown_price_leaves_the_sum_unknown() {
        let attempts = [attempt(Some(5), true), attempt(None, true)];
        assert_eq!(total(attempts[1].counts, &attempts).unwrap().cost, None);
    }

    #[test]
    fn what_was_not_billed_costs_nothing_and_counts_nothing() {
        assert_eq!(total(None, &[attempt(None, false)]), None);
    }
}
