//! What an upstream says in headers about trying again.
//!
//! `retry-after-ms` (milliseconds, as some SDKs read it), `Retry-After` (RFC 9110, section 10.2.3: seconds or a date), and
//! OpenAI's `x-ratelimit-reset-*`, which counts where nothing remains of that limit. Sizes and dates are taken only as
//! far as they make sense; what cannot be read says nothing.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, header};

/// Advice about trying again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// How long to wait, from now on.
    pub wait: Option<Duration>,
    /// `x-should-retry`: whether another try can help at all.
    pub should_retry: Option<bool>,
}

/// Longer waits are a slip, or malice; they are told to the client like any wait that is too long.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

impl Advice {
    /// Reads the headers of an answer that came at `now`.
    pub fn read(headers: &HeaderMap, now: SystemTime) -> Self {
        let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
        let wait = text("retry-after-ms")
            .and_then(|millis| seconds(millis, 1e-3))
            .or_else(|| retry_after(text(header::RETRY_AFTER.as_str())?, now))
            .or_else(|| reset(&text));
        let should_retry = match text("x-should-retry") {
            Some("true") => Some(true),
            Some("false") => Some(false),
            _ => None,
        };
        Self { wait, should_retry }
    }
}

/// Keeps `Retry-After` within what makes sense, where an answer goes to the client: some clients take any number for a
/// time to sleep.
pub fn bound(headers: &mut HeaderMap) {
    let told = headers.get(header::RETRY_AFTER);
    let asked = told.and_then(|value| seconds(value.to_str().ok()?.trim(), 1.0));
    if asked.is_some_and(|asked| asked >= LONGEST) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(LONGEST.as_secs()));
    }
}

/// Reads a number of units, each so many seconds.
fn seconds(text: &str, unit: f64) -> Option<Duration> {
    let number: f64 = text.parse().ok()?;
    let is_plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    (is_plain && number.is_finite()).then(|| {
        Duration::try_from_secs_f64(number * unit).map_or(LONGEST, |wait| wait.min(LONGEST))
    })
}

fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    seconds(text, 1.0).or_else(|| {
        let date = httpdate::parse_http_date(text).ok()?;
        Some(date.duration_since(now).unwrap_or_default().min(LONGEST))
    })
}

/// Reads when a limit of which nothing remains is full again; of two such limits the later.
fn reset<'a>(text: &impl Fn(&str) -> Option<&'a str>) -> Option<Duration> {
    let limits = [
        (
            "x-ratelimit-remaining-requests",
            "x-ratelimit-reset-requests",
        ),
        ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ];
    let spent = limits
        .iter()
        .filter(|(remaining, _)| text(remaining) == Some("0"));
    spent.filter_map(|(_, reset)| spelled(text(reset)?)).max()
}

/// Reads a duration as OpenAI spells it: `6m0s`, `1h2m3.5s`, `20ms`, or bare seconds.
fn spelled(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, tail) = rest.split_at(end.unwrap_or(rest.len()));
        let unit_end = tail.find(|c: char| !c.is_ascii_alphabetic());
        let (unit, tail) = tail.split_at(unit_end.unwrap_or(tail.len()));
        let unit = match unit {
            "ms" => 1e-3,
            "s" | "" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return None,
        };
        sum = sum.saturating_add(seconds(number, unit)?);
        rest = tail;
    }
    (!text.is_empty()).then_some(sum.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(headers: &[(&'static str, &str)]) -> Advice {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let pairs = headers.iter().map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, http::HeaderValue::from_str(value).unwrap())
        });
        Advice::read(&pairs.collect(), now)
    }

    fn wait(headers: &[(&'static str, &str)]) -> Option<u128> {
        read(headers).wait.map(|wait| wait.as_millis())
    }

    #[test]
    fn every_spelling_of_a_wait() {
        assert_eq!(wait(&[("retry-after", "2")]), Some(2000));
        assert_eq!(wait(&[("retry-after", "1.5")]), Some(1500));
        assert_eq!(wait(&[("retry-after", "0")]), Some(0));
        let later = "Sun, 06 Nov 1994 08:49:47 GMT";
        assert_eq!(wait(&[("retry-after", later)]), Some(10_000));
        let past = "Sun, 06 Nov 1994 08:00:00 GMT";
        assert_eq!(wait(&[("retry-after", past)]), Some(0));
        assert_eq!(
            wait(&[("retry-after-ms", "250.5"), ("retry-after", "9")]),
            Some(250)
        );
        for nonsense in ["soon", "-3", "NaN", "inf", "1e3", "", "٣"] {
            assert_eq!(wait(&[("retry-after", nonsense)]), None, "{nonsense}");
        }
        assert_eq!(
            read(&[("retry-after", "99999999999999999999999")]).wait,
            Some(LONGEST)
        );
    }

    #[test]
    fn a_reset_counts_where_nothing_remains() {
        let spent = ("x-ratelimit-remaining-requests", "0");
        for (text, expected) in [
            ("6m0s", Some(360_000)),
            ("20ms", Some(20)),
            ("1h2m3.5s", Some(3_723_500)),
            ("7", Some(7000)),
            ("1y", None),
            ("", None),
        ] {
            assert_eq!(
                wait(&[spent, ("x-ratelimit-reset-requests", text)]),
                expected,
                "{text}"
            );
        }
        let left = ("x-ratelimit-remaining-tokens", "12");
        assert_eq!(wait(&[left, ("x-ratelimit-reset-tokens", "5s")]), None);
        let both = [
            spent,
            ("x-ratelimit-reset-requests", "1s"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "5s"),
        ];
        assert_eq!(wait(&both), Some(5000));
    }

    #[test]
    fn a_wait_beyond_reason_is_bounded_for_the_client() {
        let longest = LONGEST.as_secs().to_string();
        for (told, expected) in [
            ("7", "7"),
            ("1.5", "1.5"),
            ("soon", "soon"),
            ("99999999999999999999", longest.as_str()),
        ] {
            let value = HeaderValue::from_str(told).unwrap();
            let mut headers = HeaderMap::from_iter([(header::RETRY_AFTER, value)]);
            bound(&mut headers);
            assert_eq!(headers[header::RETRY_AFTER], expected);
        }
    }

    #[test]
    fn should_retry_is_true_or_false() {
        assert_eq!(
            read(&[("x-should-retry", "false")]).should_retry,
            Some(false)
        );
        assert_eq!(read(&[("x-should-retry", "true")]).should_retry, Some(true));
        assert_eq!(read(&[("x-should-retry", "maybe")]).should_retry, None);
    }

    proptest! {
        #[test]
        fn no_text_panics_or_waits_for_ever(text in "[ -~]{0,40}") {
            for name in ["retry-after", "retry-after-ms", "x-ratelimit-reset-tokens"] {
                let advice = read(&[(name, &text), ("x-ratelimit-remaining-tokens", "0")]);
                prop_assert!(advice.wait.unwrap_or_default() <= LONGEST);
            }
        }
    }
}
