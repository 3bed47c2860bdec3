//! Answers that are kept, in memory: bounded in bytes, and when there is no room those stay that are asked for most
//! (TinyLFU: Einziger, Friedman, Manes, "TinyLFU: A Highly Efficient Cache Admission Policy").
//!
//! What may be kept and for whom is decided elsewhere; here a key is a digest of all that, and a collision is as likely as
//! one of BLAKE3.

mod entry;
mod purge;
mod record;
mod room;
mod shape;
pub mod shared;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::notification::RemovalCause;
use moka::sync::Cache as Moka;

pub use self::entry::{Entry, Stored, Tags};
pub use self::purge::{Forgotten, Purge, purge};
pub use self::room::{Room, UnderWay};
pub use self::shape::Shape;

/// What an answer is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(pub [u8; 32]);

/// How the cache is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Answers in it, roughly.
    pub entries: u64,
    /// The bytes that they take, roughly.
    pub bytes: u64,
    /// Calls that were answered by it since the start.
    pub hits: u64,
    /// Answers that were put in since the start.
    pub stored: u64,
    /// Answers that were too large to be kept.
    pub too_large: u64,
    /// Answers that were removed since the start.
    pub removed: Removed,
}

/// Why answers were removed, and how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// There was no room.
    pub size: u64,
    /// Their time was over.
    pub expired: u64,
    /// A newer answer took their place.
    pub replaced: u64,
    /// Somebody purged them.
    pub purged: u64,
}

/// Counts removals.
#[derive(Debug, Default)]
struct Removals {
    size: AtomicU64,
    expired: AtomicU64,
    replaced: AtomicU64,
    purged: AtomicU64,
}

/// How large the cache may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of all answers together.
    pub bytes: u64,
    /// Bytes of one answer.
    pub entry: u64,
}

/// Answers that are kept.
#[derive(Debug)]
pub struct Cache {
    memory: Moka<Key, Arc<Entry>>,
    bounds: Bounds,
    room: Arc<Room>,
    hits: AtomicU64,
    stored: AtomicU64,
    too_large: AtomicU64,
    purges: AtomicU64,
    removals: Arc<Removals>,
}

struct UntilStale;

impl Expiry<Key, Arc<Entry>> for UntilStale {
    fn expire_after_create(&self, _: &Key, entry: &Arc<Entry>, _: Instant) -> Option<Duration> {
        Some(entry.lasts_for())
    }

    fn expire_after_update(
        &self,
        _: &Key,
        entry: &Arc<Entry>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.lasts_for())
    }
}

// === impl Removals ===

