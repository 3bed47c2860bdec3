//! Budgets: how much a key or a team may use in a day, a month or in all, in money or in tokens.
//!
//! A call is reserved at an estimate before it goes anywhere, at every budget that it counts towards or at none, and
//! settled at what it really used. So what is spent and what is under way never exceed a budget together by more than
//! the estimates were too low. The counters live in memory; the ledger fills them at the start.

mod budget;
mod counter;
mod preview;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rusqlite::Connection;

pub use self::budget::{Amount, Budget, Holder, Limit, Period, Window};
pub use self::counter::{Balance, Spent};
use self::counter::{Counter, seed};
pub use self::preview::Preview;

/// All budgets.
#[derive(Debug, Default)]
pub struct Budgets {
    accounts: ArcSwap<HashMap<Holder, Arc<Account>>>,
}

#[derive(Debug)]
struct Account {
    holder: Holder,
    counters: Mutex<Vec<Counter>>,
}

/// Room that is kept for a call. Dropped without being settled, it is given back.
#[derive(Debug)]
pub struct Reservation {
    accounts: Vec<Arc<Account>>,
    /// The number of the first counter that it was not reserved at: one that came later has read the call's estimate from
    /// the ledger.
    before: u64,
    amount: Amount,
    at: Timestamp,
    /// The fullest budget that clients are to be warned of.
    warning: Option<Balance>,
}

/// The number of the next counter that comes among others.
static NEXT: AtomicU64 = AtomicU64::new(1);

// === impl Account ===

impl Account {
    fn counters(&self) -> MutexGuard<'_, Vec<Counter>> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Budgets ===

impl Budgets {
    /// Makes these all the budgets there are. What a budget that counts the same had used stays; what a new one's holder
    /// has used before is read from the ledger, calls under way at their estimates.
    ///
    /// # Errors
    /// SQLite's own; then nothing has changed.
    pub fn replace(
        &self,
        budgets: Vec<(Holder, Vec<Budget>)>,
        ledger: &Connection,
        now: Timestamp,
    ) -> Result<(), rusqlite::Error> {
        let old = self.accounts.load_full();
        let mut accounts = HashMap::new();
        for (holder, budgets) in budgets {
            if budgets.is_empty() {
                continue;
            }
            let account = old.get(&holder).cloned();
            let known: Vec<Budget> = account.as_ref().map_or_else(Vec::new, |account| {
                let counters = account.counters();
                counters.iter().map(|counter| counter.budget).collect()
            });
            let mut counters = Vec::with_capacity(budgets.len());
            for budget in budgets {
                let mut counter = Counter::new(budget);
                if !known.iter().any(|known| known.counts_as(&budget)) {
                    seed(&mut counter, &holder, ledger, now)?;
                }
                counters.push(counter);
            }
            // Calls under way hold the account: it stays the same one.
            let account = account.unwrap_or_else(|| {
                Arc::new(Account {
                    holder: holder.clone(),
                    counters: Mutex::default(),
                })
            });
            accounts.insert(holder, (account, counters));
        }
        let accounts = accounts
            .into_iter()
            .map(|(holder, (account, mut counters))| {
                let mut kept = account.counters();
                for counter in &mut counters {
                    // Taken only now: while others were read from the ledger, calls have gone on.
                    let known = kept
                        .iter()
                        .find(|known| known.budget.counts_as(&counter.budget));
                    match known {
                        Some(known) => {
                            *counter = Counter {
                                budget: counter.budget,
                                ..known.clone()
                            };
                        }
                        None => counter.number = NEXT.fetch_add(1, Ordering::Relaxed),
                    }
                }
                *kept = counters;
                drop(kept);
                (holder, account)
            });
        self.accounts.store(Arc::new(accounts.collect()));
        Ok(())
    }

