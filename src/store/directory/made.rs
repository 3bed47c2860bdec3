//! What was made at run time, as it stands in a ledger.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::Connection;

use super::{Configured, Entries};
use crate::store::keys::{self, RuntimeKey, RuntimeTeam};

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
