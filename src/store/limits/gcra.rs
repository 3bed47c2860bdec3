//! Rates, by the generic cell rate algorithm (ATM Forum, Traffic Management Specification 4.1, section 4.4.2, and ITU-T
//! I.371, annex A). `governor` decides.
//!
//! The specification words it in two ways that always agree: "virtual scheduling", which keeps the time at which the
//! next cell is due (TAT), and the "continuous-state leaky bucket", which keeps how far that lies ahead. Here it is the
//! latter, the [`Level`]: a clock that is set back then changes nothing of what was used, and the numbers are small
//! enough for a script that knows only doubles to come to the same ones.
//!
//! Something that is given back must not be given twice, by time and by hand: what was taken a minute ago has come back
//! by itself, whether it was used or not. With later calls on top, though, the level alone does not tell. So a level
//! remembers how low it has been since each of the takes that may yet be given back. See [`Level::give_back`].

use std::cell::Cell;
use std::collections::VecDeque;
use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

use super::time::Time;

/// The most that is owed, in nanoseconds: a hundred days, which a double still holds exactly. Whoever has used a
/// hundred days' tokens at once is not shut out for longer.
const MOST_OWED: u64 = 100 * 24 * 3600 * 1_000_000_000;
/// How far back a clock may seem to go before it is believed, in microseconds. Two threads that read it one after the
/// other may come here in the other order, many times a second: what lies between would be restored twice each time.
const SLACK: u64 = 1_000_000;
/// How many spans are told apart. Of more, those that are most alike are made one, until so few are left as
/// [`FEWER_SPANS`]; see [`Level::compact`].
const MOST_SPANS: usize = 64;
const FEWER_SPANS: usize = 32;

/// How fast something is restored, and how much of it there is at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// The time in which one is restored, in nanoseconds, rounded down.
    interval: NonZeroU64,
    burst: NonZeroU32,
}

/// What has been taken and not yet restored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Level {
    /// The time in which all of it is restored, in nanoseconds.
    nanos: u64,
    /// When that was so.
    at: Time,
    /// The times between the takes that may yet be given back, the oldest first. The last one lasts.
    open: VecDeque<Span>,
    /// How many takes there have been.
    takes: u64,
}

/// The time from one take to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    /// The take that it begins with.
    mark: Mark,
    /// How many takes may yet be given back that began here.
    open: u32,
    /// The lowest level in it, less what was given back of takes before.
    low: u64,
}

/// A level that would have room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct After {
    nanos: u64,
    now: Time,
}

/// Which take something was taken by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark(u64);

/// There is not so much left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Short {
    /// In how many nanoseconds there will be; `None`: never.
    pub(super) wait: Option<u64>,
}

type Limiter = RateLimiter<NotKeyed, Trial, Now, NoOpMiddleware<Nanos>>;

/// Governor's own view of time: it is always now, and a level is told relative to that.
#[derive(Debug)]
struct Now;

/// Governor's own view of a level, which is tried and not yet changed.
#[derive(Debug)]
struct Trial {
    before: u64,
    after: Cell<u64>,
}

// === impl Rate ===

impl Rate {
    /// So many in a period, of which `burst` may come at once.
    pub(super) fn new(size: NonZeroU32, period: Duration, burst: NonZeroU32) -> Self {
        let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        let interval = period / u64::from(size.get());
        Self {
            interval: NonZeroU64::new(interval).unwrap_or(NonZeroU64::MIN),
            burst,
        }
    }

    /// Returns the time in which so many are restored, in nanoseconds.
    fn time_of(&self, n: u64) -> u64 {
        n.saturating_mul(self.interval.get())
    }

    /// Returns the level at which nothing is left.
    fn full(&self) -> u64 {
        self.time_of(u64::from(self.burst.get()))
    }

    /// Returns the time in which one is restored, in nanoseconds.
    pub(super) fn interval(&self) -> u64 {
        self.interval.get()
    }

