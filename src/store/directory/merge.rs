//! One ring, one list of budgets and one of limits, of the configuration's keys and teams and of those made at run time.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;

use super::{ConfiguredKey, ConfiguredLimits, Entries};
use crate::call::{Caller, Keeps, Origin};
use crate::store::budgets::{Budget, Holder};
use crate::store::keyring::{KeyParams, Keyring};
use crate::store::keys::{KeyTerms, Refusal, RuntimeKey, TeamTerms};
use crate::store::limits::{self, Entry};

/// What counts.
pub(super) struct Merged {
    pub(super) ring: Keyring,
    pub(super) budgets: Vec<(Holder, Vec<Budget>)>,
    pub(super) limits: Vec<(limits::Holder, Vec<Entry>)>,
}

impl Entries {
    pub(super) fn configured_key(&self, name: &str) -> Option<&ConfiguredKey> {
        let mut keys = self.configured.keys.iter();
        keys.find(|key| *key.terms.name == *name)
    }

    pub(super) fn configured_team(&self, name: &str) -> Option<&TeamTerms> {
        self.configured
            .teams
            .iter()
            .find(|team| *team.name == *name)
    }

    /// Returns whether the ledger need not be asked for a team.
    pub(super) fn knows_team(&self, team: Option<&str>) -> bool {
        team.is_none_or(|team| self.configured_team(team).is_some())
    }

    /// Returns the team that counts under a name, and which one that is.
    fn team(&self, name: &str) -> Option<(&TeamTerms, Origin)> {
        let configured = self.configured_team(name);
        let configured = configured.map(|terms| (terms, Origin::Configured));
        configured.or_else(|| {
            let team = self.made.teams.get(name)?;
            let origin = Origin::Made(team.created.as_microsecond());
            Some((&team.terms, origin))
        })
    }

    /// Finds a key made at run time, by its name, by its id or by the one before its rotation.
    pub(super) fn made_key(&self, which: &str) -> Option<&RuntimeKey> {
        let has_id = |key: &&RuntimeKey| {
            let previous = key.previous.as_ref();
            *key.id == *which || previous.is_some_and(|previous| *previous.id == *which)
        };
        let by_id = || self.made.keys.values().find(has_id);
        self.made.keys.get(which).or_else(by_id)
    }

    /// Checks that there is a key to change under an id or a name. A name means the configuration's, where both have it,
    /// as everywhere else.
    pub(super) fn editable(&self, which: &str) -> Result<(), Refusal> {
        if self.configured_key(which).is_none() {
            // The ledger has the last word: another process may have made it.
            return Ok(());
        }
        Err(match self.made.keys.get(which) {
            Some(made) => Refusal::Shadowed {
                id: Arc::clone(&made.id),
            },
            None => Refusal::Configured,
        })
    }

    /// Checks that there is a team to change under a name.
    pub(super) fn editable_team(&self, name: &str) -> Result<(), Refusal> {
        match self.configured_team(name) {
            Some(_) if !self.made.teams.contains_key(name) => Err(Refusal::Configured),
            Some(_) | None => Ok(()),
        }
    }

    /// Returns whether a key of the configuration stands in the way of one made at run time.
    pub(super) fn is_shadowed(&self, key: &RuntimeKey) -> bool {
        let mut configured = self.configured.keys.iter();
        configured.any(|other| other.terms.name == key.terms.name || other.digest == key.digest)
    }

    /// Returns whether the team of a key, if it has one, is there.
    pub(super) fn has_its_team(&self, terms: &KeyTerms) -> bool {
        let team = terms.team.as_deref();
        team.is_none_or(|team| self.team(team).is_some())
    }

    /// Returns whether a key made at run time was not revoked, here or elsewhere.
    pub(super) fn is_living(&self, key: &RuntimeKey) -> bool {
        key.revoked.is_none() && !self.closed.contains(&key.terms.name)
    }

    /// Forgets which keys were revoked elsewhere, as far as the ledger says so by now.
    pub(super) fn forget_closed(&mut self) {
        let made = &self.made.keys;
        let is_living = |name: &Arc<str>| made.get(name).is_some_and(|key| key.revoked.is_none());
        self.closed.retain(is_living);
    }

    /// Returns the keys made at run time whose team is not there, by team.
    pub(super) fn without_team(&self) -> BTreeMap<Arc<str>, Vec<Arc<str>>> {
        let mut teams: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let living = self.made.keys.values().filter(|key| key.revoked.is_none());
        for key in living.filter(|key| !self.has_its_team(&key.terms)) {
            if let Some(team) = &key.terms.team {
                let keys = teams.entry(Arc::clone(team)).or_default();
                keys.push(Arc::clone(&key.terms.name));
            }
        }
        teams
    }

