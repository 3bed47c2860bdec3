//! What a call has taken of limits, wherever those are counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::settling::{Ended, Owed, Settled};
use super::{How, Shared, Wanted, read};
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
    /// Of limits that this process counts while Redis is away.
    Alone(Alone),
}

/// What was taken in Redis.
pub struct Taken {
    shared: Arc<Shared>,
    call: u64,
    parts: Vec<Part>,
    sent: bool,
    asking: Option<Asking>,
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

/// More that was asked for, and goes out before the reply is here.
struct Asking {
    n: u32,
    state: Arc<AtomicU8>,
}

const OPEN: u8 = 0;
const GIVEN: u8 = 1;
const DENIED: u8 = 2;

impl Part {
    pub(super) fn new(wanted: Wanted, mark: u64) -> Self {
        Self { wanted, mark }
    }

    pub(super) fn terms(&self) -> &Arc<Terms> {
        &self.wanted.terms
    }

    /// Returns whether it is a place among concurrent requests.
    pub(super) fn is_place(&self) -> bool {
        !self.wanted.terms.is_rate()
    }

    /// Returns whether an answer that goes on takes more of it.
    fn grows(&self) -> bool {
        let measure = self.wanted.dimension.measure();
        matches!(measure, Measure::Tokens | Measure::OutputTokens)
    }

    /// Returns how much a call has used in the end.
    fn used(&self, used: &Amount) -> u64 {
        let measure = self.wanted.dimension.measure();
        if measure.is_tokens() {
            measure.of(used)
        } else {
            self.wanted.n
        }
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
            Self::Alone(alone) => {
                let reservation = alone.reservation.as_mut();
                reservation.is_none_or(|reservation| reservation.take_more(n, now))
            }
        }
    }

    /// Returns how many of the tokens that went out were not there, once.
    pub fn denied(&mut self) -> Option<u32> {
        match self {
            Self::Shared(taken) => taken.denied(),
            Self::Here(_) | Self::Alone(_) => None,
        }
    }

    /// Ends it with what was really used.
    pub fn settle(self, used: Amount, now: Time) {
        match self {
            Self::Here(reservation) => reservation.settle(used, now),
            Self::Shared(mut taken) => taken.end(Some(&used)),
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
            asking: None,
        }
    }

    fn take_more(&mut self, n: u32) -> bool {
        if self.asking.is_some() {
            // One question at a time: until it is answered, no more goes out than was asked for.
            return false;
        }
        let growing = self.parts.iter().filter(|part| part.grows());
        let cells: Vec<_> = growing.map(|part| Arc::clone(part.terms())).collect();
        if cells.is_empty() {
            return true;
        }
        let state = Arc::new(AtomicU8::new(OPEN));
        self.asking = Some(Asking {
            n,
            state: Arc::clone(&state),
        });
        let shared = Arc::clone(&self.shared);
        let call = self.call;
        tokio::spawn(async move {
            let more = cells.iter().map(|terms| (&**terms, u64::from(n)));
            let command = shared.ask(How::More, more, call);
            let reply = shared.redis.call::<Vec<i64>>(&command).await;
            // Nobody can say while Redis is away: what is used is owed in the end.
            let found = reply.ok().and_then(|reply| read(&reply, cells.len()));
            let has_room = found.is_none_or(|(has_room, _)| has_room);
            state.store(if has_room { GIVEN } else { DENIED }, Ordering::Release);
        });
        true
    }

    #[cfg(test)]
    pub(super) fn is_asking(&self) -> bool {
        let asking = self.asking.as_ref();
        asking.is_some_and(|asking| asking.state.load(Ordering::Acquire) == OPEN)
    }

    fn denied(&mut self) -> Option<u32> {
        let asking = self.asking.as_ref()?;
        let n = asking.n;
        match asking.state.load(Ordering::Acquire) {
            OPEN => None,
            DENIED => {
                self.asking = None;
                Some(n)
            }
            _ => {
                self.asking = None;
                for part in self.parts.iter_mut().filter(|part| part.grows()) {
                    part.wanted.n = part.wanted.n.saturating_add(u64::from(n));
                }
                None
            }
        }
    }

    /// Settles what was used, or, where nobody knows, nothing of what was estimated; unsent, all of it.
    fn end(&mut self, used: Option<&Amount>) {
        self.denied();
        let parts = std::mem::take(&mut self.parts);
        if parts.is_empty() {
            return;
        }
        let sent = self.sent || used.is_some();
        let mut settled = Vec::with_capacity(parts.len());
        for part in &parts {
            let taken = part.wanted.n;
            let used = match used {
                _ if !sent => 0,
                Some(used) => part.used(used),
                None => taken,
            };
            if part.is_place() {
                settled.push(Settled::free(part.terms()));
                continue;
            }
            settled.push(Settled::back(part, taken.saturating_sub(used)));
            if used > taken {
                settled.push(Settled::owe(part.terms(), used - taken));
            }
        }
        self.shared.end(Ended {
            call: self.call,
            settled,
            owed: Vec::new(),
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
            let n = used.map_or(part.wanted.n, |used| part.used(&used));
            Owed { part, n }
        });
        self.shared.end(Ended {
            call: self.call,
            settled: places
                .iter()
                .map(|part| Settled::free(part.terms()))
                .collect(),
            owed: owed.collect(),
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
