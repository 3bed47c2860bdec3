//! Whether an endpoint is well, judged by how its answers end (outlier detection).
//!
//! Failures in a row, or a share of failures in a window, eject an endpoint for a time that doubles with each ejection.
//! When it is over, one request is let through as a trial: its success brings the endpoint back, its failure ejects it
//! again. An endpoint that has stayed well for a window begins anew, and an ejection that ended before its time, as the
//! endpoint was asked for want of a better one, does not lengthen the next.
//!
//! A stream counts when it has ended. Its beginning brings an endpoint back, but on probation: the next failure ejects
//! it again. A request that was given up without an answer counts in a row, as a hung endpoint has no successes between
//! them, and not in the share, as it may be the clients that have no patience. Active checks count for themselves: they
//! do not hear what requests hear, so they undo only what they have seen.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// When an endpoint is ejected, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    /// Failures in a row that eject.
    pub failures: u32,
    /// The share of failures in the window that ejects.
    pub share: f64,
    /// Requests in the window from which on the share counts.
    pub min_requests: u32,
    /// The window.
    pub window: Duration,
    /// The length of the first ejection.
    pub base: Duration,
    /// The longest ejection.
    pub max: Duration,
}

/// What an endpoint may be asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Anything.
    Well,
    /// One request, as a trial.
    Due,
    /// Nothing for so long.
    Ejected(Duration),
}

/// How a request ended, as far as its endpoint is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It was answered, and the answer was whole.
    Well,
    /// Its answer has begun, and its end is still to come.
    Begun,
    /// The endpoint failed.
    Failed,
    /// Nothing had come for long when somebody gave up.
    Silent,
}

/// What an observation changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The endpoint is left out for so long.
    Ejected(Duration),
    /// The endpoint is back.
    Restored,
}

/// The health of one endpoint.
#[derive(Debug)]
pub struct Health {
    params: Params,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    in_a_row: u32,
    window: Window,
    /// Failed checks in a row.
    checks: u32,
    ejection: Option<Ejection>,
    /// Ejections without a whole window of health between them.
    ejections: u32,
    /// When the last of them began: what began before says nothing of what came since.
    ejected: Option<Instant>,
    restored: Option<Instant>,
    /// Trials so far.
    trials: u64,
}

#[derive(Clone, Copy, Debug)]
struct Ejection {
    until: Instant,
    /// The trial that is under way.
    trial: Option<u64>,
    /// Whether checks began it.
    by_checks: bool,
}

/// Counts of the last window, in slots that are forgotten one by one.
#[derive(Debug, Default)]
struct Window {
    slots: [Slot; SLOTS],
    /// The current slot, and when it began.
    current: Option<(usize, Instant)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    requests: u32,
    failures: u32,
}

const SLOTS: usize = 10;

// === impl Health ===

impl Health {
    /// Builds the health of an endpoint that nothing is known of.
    pub fn new(params: Params) -> Self {
        Self {
            params,
            state: Mutex::default(),
        }
    }

    /// Returns what may be asked.
    pub fn standing(&self, now: Instant) -> Standing {
        match self.state().ejection {
            None => Standing::Well,
            Some(ejection) if ejection.trial.is_some() => Standing::Ejected(Duration::ZERO),
            Some(ejection) if now >= ejection.until => Standing::Due,
            Some(ejection) => Standing::Ejected(ejection.until - now),
        }
    }

    /// Returns whether a trial has been due for so long that even a call which cannot be repeated should be it.
    pub fn is_overdue(&self, now: Instant) -> bool {
        let ejection = self.state().ejection;
        ejection.is_some_and(|e| e.trial.is_none() && now >= e.until + self.params.base)
    }

    /// Takes the one trial of an endpoint that is due, by a number of its own. Whoever gets it must observe its end, or
    /// let it go.
    pub fn claim_trial(&self, now: Instant) -> Option<u64> {
        let state = &mut *self.state();
        let ejection = state.ejection.as_mut()?;
        if ejection.trial.is_some() || now < ejection.until {
            return None;
        }
        state.trials += 1;
        ejection.trial = Some(state.trials);
        ejection.trial
    }

    /// Lets a trial go that ended without telling anything. Another one, taken since, goes on.
    pub fn let_go(&self, trial: u64) {
        if let Some(ejection) = &mut self.state().ejection {
            ejection.trial.take_if(|current| *current == trial);
        }
    }

