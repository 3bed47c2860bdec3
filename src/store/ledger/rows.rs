//! The statements that write rows.

use std::sync::LazyLock;
use std::time::Duration;

use rusqlite::{CachedStatement, Error, ToSql, Transaction};

use super::ServedFrom;
use super::entry::{Attempt, Counts, Entry, Intent};
use super::run::micros;
use crate::money::Nanos;

/// What is known when a row is opened. The id is the first parameter of each statement.
const INTENT: [&str; 8] = [
    "request_id",
    "run",
    "serial",
    "key",
    "team",
    "endpoint",
    "model",
    "stream",
];

/// What is known when it is settled, and, by estimate, of some of it before.
const ENTRY: [&str; 25] = [
    "status",
    "upstream",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "input_audio_tokens",
    "output_tokens",
    "reasoning_tokens",
    "output_audio_tokens",
    "provenance",
    "cost",
    "tokens",
    "served_model",
    "http_status",
    "error",
    "served_from",
    "cache",
    "degraded",
    "attempts",
    "received_bytes",
    "sent_bytes",
    "queue_time",
    "upstream_time",
    "first_token_time",
    "total_time",
];

/// How many of them an open row has.
const OPEN_COLUMNS: usize = 12;

static OPEN: LazyLock<String> = LazyLock::new(|| insert(&ENTRY[..OPEN_COLUMNS]));

static SETTLED: LazyLock<String> = LazyLock::new(|| insert(&ENTRY));

static UPDATE: LazyLock<String> = LazyLock::new(|| {
    // The numbers are those of `SETTLED`, so that both are filled in by the same hand.
    let columns = ENTRY.iter().zip(INTENT.len() + 2..);
    let columns = columns.map(|(column, number)| format!("{column} = ?{number}"));
    let columns: Vec<_> = columns.collect();
    format!("UPDATE request SET {} WHERE id = ?1", columns.join(", "))
});

const ATTEMPT: &str = "INSERT OR REPLACE INTO attempt (request, number, upstream, endpoint, model, began, time, result,
    http_status, input_tokens, cached_input_tokens, cache_write_tokens, input_audio_tokens, output_tokens,
    reasoning_tokens, output_audio_tokens, provenance, cost)
 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)";

/// Writes rows in one transaction. The statements are looked up once in it: they are long, and as keys of a cache dear.
pub(super) struct Rows<'t> {
    run: i64,
    open: CachedStatement<'t>,
    settled: CachedStatement<'t>,
    update: CachedStatement<'t>,
    attempt: CachedStatement<'t>,
}

/// Fills in the parameters of a statement, one behind the other.
struct Parameters<'s, 't> {
    statement: &'s mut CachedStatement<'t>,
    next: usize,
}

impl<'t> Rows<'t> {
    /// Writes rows of a run.
    pub(super) fn new(transaction: &'t Transaction<'_>, run: i64) -> Result<Self, Error> {
        Ok(Self {
            run,
            open: transaction.prepare_cached(&OPEN)?,
            settled: transaction.prepare_cached(&SETTLED)?,
            update: transaction.prepare_cached(&UPDATE)?,
            attempt: transaction.prepare_cached(ATTEMPT)?,
        })
    }

    /// Writes an open row under the first number that is free from the time of its arrival on.
    pub(super) fn open(&mut self, serial: u64, intent: &Intent) -> Result<i64, Error> {
        let mut row = Parameters::of(&mut self.open);
        row.intent(self.run, serial, intent)?;
        row.bind("open")?;
        row.bind(intent.upstream.as_deref())?;
        row.counts(intent.estimate, None)?;
        row.bind(integer(intent.estimate.map_or(0, |c| c.usage.total())))?;
        first_free(&mut self.open, intent)
    }

    /// Writes the end of a request into its open row.
    pub(super) fn update(&mut self, id: i64, entry: &Entry) -> Result<i64, Error> {
        let mut row = Parameters::of(&mut self.update);
        row.next += INTENT.len();
        row.entry(entry)?;
        self.update.raw_bind_parameter(1, id)?;
        self.update.raw_execute()?;
        self.attempts(id, entry)?;
        Ok(id)
    }

