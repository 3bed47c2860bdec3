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
//! The functions' name is made of their code: gateways of another version have functions of their own. What they keep is
//! the same as long as the number in its keys is.

mod hold;
mod settling;
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

pub use self::hold::Hold;
use self::hold::{Part, Taken};
use self::settling::{Ended, Message, settle_all};
use super::account::Account;
use super::cell::{SLOT_WAIT, Terms};
use super::dimension::{Amount, Dimension};
use super::headroom::Headroom;
use super::refusal::Refusal;
use super::time::{Time, wait};
use super::{Denied, Limits, Who};
use crate::pattern::Pattern;
use crate::store::redis::{Away, Redis, RedisState};

/// The functions, without their name.
const CODE: &str = include_str!("limits.lua");
/// What stands for their name.
const LIBRARY: &str = "@LIBRARY@";
/// How long a place is kept of a gateway that is not heard of.
const LEASE: Duration = Duration::from_secs(10);
/// What the functions say of a cell that has room, and of one that never has for so many.
const HAS_ROOM: i64 = -2;
const NEVER: i64 = -1;

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

/// A cell that a call counts towards.
#[derive(Clone)]
struct Wanted {
    account: Arc<Account>,
    cell: u64,
    dimension: Dimension,
    size: NonZeroU32,
    models: Arc<[Pattern]>,
    terms: Arc<Terms>,
    n: u64,
}

/// What the functions say of a cell.
struct Found {
    wait: i64,
    left: u32,
    reset: Duration,
    mark: u64,
}

/// What is asked of the cells.
#[derive(Clone, Copy)]
enum How {
    Take,
    More,
    Look,
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

/// Returns the code of the functions that Redis is to have.
pub fn library() -> String {
    Code::new().text
}

impl Shared {
    /// Counts limits in Redis, which has their [`library`]. `queue` bounds the calls that are not settled yet; with as
    /// many as there can be under way, none is lost.
    pub fn new(
        limits: Arc<Limits>,
        redis: Redis,
        on_outage: OnOutage,
        replica: String,
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
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let command = self.ask(How::Take, cells(&wanted), call);
        // Until the reply is here nobody knows whether there is anything to give back.
        let unknown = Unknown {
            shared: self,
            call,
            wanted: &wanted,
        };
        let reply = self.redis.call::<Vec<i64>>(&command).await;
        let Some((has_room, found)) = reply.ok().and_then(|reply| read(&reply, wanted.len()))
        else {
            drop(unknown);
            self.alone.fetch_add(1, Ordering::Relaxed);
            return match self.on_outage {
                OnOutage::Local => self.alone(who, want, also),
                OnOutage::Reject => Err(SharedDenied::Away),
            };
        };
        std::mem::forget(unknown);
        let left = || {
            let both = wanted.iter().zip(&found);
            both.map(|(wanted, found)| wanted.headroom(found)).collect()
        };
        let mut refused: Option<Refusal> = None;
        let mut shadow = Vec::new();
        let mut parts = Vec::new();
        for (wanted, found) in wanted.iter().zip(&found) {
            if found.wait == HAS_ROOM {
                parts.push(Part::new(wanted.clone(), found.mark));
                continue;
            }
            let refusal = wanted.refusal(found);
            if wanted.terms.shadow {
                shadow.push(refusal);
            } else if refused.as_ref().is_none_or(|other| refusal.outlasts(other)) {
                refused = Some(refusal);
            }
        }
        if !has_room && let Some(refusal) = refused {
            return Err(SharedDenied::Denied {
                denied: Denied::Limit(Box::new(refusal)),
                left: left(),
            });
        }
        self.keep(call, &parts);
        let taken = Taken::new(Arc::clone(self), call, parts);
        match also() {
            Ok(also) => Ok(SharedAdmitted {
                hold: Hold::Shared(taken),
                also,
                shadow,
                left: left(),
            }),
            Err(error) => Err(SharedDenied::Denied {
                denied: Denied::Other(error),
                left: left(),
            }),
        }
    }

    /// Returns what is left of each limit that a call would count towards; takes nothing. `None` while Redis is away.
    pub async fn headroom(&self, who: &Who<'_>) -> Option<Vec<Headroom>> {
        let wanted = self.limits.wanted(who, &Amount::default());
        if wanted.is_empty() {
            return Some(Vec::new());
        }
        let command = self.ask(How::Look, cells(&wanted), 0);
        let reply: Result<Vec<i64>, Away> = self.redis.call(&command).await;
        let (_, found) = read(&reply.ok()?, wanted.len())?;
        let both = wanted.iter().zip(&found);
        Some(both.map(|(wanted, found)| wanted.headroom(found)).collect())
    }

