//! Puts the gateway together: stores, upstreams, stack and listeners from the configuration; runs it; stops it.

mod banner;
mod build;
mod local;
mod signals;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::admin::{self, Admin};
use crate::config::{Config, Secret};
use crate::error::GatewayError;
use crate::keys;
use crate::metrics::Metrics;
use crate::middleware::auth::Keyring;
use crate::middleware::respond::{Explain, raw_response};
use crate::server::{self, Drain, Listener};
use crate::stack;

pub use self::local::check_model;
use self::signals::Signals;

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// An address cannot be bound.
    #[error("cannot listen on {address} ([{section}] listen): {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Where it is configured.
        section: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The certificate cannot be served.
    #[error(transparent)]
    Tls(#[from] server::TlsError),
    /// A local model cannot be loaded.
    #[error("upstream `{upstream}`: {message}")]
    Model {
        /// The upstream's name.
        upstream: String,
        /// Why.
        message: String,
    },
    /// TLS towards upstreams cannot be set up.
    #[error("cannot speak TLS")]
    UpstreamTls(#[from] rustls::Error),
    /// The metrics are declared wrongly: a bug.
    #[error("cannot set up the metrics")]
    Metrics(#[from] prometheus::Error),
    /// The system has no randomness to make a key of.
    #[error("no randomness to make a key of: {0}")]
    Randomness(String),
    /// The system's signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] io::Error),
}

impl AppError {
    /// Returns whether the user can mend it: exit code 1, else 2.
    pub fn is_users(&self) -> bool {
        match self {
            Self::Bind { .. } | Self::Tls(_) | Self::Model { .. } => true,
            Self::UpstreamTls(_) | Self::Metrics(_) | Self::Randomness(_) | Self::Signals(_) => {
                false
            }
        }
    }
}

/// Runs the gateway until it is told to stop, and stops in good order.
///
/// # Errors
/// [`AppError`] when it cannot start. Once it serves, it only ends by a signal.
pub async fn run(config: Config, env: &dyn Fn(&str) -> Option<String>) -> Result<(), AppError> {
    let mut signals = Signals::new().map_err(AppError::Signals)?;
    let metrics = Arc::new(Metrics::new()?);
    let (data_drain, admin_drain) = (Drain::default(), Drain::default());
    let dispatch = build::dispatch(&config, &data_drain)?;
    let (keys, made) = build::keys(&config, env)?;
    let (token, token_made) = admin_token(&config)?;

    let stack = stack::build(stack::Parts {
        metrics: Arc::clone(&metrics),
        access_log: config.log.access,
        deadline: data_drain.deadline().clone(),
        route: build::route_params(&config.server),
        keyring: Arc::new(Keyring::new(keys)),
        api: build::api_params(&config.server),
        dispatch: dispatch.clone(),
    });
    let admin = Admin::new(admin::Params {
        token_digest: keys::digest(token.expose().as_bytes()),
        metrics: Arc::clone(&metrics),
        dispatch,
        drain: data_drain.clone(),
    });

    let tls = config
        .server
        .tls
        .as_ref()
        .map(|tls| server::server_config(&tls.cert, &tls.key))
        .transpose()?;
    let secure = tls.is_some();
    let listen = |name, section, address, tls| {
        let params = build::listener_params(name, &config.server, &metrics, Arc::new(rejection));
        let bound = Listener::bind(address, tls, params)
            .and_then(|listener| Ok((listener.address()?, listener)));
        bound.map_err(|source| AppError::Bind {
            address,
            section,
            source,
        })
    };
    let (data_address, data) = listen("data", "server", config.server.listen, tls)?;
    let (admin_address, admin_listener) = listen("admin", "admin", config.admin.listen, None)?;
    tracing::info!(listener = "data", address = %data_address, tls = secure, "listening");
    tracing::info!(listener = "admin", address = %admin_address, "listening");
    banner::print(&banner::Banner {
        data: data_address,
        admin: admin_address,
        secure,
        key: made.as_ref(),
        token: token_made.then_some(&token),
        model: build::example_model(&config),
    });

    let serving = tokio::spawn(data.serve(stack, data_drain.clone()));
    let administering = tokio::spawn(admin_listener.serve(admin, admin_drain.clone()));
    let signal = signals.next().await;
    let timeout = config.server.drain_timeout;
    tracing::info!(
        signal,
        timeout_s = timeout.as_secs_f64(),
        "draining: accepting nothing more; again to end at once"
    );
    let drained = async {
        // The accept loop ends first, so that its last connections are waited for.
        data_drain.began().cancel();
        let _ = serving.await;
        let in_time = data_drain.run(timeout).await;
        // Probes and scrapes are answered to the end.
        admin_drain.began().cancel();
        let _ = administering.await;
        admin_drain.run(std::time::Duration::ZERO).await;
        in_time
    };
    tokio::select! {
        in_time = drained => tracing::info!(in_time, "stopped"),
        signal = signals.next() => tracing::warn!(signal, "ended at once"),
    }
    Ok(())
}

fn admin_token(config: &Config) -> Result<(Secret, bool), AppError> {
    match &config.admin.token {
        Some(token) => Ok((token.clone(), false)),
        None => Ok((
            keys::generate().map_err(|error| AppError::Randomness(error.to_string()))?,
            true,
        )),
    }
}

fn rejection(status: http::StatusCode) -> bytes::Bytes {
    let id = crate::call::RequestId::fresh();
    raw_response(&GatewayError::Connection(status).explain(), id.as_str())
}
