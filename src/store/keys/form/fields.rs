//! An object of JSON, read field by field; what is wrong is told by the field's full name.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::Invalid;
use crate::call::Keeps;
use crate::pattern::Pattern;
use crate::report::parse_time;
use crate::store::budgets::Budget;
use crate::store::keys::audit::micros;
use crate::store::keys::{budget, check_name};
use crate::store::limits::{Entry, limits_from_json};

/// An object whose fields are taken out one by one.
pub(in super::super) struct Form {
    /// The full name of the field that it is of another object.
    inside: Option<String>,
    /// Those that nobody has taken yet.
    fields: Map<String, Value>,
}

/// How a key says that it does not expire, beside `null`.
const NEVER: &str = "never";
/// The longest list of patterns.
const MOST_PATTERNS: usize = 256;

impl Form {
    /// Begins to read an object that has these fields and no others.
    pub(super) fn new(fields: Map<String, Value>, known: &[&str]) -> Result<Self, Invalid> {
        Self::check(
            Self {
                inside: None,
                fields,
            },
            known,
        )
    }

    /// Begins to read an object that is a field of another one.
    pub(in super::super) fn inside(
        param: &str,
        fields: Map<String, Value>,
        known: &[&str],
    ) -> Result<Self, Invalid> {
        let inside = Some(param.to_owned());
        Self::check(Self { inside, fields }, known)
    }

    /// Refuses a field that is not known.
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
    pub(in super::super) fn param(&self, name: &str) -> String {
        // A name is the client's; the start of it is enough to know it by.
        let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
        match &self.inside {
            Some(inside) => format!("{inside}.{name}"),
            None => name,
        }
    }

    /// Takes a field; `null` is none.
    pub(in super::super) fn take(&mut self, name: &str) -> Option<Value> {
        self.fields.remove(name).filter(|value| !value.is_null())
    }

    /// Takes a field that is there; inside, `null` is none.
    fn take_or_null(&mut self, name: &str) -> Option<Option<Value>> {
        let value = self.fields.remove(name)?;
        Some(Some(value).filter(|value| !value.is_null()))
    }

    /// Takes a text.
    pub(in super::super) fn text(&mut self, name: &str) -> Result<Option<String>, Invalid> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Invalid::new(self.param(name), "must be a text")),
        }
    }

    /// Takes the name of a key or a team.
    pub(super) fn name(&mut self) -> Result<Arc<str>, Invalid> {
        let Some(name) = self.text("name")? else {
            return Err(Invalid::new("name", "is missing"));
        };
        check_name(&name).map_err(|message| Invalid::new("name", message))?;
        Ok(name.into())
    }

    /// Takes the name of a team; inside, `null` is none.
    pub(super) fn team(&mut self) -> Result<Option<Option<Arc<str>>>, Invalid> {
        match self.take_or_null("team") {
            None => Ok(None),
            Some(None) => Ok(Some(None)),
            Some(Some(Value::String(team))) => Ok(Some(Some(team.into()))),
            Some(Some(_)) => Err(Invalid::new("team", "must be the name of a team")),
        }
    }

    /// Takes a list of patterns; `null` allows all.
    pub(super) fn patterns(&mut self, name: &str) -> Result<Option<Vec<Pattern>>, Invalid> {
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

    /// Takes a list of patterns of paths; `null` allows all.
    pub(super) fn paths(&mut self) -> Result<Option<Vec<Pattern>>, Invalid> {
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

    /// Takes when a key expires; inside, `null` is never.
    pub(super) fn expires(&mut self, now: Timestamp) -> Result<Option<Option<Timestamp>>, Invalid> {
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

    /// Takes a list of budgets; `null` is none.
    pub(super) fn budgets(&mut self) -> Result<Option<Vec<Budget>>, Invalid> {
        match self.take_or_null("budgets") {
            None => Ok(None),
            Some(None) => Ok(Some(Vec::new())),
            Some(Some(value)) => budget::list(&value, "budgets").map(Some),
        }
    }

    /// Takes which answers are kept; inside, `null` is as elsewhere.
    pub(super) fn cache(&mut self) -> Result<Option<Option<Keeps>>, Invalid> {
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

    /// Takes a list of limits; `null` is none.
    pub(super) fn limits(&mut self) -> Result<Option<Vec<Entry>>, Invalid> {
        match self.take_or_null("limits") {
            None => Ok(None),
            Some(value) => {
                let limits = limits_from_json(&value.unwrap_or_default(), "limits");
                Ok(Some(limits?))
            }
        }
    }
}

/// Returns what matches all.
pub(super) fn any() -> Vec<Pattern> {
    vec![Pattern::any()]
}
