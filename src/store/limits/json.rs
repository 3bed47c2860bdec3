//! `limits` as JSON: what the admin API takes and shows, and what stands in the ledger's file. The fields are those of
//! the configuration.

use std::num::NonZeroU32;

use serde_json::{Map, Value};

use super::dimension::Dimension;
use super::entry::Entry;
use crate::pattern::Pattern;

/// What is wrong with a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{param}` {message}")]
pub struct Misfit {
    /// The field at fault.
    pub param: String,
    /// What is wrong with it, and what would be right.
    pub message: String,
}

/// The most entries that one holder has.
const MOST_ENTRIES: usize = 16;
/// The most patterns in one entry.
const MOST_PATTERNS: usize = 256;

/// Writes `limits`: always as a list, so that whoever reads it need not ask.
pub fn limits_to_json(limits: &[Entry]) -> Value {
    let limits: Vec<Value> = limits.iter().map(entry_to_json).collect();
    limits.into()
}

/// Reads `limits`: an object, or a list of them. `null` and an empty list are none. `param` is where they stand, for the
/// complaint.
///
/// # Errors
/// [`Misfit`], naming the first field at fault.
pub fn limits_from_json(value: &Value, param: &str) -> Result<Vec<Entry>, Misfit> {
    let values = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Object(fields) => return Ok(vec![entry_from_json(fields, param)?]),
        Value::Array(values) => values,
        _ => return Err(no_limits(param)),
    };
    if values.len() > MOST_ENTRIES {
        let message = format!("has more than {MOST_ENTRIES} entries");
        return Err(Misfit::new(param, message));
    }
    let mut limits: Vec<Entry> = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        let param = format!("{param}[{index}]");
        let Value::Object(fields) = value else {
            return Err(no_limits(&param));
        };
        let entry = entry_from_json(fields, &param)?;
        if let Some(dimension) = limits.iter().find_map(|other| entry.overlap(other)) {
            return Err(Misfit::new(
                format!("{param}.{dimension}"),
                "limits the same as an entry before it; write the smaller one alone",
            ));
        }
        limits.push(entry);
    }
    Ok(limits)
}

fn entry_to_json(entry: &Entry) -> Value {
    let sizes = entry.sizes.iter();
    let mut json: Map<String, Value> = sizes
        .map(|(dimension, size)| (dimension.as_str().to_owned(), size.get().into()))
        .collect();
    if let Some(burst) = entry.burst {
        json.insert("burst".into(), burst.get().into());
    }
    if !entry.models.is_empty() {
        let models: Vec<&str> = entry.models.iter().map(Pattern::as_str).collect();
        json.insert("models".into(), models.into());
    }
    if entry.shadow {
        json.insert("shadow".into(), true.into());
    }
    Value::Object(json)
}

fn entry_from_json(fields: &Map<String, Value>, param: &str) -> Result<Entry, Misfit> {
    let mut entry = Entry::default();
    for (name, value) in fields {
        let is_named = |dimension: &&Dimension| dimension.as_str() == name;
        let dimension = Dimension::ALL.iter().find(is_named);
        let param = || {
            // A name is the client's; the start of it is enough to know it by.
            let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
            format!("{param}.{name}")
        };
        match (name.as_str(), dimension) {
            // As with every other field, what is null is not there.
            _ if value.is_null() && (dimension.is_some() || OTHERS.contains(&name.as_str())) => {}
            (_, Some(dimension)) => entry
                .sizes
                .push((*dimension, size(*dimension, value, param)?)),
            ("burst", None) => {
                entry.burst = Some(size(Dimension::RequestsPerMinute, value, param)?);
            }
            ("models", None) => entry.models = models(value, &param())?,
            ("shadow", None) => {
                let shadow = value.as_bool();
                entry.shadow =
                    shadow.ok_or_else(|| Misfit::new(param(), "must be true or false"))?;
            }
            (_, None) => return Err(Misfit::new(param(), unknown())),
        }
    }
    // The order of an object's members says nothing.
    entry.sizes.sort_unstable();
    match entry.slip() {
        None => Ok(entry),
        Some(slip) => {
            let field = slip.field().map(|field| format!("{param}.{field}"));
            Err(Misfit::new(
                field.unwrap_or_else(|| param.to_owned()),
                slip.to_string(),
            ))
        }
    }
}

/// The fields that are no dimensions.
const OTHERS: [&str; 3] = ["burst", "models", "shadow"];

fn unknown() -> String {
    let dimensions = Dimension::ALL.map(Dimension::as_str);
    let known: Vec<&str> = dimensions.into_iter().chain(OTHERS).collect();
    format!("is not known here; the fields are `{}`", known.join("`, `"))
}

fn no_limits(param: &str) -> Misfit {
    let message = "is no limits; write such as {\"requests_per_minute\": 60}, or a list of those";
    Misfit::new(param, message)
}

