//! `/admin/v1/cache`: how the cache is doing, and answers that are to be forgotten.

use http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value};

use super::Params;
use super::answer::{Answer, Problem, json};
use super::query::Query;
use crate::metrics::{CacheCounts, CacheRemoved, CacheState, Metrics, SharedCacheState};
use crate::pattern::Pattern;
use crate::store::cache::shared::{SharedCache, SharedState, Waited};
use crate::store::cache::{self, Cache, Forgotten, Purge, Room};
use crate::store::retries;

const PARAMETERS: &[&str] = &["key", "team", "model", "all"];

#[derive(Serialize)]
struct State {
    entries: u64,
    bytes: u64,
    max_bytes: u64,
    max_entry: u64,
    hits: u64,
    stored: u64,
    too_large: u64,
    /// What is held of answers that have not ended, or are still read.
    under_way: UnderWay,
    /// What is kept for clients that ask again.
    retries: Retries,
    /// What is kept together with other gateways; `None`: nothing.
    redis: Option<Redis>,
    endpoints: Vec<Endpoint>,
}

#[derive(Serialize)]
struct UnderWay {
    calls: usize,
    bytes: usize,
    max_bytes: usize,
}

#[derive(Serialize)]
struct Retries {
    entries: u64,
    /// Of each at least its share of `max_bytes`, were there `max_entries`.
    bytes: u64,
    /// Keys of clients that stand for a call.
    idempotency_keys: u64,
    max_bytes: u64,
    /// Of answers; of keys as many.
    max_entries: u64,
}

/// What this gateway has to do with the answers in Redis, since its start. How many there are nobody counts.
#[derive(Serialize)]
struct Redis {
    up: bool,
    hits: u64,
    stored: u64,
    failed: u64,
    dropped: u64,
    unreadable: u64,
    waits: Map<String, Value>,
}

#[derive(Serialize)]
struct Endpoint {
    endpoint: &'static str,
    hits: u64,
    misses: u64,
    joined: u64,
    /// Answered by what was too old, since the upstream failed.
    stale: u64,
    bypassed: u64,
    /// Hits and joined among what was looked up; `None`: nothing was.
    hit_ratio: Option<f64>,
}

/// `GET /admin/v1/cache`: what is kept, what is under way, what is kept for clients that ask again, each with its bounds; and
/// how often that helped, by endpoint.
pub(super) fn state(params: &Params) -> Answer {
    let seen = params.cache.snapshot();
    let bounds = params.cache.bounds();
    let endpoints = params.metrics.cache_counts().into_iter();
    let endpoints = endpoints.map(|(endpoint, counts)| {
        let CacheCounts {
            hits,
            misses,
            joined,
            stale,
            bypassed,
        } = counts;
        let looked_up = hits + misses + joined + stale;
        let ratio = (hits + joined) as f64 / looked_up as f64;
        Endpoint {
            endpoint,
            hits,
            misses,
            joined,
            stale,
            bypassed,
            hit_ratio: (looked_up > 0).then_some((ratio * 1e4).round() / 1e4),
        }
    });
    let state = State {
        entries: seen.entries,
        bytes: seen.bytes,
        max_bytes: bounds.bytes,
        max_entry: bounds.entry,
        hits: seen.hits,
        stored: seen.stored,
        too_large: seen.too_large,
        under_way: under_way(params.cache.room()),
        retries: retries(&params.retries),
        redis: params.shared_cache.as_deref().map(redis),
        endpoints: endpoints.collect(),
    };
    json(StatusCode::OK, &state)
}

fn under_way(room: &Room) -> UnderWay {
    let cache::UnderWay {
        calls,
        bytes,
        max_bytes,
    } = room.under_way();
    UnderWay {
        calls,
        bytes,
        max_bytes,
    }
}

fn retries(retries: &retries::Retries) -> Retries {
    let (seen, bounds) = (retries.snapshot(), retries.bounds());
    Retries {
        entries: seen.entries,
        bytes: seen.bytes,
        idempotency_keys: seen.names,
        max_bytes: bounds.bytes,
        max_entries: bounds.entries,
    }
}

fn redis(shared: &SharedCache) -> Redis {
    let SharedState {
        redis,
        hits,
        stored,
        failed,
        dropped,
        unreadable,
        waits,
    } = shared.snapshot();
    let waits = Waited::ALL.into_iter().zip(waits);
    Redis {
        up: redis.up,
        hits,
        stored,
        failed,
        dropped,
        unreadable,
        waits: waits
            .map(|(waited, count)| (waited.as_str().into(), count.into()))
            .collect(),
    }
}

