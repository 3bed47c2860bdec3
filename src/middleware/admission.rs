//! Admits calls: keeps room for what a call may use at every budget of its key and team, or turns it away.
//!
//! A call's tokens are estimated from its prompt and from how much it may generate, and priced by the dearest of the
//! upstreams it may go to. The room goes inwards with the call, to be settled by whoever keeps the books of it, at what
//! was really used; should nobody take it, it is given back. It stands where waiting begins: nothing is told to a client
//! before it is admitted.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{HeaderName, HeaderValue};
use jiff::Timestamp;
use tower::{Layer, Service};

use crate::call::{Call, Caller, Estimate, Priced, Reply, Room};
use crate::openai::endpoint::Endpoint;
use crate::openai::usage::Usage;
use crate::prices::Prices;
use crate::store::budgets::{Amount, Balance, Budgets, Reservation, Spent};
use crate::store::means::Means;
use crate::tokens;

/// Tells a client which of its budgets is nearly spent.
const BUDGET_WARNING: HeaderName = HeaderName::from_static("x-weir-budget-warning");

/// What calls are admitted by.
pub struct Rules {
    /// How much may be used.
    pub budgets: Arc<Budgets>,
    /// What tokens cost.
    pub prices: Arc<Prices>,
    /// How much the models generate for whom.
    pub means: Arc<Means>,
}

/// Shows each name that the upstreams know a model by to which it may go.
pub type Names = Arc<dyn Fn(&str, &mut dyn FnMut(&str)) + Send + Sync>;

/// Why a call is turned away.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// A budget has no room for it.
    #[error("a budget is spent")]
    Spent(Box<Spent>),
}

/// Builds [`Admission`].
#[derive(Clone)]
pub struct AdmissionLayer {
    desk: Arc<Desk>,
}

/// The service of this layer.
#[derive(Clone)]
pub struct Admission<S> {
    inner: S,
    desk: Arc<Desk>,
}

struct Desk {
    rules: Arc<Rules>,
    names: Names,
}

/// The room of a call.
struct Kept {
    budgets: Reservation,
}

impl AdmissionLayer {
    /// Admits by these rules.
    pub fn new(rules: Arc<Rules>, names: Names) -> Self {
        Self {
            desk: Arc::new(Desk { rules, names }),
        }
    }
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission {
            inner,
            desk: Arc::clone(&self.desk),
        }
    }
}

impl<S> Service<Call> for Admission<S>
where
    S: Service<Call, Response = Reply>,
    S::Error: From<AdmissionError> + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = S::Error;
    type Future = Either<
        Pin<Box<dyn Future<Output = Result<Reply, S::Error>> + Send>>,
        std::future::Ready<Result<Reply, S::Error>>,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut call: Call) -> Self::Future {
        let warning = match self.desk.admit(&mut call, Timestamp::now()) {
            Ok(warning) => warning,
            Err(error) => return Either::Right(std::future::ready(Err(error.into()))),
        };
        let answering = self.inner.call(call);
        Either::Left(Box::pin(async move {
            let mut reply = answering.await?;
            if let Some(warning) = warning {
                reply.headers.insert(BUDGET_WARNING, warning);
            }
            Ok(reply)
        }))
    }
}

impl Desk {
    /// Keeps room for a call, and returns what its client is to be warned of.
    fn admit(
        &self,
        call: &mut Call,
        now: Timestamp,
    ) -> Result<Option<HeaderValue>, AdmissionError> {
        // A list of models is charged to nobody.
        if call.endpoint.is_listing() {
            return Ok(None);
        }
        call.estimate = self.estimate(call);
        let amount = call.estimate.map(|estimate| amount(&estimate.reserved));
        let Caller { key, team, .. } = &*call.caller;
        let budgets = &self.rules.budgets;
        let reserved = budgets.reserve(key, team.as_ref(), amount.unwrap_or_default(), now);
        let budgets = reserved.map_err(AdmissionError::Spent)?;
        let warning = budgets.warning().and_then(warning_header);
        call.room = Some(Box::new(Kept { budgets }));
        Ok(warning)
    }

    /// Guesses what a call will use. Exact counting would cost more than most calls do: it is done at the end, where the
    /// upstream does not.
    fn estimate(&self, call: &Call) -> Option<Estimate> {
        let (bytes, members) = call.json()?;
        let input = tokens::prompt(None, &call.endpoint, bytes);
        let only_read = Usage {
            input,
            ..Usage::default()
        };
        if call.endpoint == Endpoint::Embeddings {
            let read = self.priced(call.model.as_deref(), only_read);
            return Some(Estimate {
                likely: read,
                reserved: read,
            });
        }
        let model = call.model.as_ref()?;
        let mean = self.rules.means.expect(&call.caller.key, model);
        let most = members.max_tokens(bytes);
        let choices = members.choices(bytes);
        let with = |output: u64| {
            let usage = Usage {
                output: output.saturating_mul(choices),
                ..only_read
            };
            self.priced(Some(model), usage)
        };
        Some(Estimate {
            likely: with(most.map_or(mean, |most| most.min(mean))),
            reserved: with(most.unwrap_or(mean)),
        })
    }

    /// Prices tokens by the dearest of the upstreams: each by its own name of the model, or else by the one asked for.
    fn priced(&self, model: Option<&str>, usage: Usage) -> Priced {
        let mut dearest = None;
        if let Some(model) = model {
            let prices = &self.rules.prices;
            let asked = prices.cost(model, &usage);
            (self.names)(model, &mut |name| {
                dearest = dearest.max(prices.cost(name, &usage).or(asked));
            });
        }
        Priced {
            usage,
            cost: dearest,
        }
    }
}

impl Room for Kept {
    fn settle(self: Box<Self>, used: &Priced) {
        self.budgets.settle(amount(used));
    }
}

/// Returns what a budget counts.
fn amount(priced: &Priced) -> Amount {
    Amount {
        tokens: priced.usage.total(),
        cost: priced.cost.unwrap_or_default(),
    }
}

/// `team "research" has used 84 % of 50.00 USD a month`, its name as far as a header can say it.
fn warning_header(balance: &Balance) -> Option<HeaderValue> {
    let text = format!(
        "{} {:?} has used {} % of {}",
        balance.holder.kind(),
        balance.holder.name(),
        balance.percent(),
        balance.budget
    );
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::Nanos;
    use crate::pattern::Pattern;
    use crate::prices::{Price, PriceTable};

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
            budgets: Arc::default(),
            prices: Arc::new(Prices::new(vec![table])),
            means: Arc::default(),
        };
        let show =
            move |_: &str, see: &mut dyn FnMut(&str)| names.iter().for_each(|name| see(name));
        Desk {
            rules: Arc::new(rules),
            names: Arc::new(show),
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
}
