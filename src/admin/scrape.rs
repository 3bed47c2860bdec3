//! `/metrics`: brings the gauges up to date, and tells all of it.
//!
//! Off the threads that serve requests, and one scrape at a time: however many ask, requests wait for none of them. The text
//! format is the only one there is, whatever the `Accept` header wants.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use tokio::sync::Mutex;

use super::answer::{Answer, error, text};
use super::{Params, books, cache, health};
use crate::log;
use crate::metrics::{self, Known, Metrics};
use crate::store::limits::{Headroom, Time};
use crate::upstream::Dispatch;

/// `GET /metrics`
pub(super) async fn answer(params: &Arc<Params>, scraping: &Arc<Mutex<()>>) -> Answer {
    let turn = Arc::clone(scraping).lock_owned().await;
    let limits = limits(params).await;
    let params = Arc::clone(params);
    let rendering = tokio::task::spawn_blocking(move || {
        // A client that leaves ends the turn of nobody who comes after it.
        let _turn = turn;
        observe(&params, &limits);
        params.metrics.render()
    });
    let failure = match rendering.await {
        Ok(Ok(body)) => return text(StatusCode::OK, metrics::CONTENT_TYPE, body.into()),
        Ok(Err(failure)) => failure.to_string(),
        Err(failure) => failure.to_string(),
    };
    tracing::error!(error = failure, "cannot write the metrics");
    error(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal_error",
        "The metrics cannot be written.",
    )
}

/// Returns what is left of every limit: as all gateways count it together, or while they cannot, this one alone.
async fn limits(params: &Params) -> Vec<Headroom> {
    let together = match &params.shared {
        Some(shared) => shared.all().await,
        None => None,
    };
    together.unwrap_or_else(|| params.directory.limits().all(Time::now()))
}

fn observe(params: &Params, limits: &[Headroom]) {
    let Params {
        metrics,
        dispatch,
        drain,
        directory,
        shared,
        cache,
        shared_cache,
        ..
    } = params;
    let dispatch = dispatch.load();
    health::observe(metrics, &dispatch, drain, directory.ledger());
    books::observe(metrics, directory.ledger(), directory.budgets());
    books::observe_limits(metrics, limits);
    if let Some(shared) = shared {
        books::observe_shared(metrics, shared);
    }
    cache::observe(metrics, cache, shared_cache.as_deref());
    metrics.set_dropped_lines(log::dropped_lines());
    forget(metrics, params, &dispatch);
}

/// Forgets the series of what is no longer there.
fn forget(metrics: &Metrics, params: &Params, dispatch: &Dispatch) {
    let ring = params.directory.ring().load_full();
    let mut known = Known {
        models: dispatch.labels().collect(),
        upstreams: dispatch.readiness().map(|(name, _)| name).collect(),
        ..Known::default()
    };
    for caller in ring.callers() {
        known.keys.insert(&caller.key);
        known.teams.extend(caller.team.as_deref());
    }
    metrics.forget_gone(&known, Instant::now());
}
