//! Opens the ledger, and sets up what accounting goes by.

use std::sync::Arc;

use jiff::Timestamp;

use super::AppError;
use crate::config::{self, BudgetConfig, BudgetLimit, Config, LedgerConfig};
use crate::metrics::Metrics;
use crate::middleware::accounting::{Books, ClientGone, Means, OnFailure};
use crate::server::Drain;
use crate::store::budgets::{Budget, Budgets, Holder, Limit, Period, Window};
use crate::store::ledger::{self, Ledger, Sync};
use crate::tokens::{Encoding, Encodings};

/// What stays the same whatever is configured anew.
#[derive(Clone)]
pub(super) struct Stores {
    pub(super) ledger: Ledger,
    pub(super) budgets: Arc<Budgets>,
    pub(super) means: Arc<Means>,
}

impl Stores {
    /// Opens the ledger, and settles what a process that died has left.
    pub(super) fn open(config: &LedgerConfig) -> Result<Self, AppError> {
        let ledger = Ledger::open(&ledger::Params {
            path: config.path.clone(),
            sync: match config.sync {
                config::SyncConfig::Always => Sync::Always,
                config::SyncConfig::EverySecond => Sync::EverySecond,
                config::SyncConfig::Never => Sync::Never,
            },
            max_open: config.max_open,
            retention: config.retention,
            vacuum: config.vacuum,
        })?;
        let interrupted = ledger.snapshot().interrupted;
        if interrupted > 0 {
            tracing::warn!(
                rows = interrupted,
                "requests of a process that died are settled at their estimates"
            );
        }
        tracing::info!(path = %config.path.display(), "the ledger is open");
        Ok(Self {
            ledger,
            budgets: Arc::default(),
            means: Arc::default(),
        })
    }

    /// Makes the configuration's budgets those that count.
    pub(super) fn set_budgets(&self, config: &Config) -> Result<(), AppError> {
        let holders = holders(config);
        let budgets = Arc::clone(&self.budgets);
        let read = move |connection: &rusqlite::Connection| {
            budgets.replace(holders, connection, Timestamp::now())
        };
        self.ledger
            .reader()
            .read_now(read)
            .map_err(AppError::Budgets)
    }

    /// Sets up what accounting goes by.
    pub(super) fn books(
        &self,
        config: &Config,
        metrics: &Arc<Metrics>,
        drain: &Drain,
    ) -> Arc<Books> {
        let ledger = &config.ledger;
        let refuses = ledger.on_failure == config::LedgerFailureConfig::Refuse;
        self.ledger.set_refuses(refuses);
        self.ledger.set_retention(ledger.retention, ledger.vacuum);
        let own = ledger.encodings.iter().map(|(pattern, encoding)| {
            let encoding = match encoding {
                config::EncodingConfig::O200k => Encoding::O200k,
                config::EncodingConfig::Cl100k => Encoding::Cl100k,
            };
            (pattern.clone(), encoding)
        });
        Arc::new(Books {
            ledger: self.ledger.clone(),
            budgets: Arc::clone(&self.budgets),
            prices: ledger.prices.clone(),
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
        })
    }
}

/// Returns whose budgets there are.
fn holders(config: &Config) -> Vec<(Holder, Vec<Budget>)> {
    let keys = config.keys.iter().map(|key| {
        let holder = Holder::Key((*key.name).into());
        (holder, budgets(&key.budgets))
    });
    let teams = config.teams.iter().map(|team| {
        let holder = Holder::Team((*team.name).into());
        (holder, budgets(&team.budgets))
    });
    keys.chain(teams).collect()
}

fn budgets(configured: &[BudgetConfig]) -> Vec<Budget> {
    configured.iter().map(budget).collect()
}

fn budget(config: &BudgetConfig) -> Budget {
    Budget {
        limit: match config.limit {
            BudgetLimit::Money(amount) => Limit::Money(amount),
            BudgetLimit::Tokens(tokens) => Limit::Tokens(tokens),
        },
        per: match config.per {
            config::Period::Day => Period::Day,
            config::Period::Month => Period::Month,
            config::Period::Total => Period::Total,
        },
        window: match config.window {
            config::Window::Calendar => Window::Calendar,
            config::Window::Rolling => Window::Rolling,
        },
        warn_at_thousandths: config.warn_at_thousandths,
    }
}