    /// Learns how a request ended that began at `began`.
    pub fn observe(&self, seen: Seen, began: Instant, now: Instant) -> Option<Change> {
        let mut state = self.state();
        if state.ejected.is_some_and(|ejected| began < ejected) {
            return None;
        }
        match (state.ejection, seen) {
            (Some(_), Seen::Well) => Some(state.restore(now)),
            (Some(_), Seen::Begun) => {
                let change = state.restore(now);
                state.in_a_row = self.params.failures.saturating_sub(1);
                Some(change)
            }
            (Some(ejection), Seen::Failed | Seen::Silent) => {
                let was_due = ejection.trial.is_some() || now >= ejection.until;
                was_due.then(|| self.eject(&mut state, ejection.by_checks, now))
            }
            (None, Seen::Begun) => None,
            (None, Seen::Well) => {
                state.in_a_row = 0;
                state.window.count(false, now, self.params.window);
                None
            }
            (None, Seen::Failed | Seen::Silent) => {
                state.in_a_row += 1;
                if seen == Seen::Failed {
                    state.window.count(true, now, self.params.window);
                }
                self.is_outlier(&state)
                    .then(|| self.eject(&mut state, false, now))
            }
        }
    }

    /// Learns how a check ended that began at `began`. A success ends an ejection that checks began, and makes an
    /// endpoint due for its trial that requests ejected, if checks had failed since as well.
    pub fn checked(&self, failed: bool, began: Instant, now: Instant) -> Option<Change> {
        let mut state = self.state();
        if state.ejected.is_some_and(|ejected| began < ejected) {
            return None;
        }
        let had_failed = state.checks > 0;
        state.checks = if failed { state.checks + 1 } else { 0 };
        match (state.ejection, failed) {
            (None, true) if state.checks >= self.params.failures => {
                Some(self.eject(&mut state, true, now))
            }
            (None, _) => None,
            (Some(ejection), true) => {
                let (was_due, by_checks) = (now >= ejection.until, ejection.by_checks);
                was_due.then(|| self.eject(&mut state, by_checks, now))
            }
            (Some(ejection), false) if ejection.by_checks => Some(state.restore(now)),
            (Some(ejection), false) => {
                let until = match had_failed {
                    true => ejection.until.min(now),
                    false => ejection.until,
                };
                state.ejection = Some(Ejection { until, ..ejection });
                None
            }
        }
    }

    fn is_outlier(&self, state: &State) -> bool {
        let (requests, failures) = state.window.sums();
        state.in_a_row >= self.params.failures
            || (requests >= self.params.min_requests
                && f64::from(failures) >= self.params.share * f64::from(requests))
    }

    fn eject(&self, state: &mut State, by_checks: bool, now: Instant) -> Change {
        let was_well = state
            .restored
            .is_some_and(|restored| now - restored >= self.params.window);
        if was_well && state.ejection.is_none() {
            state.ejections = 0;
        }
        let doublings = state.ejections.min(30);
        let length = (self.params.base * (1 << doublings)).min(self.params.max);
        *state = State {
            ejections: state.ejections + 1,
            ejection: Some(Ejection {
                until: now + length,
                trial: None,
                by_checks,
            }),
            ejected: Some(now),
            restored: state.restored,
            checks: state.checks,
            trials: state.trials,
            in_a_row: 0,
            window: Window::default(),
        };
        Change::Ejected(length)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn restore(&mut self, now: Instant) -> Change {
        let was_served = self.ejection.is_none_or(|ejection| now >= ejection.until);
        *self = Self {
            ejections: self.ejections.saturating_sub(u32::from(!was_served)),
            ejected: self.ejected,
            restored: Some(now),
            trials: self.trials,
            ..Self::default()
        };
        Change::Restored
    }
}

// === impl Window ===

impl Window {
    fn count(&mut self, failed: bool, now: Instant, length: Duration) {
        let slot = self.turn(now, length / SLOTS as u32);
        slot.requests = slot.requests.saturating_add(1);
        slot.failures = slot.failures.saturating_add(u32::from(failed));
    }

    /// Forgets what is older than the window and returns the slot of `now`.
    fn turn(&mut self, now: Instant, length: Duration) -> &mut Slot {
        let (mut index, mut began) = self.current.unwrap_or((0, now));
        let mut turns = 0;
        while now.saturating_duration_since(began) >= length {
            turns += 1;
            if turns > SLOTS {
                began = now;
                break;
            }
            began += length;
            index = (index + 1) % SLOTS;
            self.slots[index] = Slot::default();
        }
        self.current = Some((index, began));
        &mut self.slots[index]
    }