    /// Returns whether calls are let in while Redis is away, by what this process counts alone.
    pub fn goes_on_alone(&self) -> bool {
        self.on_outage == OnOutage::Local
    }

    /// Waits until all that has ended is settled, or Redis is away.
    pub async fn flush(&self) {
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

    fn ask<'a>(
        &self,
        how: How,
        cells: impl Iterator<Item = (&'a Terms, u64)> + Clone,
        call: u64,
    ) -> Cmd {
        let mut command = self.function("admit");
        command.arg(cells.clone().count());
        for (terms, _) in cells.clone() {
            command.arg(&*terms.key);
        }
        let how = match how {
            How::Take => "take",
            How::More => "more",
            How::Look => "look",
        };
        command.arg(self.now()).arg(how).arg(self.member(call));
        command.arg(millis(LEASE));
        for (terms, n) in cells {
            let kind = if terms.is_rate() { "rate" } else { "slots" };
            command.arg(kind).arg(terms.interval).arg(terms.burst.get());
            command.arg(n).arg(u8::from(terms.shadow));
        }
        command
    }
}

/// A call of which nobody knows whether it was let in. Its places, if it has any, are given up; what else it may have
/// taken comes back with time.
struct Unknown<'a> {
    shared: &'a Arc<Shared>,
    call: u64,
    wanted: &'a [Wanted],
}

impl Drop for Unknown<'_> {
    fn drop(&mut self) {
        let places = self.wanted.iter().filter(|wanted| !wanted.terms.is_rate());
        let ended = Ended::of_places(self.call, places.map(|wanted| &wanted.terms));
        if ended.frees_places() {
            self.shared.end(ended);
        }
    }
}

impl Wanted {
    fn headroom(&self, found: &Found) -> Headroom {
        Headroom {
            holder: self.account.holder.clone(),
            dimension: self.dimension,
            size: self.size,
            burst: self.terms.burst,
            models: Arc::clone(&self.models),
            shadow: self.terms.shadow,
            remaining: found.left,
            reset: found.reset,
        }
    }

    fn refusal(&self, found: &Found) -> Refusal {
        Refusal {
            holder: self.account.holder.clone(),
            dimension: self.dimension,
            size: self.size,
            models: Arc::clone(&self.models),
            wanted: self.n,
            left: found.left,
            retry_after: match found.wait {
                NEVER => None,
                _ if !self.terms.is_rate() => Some(SLOT_WAIT),
                nanos => Some(wait(u64::try_from(nanos).unwrap_or(0))),
            },
        }
    }
}

fn cells(wanted: &[Wanted]) -> impl Iterator<Item = (&Terms, u64)> + Clone {
    wanted.iter().map(|wanted| (&*wanted.terms, wanted.n))
}

/// Reads what the functions say of so many cells.
fn read(reply: &[i64], cells: usize) -> Option<(bool, Vec<Found>)> {
    let (has_room, rest) = reply.split_first()?;
    let found = rest.chunks_exact(4).map(|numbers| {
        let [wait, left, reset, mark] = *numbers else {
            return None;
        };
        Some(Found {
            wait,
            left: u32::try_from(left).unwrap_or(u32::MAX),
            reset: super::time::wait(u64::try_from(reset).ok()?),
            mark: u64::try_from(mark).ok()?,
        })
    });
    let found: Vec<_> = found.collect::<Option<_>>()?;
    (found.len() == cells).then_some((*has_room == 1, found))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Limits {
    /// Returns the cells that a call counts towards.
    fn wanted(&self, who: &Who<'_>, want: &Amount) -> Vec<Wanted> {
        let accounts = self.accounts.load().of(who);
        let mut wanted = Vec::new();
        for account in accounts.iter().flatten() {
            for cell in account.lock().of(who.model) {
                wanted.push(Wanted {
                    account: Arc::clone(account),
                    cell: cell.id,
                    dimension: cell.subject.dimension,
                    size: cell.size,
                    models: Arc::clone(&cell.subject.models),
                    n: cell.weight(want),
                    terms: Arc::clone(&cell.terms),
                });
            }
        }
        wanted
    }
}
