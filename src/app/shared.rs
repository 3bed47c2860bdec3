//! Connects to what several gateways share.

use std::fmt::Write as _;
use std::sync::Arc;
use std::{fs, io};

use super::AppError;
use crate::config::{ClientTlsConfig, Config, RedisConfig, RedisOutageConfig, SentinelConfig};
use crate::secret::Secret;
use crate::store::budgets::Budgets;
use crate::store::cache::shared::SharedCache;
use crate::store::cache::{self, Cache};
use crate::store::directory;
use crate::store::limits::{self, Limits, OnOutage, Shared};
use crate::store::redis::{
    ClientCertificate, Library, Params, Redis, SentinelCredentials, Servers, TlsCertificates,
};
use crate::store::retries::Retries;

/// Returns the limits of this process: all of them, or while Redis is away its share.
pub(super) fn limits(config: Option<&RedisConfig>) -> Arc<Limits> {
    let share = config.map_or(1000, |redis| redis.local_share_thousandths);
    Arc::new(Limits::with_share(share))
}

/// Connects to the Redis that gateways share, for their limits, budgets and keys.
pub(super) async fn redis(config: &RedisConfig) -> Result<Redis, AppError> {
    let libraries = vec![limits::library(), directory::shared::library()];
    open(config, libraries, "limits and budgets").await
}

/// Connects to it for the answers that they keep. Those are large, and go over a connection of their own: no limit waits
/// behind one.
async fn redis_of_answers(config: &RedisConfig) -> Result<Redis, AppError> {
    open(config, vec![cache::shared::library()], "answers").await
}

/// Keeps answers in Redis too, where that is configured.
pub(super) async fn answers(
    config: &Config,
    cache: &Arc<Cache>,
    retries: &Arc<Retries>,
) -> Result<Option<Arc<SharedCache>>, AppError> {
    let Some(redis) = config.redis.as_ref().filter(|_| config.cache.redis) else {
        return Ok(None);
    };
    let params = cache::shared::Params {
        redis: redis_of_answers(redis).await?,
        cache: Arc::clone(cache),
        retries: Arc::clone(retries),
        queue: config.cache.redis_queue,
    };
    let shared = SharedCache::new(params);
    shared.begin().await;
    Ok(Some(shared))
}

async fn open(
    config: &RedisConfig,
    libraries: Vec<Library>,
    what: &'static str,
) -> Result<Redis, AppError> {
    let urls: Vec<_> = config.urls.iter().map(Secret::expose).collect();
    // It was parsed when the configuration was checked.
    let servers = Servers::parse(&urls, config.cluster).map_err(AppError::RedisAddress)?;
    let named = servers.to_string();
    let servers = with_credentials(servers, config).map_err(AppError::RedisTls)?;
    let params = Params {
        servers,
        timeout: config.timeout,
        libraries,
        what,
    };
    Redis::open(params).await.map_err(|source| AppError::Redis {
        servers: named,
        source,
    })
}

/// Adds what is read from files, or shown to Sentinels.
fn with_credentials(mut servers: Servers, config: &RedisConfig) -> io::Result<Servers> {
    let ClientTlsConfig { ca, identity, .. } = &config.tls;
    if ca.is_some() || identity.is_some() {
        let identity = identity.as_ref().map(|files| {
            Ok::<_, io::Error>(ClientCertificate {
                client_cert: fs::read(&files.cert)?,
                client_key: fs::read(&files.key)?,
            })
        });
        servers = servers.with_tls(TlsCertificates {
            client_tls: identity.transpose()?,
            root_cert: ca.as_ref().map(fs::read).transpose()?,
        });
    }
    if let Some(SentinelConfig { user, password }) = &config.sentinel {
        servers = servers.with_sentinel_credentials(SentinelCredentials {
            user: user.clone(),
            password: password.clone(),
        });
    }
    Ok(servers)
}

/// Counts these limits and budgets together with other gateways, where that is configured. `queue` bounds the calls under
/// way.
pub(super) fn shared(
    redis: Option<(&RedisConfig, &Redis)>,
    limits: &Arc<Limits>,
    budgets: &Arc<Budgets>,
    queue: usize,
) -> Result<Option<Arc<Shared>>, AppError> {
    let Some((config, redis)) = redis else {
        return Ok(None);
    };
    let on_outage = match config.on_outage {
        RedisOutageConfig::Local => OnOutage::Local,
        RedisOutageConfig::Reject => OnOutage::Reject,
    };
    Ok(Some(Shared::new(
        Arc::clone(limits),
        Arc::clone(budgets),
        redis.clone(),
        on_outage,
        replica()?,
        config.slice,
        queue,
    )))
}

/// Returns a name that no other gateway has.
fn replica() -> Result<String, AppError> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| AppError::Randomness(error.to_string()))?;
    Ok(random.iter().fold(String::new(), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    }))
}
