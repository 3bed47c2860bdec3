//! Other budgets in the place of those there are.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use rusqlite::Connection;

use super::budget::{Budget, Holder};
use super::counter::Counter;
use super::seed::{Seed, read};
use super::{Account, Budgets, NEXT};

/// Makes other budgets all there are, in two steps: calls count towards the new ones from the first on, and from the
/// second on what was used before counts, too. What a budget that counts the same had used stays; what a new one's holder
/// has used is read from the ledger, between the two.
///
/// No call is missing: whichever has not entered its row in the ledger before the first step reserves after it, or catches up
/// when it enters its row ([`Reservation::entered`](super::Reservation::entered)). Whichever does so before the ledger is
/// read, a matter of milliseconds, counts twice until the next start, and whichever has entered its row before counts at
/// least at its estimate: rather too much than too little. Only what the ledger itself lacks, because it cannot be
/// written, is missing.
///
/// Dropped before it is finished, all is as it was before.
#[derive(Debug)]
#[must_use = "what is dropped changes nothing"]
pub struct Replacement<B: Borrow<Budgets>> {
    budgets: B,
    list: Vec<(Holder, Vec<Budget>)>,
    seeds: Vec<Seed>,
}

impl<B: Borrow<Budgets>> Replacement<B> {
    /// Takes the first step. Replacements come one by one; each holder is there once.
    pub fn begin(budgets: B, mut list: Vec<(Holder, Vec<Budget>)>) -> Self {
        let all = budgets.borrow();
        if all.are_of_nobody {
            list.clear();
        }
        list.retain(|(_, budgets)| !budgets.is_empty());
        let mut accounts = HashMap::clone(&all.accounts.load());
        for (holder, _) in &list {
            accounts.entry(holder.clone()).or_insert_with(|| {
                Arc::new(Account {
                    holder: holder.clone(),
                    counters: Mutex::default(),
                })
            });
        }
        // Before any number is given: whoever has seen that finds the account.
        let accounts = Arc::new(accounts);
        all.accounts.store(Arc::clone(&accounts));
        let mut seeds = Vec::new();
        for (holder, budgets) in &list {
            let Some(account) = accounts.get(holder) else {
                continue;
            };
            let mut counters = account.counters();
            for budget in budgets {
                if counters.iter().any(|known| known.budget.counts_as(budget)) {
                    continue;
                }
                // Only while the counters are locked: whoever locks them finds all of smaller numbers.
                let number = NEXT.fetch_add(1, Ordering::AcqRel);
                counters.push(Counter::new(number, *budget));
                seeds.push(Seed::new(holder.clone(), number, *budget));
            }
        }
        Self {
            budgets,
            list,
            seeds,
        }
    }

    /// Returns whether anything has to be read of the ledger.
    pub fn reads(&self) -> bool {
        !self.seeds.is_empty()
    }

    /// Takes the second step.
    ///
    /// # Errors
    /// SQLite's own; then all is as it was before.
    pub fn finish(mut self, ledger: &Connection, now: Timestamp) -> Result<(), rusqlite::Error> {
        read(&mut self.seeds, ledger, now)?;
        let seeds = std::mem::take(&mut self.seeds);
        let old = self.budgets.borrow().accounts.load_full();
        for seed in seeds {
            let Some(account) = old.get(&seed.holder) else {
                continue;
            };
            let mut counters = account.counters();
            let counter = counters.iter_mut().find(|c| c.number == seed.number);
            if let Some(counter) = counter {
                seed.fill(counter);
            }
            drop(counters);
            if let Some(sharing) = &self.budgets.borrow().sharing {
                sharing.note(&account.holder);
            }
        }
        let mut accounts = HashMap::new();
        for (holder, budgets) in self.list.drain(..) {
            // Calls under way hold the account: it stays the same one.
            let Some(account) = old.get(&holder) else {
                continue;
            };
            let mut kept = account.counters();
            let counters = budgets.iter().filter_map(|budget| {
                let known = kept.iter().find(|c| c.budget.counts_as(budget))?.clone();
                Some(Counter {
                    budget: *budget,
                    ..known
                })
            });
            let counters = counters.collect();
            *kept = counters;
            drop(kept);
            accounts.insert(holder, Arc::clone(account));
        }
        self.budgets.borrow().accounts.store(Arc::new(accounts));
        Ok(())
    }
}

impl<B: Borrow<Budgets>> Drop for Replacement<B> {
    fn drop(&mut self) {
        let accounts = self.budgets.borrow().accounts.load();
        for seed in self.seeds.drain(..) {
            if let Some(account) = accounts.get(&seed.holder) {
                account.counters().retain(|c| c.number != seed.number);
            }
        }
    }
}
