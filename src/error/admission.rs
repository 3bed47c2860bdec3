//! What it means when a call is turned away for what it would use.

use std::time::Duration;

use jiff::Timestamp;

use super::{cut, explain};
use crate::call::Cause;
use crate::middleware::admission::AdmissionError;
use crate::middleware::explain::Explanation;
use crate::money::Nanos;
use crate::store::budgets::{Limit, Spent};
use crate::store::limits::{Holder, Measure, Refusal, Spelled};

/// How long a client stays away from a budget that comes back bit by bit, and with a call that no limit will ever have
/// room for.
const LONG: Duration = Duration::from_secs(3600);
/// How long a client waits for what is shared by gateways to be back.
const SOON: Duration = Duration::from_secs(1);
/// How many of a limit's patterns are told.
const TOLD_MODELS: usize = 8;

pub(super) fn admission(error: &AdmissionError) -> Explanation {
    match error {
        AdmissionError::Limited(refusal) => limit(refusal),
        AdmissionError::Spent(spent) => budget(spent, Timestamp::now()),
        AdmissionError::Away => explain(
            503,
            "server_error",
            "limits_unavailable",
            Cause::GatewayLimits,
            "The limits of this request cannot be checked at the moment. Try again in a moment."
                .to_owned(),
        )
        .retry_after(SOON),
    }
}

fn limit(refusal: &Refusal) -> Explanation {
    let kind = match refusal.dimension.measure() {
        Measure::Requests => "requests",
        Measure::Tokens | Measure::InputTokens | Measure::OutputTokens => "tokens",
        Measure::Concurrent => "concurrency",
    };
    let holder = match &refusal.holder {
        Holder::Gateway => "the gateway".to_owned(),
        Holder::Key(name) | Holder::Team(name) | Holder::Route(name) => {
            format!("the {} `{}`", refusal.holder.kind(), cut(name))
        }
    };
    let models = refusal.models.iter().take(TOLD_MODELS);
    let models: Vec<_> = models.map(|model| cut(model.as_str())).collect();
    let models = match models.is_empty() {
        true => String::new(),
        false => format!(" of {}", models.join(", ")),
    };
    let Refusal {
        size, wanted, left, ..
    } = refusal;
    let limit = format!("{size} {}{models}", refusal.dimension.words());
    let explanation = |message| {
        explain(
            429,
            kind,
            "rate_limit_exceeded",
            Cause::PolicyLimit,
            message,
        )
        .detail(refusal.to_string())
    };
    match refusal.retry_after {
        Some(wait) => {
            let when = Spelled(wait);
            explanation(format!(
                "Rate limit reached for {holder}: {limit}; {left} left, {wanted} wanted. Try again in {when}."
            ))
            .retry_after(wait)
        }
        None => explanation(format!(
            "Rate limit too small for this request: {holder} has {limit}, and {wanted} are wanted at once. Waiting does not help; send a shorter prompt, or ask for fewer tokens."
        ))
        .retry_after(LONG)
        .final_word(),
    }
}

fn budget(spent: &Spent, now: Timestamp) -> Explanation {
    let worded = |amount| match spent.budget.limit {
        Limit::Money(_) => format!("{} USD", Nanos::new(amount)),
        Limit::Tokens(_) => format!("{amount} tokens"),
    };
    let used = worded(spent.used);
    let (kind, name, budget) = (spent.holder.kind(), spent.holder.name(), spent.budget);
    let state = match spent.is_used_up {
        true => format!("{used} are used"),
        false => format!(
            "{used} are used, and with what is under way this request does not fit any more"
        ),
    };
    let renewed = match spent.renewed {
        Some(time) => format!(" It begins anew at {time}."),
        None => String::new(),
    };
    let message = match spent.is_too_large {
        true => format!(
            "This request can never fit the budget of the {kind} `{name}` ({budget}), used or not: {} are reserved for it. Waiting does not help; send a shorter prompt, or ask for fewer tokens by `max_tokens`.",
            worded(spent.wanted)
        ),
        false => {
            format!("The budget of the {kind} `{name}` ({budget}) is spent: {state}.{renewed}")
        }
    };
    let renewed = spent.renewed.filter(|_| !spent.is_too_large);
    let wait = renewed.map_or(LONG, |time| {
        Duration::try_from(time.duration_since(now)).unwrap_or(Duration::from_secs(1))
    });
    explain(
        429,
        "insufficient_quota",
        "insufficient_quota",
        Cause::PolicyBudget,
        message,
    )
    .retry_after(wait)
    .final_word()
}