    /// Returns how many may come at once.
    pub(super) fn burst(&self) -> NonZeroU32 {
        self.burst
    }
}

// === impl Level ===

impl Level {
    /// Returns what time has left of the level, and since when that is so. A clock that goes back a little is waited for;
    /// one that was set back starts anew from there, at the same level.
    fn passed(&self, now: Time) -> (u64, Time) {
        if now >= self.at {
            let nanos = self.nanos.saturating_sub(now.nanos_since(self.at));
            (nanos, now)
        } else if self.at.as_micros() - now.as_micros() > SLACK {
            (self.nanos, now)
        } else {
            (self.nanos, self.at)
        }
    }

    /// Lets time pass.
    fn pass(&mut self, now: Time) {
        (self.nanos, self.at) = self.passed(now);
        if let Some(span) = self.open.back_mut() {
            span.low = span.low.min(self.nanos);
        }
    }

    /// Returns what the level would be after `n` more, if there is room for them. Changes nothing, but for a clock that was
    /// set back: from then on time passes for those who are refused, too.
    pub(super) fn attempt(&mut self, rate: &Rate, n: u64, now: Time) -> Result<After, Short> {
        if now < self.at && self.passed(now).1 == now {
            self.at = now;
        }
        let (nanos, at) = self.passed(now);
        let Ok(n) = u32::try_from(n) else {
            return Err(Short { wait: None });
        };
        let Some(n) = NonZeroU32::new(n) else {
            return Ok(After { nanos, now });
        };
        // Governor multiplies before it compares, so it must not see more than a burst.
        if n > rate.burst {
            return Err(Short { wait: None });
        }
        let quota = Quota::with_period(Duration::from_nanos(rate.interval.get()));
        let Some(quota) = quota.map(|quota| quota.allow_burst(rate.burst)) else {
            return Err(Short { wait: None });
        };
        let trial = Trial {
            before: nanos,
            after: Cell::new(nanos),
        };
        let limiter = Limiter::new(quota, trial, Now);
        match limiter.check_n(n) {
            Ok(Ok(())) => Ok(After {
                nanos: limiter.into_state_store().after.get(),
                now,
            }),
            Ok(Err(until)) => {
                let wait = until.wait_time_from(Nanos::default()).as_nanos();
                let wait = u64::try_from(wait).unwrap_or(u64::MAX);
                // Where the clock is behind, it has to come up first.
                Err(Short {
                    wait: Some(wait.saturating_add(at.nanos_since(now))),
                })
            }
            Err(_) => Err(Short { wait: None }),
        }
    }

    /// Takes what was tried. It is to be given back, and be it nothing of it.
    pub(super) fn take(&mut self, after: After) -> Mark {
        self.pass(after.now);
        self.nanos = after.nanos;
        self.takes += 1;
        let mark = Mark(self.takes);
        self.open.push_back(Span {
            mark,
            open: 1,
            low: self.nanos,
        });
        if self.open.len() > MOST_SPANS {
            self.compact();
        }
        mark
    }

    /// Gives back `n` of what was taken at `mark`, as far as time has not done it. Each take is given back once.
    ///
    /// Why that is just what would be if the `n` had never been taken: from the take on, the level would be lower by `n`
    /// at each moment, but never less than nothing. So it would be lower by `n`, or by the lowest that it was since,
    /// whichever is less: what lay below that was restored by the time that passed.
    pub(super) fn give_back(&mut self, rate: &Rate, n: u64, mark: Mark) {
        let index = self.open.partition_point(|span| span.mark <= mark);
        let Some(index) = index.checked_sub(1) else {
            return;
        };
        let low = self.open.range(index..).map(|span| span.low).min();
        let less = rate.time_of(n).min(low.unwrap_or(0));
        self.nanos -= less;
        for span in self.open.range_mut(index..) {
            span.low -= less;
        }
        if let Some(span) = self.open.get_mut(index) {
            span.open -= 1;
            if span.open == 0 {
                self.join(index);
            }
        }
    }