    fn sums(&self) -> (u32, u32) {
        let add = |sum: (u32, u32), slot: &Slot| {
            (
                sum.0.saturating_add(slot.requests),
                sum.1.saturating_add(slot.failures),
            )
        };
        self.slots.iter().fold((0, 0), add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMS: Params = Params {
        failures: 5,
        share: 0.1,
        min_requests: 20,
        window: Duration::from_secs(60),
        base: Duration::from_secs(5),
        max: Duration::from_secs(300),
    };

    fn fail(health: &Health, now: Instant) -> Option<Change> {
        health.observe(Seen::Failed, now, now)
    }

    fn fail_five_times(health: &Health, now: Instant) {
        for _ in 0..5 {
            fail(health, now);
        }
    }

    fn succeed(health: &Health, now: Instant) -> Option<Change> {
        health.observe(Seen::Well, now, now)
    }

    fn after(start: Instant, secs: u64) -> Instant {
        start + Duration::from_secs(secs)
    }

    #[test]
    fn five_in_a_row_eject_and_four_do_not() {
        let (health, now) = (Health::new(PARAMS), Instant::now());
        for _ in 0..4 {
            assert_eq!(fail(&health, now), None);
        }
        succeed(&health, now);
        for _ in 0..4 {
            assert_eq!(fail(&health, now), None);
        }
        assert_eq!(
            fail(&health, now),
            Some(Change::Ejected(Duration::from_secs(5)))
        );
        assert_eq!(
            health.standing(now),
            Standing::Ejected(Duration::from_secs(5))
        );
    }

    #[test]
    fn a_share_of_failures_ejects_once_there_are_enough_requests() {
        let (health, now) = (Health::new(PARAMS), Instant::now());
        assert_eq!(fail(&health, now), None);
        for _ in 0..18 {
            succeed(&health, now);
        }
        // The twentieth request and the second failure: a tenth of them.
        assert!(fail(&health, now).is_some());
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let (health, start) = (Health::new(PARAMS), Instant::now());
        for _ in 0..3 {
            fail(&health, start);
        }
        let later = after(start, 61);
        for _ in 0..30 {
            succeed(&health, later);
        }
        // 3 of 34 in all would not be a tenth, but 2 of 32 are far from it as well; 4 more make it 4 of 34.
        for _ in 0..3 {
            assert_eq!(fail(&health, later), None);
            succeed(&health, later);
        }
        let (requests, failures) = health.state().window.sums();
        assert_eq!((requests, failures), (36, 3));
    }

    #[test]
    fn one_trial_at_a_time_brings_it_back() {
        let (health, start) = (Health::new(PARAMS), Instant::now());
        fail_five_times(&health, start);
        let due = after(start, 5);
        assert_eq!(health.claim_trial(after(start, 4)), None);
        assert_eq!(health.standing(due), Standing::Due);
        let first = health.claim_trial(due).unwrap();
        assert_eq!(health.claim_trial(due), None, "one at a time");
        health.let_go(first);
        let second = health.claim_trial(due);
        assert!(second.is_some(), "a trial that told nothing is free");
        health.let_go(first);
        assert_eq!(health.claim_trial(due), None, "the second one goes on");
        assert_eq!(succeed(&health, due), Some(Change::Restored));
        assert_eq!(health.standing(due), Standing::Well);
    }

    #[test]
    fn each_ejection_is_twice_as_long_until_it_has_been_well_for_a_window() {
        let (health, mut now) = (Health::new(PARAMS), Instant::now());
        fail_five_times(&health, now);
        for secs in [10, 20, 40, 80, 160, 300, 300] {
            now += Duration::from_secs(300);
            assert!(health.claim_trial(now).is_some());
            let expected = Some(Change::Ejected(Duration::from_secs(secs)));
            assert_eq!(fail(&health, now), expected);
        }
        now += Duration::from_secs(300);
        assert_eq!(succeed(&health, now), Some(Change::Restored));
        now += Duration::from_secs(60);
        let last = (0..5).filter_map(|_| fail(&health, now)).next();
        assert_eq!(last, Some(Change::Ejected(Duration::from_secs(5))));
    }

    #[test]
    fn an_ejection_that_was_not_served_does_not_lengthen_the_next() {
        let (health, now) = (Health::new(PARAMS), Instant::now());
        for _ in 0..10 {
            let ejected = (0..5).find_map(|_| fail(&health, now));
            assert_eq!(ejected, Some(Change::Ejected(Duration::from_secs(5))));
            assert_eq!(succeed(&health, now), Some(Change::Restored));
        }
    }

    #[test]
    fn answers_to_what_was_asked_before_the_ejection_change_nothing() {
        let (health, start) = (Health::new(PARAMS), Instant::now());
        let later = after(start, 1);
        fail_five_times(&health, later);
        assert_eq!(health.observe(Seen::Well, start, later), None);
        assert!(matches!(health.standing(later), Standing::Ejected(_)));
    }
    #[test]
    fn requests_that_were_given_up_eject_in_a_row_and_never_by_share() {
        let (health, now) = (Health::new(PARAMS), Instant::now());
        let silent = |now| health.observe(Seen::Silent, now, now);
        for _ in 0..20 {
            (0..4).for_each(|_| assert_eq!(silent(now), None));
            succeed(&health, now);
        }
        assert!((0..5).any(|_| silent(now).is_some()));
        let due = after(now, 5);
        assert!(health.claim_trial(due).is_some());
        assert_eq!(
            silent(due),
            Some(Change::Ejected(Duration::from_secs(10))),
            "a trial"
        );
    }

    #[test]
    fn streams_that_break_eject_although_each_began_well() {
        let (health, start) = (Health::new(PARAMS), Instant::now());
        let stream = |began: Instant, seen| {
            let head = health.observe(Seen::Begun, began, began);
            (head, health.observe(seen, began, after(began, 1)))
        };
        for _ in 0..4 {
            assert_eq!(stream(start, Seen::Failed), (None, None));
        }
        assert!(stream(start, Seen::Failed).1.is_some());
        let due = after(start, 20);
        let (head, end) = stream(due, Seen::Failed);
        assert_eq!(head, Some(Change::Restored), "at once");
        assert_eq!(end, Some(Change::Ejected(Duration::from_secs(10))));
        let due = after(due, 20);
        assert_eq!(stream(due, Seen::Well), (Some(Change::Restored), None));
        assert_eq!(
            stream(after(due, 2), Seen::Failed),
            (None, None),
            "probation is over"
        );
    }

    #[test]
    fn a_stream_from_before_the_ejection_says_nothing_after_the_return() {
        let (health, start) = (Health::new(PARAMS), Instant::now());
        fail_five_times(&health, after(start, 1));
        let due = after(start, 10);
        health.observe(Seen::Begun, due, due);
        assert_eq!(health.observe(Seen::Failed, start, after(due, 1)), None);
        assert_eq!(health.standing(due), Standing::Well);
    }

    #[test]
    fn checks_undo_only_what_they_have_seen() {
        let (health, start) = (Health::new(PARAMS), Instant::now());
        let check = |failed, now| health.checked(failed, now, now);
        // The engine is dead, and the server before it well.
        for _ in 0..5 {
            check(false, start);
            fail(&health, start);
        }
        assert_eq!(check(false, after(start, 1)), None);
        assert!(matches!(
            health.standing(after(start, 1)),
            Standing::Ejected(_)
        ));
        // All of it is away, and comes back.
        assert_eq!(check(true, after(start, 2)), None);
        assert_eq!(check(false, after(start, 3)), None);
        assert_eq!(health.standing(after(start, 3)), Standing::Due);
    }

    #[test]
    fn checks_eject_in_a_row_and_bring_back_what_they_ejected() {
        let (health, now) = (Health::new(PARAMS), Instant::now());
        let check = |failed| health.checked(failed, now, now);
        (0..4).for_each(|_| assert_eq!(check(true), None));
        assert!(matches!(check(true), Some(Change::Ejected(_))));
        assert_eq!(check(false), Some(Change::Restored));
    }

    #[test]
    fn a_trial_that_nobody_takes_is_overdue_after_another_ejection() {
        let (health, start) = (Health::new(PARAMS), Instant::now());
        fail_five_times(&health, start);
        assert!(!health.is_overdue(after(start, 9)));
        assert!(health.is_overdue(after(start, 10)));
    }
}
