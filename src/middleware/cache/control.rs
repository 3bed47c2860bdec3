//! What a request says of caching: `Cache-Control` (RFC 9111, section 5.2.1), as far as it means something here.

use std::time::Duration;

use http::{HeaderMap, header};

/// What a request says of caching.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Control {
    /// `no-store`: neither look nor keep.
    pub(super) no_store: bool,
    /// `no-cache`: ask the upstream, and keep its answer.
    pub(super) no_cache: bool,
    /// `only-if-cached`: ask no upstream.
    pub(super) only_if_cached: bool,
    /// `max-age`: take no older answer, and keep this one at least so long.
    pub(super) max_age: Option<Duration>,
    /// `min-fresh`: take none that is not good for so long.
    pub(super) min_fresh: Duration,
    /// `stale-if-error` (RFC 5861, section 4): where the upstream fails, take none that is stale for longer.
    pub(super) stale_if_error: Option<Duration>,
}

/// An age that cannot be told from for ever (RFC 9111, section 1.2.2).
const LONGEST: u64 = 1 << 31;

impl Control {
    /// Reads all lines of the header. Where directives contradict each other, the stricter one counts: `no-store` before
    /// all, `no-cache` before any age; of several ages the least, and one that is none is none at all: the answer must be
    /// new. Directives that mean nothing here are passed over.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut control = Self::default();
        for value in headers.get_all(header::CACHE_CONTROL) {
            // What is not even text says nothing, and takes nothing of what stands beside it.
            let text = String::from_utf8_lossy(value.as_bytes());
            for directive in text.split(',') {
                let (name, argument) = match directive.split_once('=') {
                    Some((name, argument)) => (name.trim(), Some(argument.trim())),
                    None => (directive.trim(), None),
                };
                match name.to_ascii_lowercase().as_str() {
                    "no-store" => control.no_store = true,
                    "no-cache" => control.no_cache = true,
                    "only-if-cached" => control.only_if_cached = true,
                    "max-age" => {
                        let age = time(argument).unwrap_or_default();
                        control.max_age = Some(control.max_age.map_or(age, |other| other.min(age)));
                    }
                    "min-fresh" => {
                        // One that is no time is longer than any answer is good for.
                        let time = time(argument).unwrap_or(Duration::MAX);
                        control.min_fresh = control.min_fresh.max(time);
                    }
                    "stale-if-error" => {
                        let time = time(argument).unwrap_or_default();
                        let known = control.stale_if_error.unwrap_or(Duration::MAX);
                        control.stale_if_error = Some(known.min(time));
                    }
                    _ => {}
                }
            }
        }
        // Nothing is ever younger than that.
        control.no_cache |= control.max_age == Some(Duration::ZERO);
        control
    }

    /// Returns whether the request asks for its answer to be kept.
    pub(super) fn asks(&self) -> bool {
        self.max_age.is_some_and(|age| !age.is_zero())
    }
}

fn time(argument: Option<&str>) -> Option<Duration> {
    let seconds = argument.and_then(seconds)?;
    Some(Duration::from_secs(seconds.min(LONGEST)))
}

/// Reads delta-seconds, quoted or not; more than fits is more than anybody waits.
fn seconds(text: &str) -> Option<u64> {
    let text = text.trim_matches('"');
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(lines: &[&'static str]) -> Control {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::CACHE_CONTROL, HeaderValue::from_static(line));
        }
        Control::of(&headers)
    }

    #[test]
    fn directives_count_in_any_case_and_any_line() {
        let control = of(&["No-Cache , foo=bar", "ONLY-IF-CACHED,no-store"]);
        assert!(control.no_cache && control.only_if_cached && control.no_store);
        assert_eq!(of(&["max-stale=5, private"]), Control::default());
        assert_eq!(of(&[]), Control::default());
    }

    #[test]
    fn what_is_no_text_takes_nothing_of_what_stands_beside_it() {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_bytes(b"\xc3\xa9\xff, no-store").unwrap();
        headers.append(header::CACHE_CONTROL, value);
        assert!(Control::of(&headers).no_store);
    }

    #[test]
    fn the_least_age_counts() {
        let age = |lines: &[&'static str]| of(lines).max_age.map(|age| age.as_secs());
        assert_eq!(age(&["max-age=60, max-age=5", "max-age=\"9\""]), Some(5));
        assert_eq!(age(&["max-age=99999999999999999999999999"]), Some(LONGEST));
        assert!(of(&["max-age=60"]).asks());
    }

    #[test]
    fn of_what_contradicts_itself_the_stricter_counts() {
        let control = of(&["max-age=60, no-cache", "max-age=3600"]);
        assert!(control.no_cache && control.asks(), "asked anew, and kept");
        assert_eq!(control.max_age, Some(Duration::from_secs(60)));
        let control = of(&["no-store, max-age=60, only-if-cached"]);
        assert!(control.no_store && control.only_if_cached);
        let control = of(&["min-fresh=5, min-fresh=60, stale-if-error=9, stale-if-error=1"]);
        assert_eq!(control.min_fresh, Duration::from_secs(60));
        assert_eq!(control.stale_if_error, Some(Duration::from_secs(1)));
        assert_eq!(of(&["min-fresh=soon"]).min_fresh, Duration::MAX);
        let none = of(&["stale-if-error"]).stale_if_error;
        assert_eq!(none, Some(Duration::ZERO));
    }

    #[test]
    fn an_age_that_is_none_asks_for_a_new_answer() {
        for line in [
            "max-age=0",
            "max-age=-1",
            "max-age",
            "max-age=soon",
            "max-age=1.5",
            "max-age=\"\"",
        ] {
            let control = of(&[line]);
            assert!(control.no_cache && !control.asks(), "{line}");
        }
    }
}
