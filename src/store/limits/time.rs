//! When something happens, and how long is to be waited for it.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;

/// A moment, in whole microseconds since a beginning that whoever counts has in common: this process's first look at
/// its clock, or the epoch of a server's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(u64);

impl Time {
    /// Reads this process's clock, which never goes backwards.
    pub fn now() -> Self {
        static BEGINNING: OnceLock<Instant> = OnceLock::new();
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(*BEGINNING.get_or_init(|| now));
        Self::from_micros(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX))
    }

    /// Returns the moment that is so many microseconds after the beginning.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Returns how many microseconds after the beginning it is.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Returns the moment so long after this one.
    pub(super) fn after(self, duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// Returns the time from an earlier moment to this one in nanoseconds; nothing from a later one.
    pub(super) fn nanos_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0).saturating_mul(1000)
    }
}

/// Returns nanoseconds as a duration in whole microseconds, upwards: whoever waits so long has waited long enough.
pub(super) fn wait(nanos: u64) -> Duration {
    Duration::from_micros(nanos.div_ceil(1000))
}

/// Spells a duration as OpenAI does in `x-ratelimit-reset-*`, which is how Go writes one: `6m0s`, `20ms`, `8.64s`,
/// `1h2m3s`. In milliseconds, upwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spelled(pub Duration);

impl fmt::Display for Spelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_nanos().div_ceil(1_000_000);
        let (seconds, millis) = (millis / 1000, millis % 1000);
        if seconds == 0 && millis > 0 {
            return write!(f, "{millis}ms");
        }
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        write!(f, "{}", seconds % 60)?;
        if millis > 0 {
            let fraction = format!("{millis:03}");
            write!(f, ".{}", fraction.trim_end_matches('0'))?;
        }
        f.write_str("s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_spelled_as_openai_spells_them() {
        for (micros, expected) in [
            (0, "0s"),
            (1, "1ms"),
            (20_000, "20ms"),
            (999_001, "1s"),
            (1_000_000, "1s"),
            (8_640_000, "8.64s"),
            (59_999_999, "1m0s"),
            (86_400_000, "1m26.4s"),
            (360_000_000, "6m0s"),
            (3_600_000_000, "1h0m0s"),
            (3_723_000_000, "1h2m3s"),
            (86_400_000_000, "24h0m0s"),
            (90_061_001_000, "25h1m1.001s"),
        ] {
            let spelled = Spelled(Duration::from_micros(micros)).to_string();
            assert_eq!(spelled, expected);
        }
    }

    #[test]
    fn waits_are_never_too_short() {
        for (nanos, micros) in [(0, 0), (1, 1), (1000, 1), (1001, 2)] {
            assert_eq!(wait(nanos), Duration::from_micros(micros));
        }
    }

    #[test]
    fn the_clock_goes_on() {
        let before = Time::now();
        assert!(Time::now() >= before);
        assert_eq!(Time::from_micros(5).nanos_since(Time::from_micros(7)), 0);
    }
}
