//! `/metrics`: brings the gauges up to date, and tells all of it.
//!
//! Off the threads that serve requests, and one scrape at a time: however many ask, requests wait for none of them. The text
//! format is the only one there is, whatever the `Accept` header wants.
//!
//! What gateways count together is asked for once a second at the most: however many scrape, and however long Redis takes,
//! Redis is asked no more often and a scrape waits for one answer. Nothing is decided by it, and no scraper looks as often.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::sync::Mutex;
use tokio::time;

use super::answer::{Answer, error, text};
use super::{Params, books, cache, health};
use crate::log;
use crate::metrics::{self, Known, Metrics};
use crate::store::limits::{Headroom, Time};
use crate::upstream::Dispatch;

/// For how long an answer of Redis will do for all who scrape.
const FRESH: Duration = Duration::from_secs(1);

/// What was last heard of the limits that gateways count together: one answer, as many as there are limits.
#[derive(Default)]
pub(super) struct Together {
    /// When, and what is left; `None`: Redis was away.
    heard: Option<(time::Instant, Option<Vec<Headroom>>)>,
}

/// `GET /metrics`
pub(super) async fn answer(params: &Arc<Params>, scraping: &Arc<Mutex<Together>>) -> Answer {
    let mut turn = Arc::clone(scraping).lock_owned().await;
    let limits = limits(params, &mut turn).await;
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
async fn limits(params: &Params, together: &mut Together) -> Vec<Headroom> {
    let known = match &params.shared {
        Some(shared) => together.hear(async || shared.all().await).await,
        None => None,
    };
    known.unwrap_or_else(|| params.directory.limits().all(Time::now()))
}

impl Together {
    /// Returns what is left, and asks for it where the last answer is too old. `None`: Redis is away.
    async fn hear(
        &mut self,
        ask: impl AsyncFnOnce() -> Option<Vec<Headroom>>,
    ) -> Option<Vec<Headroom>> {
        if let Some((at, known)) = &self.heard
            && at.elapsed() < FRESH
        {
            return known.clone();
        }
        let known = ask().await;
        self.heard = Some((time::Instant::now(), known.clone()));
        known
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn redis_is_asked_once_a_second_whatever_it_says() {
        let mut together = Together::default();
        let slow = async |answer: Option<Vec<Headroom>>| {
            time::sleep(Duration::from_millis(50)).await;
            answer
        };
        for answer in [Some(Vec::new()), None] {
            assert_eq!(
                together.hear(async || slow(answer.clone()).await).await,
                answer
            );
            time::advance(Duration::from_millis(999)).await;
            let unasked = async || panic!("the last answer is fresh");
            assert_eq!(together.hear(unasked).await, answer);
            time::advance(Duration::from_millis(1)).await;
        }
        let again = Some(Vec::new());
        assert_eq!(together.hear(async || again.clone()).await, again);
    }
}
