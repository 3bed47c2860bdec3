//! Limits: how many requests and tokens a key, a team, a route and the whole gateway may use in a minute and in a day,
//! and how many requests may be under way at once.
//!
//! All limits that a call counts towards are decided together: it takes of all of them, or of none. Requests are counted
//! once, when the call is let in. Tokens are taken at an estimate and settled at what was really used: the difference is
//! given back, as far as time has not restored it already, or owed. Nothing here waits for anything, and nothing grows
//! with traffic: the cells are those of the configuration and of the keys made at run time.

mod account;
mod cell;
mod dimension;
mod entry;
mod gcra;
mod headroom;
mod json;
mod preview;
mod refusal;
mod reservation;
mod shared;
#[cfg(test)]
mod tests;
mod time;
mod words;

use std::sync::Arc;

use arc_swap::ArcSwap;

pub use self::account::Holder;
use self::account::{Account, Accounts};
use self::cell::Share;
pub use self::dimension::{Amount, Dimension, Measure};
pub use self::entry::{Entry, Slip};
pub use self::headroom::{Headroom, tightest_requests, tightest_tokens};
pub use self::json::{Misfit, limits_from_json, limits_to_json};
pub use self::preview::{Preview, told};
pub use self::refusal::{Denied, Refusal};
use self::reservation::Part;
pub use self::reservation::Reservation;
pub use self::shared::{Hold, OnOutage, Shared, SharedAdmitted, SharedDenied, library};
pub use self::time::{Spelled, Time};
pub use self::words::{json_to_words, words_to_json};

/// All limits, and what has been used of them.
#[derive(Debug)]
pub struct Limits {
    accounts: ArcSwap<Accounts>,
    share: Share,
}

/// Whose limits a call counts towards.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// The key's name.
    pub key: &'a str,
    /// The name of its team.
    pub team: Option<&'a str>,
    /// The pattern of the route that serves it.
    pub route: Option<&'a str>,
    /// The model asked for; `None` where the path has none. It then counts only towards limits of all models.
    pub model: Option<&'a str>,
}

/// A call that is let in.
#[derive(Debug)]
pub struct Admitted<T> {
    /// What it has taken.
    pub reservation: Reservation,
    /// What was done together with that.
    pub also: T,
    /// The limits that would have refused it if they did more than report. Nothing was taken of them: a call that they
    /// had refused would not have been made.
    pub shadow: Vec<Refusal>,
}

impl Default for Limits {
    fn default() -> Self {
        Self::with_share(Share::WHOLE.0)
    }
}

impl Limits {
    /// Returns limits of which this process counts a share, in thousandths: of each limit at least one.
    pub fn with_share(thousandths: u32) -> Self {
        Self {
            accounts: ArcSwap::default(),
            share: Share(thousandths),
        }
    }

    /// Makes these all the limits there are. What was used of one that counts the same (the same holder, dimension,
    /// models and shadow) stays used, also where its number is another one. A holder stands in the list once.
    pub fn replace(&self, limits: &[(Holder, Vec<Entry>)]) {
        let old = self.accounts.load_full();
        let mut accounts = Accounts::default();
        for (holder, entries) in limits.iter().filter(|(_, entries)| !entries.is_empty()) {
            // Calls under way hold the account: it stays the same one.
            let account = old.get(holder).cloned();
            let account = account.unwrap_or_else(|| Arc::new(Account::new(holder.clone())));
            account.lock().replace(holder, entries, self.share);
            accounts.insert(account);
        }
        self.accounts.store(Arc::new(accounts));
    }

    /// Takes what a call wants of every limit that it counts towards, or of none, and does `also` in the same moment:
    /// when all have room, and before anything is taken. `also` must not wait, and must not come back here.
    ///
    /// # Errors
    /// The limit that has no room, or what `also` returned; then nothing was taken.
    pub fn admit<T, E>(
        &self,
        who: &Who<'_>,
        want: &Amount,
        now: Time,
        also: impl FnOnce() -> Result<T, E>,
    ) -> Result<Admitted<T>, Denied<E>> {
        let accounts = self.accounts.load().of(who);
        let mut locked = accounts
            .each_ref()
            .map(|account| account.as_deref().map(|account| (account, account.lock())));
        let mut parts = Vec::new();
        let mut trials = Vec::new();
        let mut refused: Option<Refusal> = None;
        let mut shadow = Vec::new();
        for (index, locked) in locked.iter_mut().enumerate() {
            let Some((account, cells)) = locked else {
                continue;
            };
            for cell in cells.of(who.model) {
                let n = cell.weight(want);
                let shortage = match cell.attempt(n, now) {
                    Ok(trial) => {
                        trials.push(trial);
                        parts.push(Part {
                            account: index,
                            cell: cell.id,
                            measure: cell.measure(),
                            n,
                            mark: Default::default(),
                            last: None,
                        });
                        continue;
                    }
                    Err(shortage) => shortage,
                };
                let refusal = Refusal::new(&account.holder, cell, n, shortage);
                if cell.subject.shadow {
                    shadow.push(refusal);
                } else if refused.as_ref().is_none_or(|other| refusal.outlasts(other)) {
                    refused = Some(refusal);
                }
            }
        }
        if let Some(refusal) = refused {
            return Err(Denied::Limit(Box::new(refusal)));
        }
        let also = also().map_err(Denied::Other)?;
        for (part, trial) in parts.iter_mut().zip(trials) {
            let account = locked.get_mut(part.account).and_then(Option::as_mut);
            if let Some(cell) = account.and_then(|(_, cells)| cells.find(part.cell)) {
                part.mark = cell.take(trial);
            }
        }
        drop(locked);
        Ok(Admitted {
            reservation: Reservation::new(accounts, parts),
            also,
            shadow,
        })
    }

    /// Returns what is left of each limit that a call would count towards; takes nothing.
    pub fn headroom(&self, who: &Who<'_>, now: Time) -> Vec<Headroom> {
        let accounts = self.accounts.load().of(who);
        headroom::headroom(&accounts, who.model, now)
    }

    /// Returns what is left of every limit, as far as this process counts.
    pub fn all(&self, now: Time) -> Vec<Headroom> {
        headroom::all(&self.accounts.load(), now)
    }
}
