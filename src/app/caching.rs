//! From the configuration of the cache to its rules.

use std::sync::Arc;

use crate::config::{
    CacheConfig, CacheReplayConfig, CacheRetriesConfig, CacheScopeConfig, CacheTerms,
    CacheWhenConfig, Config,
};
use crate::middleware::cache::{Params, Retrying, Rules, Scope, Shared, Terms, When};
use crate::store::cache::{Bounds, Cache};
use crate::store::retries::{self, Retries};

use super::books::Stores;

/// Makes an empty cache.
pub(super) fn open(config: &CacheConfig) -> Arc<Cache> {
    Arc::new(Cache::new(Bounds {
        bytes: config.max_bytes,
        entry: config.max_entry,
    }))
}

/// Makes room for what clients get that ask again.
pub(super) fn open_retries(config: &CacheRetriesConfig) -> Arc<Retries> {
    Arc::new(Retries::new(retries::Bounds {
        bytes: config.max_bytes,
        entries: config.max_entries,
    }))
}

/// Returns what calls are answered by besides upstreams; `None` where nothing is kept anywhere.
pub(super) fn params(config: &Config, stores: &Stores) -> Option<Params> {
    let routes = config.routes.iter();
    let own = routes.filter_map(|route| Some((route.model.as_str().into(), terms(&route.cache?))));
    let rules = Rules {
        terms: terms(&config.cache.terms),
        routes: own.collect(),
        max_ttl: config.cache.max_ttl,
    };
    let is_used = rules.terms.enabled || rules.routes.values().any(|terms| terms.enabled);
    let own = &config.cache.retries;
    (is_used || own.enabled).then(|| Params {
        rules: Arc::new(rules),
        cache: Arc::clone(&stores.cache),
        shared: stores.shared_cache.clone().map(|cache| Shared {
            cache,
            wait: config.cache.redis_wait,
        }),
        retries: own.enabled.then(|| Retrying {
            store: Arc::clone(&stores.retries),
            window: own.window,
            linger: own.linger,
        }),
        counts_saved: config.cache.counts_saved,
    })
}

fn terms(config: &CacheTerms) -> Terms {
    Terms {
        enabled: config.enabled,
        when: match config.when {
            CacheWhenConfig::Deterministic => When::Deterministic,
            CacheWhenConfig::Always => When::Always,
            CacheWhenConfig::OnRequest => When::OnRequest,
        },
        scope: match config.scope {
            CacheScopeConfig::Team => Scope::Team,
            CacheScopeConfig::Key => Scope::Key,
            CacheScopeConfig::Global => Scope::Global,
        },
        ttl: config.ttl,
        tools: config.tools,
        stale_if_error: config.stale_if_error,
        paced: config.replay == CacheReplayConfig::Recorded,
        finish: config.finish,
    }
}
