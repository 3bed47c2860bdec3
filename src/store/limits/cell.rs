//! One number and what counts towards it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::dimension::{Amount, Dimension, Measure};
use super::entry::Entry;
use super::gcra::{After, Level, Mark, Rate, Short};
use super::time::{Time, wait};
use crate::pattern::Pattern;

/// How long a client waits that has too many requests under way. When one of them ends is nobody's to know; most do
/// within seconds.
pub(super) const SLOT_WAIT: Duration = Duration::from_secs(1);

/// What a cell counts. Two that are alike count the same, whatever their size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) dimension: Dimension,
    /// Empty for all.
    pub(super) models: Arc<[Pattern]>,
    pub(super) shadow: bool,
}

/// One number and what counts towards it.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    /// By which reservations find it again. No two cells of an account ever have the same.
    pub(super) id: u64,
    pub(super) subject: Subject,
    pub(super) size: NonZeroU32,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Rate(Rate, Level),
    Slots { used: u32 },
}

/// What would be taken of a cell.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trial {
    Rate(After),
    Slot,
}

/// A cell that has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shortage {
    pub(super) left: u32,
    /// When there will be room; `None`: never.
    pub(super) retry_after: Option<Duration>,
}

impl Cell {
    /// Returns the cells of an entry, full.
    pub(super) fn of(entry: &Entry) -> impl Iterator<Item = Self> {
        let models: Arc<[Pattern]> = entry.canonical().into();
        entry.sizes.iter().map(move |(dimension, size)| Self {
            id: 0,
            subject: Subject {
                dimension: *dimension,
                models: Arc::clone(&models),
                shadow: entry.shadow,
            },
            size: *size,
            state: match dimension.period() {
                Some(period) => {
                    let burst = entry.burst;
                    let burst = burst.filter(|_| *dimension == Dimension::RequestsPerMinute);
                    let rate = Rate::new(*size, period, burst.unwrap_or(*size));
                    State::Rate(rate, Level::default())
                }
                None => State::Slots { used: 0 },
            },
        })
    }

    /// Goes on where a cell that counted the same left off.
    pub(super) fn succeed(&mut self, other: &Self) {
        self.id = other.id;
        match (&mut self.state, &other.state) {
            (State::Rate(rate, level), State::Rate(old, other)) => {
                *level = other.clone();
                if rate != old {
                    level.resize(old, rate);
                }
            }
            (State::Slots { used }, State::Slots { used: other }) => *used = *other,
            (State::Rate(..), State::Slots { .. }) | (State::Slots { .. }, State::Rate(..)) => {}
        }
    }

    /// Returns whether calls of a model count.
    pub(super) fn counts(&self, model: Option<&str>) -> bool {
        let models = &self.subject.models;
        let matches = |model| models.iter().any(|pattern| pattern.matches(model));
        models.is_empty() || model.is_some_and(matches)
    }

    /// Returns what a call that uses such an amount counts for here.
    pub(super) fn weight(&self, amount: &Amount) -> u64 {
        self.measure().of(amount)
    }

    pub(super) fn measure(&self) -> Measure {
        self.subject.dimension.measure()
    }

    /// Returns how many may come at once.
    pub(super) fn burst(&self) -> NonZeroU32 {
        match &self.state {
            State::Rate(rate, _) => rate.burst(),
            State::Slots { .. } => self.size,
        }
    }

    /// Looks whether there is room, and changes nothing but the time.
    pub(super) fn attempt(&mut self, n: u64, now: Time) -> Result<Trial, Shortage> {
        let (left, retry_after) = match &mut self.state {
            State::Rate(rate, level) => match level.attempt(rate, n, now) {
                Ok(after) => return Ok(Trial::Rate(after)),
                Err(Short { wait: nanos }) => (level.left(rate, now), nanos.map(wait)),
            },
            State::Slots { used } if *used < self.size.get() => return Ok(Trial::Slot),
            State::Slots { .. } => (0, Some(SLOT_WAIT)),
        };
        Err(Shortage { left, retry_after })
    }

    /// Takes what was tried.
    pub(super) fn take(&mut self, n: u64, trial: Trial) -> Mark {
        match (&mut self.state, trial) {
            (State::Rate(_, level), Trial::Rate(after)) => level.take(n, after),
            (State::Slots { used }, _) => {
                *used = used.saturating_add(1);
                Mark::default()
            }
            (State::Rate(..), Trial::Slot) => Mark::default(),
        }
    }

    /// Takes more, whether it is there or not.
    pub(super) fn owe(&mut self, n: u64, now: Time) {
        if let State::Rate(rate, level) = &mut self.state {
            level.owe(rate, n, now);
        }
    }

    /// Gives back some of what was taken, or the slot.
    pub(super) fn give_back(&mut self, n: u64, mark: Mark) {
        match &mut self.state {
            State::Rate(rate, level) => level.give_back(rate, n, mark),
            State::Slots { used } => *used = used.saturating_sub(1),
        }
    }

    /// Returns how many are left, and when all are.
    pub(super) fn left(&mut self, now: Time) -> (u32, Duration) {
        match &mut self.state {
            State::Rate(rate, level) => (level.left(rate, now), wait(level.restored_in(now))),
            State::Slots { used } => {
                let reset = if *used == 0 {
                    Duration::ZERO
                } else {
                    SLOT_WAIT
                };
                (self.size.get().saturating_sub(*used), reset)
            }
        }
    }
}
