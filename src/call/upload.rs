//! Request bodies that pass through without being held.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::cause::Cause;

/// A request body on its way from the client.
pub type UploadBody = Pin<Box<dyn http_body::Body<Data = Bytes, Error = UploadError> + Send>>;

/// How a request body can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UploadError {
    /// It grew beyond the configured bound.
    #[error("larger than {limit} bytes")]
    TooLarge {
        /// The bound in bytes.
        limit: u64,
    },
    /// Nothing came for too long.
    #[error("nothing came for {limit:?}")]
    Stalled {
        /// The idle timeout.
        limit: Duration,
    },
    /// The client's connection or framing broke.
    #[error("the connection or its framing broke")]
    Broken,
}

impl UploadError {
    /// Returns who is to blame: a word of the closed vocabulary `client_*`.
    pub fn cause(self) -> Cause {
        match self {
            Self::TooLarge { .. } => Cause::ClientTooLarge,
            Self::Stalled { .. } => Cause::ClientSlow,
            Self::Broken => Cause::ClientMalformed,
        }
    }
}

/// A request body that has not been sent, shared by the tries of its call. The first that sends takes it, so that a try
/// without a connection leaves it to the next, and nothing is sent twice.
#[derive(Clone)]
pub struct Upload(Arc<Mutex<Option<UploadBody>>>);

impl Upload {
    /// Wraps a body of which nothing has been read.
    pub fn new(body: UploadBody) -> Self {
        Self(Arc::new(Mutex::new(Some(body))))
    }

    /// Takes the body, to send it. `None`: another try has.
    pub fn take(&self) -> Option<UploadBody> {
        self.body().take()
    }

    /// Returns whether nobody has begun to send it.
    pub fn is_whole(&self) -> bool {
        self.body().is_some()
    }

    /// Returns whether it is known to have no bytes.
    pub fn is_empty(&self) -> bool {
        self.body().as_ref().is_none_or(|body| body.is_end_stream())
    }

    fn body(&self) -> MutexGuard<'_, Option<UploadBody>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
