//! Money: a whole number of nano-dollars, and never a float. A float cannot hold a tenth of a cent, and sums of such
//! errors are what auditors find.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Nano-dollars in a dollar.
const DOLLAR: u64 = 1_000_000_000;
/// Digits behind the point that a nano-dollar is the last of.
const DECIMALS: usize = 9;
/// Digits behind the point that are always written, as for any money.
const FEWEST_DECIMALS: usize = 2;

/// An amount of US dollars, in billionths. It is never negative and never wraps: what would be more than [`Nanos::MAX`]
/// is that, and what would be less than nothing is nothing.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Nanos(u64);

/// Why a text is no amount of money.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Anything but digits and one point among them: exponents, thousands' separators, currencies.
    #[error("is no decimal number")]
    NotDecimal,
    /// Nobody is paid for asking.
    #[error("is negative")]
    Negative,
    /// A part of a nano-dollar would be lost.
    #[error("has more than {DECIMALS} decimals")]
    TooFine,
    /// More than anybody owes.
    #[error("is too large")]
    TooLarge,
}

// === impl Nanos ===

impl Nanos {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The largest amount, a little over nine billion dollars: what an integer of a database holds.
    pub const MAX: Self = Self(i64::MAX as u64);

    /// Returns so many nano-dollars, [`Nanos::MAX`] at the most.
    pub const fn new(nanos: u64) -> Self {
        if nanos > Self::MAX.0 {
            Self::MAX
        } else {
            Self(nanos)
        }
    }

    /// Returns so many whole dollars, [`Nanos::MAX`] at the most.
    pub const fn dollars(dollars: u64) -> Self {
        Self::new(dollars.saturating_mul(DOLLAR))
    }

    /// Returns the number of nano-dollars.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the number of nano-dollars as databases hold it.
    pub const fn to_i64(self) -> i64 {
        self.0.cast_signed()
    }

    /// Returns an amount from a database, where nobody ever wrote a negative one.
    pub fn from_i64(nanos: i64) -> Self {
        Self(u64::try_from(nanos).unwrap_or(0))
    }

    /// Returns whether it is nothing.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Adds, up to [`Nanos::MAX`].
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self::new(self.0.saturating_add(other.0))
    }

    /// Subtracts, down to nothing: what is left of a budget.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl std::iter::Sum for Nanos {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Self::saturating_add)
    }
}

/// Writes dollars as a decimal number, exactly and without a currency: two digits behind the point, and as many more as
/// the amount has. `50.00`, `0.15`, `0.001234`.
impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut fraction, mut width) = (self.0 % DOLLAR, DECIMALS);
        while width > FEWEST_DECIMALS && fraction.is_multiple_of(10) {
            fraction /= 10;
            width -= 1;
        }
        f.pad(&format!("{}.{fraction:0width$}", self.0 / DOLLAR))
    }
}

/// Reads dollars as a decimal number, exactly: digits, and perhaps a point and up to nine digits more.
impl FromStr for Nanos {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Self, MoneyError> {
        if text.starts_with('-') {
            return Err(MoneyError::Negative);
        }
        let (whole, fraction) = match text.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (text, None),
        };
        let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !is_digits(whole) || !fraction.is_none_or(is_digits) {
            return Err(MoneyError::NotDecimal);
        }
        let fraction = fraction.unwrap_or("");
        if fraction.len() > DECIMALS {
            return Err(MoneyError::TooFine);
        }
        // Padded to nanos, so that both are whole numbers; nine digits always fit.
        let nanos: u64 = format!("{fraction:0<DECIMALS$}")
            .parse()
            .map_err(|_| MoneyError::NotDecimal)?;
        whole
            .parse::<u64>()
            .ok()
            .and_then(|whole| whole.checked_mul(DOLLAR)?.checked_add(nanos))
            .filter(|nanos| *nanos <= Self::MAX.0)
            .map(Self)
            .ok_or(MoneyError::TooLarge)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_and_writes_table() {
        for (text, nanos, written) in [
            ("0", 0, "0.00"),
            ("50", 50 * DOLLAR, "50.00"),
            ("0.15", 150_000_000, "0.15"),
            ("0.1", 100_000_000, "0.10"),
            ("00.100", 100_000_000, "0.10"),
            ("0.001234", 1_234_000, "0.001234"),
            ("0.000000001", 1, "0.000000001"),
            ("1.000000010", DOLLAR + 10, "1.00000001"),
            ("9223372036.854775807", u64::MAX / 2, "9223372036.854775807"),
        ] {
            let money: Nanos = text.parse().unwrap();
            assert_eq!(money.get(), nanos, "{text}");
            assert_eq!(money.to_string(), written);
        }
    }

    #[test]
    fn what_is_no_money() {
        for (text, expected) in [
            ("", MoneyError::NotDecimal),
            (".", MoneyError::NotDecimal),
            (".5", MoneyError::NotDecimal),
            ("5.", MoneyError::NotDecimal),
            ("-1", MoneyError::Negative),
            ("+1", MoneyError::NotDecimal),
            ("1e3", MoneyError::NotDecimal),
            ("1_000", MoneyError::NotDecimal),
            ("1,5", MoneyError::NotDecimal),
            ("1.2.3", MoneyError::NotDecimal),
            (" 1", MoneyError::NotDecimal),
            ("$1", MoneyError::NotDecimal),
            ("nan", MoneyError::NotDecimal),
            ("٣", MoneyError::NotDecimal),
            ("0.0000000001", MoneyError::TooFine),
            ("0.1000000000", MoneyError::TooFine),
            ("9223372036.854775808", MoneyError::TooLarge),
            ("99999999999999999999999", MoneyError::TooLarge),
        ] {
            assert_eq!(text.parse::<Nanos>(), Err(expected), "{text}");
        }
    }

    #[test]
    fn sums_end_at_the_ends() {
        let most = Nanos::MAX;
        assert_eq!(most.saturating_add(Nanos::new(1)), most);
        assert_eq!(Nanos::new(u64::MAX), most);
        assert_eq!(Nanos::dollars(u64::MAX), most);
        assert_eq!(Nanos::ZERO.saturating_sub(most), Nanos::ZERO);
        assert_eq!([most, most].into_iter().sum::<Nanos>(), most);
        assert_eq!(Nanos::from_i64(-1), Nanos::ZERO);
        assert_eq!(Nanos::from_i64(most.to_i64()), most);
        assert_eq!(format!("{:>8}", Nanos::dollars(2)), "    2.00");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(nanos in 0..=Nanos::MAX.get()) {
            let money = Nanos::new(nanos);
            prop_assert_eq!(money.to_string().parse(), Ok(money));
            prop_assert_eq!(Nanos::from_i64(money.to_i64()), money);
        }

        #[test]
        fn no_text_panics(text in ".*", number in "[0-9]{0,25}\\.?[0-9]{0,12}") {
            let _ = (text.parse::<Nanos>(), number.parse::<Nanos>());
        }
    }
}
