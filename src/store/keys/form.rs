//! Keys and teams as forms of JSON: what the admin API and `weir keys` take, and what they show. A field that is not
//! known is a slip, and named. How a single field is read stands in `fields`.

mod fields;

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

pub(super) use self::fields::Form;
use self::fields::any;
use super::{DEFAULT_GRACE, KeyEdit, KeyTerms, Rotation, TeamEdit, TeamTerms, budget};
use crate::call::Keeps;
use crate::pattern::Pattern;
use crate::store::budgets::Budget;
use crate::store::limits::{Misfit, limits_to_json};
use crate::units::parse_duration;

/// What is wrong with a form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{param}` {message}")]
pub struct Invalid {
    /// The field at fault.
    pub param: String,
    /// What is wrong with it, and what would be right.
    pub message: String,
}

const KEY: &[&str] = &[
    "name", "team", "models", "paths", "expires", "budgets", "limits", "cache",
];
const KEY_EDIT: &[&str] = &[
    "team", "models", "paths", "expires", "budgets", "limits", "cache",
];
const TEAM: &[&str] = &["name", "models", "budgets", "limits", "cache"];
const TEAM_EDIT: &[&str] = &["models", "budgets", "limits", "cache"];

/// The longest time for which an old secret stays valid.
const LONGEST_GRACE: Duration = Duration::from_secs(366 * 24 * 3600);

/// Reads what is said of a key that is to be made.
///
/// # Errors
/// [`Invalid`], naming the field.
pub fn new_key(fields: Map<String, Value>, now: Timestamp) -> Result<KeyTerms, Invalid> {
    let mut form = Form::new(fields, KEY)?;
    Ok(KeyTerms {
        name: form.name()?,
        team: form.team()?.flatten(),
        models: form.patterns("models")?.unwrap_or_else(any),
        paths: form.paths()?.unwrap_or_else(any),
        expires: form.expires(now)?.flatten(),
        budgets: form.budgets()?.unwrap_or_default(),
        limits: form.limits()?.unwrap_or_default(),
        cache: form.cache()?.flatten(),
    })
}

/// Reads what is to change of a key. A field that is `null` is as in a new key that does not have it.
///
/// # Errors
/// [`Invalid`], naming the field.
pub fn key_edit(fields: Map<String, Value>, now: Timestamp) -> Result<KeyEdit, Invalid> {
    unchangeable(&fields)?;
    let mut form = Form::new(fields, KEY_EDIT)?;
    Ok(KeyEdit {
        team: form.team()?,
        models: form.patterns("models")?,
        paths: form.paths()?,
        expires: form.expires(now)?,
        budgets: form.budgets()?,
        limits: form.limits()?,
        cache: form.cache()?,
    })
}

/// Reads what is said of a team that is to be made.
///
/// # Errors
/// [`Invalid`], naming the field.
pub fn new_team(fields: Map<String, Value>) -> Result<TeamTerms, Invalid> {
    let mut form = Form::new(fields, TEAM)?;
    Ok(TeamTerms {
        name: form.name()?,
        models: form.patterns("models")?.unwrap_or_else(any),
        budgets: form.budgets()?.unwrap_or_default(),
        limits: form.limits()?.unwrap_or_default(),
        cache: form.cache()?.flatten(),
    })
}

/// Reads what is to change of a team.
///
/// # Errors
/// [`Invalid`], naming the field.
pub fn team_edit(fields: Map<String, Value>) -> Result<TeamEdit, Invalid> {
    unchangeable(&fields)?;
    let mut form = Form::new(fields, TEAM_EDIT)?;
    Ok(TeamEdit {
        models: form.patterns("models")?,
        budgets: form.budgets()?,
        limits: form.limits()?,
        cache: form.cache()?,
    })
}

/// Reads how a key is given another secret.
///
/// # Errors
/// [`Invalid`], naming the field.
pub fn rotation(fields: Map<String, Value>) -> Result<Rotation, Invalid> {
    let mut form = Form::new(fields, &["grace", "force"])?;
    let grace = match form.text("grace")? {
        None => DEFAULT_GRACE,
        Some(text) => parse_grace(&text).map_err(|message| Invalid::new("grace", message))?,
    };
    let force = match form.take("force") {
        None => false,
        Some(Value::Bool(force)) => force,
        Some(_) => return Err(Invalid::new("force", "must be true or false")),
    };
    Ok(Rotation { grace, force })
}

/// Reads a time of grace: `24h`, or `0` for none.
///
/// # Errors
/// What is wrong, and what would be right.
pub fn parse_grace(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    match parse_duration(text) {
        Ok(grace) if grace > LONGEST_GRACE => Err("is longer than a year".to_owned()),
        Ok(grace) => Ok(grace),
        Err(error) => Err(format!("{error}; write such as \"24h\", or \"0s\"")),
    }
}

/// Writes what is said of a key.
pub fn of_key(terms: &KeyTerms) -> Map<String, Value> {
    let mut form = Map::new();
    form.insert("team".into(), terms.team.as_deref().into());
    form.insert("models".into(), texts(&terms.models));
    form.insert("paths".into(), texts(&terms.paths));
    let expires = terms.expires.map(|expires| expires.to_string());
    form.insert("expires".into(), expires.into());
    form.insert("budgets".into(), budgets(&terms.budgets));
    form.insert("limits".into(), limits_to_json(&terms.limits));
    form.insert("cache".into(), terms.cache.map(Keeps::as_str).into());
    form
}

/// Writes what is said of a team.
pub fn of_team(terms: &TeamTerms) -> Map<String, Value> {
    let mut form = Map::new();
    form.insert("models".into(), texts(&terms.models));
    form.insert("budgets".into(), budgets(&terms.budgets));
    form.insert("limits".into(), limits_to_json(&terms.limits));
    form.insert("cache".into(), terms.cache.map(Keeps::as_str).into());
    form
}

fn texts(patterns: &[Pattern]) -> Value {
    let texts: Vec<&str> = patterns.iter().map(Pattern::as_str).collect();
    texts.into()
}

fn budgets(budgets: &[Budget]) -> Value {
    let budgets: Vec<Value> = budgets.iter().map(budget::to_json).collect();
    budgets.into()
}

fn unchangeable(fields: &Map<String, Value>) -> Result<(), Invalid> {
    match fields.contains_key("name") {
        true => Err(Invalid::new(
            "name",
            "cannot be changed: what was used stands in the ledger under it",
        )),
        false => Ok(()),
    }
}

// === impl Invalid ===

impl From<Misfit> for Invalid {
    fn from(misfit: Misfit) -> Self {
        Self::new(misfit.param, misfit.message)
    }
}

impl Invalid {
    pub(super) fn new(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            param: param.into(),
            message: message.into(),
        }
    }
}
