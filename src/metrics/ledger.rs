//! The metrics of the books: what was charged, how the ledger is, how near the budgets are.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::{Metrics, NONE, counter, counters, gauge, gauges};
use crate::money::Nanos;

/// The metrics of the books.
pub(super) struct Books {
    cost: IntCounterVec,
    unpriced: IntCounterVec,
    refused_usage: IntCounterVec,
    budget_used: IntGaugeVec,
    failing: IntGauge,
    owed: IntGauge,
    given_up: IntCounter,
    left_out: IntCounter,
    rows: IntGauge,
    commits: IntGauge,
    failures: IntCounter,
    interrupted: IntGauge,
}

/// How the ledger is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerState {
    /// Whether nothing can be written.
    pub failing: bool,
    /// Settled rows written since the start.
    pub rows: u64,
    /// Commits since the start.
    pub commits: u64,
    /// Commits that failed since the start.
    pub failures: u64,
    /// Settled rows that could not be written yet.
    pub owed: u64,
    /// Settled rows that the file refused for what is in them.
    pub given_up: u64,
    /// Refused requests that were not written down.
    pub left_out: u64,
    /// Rows of dead processes that were settled at the start.
    pub interrupted: u64,
}

impl Books {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            cost: counters(
                registry,
                "weir_cost_nanodollars_total",
                "What requests cost, in billionths of a US dollar, as far as prices are known.",
                &["key", "model"],
            )?,
            unpriced: counters(
                registry,
                "weir_unpriced_requests_total",
                "Requests that used tokens of a model whose price is not known.",
                &["key", "model"],
            )?,
            refused_usage: counters(
                registry,
                "weir_usage_refused_total",
                "Usage objects of upstreams that count nothing, or the impossible, by what is wrong.",
                &["reason"],
            )?,
            budget_used: gauges(
                registry,
                "weir_budget_used_percent",
                "How much of a budget is used, in percent.",
                &["holder", "name", "unit", "per"],
            )?,
            failing: gauge(
                registry,
                "weir_ledger_failing",
                "1 when the ledger could not be written when that was last tried; that another program holds it is no failure for ten seconds.",
            )?,
            owed: gauge(
                registry,
                "weir_ledger_owed_rows",
                "Rows that wait in memory until the ledger can be written.",
            )?,
            given_up: counter(
                registry,
                "weir_ledger_given_up_rows_total",
                "Rows that the ledger's file refused for what is in them: they are lost.",
            )?,
            left_out: counter(
                registry,
                "weir_ledger_left_out_rows_total",
                "Refused requests that were not written down, since their keys had been refused so often.",
            )?,
            rows: gauge(
                registry,
                "weir_ledger_rows",
                "Rows settled since the start.",
            )?,
            commits: gauge(
                registry,
                "weir_ledger_commits",
                "Commits since the start; each holds the rows that waited for it.",
            )?,
            failures: counter(
                registry,
                "weir_ledger_failures_total",
                "Commits that failed.",
            )?,
            interrupted: gauge(
                registry,
                "weir_ledger_interrupted_rows",
                "Rows that a process which died had left open, settled at the start.",
            )?,
        })
    }
}

impl Metrics {
    /// Counts what a request cost; `None`: its price is not known.
    pub fn charged(&self, key: &str, model: Option<&str>, cost: Option<Nanos>) {
        let labels = [key, model.unwrap_or(NONE)];
        match cost {
            Some(cost) => self
                .books
                .cost
                .with_label_values(&labels)
                .inc_by(cost.get()),
            None => self.books.unpriced.with_label_values(&labels).inc(),
        }
    }

    /// Counts a usage object that is not believed.
    pub fn usage_refused(&self, reason: &'static str) {
        self.books.refused_usage.with_label_values(&[reason]).inc();
    }

    /// Notes how the ledger is.
    pub fn set_ledger(&self, state: &LedgerState) {
        let set =
            |gauge: &IntGauge, number: u64| gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
        let books = &self.books;
        books.failing.set(i64::from(state.failing));
        set(&books.owed, state.owed);
        set(&books.rows, state.rows);
        set(&books.commits, state.commits);
        set(&books.interrupted, state.interrupted);
        let raise = |counter: &IntCounter, to: u64| {
            counter.inc_by(to.saturating_sub(counter.get()));
        };
        raise(&books.failures, state.failures);
        raise(&books.given_up, state.given_up);
        raise(&books.left_out, state.left_out);
    }

    /// Forgets the budgets, before those that there are now are noted.
    pub fn forget_budgets(&self) {
        self.books.budget_used.reset();
    }

    /// Notes how much of a budget is used: `labels` are `key` or `team`, its name, `usd` or `tokens`, and the period.
    pub fn set_budget(&self, labels: [&str; 4], percent: u64) {
        let percent = i64::try_from(percent).unwrap_or(i64::MAX);
        let gauge = self.books.budget_used.with_label_values(&labels);
        gauge.set(percent);
    }
}
