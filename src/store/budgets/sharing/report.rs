//! What one gateway tells of a budget, what it is answered, and what it remembers of the others.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::store::budgets::Account;
use crate::store::budgets::budget::Budget;
use crate::store::budgets::counter::{Counter, Spent};

/// What is taken of a budget, in its own unit: tokens or nano-dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// By calls that have ended.
    pub used: u64,
    /// For calls under way.
    pub reserved: u64,
}

/// What this gateway has of one budget, as the others are to know it.
#[derive(Clone, Debug)]
pub struct Report {
    pub(super) account: Arc<Account>,
    pub(super) budget: Budget,
    /// Which budget it is, among all that gateways share.
    pub name: String,
    /// Of two reports by one ledger the greater number counts.
    pub number: u64,
    /// What this gateway has.
    pub own: Taken,
    /// What of it is for the call that asks, in the budget's own unit.
    pub want: u64,
    /// What all may have together, in the budget's own unit.
    pub size: u64,
    /// When the calendar's period began, in seconds since 1970; 0 where there is none.
    pub period: i64,
    /// How long it counts if nothing more is heard; `None`: as long as the period.
    pub counts_for: Option<Duration>,
    /// How long it is kept.
    pub kept_for: Duration,
    /// The least that all others together count as having used, in the budget's own unit: what they were heard to have before
    /// that was lost where reports come together, or where nobody knows whether it was.
    pub others_floor: u64,
    /// What this gateway remembers of each of the others.
    pub(super) known: Known,
}

/// What is known where all reports come together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What other gateways have.
    pub others: Taken,
    /// Whether there is no room for the call that asked.
    pub is_spent: bool,
    /// Whether what was heard before is not there any more. Then this says nothing: see [`Report::epoch`].
    pub is_lost: bool,
    /// Whether the report counts from now on.
    pub is_noted: bool,
}

/// What each of the other gateways was last heard to have of one budget. When the place where reports come together was
/// emptied, whoever notices it first brings that back.
#[derive(Clone, Debug)]
pub struct Known {
    /// By what all of this was begun: where it is another one, all of this was lost. Empty: nothing was heard yet.
    pub(super) epoch: Arc<str>,
    /// By ledger, as it stood there.
    entries: Arc<[(String, String)]>,
    /// The number of the report that this was the answer to.
    pub(super) number: u64,
    /// When the calendar's period began that all of this is of, in seconds since 1970; 0 where there is none.
    pub(super) period: i64,
}

/// Of how many other ledgers is remembered what they have: of those that have most.
const MOST_KNOWN: usize = 64;

// === impl Report ===

impl Report {
    /// Takes over what is known of the others, and what of this gateway.
    pub fn answered(&self, answer: &Answer, now: Timestamp) {
        self.with_counter(|counter| counter.learn(self, answer, now));
    }

    /// Returns in what epoch others were heard of; empty: in none yet. Where it is another one now, what was
    /// [remembered](Self::remembered) is to be brought back before anything is asked.
    pub fn epoch(&self) -> &str {
        &self.known.epoch
    }

    /// Returns what each of the others was last heard to have, by its ledger.
    pub fn remembered(&self) -> &[(String, String)] {
        &self.known.entries
    }

    /// Remembers what each of the others has, by its ledger, as the answer to this says it.
    pub fn heard(&self, epoch: &str, mut entries: Vec<(String, String)>) {
        if entries.len() > MOST_KNOWN {
            let has = |(_, text): &(String, String)| {
                let mut numbers = text.split(' ').skip(1).map_while(|it| it.parse().ok());
                let (used, reserved): (u64, u64) = (numbers.next()?, numbers.next()?);
                Some(used.saturating_add(reserved))
            };
            entries.sort_by_cached_key(|entry| std::cmp::Reverse(has(entry)));
            entries.truncate(MOST_KNOWN);
        }
        self.with_counter(|counter| {
            if self.number > counter.known.number {
                counter.known = Known {
                    epoch: epoch.into(),
                    entries: entries.into(),
                    number: self.number,
                    period: self.period,
                };
            }
        });
    }

    /// Notes that what was remembered is back, in this epoch. It may be less than was heard since.
    pub fn restored(&mut self, epoch: &str, now: Timestamp) {
        let was = std::mem::replace(&mut self.known.epoch, epoch.into());
        let mut floor = 0;
        self.with_counter(|counter| {
            if counter.known.epoch == was {
                counter.known.epoch = Arc::clone(&self.known.epoch);
            }
            if counter.budget.period(now) == self.period {
                counter.raise_floor(now);
                floor = counter.others(now).used;
            }
        });
        self.others_floor = self.others_floor.max(floor);
    }

    /// Does something with the counter that this tells of, where it still is there.
    pub(super) fn with_counter(&self, with: impl FnOnce(&mut Counter)) {
        let mut counters = self.account.counters();
        let counter = counters
            .iter_mut()
            .find(|counter| counter.budget.counts_as(&self.budget));
        if let Some(counter) = counter {
            with(counter);
        }
    }

    /// Returns why there is no room for the call that asked.
    pub fn spent(&self, answer: &Answer, now: Timestamp) -> Box<Spent> {
        let others_used = answer.others.used.max(self.others_floor);
        let used = self.own.used.saturating_add(others_used);
        Box::new(Spent {
            holder: self.account.holder.clone(),
            budget: self.budget,
            used,
            is_used_up: used >= self.size,
            wanted: self.want,
            is_too_large: self.want > self.size,
            renewed: self.budget.calendar(now).map(|(_, next)| next),
        })
    }
}

// === impl Known ===

impl Default for Known {
    fn default() -> Self {
        Self {
            epoch: "".into(),
            entries: Arc::new([]),
            number: 0,
            period: 0,
        }
    }
}
