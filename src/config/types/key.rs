//! `[[team]]` and `[[key]]`, as the rest of Weir gets them.

use super::BudgetConfig;
use crate::call::Keeps;
use crate::pattern::Pattern;
use crate::store::limits::Entry;

/// `[[team]]`: what several keys have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeamConfig {
    /// Its name in metrics and logs.
    pub name: String,
    /// The models that its keys may use, where the key allows them too. Default: all.
    pub models: Vec<Pattern>,
    /// What all its keys may use up together; no two alike. Default: no bound.
    pub budgets: Vec<BudgetConfig>,
    /// How fast all its keys may use it together; no two overlap. Default: no bound.
    pub limits: Vec<Entry>,
    /// Which answers are kept for its keys. Default: as where the call goes.
    pub cache: Option<Keeps>,
}

/// `[[key]]`: a gateway key.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyConfig {
    /// Its name in metrics and logs.
    pub name: String,
    /// The name of a team that exists.
    pub team: Option<String>,
    /// The SHA-256 of the key; the key itself is kept nowhere.
    pub digest: [u8; 32],
    /// The models that it may use. Default: all.
    pub models: Vec<Pattern>,
    /// The paths that it may use. Default: all.
    pub paths: Vec<Pattern>,
    /// When it stops being valid. Default: never.
    pub expires: Option<jiff::Timestamp>,
    /// What it may use up, within its team's budgets; no two alike. Default: no bound.
    pub budgets: Vec<BudgetConfig>,
    /// How fast it may use it, within its team's limits; no two overlap. Default: [`LimitsConfig::keys`](super::LimitsConfig::keys).
    pub limits: Vec<Entry>,
    /// Which answers are kept for it; none where its team says so. Default: as its team, or else as where the call goes.
    pub cache: Option<Keeps>,
}
