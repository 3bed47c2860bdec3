//! The last requests, one by one, with their tries.

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use serde::Serialize;

use crate::money::Nanos;

/// How many rows are looked at for errors, however few are found: a ledger may hold years without one.
const LOOKED_AT: u32 = 100_000;

/// Which rows are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recent {
    /// Only those that did not end as they should, whoever is to blame.
    pub errors: bool,
    /// How many at the most.
    pub limit: u32,
    /// Only those before the one of this [`id`](Shown::id).
    pub before: Option<i64>,
}

/// A request that has ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shown {
    /// Its number: later rows have greater ones.
    pub id: i64,
    /// The header `x-request-id`.
    pub request_id: String,
    /// When its head had arrived, RFC 3339.
    pub time: String,
    /// The name of the key.
    pub key: String,
    /// The key's team.
    pub team: Option<String>,
    /// What was asked for.
    pub endpoint: String,
    /// The model asked for.
    pub model: Option<String>,
    /// The name by which the upstream was asked for it.
    pub served_model: Option<String>,
    /// The upstream that answered last.
    pub upstream: Option<String>,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// `complete`, `failed`, `client_gone`, `interrupted` or `refused`.
    pub status: String,
    /// The HTTP status that was sent; `None`: none was.
    pub http_status: Option<u16>,
    /// Why it failed: a word of the closed vocabulary of causes.
    pub cause: Option<String>,
    /// Tokens of the prompt, all classes.
    pub prompt_tokens: i64,
    /// Generated tokens, all classes.
    pub completion_tokens: i64,
    /// What it cost, in US dollars; `None`: the price is not known.
    pub cost: Option<String>,
    /// What the cache did: `bypass`, `hit`, `miss`, `joined` or `stale`.
    pub cache: Option<String>,
    /// From the head to the first content that left for the client, in milliseconds.
    pub first_token_ms: Option<f64>,
    /// From the head to the end of the answer, in milliseconds.
    pub total_ms: Option<f64>,
    /// The tries, in the order in which they began.
    pub attempts: Vec<ShownAttempt>,
}

/// One try at an upstream.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShownAttempt {
    /// The upstream.
    pub upstream: String,
    /// Which of its endpoints.
    pub endpoint: String,
    /// The name by which it was asked for the model.
    pub model: Option<String>,
    /// When it began, in milliseconds from the request's head.
    pub began_ms: f64,
    /// How long it took to begin an answer, or to fail, in milliseconds.
    pub time_ms: Option<f64>,
    /// `answered`, `abandoned`, `interrupted`, or the cause of its failure.
    pub result: String,
    /// The HTTP status that the upstream answered.
    pub http_status: Option<u16>,
}

impl Recent {
    /// Returns those rows, the newest first; errors out of the last 100,000 rows before [`before`](Self::before).
    ///
    /// # Errors
    /// SQLite's own.
    pub fn run(&self, connection: &Connection) -> Result<Vec<Shown>, rusqlite::Error> {
        let errors = match self.errors {
            true => format!(
                "AND (error IS NOT NULL OR status IN ('failed', 'interrupted'))
                AND id >= coalesce((SELECT id FROM request WHERE id < ?1 ORDER BY id DESC LIMIT 1 OFFSET {LOOKED_AT}), 0)"
            ),
            false => String::new(),
        };
        let sql = format!(
            "SELECT id, request_id, key, team, endpoint, model, served_model, upstream, stream, status, http_status, error,
                input_tokens + cached_input_tokens + cache_write_tokens + input_audio_tokens,
                output_tokens + reasoning_tokens + output_audio_tokens,
                cost, cache, first_token_time, total_time
             FROM request
             WHERE id < ?1 AND status <> 'open' {errors}
             ORDER BY id DESC LIMIT ?2"
        );
        let mut select = connection.prepare(&sql)?;
        let before = self.before.unwrap_or(i64::MAX);
        let rows = select.query_map(params![before, self.limit], Shown::from_row)?;
        let mut rows = rows.collect::<Result<Vec<_>, _>>()?;
        let mut select = connection.prepare(
            "SELECT upstream, endpoint, model, began, time, result, http_status FROM attempt WHERE request = ?1 ORDER BY number",
        )?;
        for row in &mut rows {
            let attempts = select.query_map([row.id], ShownAttempt::from_row)?;
            row.attempts = attempts.collect::<Result<_, _>>()?;
        }
        Ok(rows)
    }
}

