//! All keys and teams there are: the configuration's, which a reload replaces, and those made at run time, which stand in
//! the ledger. From both together come the ring that opens the gateway, and the lists of budgets and of limits.
//!
//! Where both have a key or a team of one name, or a key of one digest, the configuration's counts, and the other one is
//! *shadowed* until that changes. A key whose team has gone opens nothing: its team's bounds would be gone with it.
//!
//! Several processes may share the ledger. Each looks at it every second, and takes over what others have changed
//! (`others`). Others with a ledger of their own may share all that by Redis ([`shared`]).

mod changing;
mod counting;
mod find;
mod made;
mod merge;
mod others;
pub mod shared;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::sync::{Mutex as AsyncMutex, watch};

use self::counting::{Counting, List};
pub use self::find::Found;
pub use self::made::Made;
use self::made::made;
use self::merge::Merged;
pub use self::view::{KeyState, KeyView, Listed, PreviousView, Source, TeamView};
use super::budgets::{Budgets, Holder, Replacement};
use super::keyring::CurrentKeyring;
use super::keys::audit::micros;
use super::keys::{Author, KeyTerms, Refusal, TeamTerms};
use super::ledger::{Ledger, LedgerError, ReadError};
use super::limits::{self, Entry, Limits};

/// The keys and teams of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Configured {
    /// The keys. Names and digests are unique.
    pub keys: Vec<ConfiguredKey>,
    /// The teams. Names are unique.
    pub teams: Vec<TeamTerms>,
    /// The limits.
    pub limits: ConfiguredLimits,
}

/// The limits of the configuration.
#[derive(Clone, Debug, Default)]
pub struct ConfiguredLimits {
    /// What its routes may use, and all calls together. A holder stands there once; keys and teams have theirs in their
    /// terms.
    pub own: Vec<(limits::Holder, Vec<Entry>)>,
    /// What each key may use that has no limits of its own, wherever it was made.
    pub keys: Vec<Entry>,
}

/// A key of the configuration.
#[derive(Clone, Debug)]
pub struct ConfiguredKey {
    /// SHA-256 of the key.
    pub digest: [u8; 32],
    /// What is said of its holder.
    pub terms: KeyTerms,
}

