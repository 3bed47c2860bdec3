//! How slow and how busy an endpoint is: peak-sensitive EWMA of its time to the first byte, times its calls in flight.
//!
//! The measure is that of Finagle's `PeakEwma`: a slower answer counts at once, faster ones only in the course of
//! time. tower's `load::PeakEwma` measures until a call is done, which for a stream is a matter of its length; here the
//! first byte counts, and the call stays in flight until its end.
//!
//! Calls that wait for their first byte count as well: an endpoint that hangs says nothing, and is slower with each moment
//! that it says so.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long an old latency is remembered (the time constant of the decay).
const DECAY: Duration = Duration::from_secs(10);

/// What a failure counts as, however fast it came: an endpoint that fails at once must not look like the best one.
const FAILURE: Duration = Duration::from_secs(1);

/// What an endpoint counts as of which nothing is known but that somebody waits there: more calls would learn no more than
/// that one.
const UNKNOWN: Duration = Duration::from_secs(60);

/// The load of one endpoint.
#[derive(Debug, Default)]
pub struct Load {
    in_flight: AtomicU32,
    state: Mutex<State>,
}

/// A call that waits for its first byte, for its endpoint to know it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wait(u64);

#[derive(Debug, Default)]
struct State {
    latency: Latency,
    /// Calls that wait, the oldest first, and since when.
    waiting: BTreeMap<Wait, Instant>,
    waits: u64,
}

#[derive(Debug, Default)]
struct Latency {
    seconds: f64,
    at: Option<Instant>,
}

impl Load {
    /// Counts a call in.
    pub fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a call out.
    pub fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Notes that a call waits for its first byte.
    pub fn wait(&self, now: Instant) -> Wait {
        let mut state = self.state();
        state.waits += 1;
        let wait = Wait(state.waits);
        state.waiting.insert(wait, now);
        wait
    }

    /// Notes that a call does not wait any more.
    pub fn waited(&self, wait: Wait) {
        self.state().waiting.remove(&wait);
    }

    /// Learns how long an answer took to begin.
    pub fn answered(&self, latency: Duration, failed: bool, now: Instant) {
        let latency = if failed {
            latency.max(FAILURE)
        } else {
            latency
        };
        let known = &mut self.state().latency;
        let seconds = latency.as_secs_f64();
        let current = known.decayed(now);
        known.seconds = if seconds >= current || known.at.is_none() {
            seconds
        } else {
            let weight = known.weight(now);
            known.seconds * weight + seconds * (1.0 - weight)
        };
        known.at = Some(now);
    }

    /// Learns that an answer would have taken longer than this.
    pub fn at_least(&self, waited: Duration, now: Instant) {
        let known = &mut self.state().latency;
        let seconds = waited.as_secs_f64();
        if seconds > known.decayed(now) {
            known.seconds = seconds;
            known.at = Some(now);
        }
    }

    /// Returns the cost of one more call. An endpoint that nothing is known of costs nothing: it is tried.
    pub fn cost(&self, now: Instant) -> f64 {
        let latency = self.state().latency(now);
        // Never zero, so that the calls in flight tell even new endpoints apart.
        latency.max(1e-6) * f64::from(self.in_flight.load(Ordering::Relaxed) + 1)
    }

    /// Returns the calls in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns the latency to expect: no less than what somebody has waited for in vain, and nothing is forgotten
    /// meanwhile.
    fn latency(&self, now: Instant) -> f64 {
        let Some((_, oldest)) = self.waiting.first_key_value() else {
            return self.latency.decayed(now);
        };
        let known = match self.latency.at {
            Some(_) => self.latency.seconds,
            None => UNKNOWN.as_secs_f64(),
        };
        known.max(now.saturating_duration_since(*oldest).as_secs_f64())
    }
}

impl Latency {
    fn weight(&self, now: Instant) -> f64 {
        let age = self
            .at
            .map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        (-age.as_secs_f64() / DECAY.as_secs_f64()).exp()
    }

    /// What is not asked for long is tried again.
    fn decayed(&self, now: Instant) -> f64 {
        self.seconds * self.weight(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_slow_answer_counts_at_once_and_is_forgotten_slowly() {
        let (load, start) = (Load::default(), Instant::now());
        load.answered(10 * MS, false, start);
        load.answered(500 * MS, false, start);
        assert!((load.cost(start) - 0.5).abs() < 1e-9);
        let later = start + Duration::from_secs(1);
        load.answered(10 * MS, false, later);
        assert!(load.cost(later) > 0.4);
        assert!(load.cost(later + Duration::from_secs(60)) < 0.01);
    }

    #[test]
    fn calls_in_flight_multiply_the_cost() {
        let (load, now) = (Load::default(), Instant::now());
        load.answered(10 * MS, false, now);
        load.begin();
        load.begin();
        assert!((load.cost(now) - 0.03).abs() < 1e-9);
        load.end();
        load.end();
        assert_eq!(load.in_flight(), 0);
    }

    #[test]
    fn a_wait_in_vain_is_the_least_latency() {
        let (load, now) = (Load::default(), Instant::now());
        load.answered(500 * MS, false, now);
        load.at_least(10 * MS, now);
        assert!((load.cost(now) - 0.5).abs() < 1e-9);
        load.at_least(800 * MS, now);
        assert!((load.cost(now) - 0.8).abs() < 1e-9);
    }

    #[test]
    fn a_call_that_waits_is_as_slow_as_it_has_waited() {
        let (load, start) = (Load::default(), Instant::now());
        load.answered(10 * MS, false, start);
        let (first, second) = (load.wait(start), load.wait(start + 500 * MS));
        assert!((load.cost(start) - 0.01).abs() < 1e-9);
        let later = start + Duration::from_secs(60);
        assert!((load.cost(later) - 60.0).abs() < 1e-9);
        load.waited(first);
        assert!((load.cost(later) - 59.5).abs() < 1e-9);
        load.waited(second);
        assert!(load.cost(later) < 0.01);
    }

    #[test]
    fn nothing_is_forgotten_while_somebody_waits() {
        let (load, start) = (Load::default(), Instant::now());
        load.answered(Duration::from_secs(50), false, start);
        let later = start + Duration::from_secs(40);
        load.wait(later);
        assert!((load.cost(later) - 50.0).abs() < 1e-9);
    }

    #[test]
    fn nobody_else_is_sent_where_the_first_call_has_no_answer_yet() {
        let (load, now) = (Load::default(), Instant::now());
        assert!(load.cost(now) < 1e-3, "it is tried");
        load.wait(now);
        assert!(load.cost(now) >= 60.0);
    }

    #[test]
    fn a_fast_failure_is_no_good_latency() {
        let (load, now) = (Load::default(), Instant::now());
        load.answered(MS, true, now);
        assert!(load.cost(now) >= 1.0);
    }
}