    /// Keeps room for a call at every budget that it counts towards, or at none.
    ///
    /// # Errors
    /// The first budget that has no room.
    pub fn reserve(
        &self,
        key: &Arc<str>,
        team: Option<&Arc<str>>,
        amount: Amount,
        now: Timestamp,
    ) -> Result<Reservation, Box<Spent>> {
        let all = self.accounts.load();
        let holders = [
            Some(Holder::Key(Arc::clone(key))),
            team.map(|team| Holder::Team(Arc::clone(team))),
        ];
        let accounts: Vec<_> = match all.is_empty() {
            true => Vec::new(),
            false => holders
                .iter()
                .flatten()
                .filter_map(|holder| all.get(holder).cloned())
                .collect(),
        };
        // Always the key's before the team's, so that two calls never wait for each other.
        let mut locked: Vec<_> = accounts
            .iter()
            .map(|account| (&account.holder, account.counters()))
            .collect();
        for (holder, counters) in &mut locked {
            let refused = counters
                .iter_mut()
                .find_map(|counter| counter.refuse(holder, &amount, now));
            if let Some(spent) = refused {
                return Err(Box::new(spent));
            }
        }
        // Read while no counter can come among these.
        let before = NEXT.load(Ordering::Relaxed);
        let mut warning: Option<Balance> = None;
        for (holder, counters) in &mut locked {
            for counter in counters.iter_mut() {
                counter.reserved = counter.reserved.saturating_add(counter.budget.of(&amount));
                let balance = counter.balance(holder, now);
                let is_near =
                    balance.thousandths() >= u64::from(counter.budget.warn_at_thousandths);
                let is_nearer = |other: &Balance| balance.thousandths() > other.thousandths();
                if is_near && warning.as_ref().is_none_or(is_nearer) {
                    warning = Some(balance);
                }
            }
        }
        drop(locked);
        Ok(Reservation {
            accounts,
            before,
            amount,
            at: now,
            warning,
        })
    }

    /// Returns whether so many times an amount would fit each budget that a call counts towards, if nothing had been used.
    pub fn could_hold(
        &self,
        key: &Arc<str>,
        team: Option<&Arc<str>>,
        amount: &Amount,
        times: u64,
    ) -> bool {
        let all = self.accounts.load();
        if all.is_empty() {
            return true;
        }
        let holders = [
            Some(Holder::Key(Arc::clone(key))),
            team.map(|team| Holder::Team(Arc::clone(team))),
        ];
        let mut accounts = holders
            .iter()
            .flatten()
            .filter_map(|holder| all.get(holder));
        accounts.all(|account| {
            let counters = account.counters();
            let mut budgets = counters.iter().map(|counter| &counter.budget);
            budgets.all(|budget| budget.of(amount).saturating_mul(times) <= budget.size())
        })
    }

    /// Returns the state of each budget.
    pub fn balances(&self, now: Timestamp) -> Vec<Balance> {
        let accounts = self.accounts.load();
        let of = |account: &Arc<Account>| {
            let mut counters = account.counters();
            let balances = counters.iter_mut();
            balances
                .map(|counter| counter.balance(&account.holder, now))
                .collect::<Vec<_>>()
        };
        accounts.values().flat_map(of).collect()
    }

    /// Returns the state of the budgets that the calls of a key count towards.
    pub fn balances_of(&self, key: &str, team: Option<&str>, now: Timestamp) -> Vec<Balance> {
        let mut balances = self.balances(now);
        balances.retain(|balance| match &balance.holder {
            Holder::Key(name) => **name == *key,
            Holder::Team(name) => Some(&**name) == team,
        });
        balances
    }
}

// === impl Reservation ===

impl Reservation {
    /// Returns the fullest budget that its clients are to be warned of.
    pub fn warning(&self) -> Option<&Balance> {
        self.warning.as_ref()
    }

    /// Keeps room for more, at every budget or at none, and returns whether it was there.
    pub fn take_more(&mut self, more: Amount, now: Timestamp) -> bool {
        let before = self.before;
        let mut locked: Vec<_> = self
            .accounts
            .iter()
            .map(|account| (&account.holder, account.counters()))
            .collect();
        let has_room = locked.iter_mut().all(|(holder, counters)| {
            let mut reserved_at = counters.iter_mut().filter(|c| c.number < before);
            reserved_at.all(|counter| counter.has_room(holder, &more, now))
        });
        if has_room {
            for (_, counters) in &mut locked {
                for counter in counters.iter_mut().filter(|c| c.number < before) {
                    counter.reserved = counter.reserved.saturating_add(counter.budget.of(&more));
                }
            }
            drop(locked);
            self.amount.tokens = self.amount.tokens.saturating_add(more.tokens);
            self.amount.cost = self.amount.cost.saturating_add(more.cost);
        }
        has_room
    }

    /// Books what was really used, in the period in which it was reserved.
    pub fn settle(mut self, used: Amount) {
        self.end(Some(used));
    }

    fn end(&mut self, used: Option<Amount>) {
        for account in self.accounts.drain(..) {
            let mut counters = account.counters();
            let reserved_at = counters.iter_mut().filter(|c| c.number < self.before);
            for counter in reserved_at {
                let reserved = counter.budget.of(&self.amount);
                counter.reserved = counter.reserved.saturating_sub(reserved);
                if let Some(used) = &used {
                    let used = counter.budget.of(used);
                    counter.add(self.at, used);
                }
            }
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.end(None);
    }
}

#[cfg(test)]
mod tests;
