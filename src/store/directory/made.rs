//! What was made at run time, as it stands in a ledger.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::Connection;

use super::{Configured, Entries};
use crate::store::keys::{self, Record, RuntimeKey, RuntimeTeam};

/// The keys made at run time, by name.
pub(super) type Keys = BTreeMap<Arc<str>, RuntimeKey>;
/// The teams made at run time, by name.
pub(super) type Teams = BTreeMap<Arc<str>, RuntimeTeam>;

/// What was made at run time, as it stands in a ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    pub(super) keys: Keys,
    pub(super) teams: Teams,
    /// The teams that were deleted, with the versions of their ends.
    pub(super) deleted: BTreeMap<Arc<str>, i64>,
}

impl Made {
    /// Reads it.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn read(file: &Connection) -> Result<Self, rusqlite::Error> {
        made(file)
    }

    /// Returns the keys that would open nothing beside this configuration because their team is not there, by team.
    pub fn without_team(self, configured: &Configured) -> BTreeMap<Arc<str>, Vec<Arc<str>>> {
        let entries = Entries {
            configured: configured.clone(),
            made: self,
            ..Entries::default()
        };
        entries.without_team()
    }

    /// Returns a record of each key and team, and of each team that was deleted, unless that is the one which is known
    /// already under its field.
    pub(super) fn unlike<'a>(
        &'a self,
        known: impl Fn(&str) -> Option<&'a Record> + Copy + 'a,
    ) -> impl Iterator<Item = Record> + 'a {
        let keys = self.keys.values().filter(move |key| {
            let known = known(&Record::field_of_key(&key.terms.name));
            !matches!(known, Some(Record::Key(known)) if known == *key)
        });
        let teams = self.teams.values().filter(move |team| {
            let known = known(&Record::field_of_team(&team.terms.name));
            !matches!(known, Some(Record::Team(known)) if known == *team)
        });
        let deleted = self.deleted.iter().map(no_team);
        let deleted = deleted.filter(move |team| known(&team.field()) != Some(team));
        let keys = keys.cloned().map(Record::Key);
        keys.chain(teams.cloned().map(Record::Team)).chain(deleted)
    }

    /// Returns whether anything is said in the field of a record.
    pub(super) fn has(&self, field: &str) -> bool {
        match field.split_once(':') {
            Some(("key", name)) => self.keys.contains_key(name),
            Some(("team", name)) => {
                self.teams.contains_key(name) || self.deleted.contains_key(name)
            }
            _ => false,
        }
    }

    /// Puts a record in the place of what was said before.
    pub(super) fn put(&mut self, record: Record) {
        match record {
            Record::Key(key) => {
                self.keys.insert(Arc::clone(&key.terms.name), key);
            }
            Record::Team(team) => {
                self.deleted.remove(&team.terms.name);
                self.teams.insert(Arc::clone(&team.terms.name), team);
            }
            Record::NoTeam { name, version } => {
                self.teams.remove(&name);
                self.deleted.insert(name, version);
            }
        }
    }

    /// Returns whether a record says nothing new.
    pub(super) fn says(&self, record: &Record) -> bool {
        let team = |name| {
            let team = self.teams.get(name).cloned().map(Record::Team);
            team.or_else(|| self.deleted.get_key_value(name).map(no_team))
        };
        let own = match record {
            Record::Key(key) => match self.keys.get(&key.terms.name) {
                // Nearly always.
                Some(own) if own == key => return true,
                own => own.cloned().map(Record::Key),
            },
            Record::Team(other) => team(&other.terms.name),
            Record::NoTeam { name, .. } => team(name),
        };
        own.is_some_and(|own| own.clone().join(record.clone()) == own)
    }
}

fn no_team((name, version): (&Arc<str>, &i64)) -> Record {
    Record::NoTeam {
        name: Arc::clone(name),
        version: *version,
    }
}

/// Reads what was made at run time.
pub(super) fn made(file: &Connection) -> Result<Made, rusqlite::Error> {
    let keys = keys::all_keys(file)?.into_iter();
    let keys = keys.map(|key| (Arc::clone(&key.terms.name), key));
    let teams = keys::all_teams(file)?.into_iter();
    let teams = teams.map(|team| (Arc::clone(&team.terms.name), team));
    Ok(Made {
        keys: keys.collect(),
        teams: teams.collect(),
        deleted: keys::deleted_teams(file)?.into_iter().collect(),
    })
}
