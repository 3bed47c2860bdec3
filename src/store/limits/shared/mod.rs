//! Limits that several gateways count together, in Redis.
//!
//! One call of one function decides about all that a call counts towards, takes of all or of none, and tells what is left
//! for the headers: one round trip. It is the same arithmetic as in this process, on the server's clock. What a call has
//! really used is settled off its path, many calls at once; see [`settling`]. Places among concurrent requests are leases
//! that this gateway renews: those of one that died come back by themselves.
//!
//! While Redis is away this process counts alone, each limit's configured share of it, or lets nobody in. What was used
//! meanwhile, and time has not restored, is owed to the shared limits as soon as Redis is back.
//!
//! Where a round trip for each call is too much, room for several is taken at a time, and the calls behind take of that;
//! see [`slice`].
//!
//! The functions' name is made of their code: gateways of another version have functions of their own. What they keep is
//! the same as long as the number in its keys is.

mod asking;
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

use redis::Cmd;
use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};

use self::asking::Wanted;
pub use self::hold::Hold;
use self::hold::{Part, Taken};
use self::settling::{Ended, Message, settle_all};
use self::slice::{Found, Slice, Slices};
use super::cell::Terms;
use super::dimension::Amount;
use super::headroom::Headroom;
use super::refusal::Refusal;
use super::time::Time;
use super::{Denied, Limits, Who};
use crate::store::redis::{Away, Library, Redis, RedisState};

/// The functions, without their name.
const CODE: &str = include_str!("limits.lua");
/// What stands for their name.
const LIBRARY: &str = "@LIBRARY@";
/// How long a place is kept of a gateway that is not heard of.
const LEASE: Duration = Duration::from_secs(10);

/// What is done while Redis is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnOutage {
    /// This process counts alone.
    Local,
    /// Nobody is let in whose calls are limited.
    Reject,
}

