//! What one key has used: so far, and in this month.

use rusqlite::{Connection, params};

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
    /// From the given time on.
    pub since: Own,
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
        let sums = |filter: &str| {
            format!(
                "count(*) {filter}, coalesce(sum({PROMPT}) {filter}, 0),
                 coalesce(sum({COMPLETION}) {filter}, 0), coalesce(sum(cost) {filter}, 0)"
            )
        };
        let sql = format!(
            "SELECT {}, {} FROM request WHERE key = ?1 AND status <> 'open'",
            sums(""),
            sums("FILTER (WHERE id >= ?2)"),
        );
        let (held, since) = connection.query_row(&sql, params![key, since], |row| {
            let number =
                |index| Ok::<_, rusqlite::Error>(row.get::<_, i64>(index)?.max(0).cast_unsigned());
            let own = |first: usize| {
                Ok::<_, rusqlite::Error>(Own {
                    requests: number(first)?,
                    prompt_tokens: number(first + 1)?,
                    completion_tokens: number(first + 2)?,
                    cost: Nanos::new(number(first + 3)?),
                })
            };
            Ok((own(0)?, own(4)?))
        })?;
        let forgotten = connection.query_row(
            "SELECT coalesce(sum(requests), 0), coalesce(sum(tokens), 0), coalesce(sum(cost), 0)
             FROM forgotten WHERE key = ?",
            [key],
            |row| {
                let number = |index| {
                    Ok::<_, rusqlite::Error>(row.get::<_, i64>(index)?.max(0).cast_unsigned())
                };
                Ok((number(0)?, number(1)?, Nanos::new(number(2)?)))
            },
        )?;
        Ok(Self {
            since,
            held,
            forgotten,
        })
    }
}
