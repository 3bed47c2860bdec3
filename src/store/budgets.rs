//! Budgets: how much a key or a team may use in a day, a month or in all, in money or in tokens.
//!
//! A call is reserved at an estimate before it goes anywhere, at every budget that it counts towards or at none, and
//! settled at what it really used. So what is spent and what is under way never exceed a budget together by more than
//! the estimates were too low. The counters live in memory; the ledger fills them at the start.
//!
//! Several gateways, each with a ledger of its own, may have their budgets together: see [`Report`].

mod budget;
mod counter;
mod preview;
mod replacement;
mod seed;
mod sharing;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rusqlite::Connection;

pub use self::budget::{Amount, Budget, Holder, Limit, Period, Window};
use self::counter::Counter;
pub use self::counter::{Balance, Spent};
pub use self::preview::Preview;
pub use self::replacement::Replacement;
use self::sharing::Sharing;
pub use self::sharing::{Answer, Charge, Report, Taken};

/// All budgets.
#[derive(Debug, Default)]
pub struct Budgets {
    accounts: Arc<Accounts>,
    are_of_nobody: bool,
    /// Set where several gateways have these budgets together.
    sharing: Option<Arc<Sharing>>,
}

type Accounts = ArcSwap<HashMap<Holder, Arc<Account>>>;

#[derive(Debug)]
struct Account {
    holder: Holder,
    counters: Mutex<Vec<Counter>>,
}

/// Room that is kept for a call. Dropped without being settled, it is given back.
#[derive(Debug)]
pub struct Reservation {
    /// Whose budgets it counts towards.
    holders: [Option<Holder>; 2],
    all: Arc<Accounts>,
    /// Those of its holders.
    accounts: Vec<Arc<Account>>,
    /// The number of the first counter that it was not reserved at: one that came later reads the call's row in the ledger.
    first_unreserved: u64,
    amount: Amount,
    /// What its row says of it as long as it is open, when there is one.
    entered: Option<Amount>,
    at: Timestamp,
    sharing: Option<Arc<Sharing>>,
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
    /// Returns the budgets of a process that lets nobody in: none is ever set, and nothing is read for them.
    pub fn of_nobody() -> Self {
        Self {
            are_of_nobody: true,
            ..Self::default()
        }
    }

    /// Makes these all the budgets there are, as [`Replacement`] does.
    ///
    /// # Errors
    /// SQLite's own; then nothing has changed.
    pub fn replace(
        &self,
        budgets: Vec<(Holder, Vec<Budget>)>,
        ledger: &Connection,
        now: Timestamp,
    ) -> Result<(), rusqlite::Error> {
        Replacement::begin(self, budgets).finish(ledger, now)
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
        let charge = Charge {
            key,
            team,
            amount,
            at: now,
        };
        self.keep(&charge, |counter, holder| {
            counter.refuse(holder, &amount, now)
        })
    }

