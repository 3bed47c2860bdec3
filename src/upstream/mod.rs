//! Where answers come from. One trait, and the choice of the upstream that a call goes to.

pub mod advice;
pub mod error;
#[cfg(feature = "local")]
pub mod local;
pub mod member;
pub mod remote;
pub mod routing;
#[cfg(feature = "local")]
pub mod transformer;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tokio::time::Instant;

use crate::call::{Call, Reply};
use crate::metrics::EngineState;
use crate::openai::models::Model;
pub use error::{Phase, UpstreamError};
pub use routing::{Dispatch, DispatchError};

/// A future of an upstream.
pub type UpstreamFuture<T> = Pin<Box<dyn Future<Output = Result<T, UpstreamError>> + Send>>;

/// One try at an upstream.
pub struct Attempt {
    /// What is asked. Boxed, as it is handed on often and large.
    pub call: Box<Call>,
    /// The name that this upstream knows the model by; it differs from `call.model` where a route renames, and is
    /// `None` for pass-through calls.
    pub model: Option<Arc<str>>,
    /// What the upstream is shown; `None` where it asks for nothing.
    pub credential: Option<Credential>,
    /// How long each part of the answer may take.
    pub timeouts: Timeouts,
    /// When the answer must have begun; one that is held until it is whole, such as a plain one, must be whole by then.
    /// The client's own patience counts here: it waits for a head.
    pub deadline: Instant,
    /// When the answer's last byte must have come.
    pub overdue: Instant,
    /// Its place among the tries of the call's record, which says more of it as it goes on.
    pub number: usize,
}

/// How long the parts of an answer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's last byte to the answer's head.
    pub first_byte: Duration,
    /// From the head of a stream to its first content.
    pub first_content: Duration,
    /// Between two pieces of the answer.
    pub idle: Duration,
    /// From the beginning to the answer's last byte, all attempts together.
    pub total: Duration,
}

/// A header that proves who we are. The value is marked sensitive.
#[derive(Clone, Debug)]
pub struct Credential {
    /// `authorization`, or `api-key`.
    pub name: HeaderName,
    /// The whole value.
    pub value: HeaderValue,
}

/// Something that answers calls: a remote service, or a model in this process.
///
/// Dropping the future of a call, or the body of its reply, cancels the call at the upstream.
pub trait Upstream: Send + Sync + 'static {
    /// Answers one call. Statuses that are the client's to see, 429 and 409 among them, are replies; everything else
    /// that is no answer is an error.
    fn call(&self, attempt: Attempt) -> UpstreamFuture<Reply>;

    /// Lists the models that this upstream has.
    fn models(&self, credential: Option<Credential>) -> UpstreamFuture<Vec<Model>>;

    /// Describes one model, by this upstream's name for it. `None`: it has no such model.
    fn model(&self, name: &str, credential: Option<Credential>) -> UpstreamFuture<Option<Model>> {
        let (listing, name) = (self.models(credential), name.to_owned());
        Box::pin(async move { Ok(listing.await?.into_iter().find(|model| model.id == name)) })
    }

    /// Asks whether the upstream is well, by a GET of `path` below its base URL: any answer below 500 says yes.
    fn probe(&self, path: &str, credential: Option<Credential>) -> UpstreamFuture<()>;

    /// Returns whether a call sent now could be answered.
    fn is_ready(&self) -> bool;

    /// Returns how busy the model is, where it is in this process.
    fn engine(&self) -> Option<EngineState> {
        None
    }
}
