//! Durations and sizes as people write them: `30s`, `1m30s`, `32MiB`.

use std::time::Duration;

/// Why a text is no duration or no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Nothing counts.
    #[error("has no number before its unit")]
    NoNumber,
    /// A number alone could mean anything.
    #[error("has no unit")]
    NoUnit,
    /// No such unit, or not in this place.
    #[error("has a unit that is not known")]
    UnknownUnit,
    /// More than a number holds.
    #[error("is too large")]
    TooLarge,
}

/// Reads a duration: whole numbers with the units ms, s, m, h and d, the greater first.
///
/// # Errors
/// [`UnitError`] for what is none.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let mut rest = text;
    let mut total = 0_u64;
    let mut last = u64::MAX;
    loop {
        let (number, unit, behind) = split_unit(rest)?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(UnitError::UnknownUnit),
        };
        if millis >= last {
            return Err(UnitError::UnknownUnit);
        }
        last = millis;
        total = number
            .checked_mul(millis)
            .and_then(|part| total.checked_add(part))
            .ok_or(UnitError::TooLarge)?;
        if behind.is_empty() {
            return Ok(Duration::from_millis(total));
        }
        rest = behind;
    }
}

/// Reads a size in bytes: a whole number with a unit of 1024 (KiB, MiB, GiB, TiB) or of 1000 (kB, MB, GB, TB), or B.
///
/// # Errors
/// [`UnitError`] for what is none.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let (number, unit, behind) = split_unit(text)?;
    let bytes: u64 = match unit {
        "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(UnitError::UnknownUnit),
    };
    if !behind.is_empty() {
        return Err(UnitError::UnknownUnit);
    }
    number.checked_mul(bytes).ok_or(UnitError::TooLarge)
}

/// Writes a duration so that [`parse_duration`] reads it again.
pub fn format_duration(duration: Duration) -> String {
    let units = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ];
    format_in(duration.as_millis(), &units, "0s")
}

/// Writes a size so that [`parse_size`] reads it again.
pub fn format_size(bytes: u64) -> String {
    let units = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
        ("B", 1),
    ];
    format_in(u128::from(bytes), &units, "0B")
}

/// Writes an amount in the greatest unit that leaves no fraction.
fn format_in(amount: u128, units: &[(&str, u128)], zero: &str) -> String {
    units
        .iter()
        .find(|(_, size)| amount != 0 && amount.is_multiple_of(*size))
        .map_or_else(
            || zero.to_owned(),
            |(unit, size)| format!("{}{unit}", amount / size),
        )
}

/// Splits a text into its first number, the letters behind it, and the rest.
fn split_unit(text: &str) -> Result<(u64, &str, &str), UnitError> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, rest) = text.split_at(digits);
    if number.is_empty() {
        return Err(UnitError::NoNumber);
    }
    let number = number.parse().map_err(|_| UnitError::TooLarge)?;
    let letters = rest.len() - rest.trim_start_matches(|c: char| !c.is_ascii_digit()).len();
    let (unit, rest) = rest.split_at(letters);
    if unit.is_empty() {
        return Err(UnitError::NoUnit);
    }
    Ok((number, unit, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("30s", Ok(Duration::from_secs(30))),
            ("200ms", Ok(Duration::from_millis(200))),
            ("1m30s", Ok(Duration::from_secs(90))),
            ("1h", Ok(Duration::from_secs(3600))),
            ("2d", Ok(Duration::from_secs(172_800))),
            ("0s", Ok(Duration::ZERO)),
            ("", Err(UnitError::NoNumber)),
            ("s", Err(UnitError::NoNumber)),
            ("-1s", Err(UnitError::NoNumber)),
            ("5", Err(UnitError::NoUnit)),
            ("5 s", Err(UnitError::UnknownUnit)),
            ("5S", Err(UnitError::UnknownUnit)),
            ("1.5s", Err(UnitError::UnknownUnit)),
            ("30s1m", Err(UnitError::UnknownUnit)),
            ("99999999999999999999s", Err(UnitError::TooLarge)),
            ("9999999999999999999d", Err(UnitError::TooLarge)),
        ] {
            assert_eq!(parse_duration(text), expected, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("25MiB", Ok(25 << 20)),
            ("25MB", Ok(25_000_000)),
            ("1GiB", Ok(1 << 30)),
            ("8KiB", Ok(8192)),
            ("100B", Ok(100)),
            ("100", Err(UnitError::NoUnit)),
            ("1M", Err(UnitError::UnknownUnit)),
            ("1mib", Err(UnitError::UnknownUnit)),
            ("1MiB2KiB", Err(UnitError::UnknownUnit)),
            ("MiB", Err(UnitError::NoNumber)),
            ("99999999999TiB", Err(UnitError::TooLarge)),
        ] {
            assert_eq!(parse_size(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(millis in 0..u64::MAX / 2) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
            prop_assert_eq!(parse_size(&format_size(millis)), Ok(millis));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = (parse_duration(&text), parse_size(&text));
        }
    }
}
