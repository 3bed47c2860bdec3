//! What travels inside the stack: a [`Call`] inwards, a [`Reply`] outwards, and the [`Record`] of facts that the outer
//! layers report.

mod record;
mod reply;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method};

pub use self::record::{Facts, Record, RequestId};
pub use self::reply::{BoxBody, Outcome, Reply, ReplyBody, StreamError};
use crate::openai::endpoint::Endpoint;
use crate::openai::json::Members;

/// Who calls: what a gateway key says of its holder. Never holds the key.
#[derive(Debug)]
pub struct Caller {
    /// The key's name in the configuration.
    pub key: Arc<str>,
    /// The team that the key belongs to.
    pub team: Option<Arc<str>>,
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
    /// The request line and the headers fit to travel on: no credentials, nothing hop-by-hop.
    pub head: Head,
    /// The body.
    pub body: CallBody,
    /// When the request head had arrived.
    pub received: Instant,
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
        body: BoxBody,
        /// Their number, where the client announced it.
        length: Option<u64>,
    },
}

impl Call {
    /// Returns the JSON body, or nothing for a pass-through call.
    pub fn json(&self) -> Option<(&Bytes, &Members)> {
        match &self.body {
            CallBody::Json { bytes, members } => Some((bytes, members)),
            CallBody::Stream { .. } => None,
        }
    }

    /// Returns how long ago the request head had arrived.
    pub fn age(&self) -> Duration {
        self.received.elapsed()
    }
}
