//! Looks a call up before it is let in: what is answered already uses nothing, so no limit of tokens and no budget has a say
//! in it.
//!
//! It stands outside of admission, and notes on the call what it has found; the desk further in answers by that.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use tower::{Layer, Service};

use super::CacheError;
use super::desk::{Desk, Quest};
use crate::call::{Call, Looked, Reply};
use crate::store::cache::Entry;

/// What was found out of a call.
pub(super) struct LookedUp {
    pub(super) quest: Quest,
    pub(super) found: Option<Found>,
}

/// An answer that is there already.
pub(super) struct Found {
    pub(super) entry: Arc<Entry>,
    /// Whether it was made for this very call.
    pub(super) is_its_own: bool,
    /// Whether it comes at the pace at which it came.
    pub(super) paced: bool,
}

/// Builds [`Lookup`].
pub struct LookupLayer<E> {
    pub(super) desk: Arc<Desk<E>>,
}

/// The service of this layer.
pub struct Lookup<S, E> {
    inner: S,
    desk: Arc<Desk<E>>,
}

impl<S, E> Layer<S> for LookupLayer<E> {
    type Service = Lookup<S, E>;

    fn layer(&self, inner: S) -> Lookup<S, E> {
        Lookup {
            inner,
            desk: Arc::clone(&self.desk),
        }
    }
}

impl<S: Clone, E> Clone for Lookup<S, E> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            desk: Arc::clone(&self.desk),
        }
    }
}

impl<S, E> Service<Call> for Lookup<S, E>
where
    S: Service<Call, Response = Reply, Error = E>,
    E: From<CacheError>,
{
    type Response = Reply;
    type Error = E;
    type Future = Either<S::Future, std::future::Ready<Result<Reply, E>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut call: Call) -> Self::Future {
        match self.desk.look_up(&call) {
            Ok(looked) => {
                call.looked = Some(Looked {
                    is_answered: looked.found.is_some() && !self.desk.counts_saved(),
                    notes: Box::new(looked),
                });
                Either::Left(self.inner.call(call))
            }
            Err(error) => Either::Right(std::future::ready(Err(error.into()))),
        }
    }
}
