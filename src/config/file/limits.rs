//! `limits` of keys, teams and routes, and `[limits]`.

use std::num::NonZeroU32;

use toml::de::DeValue;

use super::super::defaults;
use super::super::problem::At;
use super::super::reader::{Field, Reader, Table};
use super::super::types::LimitsConfig;
use crate::store::limits::{Dimension, Entry, Slip};

/// More than a model says in one go; a stream that may go on for longer is not stopped at all.
const MOST_OVERSHOOT: u64 = 1_000_000;

const MODELS: &str = "patterns such as [\"gpt-*\"]";

/// Reads a field that is a table of limits, or an array of those. None, and an empty array, are no limits.
pub(super) fn limits(
    parent: &mut Table<'_, '_>,
    name: &'static str,
    reader: &mut Reader<'_>,
) -> Vec<Entry> {
    let Some(field) = parent.field(name) else {
        return Vec::new();
    };
    let elements = match field.value {
        DeValue::Table(_) => vec![field],
        DeValue::Array(_) => reader.elements(&field),
        other => {
            reader.wrong_type(
                &field.at,
                other,
                "a table such as `{ requests_per_minute = 60 }`, or an array of those",
            );
            return Vec::new();
        }
    };
    let mut entries: Vec<Entry> = Vec::new();
    for element in elements {
        let Some((at, entry)) = entry(element, reader) else {
            continue;
        };
        if let Some(dimension) = entries.iter().find_map(|other| entry.overlap(other)) {
            let message = format!(
                "has the same `{dimension}` and `models` as an entry before it; write the smaller one alone"
            );
            reader.error(&at, message);
        }
        entries.push(entry);
    }
    entries
}

fn entry(element: Field<'_, '_>, reader: &mut Reader<'_>) -> Option<(At, Entry)> {
    let table = &mut reader.as_table(element)?;
    let found = reader.found.len();
    let entry = numbers(table, reader);
    let is_readable = reader.found.len() == found;
    judge(&entry, is_readable, table, reader);
    reader.finish(table);
    Some((table.at.clone(), entry))
}

/// Reads `[limits]`: the limits of keys that have none, the gateway's own, and what becomes of a stream.
pub(super) fn section(root: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> LimitsConfig {
    let table = &mut reader.table_or_empty(root, "limits");
    let found = reader.found.len();
    let own = numbers(table, reader);
    let says_something = own.burst.is_some() || own.shadow || !own.models.is_empty();
    // Everything here has a default; only what is said of numbers needs some.
    let must_say_more = says_something && reader.found.len() == found;
    judge(&own, must_say_more, table, reader);
    let has_overshoot = table.has("stop_overshoot");
    let config = LimitsConfig {
        keys: Some(own)
            .filter(|own| !own.sizes.is_empty())
            .into_iter()
            .collect(),
        gateway: limits(table, "gateway", reader),
        stop_stream: reader.flag(table, "stop_stream", defaults::STOP_STREAM),
        stop_overshoot: reader.count(
            table,
            "stop_overshoot",
            defaults::STOP_OVERSHOOT,
            1..=MOST_OVERSHOOT,
        ),
    };
    if has_overshoot && !config.stop_stream {
        let at = table.name_at("stop_overshoot");
        reader.warning(
            &at,
            "does nothing unless streams are stopped; leave `stop_stream = false` out, or this",
        );
    }
    reader.finish(table);
    config
}

/// Reads the fields of one entry.
fn numbers(table: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> Entry {
    let mut entry = Entry::default();
    for dimension in Dimension::ALL {
        if let Some(size) = number(table, dimension.as_str(), dimension, reader) {
            entry.sizes.push((dimension, size));
        }
    }
    entry.burst = number(table, "burst", Dimension::RequestsPerMinute, reader);
    if let Some(field) = table.field("models") {
        let patterns = reader.patterns(&field, MODELS);
        entry.models = patterns.into_iter().map(|pattern| pattern.value).collect();
    }
    entry.shadow = reader.flag(table, "shadow", false);
    entry
}

/// Reads a number that can be the limit of a dimension.
fn number(
    table: &mut Table<'_, '_>,
    name: &'static str,
    dimension: Dimension,
    reader: &mut Reader<'_>,
) -> Option<NonZeroU32> {
    let is_there = table.has(name);
    let found = reader.found.len();
    let number = reader.integer(table, name, 1, dimension.range());
    dimension
        .size(number)
        .filter(|_| is_there && reader.found.len() == found)
}

/// Reports what the fields of an entry cannot mean together. What could not be read is reported already, and not
/// missing: only where the entry `must_limit` something is one without numbers a slip.
fn judge(entry: &Entry, must_limit: bool, table: &Table<'_, '_>, reader: &mut Reader<'_>) {
    let Some(slip) = entry.slip() else {
        return;
    };
    let counts = match slip {
        Slip::Nothing => must_limit,
        Slip::LoneBurst => !table.has(Dimension::RequestsPerMinute.as_str()),
        Slip::LargeBurst { .. } => true,
    };
    if counts {
        let at = match slip.field() {
            Some(field) => table.name_at(field),
            None => table.at.clone(),
        };
        reader.error(&at, slip.to_string());
    }
}
