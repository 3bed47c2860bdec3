//! What a request has used, counted and priced: its answer, and the tries that brought none.

use std::sync::Arc;

use super::{Booking, Used};
use crate::call::{Cached, Try};
use crate::middleware::accounting::apart::counted;
use crate::middleware::accounting::entries::{is_guess, ledger_attempt, total};
use crate::money::Nanos;
use crate::openai::usage::Usage;
use crate::store::ledger::{Attempt, Counts, Provenance};
use crate::tokens;

/// What a request has used.
pub(super) struct Bill {
    /// What its answer used; `None`: nothing, or nobody knows.
    pub(super) answer: Option<Counts>,
    /// Its tries, each with what it used.
    pub(super) attempts: Vec<Attempt>,
    /// What its row says: the answer's tokens, or else those of all tries, at what all tries cost.
    pub(super) total: Option<Counts>,
    /// The name by which the model is known that served it.
    pub(super) served_model: Option<Arc<str>>,
    /// Whether any of this is what an upstream may have done, and nobody knows.
    pub(super) is_guess: bool,
    /// Whether an upstream answered, and not by an error.
    pub(super) was_answered: bool,
}

impl Booking {
    /// Counts and prices what all tries used; `known_as` is how the model is known that served it, where no try tells.
    pub(super) fn bill(
        &self,
        used: Used,
        tries: Vec<Try>,
        cached: Cached,
        known_as: Option<Arc<str>>,
    ) -> Bill {
        let answering = tries
            .iter()
            .rposition(|attempt| attempt.result == Try::ANSWERED);
        // What others have paid for is none of the tries' that there were before.
        let last = answering.or(tries.len().checked_sub(1));
        let last = last.filter(|_| !cached.is_free());
        let served_model = last.and_then(|index| tries[index].model.clone());
        let served_model = served_model.or(known_as);
        let answer = match (used, answering) {
            // Nobody answered: each try is booked at what it may have used.
            (Used::Unknown, None) => None,
            (used, _) => self.counts(used, served_model.as_ref()),
        };
        let is_guess = is_guess(used, answering.is_some())
            || tries.iter().enumerate().any(|(index, attempt)| {
                let is_answer = Some(index) == last && answer.is_some();
                !is_answer && attempt.counted.is_none() && attempt.is_billed_in_vain()
            });
        let attempts: Vec<Attempt> = tries
            .into_iter()
            .enumerate()
            .map(|(index, attempt)| {
                let counts = match (Some(index) == last, answer) {
                    (true, Some(counts)) => Some(counts),
                    _ => self.in_vain(&attempt),
                };
                ledger_attempt(attempt, counts)
            })
            .collect();
        let total = match cached.is_free() {
            // What it would have used, had another call not paid for it; and what tries cost that failed.
            true => {
                let in_vain = total(None, &attempts);
                let cost = in_vain.map_or(Some(Nanos::ZERO), |counts| counts.cost);
                answer.map(|counts| Counts { cost, ..counts }).or(in_vain)
            }
            false => total(answer, &attempts),
        };
        let is_answer = |attempt: &Attempt| attempt.http_status.is_none_or(|status| status < 400);
        let was_answered = answering.is_some_and(|index| is_answer(&attempts[index]));
        Bill {
            answer,
            attempts,
            total,
            served_model,
            is_guess,
            was_answered,
        }
    }

    /// Returns the tokens of prompt and answer.
    pub(in super::super) fn usage(&self, used: Used) -> Option<Usage> {
        let served = self.served();
        Some(self.counts(used, served.as_ref())?.usage)
    }

    /// Counts what a whole answer brought.
    pub(in super::super) fn count_answer(&self, answer: &[u8]) -> Used {
        let encoding = self.encoding();
        Used::Generated {
            tokens: counted(answer.len(), || {
                tokens::answer(encoding, &self.endpoint, answer)
            }),
            is_exact: encoding.is_some(),
        }
    }

    /// Returns how the model that is asked now counts, where that is known.
    pub(in super::super) fn encoding(&self) -> Option<tokens::Encoding> {
        self.books.encoding(self.served().as_ref())
    }

    /// Returns the name by which the upstream that is asked now knows the model, or else the one asked for.
    fn served(&self) -> Option<Arc<str>> {
        let facts = self.record.facts();
        let served = facts
            .attempts
            .last()
            .and_then(|attempt| attempt.model.clone());
        served.or_else(|| self.model.clone())
    }

    /// Returns what was used, priced by the model that served it; `None`: nothing, or nobody knows.
    fn counts(&self, used: Used, served: Option<&Arc<str>>) -> Option<Counts> {
        let model = served.or(self.model.as_ref());
        let (usage, provenance) = match used {
            Used::Nothing => return None,
            Used::Known(usage, provenance) => (usage, provenance),
            Used::Generated { tokens, is_exact } => {
                let is_counted = is_exact && !self.prompt.is_empty();
                let usage = Usage {
                    input: self.prompt_tokens(model),
                    output: tokens,
                    ..Usage::default()
                };
                let provenance = match is_counted {
                    true => Provenance::Counted,
                    false => Provenance::Estimated,
                };
                (usage, provenance)
            }
            Used::Unknown => (self.estimate?.likely.usage, Provenance::Estimated),
        };
        Some(self.priced(served, usage, provenance))
    }

    /// Returns what a try used that brought no answer: nothing where the upstream was not sent the request, or has
    /// answered that it failed. Otherwise it may have generated, and will charge for that.
    fn in_vain(&self, attempt: &Try) -> Option<Counts> {
        let (usage, provenance) = match (attempt.counted, attempt.is_billed_in_vain()) {
            (Some(usage), _) => (usage, Provenance::Counted),
            (None, true) => (self.estimate?.likely.usage, Provenance::Estimated),
            (None, false) => return None,
        };
        Some(self.priced(attempt.model.as_ref(), usage, provenance))
    }

    /// Prices what was used, by the name of the model that served it or else the one asked for.
    fn priced(&self, served: Option<&Arc<str>>, usage: Usage, provenance: Provenance) -> Counts {
        Counts {
            usage,
            provenance,
            cost: self.books.cost([served, self.model.as_ref()], &usage),
        }
    }

    /// Returns the tokens of the prompt: counted where it was kept, or else estimated.
    fn prompt_tokens(&self, model: Option<&Arc<str>>) -> u64 {
        match self.prompt.is_empty() {
            true => self
                .estimate
                .map_or(0, |estimate| estimate.likely.usage.input),
            false => self.books.prompt(model, &self.endpoint, &self.prompt),
        }
    }
}
