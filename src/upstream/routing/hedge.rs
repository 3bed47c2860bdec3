//! When a second attempt is worth its cost: at the 95th percentile of the route's own times to the first byte (Dean and
//! Barroso, "The Tail at Scale", 2013), within a budget.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Times that are remembered.
const SAMPLES: usize = 256;
/// Fewer times say nothing of a percentile.
const ENOUGH: usize = 20;
const PERCENTILE: f64 = 0.95;
/// What a quiet route may save up, in second attempts.
const SAVED: f64 = 5.0;

/// The hedging of one route.
#[derive(Debug)]
pub struct Hedge {
    /// Second attempts as a share of requests.
    budget: f64,
    /// When the second attempt starts; `None`: at the percentile.
    after: Option<Duration>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    times: VecDeque<Duration>,
    /// The percentile, until the next time is learnt.
    percentile: Option<Duration>,
    saved: f64,
}

impl Hedge {
    /// Allows second attempts up to `budget` of the requests; `after` is a fixed delay instead of the percentile.
    pub fn new(budget: f64, after: Option<Duration>) -> Self {
        Self {
            budget,
            after,
            state: Mutex::default(),
        }
    }

    /// Counts a request and returns when its second attempt would start; `None` while too little is known.
    pub(super) fn delay(&self) -> Option<Duration> {
        let mut state = self.state();
        state.saved = (state.saved + self.budget).min(SAVED);
        if self.after.is_some() {
            return self.after;
        }
        if state.percentile.is_none() && state.times.len() >= ENOUGH {
            let mut times: Vec<Duration> = state.times.iter().copied().collect();
            let at = ((times.len() - 1) as f64 * PERCENTILE).round() as usize;
            state.percentile = Some(*times.select_nth_unstable(at).1);
        }
        state.percentile
    }

    /// Takes a second attempt from the budget.
    pub(super) fn withdraw(&self) -> bool {
        let mut state = self.state();
        let is_left = state.saved >= 1.0;
        if is_left {
            state.saved -= 1.0;
        }
        is_left
    }

    /// Learns how long a first byte took.
    pub(super) fn answered(&self, time: Duration) {
        let mut state = self.state();
        if state.times.len() == SAMPLES {
            state.times.pop_front();
        }
        state.times.push_back(time);
        state.percentile = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentile_is_known_from_enough_times() {
        let hedge = Hedge::new(0.05, None);
        for ms in 1..20 {
            hedge.answered(Duration::from_millis(ms));
            assert_eq!(hedge.delay(), None);
        }
        for ms in 20..=100 {
            hedge.answered(Duration::from_millis(ms));
        }
        assert_eq!(hedge.delay(), Some(Duration::from_millis(95)));
        for _ in 0..1000 {
            hedge.answered(Duration::from_millis(7));
        }
        assert_eq!(hedge.delay(), Some(Duration::from_millis(7)));
        assert_eq!(hedge.state().times.len(), SAMPLES);
    }

    #[test]
    fn second_attempts_are_a_share_of_requests() {
        let hedge = Hedge::new(0.05, Some(Duration::from_secs(1)));
        let hedged = (0..1000)
            .filter(|_| hedge.delay().is_some() && hedge.withdraw())
            .count();
        assert!((49..=50).contains(&hedged), "{hedged}");
    }
}
