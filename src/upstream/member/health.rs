//! Whether an endpoint is well, judged by how its answers end (outlier detection).
//!
//! Failures in a row, or a share of failures in a window, eject an endpoint for a time that doubles with each ejection.
//! When it is over, one request is let through as a trial: its success brings the endpoint back, its failure ejects it
//! again. An endpoint that has stayed well for a window begins anew.

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
    ejection: Option<Ejection>,
    /// Ejections without a whole window of health between them.
    ejections: u32,
    restored: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Ejection {
    since: Instant,
    until: Instant,
    /// Whether a trial is under way.
    trial: bool,
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
            Some(ejection) if ejection.trial => Standing::Ejected(Duration::ZERO),
            Some(ejection) if now >= ejection.until => Standing::Due,
            Some(ejection) => Standing::Ejected(ejection.until - now),
        }
    }

    /// Takes the one trial of an endpoint that is due. Whoever gets it must observe its end, or let it go.
    pub fn claim_trial(&self, now: Instant) -> bool {
        match &mut self.state().ejection {
            Some(ejection) if !ejection.trial && now >= ejection.until => {
                ejection.trial = true;
                true
            }
            _ => false,
        }
    }

    /// Lets a trial go that ended without telling anything.
    pub fn let_go(&self) {
        if let Some(ejection) = &mut self.state().ejection {
            ejection.trial = false;
        }
    }

    /// Learns how a request ended that began at `began`.
    pub fn observe(&self, failed: bool, began: Instant, now: Instant) -> Option<Change> {
        let mut state = self.state();
        match (state.ejection, failed) {
            // What began before says nothing of what came since.
            (Some(ejection), _) if began < ejection.since => None,
            (Some(_), false) => {
                *state = State {
                    ejections: state.ejections,
                    restored: Some(now),
                    ..State::default()
                };
                Some(Change::Restored)
            }
            (Some(ejection), true) if ejection.trial || now >= ejection.until => {
                Some(self.eject(&mut state, now))
            }
            (Some(_), true) => None,
            (None, failed) => {
                state.in_a_row = if failed { state.in_a_row + 1 } else { 0 };
                state.window.count(failed, now, self.params.window);
                let is_out = failed && self.is_outlier(&state);
                is_out.then(|| self.eject(&mut state, now))
            }
        }
    }

    fn is_outlier(&self, state: &State) -> bool {
        let (requests, failures) = state.window.sums();
        state.in_a_row >= self.params.failures
            || (requests >= self.params.min_requests
                && f64::from(failures) >= self.params.share * f64::from(requests))
    }

    fn eject(&self, state: &mut State, now: Instant) -> Change {
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
                since: now,
                until: now + length,
                trial: false,
            }),
            restored: state.restored,
            ..State::default()
        };
        Change::Ejected(length)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        health.observe(true, now, now)
    }

    fn fail_five_times(health: &Health, now: Instant) {
        for _ in 0..5 {
            fail(health, now);
        }
    }

    fn succeed(health: &Health, now: Instant) -> Option<Change> {
        health.observe(false, now, now)
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
        assert!(!health.claim_trial(after(start, 4)));
        assert_eq!(health.standing(due), Standing::Due);
        assert!(health.claim_trial(due));
        assert!(!health.claim_trial(due), "one at a time");
        health.let_go();
        assert!(health.claim_trial(due), "a trial that told nothing is free");
        assert_eq!(succeed(&health, due), Some(Change::Restored));
        assert_eq!(health.standing(due), Standing::Well);
    }

    #[test]
    fn each_ejection_is_twice_as_long_until_it_has_been_well_for_a_window() {
        let (health, mut now) = (Health::new(PARAMS), Instant::now());
        fail_five_times(&health, now);
        for secs in [10, 20, 40, 80, 160, 300, 300] {
            now += Duration::from_secs(300);
            assert!(health.claim_trial(now));
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
    fn answers_to_what_was_asked_before_the_ejection_change_nothing() {
        let (health, start) = (Health::new(PARAMS), Instant::now());
        let later = after(start, 1);
        fail_five_times(&health, later);
        assert_eq!(health.observe(false, start, later), None);
        assert!(matches!(health.standing(later), Standing::Ejected(_)));
    }
}