/// `DELETE /admin/v1/cache?team=…`: forgets the answers that all of the parameters are true of, names or patterns such as
/// `gpt-*`, and notes that in the audit. `purged` says how many were kept for all who may share them, and
/// `purged_for_retries` how many for clients that ask again: an answer may be in both. Other gateways follow; `shared` says
/// whether Redis could be told at once.
pub(super) async fn purge(params: &Params, query: Option<&str>) -> Result<Answer, Problem> {
    let mut query = Query::read(query, PARAMETERS)?;
    let all = query.parse("all", |word| match word {
        "true" => Ok(()),
        _ => Err("must be true, or left out".to_owned()),
    })?;
    let wanted = ["key", "team", "model"].map(|name| (name, query.take(name)));
    let mut patterns = [None, None, None];
    for ((name, value), place) in wanted.iter().zip(&mut patterns) {
        if let Some(text) = value {
            let pattern = Pattern::parse(text);
            *place = Some(pattern.map_err(|error| Problem::invalid(name, &error.to_string()))?);
        }
    }
    let [key, team, model] = patterns;
    match (all, key.as_ref().or(team.as_ref()).or(model.as_ref())) {
        (None, None) => {
            let message = "says that all answers are to be forgotten; without it, name a `key`, a `team` or a `model`";
            return Err(Problem::invalid("all", message));
        }
        (Some(()), Some(_)) => {
            return Err(Problem::invalid(
                "all",
                "stands beside what it leaves no room for",
            ));
        }
        _ => {}
    }
    let purge = Purge { key, team, model };
    let wanted = wanted.into_iter();
    let detail = wanted.filter_map(|(name, value)| Some((name.to_owned(), value?.into())));
    let forgetting = forget(params.clone(), purge, detail.collect());
    // Whoever asked for it may leave: it is not done by halves.
    let (forgotten, told) = tokio::spawn(forgetting).await.map_err(|error| {
        tracing::error!(%error, "a purge of the cache has failed");
        let message = "The purge has failed; this is a bug.";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    })?;
    let mut answer = Map::new();
    count(forgotten, &mut answer);
    if let Some(told) = told {
        answer.insert("shared".into(), Value::from(told));
    }
    Ok(json(StatusCode::OK, &answer))
}

/// Says how many answers were forgotten.
fn count(forgotten: Forgotten, fields: &mut Map<String, Value>) {
    let Forgotten {
        shared,
        for_retries,
    } = forgotten;
    fields.insert("purged".into(), shared.into());
    fields.insert("purged_for_retries".into(), for_retries.into());
}

/// Forgets answers, and notes that; returns how many those were, and whether Redis could be told, where there is one.
async fn forget(
    params: Params,
    purge: Purge,
    mut detail: Map<String, Value>,
) -> (Forgotten, Option<bool>) {
    let (forgotten, told) = match &params.shared_cache {
        Some(shared) => {
            let purged = shared.purge(purge).await;
            (purged.forgotten, Some(purged.told))
        }
        None => {
            let is_gone = |tags: &cache::Tags| purge.takes(tags);
            (cache::purge(&params.cache, &params.retries, is_gone), None)
        }
    };
    count(forgotten, &mut detail);
    if let Err(error) = params.directory.note("cache.purge", detail).await {
        tracing::error!(%error, "a purge of the cache cannot be noted in the audit");
    }
    (forgotten, told)
}

/// Brings the metrics of the cache up to date.
pub(super) fn observe(metrics: &Metrics, cache: &Cache, shared: Option<&SharedCache>) {
    let seen = cache.snapshot();
    metrics.set_cache(&CacheState {
        entries: seen.entries,
        bytes: seen.bytes,
        hits: seen.hits,
        max_bytes: cache.bounds().bytes,
        stored: seen.stored,
        too_large: seen.too_large,
        removed: CacheRemoved {
            size: seen.removed.size,
            expired: seen.removed.expired,
            replaced: seen.removed.replaced,
            purged: seen.removed.purged,
        },
    });
    if let Some(shared) = shared {
        let seen = shared.snapshot();
        let waits = Waited::ALL.map(Waited::as_str).into_iter().zip(seen.waits);
        metrics.set_shared_cache(&SharedCacheState {
            up: seen.redis.up,
            calls: seen.redis.calls,
            failures: seen.redis.failures,
            outages: seen.redis.outages,
            waited: seen.redis.waited,
            hits: seen.hits,
            stored: seen.stored,
            failed: seen.failed,
            dropped: seen.dropped,
            unreadable: seen.unreadable,
            waits: waits.collect(),
        });
    }
}
