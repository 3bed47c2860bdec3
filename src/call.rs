//! What travels inside the stack: a [`Call`] inwards, a [`Reply`] outwards, and the [`Record`] of facts that the outer
//! layers report.

mod cached;
mod cause;
mod content;
mod estimate;
pub mod headers;
mod inbound;
mod join;
mod origin;
mod record;
mod reply;
mod trace;
mod upload;

use std::sync::Arc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method};
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;

pub use self::cached::{Cached, Keeps, Looked, Sharing};
pub use self::cause::{Blame, Cause};
pub use self::content::{Content, Message};
pub use self::estimate::{Estimate, Priced, Room};
pub use self::inbound::{Authenticated, Routed};
pub use self::join::{Join, TooLarge};
pub use self::origin::Origin;
pub use self::record::{Allowance, Allowances, Facts, Record, RequestId, Try, written_name};
pub use self::reply::{BoxBody, Outcome, Reply, ReplyBody, StreamError, Traffic, Tunnel};
pub use self::trace::{Parent, SpanId, Trace, TraceId};
pub use self::upload::{Upload, UploadBody, UploadError};
use crate::openai::endpoint::Endpoint;
use crate::openai::json::Members;
use crate::pattern::Pattern;

/// Who calls: what a gateway key says of its holder. Never holds the key.
#[derive(Debug)]
pub struct Caller {
    /// The key's name.
    pub key: Arc<str>,
    /// Which key it is of those that have had the name.
    pub key_origin: Origin,
    /// The team that the key belongs to.
    pub team: Option<Arc<str>>,
    /// Which team it is of those that have had the name; without a team it says nothing.
    pub team_origin: Origin,
    /// Allow-lists of models, the key's and its team's: a model must match each of them.
    pub models: Vec<Vec<Pattern>>,
    /// Whether answers are kept for it, and which; `None`: as where the call goes.
    pub keeps: Option<Keeps>,
}

impl Caller {
    /// Returns a caller with a key of the configuration, of no team, with no bounds.
    pub fn configured(key: impl Into<Arc<str>>) -> Self {
        Self {
            key: key.into(),
            key_origin: Origin::Configured,
            team: None,
            team_origin: Origin::Configured,
            models: Vec::new(),
            keeps: None,
        }
    }

    /// Returns whether every allow-list has the model.
    pub fn may_use(&self, model: &str) -> bool {
        self.models
            .iter()
            .all(|list| list.iter().any(|pattern| pattern.matches(model)))
    }

    /// Returns whether every allow-list has all models.
    pub fn may_use_all(&self) -> bool {
        let any = Pattern::any();
        let mut lists = self.models.iter();
        lists.all(|list| list.contains(&any))
    }
}

/// One authenticated, inspected request.
pub struct Call {
    /// Who asks.
    pub caller: Arc<Caller>,
    /// What is asked for.
    pub endpoint: Endpoint,
    /// The model asked for; `None` where none is known. Where the call passes through, it is priced and limited by it, but
    /// not routed: see [`Call::routed_model`].
    pub model: Option<Arc<str>>,
    /// Whether the client wants the answer as a stream of events.
    pub stream: bool,
    /// Whether a streamed answer must end with its usage, asked for by the client or not.
    pub report_usage: bool,
    /// The upstream that it goes to, where it is known before it is sent: where there is but one.
    pub upstream: Option<Arc<str>>,
    /// What it is expected to use; `None` where nobody can tell, or nothing is.
    pub estimate: Option<Estimate>,
    /// The room that is kept for it, until somebody keeps the books of it.
    pub room: Option<Box<dyn Room>>,
    /// What was looked up for it; `None`: nobody has.
    pub looked: Option<Looked>,
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

/// The body of a call.
pub enum CallBody {
    /// Nothing: the call is in the path alone.
    Empty,
    /// A JSON object, whole, and what was found in it.
    Json {
        /// The bytes as they came.
        bytes: Bytes,
        /// Where the members that Weir understands stand in `bytes`.
        members: Box<Members>,
    },
    /// A pass-through body on its way.
    Stream {
        /// The bytes to come.
        body: Upload,
        /// Their number, where the client announced it.
        length: Option<u64>,
    },
}

impl Call {
    /// Returns the model that decides where the call goes; `None` where its path does.
    pub fn routed_model(&self) -> Option<&Arc<str>> {
        self.model
            .as_ref()
            .filter(|_| self.endpoint.is_generation())
    }

    /// Returns whether the request can be sent more than once: a JSON body is held whole, and a request without a body
    /// can be repeated if its method is safe (RFC 9110, section 9.2.1).
    pub fn is_replayable(&self) -> bool {
        match &self.body {
            CallBody::Json { .. } => true,
            CallBody::Empty => self.head.method.is_safe() && self.upgrade.is_none(),
            CallBody::Stream { .. } => false,
        }
    }

    /// Returns whether nothing of its body has been sent: it could be sent for the first time once more.
    pub fn is_whole(&self) -> bool {
        match &self.body {
            CallBody::Json { .. } | CallBody::Empty => true,
            CallBody::Stream { body, .. } => body.is_whole(),
        }
    }

    /// Returns whether its answer is there already: it uses nothing.
    pub fn is_answered(&self) -> bool {
        self.looked
            .as_ref()
            .is_some_and(|looked| looked.is_answered)
    }

    /// Returns the same call once more. A body on its way is shared with it: whichever is sent first takes it.
    pub fn again(&self) -> Self {
        let body = match &self.body {
            CallBody::Json { bytes, members } => CallBody::Json {
                bytes: bytes.clone(),
                members: members.clone(),
            },
            CallBody::Empty => CallBody::Empty,
            CallBody::Stream { body, length } => CallBody::Stream {
                body: body.clone(),
                length: *length,
            },
        };
        Self {
            caller: Arc::clone(&self.caller),
            endpoint: self.endpoint.clone(),
            model: self.model.clone(),
            stream: self.stream,
            report_usage: self.report_usage,
            upstream: self.upstream.clone(),
            estimate: self.estimate,
            room: None,
            looked: None,
            deadline: self.deadline,
            head: self.head.clone(),
            body,
            upgrade: self.upgrade.clone(),
            record: Arc::clone(&self.record),
        }
    }

    /// Returns the JSON body, or nothing for a pass-through call.
    pub fn json(&self) -> Option<(&Bytes, &Members)> {
        match &self.body {
            CallBody::Json { bytes, members } => Some((bytes, members)),
            CallBody::Stream { .. } | CallBody::Empty => None,
        }
    }
}
