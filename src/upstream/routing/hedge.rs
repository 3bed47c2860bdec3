//! When a second attempt is worth its cost: at the 95th percentile of the route's own times to the first byte (Dean and
//! Barroso, "The Tail at Scale", 2013), within a budget.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Times that are remembered.
const SAMPLES: usize = 256;
/// The percentile is drawn anew after so many of them.
const STEP: u32 = 16;
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
    /// Answers that are whole when they come.
    plain: Times,
    /// Streams, at their first content.
    streamed: Times,
    saved: f64,
}

#[derive(Debug, Default)]
struct Times {
    last: VecDeque<Duration>,
    /// Since the percentile was drawn.
    new: u32,
    percentile: Option<Duration>,
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

    /// Counts a request.
    pub(super) fn deposit(&self) {
        let mut state = self.state();
        state.saved = (state.saved + self.budget).min(SAVED);
    }

    /// Returns when the second attempt of a call starts; `None` while too little is known.
    pub(super) fn delay(&self, stream: bool) -> Option<Duration> {
        self.after.or_else(|| self.state().times(stream).percentile)
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

    /// Learns how long a good answer took to come, or a stream to begin.
    pub(super) fn answered(&self, stream: bool, time: Duration) {
        if self.after.is_none() {
            self.state().times(stream).learn(time);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn times(&mut self, stream: bool) -> &mut Times {
        match stream {
            true => &mut self.streamed,
            false => &mut self.plain,
        }
    }
}

impl Times {
    fn learn(&mut self, time: Duration) {
        if self.last.len() == SAMPLES {
            self.last.pop_front();
        }
        self.last.push_back(time);
        self.new += 1;
        let is_stale = self.percentile.is_none() || self.new >= STEP;
        if self.last.len() < ENOUGH || !is_stale {
            return;
        }
        let mut times: Vec<Duration> = self.last.iter().copied().collect();
        let at = ((times.len() - 1) as f64 * PERCENTILE).round() as usize;
        self.percentile = Some(*times.select_nth_unstable(at).1);
        self.new = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentile_is_known_from_enough_times() {
        let hedge = Hedge::new(0.05, None);
        let learn = |ms| hedge.answered(false, Duration::from_millis(ms));
        for ms in 1..20 {
            learn(ms);
            assert_eq!(hedge.delay(false), None);
        }
        (20..=100).for_each(learn);
        assert_eq!(hedge.delay(false), Some(Duration::from_millis(95)));
        (0..1000).for_each(|_| learn(7));
        assert_eq!(hedge.delay(false), Some(Duration::from_millis(7)));
        assert_eq!(hedge.state().plain.last.len(), SAMPLES);
    }

    #[test]
    fn whole_answers_say_nothing_of_the_beginnings_of_streams() {
        let hedge = Hedge::new(0.05, None);
        (0..50).for_each(|_| hedge.answered(false, Duration::from_secs(20)));
        assert_eq!(hedge.delay(true), None);
        (0..50).for_each(|_| hedge.answered(true, Duration::from_secs(1)));
        assert_eq!(hedge.delay(true), Some(Duration::from_secs(1)));
        assert_eq!(hedge.delay(false), Some(Duration::from_secs(20)));
    }

    #[test]
    fn second_attempts_are_a_share_of_requests() {
        let hedge = Hedge::new(0.05, Some(Duration::from_secs(1)));
        let hedged = (0..1000).filter(|_| {
            hedge.deposit();
            hedge.withdraw()
        });
        let hedged = hedged.count();
        assert!((49..=50).contains(&hedged), "{hedged}");
    }
}
