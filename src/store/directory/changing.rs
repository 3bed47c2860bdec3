//! What operators change: first in the ledger, then in the limits, on the ring and in the budgets, and answered when all have
//! it. A client that leaves in the middle stops none of it. Budgets that cannot be counted then are counted as soon as they
//! can be (`counting`).

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::Connection;
use serde_json::{Map, Value};

use super::{Directory, DirectoryError, Entries, KeyView, TeamView};
use crate::secret::Secret;
use crate::store::keys::{
    self, Author, Changed, Fresh, KeyEdit, KeyTerms, Refusal, Rotation, RuntimeKey, RuntimeTeam,
    TeamEdit, TeamTerms,
};
use crate::store::ledger::ChangeError;

impl Directory {
    /// Makes a key, and returns its secret, which is kept nowhere. Where its budgets cannot be counted it opens nothing until
    /// they are; see [`KeyState::Uncounted`](super::KeyState::Uncounted).
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
                return Err(Refusal::NameConfigured);
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
                return Err(Refusal::NameConfigured);
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
            let list = this.update(&counting, |entries| keep(entries, made.clone()));
            counting.owe(list);
            drop(counting);
            // The change is made, whatever comes of it: a secret that is not handed out now never will be.
            let _ = this.count_owed().await;
            Ok(show(&this.entries(), &made))
        });
        changing.await.map_err(|_| DirectoryError::BrokeOff)?
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
