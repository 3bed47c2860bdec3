//! Answers that several gateways keep together, in Redis: what is not in a gateway's memory may be there, and what is found
//! there is kept in memory too, with the age that it has.
//!
//! Redis is asked once for each answer that is not in memory, no longer than any request waits for it; an answer goes there
//! off the path of those who got it. A Redis that is away, slow or full of something else is one in which there is nothing.
//! Where it answers, one gateway at a time asks an upstream for the same; see [`Lease`].
//!
//! What is purged is forgotten by all gateways: see `marks`. Answers are found by the digest of all that makes them, and
//! say whose they are themselves; see `record`.

mod lease;
mod library;
mod marks;
mod writing;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};

pub use self::lease::{Lease, Leased};
pub use self::library::library;
use self::library::{Functions, answer};
use self::marks::Marks;
use self::writing::{Job, Queue, write_all};
pub use super::record::Stamp;
use super::record::{Unreadable, decode};
use super::{Cache, Entry, Forgotten, Key, Purge, purge};
use crate::store::redis::{Away, Redis, RedisState};
use crate::store::retries::Retries;

/// How often is looked whether others have purged something.
const PERIOD: Duration = Duration::from_millis(500);
/// How long a start waits until it knows what was purged.
const START_TIMEOUT: Duration = Duration::from_secs(1);
/// How long Redis may take to forget what is no answer; nobody waits for that.
const DELETE_TIMEOUT: Duration = Duration::from_secs(1);
/// What is larger is unpacked where that holds up no other requests.
const LARGE: usize = 128 << 10;

/// What it is made of.
pub struct Params {
    /// The Redis, which has the [`library`].
    pub redis: Redis,
    /// The answers in memory.
    pub cache: Arc<Cache>,
    /// Those for clients that ask again, which are purged with them.
    pub retries: Arc<Retries>,
    /// How many bytes of answers may be on their way to Redis; at least one answer may.
    pub queue: u64,
}

/// Answers that several gateways keep together.
pub struct SharedCache {
    redis: Redis,
    memory: Arc<Cache>,
    retries: Arc<Retries>,
    functions: Functions,
    marks: Marks,
    queue: Queue,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    hits: AtomicU64,
    stored: AtomicU64,
    failed: AtomicU64,
    unreadable: AtomicU64,
    waits: [AtomicU64; 3],
}

/// How a call has ended that waited for another gateway's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// It got the answer.
    Answered,
    /// The other gateway got none that it could keep, or died: the call went to the upstream in its place.
    Led,
    /// It went by itself, since that took too long, or Redis went away.
    Alone,
}

/// How it is doing, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedState {
    /// How Redis is.
    pub redis: RedisState,
    /// Calls that were answered by what was there.
    pub hits: u64,
    /// Answers that were put there.
    pub stored: u64,
    /// Answers that Redis did not take.
    pub failed: u64,
    /// Answers that were not put there since too many were on their way.
    pub dropped: u64,
    /// What was found there and was no answer of this version's.
    pub unreadable: u64,
    /// Calls that waited for another gateway's answer, by how that ended; see [`Waited`].
    pub waits: [u64; 3],
}

/// What has become of a purge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purged {
    /// How many answers were in this gateway's memory.
    pub forgotten: Forgotten,
    /// Whether Redis knows of it. If not, it is told when it is back, and others hear of it then.
    pub told: bool,
}

impl Waited {
    /// Each of them, in the order in which they are counted.
    pub const ALL: [Self; 3] = [Self::Answered, Self::Led, Self::Alone];

    /// Returns the word of the metrics: `answered`, `led` or `alone`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Led => "led",
            Self::Alone => "alone",
        }
    }
}

impl SharedCache {
    /// Keeps answers in Redis besides memory. Purges by others are followed from now on.
    pub fn new(params: Params) -> Arc<Self> {
        let Params {
            redis,
            cache,
            retries,
            queue,
        } = params;
        let (queue, writing) = Queue::new(queue, cache.bounds().entry);
        let shared = Arc::new(Self {
            redis,
            memory: cache,
            retries,
            functions: Functions::new(),
            marks: Marks::new(),
            queue,
            counts: Counts::default(),
        });
        tokio::spawn(write_all(Arc::downgrade(&shared), writing));
        tokio::spawn(follow(Arc::downgrade(&shared)));
        shared
    }

    /// Learns what was purged, as long as that does not hold up the start.
    pub async fn begin(&self) {
        let _ = timeout(START_TIMEOUT, self.look()).await;
    }

    /// Returns what an answer is stamped with that is asked for now; `None` where it cannot be put into Redis.
    pub fn stamp(&self) -> Option<Stamp> {
        self.marks.known().stamp(&self.redis)
    }

    /// Returns an answer that may still be served, and keeps it in memory.
    ///
    /// # Errors
    /// Where Redis does not answer, or is away: whoever has waited for it once need not do so again.
    pub async fn get(&self, key: &Key) -> Result<Option<Arc<Entry>>, Away> {
        let purges = self.memory.purges();
        let Some(entry) = self.read(key, true).await? else {
            return Ok(None);
        };
        let entry = Arc::new(entry);
        self.memory
            .put_unless_purged(*key, Arc::clone(&entry), purges);
        Ok(Some(entry))
    }

    /// Returns an answer that may still be served, and leaves all as it is.
    pub async fn peek(&self, key: &Key) -> Option<Entry> {
        self.read(key, false).await.ok()?
    }

