//! All keys and teams there are: the configuration's, which a reload replaces, and those made at run time, which stand in
//! the ledger. From both together come the ring that opens the gateway, and the lists of budgets and of limits.
//!
//! Where both have a key or a team of one name, or a key of one digest, the configuration's counts, and the other one is
//! *shadowed* until that changes. A key whose team has gone opens nothing: its team's bounds would be gone with it.
//!
//! Several processes may share the ledger. Each looks at it every second, and takes over what others have changed
//! (`others`). Others with a ledger of their own may share all that by Redis ([`shared`]).
//!
//! A change is first made in the ledger, then in the limits, on the ring and in the budgets, and answered when all have it. A
//! client that leaves in the middle stops none of it. Budgets that cannot be counted then are counted as soon as they can
//! be (`counting`).

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
use rusqlite::Connection;
use serde_json::{Map, Value};
use tokio::sync::{Mutex as AsyncMutex, watch};

use self::counting::{Counting, List};
pub use self::find::Found;
pub use self::made::Made;
use self::made::made;
use self::merge::Merged;
pub use self::view::{KeyState, KeyView, PreviousView, Source, TeamView};
use super::budgets::{Budgets, Holder};
use super::keyring::CurrentKeyring;
use super::keys::{
    self, Author, Changed, Fresh, KeyEdit, KeyTerms, Refusal, Rotation, RuntimeKey, RuntimeTeam,
    TeamEdit, TeamTerms,
};
use super::ledger::{ChangeError, Ledger, LedgerError, ReadError};
use super::limits::{self, Entry, Limits};
use crate::secret::Secret;

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
            uncounted: HashSet::new(),
        };
        let Merged {
            ring,
            budgets: list,
            limits: limits_list,
        } = entries.merge();
        entries.warn();
        reader.read_now(|file| budgets.replace(list.clone(), file, Timestamp::now()))?;
        limits.replace(&limits_list);
        Ok(Arc::new(Self {
            actor,
            ledger: ledger.clone(),
            budgets: Arc::clone(budgets),
            limits,
            ring: Arc::new(ArcSwap::from_pointee(ring)),
            entries: Mutex::new(entries),
            changing: AsyncMutex::new(Counting::of(list)),
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
        let list = self.update(|entries| {
            entries.configured = configured;
            entries.warn();
        });
        Ok(self.count(&mut counting, list).await?)
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

    /// Makes a key, and returns its secret, which is kept nowhere. Where its budgets cannot be counted it opens nothing until
    /// they are; see [`KeyState::Uncounted`].
    ///
    /// # Errors
    /// [`DirectoryError`]
    pub async fn create_key(
        self: &Arc<Self>,
        terms: KeyTerms,
    ) -> Result<(Secret, KeyView), DirectoryError> {
        let (secret, fresh) = Fresh::make().map_err(|_| DirectoryError::Randomness)?;
        let make = move |entries: &Entries| {
            if entries.configured_key(&terms.name).is_some() {
                return Err(Refusal::NameTaken);
            }
            let team_is_known = entries.knows_team(terms.team.as_deref());
            Ok(move |file: &Connection, author: &Author| {
                keys::create_key(file, &terms, &fresh, team_is_known, author)
            })
        };
        Ok((secret, self.change_key(make).await?))
    }

    /// Changes what is said of a key.
    ///
    /// # Errors
    /// [`DirectoryError`]
    pub async fn edit_key(
        self: &Arc<Self>,
        which: &str,
        edit: KeyEdit,
    ) -> Result<KeyView, DirectoryError> {
        let which: Arc<str> = which.into();
        self.change_key(move |entries| {
            entries.editable(&which)?;
            let team = edit.team.as_ref().and_then(Option::as_deref);
            let team_is_known = entries.knows_team(team);
            Ok(move |file: &Connection, author: &Author| {
                keys::edit_key(file, &which, edit, team_is_known, author)
            })
        })
        .await
    }

    /// Gives a key another secret; the old one stays valid as long as the rotation says.
    ///
    /// # Errors
    /// [`DirectoryError`]
    pub async fn rotate_key(
        self: &Arc<Self>,
        which: &str,
        rotation: Rotation,
    ) -> Result<(Secret, KeyView), DirectoryError> {
        let (secret, fresh) = Fresh::make().map_err(|_| DirectoryError::Randomness)?;
        let which: Arc<str> = which.into();
        let make = move |entries: &Entries| {
            entries.editable(&which)?;
            Ok(move |file: &Connection, author: &Author| {
                keys::rotate_key(file, &which, &fresh, rotation, author)
            })
        };
        Ok((secret, self.change_key(make).await?))
    }

    /// Revokes a key, for good.
    ///
    /// # Errors
    /// [`DirectoryError`]
    pub async fn revoke_key(self: &Arc<Self>, which: &str) -> Result<KeyView, DirectoryError> {
        let which: Arc<str> = which.into();
        self.change_key(move |entries| {
            entries.editable(&which)?;
            Ok(move |file: &Connection, author: &Author| keys::revoke_key(file, &which, author))
        })
        .await
    }

    /// Makes a team.
    ///
    /// # Errors
    /// [`DirectoryError`]
    pub async fn create_team(
        self: &Arc<Self>,
        terms: TeamTerms,
    ) -> Result<TeamView, DirectoryError> {
        self.change_team(move |entries| {
            if entries.configured_team(&terms.name).is_some() {
                return Err(Refusal::NameTaken);
            }
            Ok(move |file: &Connection, author: &Author| keys::create_team(file, &terms, author))
        })
        .await
    }

    /// Changes what the keys of a team have in common.
    ///
    /// # Errors
    /// [`DirectoryError`]
    pub async fn edit_team(
        self: &Arc<Self>,
        name: &str,
        edit: TeamEdit,
    ) -> Result<TeamView, DirectoryError> {
        let name: Arc<str> = name.into();
        self.change_team(move |entries| {
            entries.editable_team(&name)?;
            Ok(
                move |file: &Connection, author: &Author| {
                    keys::edit_team(file, &name, edit, author)
                },
            )
        })
        .await
    }

    /// Deletes a team that has no keys.
    ///
    /// # Errors
    /// [`DirectoryError`]
    pub async fn delete_team(self: &Arc<Self>, name: &str) -> Result<(), DirectoryError> {
        let name: Arc<str> = name.into();
        let make = move |entries: &Entries| {
            entries.editable_team(&name)?;
            let stands_in = entries.configured_team(&name).is_some();
            Ok(move |file: &Connection, author: &Author| {
                keys::delete_team(file, &name, stands_in, author)
            })
        };
        let forget = |entries: &mut Entries, team: RuntimeTeam| {
            entries.made.teams.remove(&team.terms.name);
            let deleted = &mut entries.made.deleted;
            deleted.insert(team.terms.name, team.version);
        };
        self.change(make, forget, |_, _| ()).await
    }

    /// Notes in the audit what was done otherwise than here.
    ///
    /// # Errors
    /// [`DirectoryError::Ledger`]
    pub async fn note(
        &self,
        action: &'static str,
        detail: Map<String, Value>,
    ) -> Result<(), DirectoryError> {
        let author = self.author();
        let note = move |file: &Connection| {
            keys::audit::note(file, &author, action, "", detail).map(Ok::<_, Refusal>)
        };
        self.ledger.change(note).await.map_err(DirectoryError::from)
    }

    async fn change_key<F>(
        self: &Arc<Self>,
        make: impl FnOnce(&Entries) -> Result<F, Refusal> + Send + 'static,
    ) -> Result<KeyView, DirectoryError>
    where
        F: FnOnce(&Connection, &Author) -> Changed<RuntimeKey> + Send + 'static,
    {
        let keep = |entries: &mut Entries, key: RuntimeKey| {
            entries.made.keys.insert(Arc::clone(&key.terms.name), key);
        };
        let show = |entries: &Entries, key: &RuntimeKey| entries.view_of(key, Timestamp::now());
        self.change(make, keep, show).await
    }

    async fn change_team<F>(
        self: &Arc<Self>,
        make: impl FnOnce(&Entries) -> Result<F, Refusal> + Send + 'static,
    ) -> Result<TeamView, DirectoryError>
    where
        F: FnOnce(&Connection, &Author) -> Changed<RuntimeTeam> + Send + 'static,
    {
        let keep = |entries: &mut Entries, team: RuntimeTeam| {
            entries.made.deleted.remove(&team.terms.name);
            entries
                .made
                .teams
                .insert(Arc::clone(&team.terms.name), team);
        };
        self.change(make, keep, Entries::view_of_team).await
    }

    /// Makes a change everywhere. `make` looks at what is there and returns what to do in the ledger; `keep` does the
    /// same to what is in memory, and `show` says what has come of it.
    async fn change<F, T, V>(
        self: &Arc<Self>,
        make: impl FnOnce(&Entries) -> Result<F, Refusal> + Send + 'static,
        keep: impl FnOnce(&mut Entries, T) + Send + 'static,
        show: impl FnOnce(&Entries, &T) -> V + Send + 'static,
    ) -> Result<V, DirectoryError>
    where
        F: FnOnce(&Connection, &Author) -> Changed<T> + Send + 'static,
        T: Clone + Send + Sync + 'static,
        V: Send + 'static,
    {
        let this = Arc::clone(self);
        // On a task of its own: whoever asked may leave between the ledger and the ring.
        let changing = tokio::spawn(async move {
            let mut counting = this.changing.lock().await;
            let change = make(&this.entries())?;
            let author = this.author();
            let made = this
                .ledger
                .change(move |file| change(file, &author))
                .await?;
            let list = this.update(|entries| keep(entries, made.clone()));
            // The change is made, whatever comes of it: a secret that is not handed out now never will be.
            let _ = this.count(&mut counting, list).await;
            Ok(show(&this.entries(), &made))
        });
        changing.await.map_err(|_| DirectoryError::BrokeOff)?
    }

    /// Changes what is there, puts a new ring and new limits in the place of the old ones, and returns the budgets to set.
    fn update(&self, change: impl FnOnce(&mut Entries)) -> List {
        let mut entries = self.entries();
        change(&mut entries);
        let Merged {
            ring,
            budgets,
            limits,
        } = entries.merge();
        // Before the ring: no new key is ever without its limits.
        self.limits.replace(&limits);
        self.ring.store(Arc::new(ring));
        self.changes.send_modify(|changes| *changes += 1);
        budgets
    }

    fn author(&self) -> Author {
        Author {
            actor: self.actor,
            at: Timestamp::now(),
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<ChangeError<Refusal>> for DirectoryError {
    fn from(error: ChangeError<Refusal>) -> Self {
        match error {
            ChangeError::Ledger(error) => Self::Ledger(error),
            ChangeError::Row(error) => Self::Row(error),
            ChangeError::Refused(refusal) => Self::Refused(refusal),
        }
    }
}
