//! What is left of limits, for headers and for whoever asks.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::account::{Account, Accounts, Holder, OfCall};
use super::cell::Cell;
use super::dimension::{Dimension, Measure};
use super::time::Time;
use crate::pattern::Pattern;

/// What is left of one limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headroom {
    /// Whose.
    pub holder: Holder,
    /// Of what.
    pub dimension: Dimension,
    /// How many there are in its time.
    pub size: NonZeroU32,
    /// How many may come at once.
    pub burst: NonZeroU32,
    /// The models whose calls count; empty for all.
    pub models: Arc<[Pattern]>,
    /// Whether it refuses nothing.
    pub shadow: bool,
    /// How many are left now.
    pub remaining: u32,
    /// When all of them will be, if nobody takes any.
    pub reset: Duration,
}

/// Returns the limit on requests, by the minute or the day, of which the least is left; of equal ones that which takes
/// longer to be whole again. What refuses nothing does not count.
pub fn tightest_requests(all: &[Headroom]) -> Option<&Headroom> {
    tightest(all, |measure| measure == Measure::Requests)
}

/// Returns the limit on tokens, of whatever kind, of which the least is left, as [`tightest_requests`] does.
pub fn tightest_tokens(all: &[Headroom]) -> Option<&Headroom> {
    tightest(all, Measure::is_tokens)
}

fn tightest(all: &[Headroom], is_meant: impl Fn(Measure) -> bool) -> Option<&Headroom> {
    let meant = all
        .iter()
        .filter(|room| !room.shadow && is_meant(room.dimension.measure()));
    meant.min_by_key(|room| (room.remaining, std::cmp::Reverse(room.reset)))
}

impl Headroom {
    fn of(account: &Account, cell: &Cell, now: Time) -> Self {
        let (remaining, reset) = cell.left(now);
        Self {
            holder: account.holder.clone(),
            dimension: cell.subject.dimension,
            size: cell.size,
            burst: cell.burst(),
            models: Arc::clone(&cell.subject.models),
            shadow: cell.subject.shadow,
            remaining,
            reset,
        }
    }

    /// Returns how much is taken of what may come at once, from 0 to 1.
    pub fn used_ratio(&self) -> f64 {
        let left = f64::from(self.remaining) / f64::from(self.burst.get());
        (1.0 - left).clamp(0.0, 1.0)
    }
}

/// Returns what is left of every limit there is.
pub(super) fn all(accounts: &Accounts, now: Time) -> Vec<Headroom> {
    let mut all = Vec::new();
    for account in accounts.iter() {
        let cells = account.lock();
        all.extend(cells.iter().map(|cell| Headroom::of(account, cell, now)));
    }
    all
}

/// Returns what is left of each limit that calls of a model count towards: the key's first, then the team's, the
/// route's, the gateway's.
pub(super) fn headroom(accounts: &OfCall, model: Option<&str>, now: Time) -> Vec<Headroom> {
    let mut all = Vec::new();
    for account in accounts.iter().flatten() {
        for cell in account.lock().of(model) {
            all.push(Headroom::of(account, cell, now));
        }
    }
    all
}