    /// Writes all of a request at once.
    pub(super) fn insert(
        &mut self,
        serial: u64,
        intent: &Intent,
        entry: &Entry,
    ) -> Result<i64, Error> {
        let mut row = Parameters::of(&mut self.settled);
        row.intent(self.run, serial, intent)?;
        row.entry(entry)?;
        let id = first_free(&mut self.settled, intent)?;
        self.attempts(id, entry)?;
        Ok(id)
    }

    fn attempts(&mut self, request: i64, entry: &Entry) -> Result<(), Error> {
        for (number, attempt) in (1_i64..).zip(&entry.attempts) {
            let mut row = Parameters::of(&mut self.attempt);
            row.attempt(number, attempt)?;
            self.attempt.raw_bind_parameter(1, request)?;
            self.attempt.raw_execute()?;
        }
        Ok(())
    }
}

impl<'s, 't> Parameters<'s, 't> {
    /// Begins behind the id.
    fn of(statement: &'s mut CachedStatement<'t>) -> Self {
        Self { statement, next: 2 }
    }

    fn bind(&mut self, value: impl ToSql) -> Result<(), Error> {
        self.statement.raw_bind_parameter(self.next, value)?;
        self.next += 1;
        Ok(())
    }

    fn intent(&mut self, run: i64, serial: u64, intent: &Intent) -> Result<(), Error> {
        self.bind(&*intent.request_id)?;
        self.bind(run)?;
        self.bind(integer(serial))?;
        self.bind(&*intent.key)?;
        self.bind(intent.team.as_deref())?;
        self.bind(&*intent.endpoint)?;
        self.bind(intent.model.as_deref())?;
        self.bind(intent.stream)
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), Error> {
        self.bind(entry.status.as_str())?;
        self.bind(entry.upstream.as_deref())?;
        self.counts(entry.counts, entry.cost())?;
        self.bind(integer(entry.tokens()))?;
        self.bind(entry.served_model.as_deref())?;
        self.bind(entry.http_status)?;
        self.bind(entry.error.as_deref())?;
        self.bind(entry.served_from.map(ServedFrom::as_str))?;
        self.bind(&*entry.cache)?;
        self.bind(entry.degraded)?;
        self.bind(integer(entry.attempts.len() as u64))?;
        self.bind(integer(entry.received_bytes))?;
        self.bind(integer(entry.sent_bytes))?;
        self.bind(duration(entry.times.queue))?;
        self.bind(entry.times.upstream.map(duration))?;
        self.bind(entry.times.first_token.map(duration))?;
        self.bind(duration(entry.times.total))
    }

    fn attempt(&mut self, number: i64, attempt: &Attempt) -> Result<(), Error> {
        self.bind(number)?;
        self.bind(&*attempt.upstream)?;
        self.bind(&*attempt.endpoint)?;
        self.bind(attempt.model.as_deref())?;
        self.bind(duration(attempt.began))?;
        self.bind(attempt.time.map(duration))?;
        self.bind(&*attempt.result)?;
        self.bind(attempt.http_status)?;
        self.counts(attempt.counts, None)
    }

    /// Fills in tokens, provenance and cost; `free` is the cost of what counts nothing.
    fn counts(&mut self, counts: Option<Counts>, free: Option<Nanos>) -> Result<(), Error> {
        let usage = counts.map(|counts| counts.usage).unwrap_or_default();
        for (_, tokens) in usage.classes() {
            self.bind(integer(tokens))?;
        }
        self.bind(counts.map(|counts| counts.provenance.as_str()))?;
        let cost = counts.map_or(free, |counts| counts.cost);
        self.bind(cost.map(|cost| integer(cost.get())))
    }
}

fn insert(entry: &[&str]) -> String {
    let columns: Vec<_> = ["id"].iter().chain(&INTENT).chain(entry).copied().collect();
    let values: Vec<_> = (1..=columns.len())
        .map(|number| format!("?{number}"))
        .collect();
    format!(
        "INSERT INTO request ({}) VALUES ({}) ON CONFLICT (id) DO NOTHING",
        columns.join(", "),
        values.join(", ")
    )
}

/// Tries numbers from the time of a request's arrival on, until one is taken.
fn first_free(insert: &mut CachedStatement<'_>, intent: &Intent) -> Result<i64, Error> {
    let mut id = micros(intent.received);
    loop {
        insert.raw_bind_parameter(1, id)?;
        if insert.raw_execute()? > 0 {
            return Ok(id);
        }
        id += 1;
    }
}

/// SQLite's integers are signed; what is larger than they are stays the largest of them.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn duration(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
