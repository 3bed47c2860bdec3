//! Opens the ledger, and sets up what accounting goes by.

use std::num::NonZeroU32;
use std::sync::Arc;

use jiff::Timestamp;

use super::{AppError, caching};
use crate::config::{self, CacheConfig, Config, LedgerConfig};
use crate::metrics::Metrics;
use crate::middleware::accounting::{Books, ClientGone, OnFailure};
use crate::middleware::admission::Rules;
use crate::server::Drain;
use crate::store::budgets::Budgets;
use crate::store::cache::Cache;
use crate::store::cache::shared::SharedCache;
use crate::store::ledger::{self, Ledger, Retention, Sync};
use crate::store::limits::{Limits, Shared};
use crate::store::means::Means;
use crate::store::retries::Retries;
use crate::tokens::{Encoding, Encodings};

/// What stays the same whatever is configured anew.
#[derive(Clone)]
pub(super) struct Stores {
    pub(super) ledger: Ledger,
    pub(super) budgets: Arc<Budgets>,
    pub(super) means: Arc<Means>,
    pub(super) shared: Option<Arc<Shared>>,
    pub(super) cache: Arc<Cache>,
    pub(super) retries: Arc<Retries>,
    pub(super) shared_cache: Option<Arc<SharedCache>>,
}

impl Stores {
    /// Opens the ledger, and settles what a process that died has left. Says whether budgets are to be shared by it.
    pub(super) fn open(
        config: &LedgerConfig,
        shares: bool,
        cache: &CacheConfig,
    ) -> Result<Self, AppError> {
        let is_new = !config.path.exists();
        let ledger = Ledger::open(&ledger::Params {
            path: config.path.clone(),
            sync: match config.sync {
                config::SyncConfig::Always => Sync::Always,
                config::SyncConfig::EverySecond => Sync::EverySecond,
                config::SyncConfig::Never => Sync::Never,
            },
            max_open: config.max_open,
            retention: retention(config),
        })?;
        let interrupted = ledger.snapshot().interrupted;
        if interrupted > 0 {
            tracing::warn!(
                rows = interrupted,
                "requests of a process that died are settled at their estimates"
            );
        }
        let path = config.path.display();
        match is_new {
            true => tracing::info!(%path, "a new ledger was made"),
            false => tracing::info!(%path, "the ledger is open"),
        }
        let budgets = match shares {
            true => Budgets::shared_by(Arc::clone(ledger.id()), Timestamp::now()),
            false => Budgets::default(),
        };
        Ok(Self {
            ledger,
            budgets: Arc::new(budgets),
            means: Arc::default(),
            shared: None,
            cache: caching::open(cache),
            retries: caching::open_retries(&cache.retries),
            shared_cache: None,
        })
    }

    /// Sets up what admission and accounting go by.
    pub(super) fn books(
        &self,
        config: &Config,
        metrics: &Arc<Metrics>,
        drain: &Drain,
        limits: &Arc<Limits>,
    ) -> (Arc<Rules>, Arc<Books>) {
        let ledger = &config.ledger;
        let refuses = ledger.on_failure == config::LedgerFailureConfig::Refuse;
        self.ledger.set_refuses(refuses);
        self.ledger.set_retention(retention(ledger));
        let own = ledger.encodings.iter().map(|(pattern, encoding)| {
            let encoding = match encoding {
                config::EncodingConfig::O200k => Encoding::O200k,
                config::EncodingConfig::Cl100k => Encoding::Cl100k,
            };
            (pattern.clone(), encoding)
        });
        let prices = Arc::new(ledger.prices.clone());
        let rules = Rules {
            metrics: Arc::clone(metrics),
            limits: Arc::clone(limits),
            shared: self.shared.clone(),
            budgets: Arc::clone(&self.budgets),
            prices: Arc::clone(&prices),
            means: Arc::clone(&self.means),
            stop: NonZeroU32::new(config.limits.stop_overshoot)
                .filter(|_| config.limits.stop_stream),
        };
        let books = Books {
            ledger: self.ledger.clone(),
            prices,
            encodings: Encodings::new(own.collect()),
            means: Arc::clone(&self.means),
            metrics: Arc::clone(metrics),
            on_failure: match ledger.on_failure {
                config::LedgerFailureConfig::Refuse => OnFailure::Refuse,
                config::LedgerFailureConfig::Serve => OnFailure::Serve,
            },
            client_gone: match ledger.client_gone {
                config::ClientGoneConfig::Cancel => ClientGone::Cancel,
                config::ClientGoneConfig::Drain => ClientGone::Drain {
                    tokens: ledger.drain_tokens,
                },
            },
            deadline: drain.deadline().clone(),
            tasks: drain.tasks().clone(),
        };
        (Arc::new(rules), Arc::new(books))
    }
}

fn retention(config: &LedgerConfig) -> Retention {
    Retention {
        rows: config.retention,
        audit: config.audit_retention,
        vacuum: config.vacuum,
    }
}