    async fn read(&self, key: &Key, tidies: bool) -> Result<Option<Entry>, Away> {
        // What would be found could not be held against purges.
        self.stamp().ok_or(Away)?;
        let record = self.redis.get(&answer(key)).await?;
        Ok(match record {
            Some(record) => self.answer_in(record, key, tidies).await,
            None => None,
        })
    }

    async fn answer_in(&self, record: Vec<u8>, key: &Key, tidies: bool) -> Option<Entry> {
        let most = usize::try_from(self.memory.bounds().entry).unwrap_or(usize::MAX);
        let own = *key;
        let read = match record.len() > LARGE {
            true => {
                let reading = move || decode(&own, &record, most);
                tokio::task::spawn_blocking(reading).await.ok()?
            }
            false => decode(&own, &record, most),
        };
        let (entry, stamp) = match read {
            Ok(read) => read,
            // A gateway that keeps larger ones may have use for it.
            Err(Unreadable::TooLarge) => return None,
            Err(error @ (Unreadable::Strange | Unreadable::Damaged)) => {
                if tidies {
                    tracing::debug!(%error, "what lies in Redis is no answer");
                    self.counts.unreadable.fetch_add(1, Ordering::Relaxed);
                    self.delete(key);
                }
                return None;
            }
        };
        let known = self.marks.known();
        // Of an epoch that is not known here: others may know it.
        if !known.has_epoch_of(stamp) {
            return None;
        }
        if known.takes(stamp, &entry.tags) {
            if tidies {
                self.delete(key);
            }
            return None;
        }
        entry.fresh_for().is_some().then_some(entry)
    }

    fn delete(&self, key: &Key) {
        let (redis, key) = (self.redis.clone(), answer(key));
        tokio::spawn(async move {
            let delete = redis::cmd("DEL").arg(key).to_owned();
            let _ = redis.call_within::<i64>(&delete, DELETE_TIMEOUT).await;
        });
    }

    /// Has Redis keep an answer, soon. The lease by which it was asked for is given back then, or when it cannot be kept.
    pub fn put(&self, key: Key, entry: Arc<Entry>, stamp: Stamp, lease: Option<Lease>) {
        self.queue.put(Job {
            key,
            entry,
            stamp,
            lease,
        });
    }

    /// Takes the lease of a call, if no gateway has it.
    pub async fn lease(&self, key: &Key) -> Leased {
        match self.stamp() {
            // What would come of it could not be put there.
            None => Leased::Away,
            Some(stamp) => Lease::take(&self.redis, &self.functions, key, stamp).await,
        }
    }

    /// Forgets answers, here, in Redis, and within a second at all gateways that Redis answers.
    pub async fn purge(self: &Arc<Self>, gone: Purge) -> Purged {
        let this = Arc::clone(self);
        // Whoever asked for it may leave: it is not done by halves.
        let purging = tokio::spawn(async move {
            // What was found in Redis before it knew of it is forgotten with the rest.
            let (told, news) = this.marks.add(&this.redis, &this.functions, &gone).await;
            this.forget(&news);
            let forgotten = purge(&this.memory, &this.retries, |tags| gone.takes(tags));
            Purged { forgotten, told }
        });
        purging.await.unwrap_or(Purged {
            forgotten: Forgotten::default(),
            told: false,
        })
    }

    /// Looks whether others have purged something.
    async fn look(&self) {
        let news = self.marks.look(&self.redis, &self.functions).await;
        self.forget(&news.unwrap_or_default());
    }

    fn forget(&self, purges: &[Purge]) {
        if !purges.is_empty() {
            let takes = |tags: &super::Tags| purges.iter().any(|purge| purge.takes(tags));
            let forgotten = purge(&self.memory, &self.retries, takes);
            tracing::info!(
                entries = forgotten.shared,
                for_retries = forgotten.for_retries,
                "answers were purged at another gateway"
            );
        }
    }

    /// Notes that a call was answered by what is in Redis.
    pub fn note_hit(&self) {
        self.counts.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes how a call has ended that waited for another gateway's answer.
    pub fn note_wait(&self, waited: Waited) {
        let [answered, led, alone] = &self.counts.waits;
        let count = match waited {
            Waited::Answered => answered,
            Waited::Led => led,
            Waited::Alone => alone,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until all answers that are on their way have arrived, or cannot.
    pub async fn flush(&self) {
        self.queue.flush().await;
    }

    /// Returns how it is doing.
    pub fn snapshot(&self) -> SharedState {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        SharedState {
            redis: self.redis.snapshot(),
            hits: read(&self.counts.hits),
            stored: read(&self.counts.stored),
            failed: read(&self.counts.failed),
            dropped: self.queue.dropped(),
            unreadable: read(&self.counts.unreadable),
            waits: self.counts.waits.each_ref().map(read),
        }
    }
}

/// Follows what others purge, until nobody keeps answers any more.
async fn follow(shared: std::sync::Weak<SharedCache>) {
    let Some(mut up) = shared.upgrade().map(|shared| shared.redis.up()) else {
        return;
    };
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            // Answers that are there count again as soon as it is known what was purged meanwhile.
            changed = up.changed() => if changed.is_err() { return },
        }
        let Some(shared) = shared.upgrade() else {
            return;
        };
        if *up.borrow_and_update() {
            shared.look().await;
        }
    }
}