    /// Puts everything together that counts.
    pub(super) fn merge(&self) -> Merged {
        let mut ring = Vec::new();
        let mut budgets = Vec::new();
        let ConfiguredLimits { own, keys: default } = &self.configured.limits;
        let mut limits = own.clone();
        let mut limit = |terms: &KeyTerms| {
            let own = Some(&terms.limits).filter(|own| !own.is_empty());
            let holder = limits::Holder::Key(Arc::clone(&terms.name));
            limits.push((holder, own.unwrap_or(default).clone()));
        };
        let names: HashSet<&str> = self
            .configured
            .keys
            .iter()
            .map(|key| &*key.terms.name)
            .collect();
        let digests: HashSet<_> = self.configured.keys.iter().map(|key| key.digest).collect();
        let counts = |key: &&RuntimeKey| {
            let is_shadowed = names.contains(&*key.terms.name) || digests.contains(&key.digest);
            self.is_living(key) && !is_shadowed && self.has_its_team(&key.terms)
        };
        for key in self.made.keys.values().filter(counts) {
            if self.is_counted(&key.terms) {
                self.hang(key, &mut ring);
            }
            limit(&key.terms);
            budgets.push((
                Holder::Key(Arc::clone(&key.terms.name)),
                key.terms.budgets.clone(),
            ));
        }
        // Behind the others, so that of two with one digest it is the configuration's that counts.
        for key in &self.configured.keys {
            if self.is_counted(&key.terms) {
                ring.push(self.params(&key.terms, key.digest, Origin::Configured));
            }
            limit(&key.terms);
            budgets.push((
                Holder::Key(Arc::clone(&key.terms.name)),
                key.terms.budgets.clone(),
            ));
        }
        let made = self.made.teams.values().map(|team| &team.terms);
        let made = made.filter(|team| self.configured_team(&team.name).is_none());
        for team in self.configured.teams.iter().chain(made) {
            budgets.push((Holder::Team(Arc::clone(&team.name)), team.budgets.clone()));
            let holder = limits::Holder::Team(Arc::clone(&team.name));
            limits.push((holder, team.limits.clone()));
        }
        budgets.retain(|(_, budgets)| !budgets.is_empty());
        limits.retain(|(_, limits)| !limits.is_empty());
        Merged {
            ring: Keyring::new(ring),
            budgets,
            limits,
        }
    }

    /// Hangs the secrets of a key made at run time on the ring.
    fn hang(&self, key: &RuntimeKey, ring: &mut Vec<KeyParams>) {
        let origin = Origin::Made(key.created.as_microsecond());
        let params = self.params(&key.terms, key.digest, origin);
        if let Some(previous) = &key.previous {
            let ends = system_time(previous.expires);
            ring.push(KeyParams {
                digest: previous.digest,
                expires: Some(params.expires.map_or(ends, |expires| expires.min(ends))),
                // Where the key as a whole has ended, the new secret would help nobody.
                is_replaced: params.expires.is_none_or(|expires| ends < expires),
                ..params.clone()
            });
        }
        ring.push(params);
    }

    /// Tells of everything that was made at run time and does not count.
    pub(super) fn warn(&self) {
        for key in self.made.keys.values().filter(|key| key.revoked.is_none()) {
            let (name, id) = (&*key.terms.name, &*key.id);
            if self.is_shadowed(key) {
                tracing::warn!(
                    key.name = name,
                    key.id = id,
                    "a key made at run time is shadowed by one of the configuration"
                );
            } else if !self.has_its_team(&key.terms) {
                tracing::warn!(
                    key.name = name,
                    key.id = id,
                    team = key.terms.team.as_deref(),
                    "a key made at run time opens nothing: its team is not there"
                );
            }
        }
        let shadowed = |name: &&Arc<str>| self.configured_team(name).is_some();
        for name in self.made.teams.keys().filter(shadowed) {
            tracing::warn!(
                team = &**name,
                "a team made at run time is shadowed by one of the configuration"
            );
        }
    }

    fn params(&self, terms: &KeyTerms, digest: [u8; 32], origin: Origin) -> KeyParams {
        let team = terms.team.as_deref().and_then(|team| self.team(team));
        let (team, team_origin) = team.unzip();
        let lists = [Some(&terms.models), team.map(|team| &team.models)];
        KeyParams {
            digest,
            caller: Arc::new(Caller {
                key: Arc::clone(&terms.name),
                key_origin: origin,
                team: terms.team.clone(),
                // A team that is away was the configuration's: one that was made is not deleted while it has keys.
                team_origin: team_origin.unwrap_or(Origin::Configured),
                models: lists.into_iter().flatten().cloned().collect(),
                keeps: Keeps::of_key(terms.cache, team.and_then(|team| team.cache)),
            }),
            paths: terms.paths.clone().into(),
            expires: terms.expires.map(system_time),
            is_replaced: false,
        }
    }
}

/// A time that the system cannot hold is further away than anybody waits.
fn system_time(time: Timestamp) -> SystemTime {
    SystemTime::try_from(time).unwrap_or(SystemTime::UNIX_EPOCH)
}
