//! Room that is taken for several calls at a time, so that most calls need no round trip.
//!
//! A slice is taken like a call that wants so many times as much, and belongs to calls that count towards just the same
//! limits. It is gone from every limit until it ends, so nobody is ever let in beyond one; what was not used of it is
//! given back a second later. It is at most an eighth of what may come at once, and where a limit has no room for one,
//! each call asks for itself. Places among concurrent requests are never taken beforehand.

use std::hash::{BuildHasher, BuildHasherDefault};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHasher};

use super::Shared;
use super::asking::Wanted;
use super::hold::Part;
use super::more::More;
use super::settling::{Ended, Settled};
use crate::store::limits::Who;
use crate::store::limits::dimension::Amount;
use crate::store::limits::headroom::Headroom;
use crate::store::limits::time::Time;

/// How long calls take of a slice.
const LIFE: Duration = Duration::from_secs(1);
/// A slice is at most this part of what may come at once.
const MOST_OF_BURST: u64 = 8;
/// How many slices there are at most. Calls that find no place for one ask for themselves alone.
const MOST_SLICES: usize = 4096;

/// The slices that calls take of now.
pub(super) struct Slices {
    times: u32,
    /// By whose they are, as a hash: the cells tell whether a slice is the right one.
    slices: Mutex<FxHashMap<u64, Entry>>,
}

struct Entry {
    until: Time,
    /// `None`: until then there is no room for one.
    slice: Option<Arc<Slice>>,
}

/// What a look for a slice has come to.
pub(super) enum Found {
    /// The call has its part, and so much is left.
    Part(Sliced, Vec<Headroom>),
    /// It is to ask for itself.
    Dry,
    /// There is no slice that it could take of.
    Nothing,
}

/// What was taken beforehand.
pub(super) struct Slice {
    shared: Arc<Shared>,
    /// What was left when it was taken.
    rooms: Vec<Headroom>,
    portions: Mutex<Portions>,
}

#[derive(Default)]
struct Portions {
    list: Vec<Portion>,
    /// Whether no more calls take of it: then nothing is kept for them.
    is_over: bool,
}

/// What was taken of one cell.
struct Portion {
    part: Part,
    left: u64,
    used: u64,
}

/// A call's part of a slice.
pub struct Sliced {
    slice: Arc<Slice>,
    taken: Vec<u64>,
    sent: bool,
    more: More,
}

impl Slices {
    pub(super) fn new(times: NonZeroU32) -> Self {
        Self {
            times: times.get(),
            slices: Mutex::default(),
        }
    }

    /// Returns for how many such calls room is taken at a time; `None` for one.
    pub(super) fn times(&self, wanted: &[Wanted]) -> Option<u32> {
        let mut times = u64::from(self.times);
        for wanted in wanted {
            if wanted.is_place() {
                return None;
            }
            let most = u64::from(wanted.terms.burst.get()) / MOST_OF_BURST;
            times = times.min(most.checked_div(wanted.n).unwrap_or(times));
        }
        u32::try_from(times).ok().filter(|times| *times > 1)
    }

    /// Takes a call's part of the slice that there is for it.
    pub(super) fn find(&self, who: &Who<'_>, wanted: &[Wanted], now: Time) -> Found {
        let slices = self.lock();
        let Some(entry) = slices.get(&hash(who)).filter(|entry| now < entry.until) else {
            return Found::Nothing;
        };
        match &entry.slice {
            None => Found::Dry,
            Some(slice) => match slice.part(wanted) {
                Some((part, left)) => Found::Part(part, left),
                None => Found::Nothing,
            },
        }
    }

    /// Has calls ask for themselves for a while: there is no room for a slice, or one of them is asking for it. Returns
    /// whether there is a place for one.
    pub(super) fn dry(&self, who: &Who<'_>, now: Time) -> bool {
        self.insert(who, None, now)
    }

    /// Has others take of a slice, and returns the part of the call that it was taken by.
    pub(super) fn put(
        &self,
        who: &Who<'_>,
        slice: Slice,
        wanted: &[Wanted],
        now: Time,
    ) -> Option<(Sliced, Vec<Headroom>)> {
        let slice = Arc::new(slice);
        let part = slice.part(wanted)?;
        self.insert(who, Some(slice), now);
        Some(part)
    }

    fn insert(&self, who: &Who<'_>, slice: Option<Arc<Slice>>, now: Time) -> bool {
        let until = now.after(LIFE);
        let mut slices = self.lock();
        if slices.len() >= MOST_SLICES && !slices.contains_key(&hash(who)) {
            return false;
        }
        let old = slices.insert(hash(who), Entry { until, slice });
        drop(slices);
        retire(old);
        true
    }

    /// Ends the slices whose time is over.
    pub(super) fn purge(&self, now: Time) {
        let mut slices = self.lock();
        let ended = slices.extract_if(|_, entry| now >= entry.until);
        let ended: Vec<_> = ended.map(|(_, entry)| entry).collect();
        drop(slices);
        retire(ended);
    }

    /// Ends all slices.
    pub(super) fn clear(&self) {
        let ended = std::mem::take(&mut *self.lock());
        retire(ended.into_values());
    }

    fn lock(&self) -> MutexGuard<'_, FxHashMap<u64, Entry>> {
        self.slices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends slices, outside of the lock.
fn retire(ended: impl IntoIterator<Item = Entry>) {
    for slice in ended.into_iter().filter_map(|entry| entry.slice) {
        slice.retire();
    }
}

fn hash(who: &Who<'_>) -> u64 {
    let whose = (who.key, who.team, who.route, who.model);
    BuildHasherDefault::<FxHasher>::default().hash_one(whose)
}

impl Slice {
    pub(super) fn new(shared: Arc<Shared>, parts: Vec<Part>, rooms: Vec<Headroom>) -> Self {
        let portions = parts.into_iter().map(|part| Portion {
            left: part.wanted.n,
            part,
            used: 0,
        });
        Self {
            shared,
            rooms,
            portions: Mutex::new(Portions {
                list: portions.collect(),
                is_over: false,
            }),
        }
    }

