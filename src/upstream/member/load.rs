//! How slow and how busy an endpoint is: peak-sensitive EWMA of its time to the first byte, times its calls in flight.
//!
//! The measure is that of Finagle's `PeakEwma`: a slower answer counts at once, faster ones only in the course of
//! time. tower's `load::PeakEwma` measures until a call is done, which for a stream is a matter of its length; here the
//! first byte counts, and the call stays in flight until its end.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long an old latency is remembered (the time constant of the decay).
const DECAY: Duration = Duration::from_secs(10);

/// What a failure counts as, however fast it came: an endpoint that fails at once must not look like the best one.
const FAILURE: Duration = Duration::from_secs(1);

/// The load of one endpoint.
#[derive(Debug, Default)]
pub struct Load {
    in_flight: AtomicU32,
    latency: Mutex<Latency>,
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

    /// Learns how long an answer took to begin.
    pub fn answered(&self, latency: Duration, failed: bool, now: Instant) {
        let latency = if failed {
            latency.max(FAILURE)
        } else {
            latency
        };
        let mut known = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
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
        let mut known = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = waited.as_secs_f64();
        if seconds > known.decayed(now) {
            known.seconds = seconds;
            known.at = Some(now);
        }
    }

    /// Returns the cost of one more call. An endpoint that nothing is known of costs nothing: it is tried.
    pub fn cost(&self, now: Instant) -> f64 {
        let latency = self
            .latency
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .decayed(now);
        // Never zero, so that the calls in flight tell even new endpoints apart.
        latency.max(1e-6) * f64::from(self.in_flight.load(Ordering::Relaxed) + 1)
    }

    /// Returns the calls in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
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
    fn a_fast_failure_is_no_good_latency() {
        let (load, now) = (Load::default(), Instant::now());
        load.answered(MS, true, now);
        assert!(load.cost(now) >= 1.0);
    }
}
