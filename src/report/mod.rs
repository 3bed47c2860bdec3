//! What was used, as people and programs read it: the admin API and `weir usage` say it in JSON, CSV and a table, with the
//! same columns in the same order. A cost of which nothing is known is a dash in the table, empty in CSV, and 0 in JSON,
//! where it is to be read with `unpriced_requests`.

mod csv;
pub mod outlook;
mod plain;
mod table;
mod time;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::csv::to_csv;
pub use self::plain::plain;
pub use self::table::{Table, to_table};
pub use self::time::{check_span, parse_time};
use crate::money::Nanos;
use crate::store::ledger::{GroupBy, Report, Sums};

/// The sums of each group, and of all of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Each group, the dearest first; days and hours in their order.
    pub data: Vec<Group>,
    /// All of them.
    pub total: Figures,
    /// Requests from this time on, RFC 3339.
    pub from: Option<String>,
    /// Requests before this time, RFC 3339.
    pub to: Option<String>,
    /// What they are grouped by.
    pub group_by: String,
}

/// The sums of one group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Its name; `None`: requests that have no such thing.
    pub key: Option<String>,
    /// Its sums.
    #[serde(flatten)]
    pub figures: Figures,
}

/// What some requests used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// How many they are.
    pub requests: u64,
    /// Tokens of prompts, all classes.
    pub prompt_tokens: u64,
    /// Generated tokens, all classes.
    pub completion_tokens: u64,
    /// Tokens of prompts that upstreams read from their caches.
    pub cached_tokens: u64,
    /// Generated tokens that clients did not see.
    pub reasoning_tokens: u64,
    /// US dollars, the sum of what is known: a decimal number in a text, so that no reader makes a float of it.
    pub cost: String,
    /// How many of them used tokens at a price that is not known; their cost is left out altogether.
    pub unpriced_requests: u64,
    /// How many of them were answered from the cache, or by what another one was answered. 0 of a gateway that does not
    /// tell it.
    #[serde(default)]
    pub cache_hits: u64,
    /// The tokens that those did not use, of prompts and answers: they are in none of the other numbers.
    #[serde(default)]
    pub saved_tokens: u64,
}

impl Usage {
    /// Words what the ledger added up.
    pub fn new(
        report: Report,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
        group_by: GroupBy,
    ) -> Self {
        let groups = report.groups.into_iter();
        let data = groups.map(|(key, sums)| Group {
            key,
            figures: sums.into(),
        });
        Self {
            data: data.collect(),
            total: report.total.into(),
            from: from.map(|time| time.to_string()),
            to: to.map(|time| time.to_string()),
            group_by: group_by.as_str().to_owned(),
        }
    }
}

impl Figures {
    /// Returns what is known of the cost; nothing where some requests are unpriced and the others cost nothing, be it that
    /// their price is 0. Where `unpriced_requests` is more than 0, it is a part.
    fn known_cost(&self) -> Option<&str> {
        let is_zero = self.cost.parse().is_ok_and(|cost: Nanos| cost.is_zero());
        (!is_zero || self.unpriced_requests == 0).then_some(&self.cost)
    }
}

impl From<Sums> for Figures {
    fn from(sums: Sums) -> Self {
        Self {
            requests: sums.requests,
            prompt_tokens: sums.prompt_tokens,
            completion_tokens: sums.completion_tokens,
            cached_tokens: sums.cached_tokens,
            reasoning_tokens: sums.reasoning_tokens,
            cost: sums.cost.to_string(),
            unpriced_requests: sums.unpriced_requests,
            cache_hits: sums.cache_hits,
            saved_tokens: sums.saved_tokens,
        }
    }
}
