//! What a call has taken of limits, wherever those are counted.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::Shared;
use super::asking::Wanted;
use super::more::More;
use super::settling::{Ended, Owed, Settled};
use super::slice::Sliced;
use crate::store::limits::cell::Terms;
use crate::store::limits::dimension::{Amount, Measure};
use crate::store::limits::reservation::Reservation;
use crate::store::limits::time::Time;

/// What a call has taken of every limit that it counts towards. It ends as a [`Reservation`] does.
#[must_use = "what is dropped is given back at once"]
pub enum Hold {
    /// Of limits that this process counts.
    Here(Reservation),
    /// Of limits that are counted in Redis.
    Shared(Taken),
    /// Of a slice that was taken in Redis beforehand.
    Sliced(Sliced),
    /// Of limits that this process counts while Redis is away.
    Alone(Alone),
}

/// What was taken in Redis.
pub struct Taken {
    shared: Arc<Shared>,
    call: u64,
    parts: Vec<Part>,
    sent: bool,
    more: More,
}

/// What was taken in this process while Redis was away.
pub struct Alone {
    shared: Arc<Shared>,
    call: u64,
    parts: Vec<Part>,
    reservation: Option<Reservation>,
    sent: bool,
}

/// What was taken of one cell.
pub(super) struct Part {
    pub(super) wanted: Wanted,
    pub(super) mark: u64,
}

impl Part {
    pub(super) fn new(wanted: Wanted, mark: u64) -> Self {
        Self { wanted, mark }
    }

    pub(super) fn terms(&self) -> &Arc<Terms> {
        &self.wanted.terms
    }

    /// Returns whether it is a place among concurrent requests.
    pub(super) fn is_place(&self) -> bool {
        self.wanted.is_place()
    }

    /// Returns whether an answer that goes on takes more of it.
    pub(super) fn grows(&self) -> bool {
        let measure = self.wanted.dimension.measure();
        matches!(measure, Measure::Tokens | Measure::OutputTokens)
    }

    /// Returns how much a call has used in the end; `None`: what it took.
    pub(super) fn used(&self, used: &Amount) -> Option<u64> {
        let measure = self.wanted.dimension.measure();
        measure.is_tokens().then(|| measure.of(used))
    }
}

impl Hold {
    pub(super) fn alone(
        shared: Arc<Shared>,
        call: u64,
        parts: Vec<Part>,
        reservation: Reservation,
    ) -> Self {
        if parts.is_empty() {
            return Self::Here(reservation);
        }
        Self::Alone(Alone {
            shared,
            call,
            parts,
            reservation: Some(reservation),
            sent: false,
        })
    }

    /// Notes that the call has gone to an upstream: from here on it counts, whatever comes of it.
    pub fn sent(&mut self) {
        match self {
            Self::Here(reservation) => reservation.sent(),
            Self::Shared(taken) => taken.sent = true,
            Self::Sliced(sliced) => sliced.sent(),
            Self::Alone(alone) => {
                alone.sent = true;
                if let Some(reservation) = &mut alone.reservation {
                    reservation.sent();
                }
            }
        }
    }

    /// Takes `n` more tokens of the answer, from every limit or from none, and returns whether they were there. Where
    /// limits are counted elsewhere, they go out before that is known: see [`Hold::denied`].
    pub fn take_more(&mut self, n: u32, now: Time) -> bool {
        match self {
            Self::Here(reservation) => reservation.take_more(n, now),
            Self::Shared(taken) => taken.take_more(n),
            Self::Sliced(sliced) => sliced.take_more(n),
            Self::Alone(alone) => {
                let reservation = alone.reservation.as_mut();
                reservation.is_none_or(|reservation| reservation.take_more(n, now))
            }
        }
    }

    /// Returns how many of the tokens that went out were not there, once.
    pub fn denied(&mut self) -> Option<u32> {
        match self {
            Self::Shared(taken) => taken.more.denied(&taken.shared),
            Self::Sliced(sliced) => sliced.denied(),
            Self::Here(_) | Self::Alone(_) => None,
        }
    }

    /// Is pending while nobody knows whether what went out was there.
    pub fn poll_known(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Shared(taken) => taken.more.poll_known(cx),
            Self::Sliced(sliced) => sliced.poll_known(cx),
            Self::Here(_) | Self::Alone(_) => Poll::Ready(()),
        }
    }

    /// Ends it with what was really used.
    pub fn settle(self, used: Amount, now: Time) {
        match self {
            Self::Here(reservation) => reservation.settle(used, now),
            Self::Shared(mut taken) => taken.end(Some(&used)),
            Self::Sliced(mut sliced) => sliced.end(Some(&used)),
            Self::Alone(mut alone) => alone.end(Some(used), now),
        }
    }
}

impl Taken {
    pub(super) fn new(shared: Arc<Shared>, call: u64, parts: Vec<Part>) -> Self {
        Self {
            shared,
            call,
            parts,
            sent: false,
            more: More::default(),
        }
    }

    fn take_more(&mut self, n: u32) -> bool {
        let growing = self.parts.iter().filter(|part| part.grows());
        let cells = growing.map(|part| part.wanted.instead(u64::from(n)));
        self.more.ask(&self.shared, cells.collect(), n)
    }

    #[cfg(test)]
    pub(super) fn is_asking(&self) -> bool {
        self.more.is_asking()
    }

    /// Settles what was used, or, where nobody knows, what was estimated; unsent, nothing.
    fn end(&mut self, used: Option<&Amount>) {
        let parts = std::mem::take(&mut self.parts);
        if parts.is_empty() {
            return;
        }
        let (shared, call) = (Arc::clone(&self.shared), self.call);
        let (sent, used) = (self.sent || used.is_some(), used.copied());
        // What was asked for and is not answered yet may have been given.
        std::mem::take(&mut self.more).end(&self.shared, move |given| {
            let mut settled = Vec::with_capacity(parts.len());
            for part in &parts {
                if part.is_place() {
                    settled.push(Settled::free(part.terms()));
                    continue;
                }
                let taken = part.wanted.n.saturating_add(given.of(part));
                let used = match &used {
                    _ if !sent => 0,
                    Some(used) => part.used(used).unwrap_or(taken),
                    None => taken,
                };
                // What was taken last is given back first: time has restored none of it.
                let unused = taken.saturating_sub(used);
                let rest = given.give_back(part, unused, &mut settled);
                settled.push(Settled::back(part, rest));
                if used > taken {
                    settled.push(Settled::owe(part.terms(), used - taken));
                }
            }
            shared.end(Ended {
                call,
                settled,
                owed: Vec::new(),
                alone: false,
            });
        });
    }
}

impl Alone {
    fn end(&mut self, used: Option<Amount>, now: Time) {
        let Some(reservation) = self.reservation.take() else {
            return;
        };
        let sent = self.sent || used.is_some();
        let parts = std::mem::take(&mut self.parts);
        match used {
            Some(used) => reservation.settle(used, now),
            None => drop(reservation),
        }
        let (places, rates): (Vec<_>, Vec<_>) = parts.into_iter().partition(Part::is_place);
        let owed = rates.into_iter().filter(|_| sent).map(|part| {
            let used = used.and_then(|used| part.used(&used));
            let n = used.unwrap_or(part.wanted.n);
            Owed { part, n }
        });
        self.shared.end(Ended {
            call: self.call,
            settled: places
                .iter()
                .map(|part| Settled::free(part.terms()))
                .collect(),
            owed: owed.collect(),
            alone: true,
        });
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.end(None);
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.end(None, Time::now());
    }
}
