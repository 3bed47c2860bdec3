//! Answers that were just given, for a client that did not get them and asks again; and which call each `Idempotency-Key`
//! stands for. They serve nobody but the caller that had asked, for the same call, and not for long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::sync::Cache as Moka;

use super::cache::{Entry, Key, Tags};

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of all answers together.
    pub bytes: u64,
    /// Answers, and keys of clients, at the most.
    pub entries: u64,
}

/// What is kept for clients that ask again.
#[derive(Debug)]
pub struct Retries {
    answers: Moka<Key, Arc<Entry>>,
    names: Moka<Key, Named>,
    bounds: Bounds,
}

/// What is kept at a moment, roughly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Answers.
    pub entries: u64,
    /// The bytes of the bound that they take: of each at least its share, were there as many as there may be.
    pub bytes: u64,
    /// Names that stand for a call.
    pub names: u64,
}

/// Another call stands under the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name is another call's")]
pub struct Taken;

/// The call that a client has given a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Named {
    call: Key,
    keep: Duration,
}

/// How long a name stands for a call that does not end: longer than any takes.
const LONGEST_CALL: Duration = Duration::from_secs(24 * 3600);

struct UntilOver;

impl Expiry<Key, Arc<Entry>> for UntilOver {
    fn expire_after_create(&self, _: &Key, entry: &Arc<Entry>, _: Instant) -> Option<Duration> {
        Some(entry.ttl)
    }

    fn expire_after_update(
        &self,
        _: &Key,
        entry: &Arc<Entry>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.ttl)
    }
}

impl Expiry<Key, Named> for UntilOver {
    fn expire_after_create(&self, _: &Key, named: &Named, _: Instant) -> Option<Duration> {
        Some(named.keep)
    }

    fn expire_after_update(
        &self,
        _: &Key,
        named: &Named,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(named.keep)
    }
}

impl Retries {
    /// Makes an empty one.
    pub fn new(bounds: Bounds) -> Self {
        // One capacity for both bounds: each answer weighs at least its share of the bytes.
        let least = bounds.bytes.div_ceil(bounds.entries.max(1));
        let weigh = move |_: &Key, entry: &Arc<Entry>| {
            let size = (entry.size() as u64).max(least);
            u32::try_from(size).unwrap_or(u32::MAX)
        };
        Self {
            answers: Moka::builder()
                .max_capacity(bounds.bytes)
                .weigher(weigh)
                .expire_after(UntilOver)
                .build(),
            names: Moka::builder()
                .max_capacity(bounds.entries)
                .expire_after(UntilOver)
                .build(),
            bounds,
        }
    }

    /// Returns the answer that a call has had.
    pub fn get(&self, call: &Key) -> Option<Arc<Entry>> {
        let entry = self.answers.get(call)?;
        entry.fresh_for().is_some().then_some(entry)
    }

    /// Keeps the answer to a call until its time is over; one that is larger than all of them may be is not kept.
    pub fn put(&self, call: Key, entry: Entry) {
        if entry.size() as u64 <= self.bounds.bytes {
            self.answers.insert(call, Arc::new(entry));
        }
    }

    /// Forgets the answer to a call.
    pub fn forget(&self, call: &Key) {
        self.answers.invalidate(call);
    }

    /// Forgets the answers that `is_gone` says so of, and returns how many those were.
    pub fn purge(&self, is_gone: impl Fn(&Tags) -> bool) -> u64 {
        let gone = self
            .answers
            .iter()
            .filter(|(_, entry)| is_gone(&entry.tags));
        let gone: Vec<Key> = gone.map(|(call, _)| *call).collect();
        for call in &gone {
            self.answers.invalidate(call);
        }
        gone.len() as u64
    }

    /// Checks that a name stands for no other call than this one.
    ///
    /// # Errors
    /// [`Taken`]
    pub fn check(&self, name: &Key, call: &Key) -> Result<(), Taken> {
        match self.names.get(name) {
            Some(named) if named.call != *call => Err(Taken),
            Some(_) | None => Ok(()),
        }
    }

