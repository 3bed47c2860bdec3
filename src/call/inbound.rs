//! What is known of a request on its way to becoming a [`Call`](super::Call).

use std::sync::Arc;

use http::request::Parts;

use super::{Caller, Record};
use crate::openai::endpoint::Target;

/// A request whose target has been understood.
pub struct Routed<B> {
    /// The request's notebook.
    pub record: Arc<Record>,
    /// What is asked for.
    pub target: Target,
    /// The head.
    pub parts: Parts,
    /// The body, unread.
    pub body: B,
}

/// A request whose caller is known.
pub struct Authenticated<B> {
    /// Who calls.
    pub caller: Arc<Caller>,
    /// The request's notebook.
    pub record: Arc<Record>,
    /// What is asked for.
    pub target: Target,
    /// The head, without any key.
    pub parts: Parts,
    /// The body, unread.
    pub body: B,
}
