//! `[cache]`, and the `cache` of a route.

use std::time::Duration;

use super::super::defaults;
use super::super::reader::{Reader, Table};
use super::super::types::{
    CacheConfig, CacheReplayConfig, CacheRetriesConfig, CacheScopeConfig, CacheTerms,
    CacheWhenConfig,
};
use crate::call::Keeps;

/// An answer that is stale as soon as it is there would be kept for nothing.
const SHORTEST_TTL: Duration = Duration::from_secs(1);
/// Longer than any process lives.
const LONGEST_TTL: Duration = Duration::from_secs(400 * 86_400);
/// Below that there is no room for an answer.
const SMALLEST: u64 = 1 << 10;
const LARGEST: u64 = 1 << 40;
/// Whoever asks again later than that asks for something else.
const LONGEST_WINDOW: Duration = Duration::from_secs(86_400);
/// Nobody waits for a client that has left for longer.
const LONGEST_LINGER: Duration = Duration::from_secs(600);
/// A client's key takes some hundred bytes.
const MOST_ENTRIES: u64 = 100_000_000;
/// Whoever waits longer has long had an answer of its own.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Reads `[cache]`; `has_redis` says whether there is something to share answers by.
pub(super) fn cache(
    root: &mut Table<'_, '_>,
    has_redis: bool,
    reader: &mut Reader<'_>,
) -> CacheConfig {
    let Some(mut table) = reader.table(root, "cache") else {
        return defaults::CACHE;
    };
    let table = &mut table;
    let base = CacheTerms {
        enabled: true,
        ..defaults::CACHE.terms
    };
    let terms = terms(table, reader, &base);
    let cache = CacheConfig {
        retries: retries(table, reader, terms.enabled),
        counts_saved: reader
            .choice(
                table,
                "hits_count_as",
                &[("request", false), ("tokens", true)],
            )
            .unwrap_or(defaults::CACHE.counts_saved),
        terms,
        max_bytes: reader.size(
            table,
            "max_bytes",
            defaults::CACHE.max_bytes,
            SMALLEST..=LARGEST,
        ),
        max_entry: reader.size(
            table,
            "max_entry",
            defaults::CACHE.max_entry,
            SMALLEST..=LARGEST,
        ),
        max_ttl: reader.duration(
            table,
            "max_ttl",
            defaults::CACHE.max_ttl,
            SHORTEST_TTL..=LONGEST_TTL,
        ),
        redis: reader.flag(table, "redis", has_redis),
        redis_wait: reader.duration(
            table,
            "redis_wait",
            defaults::CACHE.redis_wait,
            Duration::ZERO..=LONGEST_WAIT,
        ),
        redis_queue: reader.size(
            table,
            "redis_queue",
            defaults::CACHE.redis_queue,
            SMALLEST..=LARGEST,
        ),
    };
    if cache.redis && !has_redis {
        let at = table.name_at("redis");
        let message = "has no `[redis]` to keep answers in; write one, or leave this out";
        reader.error(&at, message);
    }
    if cache.max_entry > cache.max_bytes && cache.terms.enabled {
        let at = table.name_at("max_entry");
        reader.warning(
            &at,
            "is more than `max_bytes`, which no answer can be larger than; write less",
        );
    }
    reader.finish(table);
    cache
}

fn retries(
    parent: &mut Table<'_, '_>,
    reader: &mut Reader<'_>,
    enabled: bool,
) -> CacheRetriesConfig {
    let base = CacheRetriesConfig {
        enabled,
        ..defaults::CACHE.retries
    };
    let Some(mut table) = reader.table(parent, "retries") else {
        return base;
    };
    let table = &mut table;
    let windows = SHORTEST_TTL..=LONGEST_WINDOW;
    let sizes = SMALLEST..=LARGEST;
    let retries = CacheRetriesConfig {
        enabled: reader.flag(table, "enabled", base.enabled),
        window: reader.duration(table, "window", base.window, windows),
        linger: reader.duration(
            table,
            "linger",
            base.linger,
            Duration::ZERO..=LONGEST_LINGER,
        ),
        max_bytes: reader.size(table, "max_bytes", base.max_bytes, sizes),
        max_entries: reader.count(table, "max_entries", base.max_entries, 1..=MOST_ENTRIES),
    };
    reader.finish(table);
    retries
}

/// Reads the `cache` of a key or a team.
pub(super) fn keeps(table: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> Option<Keeps> {
    reader.choice(
        table,
        "cache",
        &Keeps::ALL.map(|keeps| (keeps.as_str(), keeps)),
    )
}

/// Reads the `cache` of a route, which leaves out what is as in `[cache]`.
pub(super) fn overrides(
    parent: &mut Table<'_, '_>,
    reader: &mut Reader<'_>,
    base: &CacheTerms,
) -> Option<CacheTerms> {
    let mut table = reader.table(parent, "cache")?;
    let terms = terms(&mut table, reader, base);
    reader.finish(&table);
    Some(terms)
}

fn terms(table: &mut Table<'_, '_>, reader: &mut Reader<'_>, base: &CacheTerms) -> CacheTerms {
    let whens = [
        ("deterministic", CacheWhenConfig::Deterministic),
        ("always", CacheWhenConfig::Always),
        ("on-request", CacheWhenConfig::OnRequest),
    ];
    let scopes = [
        ("team", CacheScopeConfig::Team),
        ("key", CacheScopeConfig::Key),
        ("global", CacheScopeConfig::Global),
    ];
    let replays = [
        ("at-once", CacheReplayConfig::AtOnce),
        ("recorded", CacheReplayConfig::Recorded),
    ];
    CacheTerms {
        enabled: reader.flag(table, "enabled", base.enabled),
        when: reader.choice(table, "when", &whens).unwrap_or(base.when),
        scope: reader.choice(table, "scope", &scopes).unwrap_or(base.scope),
        ttl: reader.duration(table, "ttl", base.ttl, SHORTEST_TTL..=LONGEST_TTL),
        tools: reader.flag(table, "tools", base.tools),
        stale_if_error: reader.duration(
            table,
            "stale_if_error",
            base.stale_if_error,
            Duration::ZERO..=LONGEST_TTL,
        ),
        replay: reader
            .choice(table, "replay", &replays)
            .unwrap_or(base.replay),
        finish: reader.flag(table, "finish", base.finish),
    }
}