    /// Makes fewer spans of many. What a take of a span may be given is the lowest of that span and of all after it;
    /// where that is the same for two neighbours, nothing is lost in making them one. Otherwise those are joined that
    /// together reach the least, by ratio, above their own lowest: a take may then be given back less than it could, never
    /// more, and only where nearly all that there is would be given back.
    fn compact(&mut self) {
        let mut lowest = u64::MAX;
        let lowests = self.open.iter().rev().map(|span| {
            lowest = lowest.min(span.low);
            lowest
        });
        let mut lowests: Vec<u64> = lowests.collect();
        lowests.reverse();
        while lowests.len() > FEWER_SPANS {
            let (mut alike, mut least) = (0, f64::INFINITY);
            for (index, pair) in lowests.windows(2).enumerate() {
                let reach = lowests.get(index + 2).unwrap_or(&self.nanos);
                let ratio = match pair {
                    [one, next] if one == next => 1.0,
                    [one, _] => *reach as f64 / *one as f64,
                    _ => continue,
                };
                if ratio < least {
                    (alike, least) = (index, ratio);
                }
            }
            lowests.remove(alike + 1);
            self.join(alike + 1);
        }
    }

    /// Makes one of a span and the one before it; nobody asks for the time before the first.
    fn join(&mut self, index: usize) {
        let Some(span) = self.open.remove(index) else {
            return;
        };
        let before = index.checked_sub(1);
        if let Some(before) = before.and_then(|before| self.open.get_mut(before)) {
            before.low = before.low.min(span.low);
            before.open += span.open;
        }
    }

    /// Takes `n` whether they are there or not: they were used.
    pub(super) fn owe(&mut self, rate: &Rate, n: u64, now: Time) {
        self.pass(now);
        let owed = self.nanos.saturating_add(rate.time_of(n));
        self.nanos = owed.min(MOST_OWED.max(self.nanos));
    }

    /// Returns how many are left.
    pub(super) fn left(&self, rate: &Rate, now: Time) -> u32 {
        let (nanos, _) = self.passed(now);
        let left = rate.full().saturating_sub(nanos) / rate.interval;
        u32::try_from(left).unwrap_or(u32::MAX)
    }

    /// Returns how many are taken and not restored, with the one that is restored in part.
    pub(super) fn taken(&self, rate: &Rate, now: Time) -> u64 {
        self.passed(now).0.div_ceil(rate.interval.get())
    }

    /// Returns in how many nanoseconds all are restored.
    pub(super) fn restored_in(&self, now: Time) -> u64 {
        let (nanos, at) = self.passed(now);
        nanos.saturating_add(at.nanos_since(now))
    }

    /// Counts on at another rate: what was taken stays taken, but no more than there is now. A limit that is made much
    /// smaller shuts nobody out for longer than it takes to restore it.
    pub(super) fn resize(&mut self, old: &Rate, new: &Rate) {
        let resized = |nanos: u64| {
            let nanos =
                u128::from(nanos) * u128::from(new.interval.get()) / u128::from(old.interval.get());
            u64::try_from(nanos).unwrap_or(u64::MAX).min(new.full())
        };
        self.nanos = resized(self.nanos);
        for span in &mut self.open {
            span.low = resized(span.low);
        }
    }
}

// === impl Now ===

impl Clock for Now {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::default()
    }
}

// === impl Trial ===

impl StateStore for Trial {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (outcome, after) = decide(Some(Nanos::from(self.before)))?;
        self.after.set(after.as_u64());
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(size: u32, seconds: u64, burst: u32) -> Rate {
        let number = |n| NonZeroU32::new(n).unwrap();
        Rate::new(number(size), Duration::from_secs(seconds), number(burst))
    }

    fn ms(millis: u64) -> Time {
        Time::from_micros(millis * 1000)
    }

