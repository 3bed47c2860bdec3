//! Who may call: the keys and teams of the configuration, as the directory takes them.

use std::sync::Arc;

use super::AppError;
use crate::config::{self, BudgetConfig, BudgetLimit, Config, KeyConfig, Secret, TeamConfig};
use crate::keys;
use crate::pattern::Pattern;
use crate::store::budgets::{Budget, Limit, Period, Window};
use crate::store::directory::{Configured, ConfiguredKey, ConfiguredLimits};
use crate::store::keys::{KeyTerms, TeamTerms};
use crate::store::limits::Holder;

/// The one key of a configuration without keys.
pub(super) enum MadeKey {
    /// Made for this run.
    Generated(Secret),
    /// `WEIR_KEY`.
    FromEnvironment,
}

/// The name of that key.
const MADE_KEY: &str = "default";

/// Returns the keys and teams of the configuration; without keys, the one that stands in for none.
pub(super) fn access(
    config: &Config,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<(Configured, Option<MadeKey>), AppError> {
    let mut configured = configured(config);
    if !configured.keys.is_empty() {
        return Ok((configured, None));
    }
    let (secret, made) = match env("WEIR_KEY").filter(|key| !key.is_empty()) {
        Some(key) => (Secret::new(key), MadeKey::FromEnvironment),
        None => {
            let key = keys::generate().map_err(|error| AppError::Randomness(error.to_string()))?;
            (key.clone(), MadeKey::Generated(key))
        }
    };
    configured.keys.push(ConfiguredKey {
        digest: keys::digest(secret.expose().as_bytes()),
        terms: KeyTerms {
            name: MADE_KEY.into(),
            team: None,
            models: vec![Pattern::any()],
            paths: vec![Pattern::any()],
            expires: None,
            budgets: Vec::new(),
            limits: Vec::new(),
            cache: None,
        },
    });
    Ok((configured, Some(made)))
}

/// Returns the keys, teams and limits of the configuration.
pub(super) fn configured(config: &Config) -> Configured {
    Configured {
        keys: config.keys.iter().map(key).collect(),
        teams: config.teams.iter().map(team).collect(),
        limits: limits(config),
    }
}

fn limits(config: &Config) -> ConfiguredLimits {
    let routes = config.routes.iter();
    let routes = routes.map(|route| {
        (
            Holder::Route(route.model.as_str().into()),
            route.limits.clone(),
        )
    });
    let gateway = (Holder::Gateway, config.limits.gateway.clone());
    ConfiguredLimits {
        own: routes.chain([gateway]).collect(),
        keys: config.limits.keys.clone(),
    }
}

fn key(key: &KeyConfig) -> ConfiguredKey {
    ConfiguredKey {
        digest: key.digest,
        terms: KeyTerms {
            name: (*key.name).into(),
            team: key.team.as_deref().map(Arc::from),
            models: key.models.clone(),
            paths: key.paths.clone(),
            expires: key.expires,
            budgets: key.budgets.iter().map(budget).collect(),
            limits: key.limits.clone(),
            cache: key.cache,
        },
    }
}

fn team(team: &TeamConfig) -> TeamTerms {
    TeamTerms {
        name: (*team.name).into(),
        models: team.models.clone(),
        budgets: team.budgets.iter().map(budget).collect(),
        limits: team.limits.clone(),
        cache: team.cache,
    }
}

fn budget(budget: &BudgetConfig) -> Budget {
    Budget {
        limit: match budget.limit {
            BudgetLimit::Money(amount) => Limit::Money(amount),
            BudgetLimit::Tokens(tokens) => Limit::Tokens(tokens),
        },
        per: match budget.per {
            config::Period::Day => Period::Day,
            config::Period::Month => Period::Month,
            config::Period::Total => Period::Total,
        },
        window: match budget.window {
            config::Window::Calendar => Window::Calendar,
            config::Window::Rolling => Window::Rolling,
        },
        warn_at_thousandths: budget.warn_at_thousandths,
    }
}
