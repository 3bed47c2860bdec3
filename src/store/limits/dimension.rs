//! What a limit counts, and in what time.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

/// What a limit counts, and in what time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dimension {
    /// `requests_per_minute`
    RequestsPerMinute,
    /// `requests_per_day`
    RequestsPerDay,
    /// `tokens_per_minute`
    TokensPerMinute,
    /// `tokens_per_day`
    TokensPerDay,
    /// `input_tokens_per_minute`
    InputTokensPerMinute,
    /// `input_tokens_per_day`
    InputTokensPerDay,
    /// `output_tokens_per_minute`
    OutputTokensPerMinute,
    /// `output_tokens_per_day`
    OutputTokensPerDay,
    /// `concurrent`
    Concurrent,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Measure {
    /// Requests.
    Requests,
    /// Tokens of prompts and answers.
    Tokens,
    /// Tokens of prompts.
    InputTokens,
    /// Tokens of answers.
    OutputTokens,
    /// Requests under way at once.
    Concurrent,
}

/// Tokens that a call may use, or has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Those of its prompt.
    pub input: u64,
    /// Those of its answer.
    pub output: u64,
}

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Of more, one would come every 99 ns or less, and a nanosecond more or less would be over a hundredth of it.
const MOST_PER_MINUTE: u32 = 600_000_000;

// === impl Dimension ===

impl Dimension {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 9] = [
        Self::RequestsPerMinute,
        Self::RequestsPerDay,
        Self::TokensPerMinute,
        Self::TokensPerDay,
        Self::InputTokensPerMinute,
        Self::InputTokensPerDay,
        Self::OutputTokensPerMinute,
        Self::OutputTokensPerDay,
        Self::Concurrent,
    ];

    /// Returns its name in the configuration, in the admin API and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RequestsPerMinute => "requests_per_minute",
            Self::RequestsPerDay => "requests_per_day",
            Self::TokensPerMinute => "tokens_per_minute",
            Self::TokensPerDay => "tokens_per_day",
            Self::InputTokensPerMinute => "input_tokens_per_minute",
            Self::InputTokensPerDay => "input_tokens_per_day",
            Self::OutputTokensPerMinute => "output_tokens_per_minute",
            Self::OutputTokensPerDay => "output_tokens_per_day",
            Self::Concurrent => "concurrent",
        }
    }

    /// Returns what people call it.
    pub const fn words(self) -> &'static str {
        match self {
            Self::RequestsPerMinute => "requests per minute",
            Self::RequestsPerDay => "requests per day",
            Self::TokensPerMinute => "tokens per minute",
            Self::TokensPerDay => "tokens per day",
            Self::InputTokensPerMinute => "input tokens per minute",
            Self::InputTokensPerDay => "input tokens per day",
            Self::OutputTokensPerMinute => "output tokens per minute",
            Self::OutputTokensPerDay => "output tokens per day",
            Self::Concurrent => "concurrent requests",
        }
    }

    /// Returns what it counts.
    pub const fn measure(self) -> Measure {
        match self {
            Self::RequestsPerMinute | Self::RequestsPerDay => Measure::Requests,
            Self::TokensPerMinute | Self::TokensPerDay => Measure::Tokens,
            Self::InputTokensPerMinute | Self::InputTokensPerDay => Measure::InputTokens,
            Self::OutputTokensPerMinute | Self::OutputTokensPerDay => Measure::OutputTokens,
            Self::Concurrent => Measure::Concurrent,
        }
    }

    /// Returns the time that its number is for; `None`: for each moment.
    pub const fn period(self) -> Option<Duration> {
        match self {
            Self::RequestsPerMinute
            | Self::TokensPerMinute
            | Self::InputTokensPerMinute
            | Self::OutputTokensPerMinute => Some(MINUTE),
            Self::RequestsPerDay
            | Self::TokensPerDay
            | Self::InputTokensPerDay
            | Self::OutputTokensPerDay => Some(DAY),
            Self::Concurrent => None,
        }
    }

    /// Returns which numbers can be its limit.
    pub fn range(self) -> RangeInclusive<u64> {
        let is_of_a_minute = self.period() == Some(MINUTE);
        let most = if is_of_a_minute {
            MOST_PER_MINUTE
        } else {
            u32::MAX
        };
        1..=u64::from(most)
    }

    /// Returns a number as its limit, where it can be that.
    pub fn size(self, number: u64) -> Option<NonZeroU32> {
        let number = Some(number).filter(|number| self.range().contains(number));
        number.and_then(|number| NonZeroU32::new(u32::try_from(number).ok()?))
    }
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Measure ===

impl Measure {
    /// Returns whether tokens are counted, of whatever kind.
    pub const fn is_tokens(self) -> bool {
        match self {
            Self::Tokens | Self::InputTokens | Self::OutputTokens => true,
            Self::Requests | Self::Concurrent => false,
        }
    }

    /// Returns what a call that uses such an amount counts for.
    pub(super) const fn of(self, amount: &Amount) -> u64 {
        match self {
            Self::Requests | Self::Concurrent => 1,
            Self::Tokens => amount.input.saturating_add(amount.output),
            Self::InputTokens => amount.input,
            Self::OutputTokens => amount.output,
        }
    }
}
