//! What tokens cost: a table of models and their prices, and the one place where counts become money.
//!
//! Prices are whole nano-dollars per million tokens, so that a request's cost is exact until it is rounded, once, to the
//! nearest nano-dollar. Two tables count: the operator's own, and the one that is part of the program. A model that is in
//! neither has no known price, which is not the same as a price of nothing.

use jiff::civil::Date;

use crate::money::Nanos;
use crate::openai::usage::Usage;
use crate::pattern::{Pattern, PatternMap};

/// Tokens that a price is for.
const MILLION: u128 = 1_000_000;

/// What the tokens of a model cost, in dollars per million, one price for each class of [`Usage`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// [`Usage::input`]
    pub input: Nanos,
    /// [`Usage::cached_input`]; where a table has none, as `input`.
    pub cached_input: Nanos,
    /// [`Usage::cache_write`]; where a table has none, as `input`.
    pub cache_write: Nanos,
    /// [`Usage::input_audio`]; where a table has none, as `input`.
    pub input_audio: Nanos,
    /// [`Usage::output`]
    pub output: Nanos,
    /// [`Usage::reasoning`]; where a table has none, as `output`.
    pub reasoning: Nanos,
    /// [`Usage::output_audio`]; where a table has none, as `output`.
    pub output_audio: Nanos,
}

/// One file of prices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceTable {
    /// When the figures were read.
    pub date: Date,
    /// Patterns of models, and their prices; the most specific pattern counts, among equals the first.
    pub prices: Vec<(Pattern, Price)>,
}

/// All prices that are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prices {
    /// The first in which a model is found counts, whatever the later ones say of it. As they were read: by these the
    /// configuration is checked.
    tables: Vec<PriceTable>,
    /// The same, for calls to look their models up in.
    by_model: Vec<PatternMap<Price>>,
}

// === impl Price ===

impl Price {
    /// Returns a price that is the same for everything read, and for everything generated.
    pub fn plain(input: Nanos, output: Nanos) -> Self {
        Self {
            input,
            cached_input: input,
            cache_write: input,
            input_audio: input,
            output,
            reasoning: output,
            output_audio: output,
        }
    }

