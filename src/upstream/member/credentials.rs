//! The credentials of an upstream: taken in turn, put aside for a while when they are refused or limited.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::upstream::Credential;

/// How long a refused credential is left alone at first; twice as long with each refusal that follows.
const REFUSED: Duration = Duration::from_secs(30);
const LONGEST_REFUSED: Duration = Duration::from_secs(600);

/// How long a limited credential is left alone when its upstream does not say.
const LIMITED: Duration = Duration::from_secs(1);
/// Longer than that no credential is left alone for a limit: others may have more patience than the limit has.
const LONGEST_LIMITED: Duration = Duration::from_secs(60);

/// Why none of an upstream's credentials is of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aside {
    /// Each was refused.
    Refused,
    /// The limit of one at least is spent, and will be renewed.
    Limited,
}

/// The credentials of one upstream.
#[derive(Debug, Default)]
pub struct Credentials {
    held: Vec<Held>,
    next: AtomicUsize,
}

#[derive(Debug)]
struct Held {
    credential: Credential,
    aside: Mutex<State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    until: Option<Instant>,
    refusals: u32,
    /// The last refusal, and whatever was last that put it aside: what began before says nothing new of it.
    refused: Option<Instant>,
    changed: Option<Instant>,
}

impl Credentials {
    /// Holds these, in this order.
    pub fn new(credentials: Vec<Credential>) -> Self {
        let held = credentials.into_iter().map(|credential| Held {
            credential,
            aside: Mutex::default(),
        });
        Self {
            held: held.collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// Takes over what is known of credentials that are here too.
    pub fn remember(&self, old: &Self) {
        for held in &self.held {
            let same = old
                .held
                .iter()
                .find(|old| old.credential.value == held.credential.value);
            if let Some(same) = same {
                *held.aside() = *same.aside();
            }
        }
    }

    /// Returns the next one in turn that is not put aside and not in `used`.
    pub fn fresh(&self, used: &[usize], now: Instant) -> Option<usize> {
        let count = self.held.len();
        if count < 2 {
            return (0..count).find(|index| !used.contains(index) && self.is_free(*index, now));
        }
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        (0..count)
            .map(|step| (start + step) % count)
            .find(|index| !used.contains(index) && self.is_free(*index, now))
    }

    /// Returns the one to begin a call with: the next in turn, or, when all are put aside, the one that is free first.
    pub fn first(&self, now: Instant) -> Option<usize> {
        self.fresh(&[], now)
            .or_else(|| (0..self.held.len()).min_by_key(|index| self.held[*index].aside().until))
    }

    /// Returns what is shown on the gateway's own account.
    pub fn shown(&self, now: Instant) -> Option<Credential> {
        self.get(self.first(now)?).cloned()
    }

    /// Returns a credential by its place.
    pub fn get(&self, index: usize) -> Option<&Credential> {
        self.held.get(index).map(|held| &held.credential)
    }

    /// Puts one aside that the upstream refused, by the answer to a call that began at `began`. Returns whether it had not
    /// been refused before.
    pub fn refused(&self, index: usize, began: Instant, now: Instant) -> bool {
        if let Some(held) = self.held.get(index) {
            let mut aside = held.aside();
            if aside.refused.is_some_and(|refused| began < refused) {
                return false;
            }
            let length = (REFUSED * (1 << aside.refusals.min(10))).min(LONGEST_REFUSED);
            aside.refusals += 1;
            aside.refused = Some(now);
            aside.put(length, now);
            return aside.refusals == 1;
        }
        false
    }

    /// Puts one aside whose limit is spent.
    pub fn limited(&self, index: usize, wait: Option<Duration>, now: Instant) {
        if let Some(held) = self.held.get(index) {
            let length = wait.unwrap_or(LIMITED).min(LONGEST_LIMITED);
            held.aside().put(length, now);
        }
    }

    /// Learns that one was accepted, by the answer to a call that began at `began`.
    /// Returns whether it had been refused.
    pub fn accepted(&self, index: usize, began: Instant) -> bool {
        if let Some(held) = self.held.get(index) {
            let mut aside = held.aside();
            if aside.changed.is_none_or(|changed| began >= changed) {
                return std::mem::take(&mut *aside).refusals > 0;
            }
        }
        false
    }

    /// Returns whether one is not put aside, or none is needed.
    pub fn is_any_free(&self, now: Instant) -> bool {
        self.held.is_empty() || (0..self.held.len()).any(|index| self.is_free(index, now))
    }

    /// Returns why none of them is of use; `None`: one is, or none is needed.
    pub fn aside(&self, now: Instant) -> Option<Aside> {
        if self.is_any_free(now) {
            return None;
        }
        let mut held = self.held.iter();
        match held.all(|held| held.aside().refusals > 0) {
            true => Some(Aside::Refused),
            false => Some(Aside::Limited),
        }
    }

    /// Counts those of use, those whose limit is spent, and those that were refused and not accepted since.
    pub fn counts(&self, now: Instant) -> [usize; 3] {
        let mut counts = [0; 3];
        for (index, held) in self.held.iter().enumerate() {
            let is_refused = held.aside().refusals > 0;
            let state = match self.is_free(index, now) {
                _ if is_refused => 2,
                true => 0,
                false => 1,
            };
            counts[state] += 1;
        }
        counts
    }

    fn is_free(&self, index: usize, now: Instant) -> bool {
        self.held[index]
            .aside()
            .until
            .is_none_or(|until| now >= until)
    }
}

impl State {
    /// Puts aside for so long at least.
    fn put(&mut self, length: Duration, now: Instant) {
        self.until = self.until.max(Some(now + length));
        self.changed = Some(now);
    }
}

impl Held {
    fn aside(&self) -> MutexGuard<'_, State> {
        self.aside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header};

    use super::*;

    fn credentials(names: &[&'static str]) -> Credentials {
        let credential = |name: &&'static str| Credential {
            name: header::AUTHORIZATION,
            value: HeaderValue::from_static(name),
        };
        Credentials::new(names.iter().map(credential).collect())
    }

    #[test]
    fn they_take_turns() {
        let (credentials, now) = (credentials(&["a", "b", "c"]), Instant::now());
        let turns: Vec<_> = (0..4).map(|_| credentials.first(now)).collect();
        assert_eq!(turns, [Some(0), Some(1), Some(2), Some(0)]);
    }

    #[test]
    fn a_refused_one_is_left_alone_and_the_last_one_is_not() {
        let (credentials, now) = (credentials(&["a", "b"]), Instant::now());
        credentials.refused(0, now, now);
        for _ in 0..4 {
            assert_eq!(credentials.first(now), Some(1));
        }
        assert_eq!(credentials.fresh(&[1], now), None);
        let later = now + Duration::from_secs(1);
        credentials.refused(1, later, later);
        assert_eq!(credentials.first(now), Some(0), "free first");
        assert!(credentials.first(now + REFUSED).is_some());
    }

    #[test]
    fn a_limited_one_comes_back_when_it_was_told() {
        let (credentials, now) = (credentials(&["a"]), Instant::now());
        credentials.limited(0, Some(Duration::from_secs(7)), now);
        assert_eq!(credentials.fresh(&[], now + Duration::from_secs(6)), None);
        assert_eq!(
            credentials.fresh(&[], now + Duration::from_secs(7)),
            Some(0)
        );
    }

    #[test]
    fn what_began_before_a_credential_was_put_aside_says_nothing_of_it() {
        let (credentials, start) = (credentials(&["a"]), Instant::now());
        let after = |secs| start + Duration::from_secs(secs);
        credentials.limited(0, Some(Duration::from_secs(20)), after(1));
        credentials.accepted(0, start);
        assert_eq!(credentials.fresh(&[], after(20)), None, "the limit holds");
        credentials.accepted(0, after(2));
        assert_eq!(credentials.fresh(&[], after(2)), Some(0));
        // Ten calls at once are one refusal.
        let first = (0..10).filter(|_| credentials.refused(0, after(2), after(3)));
        assert_eq!(first.count(), 1);
        credentials.limited(0, None, after(4));
        assert_eq!(credentials.fresh(&[], after(32)), None, "no shorter for it");
        assert_eq!(credentials.fresh(&[], after(33)), Some(0));
    }

    #[test]
    fn what_is_told_of_them() {
        let (credentials, now) = (credentials(&["a", "b", "c"]), Instant::now());
        assert!(credentials.refused(0, now, now));
        credentials.limited(1, None, now);
        assert_eq!(credentials.counts(now), [1, 1, 1]);
        assert_eq!(credentials.aside(now), None);
        credentials.limited(2, None, now);
        assert_eq!(credentials.aside(now), Some(Aside::Limited));
        let later = now + REFUSED;
        assert!(!credentials.refused(0, later, later), "it was before");
        assert!(credentials.accepted(0, later), "it is again");
        assert_eq!(credentials.counts(later), [3, 0, 0]);
    }

    #[test]
    fn a_reload_remembers_those_that_stay() {
        let (old, now) = (credentials(&["a", "b"]), Instant::now());
        old.refused(1, now, now);
        let new = credentials(&["b", "c"]);
        new.remember(&old);
        assert_eq!(new.first(now), Some(1));
    }
}
