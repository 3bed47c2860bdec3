//! From the configuration of the cache to its rules.

use std::sync::Arc;

use crate::config::{CacheConfig, CacheScopeConfig, CacheTerms, CacheWhenConfig, Config};
use crate::middleware::cache::{Params, Rules, Scope, Shared, Terms, When};
use crate::store::cache::{Bounds, Cache};

use super::books::Stores;

/// Makes an empty cache.
pub(super) fn open(config: &CacheConfig) -> Arc<Cache> {
    Arc::new(Cache::new(Bounds {
        bytes: config.max_bytes,
        entry: config.max_entry,
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
    is_used.then(|| Params {
        rules: Arc::new(rules),
        cache: Arc::clone(&stores.cache),
        shared: stores.shared_cache.clone().map(|cache| Shared {
            cache,
            wait: config.cache.redis_wait,
        }),
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
    }
}
