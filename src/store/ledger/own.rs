//! What one key has used: so far, and in this month.

use rusqlite::{Connection, Row, params};

use super::report::USED;
use super::sum::{SUM_OF_COSTS, sum_of_costs};
use crate::money::Nanos;

/// What a key has used in some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Its requests that have ended.
    pub requests: u64,
    /// Tokens of prompts, all classes.
    pub prompt_tokens: u64,
    /// Generated tokens, all classes.
    pub completion_tokens: u64,
    /// What they cost, as far as prices are known.
    pub cost: Nanos,
}

/// What a key has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnUse {
    /// From the given time on, of what the ledger still holds.
    pub since: Own,
    /// The requests, tokens and cost from that time on of rows that have gone for their age.
    pub forgotten_since: (u64, u64, Nanos),
    /// Of all that the ledger still holds.
    pub held: Own,
    /// The requests, tokens and cost of rows that have gone for their age.
    pub forgotten: (u64, u64, Nanos),
}

const PROMPT: &str = "input_tokens + cached_input_tokens + cache_write_tokens + input_audio_tokens";
const COMPLETION: &str = "output_tokens + reasoning_tokens + output_audio_tokens";

impl OwnUse {
    /// Adds up what a key has used, in all and from `since` (microseconds since 1970) on.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn of(connection: &Connection, key: &str, since: i64) -> Result<Self, rusqlite::Error> {
        let forgotten = format!(
            "SELECT coalesce(sum(requests), 0), coalesce(sum(tokens), 0), {SUM_OF_COSTS} FROM forgotten
             WHERE key = ? AND since >= ?"
        );
        let forgotten = |since: i64| {
            connection.query_row(&forgotten, params![key, since], |row| {
                Ok((number(row, 0)?, number(row, 1)?, sum_of_costs(row, 2)?))
            })
        };
        let (forgotten_since, forgotten) = (forgotten(since)?, forgotten(0)?);
        Ok(Self {
            since: Own::of(connection, key, since)?,
            forgotten_since,
            held: Own::of(connection, key, i64::MIN)?,
            forgotten,
        })
    }
}

impl Own {
    fn of(connection: &Connection, key: &str, since: i64) -> Result<Self, rusqlite::Error> {
        let sql = format!(
            "SELECT count(*), coalesce(sum({PROMPT}) {USED}, 0), coalesce(sum({COMPLETION}) {USED}, 0), {SUM_OF_COSTS}
             FROM request WHERE key = ? AND id >= ? AND status NOT IN ('open', 'refused')"
        );
        connection.query_row(&sql, params![key, since], |row| {
            Ok(Self {
                requests: number(row, 0)?,
                prompt_tokens: number(row, 1)?,
                completion_tokens: number(row, 2)?,
                cost: sum_of_costs(row, 3)?,
            })
        })
    }
}

fn number(row: &Row<'_>, index: usize) -> Result<u64, rusqlite::Error> {
    Ok(row.get::<_, i64>(index)?.max(0).cast_unsigned())
}
