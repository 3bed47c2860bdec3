//! Where answers come from. One trait, and the choice of the upstream that a call goes to.

mod dispatch;
pub mod error;
#[cfg(feature = "local")]
pub mod local;
pub mod remote;
#[cfg(feature = "local")]
pub mod transformer;

use std::future::Future;
use std::pin::Pin;

use crate::call::{Call, Reply};
use crate::openai::models::Model;
pub use dispatch::{Dispatch, DispatchError, Member, Route};
pub use error::UpstreamError;

/// A future of an upstream.
pub type UpstreamFuture<T> = Pin<Box<dyn Future<Output = Result<T, UpstreamError>> + Send>>;

/// Something that answers calls: a remote service, or a model in this process.
///
/// Dropping the future of a call, or the body of its reply, cancels the call at the upstream.
pub trait Upstream: Send + Sync + 'static {
    /// Answers one call. `model` is the name that this upstream knows the model by; it differs from `call.model` where
    /// a route renames, and is `None` for pass-through calls.
    fn call(&self, call: Call, model: Option<&str>) -> UpstreamFuture<Reply>;

    /// Lists the models that this upstream has.
    fn models(&self) -> UpstreamFuture<Vec<Model>>;

    /// Describes one model, by this upstream's name for it. `None`: it has no such model.
    fn model(&self, name: &str) -> UpstreamFuture<Option<Model>> {
        let (listing, name) = (self.models(), name.to_owned());
        Box::pin(async move { Ok(listing.await?.into_iter().find(|model| model.id == name)) })
    }

    /// Returns whether a call sent now could be answered.
    fn is_ready(&self) -> bool;
}
