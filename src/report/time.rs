//! Times as people write them.

use std::cmp::Ordering;

use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::tz::Offset;

/// Reads an instant of RFC 3339, a date (its first moment, UTC) or seconds since 1970.
///
/// # Errors
/// What would be right.
pub fn parse_time(text: &str) -> Result<Timestamp, String> {
    let read = || {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return Timestamp::from_second(text.parse().ok()?).ok();
        }
        if text.len() == "2026-11-25".len() {
            let date: Date = text.parse().ok()?;
            return Offset::UTC
                .to_timestamp(date.to_datetime(Time::midnight()))
                .ok();
        }
        // In a query a plus that was not encoded arrives as a space.
        let with_plus = || {
            text.rsplit_once(' ')
                .map(|(time, offset)| format!("{time}+{offset}"))
        };
        text.parse().ok().or_else(|| with_plus()?.parse().ok())
    };
    read().ok_or_else(|| {
        "is no time; write such as 2026-11-25T21:00:00Z, 2026-11-25 or 1795640400".to_owned()
    })
}

/// Checks that time lies between the ends of a report. `from_name` is how the user wrote the first one.
///
/// # Errors
/// What is to be said of the second one.
pub fn check_span(
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    from_name: &str,
) -> Result<(), String> {
    let Some((from, to)) = from.zip(to) else {
        return Ok(());
    };
    match to.cmp(&from) {
        Ordering::Greater => Ok(()),
        Ordering::Equal => Err(format!(
            "is {from_name}, and what arrives then is not counted any more: no time lies between them"
        )),
        Ordering::Less => Err(format!("lies before {from_name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        let time = |second| Timestamp::from_second(second).ok();
        assert_eq!(check_span(time(1), time(2), "`from`"), Ok(()));
        assert_eq!(check_span(None, time(0), "`from`"), Ok(()));
        assert_eq!(check_span(time(9), None, "`from`"), Ok(()));
        let empty = check_span(time(1), time(1), "`from`").unwrap_err();
        assert!(empty.starts_with("is `from`, "), "{empty}");
        let backwards = check_span(time(2), time(1), "--from");
        assert_eq!(backwards, Err("lies before --from".to_owned()));
    }

    #[test]
    fn times() {
        for (text, expected) in [
            ("2026-11-25", Some("2026-11-25T00:00:00Z")),
            ("2026-11-25T21:00:00Z", Some("2026-11-25T21:00:00Z")),
            ("2026-11-25T21:00:00+02:00", Some("2026-11-25T19:00:00Z")),
            ("2026-11-25T21:00:00 02:00", Some("2026-11-25T19:00:00Z")),
            ("0", Some("1970-01-01T00:00:00Z")),
            ("1795640400", Some("2026-11-25T21:00:00Z")),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("2026-13-01", None),
            ("2026-02-30", None),
            ("2026-11-25T21:00:00", None),
            ("yesterday", None),
            ("99999999999999999999", None),
            ("9999999999999", None),
        ] {
            let read = parse_time(text).ok().map(|time| time.to_string());
            assert_eq!(read.as_deref(), expected, "{text}");
        }
    }
}
