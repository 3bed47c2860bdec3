//! Keys and teams as forms of JSON: what the admin API and `weir keys` take, and what they show. A field that is not
//! known is a slip, and named.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::audit::micros;
use super::{DEFAULT_GRACE, KeyEdit, KeyTerms, Rotation, TeamEdit, TeamTerms, budget, check_name};
use crate::call::Keeps;
use crate::pattern::Pattern;
use crate::report::parse_time;
use crate::store::budgets::Budget;
use crate::store::limits::{Entry, Misfit, limits_from_json, limits_to_json};
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

/// An object whose fields are taken out one by one.
pub(super) struct Form {
    inside: Option<String>,
    fields: Map<String, Value>,
}

const KEY: &[&str] = &[
    "name", "team", "models", "paths", "expires", "budgets", "limits", "cache",
];
const KEY_EDIT: &[&str] = &[
    "team", "models", "paths", "expires", "budgets", "limits", "cache",
];
const TEAM: &[&str] = &["name", "models", "budgets", "limits", "cache"];
const TEAM_EDIT: &[&str] = &["models", "budgets", "limits", "cache"];

/// How a key says that it does not expire, beside `null`.
const NEVER: &str = "never";
/// The longest list of patterns.
const MOST_PATTERNS: usize = 256;
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

fn any() -> Vec<Pattern> {
    vec![Pattern::any()]
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

// === impl Form ===

impl Form {
    fn new(fields: Map<String, Value>, known: &[&str]) -> Result<Self, Invalid> {
        Self::check(
            Self {
                inside: None,
                fields,
            },
            known,
        )
    }

    /// Begins to read an object that is a field of another one.
    pub(super) fn inside(
        param: &str,
        fields: Map<String, Value>,
        known: &[&str],
    ) -> Result<Self, Invalid> {
        let inside = Some(param.to_owned());
        Self::check(Self { inside, fields }, known)
    }

    fn check(self, known: &[&str]) -> Result<Self, Invalid> {
        match self
            .fields
            .keys()
            .find(|name| !known.contains(&name.as_str()))
        {
            None => Ok(self),
            Some(name) => {
                let fields = known.join("`, `");
                let message = format!("is not known here; the fields are `{fields}`");
                Err(Invalid::new(self.param(name), message))
            }
        }
    }

    /// Returns the full name of a field.
    pub(super) fn param(&self, name: &str) -> String {
        // A name is the client's; the start of it is enough to know it by.
        let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
        match &self.inside {
            Some(inside) => format!("{inside}.{name}"),
            None => name,
        }
    }

    /// Takes a field; `null` is none.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.fields.remove(name).filter(|value| !value.is_null())
    }

    /// Takes a field that is there; inside, `null` is none.
    fn take_or_null(&mut self, name: &str) -> Option<Option<Value>> {
        let value = self.fields.remove(name)?;
        Some(Some(value).filter(|value| !value.is_null()))
    }

    /// Takes a text.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Invalid> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Invalid::new(self.param(name), "must be a text")),
        }
    }

    fn name(&mut self) -> Result<Arc<str>, Invalid> {
        let Some(name) = self.text("name")? else {
            return Err(Invalid::new("name", "is missing"));
        };
        check_name(&name).map_err(|message| Invalid::new("name", message))?;
        Ok(name.into())
    }

    fn team(&mut self) -> Result<Option<Option<Arc<str>>>, Invalid> {
        match self.take_or_null("team") {
            None => Ok(None),
            Some(None) => Ok(Some(None)),
            Some(Some(Value::String(team))) => Ok(Some(Some(team.into()))),
            Some(Some(_)) => Err(Invalid::new("team", "must be the name of a team")),
        }
    }

    fn patterns(&mut self, name: &str) -> Result<Option<Vec<Pattern>>, Invalid> {
        let values = match self.take_or_null(name) {
            None => return Ok(None),
            Some(None) => return Ok(Some(any())),
            Some(Some(Value::Array(values))) => values,
            Some(Some(_)) => return Err(Invalid::new(name, "must be a list of patterns")),
        };
        if values.is_empty() {
            return Err(Invalid::new(
                name,
                "is empty and would allow nothing; leave it out to allow all",
            ));
        }
        if values.len() > MOST_PATTERNS {
            return Err(Invalid::new(
                name,
                format!("has more than {MOST_PATTERNS} patterns"),
            ));
        }
        let pattern = |(index, value): (usize, &Value)| {
            let param = format!("{name}[{index}]");
            let Value::String(text) = value else {
                return Err(Invalid::new(param, "must be a pattern such as \"gpt-*\""));
            };
            Pattern::parse(text).map_err(|error| Invalid::new(param, error.to_string()))
        };
        let patterns = values.iter().enumerate().map(pattern);
        patterns.collect::<Result<Vec<_>, _>>().map(Some)
    }

    fn paths(&mut self) -> Result<Option<Vec<Pattern>>, Invalid> {
        let paths = self.patterns("paths")?;
        let wrong = paths.iter().flatten().position(|path| {
            let text = path.as_str();
            !text.starts_with("/v1/") && !text.starts_with('*')
        });
        match wrong {
            Some(index) => Err(Invalid::new(
                format!("paths[{index}]"),
                "matches no path, since all begin with \"/v1/\"",
            )),
            None => Ok(paths),
        }
    }

    fn expires(&mut self, now: Timestamp) -> Result<Option<Option<Timestamp>>, Invalid> {
        let text = match self.take_or_null("expires") {
            None => return Ok(None),
            Some(None) => return Ok(Some(None)),
            Some(Some(Value::String(text))) => text,
            Some(Some(_)) => {
                return Err(Invalid::new(
                    "expires",
                    "must be a time such as \"2027-12-31T00:00:00Z\"",
                ));
            }
        };
        if text == NEVER {
            return Ok(Some(None));
        }
        // As `weir keys` takes them.
        match parse_time(&text) {
            Ok(expires) if expires <= now => Err(Invalid::new("expires", "lies in the past")),
            Ok(expires) => Ok(Some(Some(micros(expires)))),
            Err(_) => Err(Invalid::new(
                "expires",
                "is no time; write such as \"2027-12-31T00:00:00Z\", \"2027-12-31\" or \"never\"",
            )),
        }
    }

    fn budgets(&mut self) -> Result<Option<Vec<Budget>>, Invalid> {
        match self.take_or_null("budgets") {
            None => Ok(None),
            Some(None) => Ok(Some(Vec::new())),
            Some(Some(value)) => budget::list(&value, "budgets").map(Some),
        }
    }

    fn cache(&mut self) -> Result<Option<Option<Keeps>>, Invalid> {
        let word = match self.take_or_null("cache") {
            None => return Ok(None),
            Some(None) => return Ok(Some(None)),
            Some(Some(word)) => word,
        };
        match word.as_str().and_then(Keeps::parse) {
            Some(keeps) => Ok(Some(Some(keeps))),
            None => {
                let words = Keeps::ALL.map(|keeps| format!("\"{}\"", keeps.as_str()));
                Err(Invalid::new(
                    "cache",
                    format!("must be one of {}, or null", words.join(", ")),
                ))
            }
        }
    }

    fn limits(&mut self) -> Result<Option<Vec<Entry>>, Invalid> {
        match self.take_or_null("limits") {
            None => Ok(None),
            Some(value) => {
                let limits = limits_from_json(&value.unwrap_or_default(), "limits");
                Ok(Some(limits?))
            }
        }
    }
}
