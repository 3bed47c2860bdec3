//! Who is let in, and with how much room.

use std::sync::Arc;

use http::HeaderValue;
use jiff::Timestamp;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::room::{Kept, of_budgets, of_limits};
use super::{AdmissionError, Rules, Ways};
use crate::call::{Allowance, Allowances, Call, Caller, Estimate, Priced, Record};
use crate::metrics::BudgetLabels;
use crate::openai::endpoint::Endpoint;
use crate::openai::usage::Usage;
use crate::store::budgets::{Balance, Charge, Limit, Spent};
use crate::store::limits::{
    Amount, Denied, Headroom, Hold, Measure, Refusal, SharedAdmitted, SharedDenied, Time, Who,
    tightest_requests, tightest_tokens,
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
pub struct Whose {
    caller: Arc<Caller>,
    route: Option<Arc<str>>,
    model: Option<Arc<str>>,
    /// Whether it counts towards budgets, too.
    pub(super) is_charged: bool,
}

/// What a call is expected to use, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// What it is expected to use, all choices together.
    pub estimate: Estimate,
    /// How many answers are asked for at once.
    pub choices: u64,
    /// What is known of the length of an answer.
    pub basis: Basis,
}

/// What is known of the length of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Nothing is generated.
    NoAnswer,
    /// The client says how long it may be.
    MaxTokens,
    /// What this key's answers of this model had before.
    Learnt,
    /// Nothing: it is guessed, and no more than the limits allow.
    Guess,
}

/// When it is: for limits, and by the calendar for budgets.
#[derive(Clone, Copy)]
pub(super) struct Now {
    pub(super) time: Time,
    pub(super) date: Timestamp,
}

impl Whose {
    /// Returns whose limits a call counts towards that goes these ways.
    pub fn of(call: &Call, ways: &dyn Ways) -> Self {
        let route = |model: &Arc<str>| ways.label(model);
        Self {
            caller: Arc::clone(&call.caller),
            route: call.routed_model().and_then(route),
            model: call.model.clone(),
            is_charged: !call.endpoint.is_listing(),
        }
    }

    /// Notes the way of the call's model, where it has one: by that the model is told in metrics.
    pub(super) fn note_route(&self, record: &Record) {
        if let Some(route) = &self.route {
            record.facts().route = Some(Arc::clone(route));
        }
    }

    pub(super) fn who(&self) -> Who<'_> {
        Who {
            key: &self.caller.key,
            team: self.caller.team.as_deref(),
            route: self.route.as_deref(),
            model: self.model.as_deref(),
        }
    }
}

/// What is left of each limit, as those told who count them elsewhere. `None`: they are counted here, and can be looked at
/// when it matters.
pub(super) type Left = Option<Vec<Headroom>>;

/// What there is to tell of a call that is let in.
pub(super) struct Admitted {
    /// What its client is to be warned of.
    pub(super) warning: Option<HeaderValue>,
    pub(super) left: Left,
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
    /// Keeps room for a call.
    pub(super) async fn admit(
        self: &Arc<Self>,
        call: &mut Call,
        whose: &Whose,
    ) -> Result<Admitted, (AdmissionError, Left)> {
        let now = Now::read();
        let who = whose.who();
        // A list of models is charged to nobody, and uses no tokens. It is a request all the same: each asks every upstream.
        // So is what is answered already, and neither limits of tokens nor budgets have a say in it.
        let uses_nothing = call.endpoint.is_listing() || call.is_answered();
        if !uses_nothing {
            call.upstream = self.ways.only_upstream(call);
            let forecast = self.forecast(call, &who, now.time);
            call.estimate = forecast.map(|forecast| forecast.estimate);
        }
        let reserved = call.estimate.map(|estimate| estimate.reserved);
        let amount = of_limits_or_unknown(call, reserved.as_ref());
        let Rules {
            limits, budgets, ..
        } = &*self.rules;
        let Caller { key, team, .. } = &*call.caller;
        let entered = call.estimate.map(|estimate| of_budgets(&estimate.likely));
        let of_budgets = reserved.as_ref().map(of_budgets).unwrap_or_default();
        let charge = (!uses_nothing).then_some(Charge {
            key,
            team: team.as_ref(),
            amount: of_budgets,
            at: now.date,
        });
        let (hold, budgets, shadow, left) = match &self.rules.shared {
            None => match limits.admit(&who, &amount, now.time, || budgets.charge(charge)) {
                Ok(admitted) => {
                    let hold = Hold::Here(admitted.reservation);
                    (hold, admitted.also, admitted.shadow, None)
                }
                Err(denied) => return Err((self.denied(denied), None)),
            },
            Some(shared) => match shared.admit(&who, &amount, charge).await {
                Ok(SharedAdmitted {
                    hold,
                    budgets,
                    shadow,
                    left,
                }) => (hold, budgets, shadow, Some(left)),
                Err(SharedDenied::Away) => return Err((AdmissionError::Away, Some(Vec::new()))),
                Err(SharedDenied::Denied { denied, left }) => {
                    return Err((self.denied(denied), Some(left)));
                }
            },
        };
        for refusal in &shadow {
            self.count(refusal, true);
        }
        let warning = budgets.as_ref().and_then(|budgets| budgets.warning());
        let warning = warning.as_ref().and_then(warning_header);
        call.room = Some(Box::new(Kept {
            desk: Arc::clone(self),
            model: call.model.clone(),
            limits: hold,
            budgets,
            entered: entered.unwrap_or_default(),
            reserved: amount,
            is_spent: false,
        }));
        Ok(Admitted { warning, left })
    }