fn size(
    dimension: Dimension,
    value: &Value,
    param: impl FnOnce() -> String,
) -> Result<NonZeroU32, Misfit> {
    let size = value.as_u64().and_then(|number| dimension.size(number));
    size.ok_or_else(|| {
        let (least, most) = dimension.range().into_inner();
        Misfit::new(
            param(),
            format!("must be a whole number from {least} to {most}"),
        )
    })
}

fn models(value: &Value, param: &str) -> Result<Vec<Pattern>, Misfit> {
    let Value::Array(values) = value else {
        return Err(Misfit::new(param, "must be a list of patterns"));
    };
    if values.is_empty() {
        return Err(Misfit::new(
            param,
            "is empty and would count nothing; leave it out to count all",
        ));
    }
    if values.len() > MOST_PATTERNS {
        let message = format!("has more than {MOST_PATTERNS} patterns");
        return Err(Misfit::new(param, message));
    }
    let pattern = |(index, value): (usize, &Value)| {
        let param = format!("{param}[{index}]");
        let Value::String(text) = value else {
            return Err(Misfit::new(param, "must be a pattern such as \"gpt-*\""));
        };
        Pattern::parse(text).map_err(|error| Misfit::new(param, error.to_string()))
    };
    values.iter().enumerate().map(pattern).collect()
}

impl Misfit {
    fn new(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            param: param.into(),
            message: message.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<Vec<Entry>, String> {
        limits_from_json(&value, "limits").map_err(|misfit| misfit.to_string())
    }

    #[test]
    fn what_is_written_reads_the_same() {
        for (value, entries) in [
            (json!(null), 0),
            (json!([]), 0),
            (json!({ "concurrent": 1, "burst": null }), 1),
            (
                json!([
                    { "requests_per_minute": 60, "requests_per_day": 4_294_967_295u32, "burst": 60 },
                    { "requests_per_minute": 60, "shadow": true },
                    { "requests_per_minute": 6, "tokens_per_day": 9, "models": ["gpt-*", "b"] },
                    { "requests_per_minute": 6, "models": ["b"], "shadow": false },
                ]),
                4,
            ),
        ] {
            let limits = read(value).unwrap();
            assert_eq!(limits.len(), entries);
            assert_eq!(read(limits_to_json(&limits)).unwrap(), limits);
        }
        let every: Map<String, Value> = Dimension::ALL
            .iter()
            .map(|dimension| (dimension.as_str().to_owned(), 7.into()))
            .collect();
        let limits = read(Value::Object(every.clone())).unwrap();
        assert_eq!(
            limits_to_json(&limits),
            Value::Array(vec![Value::Object(every)])
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let whole = "must be a whole number from 1 to";
        for (value, expected) in [
            (json!(7), "`limits` is no limits"),
            (json!([7]), "`limits[0]` is no limits"),
            (json!({}), "`limits` limits nothing"),
            (json!([{ "shadow": true }]), "`limits[0]` limits nothing"),
            (
                json!({ "rpm": 1 }),
                "`limits.rpm` is not known here; the fields are `requests_per_minute`",
            ),
            (
                json!({ "ten\nants": null }),
                "`limits.tenants` is not known",
            ),
            (
                json!({ "requests_per_day": 0 }),
                &format!("`limits.requests_per_day` {whole} 4294967295"),
            ),
            (
                json!({ "concurrent": -1 }),
                &format!("`limits.concurrent` {whole}"),
            ),
            (
                json!({ "concurrent": 1.5 }),
                &format!("`limits.concurrent` {whole}"),
            ),
            (
                json!({ "concurrent": "1" }),
                &format!("`limits.concurrent` {whole}"),
            ),
            (
                json!({ "tokens_per_minute": 600_000_001 }),
                &format!("`limits.tokens_per_minute` {whole} 600000000"),
            ),
            (
                json!({ "tokens_per_day": 4_294_967_296u64 }),
                &format!("`limits.tokens_per_day` {whole} 4294967295"),
            ),
            (
                json!({ "tokens_per_day": 1, "burst": 1 }),
                "`limits.burst` is for `requests_per_minute`",
            ),
            (
                json!([{ "requests_per_minute": 5, "burst": 6 }]),
                "`limits[0].burst` is more than `requests_per_minute`; write 5 or less",
            ),
            (
                json!({ "concurrent": 1, "models": [] }),
                "`limits.models` is empty",
            ),
            (
                json!({ "concurrent": 1, "models": "a" }),
                "`limits.models` must be a list",
            ),
            (
                json!({ "concurrent": 1, "models": ["a", ""] }),
                "`limits.models[1]` is empty",
            ),
            (
                json!({ "concurrent": 1, "shadow": "yes" }),
                "`limits.shadow` must be true or false",
            ),
            (
                json!([{ "concurrent": 1, "models": ["a", "b"] }, { "concurrent": 2, "models": ["b", "a"] }]),
                "`limits[1].concurrent` limits the same as an entry before it",
            ),
            (
                Value::Array(vec![json!({ "concurrent": 1 }); 17]),
                "`limits` has more than 16 entries",
            ),
        ] {
            let message = read(value).unwrap_err();
            assert!(message.starts_with(expected), "{message} is not {expected}");
        }
    }
}
