//! Wrong admin tokens.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the log hears of them, at the most.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// What is known of wrong tokens.
#[derive(Default)]
pub(super) struct Guesses {
    told: Mutex<Option<Instant>>,
}

impl Guesses {
    /// Tells the log of a wrong token, unless it has heard of one within a minute.
    pub(super) fn note(&self, peer: Option<SocketAddr>) {
        if self.is_due(Instant::now()) {
            let peer = peer.map(tracing::field::display);
            tracing::warn!(
                peer,
                "a wrong admin token was refused; more within a minute are only counted, in weir_admin_refused_total"
            );
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = told.is_none_or(|told| now.saturating_duration_since(told) >= TOLD_EVERY);
        if is_due {
            *told = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_hears_of_one_a_minute() {
        let guesses = Guesses::default();
        let start = Instant::now();
        let due = [0, 1, 59, 60, 61, 119, 120]
            .map(|second| guesses.is_due(start + Duration::from_secs(second)));
        assert_eq!(due, [true, false, false, true, false, false, true]);
    }
}
