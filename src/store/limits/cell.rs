//! One number and what counts towards it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::account::Holder;
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
    pub(super) terms: Arc<Terms>,
    state: State,
}

/// How a cell is counted where several gateways count it together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// Where. The same for cells that count the same, whatever their size.
    pub(super) key: Arc<str>,
    /// The time in which one is restored, in nanoseconds; 0 for places, which are given back.
    pub(super) interval: u64,
    /// How many may come at once.
    pub(super) burst: NonZeroU32,
    /// Whether it refuses nothing.
    pub(super) shadow: bool,
}

/// The share of its limits that this process counts, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share(pub(super) u32);

#[derive(Clone, Debug)]
enum State {
    Rate(Rate, Level),
    Slots { size: NonZeroU32, used: u32 },
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

// === impl Terms ===

impl Terms {
    /// Returns whether time restores what is taken.
    pub(super) fn is_rate(&self) -> bool {
        self.interval > 0
    }
}

// === impl Share ===

impl Share {
    /// All of it.
    pub(super) const WHOLE: Self = Self(1000);

    /// Returns the share of a size, at least one.
    fn of(self, size: NonZeroU32) -> NonZeroU32 {
        let share = u64::from(size.get()) * u64::from(self.0) / 1000;
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        NonZeroU32::new(share).unwrap_or(NonZeroU32::MIN)
    }
}

// === impl Subject ===

impl Subject {
    /// Returns where this is counted together with others: `weir:{limits}:1:key:alice:tokens_per_minute:gpt-*`. The
    /// braces make one server of a cluster hold all that one call counts towards; the number is that of the format.
    fn key(&self, holder: &Holder) -> Arc<str> {
        let mut key = format!("weir:{{limits}}:1:{}:", holder.kind());
        if let Some(name) = holder.name() {
            key.extend(escape(name));
        }
        key.push(':');
        key.push_str(self.dimension.as_str());
        key.push(':');
        for (index, model) in self.models.iter().enumerate() {
            if index > 0 {
                key.push(',');
            }
            key.extend(escape(model.as_str()));
        }
        if self.shadow {
            key.push_str(":shadow");
        }
        key.into()
    }
}

/// Escapes what separates the parts of a key, so that no two names make the same one.
fn escape(name: &str) -> percent_encoding::PercentEncode<'_> {
    const SEPARATORS: AsciiSet = CONTROLS.add(b':').add(b',').add(b'%').add(b' ');
    utf8_percent_encode(name, &SEPARATORS)
}

// === impl Cell ===

impl Cell {
    /// Returns the cells of a holder's entry, full.
    pub(super) fn of(holder: &Holder, entry: &Entry, share: Share) -> impl Iterator<Item = Self> {
        let models: Arc<[Pattern]> = entry.canonical().into();
        entry.sizes.iter().map(move |(dimension, size)| {
            let subject = Subject {
                dimension: *dimension,
                models: Arc::clone(&models),
                shadow: entry.shadow,
            };
            let burst = entry.burst;
            let burst = burst.filter(|_| *dimension == Dimension::RequestsPerMinute);
            let burst = burst.unwrap_or(*size);
            let rate = |share: Share| {
                let period = dimension.period()?;
                Some(Rate::new(share.of(*size), period, share.of(burst)))
            };
            Self {
                id: 0,
                terms: Arc::new(Terms {
                    key: subject.key(holder),
                    interval: rate(Share::WHOLE).map_or(0, |rate| rate.interval()),
                    burst,
                    shadow: subject.shadow,
                }),
                subject,
                size: *size,
                state: match rate(share) {
                    Some(rate) => State::Rate(rate, Level::default()),
                    None => State::Slots {
                        size: share.of(*size),
                        used: 0,
                    },
                },
            }
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
            (State::Slots { used, .. }, State::Slots { used: other, .. }) => *used = *other,
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
            State::Slots { size, .. } => *size,
        }
    }

    /// Looks whether there is room, and takes nothing.
    pub(super) fn attempt(&mut self, n: u64, now: Time) -> Result<Trial, Shortage> {
        let (left, retry_after) = match &mut self.state {
            State::Rate(rate, level) => match level.attempt(rate, n, now) {
                Ok(after) => return Ok(Trial::Rate(after)),
                Err(Short { wait: nanos }) => (level.left(rate, now), nanos.map(wait)),
            },
            State::Slots { size, used } if *used < size.get() => return Ok(Trial::Slot),
            State::Slots { .. } => (0, Some(SLOT_WAIT)),
        };
        Err(Shortage { left, retry_after })
    }

    /// Takes what was tried.
    pub(super) fn take(&mut self, trial: Trial) -> Mark {
        match (&mut self.state, trial) {
            (State::Rate(_, level), Trial::Rate(after)) => level.take(after),
            (State::Slots { used, .. }, _) => {
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

    /// Gives back some of what was taken, and be it nothing, or the slot. Each take is given back once.
    pub(super) fn give_back(&mut self, n: u64, mark: Mark) {
        match &mut self.state {
            State::Rate(rate, level) => level.give_back(rate, n, mark),
            State::Slots { used, .. } => *used = used.saturating_sub(1),
        }
    }

    /// Returns how many are taken that time has not restored. Places come back by themselves.
    pub(super) fn taken(&self, now: Time) -> u64 {
        match &self.state {
            State::Rate(rate, level) => level.taken(rate, now),
            State::Slots { .. } => 0,
        }
    }

    /// Returns how many are left, and when all are.
    pub(super) fn left(&self, now: Time) -> (u32, Duration) {
        match &self.state {
            State::Rate(rate, level) => (level.left(rate, now), wait(level.restored_in(now))),
            State::Slots { size, used } => {
                let reset = if *used == 0 {
                    Duration::ZERO
                } else {
                    SLOT_WAIT
                };
                (size.get().saturating_sub(*used), reset)
            }
        }
    }
}
