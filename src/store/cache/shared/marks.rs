//! Which answers are to be forgotten by all gateways: what is known of it here.
//!
//! Redis numbers purges, and each answer says how many there were when it was asked for. Every gateway looks twice a second
//! whether there are more, and forgets what it has in memory; what lies in Redis is judged when it is read. A purge that
//! Redis could not be told of counts here at once, and is told when it can be. A Redis that was emptied begins another
//! epoch, in which no answer of the one before counts, and is told of all purges that are known.

use std::time::Duration;

use arc_swap::ArcSwap;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::super::record::Stamp;
use super::super::{Purge, Tags};
use super::library::{Functions, purges};
use crate::store::redis::{Away, Redis};

/// How long Redis may take to tell of purges; no request waits for that.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How often their time in Redis is made longer.
const TOUCH: Duration = Duration::from_secs(3600);
/// How often it is told again, at a time, of what it has lost meanwhile.
const ROUNDS: usize = 3;
/// How many purges may wait for a Redis that is away; more are one that takes all.
const MOST_UNTOLD: usize = 1000;

/// What is known of purges.
pub(super) struct Marks {
    known: ArcSwap<Known>,
    /// Held while Redis is asked: what it answers is taken over in order.
    touched: Mutex<Option<Instant>>,
}

/// What is known of purges, at a time.
#[derive(Clone, Default)]
pub(super) struct Known {
    /// `None`: Redis was never asked.
    stamp: Option<Stamp>,
    /// How often Redis had gone away when it was asked last: since then, there may be more.
    outages: u64,
    purges: FxHashMap<Purge, u64>,
    /// Those that Redis was not told of.
    untold: FxHashSet<Purge>,
}

impl Known {
    /// Returns what an answer is stamped with that is asked for now; `None` where Redis may know of purges that are not
    /// known here.
    pub(super) fn stamp(&self, redis: &Redis) -> Option<Stamp> {
        let state = redis.snapshot();
        self.stamp
            .filter(|_| state.up && state.outages == self.outages)
    }

    /// Returns whether an answer was purged after it was asked for.
    pub(super) fn takes(&self, stamp: Stamp, tags: &Tags) -> bool {
        let mut later = self.purges.iter().filter(|(_, at)| **at > stamp.purges);
        let mut untold = self.untold.iter();
        later.any(|(purge, _)| purge.takes(tags)) || untold.any(|purge| purge.takes(tags))
    }

    /// Returns whether an answer is of the epoch that is known.
    pub(super) fn has_epoch_of(&self, stamp: Stamp) -> bool {
        self.stamp.is_some_and(|known| known.epoch == stamp.epoch)
    }

    /// Takes over what Redis tells, and returns the purges that were not known. Those of another epoch have other numbers,
    /// and may have been made again since.
    fn learn(&mut self, told: Told) -> Vec<Purge> {
        let is_anew = !self.has_epoch_of(told.stamp);
        self.stamp = Some(told.stamp);
        let Some(purges) = told.purges else {
            return Vec::new();
        };
        let before = std::mem::replace(&mut self.purges, purges);
        let news = self.purges.iter();
        let news = news.filter(|(purge, at)| is_anew || before.get(purge) != Some(at));
        let news = news.map(|(purge, _)| purge.clone()).collect();
        if is_anew {
            // It is to be told of what it has lost.
            let lost = before.into_keys();
            let lost = lost.filter(|purge| !self.purges.contains_key(purge));
            self.untold.extend(lost.collect::<Vec<_>>());
        }
        news
    }

    fn note_untold(&mut self, purge: Purge) {
        if self.untold.len() >= MOST_UNTOLD {
            self.untold.clear();
            self.untold.insert(Purge::default());
        }
        self.untold.insert(purge);
    }
}

impl Marks {
    pub(super) fn new() -> Self {
        Self {
            known: ArcSwap::default(),
            touched: Mutex::new(None),
        }
    }

    pub(super) fn known(&self) -> arc_swap::Guard<std::sync::Arc<Known>> {
        self.known.load()
    }

    /// Has a purge count, here and wherever Redis is asked. Returns whether Redis knows of it, and what others have purged
    /// meanwhile.
    pub(super) async fn add(
        &self,
        redis: &Redis,
        functions: &Functions,
        purge: &Purge,
    ) -> (bool, Vec<Purge>) {
        let mut touched = self.touched.lock().await;
        let mut known = Known::clone(&self.known());
        known.note_untold(purge.clone());
        self.known.store(known.into());
        let news = self.exchange(redis, functions, &mut touched).await;
        let told = news.is_ok() && !self.known().untold.contains(purge);
        let mut news = news.unwrap_or_default();
        news.retain(|other| other != purge);
        (told, news)
    }

    /// Asks Redis whether others have purged something, tells it of what it does not know, and returns what is new here.
    pub(super) async fn look(
        &self,
        redis: &Redis,
        functions: &Functions,
    ) -> Result<Vec<Purge>, Away> {
        let mut touched = self.touched.lock().await;
        self.exchange(redis, functions, &mut touched).await
    }

