//! Budgets that follow the keys and teams.
//!
//! What the holder of a new budget has used before is read from the ledger. Where that cannot be read, the change stands all
//! the same, the budgets that were counted before go on, and the rest is tried again every second. A holder that had no
//! budget before would have no bound until then: its keys open nothing, as do those of its team.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;

use super::{Directory, Entries};
use crate::store::budgets::{Budget, Holder, Replacement};
use crate::store::keys::KeyTerms;
use crate::store::ledger::ReadError;

/// The budgets of each holder that has some.
pub(super) type List = Vec<(Holder, Vec<Budget>)>;

/// What was asked of the budgets.
#[derive(Debug)]
pub(super) struct Counting {
    /// What is counted.
    set: List,
    /// What is to be, where it could not be read.
    owed: Option<List>,
}

impl Counting {
    pub(super) fn of(set: List) -> Self {
        Self { set, owed: None }
    }
}

impl Directory {
    /// Makes these all the budgets there are.
    pub(super) async fn count(&self, counting: &mut Counting, list: List) -> Result<(), ReadError> {
        if counting.set != list {
            let (budgets, new) = (Arc::clone(&self.budgets), list.clone());
            let reader = self.ledger.reader();
            // Read to its end: one that was cut off would be cut off each time that it is tried again.
            let replacing = tokio::task::spawn_blocking(move || {
                let replacement = Replacement::begin(budgets.as_ref(), new);
                reader.read_to_the_end(|file| replacement.finish(file, Timestamp::now()))
            });
            let replaced = replacing.await.unwrap_or(Err(ReadError::BrokeOff));
            if let Err(error) = replaced {
                if counting.owed.is_none() {
                    tracing::error!(
                        %error,
                        "the ledger cannot be read; budgets stay as they were, and keys that have got their first one open nothing until it is counted"
                    );
                }
                let known: HashSet<&Holder> =
                    counting.set.iter().map(|(holder, _)| holder).collect();
                let holders = list.iter().map(|(holder, _)| holder);
                let uncounted = holders.filter(|holder| !known.contains(holder));
                let uncounted = uncounted.cloned().collect();
                counting.owed = Some(list);
                self.update(|entries| entries.uncounted = uncounted);
                return Err(error);
            }
            counting.set = list;
        }
        if counting.owed.take().is_some() {
            tracing::info!("the budgets are counted");
            self.update(|entries| entries.uncounted.clear());
        }
        Ok(())
    }

    /// Tries again what could not be read.
    pub(super) async fn count_again(&self, counting: &mut Counting) {
        if let Some(list) = counting.owed.clone() {
            // Logged the first time.
            let _ = self.count(counting, list).await;
        }
    }
}

impl Entries {
    /// Returns whether the budgets of a key and of its team are counted, as far as it has some.
    pub(super) fn is_counted(&self, terms: &KeyTerms) -> bool {
        // Nearly always.
        if self.uncounted.is_empty() {
            return true;
        }
        let key = Holder::Key(Arc::clone(&terms.name));
        let team = terms.team.clone().map(Holder::Team);
        ![Some(key), team]
            .iter()
            .flatten()
            .any(|holder| self.uncounted.contains(holder))
    }
}
