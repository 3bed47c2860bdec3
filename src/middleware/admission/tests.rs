use std::num::NonZeroU32;

use super::desk::{Desk, expected};
use super::*;
use crate::money::Nanos;
use crate::openai::usage::Usage;
use crate::pattern::Pattern;
use crate::prices::{Price, PriceTable};
use crate::store::limits::{Dimension, Headroom, Holder};

/// Ways to upstreams that know every model by these names.
struct Known(&'static [&'static str]);

impl Ways for Known {
    fn label(&self, _: &str) -> Option<Arc<str>> {
        self.0.first().map(|_| "*".into())
    }

    fn only_upstream(&self, _: &Call) -> Option<Arc<str>> {
        None
    }

    fn each_name(&self, _: &str, see: &mut dyn FnMut(&str)) {
        self.0.iter().for_each(|name| see(name));
    }
}

/// Prices of so many nano-dollars a token.
fn desk(prices: &[(&str, u64)], names: &'static [&str]) -> Desk {
    let price = |(model, nanos): &(&str, u64)| {
        let nanos = Nanos::new(nanos * 1_000_000);
        (Pattern::parse(model).unwrap(), Price::plain(nanos, nanos))
    };
    let table = PriceTable {
        date: "2026-11-25".parse().unwrap(),
        prices: prices.iter().map(price).collect(),
    };
    let rules = Rules {
        shared: None,
        metrics: Arc::new(Metrics::new().unwrap()),
        limits: Arc::default(),
        budgets: Arc::default(),
        prices: Arc::new(Prices::new(vec![table])),
        means: Arc::default(),
        stop: None,
    };
    Desk {
        rules: Arc::new(rules),
        ways: Arc::new(Known(names)),
    }
}

fn cost(desk: &Desk) -> Option<u64> {
    let usage = Usage {
        input: 10,
        ..Usage::default()
    };
    desk.priced(Some("fast"), usage).cost.map(Nanos::get)
}

#[test]
fn room_is_kept_for_the_dearest_upstream() {
    let prices = [("cheap", 1), ("dear", 5)];
    assert_eq!(
        cost(&desk(&prices, &["cheap", "dear", "unknown"])),
        Some(50)
    );
}

#[test]
fn an_upstream_whose_name_has_no_price_costs_what_the_name_asked_for_does() {
    let prices = [("cheap", 1), ("fast", 3)];
    assert_eq!(cost(&desk(&prices, &["cheap", "unknown"])), Some(30));
    assert_eq!(cost(&desk(&prices, &["cheap"])), Some(10));
    assert_eq!(cost(&desk(&[], &["cheap"])), None);
    assert_eq!(cost(&desk(&prices, &[])), None, "it goes nowhere");
}

fn limit(dimension: Dimension, size: u32, shadow: bool) -> Headroom {
    let size = NonZeroU32::new(size).unwrap();
    Headroom {
        holder: Holder::Gateway,
        dimension,
        size,
        burst: size,
        models: Arc::default(),
        shadow,
        remaining: 0,
        reset: std::time::Duration::ZERO,
    }
}

#[test]
fn what_an_answer_is_expected_to_have_fits_the_limits() {
    use Dimension::{InputTokensPerDay, OutputTokensPerDay, RequestsPerDay, TokensPerMinute};
    let others = [
        limit(InputTokensPerDay, 4, false),
        limit(RequestsPerDay, 4, false),
        limit(TokensPerMinute, 4, true),
    ];
    assert_eq!(expected(None, 10, 1, &[]), 1024);
    assert_eq!(expected(None, 10, 1, &others), 1024);
    assert_eq!(expected(Some(5000), 10, 3, &others), 5000);
    let of_both = [
        limit(TokensPerMinute, 4000, false),
        limit(OutputTokensPerDay, 3000, false),
    ];
    assert_eq!(expected(None, 10, 1, &of_both), 750);
    assert_eq!(expected(Some(5000), 10, 1, &of_both), 3000);
    assert_eq!(expected(Some(5000), 3000, 2, &of_both), 500);
    assert_eq!(expected(None, 5000, 1, &of_both), 0);
    assert_eq!(
        expected(None, 10, 1_000_000, &of_both),
        1,
        "each choice has a token"
    );
    assert_eq!(expected(None, 0, 1, &[limit(TokensPerMinute, 1, false)]), 1);
}
