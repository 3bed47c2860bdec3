//! What was used, added up.

use std::time::SystemTime;

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};

use super::run::micros;
use super::sum::{SUM_OF_COSTS, sum_of_costs};
use crate::money::Nanos;

/// What rows are added up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// The gateway key's name.
    Key,
    /// The key's team.
    Team,
    /// The model asked for.
    Model,
    /// The upstream that answered.
    Upstream,
    /// The day, UTC: `2026-11-25`.
    Day,
    /// The hour, UTC: `2026-11-25T21:00Z`.
    Hour,
}

/// Which rows are added up, and how.
#[derive(Clone, Debug)]
pub struct Query {
    /// Requests that arrived at this time or later.
    pub from: Option<SystemTime>,
    /// Requests that arrived before this time.
    pub to: Option<SystemTime>,
    /// Requests of this key alone.
    pub key: Option<String>,
    /// Requests of this team alone.
    pub team: Option<String>,
    /// What they are added up by.
    pub group_by: GroupBy,
}

/// What some requests used. Requests that are still open do not count, nor do those that were refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// How many they are.
    pub requests: u64,
    /// Tokens of prompts, all classes.
    pub prompt_tokens: u64,
    /// Generated tokens, all classes.
    pub completion_tokens: u64,
    /// Tokens of prompts that upstreams read from their caches.
    pub cached_tokens: u64,
    /// Generated tokens that clients did not see.
    pub reasoning_tokens: u64,
    /// What they cost, as far as prices are known.
    pub cost: Nanos,
    /// How many of them used tokens at an unknown price.
    pub unpriced_requests: u64,
    /// How many of them were answered from the cache, or by what another one was answered: what they would have used is in
    /// none of the numbers above.
    pub cache_hits: u64,
    /// The tokens that those did not use, all classes of prompts and answers.
    pub saved_tokens: u64,
}

/// The sums of each group, and of all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Each group's name and sums, the dearest first, hours and days in their order. `None`: requests that have no such
    /// thing.
    pub groups: Vec<(Option<String>, Sums)>,
    /// The sums of all.
    pub total: Sums,
}

/// What answers from the cache would have used was used once, by another row.
pub(super) const USED: &str =
    "FILTER (WHERE coalesce(cache, '') NOT IN ('hit', 'joined', 'stale'))";
/// What was answered: a call that joined another one may have left, or failed with it.
const SAVED: &str = "FILTER (WHERE cache IN ('hit', 'joined', 'stale') AND status = 'complete')";

impl GroupBy {
    /// Every word that [`parse`](Self::parse) knows.
    pub const WORDS: [&'static str; 6] = ["team", "key", "model", "upstream", "day", "hour"];

    /// Reads the word by which users ask for it.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "team" => Self::Team,
            "key" => Self::Key,
            "model" => Self::Model,
            "upstream" => Self::Upstream,
            "day" => Self::Day,
            "hour" => Self::Hour,
            _ => return None,
        })
    }

    /// Returns the word by which users ask for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Team => "team",
            Self::Key => "key",
            Self::Model => "model",
            Self::Upstream => "upstream",
            Self::Day => "day",
            Self::Hour => "hour",
        }
    }

    fn expression(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Team => "team",
            Self::Model => "model",
            Self::Upstream => "upstream",
            Self::Day => "strftime('%Y-%m-%d', id / 1000000, 'unixepoch')",
            Self::Hour => "strftime('%Y-%m-%dT%H:00Z', id / 1000000, 'unixepoch')",
        }
    }

    fn order(self) -> &'static str {
        match self {
            Self::Key | Self::Team | Self::Model | Self::Upstream => "total(cost) DESC, 2 DESC, 1",
            Self::Day | Self::Hour => "1",
        }
    }
}

impl Query {
    /// Adds up.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn run(&self, connection: &Connection) -> Result<Report, rusqlite::Error> {
        let mut conditions = vec!["status NOT IN ('open', 'refused')"];
        let mut values = Vec::new();
        let mut only = |condition, value: Option<Value>| {
            if let Some(value) = value {
                conditions.push(condition);
                values.push(value);
            }
        };
        only("id >= ?", self.from.map(|time| micros(time).into()));
        only("id < ?", self.to.map(|time| micros(time).into()));
        only("key = ?", self.key.clone().map(Into::into));
        only("team = ?", self.team.clone().map(Into::into));
        // Only words of this file are put into the text; whatever came from outside is bound.
        let sql = format!(
            "SELECT {}, count(*),
                coalesce(sum(input_tokens + cached_input_tokens + cache_write_tokens + input_audio_tokens) {USED}, 0),
                coalesce(sum(output_tokens + reasoning_tokens + output_audio_tokens) {USED}, 0),
                coalesce(sum(cached_input_tokens) {USED}, 0), coalesce(sum(reasoning_tokens) {USED}, 0), {SUM_OF_COSTS},
                coalesce(sum(provenance IS NOT NULL AND cost IS NULL), 0), count(*) {SAVED},
                coalesce(sum(input_tokens + cached_input_tokens + cache_write_tokens + input_audio_tokens
                    + output_tokens + reasoning_tokens + output_audio_tokens) {SAVED}, 0)
             FROM request WHERE {} GROUP BY 1 ORDER BY {}",
            self.group_by.expression(),
            conditions.join(" AND "),
            self.group_by.order(),
        );
        let mut select = connection.prepare(&sql)?;
        let groups = select.query_map(params_from_iter(values), |row| {
            Ok((row.get::<_, Option<String>>(0)?, Sums::from_row(row)?))
        })?;
        let groups = groups.collect::<Result<Vec<_>, _>>()?;
        let mut total = Sums::default();
        for (_, sums) in &groups {
            total.add(sums);
        }
        Ok(Report { groups, total })
    }
}

impl Sums {
    fn from_row(row: &Row<'_>) -> Result<Self, rusqlite::Error> {
        let number =
            |index| Ok::<_, rusqlite::Error>(row.get::<_, i64>(index)?.max(0).cast_unsigned());
        Ok(Self {
            requests: number(1)?,
            prompt_tokens: number(2)?,
            completion_tokens: number(3)?,
            cached_tokens: number(4)?,
            reasoning_tokens: number(5)?,
            cost: sum_of_costs(row, 6)?,
            unpriced_requests: number(8)?,
            cache_hits: number(9)?,
            saved_tokens: number(10)?,
        })
    }

    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.completion_tokens = self
            .completion_tokens
            .saturating_add(other.completion_tokens);
        self.cached_tokens = self.cached_tokens.saturating_add(other.cached_tokens);
        self.reasoning_tokens = self.reasoning_tokens.saturating_add(other.reasoning_tokens);
        self.cost = self.cost.saturating_add(other.cost);
        self.unpriced_requests += other.unpriced_requests;
        self.cache_hits += other.cache_hits;
        self.saved_tokens = self.saved_tokens.saturating_add(other.saved_tokens);
    }
}
