//! Who changed what, and when. The rows are written with what they tell of, in one transaction.

use jiff::Timestamp;
use rusqlite::{Connection, params};
use serde::Serialize;
use serde_json::{Map, Value};

use super::record;

/// Whoever changes something, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Author {
    /// `admin` for the admin API, `cli` for the command line on the file itself, `replica` for another gateway that shares
    /// its keys.
    pub actor: &'static str,
    /// The time of the change.
    pub at: Timestamp,
}

/// One row of the audit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Audited {
    /// Its number: later rows have greater ones.
    pub id: i64,
    /// When, RFC 3339.
    pub time: String,
    /// Who.
    pub actor: String,
    /// What was done, such as `key.create`.
    pub action: String,
    /// The name of what it was done to.
    pub target: String,
    /// What it was, and is, as far as that may be shown.
    pub detail: Value,
}

impl Author {
    /// Returns the version of what is changed now: the time in microseconds, but later than the version before, whatever
    /// the clock says. So of two changes of which one knew the other the later one has the greater version, at whichever
    /// gateways they were made. It is one that others can read, also after the last that there is.
    pub fn version(&self, before: i64) -> i64 {
        let later = self.at.as_microsecond().max(before.saturating_add(1));
        later.min(record::MOST - 1)
    }
}

/// Returns a time to the microsecond, as the ledger holds it: whatever is compared is the same before and behind it.
pub fn micros(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

/// Returns a time to the second, which is enough for what people read.
pub fn second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// Writes a row.
///
/// # Errors
/// SQLite's own.
pub fn note(
    connection: &Connection,
    author: &Author,
    action: &str,
    target: &str,
    detail: Map<String, Value>,
) -> Result<(), rusqlite::Error> {
    connection.execute(
        "INSERT INTO audit (time, actor, action, target, detail) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            author.at.as_microsecond(),
            author.actor,
            action,
            target,
            Value::from(detail).to_string(),
        ],
    )?;
    Ok(())
}

/// Returns the last rows, the newest first; those before the number `before`, if it is given.
///
/// # Errors
/// SQLite's own.
pub fn last(
    connection: &Connection,
    limit: u32,
    before: Option<i64>,
) -> Result<Vec<Audited>, rusqlite::Error> {
    let mut select = connection.prepare(
        "SELECT id, time, actor, action, target, detail FROM audit WHERE id < ?1 ORDER BY id DESC LIMIT ?2",
    )?;
    let rows = select.query_map(params![before.unwrap_or(i64::MAX), limit], |row| {
        let time = Timestamp::from_microsecond(row.get(1)?).unwrap_or(Timestamp::UNIX_EPOCH);
        let detail: String = row.get(5)?;
        Ok(Audited {
            id: row.get(0)?,
            time: time.to_string(),
            actor: row.get(2)?,
            action: row.get(3)?,
            target: row.get(4)?,
            // What is no JSON any more is still shown.
            detail: serde_json::from_str(&detail).unwrap_or(Value::String(detail)),
        })
    })?;
    rows.collect()
}

/// Returns what differs, as `{"field": {"from": …, "to": …}}`.
pub(super) fn difference(
    before: &Map<String, Value>,
    after: &Map<String, Value>,
) -> Map<String, Value> {
    let changed = after
        .iter()
        .filter(|(name, to)| before.get(*name) != Some(to));
    changed
        .map(|(name, to)| {
            let from = before.get(name).cloned().unwrap_or_default();
            (name.clone(), serde_json::json!({ "from": from, "to": to }))
        })
        .collect()
}
