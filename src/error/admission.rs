//! What it means when a call is turned away for what it would use.

use std::time::Duration;

use jiff::Timestamp;

use super::explain;
use crate::middleware::admission::AdmissionError;
use crate::middleware::explain::Explanation;
use crate::money::Nanos;
use crate::store::budgets::{Limit, Spent};

/// How long a client stays away from a budget that comes back bit by bit, or never.
const BUDGET_RETRY: Duration = Duration::from_secs(3600);

pub(super) fn admission(error: &AdmissionError) -> Explanation {
    match error {
        AdmissionError::Spent(spent) => budget(spent, Timestamp::now()),
    }
}

fn budget(spent: &Spent, now: Timestamp) -> Explanation {
    let used = match spent.budget.limit {
        Limit::Money(_) => format!("{} USD", Nanos::new(spent.used)),
        Limit::Tokens(_) => format!("{} tokens", spent.used),
    };
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
    let wait = spent.renewed.map_or(BUDGET_RETRY, |time| {
        Duration::try_from(time.duration_since(now)).unwrap_or(Duration::from_secs(1))
    });
    explain(
        429,
        "insufficient_quota",
        "insufficient_quota",
        "policy_budget",
        format!("The budget of the {kind} `{name}` ({budget}) is spent: {state}.{renewed}"),
    )
    .retry_after(wait)
    .final_word()
}
