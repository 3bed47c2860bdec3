//! What may be shown of keys and teams: everything but the digests.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Configured, ConfiguredKey, Entries, Made};
use crate::store::keys::audit::second;
use crate::store::keys::{KeyTerms, RuntimeKey, RuntimeTeam, TeamTerms, form};

/// Where a key or a team was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// In the configuration.
    Config,
    /// By the admin API, or on the command line.
    Admin,
}

/// Whether a key opens anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// It does.
    Active,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
    /// The configuration has another key of its name, or the same key.
    Shadowed,
    /// Its team is not there.
    TeamMissing,
    /// It has got its first budget, or its team has, and what it has used before cannot be read from the ledger yet.
    Uncounted,
}

/// What may be shown of a key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KeyView {
    /// The beginning of the key; `None` for one of the configuration, of which only the digest is known.
    pub id: Option<String>,
    /// Its name.
    pub name: String,
    /// Where it was made.
    pub source: Source,
    /// Whether it opens anything.
    pub state: KeyState,
    /// Whether the configuration has another key of its name, or the same key.
    pub shadowed: bool,
    /// `team`, `models`, `paths`, `expires`, `budgets` and `limits`.
    #[serde(flatten)]
    pub terms: Map<String, Value>,
    /// When it was made, RFC 3339.
    pub created: Option<String>,
    /// When it was revoked, RFC 3339.
    pub revoked: Option<String>,
    /// The secret before this one, while it is valid.
    pub previous: Option<PreviousView>,
}

/// What may be shown of the secret of a key before it was rotated.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PreviousView {
    /// Its beginning.
    pub id: String,
    /// Until when it is valid, RFC 3339.
    pub expires: String,
}

/// What may be shown of a team.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TeamView {
    /// Its name.
    pub name: String,
    /// Where it was made.
    pub source: Source,
    /// Whether the configuration has another team of its name.
    pub shadowed: bool,
    /// `models`, `budgets` and `limits`.
    #[serde(flatten)]
    pub terms: Map<String, Value>,
    /// The names of its keys that were not revoked.
    pub keys: Vec<String>,
    /// When it was made, RFC 3339.
    pub created: Option<String>,
}

/// The keys and teams of a ledger that is only read, beside those of a configuration.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Every key, the configuration's first.
    pub keys: Vec<KeyView>,
    /// Every team, the configuration's first.
    pub teams: Vec<TeamView>,
}

impl Listed {
    /// Puts what was made at run time beside the configuration's.
    pub fn of(configured: Configured, made: Made) -> Self {
        let entries = Entries {
            configured,
            made,
            ..Entries::default()
        };
        Self {
            keys: entries.key_views(Timestamp::now()),
            teams: entries.team_views(),
        }
    }
}

impl Entries {
    pub(super) fn key_views(&self, now: Timestamp) -> Vec<KeyView> {
        let configured = self.configured.keys.iter();
        let configured = configured.map(|key| self.view_of_configured(key, now));
        let made = self.made.keys.values().map(|key| self.view_of(key, now));
        configured.chain(made).collect()
    }

    pub(super) fn key_view(&self, which: &str, now: Timestamp) -> Option<KeyView> {
        let configured = self.configured_key(which);
        configured
            .map(|key| self.view_of_configured(key, now))
            .or_else(|| self.made_key(which).map(|key| self.view_of(key, now)))
    }

    pub(super) fn team_views(&self) -> Vec<TeamView> {
        let configured = self.configured.teams.iter();
        let configured = configured.map(|team| self.view_of_configured_team(team));
        let made = self.made.teams.values().map(|team| self.view_of_team(team));
        configured.chain(made).collect()
    }

    pub(super) fn team_view(&self, name: &str) -> Option<TeamView> {
        let configured = self.configured_team(name);
        configured
            .map(|team| self.view_of_configured_team(team))
            .or_else(|| {
                self.made
                    .teams
                    .get(name)
                    .map(|team| self.view_of_team(team))
            })
    }

    /// Shows a key made at run time.
    pub(super) fn view_of(&self, key: &RuntimeKey, now: Timestamp) -> KeyView {
        let shadowed = self.is_shadowed(key);
        let state = if !self.is_living(key) {
            KeyState::Revoked
        } else if shadowed {
            KeyState::Shadowed
        } else if !self.has_its_team(&key.terms) {
            KeyState::TeamMissing
        } else {
            self.state_in_time(&key.terms, now)
        };
        let previous = key
            .previous
            .as_ref()
            .filter(|previous| previous.expires > now);
        KeyView {
            id: Some(key.id.to_string()),
            name: key.terms.name.to_string(),
            source: Source::Admin,
            state,
            shadowed,
            terms: form::of_key(&key.terms),
            created: Some(second(key.created).to_string()),
            revoked: key.revoked.map(|time| time.to_string()),
            previous: previous.map(|previous| PreviousView {
                id: previous.id.to_string(),
                expires: previous.expires.to_string(),
            }),
        }
    }

    /// Shows a team made at run time.
    pub(super) fn view_of_team(&self, team: &RuntimeTeam) -> TeamView {
        let shadowed = self.configured_team(&team.terms.name).is_some();
        TeamView {
            name: team.terms.name.to_string(),
            source: Source::Admin,
            shadowed,
            terms: form::of_team(&team.terms),
            keys: match shadowed {
                true => Vec::new(),
                false => self.keys_of(&team.terms.name),
            },
            created: Some(second(team.created).to_string()),
        }
    }

    fn view_of_configured_team(&self, team: &TeamTerms) -> TeamView {
        TeamView {
            name: team.name.to_string(),
            source: Source::Config,
            shadowed: false,
            terms: form::of_team(team),
            keys: self.keys_of(&team.name),
            created: None,
        }
    }

    fn keys_of(&self, team: &str) -> Vec<String> {
        let configured = self.configured.keys.iter().map(|key| &key.terms);
        let made = self.made.keys.values().filter(|key| key.revoked.is_none());
        let all = configured.chain(made.map(|key| &key.terms));
        all.filter(|terms| terms.team.as_deref() == Some(team))
            .map(|terms| terms.name.to_string())
            .collect()
    }

    fn view_of_configured(&self, key: &ConfiguredKey, now: Timestamp) -> KeyView {
        KeyView {
            id: None,
            name: key.terms.name.to_string(),
            source: Source::Config,
            state: self.state_in_time(&key.terms, now),
            shadowed: false,
            terms: form::of_key(&key.terms),
            created: None,
            revoked: None,
            previous: None,
        }
    }

    fn state_in_time(&self, terms: &KeyTerms, now: Timestamp) -> KeyState {
        match terms.expires {
            Some(expires) if expires <= now => KeyState::Expired,
            Some(_) | None if !self.is_counted(terms) => KeyState::Uncounted,
            Some(_) | None => KeyState::Active,
        }
    }
}
