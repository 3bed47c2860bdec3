//! From the configuration's types to each room's own.

use std::sync::Arc;

use bytes::Bytes;

use super::AppError;
use crate::call::RequestId;
use crate::config::{Config, ServerConfig, UpstreamKind};
use crate::error::GatewayError;
use crate::metrics::Metrics;
use crate::middleware::accounting::Books;
use crate::middleware::admission::Rules;
use crate::middleware::explain::Explain;
use crate::middleware::respond::raw_response;
use crate::middleware::{api, cache, route};
use crate::server::{self, Drain, Observer, Tls};
use crate::stack;
use crate::store::keyring::CurrentKeyring;
use crate::traces::Traces;
use crate::upstream::Dispatch;

/// How far above the stack's bounds of a head the server's own lie: up to here clients get an envelope with their
/// request's id, beyond it only a canned one.
const HEAD_ROOM: usize = 2;

/// What the listeners are called.
pub(super) const DATA: &str = "data";
pub(super) const ADMIN: &str = "admin";

/// Reads the certificate of the data plane.
pub(super) fn tls(config: &Config) -> Result<Option<Tls>, AppError> {
    let files = config.server.tls.as_ref();
    let read = files.map(|files| Tls::read(&files.cert, &files.key));
    Ok(read.transpose()?)
}

/// Returns what the stack is built from.
pub(super) fn parts(
    config: &Config,
    metrics: &Arc<Metrics>,
    drain: &Drain,
    keyring: CurrentKeyring,
    (rules, books): (Arc<Rules>, Arc<Books>),
    (cache, traces): (Option<cache::Params>, Option<Arc<Traces>>),
    dispatch: Dispatch,
) -> stack::Parts {
    stack::Parts {
        metrics: Arc::clone(metrics),
        access_log: config.log.access.then_some(config.log.sample),
        traces,
        deadline: drain.deadline().clone(),
        route: route_params(&config.server),
        keyring,
        api: api_params(&config.server),
        heartbeat: config.server.stream_ping,
        rules,
        books,
        cache,
        dispatch,
    }
}

fn route_params(server: &ServerConfig) -> route::Params {
    route::Params {
        max_head: server.max_head,
        max_headers: server.max_headers,
        max_uri: server.max_uri,
    }
}

fn api_params(server: &ServerConfig) -> api::Params {
    api::Params {
        max_body: server.max_body,
        max_upload: server.max_upload,
        max_json_depth: server.max_json_depth,
        body_idle_timeout: server.body_idle_timeout,
        body_timeout: server.body_timeout,
    }
}

pub(super) fn listener_params(
    name: &'static str,
    server: &ServerConfig,
    metrics: &Arc<Metrics>,
) -> server::Params {
    server::Params {
        name,
        header_timeout: server.header_timeout,
        keep_alive: server.keep_alive,
        write_timeout: server.write_timeout,
        max_head: HEAD_ROOM * (server.max_head + server.max_uri),
        max_headers: server.max_headers,
        max_connections: server.max_connections,
        rejection: Arc::new(rejection),
        observer: Arc::new(Connections {
            name,
            metrics: Arc::clone(metrics),
        }),
    }
}

/// Begins to measure what stays as it is at the start.
pub(super) fn measure(metrics: &Metrics, config: &Config) {
    metrics.set_max_series(config.metrics.max_series);
    for listener in [DATA, ADMIN] {
        metrics.connections(listener);
        metrics.set_connections_limit(listener, config.server.max_connections);
    }
}

/// Notes until when the data plane's certificate is valid.
pub(super) fn measure_certificate(metrics: &Metrics, tls: Option<&Tls>) {
    if let Some(expires) = tls.and_then(Tls::expires) {
        metrics.set_certificate(DATA, expires);
    }
}

fn rejection(status: http::StatusCode) -> Bytes {
    let id = RequestId::fresh();
    raw_response(&GatewayError::Connection(status).explain(), id.as_str())
}

/// Counts connections.
struct Connections {
    name: &'static str,
    metrics: Arc<Metrics>,
}

impl Observer for Connections {
    fn opened(&self) {
        self.metrics.connections(self.name).inc();
    }

    fn closed(&self) {
        self.metrics.connections(self.name).dec();
    }

    fn refused(&self, reason: &'static str) {
        self.metrics.connection_refused(self.name, reason);
    }
}

/// Returns a model that answers on this machine, for an example.
pub(super) fn example_model(config: &Config) -> Option<String> {
    let local = config
        .upstreams
        .iter()
        .find(|upstream| matches!(upstream.kind, UpstreamKind::Local(_)))?;
    local
        .models
        .iter()
        .find(|model| model.is_exact())
        .map(|model| model.as_str().to_owned())
}
