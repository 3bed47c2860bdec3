//! What accounting is done with, and by which rules.

use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::apart::counted;
use crate::metrics::Metrics;
use crate::money::Nanos;
use crate::openai::endpoint::Endpoint;
use crate::openai::usage::Usage;
use crate::prices::Prices;
use crate::store::ledger::Ledger;
use crate::store::means::Means;
use crate::tokens::{self, Encodings};

/// What accounting is done with, and by which rules.
pub struct Books {
    /// Where it is written down.
    pub ledger: Ledger,
    /// What tokens cost.
    pub prices: Arc<Prices>,
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
    /// Cancelled when answers are ended by a stop.
    pub deadline: CancellationToken,
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

impl Books {
    /// Returns what is done now with an answer that nobody takes any more.
    pub(super) fn policy(&self) -> ClientGone {
        match self.deadline.is_cancelled() {
            // There is no time left to read on.
            true => ClientGone::Cancel,
            false => self.client_gone,
        }
    }

    /// Returns what tokens cost, by the name that the upstream knows the model by, or else by the one asked for.
    pub(super) fn cost(&self, names: [Option<&Arc<str>>; 2], usage: &Usage) -> Option<Nanos> {
        let mut names = names.into_iter().flatten();
        names.find_map(|name| self.prices.cost(name, usage))
    }

    /// Counts the tokens of a prompt.
    pub(super) fn prompt(
        &self,
        model: Option<&Arc<str>>,
        endpoint: &Endpoint,
        body: &Bytes,
    ) -> u64 {
        let encoding = self.encoding(model);
        counted(body.len(), || tokens::prompt(encoding, endpoint, body))
    }

    /// Returns how a model counts, where that is known.
    pub(super) fn encoding(&self, model: Option<&Arc<str>>) -> Option<tokens::Encoding> {
        model.and_then(|model| self.encodings.of(model))
    }
}
