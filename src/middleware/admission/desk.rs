//! Who is let in, and with how much room.

use std::sync::Arc;

use http::HeaderValue;
use jiff::Timestamp;

use super::room::{Kept, of_budgets, of_limits};
use super::{AdmissionError, Rules, Ways};
use crate::call::{Allowance, Allowances, Call, Caller, Estimate, Priced, Record};
use crate::openai::endpoint::Endpoint;
use crate::openai::usage::Usage;
use crate::store::budgets::Balance;
use crate::store::limits::{
    Amount, Denied, Headroom, Measure, Refusal, Time, Who, tightest_requests, tightest_tokens,
};
use crate::store::means::FIRST_MEAN;
use crate::tokens;

/// What is reserved for a call that may use tokens, though nobody can tell how many before it ends: enough to wait where
/// none are left.
const UNKNOWN: Amount = Amount {
    input: 1,
    output: 1,
};

pub(super) struct Desk {
    pub(super) rules: Arc<Rules>,
    pub(super) ways: Arc<dyn Ways>,
}

/// Whose limits a call counts towards.
pub(super) struct Whose {
    caller: Arc<Caller>,
    route: Option<Arc<str>>,
    model: Option<Arc<str>>,
}

/// When it is: for limits, and by the calendar for budgets.
#[derive(Clone, Copy)]
pub(super) struct Now {
    pub(super) time: Time,
    pub(super) date: Timestamp,
}

impl Whose {
    pub(super) fn who(&self) -> Who<'_> {
        Who {
            key: &self.caller.key,
            team: self.caller.team.as_deref(),
            route: self.route.as_deref(),
            model: self.model.as_deref(),
        }
    }
}

impl Now {
    pub(super) fn read() -> Self {
        Self {
            time: Time::now(),
            date: Timestamp::now(),
        }
    }
}

impl Desk {
    pub(super) fn whose(&self, call: &Call) -> Whose {
        let route = |model: &Arc<str>| self.ways.label(model);
        Whose {
            caller: Arc::clone(&call.caller),
            route: call.model.as_ref().and_then(route),
            model: call.model.clone(),
        }
    }

    /// Keeps room for a call, and returns what its client is to be warned of.
    pub(super) fn admit(
        self: &Arc<Self>,
        call: &mut Call,
        whose: &Whose,
        now: Now,
    ) -> Result<Option<HeaderValue>, AdmissionError> {
        let who = whose.who();
        // A list of models is charged to nobody, and uses no tokens. It is a request all the same: each asks every upstream.
        let is_listing = call.endpoint.is_listing();
        if !is_listing {
            call.upstream = self.ways.only_upstream(call);
            call.estimate = self.estimate(call, &who, now.time);
        }
        let reserved = call.estimate.map(|estimate| estimate.reserved);
        let amount = reserved.as_ref().map(of_limits);
        let amount = amount.unwrap_or(match is_listing || is_free(call) {
            true => Amount::default(),
            false => UNKNOWN,
        });
        let Rules {
            limits, budgets, ..
        } = &*self.rules;
        let Caller { key, team, .. } = &*call.caller;
        let of_budgets = reserved.as_ref().map(of_budgets).unwrap_or_default();
        let admitted = limits.admit(&who, &amount, now.time, || match is_listing {
            true => Ok(None),
            false => budgets
                .reserve(key, team.as_ref(), of_budgets, now.date)
                .map(Some),
        });
        let admitted = admitted.map_err(|denied| match denied {
            Denied::Limit(refusal) => {
                self.count(&refusal, false);
                AdmissionError::Limited(refusal)
            }
            Denied::Other(spent) => AdmissionError::Spent(spent),
        })?;
        for refusal in &admitted.shadow {
            self.count(refusal, true);
        }
        let budgets = admitted.also;
        let warning = budgets.as_ref().and_then(|budgets| budgets.warning());
        let warning = warning.and_then(warning_header);
        call.room = Some(Box::new(Kept {
            desk: Arc::clone(self),
            model: call.model.clone(),
            limits: admitted.reservation,
            budgets,
            reserved: amount,
        }));
        Ok(warning)
    }