    fn take(level: &mut Level, rate: &Rate, n: u64, now: Time) -> Result<Mark, Short> {
        let after = level.attempt(rate, n, now)?;
        Ok(level.take(after))
    }

    #[test]
    fn a_burst_then_one_at_a_time() {
        let (rate, mut level) = (rate(60, 60, 3), Level::default());
        for _ in 0..3 {
            take(&mut level, &rate, 1, ms(5000)).unwrap();
        }
        let short = take(&mut level, &rate, 1, ms(5000)).unwrap_err();
        assert_eq!(short.wait, Some(1_000_000_000));
        assert!(take(&mut level, &rate, 1, ms(5999)).is_err());
        take(&mut level, &rate, 1, ms(6000)).unwrap();
        assert_eq!(level.left(&rate, ms(6000)), 0);
        assert_eq!(level.restored_in(ms(6000)), 3_000_000_000);
        assert_eq!(
            (level.left(&rate, ms(8500)), level.left(&rate, ms(99_000))),
            (2, 3)
        );
    }

    #[test]
    fn more_than_the_whole_never_fits() {
        let (rate, mut level) = (rate(1, 24 * 3600, 1), Level::default());
        for n in [2, u64::from(u32::MAX), u64::from(u32::MAX) + 1, u64::MAX] {
            assert_eq!(
                level.attempt(&rate, n, ms(0)),
                Err(Short { wait: None }),
                "{n}"
            );
        }
        assert!(level.attempt(&rate, 1, ms(0)).is_ok());
        level.owe(&rate, u64::MAX, ms(0));
        level.owe(&rate, u64::MAX, ms(0));
        assert_eq!(level.restored_in(ms(0)), MOST_OWED);
        assert_eq!(level.attempt(&rate, 0, ms(0)).unwrap().nanos, MOST_OWED);
        let day = 24 * 3600 * 1_000_000_000;
        assert_eq!(
            level.attempt(&rate, 1, ms(0)).unwrap_err().wait,
            Some(MOST_OWED + day - day)
        );
    }

    #[test]
    fn the_fastest_rates_are_less_than_a_hundredth_off() {
        for size in [600_000_000, 595_000_000, 300_000_001, 61, 7] {
            let rate = rate(size, 60, size);
            let true_interval = 60e9 / f64::from(size);
            let off = (true_interval - rate.interval.get() as f64) / true_interval;
            assert!((0.0..0.01).contains(&off), "{size}: {off}");
        }
    }

    #[test]
    fn a_clock_that_goes_back_neither_locks_out_nor_gives_away() {
        let (rate, mut level) = (rate(60, 60, 2), Level::default());
        for _ in 0..2 {
            take(&mut level, &rate, 1, ms(10_000_000)).unwrap();
        }
        // A little: waited for.
        let short = level.attempt(&rate, 1, ms(9_999_500)).unwrap_err();
        assert_eq!(short.wait, Some(1_500_000_000));
        assert!(level.attempt(&rate, 1, ms(10_000_999)).is_err());
        take(&mut level, &rate, 1, ms(10_001_000)).unwrap();
        // Far: from there on, at the same level.
        assert_eq!(
            level.attempt(&rate, 1, ms(5)).unwrap_err().wait,
            Some(1_000_000_000)
        );
        assert!(level.attempt(&rate, 1, ms(1005)).is_ok());
    }

    #[test]
    fn what_time_has_restored_is_not_given_back_again() {
        let (rate, mut level) = (rate(60, 60, 60), Level::default());
        let first = take(&mut level, &rate, 60, ms(0)).unwrap();
        take(&mut level, &rate, 60, ms(60_000)).unwrap();
        level.give_back(&rate, 54, first);
        assert_eq!(level.left(&rate, ms(60_000)), 0);
        // At once, all of it is.
        let mut level = Level::default();
        let first = take(&mut level, &rate, 60, ms(0)).unwrap();
        level.give_back(&rate, 54, first);
        assert_eq!(level.left(&rate, ms(0)), 54);
        let second = take(&mut level, &rate, 54, ms(0)).unwrap();
        level.give_back(&rate, u64::MAX, second);
        assert_eq!(
            level.left(&rate, ms(0)),
            60,
            "what is owed of the first, too"
        );
    }

