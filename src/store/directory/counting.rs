//! Budgets that follow the keys and teams.
//!
//! What the holder of a new budget has used before is read from the ledger. Where that cannot be read, the change stands all
//! the same, the budgets that were counted before go on, and the rest is tried again every second. A holder that had no
//! budget before would have no bound until then: its keys open nothing, as do those of its team. A key that is new opens
//! nothing before its budgets, and its team's, are counted for the first time.
//!
//! A large ledger takes its time. Keys and teams are changed meanwhile, and revoked; what they have come to is counted next.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::merge::Merged;
use super::{Directory, Entries};
use crate::call::Caller;
use crate::store::budgets::{Budget, Holder, Replacement};
use crate::store::keyring::Keyring;
use crate::store::keys::KeyTerms;
use crate::store::ledger::ReadError;
use tokio::time::{MissedTickBehavior, interval};

/// The budgets of each holder that has some.
pub(super) type List = Vec<(Holder, Vec<Budget>)>;

/// How often is tried again what could not be counted.
const PERIOD: Duration = Duration::from_secs(1);

/// What was asked of the budgets.
#[derive(Debug)]
pub(super) struct Counting {
    /// What is counted.
    set: List,
    /// What is to be, until it is.
    owed: Option<List>,
    /// Whether it could not be read.
    is_failing: bool,
}

impl Counting {
    pub(super) fn of(set: List) -> Self {
        Self {
            set,
            owed: None,
            is_failing: false,
        }
    }

    /// Notes what is to be counted.
    pub(super) fn owe(&mut self, list: List) {
        self.owed = Some(list);
    }

    /// Returns the keys that must wait until all budgets are counted: they would hang on the ring for the first time, and
    /// budgets that bound them are not counted yet.
    pub(super) fn waiting(&self, merged: &Merged, current: &Keyring) -> HashSet<Arc<str>> {
        let counted = self.holders();
        let holders = merged.budgets.iter().map(|(holder, _)| holder);
        let fresh: HashSet<_> = holders.filter(|holder| !counted.contains(holder)).collect();
        if fresh.is_empty() {
            return HashSet::new();
        }
        let open: HashSet<_> = current.callers().map(|caller| &*caller.key).collect();
        let is_waiting = |caller: &&Caller| {
            !open.contains(&*caller.key)
                && holders_of(&caller.key, caller.team.as_ref())
                    .iter()
                    .any(|holder| fresh.contains(holder))
        };
        let waiting = merged.ring.callers().filter(is_waiting);
        waiting.map(|caller| Arc::clone(&caller.key)).collect()
    }

    /// Returns whose budgets are counted.
    fn holders(&self) -> HashSet<&Holder> {
        self.set.iter().map(|(holder, _)| holder).collect()
    }
}

impl Directory {
    /// Counts what is owed, with all that is added meanwhile. Who is in the middle of that is waited for.
    pub(super) async fn count_owed(&self) -> Result<(), ReadError> {
        // Replacements come one by one.
        let _one = self.replacing.lock().await;
        while let Some(list) = self.owed().await {
            let (budgets, new) = (Arc::clone(&self.budgets), list.clone());
            let reader = self.ledger.reader();
            // Read to its end: one that was cut off would be cut off each time that it is tried again.
            let replacing = tokio::task::spawn_blocking(move || {
                let replacement = Replacement::begin(budgets.as_ref(), new);
                reader.read_to_the_end(|file| replacement.finish(file, Timestamp::now()))
            });
            let replaced = replacing.await.unwrap_or(Err(ReadError::BrokeOff));
            let mut counting = self.changing.lock().await;
            if let Err(error) = replaced {
                if !std::mem::replace(&mut counting.is_failing, true) {
                    tracing::error!(
                        %error,
                        "the ledger cannot be read; budgets stay as they were, and keys that have got their first one open nothing until it is counted"
                    );
                }
                let known = counting.holders();
                let holders = counting.owed.iter().flatten().map(|(holder, _)| holder);
                let uncounted = holders.filter(|holder| !known.contains(holder));
                let uncounted = uncounted.cloned().collect();
                self.update(&counting, |entries| entries.uncounted = uncounted);
                return Err(error);
            }
            counting.set = list;
        }
        Ok(())
    }

    /// Returns what is to be counted. Where that is what is counted, all is well, and who has waited for it waits no more.
    async fn owed(&self) -> Option<List> {
        let mut counting = self.changing.lock().await;
        if counting.owed.as_ref()? != &counting.set {
            return counting.owed.clone();
        }
        counting.owed = None;
        let has_failed = std::mem::take(&mut counting.is_failing);
        if has_failed {
            tracing::info!("the budgets are counted");
        }
        if has_failed || !self.entries().waiting.is_empty() {
            self.update(&counting, |entries| entries.uncounted.clear());
        }
        None
    }

    /// Counts whatever is owed, for as long as it is polled.
    pub(super) async fn keep_counting(&self) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changes = self.changes.subscribe();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = changes.changed() => {}
            }
            // Logged the first time, and tried again with the next tick.
            if self.count_owed().await.is_err() {
                ticks.reset();
                ticks.tick().await;
            }
        }
    }
}

impl Entries {
    /// Returns whether the budgets of a key and of its team are counted, as far as it has some.
    pub(super) fn is_counted(&self, terms: &KeyTerms) -> bool {
        // Nearly always.
        if self.uncounted.is_empty() && self.waiting.is_empty() {
            return true;
        }
        let holders = holders_of(&terms.name, terms.team.as_ref());
        let is_uncounted = holders.iter().any(|holder| self.uncounted.contains(holder));
        !is_uncounted && !self.waiting.contains(&terms.name)
    }
}

/// Returns who has budgets that bound a key.
fn holders_of(key: &Arc<str>, team: Option<&Arc<str>>) -> Vec<Holder> {
    let team = team.cloned().map(Holder::Team);
    [Holder::Key(Arc::clone(key))]
        .into_iter()
        .chain(team)
        .collect()
}
