//! Puts the gateway together: stores, upstreams, stack and listeners from the configuration; runs it; stops it.

mod access;
mod address;
mod banner;
mod books;
mod build;
mod caching;
mod exports;
mod ledger_look;
mod local;
mod place;
mod reload;
mod shared;
mod signals;
mod upstreams;
mod watch;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Admin};
use crate::config::{Config, Loaded, ReadFile, Secret};
use crate::explain::Explainer;
use crate::keys;
use crate::metrics::Metrics;
use crate::server::{self, Current, Drain, Terms};
use crate::stack;
use crate::store::directory::shared::Sharing;
use crate::store::directory::{self, Directory, DirectoryError};
use crate::store::ledger;
use crate::store::redis;
use crate::traces::PatternError;
use crate::upstream::remote::RemoteError;

use self::address::Address;
use self::books::Stores;
use self::exports::Exports;
pub use self::ledger_look::check_ledger;
pub use self::local::check_model;
pub use self::place::{admin_plane, place};
pub use self::reload::Source;
use self::reload::{Attempted, Reloader};
use self::signals::{Hangups, Signals};
use self::watch::Watch;

/// How long a start waits for what others have used of shared budgets; and a stop until they know what the last calls have
/// used, and again until Redis has the last answers.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// An address cannot be bound.
    #[error("cannot listen on {address} ({field}): {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The field of the configuration that names it.
        field: &'static str,
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
    /// An upstream cannot be reached as configured.
    #[error("upstream `{upstream}`: {source}")]
    Upstream {
        /// The upstream's name.
        upstream: String,
        /// Why.
        source: RemoteError,
    },
    /// The ledger cannot be opened.
    #[error(transparent)]
    Ledger(#[from] ledger::OpenError),
    /// Redis answers, and cannot be used.
    #[error("cannot use the Redis at {servers} ([redis]): {source}")]
    Redis {
        /// Where it is.
        servers: String,
        /// Why.
        source: redis::OpenError,
    },
    /// What Redis is to be shown, or what is to be believed of it, cannot be read.
    #[error("cannot read the files of [redis] tls: {0}")]
    RedisTls(#[source] io::Error),
    /// Redis is nowhere.
    #[error("[redis] {0}")]
    RedisAddress(redis::ServersError),
    /// Keys made at run time, or what budgets were used before, cannot be read.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// What is to be taken out of traces cannot be recognized.
    #[error("[telemetry] redact: {0}")]
    Redact(#[from] PatternError),
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
            Self::Bind { .. }
            | Self::Tls(_)
            | Self::Model { .. }
            | Self::Upstream { .. }
            | Self::Ledger(_)
            | Self::Redis { .. }
            | Self::RedisAddress(_)
            | Self::RedisTls(_)
            | Self::Directory(_)
            | Self::Redact(_) => true,
            Self::Metrics(_) | Self::Randomness(_) | Self::Signals(_) => false,
        }
    }
}

