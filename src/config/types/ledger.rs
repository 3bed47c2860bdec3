//! `[ledger]` and `budgets`, as the rest of Weir gets them.

use std::path::PathBuf;
use std::time::Duration;

use crate::money::Nanos;
use crate::pattern::Pattern;
use crate::prices::Prices;

/// One of `budgets`: what may be used up in some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetConfig {
    /// How much; more than nothing.
    pub limit: BudgetLimit,
    /// In how much time.
    pub per: Period,
    /// Where that time begins; always [`Window::Calendar`] with [`Period::Total`]. Default: calendar.
    pub window: Window,
    /// From how many thousandths of the limit on callers are warned, 1 to 1000. Default: 800.
    pub warn_at_thousandths: u32,
}

/// What a budget counts, and how much of it there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetLimit {
    /// `amount = "50 USD"`
    Money(Nanos),
    /// `tokens = 5_000_000`: of prompts and answers together.
    Tokens(u64),
}

/// The time that a budget is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Period {
    /// `"day"`
    Day,
    /// `"month"`
    Month,
    /// `"total"`: it is never given again.
    Total,
}

/// Where the time of a budget begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Window {
    /// `"calendar"`: at midnight UTC, or with the first of the month.
    #[default]
    Calendar,
    /// `"rolling"`: 24 hours or 30 days ago.
    Rolling,
}

/// `[ledger]`: the durable record of what was used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerConfig {
    /// The database, below the [data directory](crate::config::data_dir) unless it was written as an absolute path. Default:
    /// `weir.db`.
    pub path: PathBuf,
    /// When what was written is forced to the disk. Default: every second.
    pub sync: SyncConfig,
    /// What tokens cost: the file's own prices, then the built-in ones. Default: the built-in ones alone.
    pub prices: Prices,
    /// What is done while nothing can be written. Default: refuse.
    pub on_failure: LedgerFailureConfig,
    /// How long rows are kept, `None` for ever. Default: 400 days.
    pub retention: Option<Duration>,
    /// How long it is known who changed keys and teams, `None` for ever. Default: five years, or as long as rows where those
    /// are kept for longer.
    pub audit_retention: Option<Duration>,
    /// Whether the space of rows that are gone is given back to the disk. Default: true.
    pub vacuum: bool,
    /// What becomes of an answer whose client has left. Default: cancel.
    pub client_gone: ClientGoneConfig,
    /// With [`ClientGoneConfig::Drain`]: generated tokens that are waited for at most. Default: 4096.
    pub drain_tokens: u64,
    /// Requests whose rows may be open at once, which bounds the queue before the database. Default: 65 536.
    pub max_open: usize,
    /// The tokenizers of models whose names do not tell, in the order of the file; the most specific pattern wins.
    /// Default: none.
    pub encodings: Vec<(Pattern, EncodingConfig)>,
}

/// When what was written to the ledger is forced to the disk. A process that dies loses nothing in any case; this is
/// about machines that do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncConfig {
    /// `"always"`: before anybody is told that it is written. A power cut loses nothing.
    Always,
    /// `"every_second"`: a power cut loses what was written in the last second.
    #[default]
    EverySecond,
    /// `"never"`: when the operating system likes. A power cut loses some half a minute.
    Never,
}

/// What is done while nothing can be written to the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LedgerFailureConfig {
    /// `"refuse"`: calls are answered by 503, so that nothing is used that is not booked.
    #[default]
    Refuse,
    /// `"serve"`: calls go on unbooked, with an alarm.
    Serve,
}

/// What becomes of an answer whose client has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientGoneConfig {
    /// `"cancel"`: the upstream is told to stop, and what it had sent is counted.
    #[default]
    Cancel,
    /// `"drain"`: the answer is read on for the upstream's own count.
    Drain,
}

/// The published encodings of tokenizers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EncodingConfig {
    /// `"o200k_base"`
    O200k,
    /// `"cl100k_base"`
    Cl100k,
}

// === impl BudgetConfig ===

impl BudgetConfig {
    /// Returns whether both count the same in the same time, so that only the smaller one ever matters.
    pub fn is_like(&self, other: &Self) -> bool {
        let same_kind = matches!(
            (self.limit, other.limit),
            (BudgetLimit::Money(_), BudgetLimit::Money(_))
                | (BudgetLimit::Tokens(_), BudgetLimit::Tokens(_))
        );
        same_kind && self.per == other.per && self.window == other.window
    }

    /// Returns from which use on callers are warned, in the limit's own kind.
    pub fn warn_limit(&self) -> BudgetLimit {
        let share = |whole: u64| {
            let part = u128::from(whole) * u128::from(self.warn_at_thousandths) / 1000;
            u64::try_from(part).unwrap_or(u64::MAX)
        };
        match self.limit {
            BudgetLimit::Money(nanos) => BudgetLimit::Money(Nanos::new(share(nanos.get()))),
            BudgetLimit::Tokens(tokens) => BudgetLimit::Tokens(share(tokens)),
        }
    }
}
