//! From rows to keys and teams, and back.

use std::error::Error;

use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Error as SqlError, Row};
use serde_json::Value;

use super::{KeyTerms, Previous, RuntimeKey, RuntimeTeam, TeamTerms, budget};
use crate::call::Keeps;
use crate::pattern::Pattern;
use crate::store::budgets::Budget;
use crate::store::limits::{Entry, limits_from_json, limits_to_json};

/// The columns of a key, in the order in which [`key`] reads them.
pub(super) const KEY: &str = "id, name, team, digest, models, paths, budgets, created, expires, revoked, old_id, old_digest, old_expires, limits, version, rotated, cache";
/// The columns of a team, in the order in which [`team`] reads them.
pub(super) const TEAM: &str = "name, models, budgets, created, limits, version, cache";

pub(super) fn key(row: &Row<'_>) -> Result<RuntimeKey, SqlError> {
    let text = |index| Ok::<_, SqlError>(row.get::<_, String>(index)?.into());
    let team: Option<String> = row.get(2)?;
    let previous = match (row.get(10)?, row.get(11)?, row.get(12)?) {
        (Some::<String>(id), Some(digest), Some::<i64>(expires)) => Some(Previous {
            id: id.into(),
            digest,
            expires: time(12, expires)?,
        }),
        _ => None,
    };
    let optional_time = |index| match row.get::<_, Option<i64>>(index)? {
        Some(micros) => time(index, micros).map(Some),
        None => Ok(None),
    };
    Ok(RuntimeKey {
        id: text(0)?,
        digest: row.get(3)?,
        terms: KeyTerms {
            name: text(1)?,
            team: team.map(Into::into),
            models: patterns(row, 4)?,
            paths: patterns(row, 5)?,
            expires: optional_time(8)?,
            budgets: budgets(row, 6)?,
            limits: limits(row, 13)?,
            cache: cache(row, 16)?,
        },
        created: time(7, row.get(7)?)?,
        revoked: optional_time(9)?,
        previous,
        version: row.get(14)?,
        rotated: row.get(15)?,
    })
}

pub(super) fn team(row: &Row<'_>) -> Result<RuntimeTeam, SqlError> {
    Ok(RuntimeTeam {
        terms: TeamTerms {
            name: row.get::<_, String>(0)?.into(),
            models: patterns(row, 1)?,
            budgets: budgets(row, 2)?,
            limits: limits(row, 4)?,
            cache: cache(row, 6)?,
        },
        created: time(3, row.get(3)?)?,
        version: row.get(5)?,
    })
}

/// Collects what can be read. A row that somebody wrote by hand, wrongly, must not keep the others from being used.
pub(super) fn readable<T>(
    rows: impl Iterator<Item = Result<T, SqlError>>,
    table: &str,
) -> Result<Vec<T>, SqlError> {
    let mut read = Vec::new();
    for row in rows {
        match row {
            Ok(row) => read.push(row),
            Err(
                error @ (SqlError::FromSqlConversionFailure(..)
                | SqlError::InvalidColumnType(..)
                | SqlError::IntegralValueOutOfRange(..)),
            ) => {
                tracing::error!(table, %error, "a row of the ledger cannot be understood and is left out");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

pub(super) fn patterns_json(patterns: &[Pattern]) -> String {
    let texts: Vec<&str> = patterns.iter().map(Pattern::as_str).collect();
    Value::from(texts).to_string()
}

pub(super) fn budgets_json(budgets: &[Budget]) -> String {
    let budgets: Vec<Value> = budgets.iter().map(budget::to_json).collect();
    Value::from(budgets).to_string()
}

pub(super) fn limits_json(limits: &[Entry]) -> String {
    limits_to_json(limits).to_string()
}

/// Reads which answers are kept. A word that a newer Weir may have written says nothing here, and nothing is kept then.
fn cache(row: &Row<'_>, index: usize) -> Result<Option<Keeps>, SqlError> {
    let word: Option<String> = row.get(index)?;
    Ok(word.map(|word| Keeps::parse(&word).unwrap_or(Keeps::Nothing)))
}

fn patterns(row: &Row<'_>, index: usize) -> Result<Vec<Pattern>, SqlError> {
    let json: String = row.get(index)?;
    let texts: Vec<String> = serde_json::from_str(&json).map_err(|error| wrong(index, error))?;
    let patterns = texts.iter().map(|text| Pattern::parse(text));
    patterns
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(index, error))
}

fn budgets(row: &Row<'_>, index: usize) -> Result<Vec<Budget>, SqlError> {
    let json: String = row.get(index)?;
    let values: Vec<Value> = serde_json::from_str(&json).map_err(|error| wrong(index, error))?;
    let budgets = values
        .iter()
        .map(|value| budget::from_json(value, "budgets"));
    budgets
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(index, error))
}

fn limits(row: &Row<'_>, index: usize) -> Result<Vec<Entry>, SqlError> {
    let json: String = row.get(index)?;
    let value: Value = serde_json::from_str(&json).map_err(|error| wrong(index, error))?;
    limits_from_json(&value, "limits").map_err(|error| wrong(index, error))
}

fn time(index: usize, micros: i64) -> Result<Timestamp, SqlError> {
    Timestamp::from_microsecond(micros).map_err(|error| wrong(index, error))
}

fn wrong(index: usize, error: impl Error + Send + Sync + 'static) -> SqlError {
    SqlError::FromSqlConversionFailure(index, Type::Text, Box::new(error))
}
