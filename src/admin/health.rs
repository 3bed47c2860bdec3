//! Whether the gateway can serve.

use http::StatusCode;
use serde::Serialize;

use super::answer::{Answer, text};
use crate::metrics::Metrics;
use crate::server::Drain;
use crate::store::ledger::Ledger;
use crate::upstream::Dispatch;

#[derive(Serialize)]
struct Readiness<'a> {
    ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    upstreams: Vec<UpstreamReadiness<'a>>,
}

#[derive(Serialize)]
struct UpstreamReadiness<'a> {
    name: &'a str,
    ready: bool,
}

fn readiness<'a>(dispatch: &'a Dispatch, drain: &Drain, ledger: &Ledger) -> Readiness<'a> {
    let upstreams: Vec<_> = dispatch
        .readiness()
        .map(|(name, ready)| UpstreamReadiness { name, ready })
        .collect();
    let reason = if drain.has_begun() {
        Some("draining")
    } else if upstreams.iter().all(|upstream| !upstream.ready) {
        Some("no upstream is ready")
    } else if !ledger.is_ready() {
        Some("the ledger cannot be written")
    } else {
        None
    };
    Readiness {
        ready: reason.is_none(),
        reason,
        upstreams,
    }
}

/// Answers `/readyz`: 200 when calls can be served, 503 when they should go elsewhere.
pub(super) fn ready(dispatch: &Dispatch, drain: &Drain, ledger: &Ledger) -> Answer {
    let readiness = readiness(dispatch, drain, ledger);
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    // Names and booleans always serialize.
    text(
        status,
        "application/json",
        serde_json::to_vec(&readiness).unwrap_or_default().into(),
    )
}

/// Brings the gauges of readiness up to date.
pub(super) fn observe(metrics: &Metrics, dispatch: &Dispatch, drain: &Drain, ledger: &Ledger) {
    let readiness = readiness(dispatch, drain, ledger);
    metrics.set_ready(readiness.ready);
    for (upstream, snapshot) in dispatch.snapshots() {
        metrics.set_upstream(upstream, snapshot);
    }
    let is_known = |name: &str| readiness.upstreams.iter().any(|known| known.name == name);
    metrics.keep_upstreams(is_known);
}
