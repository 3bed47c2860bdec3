//! Answers calls by what others like them have got: from the cache, or together with one that is under way.
//!
//! It stands inside of accounting, so that what it serves is in the ledger like anything else, at no cost; and outside of
//! everything that is tried at upstreams, so that only an answer in order is kept or shared. Whoever asks first leads: the
//! call goes upstream as its own would, and pays. Those who ask for the same while it is under way get what has come and then
//! the rest as it comes. Should it fail before there is anything to share, each of them asks by itself.
//!
//! What may be kept, and what makes two calls the same, is in `judge` and `key`; who gets which answer, in `desk`; and what
//! several gateways get together, in `shared`.

mod control;
mod desk;
mod flight;
mod judge;
mod key;
mod preview;
mod replay;
mod shape;
mod shared;
mod status;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower::{Layer, Service};

use self::desk::Desk;
pub use self::judge::{Rules, Scope, Terms, Ways, When};
pub use self::preview::{Preview, preview};
pub use self::shared::Shared;
use crate::call::{Call, Reply};
use crate::store::cache::Cache;

/// Why a call is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// It wants an answer that is there already, and there is none.
    #[error("no answer is kept for it")]
    NotKept,
}

/// What calls are answered by.
#[derive(Clone)]
pub struct Params {
    /// What holds for which calls.
    pub rules: Arc<Rules>,
    /// Where answers are kept.
    pub cache: Arc<Cache>,
    /// Where other gateways find them, and theirs are found; `None`: nowhere.
    pub shared: Option<Shared>,
}

/// Builds [`Caching`].
pub struct CacheLayer<E> {
    desk: Arc<Desk<E>>,
}

/// The service of this layer.
pub struct Caching<S, E> {
    inner: S,
    desk: Arc<Desk<E>>,
}

// === impl CacheLayer ===

impl<E> CacheLayer<E> {
    /// Answers by these rules, and knows by `ways` where calls go.
    pub fn new(params: Params, ways: Arc<dyn Ways>) -> Self {
        Self {
            desk: Arc::new(Desk::new(params, ways)),
        }
    }
}

impl<S, E> Layer<S> for CacheLayer<E> {
    type Service = Caching<S, E>;

    fn layer(&self, inner: S) -> Caching<S, E> {
        Caching {
            inner,
            desk: Arc::clone(&self.desk),
        }
    }
}

impl<S: Clone, E> Clone for Caching<S, E> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            desk: Arc::clone(&self.desk),
        }
    }
}

impl<S, E> Service<Call> for Caching<S, E>
where
    S: Service<Call, Response = Reply, Error = E> + Clone + Send + 'static,
    S::Future: Send,
    E: From<CacheError> + Send + 'static,
{
    type Response = Reply;
    type Error = E;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, E>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        let desk = Arc::clone(&self.desk);
        let verdict = desk.judge(&call);
        Box::pin(async move { desk.answer(inner, call, verdict).await })
    }
}