    fn count(&self, refusal: &Refusal, shadow: bool) {
        let (holder, dimension) = (refusal.holder.kind(), refusal.dimension.as_str());
        self.rules.metrics.limit_refused(holder, dimension, shadow);
    }

    /// Notes what a client may still do.
    pub(super) fn note(&self, whose: &Whose, record: &Record) {
        let left = self.rules.limits.headroom(&whose.who(), Time::now());
        if left.is_empty() {
            return;
        }
        let allowance = |room: &Headroom| Allowance {
            limit: room.size.get(),
            remaining: room.remaining,
            reset: room.reset,
        };
        record.facts().allowances = Allowances {
            requests: tightest_requests(&left).map(allowance),
            tokens: tightest_tokens(&left).map(allowance),
        };
    }

    /// Guesses what a call will use. Exact counting would cost more than most calls do: it is done at the end, where the
    /// upstream does not.
    fn estimate(&self, call: &Call, who: &Who<'_>, now: Time) -> Option<Estimate> {
        let (bytes, members) = call.json()?;
        let input = tokens::prompt(None, &call.endpoint, bytes);
        let only_read = Usage {
            input,
            ..Usage::default()
        };
        if call.endpoint == Endpoint::Embeddings {
            let read = self.priced(call.model.as_deref(), only_read);
            return Some(Estimate {
                likely: read,
                reserved: read,
            });
        }
        let model = call.model.as_ref()?;
        let learnt = self.rules.means.learnt(&call.caller.key, model);
        let choices = members.choices(bytes);
        let with = |output: u64| {
            let usage = Usage {
                output: output.saturating_mul(choices),
                ..only_read
            };
            self.priced(Some(model), usage)
        };
        Some(match members.max_tokens(bytes) {
            Some(most) => Estimate {
                likely: with(most.min(learnt.unwrap_or(FIRST_MEAN))),
                reserved: with(most),
            },
            None => {
                let limits = self.rules.limits.headroom(who, now);
                let mean = with(expected(learnt, input, choices, &limits));
                Estimate {
                    likely: mean,
                    reserved: mean,
                }
            }
        })
    }

    /// Prices tokens by the dearest of the upstreams: each by its own name of the model, or else by the one asked for.
    pub(super) fn priced(&self, model: Option<&str>, usage: Usage) -> Priced {
        let mut dearest = None;
        if let Some(model) = model {
            let prices = &self.rules.prices;
            let asked = prices.cost(model, &usage);
            self.ways.each_name(model, &mut |name| {
                dearest = dearest.max(prices.cost(name, &usage).or(asked));
            });
        }
        Priced {
            usage,
            cost: dearest,
        }
    }
}

/// Returns whether a call that passes through can use no tokens.
fn is_free(call: &Call) -> bool {
    call.head.method.is_safe() && call.upgrade.is_none()
}

/// Returns how many tokens a choice is expected to have where the client does not say: what was learnt, else a quarter of
/// the tightest limit. It is a guess, and a guess alone never makes a call one that can never be let in.
pub(super) fn expected(learnt: Option<u64>, input: u64, choices: u64, limits: &[Headroom]) -> u64 {
    let mut tightest = u64::MAX;
    let mut fitting = u64::MAX;
    for limit in limits.iter().filter(|limit| !limit.shadow) {
        let size = u64::from(limit.size.get());
        let for_answer = match limit.dimension.measure() {
            Measure::Tokens => size.saturating_sub(input),
            Measure::OutputTokens => size,
            Measure::InputTokens | Measure::Requests | Measure::Concurrent => continue,
        };
        tightest = tightest.min(size);
        fitting = fitting.min(for_answer);
    }
    let mean = learnt.unwrap_or_else(|| FIRST_MEAN.min((tightest / 4).max(1)));
    mean.min(fitting / choices.max(1))
}

/// `team "research" has used 84 % of 50.00 USD a month`, its name as far as a header can say it.
fn warning_header(balance: &Balance) -> Option<HeaderValue> {
    let text = format!(
        "{} {:?} has used {} % of {}",
        balance.holder.kind(),
        balance.holder.name(),
        balance.percent(),
        balance.budget
    );
    HeaderValue::try_from(text).ok()
}