/// Runs the gateway until it is told to stop, and stops in good order.
///
/// # Errors
/// [`AppError`] when it cannot start. Once it serves, it only ends by a signal.
pub async fn run(loaded: Loaded, source: Source) -> Result<(), AppError> {
    let mut signals = Signals::new().map_err(AppError::Signals)?;
    let hangups = Hangups::new().map_err(AppError::Signals)?;
    let metrics = Arc::new(Metrics::new()?);
    build::measure(&metrics, &loaded.config);
    // A start that finds others listening there must leave nothing behind: no new ledger, no journal.
    let data_bound = Address::bind("[server] listen", loaded.config.server.listen)?;
    let admin_bound = Address::bind("[admin] listen", loaded.config.admin.listen)?;
    let (data_address, admin_address) = (data_bound.get(), admin_bound.get());
    let (data_drain, admin_drain) = (Drain::default(), Drain::default());
    let config = loaded.config.clone();
    let files = loaded.warnings.files.clone();
    let dispatch = upstreams::Builder {
        config: &config,
        drain: &data_drain,
        metrics: &metrics,
        previous: None,
    }
    .dispatch()?;
    let limits = shared::limits(config.redis.as_ref());
    let redis = match &config.redis {
        Some(config) => Some(shared::redis(config).await?),
        None => None,
    };
    let with_redis = config.redis.as_ref().zip(redis.as_ref());
    let mut stores = Stores::open(&config.ledger, with_redis.is_some(), &config.cache)?;
    let queue = config.ledger.max_open;
    let shared = shared::shared(with_redis, &limits, &stores.budgets, queue)?;
    stores.shared.clone_from(&shared);
    stores.shared_cache = shared::answers(&config, &stores.cache, &stores.retries).await?;
    let (configured, made) = access::access(&config, (source.context)().env)?;
    let (token, token_made) = admin_token(&config)?;
    let made_key = made.as_ref().and(configured.keys.first().cloned());
    let directory = Directory::open(
        &stores.ledger,
        &stores.budgets,
        limits,
        configured,
        directory::ADMIN,
    )?;
    if let Some(shared) = &shared {
        // What others have used of budgets counts, and is told, from the first request on.
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, shared.flush()).await;
    }
    let mut sharing = redis.map(|redis| Sharing::new(Arc::clone(&directory), redis));
    if let Some(sharing) = &mut sharing {
        // What was revoked elsewhere meanwhile opens nothing from the first request on.
        sharing.begin().await;
    }
    let current_dispatch = Arc::new(ArcSwap::from_pointee(dispatch.clone()));
    let books = stores.books(&config, &metrics, &data_drain, directory.limits());
    let exports = Arc::new(Exports::default());
    let traces = exports.traces(config.telemetry.as_ref(), &metrics)?;
    let parts = build::parts(
        &config,
        &metrics,
        &data_drain,
        directory.ring(),
        books,
        (caching::params(&config, &stores), traces),
        dispatch,
    );
    let explainer = Explainer::new(&parts, Arc::clone(&directory));
    let stack = Current::new(stack::build(parts));

    let tls = build::tls(&config)?;
    build::measure_certificate(&metrics, tls.as_ref());
    let data_params = build::listener_params(build::DATA, &config.server, &metrics);
    let data_terms = Terms::new(tls.as_ref(), data_params);
    let admin_params = build::listener_params(build::ADMIN, &config.server, &metrics);
    let data_listener = data_bound.listen(data_terms.clone())?;
    let admin_listener = admin_bound.listen(Terms::new(None, admin_params))?;
    let secure = tls.is_some();

    let replaced = stack.clone();
    let ended = CancellationToken::new();
    let mut following = pin!(follow(Arc::clone(&directory), sharing, ended.clone()));
    let reloader = Arc::new(Reloader::new(
        reload::Fixed {
            source,
            metrics: Arc::clone(&metrics),
            drain: data_drain.clone(),
            made_key,
            stores: stores.clone(),
            exports: Arc::clone(&exports),
            replace: Box::new(move |parts| replaced.replace(stack::build(parts))),
            terms: data_terms,
            dispatch: Arc::clone(&current_dispatch),
            explainer: ArcSwap::from_pointee(explainer),
            directory: Arc::clone(&directory),
        },
        loaded,
        tls,
    ));
    let params = admin::Params {
        token_digest: keys::digest(token.expose().as_bytes()),
        metrics,
        dispatch: current_dispatch,
        control: Arc::new(Arc::clone(&reloader)),
        directory,
        shared: shared.clone(),
        cache: Arc::clone(&stores.cache),
        retries: Arc::clone(&stores.retries),
        shared_cache: stores.shared_cache.clone(),
        drain: data_drain.clone(),
    };
    // The console's playground makes calls of its own, by the stack that is current.
    let admin = Admin::new(params, admin::data_plane(stack.clone()));
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

    let serving = tokio::spawn(data_listener.serve(stack, data_drain.clone()));
    let administering = tokio::spawn(admin_listener.serve(admin, admin_drain.clone()));
    let reloading = keep_current(Arc::clone(&reloader), files, hangups);
    let signal = tokio::select! {
        signal = signals.next() => signal,
        () = reloading => "no signal",
        () = &mut following => "no signal",
    };
    let timeout = reloader.drain_timeout();
    let stopping = Instant::now();
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
        admin_drain.run(Duration::ZERO).await;
        in_time
    };
    let mut left = Duration::ZERO;
    tokio::select! {
        in_time = drained => {
            left = timeout.saturating_sub(stopping.elapsed());
            tracing::info!(in_time, "stopped");
        }
        signal = signals.next() => tracing::warn!(signal, "ended at once"),
        // Revocations by others count for as long as anybody is served.
        () = &mut following => {}
    }
    // What was changed to the end is told.
    ended.cancel();
    following.await;
    exports.close(left).await;
    if let Some(shared) = shared {
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, shared.flush()).await;
    }
    if let Some(cache) = &stores.shared_cache {
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, cache.flush()).await;
    }
    // Last of all, when nobody has anything to write down any more.
    let _ = tokio::task::spawn_blocking(move || stores.ledger.close()).await;
    Ok(())
}

/// Reloads at each SIGHUP, and when the files of the configuration have changed.
async fn keep_current(reloader: Arc<Reloader>, files: Vec<ReadFile>, mut hangups: Hangups) {
    let mut watch = Watch::new(files);
    loop {
        let trigger = tokio::select! {
            () = hangups.next() => "SIGHUP",
            () = watch.changed(watch::look) => "file changed",
        };
        let Attempted { files, outcome } = reloader.reload(trigger).await;
        watch = watch.after(files, outcome.is_err());
    }
}

/// Takes over what is changed elsewhere until the end: at the ledger's file, and by gateways that share keys.
async fn follow(directory: Arc<Directory>, sharing: Option<Sharing>, ended: CancellationToken) {
    let sharing = async {
        match sharing {
            Some(sharing) => sharing.run(ended.cancelled()).await,
            None => ended.cancelled().await,
        }
    };
    tokio::select! {
        () = directory.follow() => {}
        () = sharing => {}
    }
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
