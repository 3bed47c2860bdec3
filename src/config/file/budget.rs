//! `budgets` of teams and keys.

use super::super::defaults;
use super::super::reader::{Field, Reader, Table, Text, quote};
use super::super::types::{BudgetConfig, BudgetLimit, Period, Window};
use crate::money::Nanos;

/// More than all models together generate in a year.
const MOST_TOKENS: u64 = 1_000_000_000_000_000;
/// A share of less is none.
const SMALLEST_SHARE: f64 = 0.001;

const BUDGET: &str =
    "`{ amount = \"50 USD\", per = \"month\" }` or `{ tokens = 5_000_000, per = \"day\" }`";
const AMOUNT: &str = "an amount of US dollars such as \"50 USD\"";

/// Reads `budgets`. None, and an empty array, are no budgets.
pub(super) fn budgets(parent: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> Vec<BudgetConfig> {
    let Some(field) = parent.field("budgets") else {
        return Vec::new();
    };
    let mut budgets: Vec<BudgetConfig> = Vec::new();
    for element in reader.elements(&field) {
        let at = element.at.clone();
        let Some(budget) = budget(element, reader) else {
            continue;
        };
        if budgets.iter().any(|other| other.is_like(&budget)) {
            let message = "has the same kind, `per` and `window` as a budget before it; write the smaller one alone";
            reader.error(&at, message);
        }
        budgets.push(budget);
    }
    budgets
}

fn budget(element: Field<'_, '_>, reader: &mut Reader<'_>) -> Option<BudgetConfig> {
    let table = &mut reader.as_table(element)?;
    let limit = limit(table, reader);
    let periods = [
        ("day", Period::Day),
        ("month", Period::Month),
        ("total", Period::Total),
    ];
    let windows = [("calendar", Window::Calendar), ("rolling", Window::Rolling)];
    if !table.has("per") {
        let at = table.at.clone();
        reader.error(
            &at,
            "`per` is missing; write `per = \"month\"`, \"day\" or \"total\"",
        );
    }
    let per = reader.choice(table, "per", &periods);
    let window = reader.choice(table, "window", &windows);
    if per == Some(Period::Total) && window == Some(Window::Rolling) {
        let at = table.name_at("window");
        reader.error(
            &at,
            "a total never starts anew, so that nothing rolls; write `per = \"day\"` or \"month\", or leave `window` out",
        );
    }
    let warn_at = reader.fraction(table, "warn_at", defaults::WARN_AT, SMALLEST_SHARE..=1.0);
    reader.finish(table);
    Some(BudgetConfig {
        limit: limit?,
        per: per?,
        window: window.unwrap_or_default(),
        // Within the bounds above it is a whole number from 1 to 1000.
        warn_at_thousandths: (warn_at * 1000.0).round() as u32,
    })
}

fn limit(table: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> Option<BudgetLimit> {
    let at = table.at.clone();
    let found = reader.found.len();
    match (table.field("amount"), table.has("tokens")) {
        (Some(field), false) => {
            // Asked for, so that it is known where a name is misspelt.
            let _ = table.field("tokens");
            let text = reader.text_or(&field, AMOUNT)?;
            amount(&text, reader).map(BudgetLimit::Money)
        }
        (None, true) => {
            let tokens = reader.integer(table, "tokens", 1, 1..=MOST_TOKENS);
            (reader.found.len() == found).then_some(BudgetLimit::Tokens(tokens))
        }
        (Some(_), true) => {
            let _ = table.field("tokens");
            let message = "has both `amount` and `tokens`; write two budgets";
            reader.error(&at, message);
            None
        }
        (None, false) => {
            let _ = table.field("tokens");
            reader.error(&at, format!("limits nothing; write {BUDGET}"));
            None
        }
    }
}

/// Reads an amount with its currency, of which there is one: what upstreams charge in.
fn amount(text: &Text, reader: &mut Reader<'_>) -> Option<Nanos> {
    let value = text.value.trim();
    let split = value.find(|c: char| !(c.is_ascii_digit() || ".-+,_".contains(c)));
    let (number, currency) = value.split_at(split.unwrap_or(value.len()));
    let why = match (number.parse::<Nanos>(), currency.trim_start()) {
        (Ok(nanos), "USD") if !nanos.is_zero() => return Some(nanos),
        (Err(why), _) => why.to_string(),
        (Ok(_), "USD") => "would allow nothing".to_owned(),
        (Ok(_), "") => "names no currency".to_owned(),
        (Ok(_), _) => "is in a currency that prices are not in".to_owned(),
    };
    reader.error(
        &text.at,
        format!("{} {why}; write {AMOUNT}", quote(&text.raw)),
    );
    None
}