impl Removals {
    fn note(&self, cause: RemovalCause) {
        let counter = match cause {
            RemovalCause::Size => &self.size,
            RemovalCause::Expired => &self.expired,
            RemovalCause::Replaced => &self.replaced,
            RemovalCause::Explicit => &self.purged,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn counts(&self) -> Removed {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Removed {
            size: count(&self.size),
            expired: count(&self.expired),
            replaced: count(&self.replaced),
            purged: count(&self.purged),
        }
    }
}

// === impl Cache ===

impl Cache {
    /// Makes an empty one.
    pub fn new(bounds: Bounds) -> Self {
        let removals = Arc::<Removals>::default();
        let noted = Arc::clone(&removals);
        let memory = Moka::builder()
            .max_capacity(bounds.bytes)
            .weigher(|_: &Key, entry: &Arc<Entry>| u32::try_from(entry.size()).unwrap_or(u32::MAX))
            .expire_after(UntilStale)
            .eviction_listener(move |_, _, cause| noted.note(cause))
            .build();
        Self {
            memory,
            bounds,
            // What is under way and what is kept have as much room as each other.
            room: Arc::new(Room::new(
                usize::try_from(bounds.bytes).unwrap_or(usize::MAX),
            )),
            hits: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            too_large: AtomicU64::new(0),
            purges: AtomicU64::new(0),
            removals,
        }
    }

    /// Returns how often answers were purged: what was asked for before the last time is not to be kept.
    pub fn purges(&self) -> u64 {
        self.purges.load(Ordering::SeqCst)
    }

    /// Returns how large it may be.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Returns the room of answers that are under way.
    pub fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// Returns an answer that may still be served.
    pub fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        let entry = self.memory.get(key)?;
        entry.fresh_for().is_some().then_some(entry)
    }

    /// Returns an answer that is there, be it fresh or stale.
    pub fn get_even_stale(&self, key: &Key) -> Option<Arc<Entry>> {
        self.memory.get(key)
    }

    /// Keeps an answer in the place of the one that was there; returns whether it is small enough for that.
    pub fn put(&self, key: Key, entry: impl Into<Arc<Entry>>) -> bool {
        let entry = entry.into();
        if entry.size() as u64 > self.bounds.entry.min(self.bounds.bytes) {
            self.too_large.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        self.stored.fetch_add(1, Ordering::Relaxed);
        self.memory.insert(key, entry);
        true
    }

    /// Keeps an answer as [`Cache::put`] does, unless answers were purged since there had been so many [`Cache::purges`].
    pub fn put_unless_purged(&self, key: Key, entry: Arc<Entry>, purges: u64) -> bool {
        if self.purges() != purges || !self.put(key, entry) {
            return false;
        }
        // A purge that began in between may not have seen it.
        let is_kept = self.purges() == purges;
        if !is_kept {
            self.memory.invalidate(&key);
        }
        is_kept
    }

    /// Notes that a call was answered by what is here.
    pub fn note_hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// Forgets the answers that `is_gone` says so of, and returns how many those were.
    pub fn purge(&self, is_gone: impl Fn(&Tags) -> bool) -> u64 {
        self.purges.fetch_add(1, Ordering::SeqCst);
        let gone = self.memory.iter().filter(|(_, entry)| is_gone(&entry.tags));
        let gone: Vec<Key> = gone.map(|(key, _)| *key).collect();
        for key in &gone {
            self.memory.invalidate(key);
        }
        gone.len() as u64
    }

    /// Returns all answers that are there.
    pub fn entries(&self) -> Vec<Arc<Entry>> {
        self.memory.iter().map(|(_, entry)| entry).collect()
    }

    /// Returns how it is doing.
    pub fn snapshot(&self) -> Snapshot {
        self.memory.run_pending_tasks();
        Snapshot {
            entries: self.memory.entry_count(),
            bytes: self.memory.weighted_size(),
            hits: self.hits.load(Ordering::Relaxed),
            stored: self.stored.load(Ordering::Relaxed),
            too_large: self.too_large.load(Ordering::Relaxed),
            removed: self.removals.counts(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;

    fn entry(team: &str, body: &'static [u8], ttl: Duration) -> Entry {
        Entry {
            headers: HeaderMap::new(),
            body: Stored::Whole(Bytes::from_static(body)),
            usage: None,
            served_model: None,
            tags: Tags {
                key: "alice".into(),
                team: Some(team.into()),
                model: "gpt".into(),
                endpoint: "/v1/embeddings",
            },
            shape: Shape::default(),
            stored: Instant::now(),
            ttl,
            stale: Duration::ZERO,
            pace: Arc::default(),
        }
    }

    fn key(number: u64) -> Key {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        Key(bytes)
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn all_answers_together_stay_within_the_bound() {
        let cache = Cache::new(Bounds {
            bytes: 100_000,
            entry: 50_000,
        });
        static BODY: [u8; 1000] = [b'x'; 1000];
        for number in 0..1000 {
            assert!(cache.put(key(number), entry("a", &BODY, HOUR)));
        }
        let seen = cache.snapshot();
        assert!(seen.bytes <= 100_000 && seen.entries > 50, "{seen:?}");
        assert_eq!(seen.stored, 1000);
        let removed = Removed {
            size: 1000 - seen.entries,
            ..Removed::default()
        };
        assert_eq!(seen.removed, removed);
    }

    #[test]
    fn what_is_too_large_is_not_kept() {
        let cache = Cache::new(Bounds {
            bytes: 100_000,
            entry: 1000,
        });
        static BODY: [u8; 1000] = [b'x'; 1000];
        assert!(!cache.put(key(1), entry("a", &BODY, HOUR)));
        assert!(cache.get(&key(1)).is_none());
        assert_eq!(cache.snapshot().too_large, 1);
    }

    #[test]
    fn what_is_stale_is_not_served() {
        let cache = Cache::new(Bounds {
            bytes: 100_000,
            entry: 10_000,
        });
        let mut old = entry("a", b"old", HOUR);
        old.stored = Instant::now().checked_sub(HOUR).unwrap();
        old.stale = HOUR;
        cache.put(key(1), old);
        assert!(cache.get(&key(1)).is_none());
        assert!(cache.get_even_stale(&key(1)).is_some());
        cache.put(key(1), entry("a", b"new", HOUR));
        assert!(cache.get(&key(1)).is_some());
    }

    #[test]
    fn a_team_is_purged_and_no_other() {
        let cache = Cache::new(Bounds {
            bytes: 100_000,
            entry: 10_000,
        });
        cache.put(key(1), entry("a", b"1", HOUR));
        cache.put(key(2), entry("b", b"2", HOUR));
        assert_eq!(cache.purge(|tags| tags.team.as_deref() == Some("a")), 1);
        assert!(cache.get(&key(1)).is_none());
        assert!(cache.get(&key(2)).is_some());
        assert_eq!(cache.snapshot().removed.purged, 1);
    }
}