    #[test]
    fn a_long_call_is_given_back_all_that_it_did_not_use() {
        let (rate, mut level) = (rate(600, 60, 600), Level::default());
        take(&mut level, &rate, 300, ms(0)).unwrap();
        let long = take(&mut level, &rate, 200, ms(0)).unwrap();
        for second in 1..30 {
            let short = take(&mut level, &rate, 100, ms(second * 1000)).unwrap();
            level.give_back(&rate, 90, short);
        }
        let before = level.left(&rate, ms(29_000));
        level.give_back(&rate, 150, long);
        assert_eq!(level.left(&rate, ms(29_000)), before + 150);
        assert_eq!(level.open.len(), 1);
    }

    #[test]
    fn very_many_calls_are_given_back_what_they_did_not_use() {
        let (rate, mut level) = (rate(u32::MAX, 60, u32::MAX), Level::default());
        let all: Vec<_> = (0..1000)
            .map(|_| take(&mut level, &rate, 10, ms(0)).unwrap())
            .collect();
        assert!(level.open.len() <= MOST_SPANS);
        for index in 0..all.len() {
            // In no order.
            level.give_back(&rate, 5, all[index * 377 % all.len()]);
        }
        assert_eq!(level.nanos, rate.time_of(5 * 1000));
        assert!(level.open.is_empty());
    }

    #[test]
    fn another_size_keeps_what_was_taken() {
        let (old, mut level) = (rate(100, 60, 100), Level::default());
        take(&mut level, &old, 50, ms(0)).unwrap();
        let larger = rate(200, 60, 200);
        level.resize(&old, &larger);
        assert_eq!(level.left(&larger, ms(0)), 150);
        let smaller = rate(10, 60, 10);
        level.resize(&larger, &smaller);
        assert_eq!(level.restored_in(ms(0)), 60_000_000_000);
    }

