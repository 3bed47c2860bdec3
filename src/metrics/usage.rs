//! The metrics of what requests use: tokens by class, and what they cost.

use prometheus::{Histogram, IntCounter};

use super::declare::Declare;
use super::family::Family;
use super::{Metrics, NONE};
use crate::money::Nanos;
use crate::openai::usage::Usage;

/// The metrics of what requests use.
pub(super) struct Used {
    tokens: Family<IntCounter, 5>,
    request_tokens: Family<Histogram, 2>,
    cost: Family<IntCounter, 4>,
    unpriced: Family<IntCounter, 3>,
    refused_usage: Family<IntCounter, 1>,
    saved_tokens: Family<IntCounter, 4>,
    saved_cost: Family<IntCounter, 3>,
}

/// Whose use it is.
#[derive(Clone, Copy, Debug)]
pub struct Whose<'a> {
    /// The key's team.
    pub team: Option<&'a str>,
    /// The key's name.
    pub key: &'a str,
    /// The configured pattern that the model matched.
    pub model: Option<&'a str>,
}

/// 1 times four to four million: from a word to the longest context.
const TOKENS: &[f64] = &[
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
];

impl Used {
    pub(super) fn new(declare: &mut Declare) -> Result<Self, prometheus::Error> {
        Ok(Self {
            tokens: declare.counters(
                "weir_tokens_total",
                "Tokens that upstreams were asked for, those of tries in vain too, each in one type: input, cached_input, cache_write and input_audio are the prompt, output, reasoning and output_audio what was generated.",
                ["type", "team", "key", "model", "upstream"],
            )?,
            request_tokens: declare.histograms(
                "weir_request_tokens",
                "Tokens of a request that an upstream answered: of its prompt (input), and generated (output).",
                ["type", "model"],
                TOKENS,
            )?,
            cost: declare.counters(
                "weir_cost_nanodollars_total",
                "What requests cost, in billionths of a US dollar, as far as prices are known.",
                ["team", "key", "model", "upstream"],
            )?,
            unpriced: declare.counters(
                "weir_unpriced_requests_total",
                "Requests that used tokens of a model whose price is not known.",
                ["team", "key", "model"],
            )?,
            refused_usage: declare.counters(
                "weir_usage_refused_total",
                "Usage objects of upstreams that count nothing, or the impossible, by what is wrong.",
                ["reason"],
            )?,
            saved_tokens: declare.counters(
                "weir_cache_saved_tokens_total",
                "Tokens that requests would have used which were answered from the cache, or by what another request was getting.",
                ["type", "team", "key", "model"],
            )?,
            saved_cost: declare.counters(
                "weir_cache_saved_nanodollars_total",
                "What those tokens would have cost, in billionths of a US dollar, as far as prices are known.",
                ["team", "key", "model"],
            )?,
        })
    }
}

impl Whose<'_> {
    fn labels(&self) -> [&str; 3] {
        let Self { team, key, model } = *self;
        [team.unwrap_or(NONE), key, model.unwrap_or(NONE)]
    }
}

impl Metrics {
    /// Counts what an upstream was asked for, and what that costs; `None`: its price is not known.
    pub fn charged(
        &self,
        whose: &Whose<'_>,
        upstream: Option<&str>,
        usage: &Usage,
        cost: Option<Nanos>,
    ) {
        let [team, key, model] = whose.labels();
        let upstream = upstream.unwrap_or(NONE);
        for (kind, count) in usage.classes() {
            if count > 0 {
                let labels = [kind, team, key, model, upstream];
                self.used.tokens.with(labels).inc_by(count);
            }
        }
        if let Some(cost) = cost {
            let labels = [team, key, model, upstream];
            self.used.cost.with(labels).inc_by(cost.get());
        }
    }

    /// Counts a request that used tokens of which nobody knows the price.
    pub fn unpriced(&self, whose: &Whose<'_>) {
        self.used.unpriced.with(whose.labels()).inc();
    }

    /// Observes the size of a request and of its answer.
    pub fn sized(&self, model: Option<&str>, usage: &Usage) {
        let model = model.unwrap_or(NONE);
        for (kind, count) in [("input", usage.prompt()), ("output", usage.completion())] {
            if count > 0 {
                let sizes = self.used.request_tokens.with([kind, model]);
                sizes.observe(count as f64);
            }
        }
    }

    /// Counts what was not used, since another request had paid for it.
    pub fn saved(&self, whose: &Whose<'_>, usage: &Usage, cost: Option<Nanos>) {
        let [team, key, model] = whose.labels();
        for (kind, count) in usage.classes() {
            if count > 0 {
                let labels = [kind, team, key, model];
                self.used.saved_tokens.with(labels).inc_by(count);
            }
        }
        if let Some(cost) = cost {
            self.used.saved_cost.with(whose.labels()).inc_by(cost.get());
        }
    }

    /// Counts a usage object that is not believed.
    pub fn usage_refused(&self, reason: &'static str) {
        self.used.refused_usage.with([reason]).inc();
    }
}
