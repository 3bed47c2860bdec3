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
}

/// An age that cannot be told from for ever (RFC 9111, section 1.2.2).
const LONGEST: u64 = 1 << 31;

impl Control {
    /// Reads all lines of the header. Of several ages the least counts, and one that is none is none at all: the answer
    /// must be new. Directives that mean nothing here are passed over.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut control = Self::default();
        for value in headers.get_all(header::CACHE_CONTROL) {
            // What is not even text says nothing.
            let Ok(text) = value.to_str() else {
                continue;
            };
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
                        let seconds = argument.and_then(seconds).unwrap_or(0);
                        let age = Duration::from_secs(seconds.min(LONGEST));
                        control.max_age = Some(control.max_age.map_or(age, |other| other.min(age)));
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
    fn the_least_age_counts() {
        let age = |lines: &[&'static str]| of(lines).max_age.map(|age| age.as_secs());
        assert_eq!(age(&["max-age=60, max-age=5", "max-age=\"9\""]), Some(5));
        assert_eq!(age(&["max-age=99999999999999999999999999"]), Some(LONGEST));
        assert!(of(&["max-age=60"]).asks());
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
