//! Where answers come from. One trait, and the choice of the upstream that a call goes to.

pub mod error;

use std::future::Future;
use std::pin::Pin;

use crate::call::{Call, Reply};
use crate::openai::models::Model;
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

    /// Returns whether a call sent now could be answered.
    fn is_ready(&self) -> bool;
}