    fn denied(&self, denied: Denied<Box<Spent>>) -> AdmissionError {
        match denied {
            Denied::Limit(refusal) => {
                self.count(&refusal, false);
                AdmissionError::Limited(refusal)
            }
            Denied::Other(spent) => {
                self.rules.metrics.budget_refused(&BudgetLabels {
                    holder: spent.holder.kind(),
                    name: spent.holder.name(),
                    is_money: matches!(spent.budget.limit, Limit::Money(_)),
                    per: spent.budget.time(),
                });
                AdmissionError::Spent(spent)
            }
        }
    }

    fn count(&self, refusal: &Refusal, shadow: bool) {
        let name = refusal.holder.name().map(|name| &**name);
        let (holder, dimension) = (refusal.holder.kind(), refusal.dimension.as_str());
        let metrics = &self.rules.metrics;
        metrics.limit_refused(holder, name, dimension, shadow);
    }

    /// Notes what a client may still do.
    pub(super) fn note(&self, whose: &Whose, left: Left, record: &Record) {
        let left = left.unwrap_or_else(|| self.rules.limits.headroom(&whose.who(), Time::now()));
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
    pub(super) fn forecast(&self, call: &Call, who: &Who<'_>, now: Time) -> Option<Forecast> {
        let (bytes, members) = call.json()?;
        let input = tokens::prompt(None, &call.endpoint, bytes);
        let only_read = Usage {
            input,
            ..Usage::default()
        };
        if call.endpoint == Endpoint::Embeddings {
            let read = self.priced(call.model.as_deref(), only_read);
            return Some(Forecast {
                estimate: Estimate {
                    likely: read,
                    reserved: read,
                },
                choices: 0,
                basis: Basis::NoAnswer,
            });
        }
        let model = call.model.as_ref()?;
        let learnt = self.rules.means.learnt(&call.caller.key, model);
        let choices = match call.endpoint {
            Endpoint::Completions => members.generated_choices(bytes),
            _ => members.choices(bytes),
        };
        let with = |output: u64| {
            let usage = Usage {
                output: output.saturating_mul(choices),
                ..only_read
            };
            self.priced(Some(model), usage)
        };
        let (estimate, basis) = match members.max_tokens(bytes) {
            Some(most) => (
                Estimate {
                    likely: with(most.min(learnt.unwrap_or(FIRST_MEAN))),
                    reserved: with(most),
                },
                Basis::MaxTokens,
            ),
            None => {
                let limits = self.rules.limits.headroom(who, now);
                let mean = expected(learnt, input, choices, &limits);
                let mean = with(self.held(call, mean, learnt.is_some(), &with));
                let estimate = Estimate {
                    likely: mean,
                    reserved: mean,
                };
                (estimate, learnt.map_or(Basis::Guess, |_| Basis::Learnt))
            }
        };
        Some(Forecast {
            estimate,
            choices,
            basis,
        })
    }

    /// Returns what is expected of a choice, less where a budget could not hold it: one that is known from experience
    /// whole, a first guess four times. It is a guess too.
    fn held(
        &self,
        call: &Call,
        mut mean: u64,
        is_learnt: bool,
        with: &dyn Fn(u64) -> Priced,
    ) -> u64 {
        let Caller { key, team, .. } = &*call.caller;
        let times = if is_learnt { 1 } else { 4 };
        let could_hold = |mean| {
            let amount = of_budgets(&with(mean));
            let budgets = &self.rules.budgets;
            budgets.could_hold(key, team.as_ref(), &amount, times)
        };
        while mean > 1 && !could_hold(mean) {
            mean /= 2;
        }
        mean
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

/// Returns what is reserved of limits for a call, and where nobody can tell what it may use, enough to wait for room.
pub(super) fn of_limits_or_unknown(call: &Call, reserved: Option<&Priced>) -> Amount {
    match reserved {
        Some(reserved) => of_limits(reserved),
        None if call.endpoint.is_listing() || call.is_answered() || is_free(call) => {
            Amount::default()
        }
        None => UNKNOWN,
    }
}

/// Returns whether a call that passes through can use no tokens.
fn is_free(call: &Call) -> bool {
    call.head.method.is_safe() && call.upgrade.is_none()
}

/// Returns how many tokens a choice is expected to have where the client does not say: what was learnt, else a quarter of
/// the tightest limit. It is a guess, and a guess alone never makes a call one that can never be let in; but each choice
/// has a token at least, which is no guess.
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
    mean.min((fitting / choices.max(1)).max(1)).min(fitting)
}

/// What a name in quotes cannot have in a header that every client can read.
const UNQUOTABLE: &AsciiSet = &CONTROLS.add(b'"').add(b'%').add(b'\\');

/// `team "research" has used 84 % of 50.00 USD a month`, its name percent-encoded where it is more than ASCII.
fn warning_header(balance: &Balance) -> Option<HeaderValue> {
    let text = format!(
        "{} \"{}\" has used {} % of {}",
        balance.holder.kind(),
        utf8_percent_encode(balance.holder.name(), UNQUOTABLE),
        balance.percent(),
        balance.budget
    );
    HeaderValue::try_from(text).ok()
}
