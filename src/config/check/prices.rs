//! Budgets in money, and what has no price.

use std::collections::HashMap;

use super::super::file::{Key, Team};
use super::super::problem::At;
use super::super::reader::{Reader, quote};
use super::super::types::{BudgetConfig, BudgetLimit, Config, RouteConfig};
use crate::pattern::{Pattern, most_specific};
use crate::prices::Prices;

/// How many models are told.
const TOLD: usize = 5;

/// Where the names of teams and keys stand, by kind and name.
pub(super) type Places = HashMap<(&'static str, String), usize>;

/// Returns where the names of teams and keys stand.
pub(super) fn places(teams: &[Team], keys: &[Key]) -> Places {
    let teams = teams.iter().map(|team| ("team", &team.name));
    let keys = keys.iter().map(|key| ("key", &key.name));
    let places = teams.chain(keys).filter_map(|(kind, name)| {
        let name = name.as_ref()?;
        Some(((kind, name.value.clone()), name.at.offset?))
    });
    places.collect()
}

/// Doubts budgets in money whose holders can use models without a price: what those use counts as nothing there.
pub(super) fn unpriced(config: &Config, places: &Places, reader: &mut Reader<'_>) {
    let teams = config.teams.iter().map(|team| {
        let own = vec![team.models.as_slice()];
        ("team", &team.name, own, team.budgets.as_slice())
    });
    let keys = config.keys.iter().map(|key| {
        let team = config.teams.iter();
        let mut team = team.filter(|team| key.team.as_ref() == Some(&team.name));
        let mut lists = vec![key.models.as_slice()];
        lists.extend(team.next().map(|team| team.models.as_slice()));
        ("key", &key.name, lists, key.budgets.as_slice())
    });
    for (kind, name, lists, budgets) in teams.chain(keys) {
        if !budgets.iter().any(is_money) {
            continue;
        }
        let models = without_price(config, &lists);
        if models.is_empty() {
            continue;
        }
        let at = At {
            path: format!("{kind}[{name}].budgets"),
            offset: places.get(&(kind, name.clone())).copied(),
        };
        let told: Vec<String> = models.iter().take(TOLD).map(|model| quote(model)).collect();
        let more = match models.len().checked_sub(TOLD) {
            None | Some(0) => String::new(),
            Some(more) => format!(" and {more} more"),
        };
        let message = format!(
            "money bounds no use of models without a price, which counts as nothing: {}{more}; write their prices into a file for [ledger] `prices` (0 for what is free), or a budget of tokens beside it",
            told.join(", ")
        );
        reader.warning(&at, message);
    }
}

fn is_money(budget: &BudgetConfig) -> bool {
    matches!(budget.limit, BudgetLimit::Money(_))
}

/// Returns the models without a price that all of these lists have, as far as the configuration names them.
fn without_price<'c>(config: &'c Config, lists: &[&'c [Pattern]]) -> Vec<&'c str> {
    let routes = config.routes.iter().map(|route| &route.model);
    let served = config
        .upstreams
        .iter()
        .flat_map(|upstream| &upstream.models);
    let allowed = lists.iter().copied().flatten();
    let mut found: Vec<&str> = Vec::new();
    for model in routes.chain(served).chain(allowed) {
        let is_allowed = lists
            .iter()
            .all(|list| list.iter().any(|pattern| pattern.overlaps(model)));
        let name = model.as_str();
        if is_allowed && !found.contains(&name) && has_no_price(config, model) {
            found.push(name);
        }
    }
    found
}

/// Returns whether a model, or every model that a pattern can stand for, goes somewhere and has no price there.
fn has_no_price(config: &Config, model: &Pattern) -> bool {
    let prices = &config.ledger.prices;
    match route(config, model) {
        Some(route) => {
            let mut targets = route.targets.iter();
            is_priceless(prices, model)
                && targets.any(|target| match &target.model {
                    Some(name) => prices.of(name).is_none(),
                    None => true,
                })
        }
        None => {
            let mut served = config
                .upstreams
                .iter()
                .flat_map(|upstream| &upstream.models);
            served.any(|pattern| pattern.covers(model)) && is_priceless(prices, model)
        }
    }
}

fn route<'c>(config: &'c Config, model: &Pattern) -> Option<&'c RouteConfig> {
    let routes = config.routes.iter().map(|route| (&route.model, route));
    // A pattern covers another by matching its text.
    most_specific(routes, model.as_str())
}

fn is_priceless(prices: &Prices, model: &Pattern) -> bool {
    let tables = prices.tables().iter();
    let mut patterns = tables.flat_map(|table| &table.prices);
    !patterns.any(|(pattern, _)| pattern.overlaps(model))
}