    /// What is done to a level in a property test.
    #[derive(Clone, Debug)]
    enum Step {
        Pass(u64),
        Take(u64),
        Settle(prop::sample::Index, u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..40_000u64).prop_map(Step::Pass),
            (1..30u64).prop_map(Step::Take),
            (any::<prop::sample::Index>(), 0..30u64).prop_map(|(i, n)| Step::Settle(i, n)),
        ];
        prop::collection::vec(step, 1..120)
    }

    proptest! {
        /// Whatever was given back, and however late.
        #[test]
        fn no_window_admits_more_than_burst_and_rate(
            size in 1..200u32, share in 1..=100u32, steps in steps(),
        ) {
            let burst = (size * share / 100).max(1);
            let (rate, mut level) = (rate(size, 60, burst), Level::default());
            let mut now = 0;
            // When, and how many in the end.
            let mut admitted: Vec<(u64, u64)> = Vec::new();
            let mut open: Vec<(usize, u64, Mark)> = Vec::new();
            for step in steps {
                match step {
                    Step::Pass(millis) => now += millis,
                    Step::Take(n) => if let Ok(mark) = take(&mut level, &rate, n, ms(now)) {
                        open.push((admitted.len(), n, mark));
                        admitted.push((now, n));
                    },
                    Step::Settle(index, used) if !open.is_empty() => {
                        let (which, n, mark) = open.swap_remove(index.index(open.len()));
                        let used = used.min(n);
                        level.give_back(&rate, n - used, mark);
                        admitted[which].1 = used;
                    }
                    Step::Settle(..) => {}
                }
            }
            for (first, (start, _)) in admitted.iter().enumerate() {
                let mut sum = 0;
                for (end, n) in &admitted[first..] {
                    sum += n;
                    let restored = (end - start) * u64::from(size) / 60_000;
                    prop_assert!(sum <= u64::from(burst) + restored + restored / 50 + 1);
                }
            }
        }

        /// The level is in the end what it would be if nothing had ever been taken but what was used.
        #[test]
        fn what_is_left_is_as_if_only_what_was_used_had_been_taken(size in 1..200u32, steps in steps()) {
            let (rate, mut level) = (rate(size, 60, size), Level::default());
            let (mut now, mut most) = (0, 0);
            let mut used: Vec<(u64, u64)> = Vec::new();
            let mut open: Vec<(usize, u64, Mark)> = Vec::new();
            for step in steps {
                match step {
                    Step::Pass(millis) => now += millis,
                    Step::Take(n) => if let Ok(mark) = take(&mut level, &rate, n, ms(now)) {
                        open.push((used.len(), n, mark));
                        used.push((now, n));
                        most = most.max(open.len());
                    },
                    Step::Settle(index, n) if !open.is_empty() => {
                        let (which, taken, mark) = open.swap_remove(index.index(open.len()));
                        used[which].1 = n.min(taken);
                        level.give_back(&rate, taken - n.min(taken), mark);
                    }
                    Step::Settle(..) => {}
                }
            }
            let mut expected = Level::default();
            for (at, n) in used {
                expected.owe(&rate, n, ms(at));
            }
            level.pass(ms(now));
            expected.pass(ms(now));
            prop_assert!(level.nanos >= expected.nanos);
            if most <= MOST_SPANS {
                prop_assert_eq!(level.nanos, expected.nanos);
                prop_assert_eq!(level.open.len(), open.len());
            }
        }

        #[test]
        fn the_level_stays_between_nothing_and_full(size in 1..1000u32, steps in steps()) {
            let (rate, mut level) = (rate(size, 60, size), Level::default());
            let mut now = 0;
            let mut marks = vec![Mark::default()];
            for step in steps {
                match step {
                    Step::Pass(millis) => now += millis,
                    Step::Take(n) => marks.extend(take(&mut level, &rate, n, ms(now))),
                    // More than was taken, and again and again.
                    Step::Settle(index, n) => level.give_back(&rate, n, *index.get(&marks)),
                }
                prop_assert!(level.nanos <= rate.full());
                prop_assert!(level.left(&rate, ms(now)) <= size);
            }
        }

        /// Steps back and forth by any amounts, then an hour that passes as it should.
        #[test]
        fn no_clock_locks_anybody_out(
            times in prop::collection::vec(0..u64::MAX / 2000, 1..50), size in 1..1000u32,
        ) {
            let (rate, mut level) = (rate(size, 60, size), Level::default());
            for time in &times {
                let _ = take(&mut level, &rate, 1, ms(*time));
            }
            let last = *times.last().unwrap();
            if let Err(short) = level.attempt(&rate, 1, ms(last)) {
                let wait = short.wait.unwrap();
                prop_assert!(wait <= 61_000_000_000);
                let then = Time::from_micros(last * 1000 + wait.div_ceil(1000));
                prop_assert!(level.attempt(&rate, 1, then).is_ok());
            }
        }

        /// Two threads whose readings arrive in the wrong order gain nothing.
        #[test]
        fn readings_out_of_order_admit_no_more(
            jitter in prop::collection::vec(0..900u64, 1..300), size in 1..600u32,
        ) {
            let (rate, mut level) = (rate(size, 60, size), Level::default());
            let mut count = 0;
            for (i, jitter) in jitter.iter().enumerate() {
                let now = 10_000 + i as u64 * 20 - jitter;
                count += u64::from(take(&mut level, &rate, 1, ms(now)).is_ok());
            }
            let restored = (jitter.len() as u64 * 20 + 900) * u64::from(size) / 60_000;
            prop_assert!(count <= u64::from(size) + restored + restored / 50 + 1);
        }
    }
}