/// Why a change was not made, or not made everywhere.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It may not be made.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It could not be written. Nothing has changed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// What stands of it in the ledger cannot be understood: somebody wrote it by hand, wrongly. Nothing has changed.
    #[error("what stands of it in the ledger cannot be understood: {0}")]
    Row(#[source] rusqlite::Error),
    /// What budgets have used could not be read. Keys are as they should be, budgets as they were before, until they can
    /// be counted.
    #[error("the ledger cannot be read")]
    Read(#[from] ReadError),
    /// The system has no randomness to make a key of.
    #[error("there is no randomness to make a key of")]
    Randomness,
    /// A bug.
    #[error("the change broke off")]
    BrokeOff,
}

/// All keys and teams there are.
#[derive(Debug)]
pub struct Directory {
    actor: &'static str,
    ledger: Ledger,
    budgets: Arc<Budgets>,
    limits: Arc<Limits>,
    ring: CurrentKeyring,
    entries: Mutex<Entries>,
    /// Held for as long as one change takes: they come one by one.
    changing: AsyncMutex<Counting>,
    /// Held for as long as budgets are counted, which may take longer.
    replacing: AsyncMutex<()>,
    /// Counts whatever may have changed keys or teams.
    changes: watch::Sender<u64>,
}

/// What is there.
#[derive(Debug, Default)]
struct Entries {
    configured: Configured,
    made: Made,
    /// Whose budgets should be counted, and are not: without a bound they open nothing.
    uncounted: HashSet<Holder>,
    /// The keys that wait for the first count of their budgets: they have opened nothing yet.
    waiting: HashSet<Arc<str>>,
    /// The keys that were revoked elsewhere, as long as the ledger does not say so.
    closed: HashSet<Arc<str>>,
}

/// Who acts when the admin API does.
pub const ADMIN: &str = "admin";
/// Who acts when somebody does at the file itself.
pub const CLI: &str = "cli";

impl Directory {
    /// Reads what was made at run time and puts it beside the configuration's. `actor` is who the audit says makes
    /// changes.
    ///
    /// # Errors
    /// [`DirectoryError::Read`] when the ledger cannot be read.
    pub fn open(
        ledger: &Ledger,
        budgets: &Arc<Budgets>,
        limits: Arc<Limits>,
        configured: Configured,
        actor: &'static str,
    ) -> Result<Arc<Self>, DirectoryError> {
        let reader = ledger.reader();
        let made = reader.read_now(made)?;
        let entries = Entries {
            configured,
            made,
            ..Entries::default()
        };
        let Merged {
            ring,
            budgets: list,
            limits: limits_list,
        } = entries.merge();
        entries.warn();
        let replacement = Replacement::begin(budgets.as_ref(), list.clone());
        if replacement.reads() {
            // Without its budgets a gateway does not start: a large ledger may take its time.
            reader.read_to_the_end(|file| replacement.finish(file, Timestamp::now()))?;
        }
        limits.replace(&limits_list);
        Ok(Arc::new(Self {
            actor,
            ledger: ledger.clone(),
            budgets: Arc::clone(budgets),
            limits,
            ring: Arc::new(ArcSwap::from_pointee(ring)),
            entries: Mutex::new(entries),
            changing: AsyncMutex::new(Counting::of(list)),
            replacing: AsyncMutex::new(()),
            changes: watch::Sender::new(0),
        }))
    }

    /// Returns the ring that is current, now and after each change.
    pub fn ring(&self) -> CurrentKeyring {
        Arc::clone(&self.ring)
    }

    /// Returns the budgets, which follow each change.
    pub fn budgets(&self) -> &Arc<Budgets> {
        &self.budgets
    }

    /// Returns the limits, which follow each change.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// Returns the ledger that it all stands in.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Puts the keys and teams of a new configuration in the place of the old ones. What was made at run time stays.
    ///
    /// # Errors
    /// [`DirectoryError::Read`]: the new keys count, the budgets are as they were before.
    pub async fn reconfigure(&self, configured: Configured) -> Result<(), DirectoryError> {
        let mut counting = self.changing.lock().await;
        let list = self.update(&counting, |entries| {
            entries.configured = configured;
            entries.warn();
        });
        counting.owe(list);
        drop(counting);
        Ok(self.count_owed().await?)
    }

    /// Returns every key, the configuration's first.
    pub fn keys(&self) -> Vec<KeyView> {
        self.entries().key_views(Timestamp::now())
    }

    /// Returns the key of an id, the one before its rotation too, or of a name; the configuration's, where both have the
    /// name.
    pub fn key(&self, which: &str) -> Option<KeyView> {
        self.entries().key_view(which, Timestamp::now())
    }

    /// Returns the keys made at run time that open nothing because their team is not there: the teams, each with the names
    /// of its keys.
    pub fn without_team(&self) -> BTreeMap<Arc<str>, Vec<Arc<str>>> {
        self.entries().without_team()
    }

    /// Returns every team, the configuration's first.
    pub fn teams(&self) -> Vec<TeamView> {
        self.entries().team_views()
    }

    /// Returns the team of a name; the configuration's, where both have it.
    pub fn team(&self, name: &str) -> Option<TeamView> {
        self.entries().team_view(name)
    }

    /// Changes what is there, puts a new ring and new limits in the place of the old ones, and returns the budgets to set.
    /// Keys that are new wait until those are counted.
    fn update(&self, counting: &Counting, change: impl FnOnce(&mut Entries)) -> List {
        let mut entries = self.entries();
        change(&mut entries);
        entries.forget_closed();
        entries.waiting.clear();
        let mut merged = entries.merge();
        let waiting = counting.waiting(&merged, &self.ring.load());
        if !waiting.is_empty() {
            entries.waiting = waiting;
            merged = entries.merge();
        }
        let Merged {
            ring,
            budgets,
            limits,
        } = merged;
        // Before the ring: no new key is ever without its limits.
        self.limits.replace(&limits);
        self.ring.store(Arc::new(ring));
        self.changes.send_modify(|changes| *changes += 1);
        budgets
    }

    fn author(&self) -> Author {
        Author {
            actor: self.actor,
            at: micros(Timestamp::now()),
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