    /// Returns what so many tokens cost, half a nano-dollar rounded up. All of them together are rounded once.
    pub fn cost(&self, usage: &Usage) -> Nanos {
        let parts = [
            (usage.input, self.input),
            (usage.cached_input, self.cached_input),
            (usage.cache_write, self.cache_write),
            (usage.input_audio, self.input_audio),
            (usage.output, self.output),
            (usage.reasoning, self.reasoning),
            (usage.output_audio, self.output_audio),
        ];
        // Seven products of 64 and 63 bits do not fill 128.
        let millionths: u128 = parts
            .into_iter()
            .map(|(tokens, price)| u128::from(tokens) * u128::from(price.get()))
            .fold(0, u128::saturating_add);
        let nanos = millionths.saturating_add(MILLION / 2) / MILLION;
        Nanos::new(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

// === impl Prices ===

impl Prices {
    /// Returns the prices of these tables, of which an earlier one goes before all later ones.
    pub fn new(tables: Vec<PriceTable>) -> Self {
        let by_model = tables
            .iter()
            .map(|table| table.prices.iter().cloned().collect());
        Self {
            by_model: by_model.collect(),
            tables,
        }
    }

    /// Returns a model's price, if it is known.
    pub fn of(&self, model: &str) -> Option<&Price> {
        self.by_model.iter().find_map(|prices| prices.get(model))
    }

    /// Returns what a model's answer cost, if its price is known.
    pub fn cost(&self, model: &str, usage: &Usage) -> Option<Nanos> {
        Some(self.of(model)?.cost(usage))
    }

    /// Returns the tables, the one that goes first at the front.
    pub fn tables(&self) -> &[PriceTable] {
        &self.tables
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nanos(text: &str) -> Nanos {
        text.parse().unwrap()
    }

    fn table(prices: &[(&str, &str)]) -> PriceTable {
        let price = |(model, dollars): &(&str, &str)| {
            let price = Price::plain(nanos(dollars), nanos(dollars));
            (Pattern::parse(model).unwrap(), price)
        };
        PriceTable {
            date: "2026-11-25".parse().unwrap(),
            prices: prices.iter().map(price).collect(),
        }
    }

    #[test]
    fn every_class_has_its_price() {
        let price = Price {
            input: nanos("2"),
            cached_input: nanos("0.1"),
            cache_write: nanos("2.5"),
            input_audio: nanos("32"),
            output: nanos("10"),
            reasoning: nanos("11"),
            output_audio: nanos("64"),
        };
        let usage = Usage {
            input: 1_000_000,
            cached_input: 2_000_000,
            cache_write: 1_000_000,
            input_audio: 1_000,
            output: 500_000,
            reasoning: 100_000,
            output_audio: 1_000,
        };
        // 2 + 0.2 + 2.5 + 0.032 + 5 + 1.1 + 0.064
        assert_eq!(price.cost(&usage).to_string(), "10.896");
        assert_eq!(price.cost(&Usage::default()), Nanos::ZERO);
    }

    #[test]
    fn half_a_nano_is_rounded_up_once() {
        let price = Price::plain(Nanos::new(250_000), Nanos::new(250_000));
        let cost = |input, output| {
            let usage = Usage {
                input,
                output,
                ..Usage::default()
            };
            price.cost(&usage).get()
        };
        assert_eq!(cost(1, 0), 0);
        assert_eq!(cost(2, 0), 1);
        assert_eq!(cost(1, 1), 1, "each alone would be nothing");
        assert_eq!(cost(3, 2), 1);
        assert_eq!(cost(3, 3), 2);
    }

    #[test]
    fn the_most_specific_of_the_first_table_counts() {
        let prices = Prices::new(vec![
            table(&[("my-*", "1"), ("my-own", "2"), ("my-*", "3")]),
            table(&[("my-own-1", "4"), ("gpt-4o*", "5"), ("gpt-4o", "6")]),
        ]);
        let input = |model| prices.of(model).map(|price| price.input.to_string());
        assert_eq!(input("my-own").as_deref(), Some("2.00"));
        assert_eq!(input("my-own-1").as_deref(), Some("1.00"));
        assert_eq!(input("gpt-4o").as_deref(), Some("6.00"));
        assert_eq!(input("gpt-4o-mini").as_deref(), Some("5.00"));
        assert_eq!(input("other"), None);
        assert_eq!(prices.cost("other", &Usage::default()), None);
    }

    proptest! {
        #[test]
        fn no_counts_overflow_and_more_never_costs_less(
            counts in prop::array::uniform7(any::<u64>()),
            nanos in prop::array::uniform7(any::<u64>()),
        ) {
            let [input, cached_input, cache_write, input_audio, output, reasoning, output_audio] = counts;
            let usage = Usage { input, cached_input, cache_write, input_audio, output, reasoning, output_audio };
            let [a, b, c, d, e, f, g] = nanos.map(Nanos::new);
            let price = Price {
                input: a, cached_input: b, cache_write: c, input_audio: d, output: e, reasoning: f, output_audio: g,
            };
            let less = Usage { input: input / 2, ..usage };
            prop_assert!(price.cost(&less) <= price.cost(&usage));
        }

        #[test]
        fn a_million_tokens_cost_the_price(dollars in 0..1_000_000_000_000u64, millions in 0..1000u64) {
            let usage = Usage { input: millions * 1_000_000, ..Usage::default() };
            let price = Price::plain(Nanos::new(dollars), Nanos::ZERO);
            prop_assert_eq!(price.cost(&usage), Nanos::new(dollars * millions));
        }
    }
}
