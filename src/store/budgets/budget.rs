//! What a budget is, and the time that it is for.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::tz::Offset;

use crate::money::Nanos;

/// What may be used in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// How much.
    pub limit: Limit,
    /// In what time.
    pub per: Period,
    /// Where that time begins.
    pub window: Window,
    /// From how many thousandths of it on clients are warned.
    pub warn_at_thousandths: u32,
}

/// How much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// US dollars, as far as prices are known.
    Money(Nanos),
    /// Tokens of every class.
    Tokens(u64),
}

/// In what time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Period {
    /// A day, or 24 hours.
    Day,
    /// A month, or 30 days.
    Month,
    /// For ever.
    Total,
}

/// Where the time begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Window {
    /// At midnight, UTC, of the day or of the month's first day.
    Calendar,
    /// So long ago.
    Rolling,
}

/// Whose budget it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// A key's, by its name.
    Key(Arc<str>),
    /// A team's, by its name.
    Team(Arc<str>),
}

/// What a call may use, or has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Tokens of every class.
    pub tokens: u64,
    /// What they cost; nothing where the price is not known.
    pub cost: Nanos,
}

// === impl Budget ===

impl Budget {
    /// Returns its size, in nano-dollars or tokens.
    pub fn size(&self) -> u64 {
        match self.limit {
            Limit::Money(amount) => amount.get(),
            Limit::Tokens(tokens) => tokens,
        }
    }

    pub(super) fn of(&self, amount: &Amount) -> u64 {
        match self.limit {
            Limit::Money(_) => amount.cost.get(),
            Limit::Tokens(_) => amount.tokens,
        }
    }

    /// Returns the start of the period that `now` is in, and of the next one.
    pub(super) fn calendar(&self, now: Timestamp) -> Option<(Timestamp, Timestamp)> {
        if self.window == Window::Rolling {
            return None;
        }
        let today = Offset::UTC.to_datetime(now).date();
        let midnight = |date: Date| {
            let midnight = date.to_datetime(Time::midnight());
            Offset::UTC.to_timestamp(midnight).ok()
        };
        match self.per {
            Period::Day => Some((midnight(today)?, midnight(today.tomorrow().ok()?)?)),
            Period::Month => Some((
                midnight(today.first_of_month())?,
                midnight(today.last_of_month().tomorrow().ok()?)?,
            )),
            Period::Total => None,
        }
    }

    /// Returns when the calendar's period began that `now` is in, in seconds; 0 where there is none.
    pub(super) fn period(&self, now: Timestamp) -> i64 {
        self.calendar(now).map_or(0, |(start, _)| start.as_second())
    }

    pub(super) fn length(&self) -> Option<Duration> {
        match self.per {
            Period::Day => Some(Duration::from_secs(24 * 3600)),
            Period::Month => Some(Duration::from_secs(30 * 24 * 3600)),
            Period::Total => None,
        }
    }

    /// Returns from when on use counts.
    pub(super) fn since(&self, now: Timestamp) -> Timestamp {
        let rolling = || now.checked_sub(self.length()?).ok();
        let calendar = self.calendar(now).map(|(start, _)| start);
        calendar.or_else(rolling).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// Returns the bucket that a time falls into. Rolling windows forget a bucket at a time: a quarter of an hour of a
    /// day, six hours of a month.
    pub(super) fn bucket(&self, time: Timestamp) -> i64 {
        let seconds = time.as_second();
        match (self.window, self.per) {
            (Window::Rolling, Period::Day) => seconds - seconds.rem_euclid(900),
            (Window::Rolling, Period::Month) => seconds - seconds.rem_euclid(6 * 3600),
            _ => self.since(time).as_second(),
        }
    }

    /// Returns what gateways that share it call it: the same for budgets that [count the same](Self::counts_as). The name,
    /// which may hold anything, stands last.
    pub(super) fn shared_name(&self, holder: &Holder) -> String {
        let unit = match self.limit {
            Limit::Money(_) => "money",
            Limit::Tokens(_) => "tokens",
        };
        let window = match self.window {
            Window::Calendar => "calendar",
            Window::Rolling => "rolling",
        };
        let (per, kind, name) = (self.per.as_str(), holder.kind(), holder.name());
        format!("{unit}:{per}:{window}:{kind}:{name}")
    }

    /// Returns its time as one word, for the label `per`: two budgets of one holder and unit that are both counted differ in it.
    pub fn time(&self) -> &'static str {
        match (self.per, self.window) {
            (Period::Day, Window::Rolling) => "rolling day",
            (Period::Month, Window::Rolling) => "rolling month",
            (per, _) => per.as_str(),
        }
    }

    /// Returns whether two budgets count the same, whatever their limits are.
    pub fn counts_as(&self, other: &Self) -> bool {
        let unit = |budget: &Self| matches!(budget.limit, Limit::Money(_));
        self.per == other.per && self.window == other.window && unit(self) == unit(other)
    }
}

/// `50.00 USD a month`, `5000000 tokens a day`.
impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.limit {
            Limit::Money(amount) => write!(f, "{amount} USD")?,
            Limit::Tokens(tokens) => write!(f, "{tokens} tokens")?,
        }
        f.write_str(match (self.per, self.window) {
            (Period::Day, Window::Calendar) => " a day",
            (Period::Day, Window::Rolling) => " in 24 hours",
            (Period::Month, Window::Calendar) => " a month",
            (Period::Month, Window::Rolling) => " in 30 days",
            (Period::Total, _) => " in total",
        })
    }
}

impl Period {
    /// Returns the word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
            Self::Total => "total",
        }
    }
}

impl Holder {
    /// Returns `key` or `team`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Team(_) => "team",
        }
    }

    /// Returns its name.
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Key(name) | Self::Team(name) => name,
        }
    }
}