impl Shown {
    fn from_row(row: &Row<'_>) -> Result<Self, rusqlite::Error> {
        let id = row.get(0)?;
        let time = Timestamp::from_microsecond(id).unwrap_or(Timestamp::UNIX_EPOCH);
        let cost: Option<i64> = row.get(14)?;
        Ok(Self {
            id,
            request_id: row.get(1)?,
            time: time.to_string(),
            key: row.get(2)?,
            team: row.get(3)?,
            endpoint: row.get(4)?,
            model: row.get(5)?,
            served_model: row.get(6)?,
            upstream: row.get(7)?,
            stream: row.get(8)?,
            status: row.get(9)?,
            http_status: row.get(10)?,
            cause: row.get(11)?,
            prompt_tokens: row.get(12)?,
            completion_tokens: row.get(13)?,
            cost: cost.map(|cost| Nanos::from_i64(cost).to_string()),
            cache: row.get(15)?,
            first_token_ms: row.get::<_, Option<f64>>(16)?.map(millis),
            total_ms: row.get::<_, Option<f64>>(17)?.map(millis),
            attempts: Vec::new(),
        })
    }
}

impl ShownAttempt {
    fn from_row(row: &Row<'_>) -> Result<Self, rusqlite::Error> {
        Ok(Self {
            upstream: row.get(0)?,
            endpoint: row.get(1)?,
            model: row.get(2)?,
            began_ms: millis(row.get(3)?),
            time_ms: row.get::<_, Option<f64>>(4)?.map(millis),
            result: row.get(5)?,
            http_status: row.get(6)?,
        })
    }
}

fn millis(micros: f64) -> f64 {
    micros / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests 1 to 9; the third of each three failed, after a try of its own, and the last is still open.
    fn ledger() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(include_str!("schema.sql"))
            .unwrap();
        for id in 1..=9 {
            let failed = id % 3 == 0;
            let status = match id {
                9 => "open",
                _ if failed => "failed",
                _ => "complete",
            };
            let row = params![
                id,
                status,
                failed.then_some("upstream_timeout"),
                failed.then_some(504)
            ];
            connection
                .execute(
                    "INSERT INTO request (id, request_id, run, key, endpoint, stream, status, error, http_status, input_tokens, cost, total_time)
                     VALUES (?1, 'r' || ?1, 1, 'alice', '/v1/chat/completions', 1, ?2, ?3, ?4, 3, 1500000, 2500)",
                    row,
                )
                .unwrap();
            connection
                .execute(
                    "INSERT INTO attempt (request, number, upstream, endpoint, began, time, result) VALUES (?1, 1, 'far', 'a', 10, 1500, ?2)",
                    params![id, if failed { "upstream_timeout" } else { "answered" }],
                )
                .unwrap();
        }
        connection
    }

    fn ids(recent: Recent) -> Vec<i64> {
        let rows = recent.run(&ledger()).unwrap();
        rows.iter().map(|row| row.id).collect()
    }

    #[test]
    fn the_newest_come_first_and_page_by_page() {
        let all = Recent {
            errors: false,
            limit: 3,
            before: None,
        };
        assert_eq!(ids(all), [8, 7, 6]);
        assert_eq!(
            ids(Recent {
                before: Some(6),
                ..all
            }),
            [5, 4, 3]
        );
        let none = Recent {
            before: Some(1),
            ..all
        };
        assert!(ids(none).is_empty());
    }

    #[test]
    fn errors_come_with_their_cause_and_tries() {
        let errors = Recent {
            errors: true,
            limit: 9,
            before: None,
        };
        assert_eq!(ids(errors), [6, 3]);
        let row = errors.run(&ledger()).unwrap().remove(0);
        assert_eq!(
            (row.cause.as_deref(), row.http_status),
            (Some("upstream_timeout"), Some(504))
        );
        assert_eq!((row.prompt_tokens, row.total_ms), (3, Some(2.5)));
        assert_eq!(row.cost.as_deref(), Some("0.0015"));
        assert_eq!(row.attempts.len(), 1);
        assert_eq!(
            (row.attempts[0].result.as_str(), row.attempts[0].time_ms),
            ("upstream_timeout", Some(1.5))
        );
    }
}