    async fn exchange(
        &self,
        redis: &Redis,
        functions: &Functions,
        touched: &mut Option<Instant>,
    ) -> Result<Vec<Purge>, Away> {
        let mut known = Known::clone(&self.known());
        let (mut news, mut own) = (Vec::new(), FxHashSet::default());
        // One that was emptied is told of what it has lost; one that loses all at once, another time.
        for _ in 0..ROUNDS {
            let outages = redis.snapshot().outages;
            let touches = touched.is_none_or(|at| at.elapsed() >= TOUCH);
            let asking = ask(functions, &known, touches);
            let parts: Vec<String> = redis.call_aside(&asking, TIMEOUT).await?;
            // Whoever has the name of our functions and does something else is none of ours.
            let told = Told::read(parts).ok_or(Away)?;
            if touches {
                *touched = Some(Instant::now());
            }
            own.extend(known.untold.drain());
            news.extend(known.learn(told));
            known.outages = outages;
            self.known.store(known.clone().into());
            if known.untold.is_empty() {
                break;
            }
        }
        // What was told from here was forgotten here before.
        news.retain(|purge| !own.contains(purge));
        Ok(news)
    }
}

/// What Redis tells of purges.
struct Told {
    stamp: Stamp,
    /// `None`: all of them are known.
    purges: Option<FxHashMap<Purge, u64>>,
}

impl Told {
    fn read(parts: Vec<String>) -> Option<Self> {
        let mut parts = parts.into_iter();
        let epoch = u64::from_str_radix(&parts.next()?, 16).ok()?;
        let stamp = Stamp {
            epoch,
            purges: parts.next()?.parse().ok()?,
        };
        let mut purges = FxHashMap::default();
        while let Some(field) = parts.next() {
            let at: u64 = parts.next()?.parse().ok()?;
            let last: &mut u64 = purges.entry(Purge::read(&field)).or_default();
            *last = at.max(*last);
        }
        let has_any = stamp.purges > 0 && !purges.is_empty();
        Some(Self {
            stamp,
            purges: (has_any || stamp.purges == 0).then_some(purges),
        })
    }
}

fn ask(functions: &Functions, known: &Known, touches: bool) -> redis::Cmd {
    let mut asking = functions.call("exchange");
    asking.arg(1).arg(purges());
    asking.arg(format!("{:016x}", fastrand::u64(..)));
    match known.stamp {
        Some(Stamp { epoch, purges }) => asking.arg(format!("{epoch:016x}")).arg(purges),
        None => asking.arg("").arg(0),
    };
    asking.arg(u8::from(touches));
    for purge in &known.untold {
        asking.arg(purge.field());
    }
    asking
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::Pattern;

    fn of_team(team: &str) -> Purge {
        Purge {
            team: Some(Pattern::parse(team).unwrap()),
            ..Purge::default()
        }
    }

    fn tags(team: &str) -> Tags {
        Tags {
            key: "alice".into(),
            team: Some(team.into()),
            model: "m".into(),
            endpoint: "/v1/embeddings",
        }
    }

    fn told(epoch: u64, purges: &[(&Purge, u64)], count: u64) -> Told {
        let mut parts = vec![format!("{epoch:x}"), count.to_string()];
        for (purge, at) in purges {
            parts.extend([purge.field(), at.to_string()]);
        }
        Told::read(parts).unwrap()
    }

    fn stamp(epoch: u64, purges: u64) -> Stamp {
        Stamp { epoch, purges }
    }

    #[test]
    fn what_was_asked_for_before_a_purge_is_taken_by_it() {
        let (red, blue) = (of_team("red"), of_team("blue"));
        let mut known = Known::default();
        assert_eq!(known.learn(told(1, &[(&red, 4), (&blue, 2)], 4)).len(), 2);
        assert!(known.takes(stamp(1, 3), &tags("red")));
        assert!(!known.takes(stamp(1, 4), &tags("red")));
        assert!(!known.takes(stamp(1, 3), &tags("blue")));
        known.note_untold(blue);
        assert!(known.takes(stamp(1, 4), &tags("blue")), "it counts at once");
    }

    #[test]
    fn only_what_is_new_is_told() {
        let (red, blue) = (of_team("red"), of_team("blue"));
        let mut known = Known::default();
        known.learn(told(1, &[(&red, 1)], 1));
        assert_eq!(known.learn(told(1, &[], 1)), []);
        let again = known.learn(told(1, &[(&red, 1), (&blue, 2)], 2));
        assert_eq!(again, std::slice::from_ref(&blue));
        let made_again = known.learn(told(1, &[(&red, 3), (&blue, 2)], 3));
        assert_eq!(made_again, [red]);
    }

    #[test]
    fn a_redis_that_was_emptied_is_told_again() {
        let (red, blue) = (of_team("red"), of_team("blue"));
        let mut known = Known::default();
        known.learn(told(1, &[(&red, 1), (&blue, 2)], 2));
        assert!(!known.has_epoch_of(stamp(2, 2)));
        // Another gateway was faster with one of them: perhaps it has made it once more.
        assert_eq!(known.learn(told(2, &[(&red, 1)], 1)), [red]);
        assert_eq!(known.untold, FxHashSet::from_iter([blue]));
    }

    #[test]
    fn too_many_that_wait_are_one_that_takes_all() {
        let mut known = Known::default();
        for number in 0..=MOST_UNTOLD {
            known.note_untold(of_team(&number.to_string()));
        }
        assert!(known.untold.len() <= 2);
        assert!(known.takes(stamp(1, 9), &tags("anybody")));
    }
}
