//! Answers calls by what others like them have got: from the cache, or together with one that is under way.
//!
//! It stands inside of accounting, so that what it serves is in the ledger like anything else, at no cost; and outside of
//! everything that is tried at upstreams, so that only an answer in order is kept or shared. Whoever asks first leads: the
//! call goes upstream as its own would, and pays. Those who ask for the same while it is under way get what has come and then
//! the rest as it comes. Should it fail before there is anything to share, each of them asks by itself.
//!
//! A call that its client makes again, since it heard nothing, gets the answer that was meant for it, whether others may get
//! that or not: while it is under way, and for some time after that.
//!
//! What may be kept, and what makes two calls the same, is in `judge` and `key`; which call is made again, in `identity`; who
//! gets which answer, in `desk`; and what several gateways get together, in `shared`. What is there already is found before the
//! call is let in, in `lookup`.

mod control;
mod desk;
mod flight;
mod flights;
mod identity;
mod judge;
mod keeping;
mod key;
mod leading;
mod lookup;
mod preview;
mod replay;
mod shape;
mod shared;
mod status;
#[cfg(test)]
mod tests;

use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, Either};
use tower::{Layer, Service};

use self::desk::Desk;
pub use self::judge::{Rules, Scope, Terms, Ways, When};
use self::lookup::LookedUp;
pub use self::lookup::{Lookup, LookupLayer};
pub use self::preview::{Preview, preview};
pub use self::shared::Shared;
use super::explain::Explain;
use crate::call::{Call, Reply};
use crate::store::cache::Cache;
use crate::store::retries::{Retries, Taken};

/// Why a call is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// It wants an answer that is there already, and there is none.
    #[error("no answer is kept for it")]
    NotKept,
    /// Its `Idempotency-Key` stands for another call.
    #[error("its idempotency key was used for another call")]
    KeyReused,
    /// It has several `Idempotency-Key` headers.
    #[error("several idempotency keys")]
    KeyAmbiguous,
    /// The call that it has joined has not answered in the time that its client gives it.
    #[error("the answer that it waits for has not begun in time")]
    TooLate,
}

impl From<Taken> for CacheError {
    fn from(_: Taken) -> Self {
        Self::KeyReused
    }
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
    /// What clients get that ask again; `None`: what everybody gets.
    pub retries: Option<Retrying>,
    /// Whether what is answered by other calls' answers counts as tokens of limits and budgets all the same.
    pub counts_saved: bool,
}

/// What clients get that make the same call again, since they heard nothing of it.
#[derive(Clone)]
pub struct Retrying {
    /// Where answers are kept for them.
    pub store: Arc<Retries>,
    /// For how long.
    pub window: Duration,
    /// How long a call goes on that had no answer when its client left, where that is one which asks again.
    pub linger: Duration,
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

    /// Returns what looks calls up before they are let in.
    pub fn lookup(&self) -> LookupLayer<E> {
        LookupLayer {
            desk: Arc::clone(&self.desk),
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
    E: From<CacheError> + Explain + Send + 'static,
{
    type Response = Reply;
    type Error = E;
    type Future = Either<Ready<Result<Reply, E>>, BoxFuture<'static, Result<Reply, E>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut call: Call) -> Self::Future {
        let notes = call.looked.take().map(|looked| looked.notes);
        let looked = match notes.and_then(|notes| notes.downcast::<LookedUp>().ok()) {
            Some(looked) => Ok(*looked),
            None => self.desk.look_up(&call),
        };
        let quest = match looked {
            Err(error) => return Either::Left(ready(Err(error.into()))),
            // Nothing is waited for.
            Ok(LookedUp {
                found: Some(found),
                quest,
            }) => {
                let named = self.desk.note_name(&quest, &found);
                let reply = named.map(|()| self.desk.hit(&found, &call));
                return Either::Left(ready(reply.map_err(E::from)));
            }
            Ok(LookedUp { quest, .. }) => quest,
        };
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        let desk = Arc::clone(&self.desk);
        Either::Right(Box::pin(
            async move { desk.answer(inner, call, quest).await },
        ))
    }
}
