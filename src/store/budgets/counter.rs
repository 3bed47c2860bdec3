//! What has been used of one budget, and what is left of it.

use std::collections::VecDeque;

use jiff::Timestamp;

use super::budget::{Amount, Budget, Holder};
use super::sharing::{Floor, Known, Others, Taken};

/// A budget that has no room for a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Whose.
    pub holder: Holder,
    /// Which.
    pub budget: Budget,
    /// What has been used of it, in its own unit.
    pub used: u64,
    /// Whether it is used up; else only this call does not fit any more.
    pub is_used_up: bool,
    /// What the call wants of it, in its own unit.
    pub wanted: u64,
    /// Whether the call would not fit if nothing had been used.
    pub is_too_large: bool,
    /// When a period begins anew; `None`: it does not, or bit by bit.
    pub renewed: Option<Timestamp>,
}

/// The state of one budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    /// Whose.
    pub holder: Holder,
    /// Which.
    pub budget: Budget,
    /// What has been used of it, in its own unit.
    pub used: u64,
    /// What is reserved for calls under way.
    pub reserved: u64,
    /// When a period begins anew; `None`: it does not, or bit by bit.
    pub renewed: Option<Timestamp>,
}

/// One budget and what has been used of it.
#[derive(Clone, Debug)]
pub(super) struct Counter {
    /// When it came among its holder's counters: later ones have larger numbers.
    pub(super) number: u64,
    pub(super) budget: Budget,
    /// Whether what was used before it came is counted in. As long as it is not, calls are counted and none is refused.
    pub(super) is_seeded: bool,
    /// What is reserved for calls under way, in the budget's own unit.
    pub(super) reserved: u64,
    /// What was used, in the budget's own unit, by the time at which a bucket begins (seconds since 1970), the oldest first.
    pub(super) used: VecDeque<(i64, u64)>,
    /// What all other gateways together were last heard to have.
    pub(super) others: Option<Others>,
    /// The least that they count as having used; `None`: what they were last heard to have counts alone.
    pub(super) floor: Option<Floor>,
    /// What each of them was last heard to have.
    pub(super) known: Known,
    /// The number of the last report to them; 0: there was none.
    pub(super) sent: u64,
    /// The number of the last report that they are known to have heard, and what it said; 0: they have heard none.
    pub(super) told: (u64, Taken),
}

// === impl Balance ===

impl Balance {
    /// Returns how much of it is used, in percent.
    pub fn percent(&self) -> u64 {
        self.thousandths() / 10
    }

    pub(super) fn thousandths(&self) -> u64 {
        let part = u128::from(self.used) * 1000 / u128::from(self.budget.size().max(1));
        u64::try_from(part).unwrap_or(u64::MAX)
    }

    /// Returns what is left, in its own unit.
    pub fn left(&self) -> u64 {
        self.budget.size().saturating_sub(self.used)
    }
}

// === impl Counter ===

impl Counter {
    pub(super) fn new(number: u64, budget: Budget) -> Self {
        Self {
            number,
            budget,
            is_seeded: false,
            reserved: 0,
            used: VecDeque::new(),
            others: None,
            floor: None,
            known: Known::default(),
            sent: 0,
            told: Default::default(),
        }
    }

    /// Returns what this gateway has used.
    pub(super) fn used(&mut self, now: Timestamp) -> u64 {
        let since = self.budget.since(now).as_second();
        // A bucket that is still partly in the window counts whole, so that no window holds more than the limit.
        let first = self.budget.bucket(self.budget.since(now));
        while self
            .used
            .front()
            .is_some_and(|(start, _)| *start < first.min(since))
        {
            self.used.pop_front();
        }
        let counted = self.used.iter().filter(|(start, _)| *start >= first);
        counted.fold(0, |sum, (_, used)| sum.saturating_add(*used))
    }

    pub(super) fn add(&mut self, at: Timestamp, amount: u64) {
        let bucket = self.budget.bucket(at);
        match self.used.binary_search_by_key(&bucket, |(start, _)| *start) {
            Ok(index) => self.used[index].1 = self.used[index].1.saturating_add(amount),
            Err(index) => self.used.insert(index, (bucket, amount)),
        }
    }

    /// Returns what all gateways have, as far as that is known.
    pub(super) fn balance(&mut self, holder: &Holder, now: Timestamp) -> Balance {
        let others = self.others(now);
        Balance {
            holder: holder.clone(),
            budget: self.budget,
            used: self.used(now).saturating_add(others.used),
            reserved: self.reserved.saturating_add(others.reserved),
            renewed: self.budget.calendar(now).map(|(_, next)| next),
        }
    }

    /// Returns whether a call that is under way may use more. Unlike a new call, it may take the very last.
    pub(super) fn has_room(&mut self, holder: &Holder, more: &Amount, now: Timestamp) -> bool {
        let balance = self.balance(holder, now);
        let taken = balance.used.saturating_add(balance.reserved);
        taken.saturating_add(self.budget.of(more)) <= self.budget.size()
    }

    /// Says why a call does not fit.
    pub(super) fn refuse(
        &mut self,
        holder: &Holder,
        amount: &Amount,
        now: Timestamp,
    ) -> Option<Spent> {
        let balance = self.balance(holder, now);
        let taken = balance.used.saturating_add(balance.reserved);
        self.lacks(taken, amount)
            .then(|| self.spent(balance, amount))
    }

    /// As [`Self::refuse`], but only for what this gateway alone has no room for.
    pub(super) fn refuse_alone(
        &mut self,
        holder: &Holder,
        amount: &Amount,
        now: Timestamp,
    ) -> Option<Spent> {
        let taken = self.used(now).saturating_add(self.reserved);
        let lacks = self.lacks(taken, amount);
        lacks.then(|| {
            let balance = self.balance(holder, now);
            self.spent(balance, amount)
        })
    }

    fn lacks(&self, taken: u64, amount: &Amount) -> bool {
        let size = self.budget.size();
        taken >= size || taken.saturating_add(self.budget.of(amount)) > size
    }

    fn spent(&self, all: Balance, amount: &Amount) -> Spent {
        let (size, wanted) = (self.budget.size(), self.budget.of(amount));
        Spent {
            holder: all.holder,
            budget: self.budget,
            used: all.used,
            is_used_up: all.used >= size,
            wanted,
            is_too_large: wanted > size,
            renewed: all.renewed,
        }
    }
}
