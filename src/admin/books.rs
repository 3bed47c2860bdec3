//! How the books are, for the metrics.

use jiff::Timestamp;

use crate::metrics::{BudgetLabels, BudgetState, LedgerState, LimitState, Metrics, SharedState};
use crate::store::budgets::{Budgets, Limit};
use crate::store::ledger::Ledger;
use crate::store::limits::{Headroom, Shared};

/// Nano-dollars in a dollar.
const DOLLAR: f64 = 1e9;

/// Brings the gauges of the ledger and of budgets up to date.
pub(super) fn observe(metrics: &Metrics, ledger: &Ledger, budgets: &Budgets) {
    let state = ledger.snapshot();
    let (open, max_open) = ledger.places();
    metrics.set_ledger(&LedgerState {
        failing: state.failing,
        open: open as u64,
        max_open: max_open as u64,
        bytes: ledger.file_size().unwrap_or_default(),
        rows: state.rows,
        commits: state.commits,
        failures: state.failures,
        owed: state.owed,
        given_up: state.given_up,
        left_out: state.left_out,
        interrupted: state.interrupted,
    });
    let balances = budgets.balances(Timestamp::now());
    let states = balances.iter().map(|balance| {
        let is_money = matches!(balance.budget.limit, Limit::Money(_));
        let unit = if is_money { DOLLAR } else { 1.0 };
        BudgetState {
            labels: BudgetLabels {
                holder: balance.holder.kind(),
                name: balance.holder.name(),
                is_money,
                per: balance.budget.time(),
            },
            used: balance.used as f64 / unit,
            limit: balance.budget.size() as f64 / unit,
        }
    });
    metrics.set_budgets(&states.collect::<Vec<_>>());
}

/// Brings the gauges of limits up to date.
pub(super) fn observe_limits(metrics: &Metrics, limits: &[Headroom]) {
    let states = limits.iter().map(|room| {
        let models: Vec<_> = room.models.iter().map(|model| model.as_str()).collect();
        LimitState {
            holder: room.holder.kind(),
            name: room.holder.name().map(|name| name.to_string()),
            dimension: room.dimension.as_str(),
            models: models.join(","),
            shadow: room.shadow,
            used: room.used_ratio(),
        }
    });
    metrics.set_limits(&states.collect::<Vec<_>>());
}

/// Brings the metrics of shared limits up to date.
pub(super) fn observe_shared(metrics: &Metrics, shared: &Shared) {
    let redis = shared.redis();
    let (alone, lost) = shared.counts();
    metrics.set_shared_limits(&SharedState {
        up: redis.up,
        calls: redis.calls,
        waited: redis.waited,
        failures: redis.failures,
        outages: redis.outages,
        alone,
        lost,
    });
}
