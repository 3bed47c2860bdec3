//! How budgets are written: as JSON in the ledger's file and in the admin API, as a few words on the command line.

use serde_json::{Map, Value};

use super::form::{Form, Invalid};
use crate::money::Nanos;
use crate::store::budgets::{Budget, Limit, Period, Window};

/// From how many thousandths on clients are warned when nothing else is said.
const DEFAULT_WARN_AT: u32 = 800;
/// More than all models together generate in a year.
const MOST_TOKENS: u64 = 1_000_000_000_000_000;

const FIELDS: &[&str] = &["amount", "tokens", "per", "window", "warn_at"];
const CURRENCY: &str = "USD";

/// Writes a budget: `{"amount":"50.00 USD","per":"month","window":"calendar","warn_at":0.8}`, as the configuration
/// spells it.
pub fn to_json(budget: &Budget) -> Value {
    let mut json = Map::new();
    match budget.limit {
        Limit::Money(amount) => json.insert("amount".into(), format!("{amount} {CURRENCY}").into()),
        Limit::Tokens(tokens) => json.insert("tokens".into(), tokens.into()),
    };
    json.insert("per".into(), budget.per.as_str().into());
    json.insert("window".into(), window_word(budget.window).into());
    json.insert(
        "warn_at".into(),
        (f64::from(budget.warn_at_thousandths) / 1000.0).into(),
    );
    Value::Object(json)
}

/// Returns the word for a window.
pub fn window_word(window: Window) -> &'static str {
    match window {
        Window::Calendar => "calendar",
        Window::Rolling => "rolling",
    }
}

/// Reads a budget. `param` is where it stands, for the complaint.
///
/// # Errors
/// [`Invalid`], naming the field.
pub fn from_json(value: &Value, param: &str) -> Result<Budget, Invalid> {
    let Value::Object(fields) = value else {
        return Err(Invalid::new(
            param,
            "is no budget; write such as {\"amount\": \"50 USD\", \"per\": \"month\"}",
        ));
    };
    let mut form = Form::inside(param, fields.clone(), FIELDS)?;
    let limit = match (form.take("amount"), form.take("tokens")) {
        (Some(amount), None) => Limit::Money(money(&amount, &form.param("amount"))?),
        (None, Some(tokens)) => Limit::Tokens(count(&tokens, &form.param("tokens"))?),
        (None, None) => return Err(Invalid::new(param, "needs an `amount` or `tokens`")),
        (Some(_), Some(_)) => {
            return Err(Invalid::new(
                form.param("tokens"),
                "stands beside `amount`; write two budgets",
            ));
        }
    };
    let per = match form.text("per")?.as_deref() {
        Some("day") => Period::Day,
        Some("month") => Period::Month,
        Some("total") => Period::Total,
        Some(_) | None => {
            return Err(Invalid::new(
                form.param("per"),
                "must be \"day\", \"month\" or \"total\"",
            ));
        }
    };
    let window = match form.text("window")?.as_deref() {
        Some("calendar") | None => Window::Calendar,
        Some("rolling") if per != Period::Total => Window::Rolling,
        Some("rolling") => {
            return Err(Invalid::new(
                form.param("window"),
                "cannot be \"rolling\": a total has no beginning",
            ));
        }
        Some(_) => {
            return Err(Invalid::new(
                form.param("window"),
                "must be \"calendar\" or \"rolling\"",
            ));
        }
    };
    let warn_at_thousandths = match form.take("warn_at") {
        None => DEFAULT_WARN_AT,
        Some(value) => value
            .as_f64()
            .map(|share| (share * 1000.0).round())
            .filter(|share| (1.0..=1000.0).contains(share))
            // Within these bounds nothing is lost.
            .map(|share| share as u32)
            .ok_or_else(|| Invalid::new(form.param("warn_at"), "must be from 0.001 to 1"))?,
    };
    Ok(Budget {
        limit,
        per,
        window,
        warn_at_thousandths,
    })
}

/// Reads a list of budgets.
pub(super) fn list(value: &Value, param: &str) -> Result<Vec<Budget>, Invalid> {
    const MOST: usize = 16;
    let Value::Array(values) = value else {
        return Err(Invalid::new(param, "must be a list"));
    };
    if values.len() > MOST {
        return Err(Invalid::new(param, format!("has more than {MOST} budgets")));
    }
    let mut budgets: Vec<Budget> = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        let param = format!("{param}[{index}]");
        let budget = from_json(value, &param)?;
        if budgets.iter().any(|other| other.counts_as(&budget)) {
            return Err(Invalid::new(param, "limits the same as a budget before it"));
        }
        budgets.push(budget);
    }
    Ok(budgets)
}

/// Reads what the command line says, such as `50 USD/month`, `5000000 tokens/day` or `10 USD/day/rolling`, and returns
/// it as JSON, which [`from_json`] judges.
///
/// # Errors
/// What would be right.
pub fn words_to_json(text: &str) -> Result<Value, String> {
    let mistake = || {
        format!(
            "`{text}` is no budget; write such as \"50 USD/month\", \"5000000 tokens/day\" or \"10 USD/day/rolling\""
        )
    };
    let mut parts = text.split('/').map(str::trim);
    let limit = parts.next().unwrap_or_default();
    let per = parts.next().ok_or_else(mistake)?;
    let window = parts.next();
    let mut json = Map::new();
    match limit.strip_suffix("tokens") {
        Some(tokens) => {
            let tokens: u64 = tokens.trim_end().parse().map_err(|_| mistake())?;
            json.insert("tokens".into(), tokens.into());
        }
        None => {
            json.insert("amount".into(), limit.into());
        }
    }
    json.insert("per".into(), per.into());
    if let Some(window) = window {
        json.insert("window".into(), window.into());
    }
    match parts.next() {
        Some(_) => Err(mistake()),
        None => Ok(Value::Object(json)),
    }
}

fn money(value: &Value, param: &str) -> Result<Nanos, Invalid> {
    let example = "write such as \"50 USD\"";
    let Value::String(text) = value else {
        return Err(Invalid::new(param, format!("is no text; {example}")));
    };
    let number = text.strip_suffix(CURRENCY).map(str::trim_end);
    let Some(number) = number else {
        return Err(Invalid::new(
            param,
            format!("is no amount of dollars; {example}"),
        ));
    };
    match number.parse::<Nanos>() {
        Ok(amount) if amount.is_zero() => Err(Invalid::new(param, "must be more than nothing")),
        Ok(amount) => Ok(amount),
        Err(error) => Err(Invalid::new(param, format!("{error}; {example}"))),
    }
}

fn count(value: &Value, param: &str) -> Result<u64, Invalid> {
    value
        .as_u64()
        .filter(|tokens| (1..=MOST_TOKENS).contains(tokens))
        .ok_or_else(|| {
            Invalid::new(
                param,
                format!("must be a whole number from 1 to {MOST_TOKENS}"),
            )
        })
}
