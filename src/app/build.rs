//! From the configuration's types to each room's own.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue};

use super::{AppError, local};
use crate::call::Caller;
use crate::config::{Config, KeyConfig, RemoteConfig, Secret, ServerConfig, UpstreamKind};
use crate::keys;
use crate::metrics::Metrics;
use crate::middleware::auth::KeyParams;
use crate::middleware::{api, route};
use crate::pattern::Pattern;
use crate::server::{self, Drain, Observer};
use crate::upstream::remote::{self, RemoteUpstream};
use crate::upstream::{Dispatch, Member, Route, Upstream};

/// The one key of a configuration without keys.
pub(super) enum MadeKey {
    /// Made for this run.
    Generated(Secret),
    /// `WEIR_KEY`.
    FromEnvironment,
}

/// The name of that key.
const MADE_KEY: &str = "default";

/// How far above the stack's bounds of a head the server's own lie: up to here clients get an envelope with their
/// request's id, beyond it only a canned one.
const HEAD_ROOM: usize = 2;

/// Builds every upstream and the routes between them.
pub(super) fn dispatch(config: &Config, drain: &Drain) -> Result<Dispatch, AppError> {
    let mut members = Vec::with_capacity(config.upstreams.len());
    for upstream in &config.upstreams {
        let (paths, built): (_, Arc<dyn Upstream>) = match &upstream.kind {
            UpstreamKind::Remote(remote) => {
                let params = remote_params(remote, &config.server, drain);
                (remote.paths.clone(), Arc::new(RemoteUpstream::new(params)?))
            }
            UpstreamKind::Local(local) => (Vec::new(), local::load(upstream, local)?),
        };
        members.push(Member {
            name: (*upstream.name).into(),
            models: upstream.models.clone(),
            paths,
            upstream: built,
        });
    }
    let routes = config.routes.iter().filter_map(|route| {
        // Checked with the configuration: every target's upstream exists.
        let member = config
            .upstreams
            .iter()
            .position(|upstream| upstream.name == route.target.upstream)?;
        Some(Route {
            model: route.model.clone(),
            member,
            rename: route.target.model.as_deref().map(Into::into),
        })
    });
    Ok(Dispatch::new(members, routes.collect()))
}

fn remote_params(remote: &RemoteConfig, server: &ServerConfig, drain: &Drain) -> remote::Params {
    let authorization = remote.api_key.as_ref().and_then(|key| {
        let mut value = HeaderValue::try_from(format!("Bearer {}", key.expose())).ok()?;
        value.set_sensitive(true);
        Some(value)
    });
    let headers = remote
        .headers
        .iter()
        .map(|(name, value): (&HeaderName, &HeaderValue)| (name.clone(), value.clone()));
    remote::Params {
        base_url: remote.base_url.clone(),
        authorization,
        headers: headers.collect(),
        timeouts: remote::Timeouts {
            connect: remote.timeouts.connect,
            first_byte: remote.timeouts.first_byte,
            idle: remote.timeouts.idle,
            total: remote.timeouts.total,
        },
        max_answer: server.max_answer,
        tunnels: (drain.tasks().clone(), drain.deadline().clone()),
    }
}

/// Returns the keys of the configuration, or the one that stands in for none.
pub(super) fn keys(
    config: &Config,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<(Vec<KeyParams>, Option<MadeKey>), AppError> {
    if !config.keys.is_empty() {
        return Ok((
            config
                .keys
                .iter()
                .map(|key| key_params(key, config))
                .collect(),
            None,
        ));
    }
    let (secret, made) = match env("WEIR_KEY").filter(|key| !key.is_empty()) {
        Some(key) => (Secret::new(key), MadeKey::FromEnvironment),
        None => {
            let key = keys::generate().map_err(|error| AppError::Randomness(error.to_string()))?;
            (key.clone(), MadeKey::Generated(key))
        }
    };
    let caller = Caller {
        key: MADE_KEY.into(),
        team: None,
        models: Vec::new(),
    };
    let key = KeyParams {
        digest: keys::digest(secret.expose().as_bytes()),
        caller: Arc::new(caller),
        paths: vec![Pattern::any()],
        expires: None,
    };
    Ok((vec![key], Some(made)))
}

fn key_params(key: &KeyConfig, config: &Config) -> KeyParams {
    let team = config
        .teams
        .iter()
        .find(|team| Some(&team.name) == key.team.as_ref());
    let lists = [
        Some(key.models.clone()),
        team.map(|team| team.models.clone()),
    ];
    let caller = Caller {
        key: (*key.name).into(),
        team: key.team.as_deref().map(Into::into),
        models: lists.into_iter().flatten().collect(),
    };
    KeyParams {
        digest: key.digest,
        caller: Arc::new(caller),
        paths: key.paths.clone(),
        expires: key.expires.map(system_time),
    }
}

fn system_time(time: jiff::Timestamp) -> SystemTime {
    let seconds = u64::try_from(time.as_second()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

pub(super) fn route_params(server: &ServerConfig) -> route::Params {
    route::Params {
        max_head: server.max_head,
        max_headers: server.max_headers,
        max_uri: server.max_uri,
    }
}

pub(super) fn api_params(server: &ServerConfig) -> api::Params {
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
    rejection: server::Rejection,
) -> server::Params {
    server::Params {
        name,
        header_timeout: server.header_timeout,
        keep_alive: server.keep_alive,
        write_timeout: server.write_timeout,
        max_head: HEAD_ROOM * (server.max_head + server.max_uri),
        max_headers: server.max_headers,
        max_connections: server.max_connections,
        rejection,
        observer: Arc::new(Connections {
            name,
            metrics: Arc::clone(metrics),
        }),
    }
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