/// Limits that several gateways count together.
pub struct Shared {
    limits: Arc<Limits>,
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

/// A call that is let in by shared limits.
pub struct SharedAdmitted<T> {
    /// What it has taken.
    pub hold: Hold,
    /// What was done together with that.
    pub also: T,
    /// The limits that would have refused it if they did more than report.
    pub shadow: Vec<Refusal>,
    /// What is left of each limit.
    pub left: Vec<Headroom>,
}

/// Why a call is not let in by shared limits.
#[derive(Debug)]
pub enum SharedDenied<E> {
    /// A limit has no room, or what was to be done together was not.
    Denied {
        /// Which.
        denied: Denied<E>,
        /// What is left of each limit.
        left: Vec<Headroom>,
    },
    /// Nobody can say: Redis is away, and without it nobody is let in.
    Away,
}

/// Does what is to be done together with a call that is let in. Where that fails, what was taken is given back.
fn finish<T, E>(
    admitted: SharedAdmitted<()>,
    also: impl FnOnce() -> Result<T, E>,
) -> Result<SharedAdmitted<T>, SharedDenied<E>> {
    let SharedAdmitted {
        hold,
        also: (),
        shadow,
        left,
    } = admitted;
    match also() {
        Ok(also) => Ok(SharedAdmitted {
            hold,
            also,
            shadow,
            left,
        }),
        Err(error) => Err(SharedDenied::Denied {
            denied: Denied::Other(error),
            left,
        }),
    }
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
    probe.arg(format!("{library}_probe")).arg(3);
    for name in ["rate", "slots", "replica"] {
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
        redis: Redis,
        on_outage: OnOutage,
        replica: String,
        slice: NonZeroU32,
        queue: usize,
    ) -> Arc<Self> {
        let (ended, settling) = mpsc::channel(queue);
        let shared = Arc::new(Self {
            limits,
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
        tokio::spawn(settle_all(Arc::downgrade(&shared), redis, settling));
        shared
    }

    /// Takes what a call wants of every limit that it counts towards, or of none, and does `also` when all had room.
    /// Where that fails, what was taken is given back.
    ///
    /// # Errors
    /// [`SharedDenied`]; then nothing was taken.
    pub async fn admit<T, E>(
        self: &Arc<Self>,
        who: &Who<'_>,
        want: &Amount,
        also: impl FnOnce() -> Result<T, E>,
    ) -> Result<SharedAdmitted<T>, SharedDenied<E>> {
        let wanted = self.limits.wanted(who, want);
        if wanted.is_empty() {
            return self.alone(who, want, also);
        }
        let reply = match self.admit_by_slice(who, &wanted).await {
            Ok(Some(admitted)) => return finish(admitted, also),
            Ok(None) => self.take(&wanted).await,
            Err(away) => Err(away),
        };
        let Ok(reply) = reply else {
            self.alone.fetch_add(1, Ordering::Relaxed);
            return match self.on_outage {
                OnOutage::Local => self.alone(who, want, also),
                OnOutage::Reject => Err(SharedDenied::Away),
            };
        };
        let left = reply.headroom(&wanted);
        if let Some(refusal) = reply.refusal(&wanted) {
            return Err(SharedDenied::Denied {
                denied: Denied::Limit(Box::new(refusal)),
                left,
            });
        }
        let parts = reply.parts(&wanted);
        self.keep(reply.call, &parts);
        let admitted = SharedAdmitted {
            hold: Hold::Shared(Taken::new(Arc::clone(self), reply.call, parts)),
            also: (),
            shadow: reply.shadow(&wanted),
            left,
        };
        finish(admitted, also)
    }

    /// Lets a call in by what was taken beforehand for calls like it, where that is done.
    async fn admit_by_slice(
        self: &Arc<Self>,
        who: &Who<'_>,
        wanted: &[Wanted],
    ) -> Result<Option<SharedAdmitted<()>>, Away> {
        let Some(times) = self.slices.times(wanted) else {
            return Ok(None);
        };
        let now = Time::now();
        let (hold, left) = match self.slices.find(who, wanted, now) {
            Found::Part(hold, left) => (hold, left),
            Found::Dry => return Ok(None),
            // While this one asks, and near a limit's end, each call asks for itself.
            Found::Nothing if !self.slices.dry(who, now) => return Ok(None),
            Found::Nothing => {
                let many: Vec<_> = wanted.iter().map(|wanted| wanted.times(times)).collect();
                let reply = self.take(&many).await?;
                if reply.refusal(&many).is_some() {
                    return Ok(None);
                }
                let left = reply.headroom(&many);
                let slice = Slice::new(Arc::clone(self), reply.parts(&many), left);
                // A shadow tells of each call: then what was taken is given back.
                let is_whole = reply.shadow(&many).is_empty();
                let part = is_whole.then(|| self.slices.put(who, slice, wanted, now));
                match part.flatten() {
                    Some(part) => part,
                    None => return Ok(None),
                }
            }
        };
        Ok(Some(SharedAdmitted {
            hold: Hold::Sliced(hold),
            also: (),
            shadow: Vec::new(),
            left,
        }))
    }

    /// Returns what is left of each limit that a call would count towards; takes nothing. `None` while Redis is away.
    pub async fn headroom(&self, who: &Who<'_>) -> Option<Vec<Headroom>> {
        let wanted = self.limits.wanted(who, &Amount::default());
        if wanted.is_empty() {
            return Some(Vec::new());
        }
        let reply = self.look(&wanted).await.ok()?;
        Some(reply.headroom(&wanted))
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

    /// Lets a call in by what this process counts alone.
    fn alone<T, E>(
        self: &Arc<Self>,
        who: &Who<'_>,
        want: &Amount,
        also: impl FnOnce() -> Result<T, E>,
    ) -> Result<SharedAdmitted<T>, SharedDenied<E>> {
        let now = Time::now();
        match self.limits.admit(who, want, now, also) {
            Ok(admitted) => {
                let call = self.calls.fetch_add(1, Ordering::Relaxed);
                let wanted = self.limits.wanted(who, want).into_iter();
                let parts: Vec<_> = wanted.map(|wanted| Part::new(wanted, 0)).collect();
                // Once Redis is back, its places are places there.
                self.keep(call, &parts);
                let left = admitted.reservation.headroom(who.model, now);
                let hold = Hold::alone(Arc::clone(self), call, parts, admitted.reservation);
                Ok(SharedAdmitted {
                    hold,
                    also: admitted.also,
                    shadow: admitted.shadow,
                    left,
                })
            }
            Err(denied) => Err(SharedDenied::Denied {
                denied,
                left: self.limits.headroom(who, now),
            }),
        }
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

    fn function(&self, name: &str) -> Cmd {
        let mut command = redis::cmd("FCALL");
        command.arg(format!("{}_{name}", self.library));
        command
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
