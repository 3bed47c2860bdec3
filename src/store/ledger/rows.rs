//! The statements that write rows.

use std::time::Duration;

use rusqlite::{Transaction, params};

use super::ServedFrom;
use super::entry::{Attempt, Counts, Entry, Intent};
use super::run::micros;
use crate::openai::usage::Usage;

/// Writes an open row under the first number that is free from the time of its arrival on.
pub(super) fn open_row(
    transaction: &Transaction<'_>,
    run: i64,
    serial: u64,
    intent: &Intent,
) -> Result<i64, rusqlite::Error> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO request (id, request_id, run, serial, key, team, endpoint, model, stream, status, input_tokens,
            cached_input_tokens, cache_write_tokens, input_audio_tokens, output_tokens, reasoning_tokens,
            output_audio_tokens, provenance, cost, tokens)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'open', ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)
         ON CONFLICT (id) DO NOTHING",
    )?;
    let (usage, provenance, cost) = columns(intent.estimate);
    first_free(intent, |id| {
        insert.execute(params![
            id,
            &*intent.request_id,
            run,
            integer(serial),
            &*intent.key,
            intent.team.as_deref(),
            &*intent.endpoint,
            intent.model.as_deref(),
            intent.stream,
            integer(usage.input),
            integer(usage.cached_input),
            integer(usage.cache_write),
            integer(usage.input_audio),
            integer(usage.output),
            integer(usage.reasoning),
            integer(usage.output_audio),
            provenance,
            cost,
            integer(usage.total()),
        ])
    })
}

/// Writes the end of a request into its open row.
pub(super) fn update_settled(
    transaction: &Transaction<'_>,
    id: i64,
    entry: &Entry,
) -> Result<i64, rusqlite::Error> {
    let (usage, provenance, cost) = columns(entry.counts);
    let mut update = transaction.prepare_cached(
        "UPDATE request SET served_model = ?2, upstream = ?3, status = ?4, http_status = ?5, error = ?6,
            input_tokens = ?7, cached_input_tokens = ?8, cache_write_tokens = ?9, input_audio_tokens = ?10,
            output_tokens = ?11, reasoning_tokens = ?12, output_audio_tokens = ?13, provenance = ?14, cost = ?15,
            served_from = ?16, cache = ?17, degraded = ?18, attempts = ?19, received_bytes = ?20, sent_bytes = ?21,
            queue_time = ?22, upstream_time = ?23, first_token_time = ?24, total_time = ?25, tokens = ?26
         WHERE id = ?1",
    )?;
    update.execute(params![
        id,
        entry.served_model.as_deref(),
        entry.upstream.as_deref(),
        entry.status.as_str(),
        entry.http_status,
        entry.error.as_deref(),
        integer(usage.input),
        integer(usage.cached_input),
        integer(usage.cache_write),
        integer(usage.input_audio),
        integer(usage.output),
        integer(usage.reasoning),
        integer(usage.output_audio),
        provenance,
        cost,
        entry.served_from.map(ServedFrom::as_str),
        &*entry.cache,
        entry.degraded,
        integer(entry.attempts.len() as u64),
        integer(entry.received_bytes),
        integer(entry.sent_bytes),
        duration(entry.times.queue),
        entry.times.upstream.map(duration),
        entry.times.first_token.map(duration),
        duration(entry.times.total),
        integer(entry.tokens()),
    ])?;
    attempt_rows(transaction, id, entry)?;
    Ok(id)
}