    /// Has no more calls take of it, and gives back what none has taken.
    fn retire(&self) {
        let mut settled = Vec::new();
        let mut portions = self.portions();
        portions.is_over = true;
        portions.give_rest(&mut settled);
        drop(portions);
        if !settled.is_empty() {
            self.shared.end(Ended::of_rates(settled.into_iter()));
        }
    }

    fn portions(&self) -> MutexGuard<'_, Portions> {
        self.portions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a call's part, where it counts towards the same cells and there is enough of each.
    fn part(self: &Arc<Self>, wanted: &[Wanted]) -> Option<(Sliced, Vec<Headroom>)> {
        let mut portions = self.portions();
        let fits = |(portion, wanted): (&Portion, &Wanted)| {
            Arc::ptr_eq(portion.part.terms(), &wanted.terms) && portion.left >= wanted.n
        };
        let list = &mut portions.list;
        if list.len() != wanted.len() || !list.iter().zip(wanted).all(fits) {
            return None;
        }
        let mut left = self.rooms.clone();
        for ((portion, wanted), room) in list.iter_mut().zip(wanted).zip(&mut left) {
            portion.left -= wanted.n;
            let here = u32::try_from(portion.left).unwrap_or(u32::MAX);
            room.remaining = room.remaining.saturating_add(here);
        }
        drop(portions);
        let sliced = Sliced {
            slice: Arc::clone(self),
            taken: wanted.iter().map(|wanted| wanted.n).collect(),
            sent: false,
            more: More::default(),
        };
        Some((sliced, left))
    }
}

/// What was not used is given back, and what was used beyond it is owed.
impl Drop for Slice {
    fn drop(&mut self) {
        let Portions { list, .. } = std::mem::take(&mut *self.portions());
        let mut settled = Vec::with_capacity(list.len());
        for Portion { part, used, .. } in &list {
            let taken = part.wanted.n;
            settled.push(Settled::back(part, taken.saturating_sub(*used)));
            if *used > taken {
                settled.push(Settled::owe(part.terms(), used - taken));
            }
        }
        if !settled.is_empty() {
            self.shared.end(Ended::of_rates(settled.into_iter()));
        }
    }
}

impl Portions {
    /// Gives back what nobody takes any more.
    fn give_rest(&mut self, settled: &mut Vec<Settled>) {
        for portion in self.list.iter_mut().filter(|_| self.is_over) {
            let rest = std::mem::take(&mut portion.left);
            if rest > 0 {
                settled.push(Settled::some(&portion.part, rest));
                portion.part.wanted.n -= rest.min(portion.part.wanted.n);
            }
        }
    }
}

impl Sliced {
    pub(super) fn sent(&mut self) {
        self.sent = true;
    }

    /// Takes more of the slice, or else asks for it.
    pub(super) fn take_more(&mut self, n: u32) -> bool {
        let more = u64::from(n);
        let mut portions = self.slice.portions();
        let growing = |portion: &&Portion| portion.part.grows();
        let mut list = portions.list.iter().filter(growing);
        if list.all(|portion| portion.left >= more) {
            for (portion, taken) in portions.list.iter_mut().zip(&mut self.taken) {
                if portion.part.grows() {
                    portion.left -= more;
                    *taken = taken.saturating_add(more);
                }
            }
            return true;
        }
        let growing = portions.list.iter().filter(growing);
        let cells = growing.map(|portion| portion.part.wanted.instead(more));
        let cells = cells.collect();
        drop(portions);
        self.more.ask(&self.slice.shared, cells, n)
    }

    pub(super) fn poll_known(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.more.poll_known(cx)
    }

    /// Returns how many of the tokens that went out were not there, once.
    pub(super) fn denied(&mut self) -> Option<u32> {
        self.more.denied(&self.slice.shared)
    }

    /// Settles what was used, or, where nobody knows, what was estimated; unsent, nothing.
    pub(super) fn end(&mut self, used: Option<&Amount>) {
        let taken = std::mem::take(&mut self.taken);
        if taken.is_empty() {
            return;
        }
        let slice = Arc::clone(&self.slice);
        let (sent, used) = (self.sent || used.is_some(), used.copied());
        // What was asked for and is not answered yet may have been given.
        std::mem::take(&mut self.more).end(&self.slice.shared, move |given| {
            let mut settled = Vec::new();
            let mut portions = slice.portions();
            for (portion, taken) in portions.list.iter_mut().zip(taken) {
                let given_here = given.of(&portion.part);
                let whole = taken.saturating_add(given_here);
                let used = match &used {
                    _ if !sent => 0,
                    Some(used) => portion.part.used(used).unwrap_or(whole),
                    None => whole,
                };
                // Of the slice first, then of what was asked for besides, and what is still lacking of the slice again.
                let of_given = used.saturating_sub(taken).min(given_here);
                let of_slice = used - of_given;
                given.give_back(&portion.part, given_here - of_given, &mut settled);
                portion.used = portion.used.saturating_add(of_slice);
                portion.left = (portion.left.saturating_add(taken)).saturating_sub(of_slice);
            }
            portions.give_rest(&mut settled);
            drop(portions);
            if !settled.is_empty() {
                slice.shared.end(Ended::of_rates(settled.into_iter()));
            }
        });
    }
}

impl Drop for Sliced {
    fn drop(&mut self) {
        self.end(None);
    }
}
