//! `[[team]]` and `[[key]]`.

use toml::de::DeValue;

use super::super::reader::{Field, Placed, Reader, Table, Text};
use super::super::types::BudgetConfig;
use super::budget::budgets;
use super::limits::limits;
use super::{cache, name, paths, secret_problem};
use crate::call::Keeps;
use crate::keys;
use crate::pattern::Pattern;
use crate::store::limits::Entry;

/// One `[[team]]`, as far as it could be read.
pub(in super::super) struct Team {
    pub(in super::super) name: Option<Text>,
    pub(in super::super) models: Vec<Pattern>,
    pub(in super::super) budgets: Vec<BudgetConfig>,
    pub(in super::super) limits: Vec<Entry>,
    pub(in super::super) cache: Option<Keeps>,
}

/// One `[[key]]`, as far as it could be read.
pub(in super::super) struct Key {
    pub(in super::super) name: Option<Text>,
    pub(in super::super) team: Option<Text>,
    pub(in super::super) digest: Option<Placed<[u8; 32]>>,
    pub(in super::super) models: Vec<Pattern>,
    pub(in super::super) paths: Vec<Pattern>,
    pub(in super::super) expires: Option<Placed<jiff::Timestamp>>,
    pub(in super::super) budgets: Vec<BudgetConfig>,
    pub(in super::super) limits: Vec<Entry>,
    pub(in super::super) cache: Option<Keeps>,
}

const MODELS: &str = "patterns such as [\"gpt-*\"]";

pub(super) fn teams(root: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> Vec<Team> {
    let tables = reader.tables(root, "team", "name");
    tables
        .into_iter()
        .map(|table| team(table, reader))
        .collect()
}

fn team(mut table: Table<'_, '_>, reader: &mut Reader<'_>) -> Team {
    let table = &mut table;
    let team = Team {
        name: name(table, reader, "`name = \"research\"`"),
        models: models(table, reader),
        budgets: budgets(table, reader),
        limits: limits(table, "limits", reader),
        cache: cache::keeps(table, reader),
    };
    reader.finish(table);
    team
}

pub(super) fn keys(root: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> Vec<Key> {
    let tables = reader.tables(root, "key", "name");
    tables.into_iter().map(|table| key(table, reader)).collect()
}

fn key(mut table: Table<'_, '_>, reader: &mut Reader<'_>) -> Key {
    let table = &mut table;
    let key = Key {
        name: name(table, reader, "`name = \"alice\"`"),
        team: table.field("team").and_then(|field| reader.text(&field)),
        digest: digest(table, reader),
        models: models(table, reader),
        paths: match table.field("paths") {
            Some(field) => paths(&field, reader)
                .into_iter()
                .map(|path| path.value)
                .collect(),
            None => vec![Pattern::any()],
        },
        expires: table
            .field("expires")
            .and_then(|field| expires(&field, reader)),
        budgets: budgets(table, reader),
        limits: limits(table, "limits", reader),
        cache: cache::keeps(table, reader),
    };
    reader.finish(table);
    key
}

fn models(table: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> Vec<Pattern> {
    match table.field("models") {
        Some(field) => {
            let patterns = reader.patterns(&field, MODELS);
            patterns.into_iter().map(|pattern| pattern.value).collect()
        }
        None => vec![Pattern::any()],
    }
}

fn digest(table: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> Option<Placed<[u8; 32]>> {
    match (table.field("hash"), table.field("secret")) {
        (Some(field), None) => {
            let text = reader.text(&field)?;
            match keys::parse_hash(&text.value) {
                Some(value) => Some(Placed { at: text.at, value }),
                None => {
                    // Not quoted: a key in the wrong place would be shown.
                    reader.error(
                        &text.at,
                        "is no hash; write \"sha256:\" and 64 hexadecimal digits, as `weir keys hash` prints",
                    );
                    None
                }
            }
        }
        (None, Some(field)) => {
            let secret = reader.secret(&field)?;
            secret_problem(&secret, reader);
            Some(Placed {
                at: secret.at,
                value: keys::digest(secret.value.expose().as_bytes()),
            })
        }
        (None, None) => {
            let at = table.at.clone();
            reader.error(
                &at,
                "`hash` is missing; write `hash = \"sha256:…\"` as `weir keys hash` prints, or `secret = \"${NAME}\"`",
            );
            None
        }
        (Some(_), Some(_)) => {
            let at = table.name_at("secret");
            reader.error(&at, "stands beside `hash`; write one of the two");
            None
        }
    }
}

fn expires(field: &Field<'_, '_>, reader: &mut Reader<'_>) -> Option<Placed<jiff::Timestamp>> {
    let example = "write a date and time with an offset, such as 2027-12-31T00:00:00Z";
    let DeValue::Datetime(datetime) = field.value else {
        reader.wrong_type(
            &field.at,
            field.value,
            "a date and time such as 2027-12-31T00:00:00Z, without quotes",
        );
        return None;
    };
    if datetime.date.is_none() || datetime.time.is_none() || datetime.offset.is_none() {
        reader.error(&field.at, format!("is not one instant; {example}"));
        return None;
    }
    match datetime.to_string().parse::<jiff::Timestamp>() {
        Ok(value) => Some(Placed {
            at: field.at.clone(),
            value,
        }),
        Err(_) => {
            reader.error(&field.at, format!("is out of range; {example}"));
            None
        }
    }
}