    /// Keeps room at every budget that a call counts towards, unless one of them is refused.
    fn keep(
        &self,
        charge: &Charge<'_>,
        mut refuse: impl FnMut(&mut Counter, &Holder) -> Option<Spent>,
    ) -> Result<Reservation, Box<Spent>> {
        let Charge {
            key,
            team,
            amount,
            at,
        } = *charge;
        // Before the accounts are looked up: they have all counters of smaller numbers. What came since is caught up with.
        let first_unreserved = NEXT.load(Ordering::Acquire);
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
                .filter(|counter| counter.number < first_unreserved && counter.is_seeded)
                .find_map(|counter| refuse(counter, holder));
            if let Some(spent) = refused {
                return Err(Box::new(spent));
            }
        }
        for (_, counters) in &mut locked {
            for counter in counters.iter_mut().filter(|c| c.number < first_unreserved) {
                counter.reserved = counter.reserved.saturating_add(counter.budget.of(&amount));
            }
        }
        drop(locked);
        Ok(Reservation {
            holders,
            all: Arc::clone(&self.accounts),
            accounts,
            first_unreserved,
            amount,
            entered: None,
            at,
            sharing: self.sharing.clone(),
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
            let seeded = counters.iter().filter(|counter| counter.is_seeded);
            let mut budgets = seeded.map(|counter| &counter.budget);
            budgets.all(|budget| budget.of(amount).saturating_mul(times) <= budget.size())
        })
    }

    /// Returns the state of each budget.
    pub fn balances(&self, now: Timestamp) -> Vec<Balance> {
        let accounts = self.accounts.load();
        let of = |account: &Arc<Account>| {
            let mut counters = account.counters();
            let balances = counters.iter_mut().filter(|counter| counter.is_seeded);
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
    pub fn warning(&self) -> Option<Balance> {
        let mut warning: Option<Balance> = None;
        for account in &self.accounts {
            let mut counters = account.counters();
            let counts = |c: &&mut Counter| c.number < self.first_unreserved && c.is_seeded;
            for counter in counters.iter_mut().filter(counts) {
                let balance = counter.balance(&account.holder, self.at);
                let is_near =
                    balance.thousandths() >= u64::from(counter.budget.warn_at_thousandths);
                let is_nearer = |other: &Balance| balance.thousandths() > other.thousandths();
                if is_near && warning.as_ref().is_none_or(is_nearer) {
                    warning = Some(balance);
                }
            }
        }
        warning
    }

    /// Notes that the call stands in the ledger now, as an open row that says so much, and keeps its room at budgets, too,
    /// that have come since it was admitted: those may be filled from a state of the ledger without that row.
    pub fn entered(&mut self, row: Amount) {
        self.entered = Some(row);
        // Whatever has a greater number reads the ledger from now on.
        let next = NEXT.load(Ordering::Acquire);
        let came = self.first_unreserved..next;
        if came.is_empty() {
            return;
        }
        self.find_accounts();
        for account in &self.accounts {
            let mut counters = account.counters();
            for counter in counters.iter_mut().filter(|c| came.contains(&c.number)) {
                let reserved = counter.budget.of(&self.amount);
                counter.reserved = counter.reserved.saturating_add(reserved);
            }
        }
        self.first_unreserved = next;
    }

    /// Finds accounts of its holders that have come since.
    fn find_accounts(&mut self) {
        let all = self.all.load();
        for account in self
            .holders
            .iter()
            .flatten()
            .filter_map(|holder| all.get(holder))
        {
            if !self.accounts.iter().any(|own| Arc::ptr_eq(own, account)) {
                self.accounts.push(Arc::clone(account));
            }
        }
    }

    /// Keeps room for more, at every budget or at none, and returns whether it was there.
    pub fn take_more(&mut self, more: Amount, now: Timestamp) -> bool {
        let first_unreserved = self.first_unreserved;
        let mut locked: Vec<_> = self
            .accounts
            .iter()
            .map(|account| (&account.holder, account.counters()))
            .collect();
        let has_room = locked.iter_mut().all(|(holder, counters)| {
            let mut reserved_at = counters.iter_mut().filter(|c| c.number < first_unreserved);
            reserved_at.all(|counter| !counter.is_seeded || counter.has_room(holder, &more, now))
        });
        if has_room {
            for (_, counters) in &mut locked {
                for counter in counters.iter_mut().filter(|c| c.number < first_unreserved) {
                    counter.reserved = counter.reserved.saturating_add(counter.budget.of(&more));
                }
            }
            drop(locked);
            self.amount.tokens = self.amount.tokens.saturating_add(more.tokens);
            self.amount.cost = self.amount.cost.saturating_add(more.cost);
            if let Some(sharing) = &self.sharing {
                for account in &self.accounts {
                    sharing.note(&account.holder);
                }
            }
        }
        has_room
    }

    /// Books what was really used, in the period in which it was reserved.
    pub fn settle(mut self, used: Amount) {
        self.end(Some(used));
    }

    fn end(&mut self, used: Option<Amount>) {
        if used.is_some() && NEXT.load(Ordering::Acquire) != self.first_unreserved {
            self.find_accounts();
        }
        for account in self.accounts.drain(..) {
            let mut counters = account.counters();
            for counter in counters.iter_mut() {
                let used = used.as_ref().map(|used| counter.budget.of(used));
                let used = match counter.number < self.first_unreserved {
                    true => {
                        let reserved = counter.budget.of(&self.amount);
                        counter.reserved = counter.reserved.saturating_sub(reserved);
                        used
                    }
                    // It has what the row says.
                    false => self.entered.as_ref().and_then(|row| {
                        let excess = used?.saturating_sub(counter.budget.of(row));
                        (excess > 0).then_some(excess)
                    }),
                };
                if let Some(used) = used {
                    counter.add(self.at, used);
                }
            }
            drop(counters);
            if let Some(sharing) = &self.sharing {
                sharing.note(&account.holder);
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
