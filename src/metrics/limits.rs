//! The metrics of limits and budgets: who was refused, and how near each of them is.

use std::collections::HashSet;

use prometheus::{Gauge, IntCounter};

use super::declare::Declare;
use super::family::Family;
use super::{Metrics, NONE};

/// The metrics of limits and budgets.
pub(super) struct Bounds {
    limit_used: Family<Gauge, 5>,
    limit_refusals: Family<IntCounter, 4>,
    budget_used: Family<Gauge, 4>,
    budget_used_dollars: Family<Gauge, 3>,
    budget_limit_dollars: Family<Gauge, 3>,
    budget_used_tokens: Family<Gauge, 3>,
    budget_limit_tokens: Family<Gauge, 3>,
    budget_refusals: Family<IntCounter, 4>,
}

/// How near a limit is.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitState {
    /// `key`, `team`, `route` or `gateway`.
    pub holder: &'static str,
    /// The holder's name; the gateway has none.
    pub name: Option<String>,
    /// What it counts.
    pub dimension: &'static str,
    /// The patterns of the models whose calls count; empty: all.
    pub models: String,
    /// Whether it refuses nothing.
    pub shadow: bool,
    /// How much of what may come at once is taken, from 0 to 1.
    pub used: f64,
}

/// Which budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BudgetLabels<'a> {
    /// `key` or `team`.
    pub holder: &'static str,
    /// Its name.
    pub name: &'a str,
    /// Whether it is of money, not of tokens.
    pub is_money: bool,
    /// `day`, `month`, `rolling day`, `rolling month` or `total`.
    pub per: &'static str,
}

/// What is used of a budget, in dollars or tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BudgetState<'a> {
    /// Which.
    pub labels: BudgetLabels<'a>,
    /// What is used of it.
    pub used: f64,
    /// Its size.
    pub limit: f64,
}

impl Bounds {
    pub(super) fn new(declare: &mut Declare) -> Result<Self, prometheus::Error> {
        let budget = ["holder", "name", "per"];
        Ok(Self {
            limit_used: declare.levels(
                "weir_limit_used_ratio",
                "How much of a limit is taken, of what may come at once: 1 has no room left.",
                ["holder", "name", "dimension", "models", "mode"],
            )?,
            limit_refusals: declare.counters(
                "weir_limit_refusals_total",
                "Calls that a limit had no room for, by whose limit it is and what it counts; those of mode shadow were let in all the same.",
                ["holder", "name", "dimension", "mode"],
            )?,
            budget_used: declare.levels(
                "weir_budget_used_ratio",
                "How much of a budget is used; it may pass 1 by what was under way. per is day, month, rolling day, rolling month or total.",
                ["holder", "name", "unit", "per"],
            )?,
            budget_used_dollars: declare.levels(
                "weir_budget_used_dollars",
                "US dollars used of a budget of money.",
                budget,
            )?,
            budget_limit_dollars: declare.levels(
                "weir_budget_limit_dollars",
                "The size of a budget of money, in US dollars.",
                budget,
            )?,
            budget_used_tokens: declare.levels(
                "weir_budget_used_tokens",
                "Tokens used of a budget of tokens.",
                budget,
            )?,
            budget_limit_tokens: declare.levels(
                "weir_budget_limit_tokens",
                "The size of a budget of tokens.",
                budget,
            )?,
            budget_refusals: declare.counters(
                "weir_budget_refusals_total",
                "Calls that a budget had no room for.",
                ["holder", "name", "unit", "per"],
            )?,
        })
    }
}

impl BudgetLabels<'_> {
    fn unit(&self) -> &'static str {
        if self.is_money { "usd" } else { "tokens" }
    }
}

impl Metrics {
    /// Counts a call that a limit had no room for: `holder` is `key`, `team`, `route` or `gateway`.
    pub fn limit_refused(
        &self,
        holder: &'static str,
        name: Option<&str>,
        dimension: &'static str,
        shadow: bool,
    ) {
        let labels = [holder, name.unwrap_or(NONE), dimension, mode(shadow)];
        self.bounds.limit_refusals.with(labels).inc();
    }

    /// Counts a call that a budget had no room for.
    pub fn budget_refused(&self, budget: &BudgetLabels<'_>) {
        let labels = [budget.holder, budget.name, budget.unit(), budget.per];
        self.bounds.budget_refusals.with(labels).inc();
    }

    /// Notes how near limits are: these are all there are.
    pub fn set_limits(&self, states: &[LimitState]) {
        let gauges = &self.bounds.limit_used;
        let mut there = HashSet::with_capacity(states.len());
        for state in states {
            let name = state.name.as_deref().unwrap_or(NONE);
            let models = match &*state.models {
                "" => "*",
                models => models,
            };
            let mode = mode(state.shadow);
            let labels = [state.holder, name, state.dimension, models, mode];
            match gauges.find_or_make(labels) {
                Some(gauge) => gauge.set(state.used),
                None => gauges.note_folded(),
            }
            there.insert(labels);
        }
        gauges.keep(|labels| there.contains(&labels));
    }

    /// Notes how near budgets are: these are all there are.
    pub fn set_budgets(&self, states: &[BudgetState<'_>]) {
        let bounds = &self.bounds;
        let mut all = HashSet::with_capacity(states.len());
        for state in states {
            let BudgetState {
                labels,
                used,
                limit,
            } = *state;
            let whole = [labels.holder, labels.name, labels.unit(), labels.per];
            all.insert(whole);
            match bounds.budget_used.find_or_make(whole) {
                Some(gauge) => gauge.set(if limit > 0.0 { used / limit } else { 1.0 }),
                None => bounds.budget_used.note_folded(),
            }
            let (used_gauges, limit_gauges) = match labels.is_money {
                true => (&bounds.budget_used_dollars, &bounds.budget_limit_dollars),
                false => (&bounds.budget_used_tokens, &bounds.budget_limit_tokens),
            };
            for (gauges, value) in [(used_gauges, used), (limit_gauges, limit)] {
                match gauges.find_or_make([labels.holder, labels.name, labels.per]) {
                    Some(gauge) => gauge.set(value),
                    None => gauges.note_folded(),
                }
            }
        }
        bounds.budget_used.keep(|labels| all.contains(&labels));
        for (gauges, unit) in [
            (&bounds.budget_used_dollars, "usd"),
            (&bounds.budget_limit_dollars, "usd"),
            (&bounds.budget_used_tokens, "tokens"),
            (&bounds.budget_limit_tokens, "tokens"),
        ] {
            gauges.keep(|[holder, name, per]| all.contains(&[holder, name, unit, per]));
        }
    }
}

fn mode(shadow: bool) -> &'static str {
    if shadow { "shadow" } else { "refuse" }
}
