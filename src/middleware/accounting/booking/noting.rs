//! What is told of a call when its row is settled: to the metrics, and by its record to the log.

use std::sync::Arc;

use super::{Booking, End};
use crate::call::{Cached, Cause};
use crate::metrics::Whose;
use crate::middleware::accounting::entries::written_model;
use crate::store::ledger::{Attempt, Counts};

impl Booking {
    /// Counts what was used, or what was not for want of a need.
    pub(super) fn note_use(&self, cached: Cached, counts: Option<&Counts>, attempts: &[Attempt]) {
        let metrics = &self.books.metrics;
        let (team, model) = {
            let facts = self.record.facts();
            (facts.team.clone(), facts.route.clone())
        };
        let whose = Whose {
            team: team.as_deref(),
            key: &self.key,
            model: model.as_deref(),
        };
        // What was tried before an answer came that others had paid for was used all the same.
        let (saved, answer) = match cached.is_free() {
            true => (counts, None),
            false => (None, counts),
        };
        if let Some(saved) = saved {
            metrics.saved(&whose, &saved.usage, saved.cost);
        }
        if let Some(answer) = answer {
            metrics.sized(model.as_deref(), &answer.usage);
        }
        let tries = attempts.iter().filter_map(|attempt| {
            let counts = attempt.counts?;
            Some((Some(&*attempt.upstream), counts))
        });
        // What nobody was tried for was used all the same, where it is known.
        let untried = answer.filter(|_| attempts.is_empty());
        let billed = tries.chain(untried.map(|counts| (None, *counts)));
        let mut is_unpriced = false;
        for (upstream, counts) in billed {
            metrics.charged(&whose, upstream, &counts.usage, counts.cost);
            is_unpriced |= counts.cost.is_none();
        }
        if is_unpriced {
            metrics.unpriced(&whose);
        }
    }

    /// Notes for the log what the ledger says, and returns why the request failed.
    pub(super) fn note_end(
        &self,
        end: &End,
        total: Option<&Counts>,
        served: Option<&Arc<str>>,
    ) -> Option<Cause> {
        let mut facts = self.record.facts();
        facts.cost = total.and_then(|counts| counts.cost);
        facts.served_model = served.map(written_model);
        let of_answer = self.http_status.and_then(Cause::of_answer);
        let cause = end.error.or(facts.cause).or(of_answer)?;
        Some(*facts.cause.get_or_insert(cause))
    }
}
