//! Connects to what several gateways share.

use std::fmt::Write as _;
use std::sync::Arc;

use super::AppError;
use crate::config::{RedisConfig, RedisOutageConfig};
use crate::secret::Secret;
use crate::store::directory;
use crate::store::limits::{self, Limits, OnOutage, Shared};
use crate::store::redis::{Params, Redis, Servers};

/// Returns the limits of this process: all of them, or while Redis is away its share.
pub(super) fn limits(config: Option<&RedisConfig>) -> Arc<Limits> {
    let share = config.map_or(1000, |redis| redis.local_share_thousandths);
    Arc::new(Limits::with_share(share))
}

/// Connects to the Redis that gateways share.
pub(super) async fn redis(config: &RedisConfig) -> Result<Redis, AppError> {
    let urls: Vec<_> = config.urls.iter().map(Secret::expose).collect();
    // It was parsed when the configuration was checked.
    let servers = Servers::parse(&urls, config.cluster).map_err(AppError::RedisAddress)?;
    let named = servers.to_string();
    let params = Params {
        servers,
        timeout: config.timeout,
        libraries: vec![limits::library(), directory::shared::library()],
    };
    Redis::open(params).await.map_err(|source| AppError::Redis {
        servers: named,
        source,
    })
}

/// Counts these limits together with other gateways, where that is configured. `queue` bounds the calls under way.
pub(super) fn shared(
    redis: Option<(&RedisConfig, &Redis)>,
    limits: &Arc<Limits>,
    queue: usize,
) -> Result<Option<Arc<Shared>>, AppError> {
    let Some((config, redis)) = redis else {
        return Ok(None);
    };
    let on_outage = match config.on_outage {
        RedisOutageConfig::Local => OnOutage::Local,
        RedisOutageConfig::Reject => OnOutage::Reject,
    };
    let (limits, redis) = (Arc::clone(limits), redis.clone());
    let shared = Shared::new(limits, redis, on_outage, replica()?, config.slice, queue);
    Ok(Some(shared))
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
