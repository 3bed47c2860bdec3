//! `/admin/v1/cache`: how the cache is doing, and answers that are to be forgotten.

use http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value};

use super::Params;
use super::answer::{Answer, Problem, json};
use super::query::Query;
use crate::metrics::{CacheCounts, CacheRemoved, CacheState, Metrics};
use crate::store::cache::Cache;

const PARAMETERS: &[&str] = &["key", "team", "model", "all"];

#[derive(Serialize)]
struct State {
    entries: u64,
    bytes: u64,
    max_bytes: u64,
    max_entry: u64,
    stored: u64,
    too_large: u64,
    endpoints: Vec<Endpoint>,
}

#[derive(Serialize)]
struct Endpoint {
    endpoint: &'static str,
    hits: u64,
    misses: u64,
    joined: u64,
    bypassed: u64,
    /// Hits and joined among what was looked up; `None`: nothing was.
    hit_ratio: Option<f64>,
}

/// `GET /admin/v1/cache`
pub(super) fn state(params: &Params) -> Answer {
    let seen = params.cache.snapshot();
    let bounds = params.cache.bounds();
    let endpoints = params.metrics.cache_counts().into_iter();
    let endpoints = endpoints.map(|(endpoint, counts)| {
        let CacheCounts {
            hits,
            misses,
            joined,
            bypassed,
        } = counts;
        let looked_up = hits + misses + joined;
        let ratio = (hits + joined) as f64 / looked_up as f64;
        Endpoint {
            endpoint,
            hits,
            misses,
            joined,
            bypassed,
            hit_ratio: (looked_up > 0).then_some((ratio * 1e4).round() / 1e4),
        }
    });
    let state = State {
        entries: seen.entries,
        bytes: seen.bytes,
        max_bytes: bounds.bytes,
        max_entry: bounds.entry,
        stored: seen.stored,
        too_large: seen.too_large,
        endpoints: endpoints.collect(),
    };
    json(StatusCode::OK, &state)
}

/// `DELETE /admin/v1/cache?team=…`: forgets the answers that all of the parameters are true of, and notes that in the audit.
pub(super) async fn purge(params: &Params, query: Option<&str>) -> Result<Answer, Problem> {
    let mut query = Query::read(query, PARAMETERS)?;
    let all = query.parse("all", |word| match word {
        "true" => Ok(()),
        _ => Err("must be true, or left out".to_owned()),
    })?;
    let wanted = ["key", "team", "model"].map(|name| (name, query.take(name)));
    let [key, team, model] = wanted.each_ref().map(|(_, value)| value.as_deref());
    match (all, key.or(team).or(model)) {
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
    let is = |wanted: Option<&str>, has: Option<&str>| wanted.is_none_or(|name| has == Some(name));
    let purged = params.cache.purge(|tags| {
        is(key, Some(&tags.key)) && is(team, tags.team.as_deref()) && is(model, Some(&tags.model))
    });
    let mut detail = Map::new();
    for (name, value) in wanted {
        if let Some(value) = value {
            detail.insert(name.into(), value.into());
        }
    }
    detail.insert("purged".into(), Value::from(purged));
    if let Err(error) = params.directory.note("cache.purge", detail).await {
        tracing::error!(%error, "a purge of the cache cannot be noted in the audit");
    }
    let mut answer = Map::new();
    answer.insert("purged".into(), Value::from(purged));
    Ok(json(StatusCode::OK, &answer))
}

/// Brings the metrics of the cache up to date.
pub(super) fn observe(metrics: &Metrics, cache: &Cache) {
    let seen = cache.snapshot();
    metrics.set_cache(&CacheState {
        entries: seen.entries,
        bytes: seen.bytes,
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
}
