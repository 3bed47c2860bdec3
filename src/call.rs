//! What travels inside the stack: a [`Call`] inwards, a [`Reply`] outwards, and the [`Record`] of facts that the outer
//! layers report.

mod estimate;
pub mod headers;
mod inbound;
mod join;
mod record;
mod reply;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method};
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;

pub use self::estimate::{Estimate, Priced, Room};
pub use self::inbound::{Authenticated, Routed};
pub use self::join::{Join, TooLarge};
pub use self::record::{Facts, Record, RequestId, Try};
pub use self::reply::{BoxBody, Outcome, Reply, ReplyBody, StreamError, Traffic, Tunnel};
use crate::openai::endpoint::Endpoint;
use crate::openai::json::Members;
use crate::pattern::Pattern;

/// Who calls: what a gateway key says of its holder. Never holds the key.
#[derive(Debug)]
pub struct Caller {
    /// The key's name in the configuration.
    pub key: Arc<str>,
    /// The team that the key belongs to.
    pub team: Option<Arc<str>>,
    /// Allow-lists of models, the key's and its team's: a model must match each of them.
    pub models: Vec<Vec<Pattern>>,
}

impl Caller {
    /// Returns whether every allow-list has the model.
    pub fn may_use(&self, model: &str) -> bool {
        self.models
            .iter()
            .all(|list| list.iter().any(|pattern| pattern.matches(model)))
    }
}

/// One authenticated, inspected request.
pub struct Call {
    /// Who asks.
    pub caller: Arc<Caller>,
    /// What is asked for.
    pub endpoint: Endpoint,
    /// The model asked for; `None` where the path has none to route by.
    pub model: Option<Arc<str>>,
    /// Whether the client wants the answer as a stream of events.
    pub stream: bool,
    /// Whether a streamed answer must end with its usage, asked for by the client or not.
    pub report_usage: bool,
    /// What it is expected to use; `None` where nobody can tell, or nothing is.
    pub estimate: Option<Estimate>,
    /// The room that is kept for it, until somebody keeps the books of it.
    pub room: Option<Box<dyn Room>>,
    /// When the client will have given up waiting for the answer to begin, where it said so.
    pub deadline: Option<Instant>,
    /// The request line and the headers fit to travel on: no credentials, nothing hop-by-hop.
    pub head: Head,
    /// The body.
    pub body: CallBody,
    /// Where the client's connection will be when it has been switched to another protocol.
    pub upgrade: Option<OnUpgrade>,
    /// Where the layers note what they learn.
    pub record: Arc<Record>,
}

/// The part of a request before its body.
#[derive(Clone, Debug)]
pub struct Head {
    /// The method.
    pub method: Method,
    /// Path and query exactly as the client sent them.
    pub target: PathAndQuery,
    /// End-to-end headers.
    pub headers: HeaderMap,
}

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
    pub fn cause(self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "client_too_large",
            Self::Stalled { .. } => "client_slow",
            Self::Broken => "client_malformed",
        }
    }
}

/// The body of a call.
pub enum CallBody {
    /// Nothing: the call is in the path alone.
    Empty,
    /// A JSON object, whole, and what was found in it.
    Json {
        /// The bytes as they came.
        bytes: Bytes,
        /// Where the members that Weir understands stand in `bytes`.
        members: Members,
    },
    /// A pass-through body on its way.
    Stream {
        /// The bytes to come.
        body: UploadBody,
        /// Their number, where the client announced it.
        length: Option<u64>,
    },
}

impl Call {
    /// Returns whether the request can be sent more than once: a JSON body is held whole, and a request without a body
    /// can be repeated if its method is safe (RFC 9110, section 9.2.1).
    pub fn is_replayable(&self) -> bool {
        match &self.body {
            CallBody::Json { .. } => true,
            CallBody::Empty => self.head.method.is_safe() && self.upgrade.is_none(),
            CallBody::Stream { .. } => false,
        }
    }

    /// Returns the same call once more, where it is replayable.
    pub fn again(&self) -> Option<Self> {
        let body = match &self.body {
            CallBody::Json { bytes, members } => CallBody::Json {
                bytes: bytes.clone(),
                members: members.clone(),
            },
            CallBody::Empty if self.is_replayable() => CallBody::Empty,
            CallBody::Empty | CallBody::Stream { .. } => return None,
        };
        Some(Self {
            caller: Arc::clone(&self.caller),
            endpoint: self.endpoint.clone(),
            model: self.model.clone(),
            stream: self.stream,
            report_usage: self.report_usage,
            estimate: self.estimate,
            room: None,
            deadline: self.deadline,
            head: self.head.clone(),
            body,
            upgrade: None,
            record: Arc::clone(&self.record),
        })
    }

    /// Returns the JSON body, or nothing for a pass-through call.
    pub fn json(&self) -> Option<(&Bytes, &Members)> {
        match &self.body {
            CallBody::Json { bytes, members } => Some((bytes, members)),
            CallBody::Stream { .. } | CallBody::Empty => None,
        }
    }
}
