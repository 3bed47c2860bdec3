//! How the books are, for the metrics.

use jiff::Timestamp;

use crate::metrics::{LedgerState, Metrics, SharedState};
use crate::store::budgets::{Budgets, Limit};
use crate::store::ledger::Ledger;
use crate::store::limits::Shared;

/// Brings the gauges of the ledger and of budgets up to date.
pub(super) fn observe(metrics: &Metrics, ledger: &Ledger, budgets: &Budgets) {
    let state = ledger.snapshot();
    metrics.set_ledger(&LedgerState {
        failing: state.failing,
        rows: state.rows,
        commits: state.commits,
        failures: state.failures,
        owed: state.owed,
        given_up: state.given_up,
        left_out: state.left_out,
        interrupted: state.interrupted,
    });
    metrics.forget_budgets();
    for balance in budgets.balances(Timestamp::now()) {
        let unit = match balance.budget.limit {
            Limit::Money(_) => "usd",
            Limit::Tokens(_) => "tokens",
        };
        let (holder, name) = (balance.holder.kind(), balance.holder.name());
        metrics.set_budget(
            [holder, name, unit, balance.budget.per.as_str()],
            balance.percent(),
        );
    }
}

/// Brings the metrics of shared limits up to date.
pub(super) fn observe_shared(metrics: &Metrics, shared: &Shared) {
    let redis = shared.redis();
    let (alone, lost) = shared.counts();
    metrics.set_shared_limits(&SharedState {
        up: redis.up,
        calls: redis.calls,
        failures: redis.failures,
        outages: redis.outages,
        alone,
        lost,
    });
}
