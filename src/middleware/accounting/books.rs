//! What accounting is done with, and by which rules.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio_util::task::TaskTracker;

use crate::call::Call;
use crate::metrics::Metrics;
use crate::money::Nanos;
use crate::openai::endpoint::Endpoint;
use crate::openai::usage::Usage;
use crate::prices::Prices;
use crate::store::budgets::{Amount, Budgets};
use crate::store::ledger::Ledger;
use crate::tokens::{self, Encodings};

/// What accounting is done with, and by which rules.
pub struct Books {
    /// Where it is written down.
    pub ledger: Ledger,
    /// How much may be used.
    pub budgets: Arc<Budgets>,
    /// What tokens cost.
    pub prices: Prices,
    /// Which models count tokens how.
    pub encodings: Encodings,
    /// How much the models generate for whom.
    pub means: Arc<Means>,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
    /// What is done when nothing can be written down.
    pub on_failure: OnFailure,
    /// What is done when a client leaves.
    pub client_gone: ClientGone,
    /// Who waits at a stop for upstreams that are read to their end.
    pub tasks: TaskTracker,
}

/// What is done when the ledger cannot be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// Calls are refused: nothing is used that is not written down.
    #[default]
    Refuse,
    /// Calls are served. Their rows wait in memory until they can be written.
    Serve,
}

/// What is done when a client leaves before its answer is whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientGone {
    /// The upstream is cancelled, and what came until then is counted.
    #[default]
    Cancel,
    /// The upstream is read on for its usage object, for so many events with something generated at the most.
    Drain {
        /// The bound.
        tokens: u64,
    },
}

/// The mean number of tokens that a model generates for a key, learnt as answers end.
#[derive(Debug, Default)]
pub struct Means {
    means: Mutex<HashMap<Pair, f64>>,
}

/// A key and a model.
type Pair = (Arc<str>, Arc<str>);

/// How much of the mean the newest answer is.
const SHARE_OF_THE_NEWEST: f64 = 0.1;
/// What is expected of a model that nothing is known of.
const FIRST_MEAN: u64 = 1024;
/// Pairs of key and model that are remembered; models are named by clients.
const REMEMBERED: usize = 4096;

impl Means {
    /// Returns how many tokens are expected.
    pub fn expect(&self, key: &Arc<str>, model: &Arc<str>) -> u64 {
        let means = self.means.lock().unwrap_or_else(PoisonError::into_inner);
        let mean = means.get(&(Arc::clone(key), Arc::clone(model)));
        mean.map_or(FIRST_MEAN, |mean| mean.ceil() as u64)
    }

    /// Learns from an answer.
    pub fn learn(&self, key: &Arc<str>, model: &Arc<str>, tokens: u64) {
        let mut means = self.means.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = (Arc::clone(key), Arc::clone(model));
        if means.len() >= REMEMBERED && !means.contains_key(&pair) {
            // Whoever still calls is soon known again.
            means.clear();
        }
        let mean = means.entry(pair).or_insert(tokens as f64);
        *mean += (tokens as f64 - *mean) * SHARE_OF_THE_NEWEST;
    }
}

/// What a call is expected to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Estimate {
    /// What it is booked at when nobody can tell what it used.
    pub(super) likely: Usage,
    /// What it is reserved at: as much as it may generate, where it says so.
    pub(super) reserved: Usage,
}

impl Books {
    /// Guesses what a call will use. Exact counting would cost more than most calls do: it is done at the end, where the
    /// upstream does not.
    pub(super) fn estimate(&self, call: &Call) -> Option<Estimate> {
        let (bytes, members) = call.json()?;
        let input = tokens::prompt(None, &call.endpoint, bytes);
        if call.endpoint == Endpoint::Embeddings {
            let usage = Usage {
                input,
                ..Usage::default()
            };
            return Some(Estimate {
                likely: usage,
                reserved: usage,
            });
        }
        let model = call.model.as_ref()?;
        let mean = self.means.expect(&call.caller.key, model);
        let most = members.max_tokens(bytes);
        let choices = members.choices(bytes);
        let with = |output: u64| Usage {
            input,
            output: output.saturating_mul(choices),
            ..Usage::default()
        };
        Some(Estimate {
            likely: with(most.map_or(mean, |most| most.min(mean))),
            reserved: with(most.unwrap_or(mean)),
        })
    }

    /// Returns what tokens cost, by the name that the upstream knows the model by, or else by the one asked for.
    pub(super) fn cost(&self, names: [Option<&Arc<str>>; 2], usage: &Usage) -> Option<Nanos> {
        let mut names = names.into_iter().flatten();
        names.find_map(|name| self.prices.cost(name, usage))
    }

    /// Returns what a budget counts.
    pub(super) fn amount(usage: &Usage, cost: Option<Nanos>) -> Amount {
        Amount {
            tokens: usage.total(),
            cost: cost.unwrap_or_default(),
        }
    }

    /// Counts the tokens of a prompt.
    pub(super) fn prompt(
        &self,
        model: Option<&Arc<str>>,
        endpoint: &Endpoint,
        body: &Bytes,
    ) -> u64 {
        tokens::prompt(self.encoding(model), endpoint, body)
    }

    /// Returns how a model counts, where that is known.
    pub(super) fn encoding(&self, model: Option<&Arc<str>>) -> Option<tokens::Encoding> {
        model.and_then(|model| self.encodings.of(model))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_learnt_and_bounded() {
        let means = Means::default();
        let (key, model): (Arc<str>, Arc<str>) = ("alice".into(), "gpt".into());
        assert_eq!(means.expect(&key, &model), FIRST_MEAN);
        means.learn(&key, &model, 100);
        assert_eq!(means.expect(&key, &model), 100);
        means.learn(&key, &model, 200);
        assert_eq!(means.expect(&key, &model), 110);
        for number in 0..2 * REMEMBERED {
            means.learn(&key, &format!("model-{number}").into(), 1);
        }
        assert!(means.means.lock().unwrap().len() <= REMEMBERED);
    }
}
