//! Limits and budgets that several gateways count together, in Redis.
//!
//! One call of one function decides about all that a call counts towards, takes of all or of none, and tells what is left
//! for the headers: one round trip. It is the same arithmetic as in this process, on the server's clock. What a call has
//! really used is settled off its path, many calls at once; see [`settling`]. Places among concurrent requests are leases
//! that this gateway renews: those of one that died come back by themselves.
//!
//! While Redis is away this process counts alone, each limit's configured share of it, or lets nobody in. What was used
//! meanwhile, and time has not restored, is owed to the shared limits as soon as Redis is back.
//!
//! Budgets are counted by each gateway's own ledger. Each tells what it has in all, and the function adds up: what it says
//! twice, or late, counts once. A call has its room here before others are asked for it: calls that are asked about at the
//! same moment count as let in, though they may all be refused. What calls take while they go on is told afterwards; it may
//! go beyond a budget by what each gateway gives at the same moment.
//!
//! Where a round trip for each call is too much, room for several is taken at a time, and the calls behind take of that;
//! see [`slice`].
//!
//! The functions' name is made of their code: gateways of another version have functions of their own. What they keep is
//! the same as long as the number in its keys is.

mod admitting;
mod asking;
mod budgets;
mod hold;
mod more;
mod settling;
mod slice;
#[cfg(test)]
mod tests;

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use redis::Cmd;
use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};

pub use self::admitting::{SharedAdmitted, SharedDenied};
pub use self::hold::Hold;
use self::hold::Part;
use self::settling::{Ended, Message, settle_all};
use self::slice::Slices;
use super::cell::Terms;
use super::dimension::Amount;
use super::headroom::Headroom;
use super::{Limits, Who};
use crate::store::budgets::Budgets;
use crate::store::redis::{Library, Redis, RedisState};

/// The functions, without their name.
const CODE: &str = concat!(
    include_str!("lua/shared.lua"),
    "\n",
    include_str!("lua/rates.lua"),
    "\n",
    include_str!("lua/places.lua"),
    "\n",
    include_str!("lua/budgets.lua"),
    "\n",
    include_str!("lua/functions.lua"),
);
/// What stands for their name.
const LIBRARY: &str = "@LIBRARY@";
/// How long a place is kept of a gateway that is not heard of.
const LEASE: Duration = Duration::from_secs(10);

/// How many limits are looked at in one question: Redis answers nobody else meanwhile.
const LOOKED_AT: usize = 128;

/// What is done while Redis is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnOutage {
    /// This process counts alone.
    Local,
    /// Nobody is let in whose calls are limited.
    Reject,
}

/// Limits and budgets that several gateways count together.
pub struct Shared {
    limits: Arc<Limits>,
    budgets: Arc<Budgets>,
    redis: Redis,
    on_outage: OnOutage,
    library: String,
    /// Which gateway this is, among all that ever were.
    replica: String,
    calls: AtomicU64,
    /// The places among concurrent requests that calls under way have, by call.
    held: Mutex<FxHashMap<u64, Vec<Arc<Terms>>>>,
    ended: mpsc::Sender<Message>,
    slices: Slices,
    /// Calls that found Redis away.
    alone: AtomicU64,
    /// Settlements that found no place in the queue.
    lost: AtomicU64,
    #[cfg(test)]
    clock: AtomicU64,
}

/// The functions, and what they are called.
struct Code {
    library: String,
    text: String,
}

impl Code {
    fn new() -> Self {
        let digest = Sha256::digest(CODE);
        let digest: String = digest
            .iter()
            .take(4)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let library = format!("weir_limits_{digest}");
        Self {
            text: CODE.replace(LIBRARY, &library),
            library,
        }
    }
}

/// Returns the functions that Redis is to have.
pub fn library() -> Library {
    let Code { library, text } = Code::new();
    let mut probe = redis::cmd("FCALL");
    // Each gateway's own: they may ask at once.
    let own = fastrand::u64(..);
    probe.arg(format!("{library}_probe")).arg(4);
    for name in ["rate", "slots", "replica", "budget"] {
        probe.arg(format!("weir:{{limits}}:1:probe:{own:016x}:{name}"));
    }
    Library {
        code: text,
        home: "weir:{limits}:",
        probe,
    }
}