/// Writes all of a request at once.
pub(super) fn insert_settled(
    transaction: &Transaction<'_>,
    run: i64,
    serial: u64,
    intent: &Intent,
    entry: &Entry,
) -> Result<i64, rusqlite::Error> {
    let (usage, provenance, cost) = columns(entry.counts);
    let mut insert = transaction.prepare_cached(
        "INSERT INTO request (id, request_id, run, serial, key, team, endpoint, model, stream, served_model, upstream,
            status, http_status, error, input_tokens, cached_input_tokens, cache_write_tokens, input_audio_tokens,
            output_tokens, reasoning_tokens, output_audio_tokens, provenance, cost, served_from, cache, degraded,
            attempts, received_bytes, sent_bytes, queue_time, upstream_time, first_token_time, total_time, tokens)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22,
            ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31, ?32, ?33, ?34)
         ON CONFLICT (id) DO NOTHING",
    )?;
    let id = first_free(intent, |id| {
        insert.execute(params![
            id,
            &*intent.request_id,
            run,
            integer(serial),
            &*intent.key,
            intent.team.as_deref(),
            &*intent.endpoint,
            intent.model.as_deref(),
            intent.stream,
            entry.served_model.as_deref(),
            entry.upstream.as_deref(),
            entry.status.as_str(),
            entry.http_status,
            entry.error.as_deref(),
            integer(usage.input),
            integer(usage.cached_input),
            integer(usage.cache_write),
            integer(usage.input_audio),
            integer(usage.output),
            integer(usage.reasoning),
            integer(usage.output_audio),
            provenance,
            cost,
            entry.served_from.map(ServedFrom::as_str),
            &*entry.cache,
            entry.degraded,
            integer(entry.attempts.len() as u64),
            integer(entry.received_bytes),
            integer(entry.sent_bytes),
            duration(entry.times.queue),
            entry.times.upstream.map(duration),
            entry.times.first_token.map(duration),
            duration(entry.times.total),
            integer(entry.tokens()),
        ])
    })?;
    attempt_rows(transaction, id, entry)?;
    Ok(id)
}

/// Tries numbers from the time of a request's arrival on, until one is taken.
fn first_free(
    intent: &Intent,
    mut insert: impl FnMut(i64) -> Result<usize, rusqlite::Error>,
) -> Result<i64, rusqlite::Error> {
    let mut id = micros(intent.received);
    while insert(id)? == 0 {
        id += 1;
    }
    Ok(id)
}

fn attempt_rows(
    transaction: &Transaction<'_>,
    request: i64,
    entry: &Entry,
) -> Result<(), rusqlite::Error> {
    for (index, attempt) in entry.attempts.iter().enumerate() {
        attempt_row(transaction, request, index + 1, attempt)?;
    }
    Ok(())
}

fn attempt_row(
    transaction: &Transaction<'_>,
    request: i64,
    number: usize,
    attempt: &Attempt,
) -> Result<(), rusqlite::Error> {
    let (usage, provenance, cost) = columns(attempt.counts);
    let mut insert = transaction.prepare_cached(
        "INSERT OR REPLACE INTO attempt (request, number, upstream, endpoint, model, began, time, result, http_status,
            input_tokens, cached_input_tokens, cache_write_tokens, input_audio_tokens, output_tokens,
            reasoning_tokens, output_audio_tokens, provenance, cost)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
    )?;
    insert.execute(params![
        request,
        integer(number as u64),
        &*attempt.upstream,
        &*attempt.endpoint,
        attempt.model.as_deref(),
        duration(attempt.began),
        attempt.time.map(duration),
        &*attempt.result,
        attempt.http_status,
        integer(usage.input),
        integer(usage.cached_input),
        integer(usage.cache_write),
        integer(usage.input_audio),
        integer(usage.output),
        integer(usage.reasoning),
        integer(usage.output_audio),
        provenance,
        cost,
    ])?;
    Ok(())
}

fn columns(counts: Option<Counts>) -> (Usage, Option<&'static str>, Option<i64>) {
    match counts {
        Some(counts) => (
            counts.usage,
            Some(counts.provenance.as_str()),
            counts.cost.map(|cost| integer(cost.get())),
        ),
        None => (Usage::default(), None, None),
    }
}

/// SQLite's integers are signed; what is larger than they are stays the largest of them.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn duration(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