    /// Gives a call a name, for as long as it lasts.
    ///
    /// # Errors
    /// [`Taken`]
    pub fn claim(&self, name: Key, call: Key) -> Result<(), Taken> {
        let named = Named {
            call,
            keep: LONGEST_CALL,
        };
        let entry = self.names.entry(name).or_insert(named);
        match entry.into_value().call == call {
            true => Ok(()),
            false => Err(Taken),
        }
    }

    /// Keeps the name of a call that has ended for so long; without an answer, not at all.
    pub fn ended(&self, name: &Key, call: Key, keep: Option<Duration>) {
        match keep {
            Some(keep) => self.names.insert(*name, Named { call, keep }),
            None => self.names.invalidate(name),
        }
    }

    /// Returns how much may be kept.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Returns how much is.
    pub fn snapshot(&self) -> Snapshot {
        self.answers.run_pending_tasks();
        self.names.run_pending_tasks();
        Snapshot {
            entries: self.answers.entry_count(),
            bytes: self.answers.weighted_size(),
            names: self.names.entry_count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;
    use crate::store::cache::{Shape, Stored};

    const MINUTE: Duration = Duration::from_secs(60);

    fn key(number: u64) -> Key {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        Key(bytes)
    }

    fn entry(bytes: usize) -> Entry {
        Entry {
            headers: HeaderMap::new(),
            body: Stored::Whole(Bytes::from(vec![b'x'; bytes])),
            usage: None,
            served_model: None,
            tags: Tags {
                key: "alice".into(),
                team: None,
                model: "m".into(),
                endpoint: "/v1/chat/completions",
            },
            shape: Shape::default(),
            stored: Instant::now(),
            ttl: MINUTE,
            stale: Duration::ZERO,
            pace: Arc::default(),
        }
    }

    fn of(bytes: u64, entries: u64) -> Retries {
        Retries::new(Bounds { bytes, entries })
    }

    #[test]
    fn answers_are_bounded_in_number_and_in_bytes() {
        for (retries, most) in [(of(1 << 20, 10), 10), (of(20_000, 1000), 20)] {
            for number in 0..1000 {
                retries.put(key(number), entry(500));
            }
            let seen = retries.snapshot();
            assert!(seen.entries > 0 && seen.entries <= most, "{seen:?}");
            assert!(seen.bytes <= retries.bounds().bytes, "{seen:?}");
        }
        let small = of(1000, 10);
        small.put(key(1), entry(1001));
        assert_eq!(small.snapshot().entries, 0);
    }

    #[test]
    fn a_name_stands_for_one_call_until_that_is_forgotten() {
        let retries = of(1 << 20, 10);
        assert_eq!(retries.claim(key(1), key(2)), Ok(()));
        assert_eq!(retries.claim(key(1), key(2)), Ok(()));
        assert_eq!(retries.claim(key(1), key(3)), Err(Taken));
        assert_eq!(retries.check(&key(1), &key(3)), Err(Taken));
        retries.ended(&key(1), key(2), Some(MINUTE));
        assert_eq!(retries.check(&key(1), &key(3)), Err(Taken));
        assert_eq!(retries.snapshot().names, 1);
        retries.ended(&key(1), key(2), None);
        assert_eq!(retries.check(&key(1), &key(3)), Ok(()));
    }

    #[test]
    fn what_is_over_is_not_served_again() {
        let retries = of(1 << 20, 10);
        let mut old = entry(1);
        old.stored = Instant::now().checked_sub(MINUTE).unwrap();
        retries.put(key(1), old);
        assert!(retries.get(&key(1)).is_none());
        retries.put(key(1), entry(1));
        assert!(retries.get(&key(1)).is_some());
        assert_eq!(retries.purge(|tags| &*tags.key == "alice"), 1);
        assert!(retries.get(&key(1)).is_none());
    }
}