impl Shared {
    /// Counts limits in Redis, which has their [`library`]. `slice` is for how many calls room is taken at a time; with 1,
    /// each call asks for its own. `queue` bounds the calls that are not settled yet; with as many as there can be under
    /// way, none is lost.
    pub fn new(
        limits: Arc<Limits>,
        budgets: Arc<Budgets>,
        redis: Redis,
        on_outage: OnOutage,
        replica: String,
        slice: NonZeroU32,
        queue: usize,
    ) -> Arc<Self> {
        let (ended, settling) = mpsc::channel(queue);
        let shared = Arc::new(Self {
            limits,
            budgets: Arc::clone(&budgets),
            redis: redis.clone(),
            on_outage,
            library: Code::new().library,
            replica,
            calls: AtomicU64::new(0),
            held: Mutex::default(),
            ended,
            slices: Slices::new(slice),
            alone: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            #[cfg(test)]
            clock: AtomicU64::new(0),
        });
        tokio::spawn(settle_all(
            Arc::downgrade(&shared),
            redis,
            budgets,
            settling,
        ));
        shared
    }

    /// Returns what is left of each limit that a call would count towards; takes nothing. `None` while Redis is away. With
    /// `now`, what others have of its budgets is known afterwards, too.
    pub async fn headroom(&self, who: &Who<'_>, now: Option<Timestamp>) -> Option<Vec<Headroom>> {
        let wanted = self.limits.wanted(who, &Amount::default());
        let reports = now.map(|now| self.budgets.questions(who.key, who.team, now));
        let mut reports = reports.unwrap_or_default();
        if wanted.is_empty() && reports.is_empty() {
            return Some(Vec::new());
        }
        let reply = self.look(&wanted, &mut reports).await.ok()?;
        let now = now.unwrap_or_default();
        self.budgets.answered(&reports, &reply.budgets, now);
        Some(reply.headroom(&wanted))
    }

    /// Returns what is left of every limit there is; takes nothing. `None` while Redis is away.
    pub async fn all(&self) -> Option<Vec<Headroom>> {
        let mut all = Vec::new();
        for wanted in self.limits.all_cells().chunks(LOOKED_AT) {
            let reply = self.look(wanted, &mut []).await.ok()?;
            all.extend(reply.headroom(wanted));
        }
        Some(all)
    }

    /// Returns whether calls are let in while Redis is away, by what this process counts alone.
    pub fn goes_on_alone(&self) -> bool {
        self.on_outage == OnOutage::Local
    }

    /// Waits until all that has ended is settled, or Redis is away.
    pub async fn flush(&self) {
        self.slices.clear();
        let (done, flushed) = oneshot::channel();
        if self.ended.send(Message::Flush(done)).await.is_ok() {
            let _ = flushed.await;
        }
    }

    /// Returns how Redis is.
    pub fn redis(&self) -> RedisState {
        self.redis.snapshot()
    }

    /// Returns how many calls have found Redis away, and how many settlements were lost.
    pub fn counts(&self) -> (u64, u64) {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        (read(&self.alone), read(&self.lost))
    }

    /// Remembers the places that a call has.
    fn keep(&self, call: u64, parts: &[Part]) {
        let places = parts.iter().filter(|part| part.is_place());
        let places: Vec<_> = places.map(|part| Arc::clone(part.terms())).collect();
        if !places.is_empty() {
            self.held().insert(call, places);
        }
    }

    fn held(&self) -> MutexGuard<'_, FxHashMap<u64, Vec<Arc<Terms>>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a call that has ended to whoever settles it.
    fn end(&self, ended: Ended) {
        if ended.frees_places() {
            self.held().remove(&ended.call);
        }
        if self.ended.try_send(Message::Ended(ended)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns what a call is named by in the sets of concurrent ones.
    fn member(&self, call: u64) -> String {
        format!("{}:{call}", self.replica)
    }

    /// Returns the time that the functions are told: 0 for their server's own.
    fn now(&self) -> u64 {
        #[cfg(test)]
        return self.clock.load(Ordering::Relaxed);
        #[cfg(not(test))]
        0
    }

    /// Returns the time by the calendar.
    fn date(&self) -> Timestamp {
        #[cfg(test)]
        if let Ok(now @ 1..) = i64::try_from(self.now()) {
            return Timestamp::from_microsecond(now).unwrap();
        }
        Timestamp::now()
    }

    fn function(&self, name: &str) -> Cmd {
        let mut command = redis::cmd("FCALL");
        command.arg(format!("{}_{name}", self.library));
        command
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
