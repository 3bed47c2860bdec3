//! Admits calls: keeps room for what a call may use at every limit and budget that it counts towards, or turns it away.
//!
//! A call's tokens are estimated from its prompt and from how much it may generate, and priced by the dearest of the
//! upstreams it may go to. Limits and budgets decide together: room is kept at all of them, or at none. The room goes
//! inwards with the call, to be settled by whoever keeps the books of it, at what was really used; should nobody take it,
//! it is given back. A place among the concurrent ones is kept until the answer's end, whatever way it ends.
//!
//! What is left of the tightest limits is noted for the head of the answer, whatever that is: an answer that is whole when
//! its head goes is settled by then, any other one counts at its estimate.
//!
//! It stands where waiting begins: nothing is told to a client before it is admitted. Limits and budgets live in memory;
//! only limits that are counted together with other gateways are asked for, once a call and for a bounded time.

mod desk;
mod preview;
mod room;
#[cfg(test)]
mod tests;

use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::HeaderName;
use tower::{Layer, Service};

use self::desk::{Admitted, Desk};
use crate::call::{Call, Reply};
use crate::metrics::Metrics;
use crate::prices::Prices;
use crate::store::budgets::{Budgets, Spent};
use crate::store::limits::{Limits, Refusal, Shared};
use crate::store::means::Means;

pub use self::desk::Whose;
pub use self::desk::{Basis, Forecast};
pub use self::preview::{Preview, Rooms, preview, rooms};

/// Tells a client which of its budgets is nearly spent.
const BUDGET_WARNING: HeaderName = HeaderName::from_static("x-weir-budget-warning");

/// What calls are admitted by.
pub struct Rules {
    /// How fast may be used.
    pub limits: Arc<Limits>,
    /// Where that is counted together with other gateways.
    pub shared: Option<Arc<Shared>>,
    /// How much may be used.
    pub budgets: Arc<Budgets>,
    /// Where refusals are counted.
    pub metrics: Arc<Metrics>,
    /// What tokens cost.
    pub prices: Arc<Prices>,
    /// How much the models generate for whom.
    pub means: Arc<Means>,
    /// Whether streams end where a limit or a budget has run out, and if so, how many more tokens a stream that has used
    /// its own takes of them at a time.
    pub stop: Option<NonZeroU32>,
}

/// Where models go.
pub trait Ways: Send + Sync {
    /// Returns what the way of a model is called: the configured pattern that leads there. `None`: it goes nowhere.
    fn label(&self, model: &str) -> Option<Arc<str>>;

    /// Returns the upstream that a call goes to, where there is but one.
    fn only_upstream(&self, call: &Call) -> Option<Arc<str>>;

    /// Shows each name by which the upstreams know a model to which it may go.
    fn each_name(&self, model: &str, see: &mut dyn FnMut(&str));
}

/// Why a call is turned away.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// A limit has no room for it, now or ever.
    #[error("a limit is reached")]
    Limited(Box<Refusal>),
    /// A budget has no room for it.
    #[error("a budget is spent")]
    Spent(Box<Spent>),
    /// Nobody can say, and nobody is let in then.
    #[error("the shared limits are away")]
    Away,
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

impl AdmissionLayer {
    /// Admits by these rules.
    pub fn new(rules: Arc<Rules>, ways: Arc<dyn Ways>) -> Self {
        Self {
            desk: Arc::new(Desk { rules, ways }),
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
    S: Service<Call, Response = Reply> + Clone + Send + 'static,
    S::Error: From<AdmissionError> + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut call: Call) -> Self::Future {
        let desk = Arc::clone(&self.desk);
        // The one that is ready answers; the other one is asked again.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            let whose = Whose::of(&call, &*desk.ways);
            let record = Arc::clone(&call.record);
            // Told of what is turned away here as well, so that it shows at which model.
            whose.note_route(&record);
            let Admitted { warning, left } = match desk.admit(&mut call, &whose).await {
                Ok(admitted) => admitted,
                Err((error, left)) => {
                    desk.note(&whose, left, &record);
                    return Err(error.into());
                }
            };
            let answered = inner.call(call).await;
            desk.note(&whose, left, &record);
            let mut reply = answered?;
            if let Some(warning) = warning {
                reply.headers.insert(BUDGET_WARNING, warning);
            }
            Ok(reply)
        })
    }
}
