//! How an upstream can fail before its answer has begun.

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use super::advice::Advice;
use crate::call::{Cause, UploadError};

/// A call that brought no answer fit for the client. `Display` is for the log: it may name addresses.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No connection, or TLS failed.
    #[error("cannot connect")]
    Connect(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection broke before the answer was whole.
    #[error("the connection broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// One of the upstream's timeouts ran out.
    #[error("no answer within the {phase} timeout of {limit:?}")]
    Timeout {
        /// Which of the timeouts.
        phase: Phase,
        /// Its length.
        limit: Duration,
    },
    /// It answered with a status that stands for its own failure.
    #[error("answered {status}")]
    Status {
        /// The status.
        status: StatusCode,
        /// When it said to come back.
        advice: Advice,
    },
    /// It answered with a status that no answer of the API has.
    #[error("answered {0}, which no answer of the API has")]
    Unexpected(StatusCode),
    /// Its stream began with an error.
    #[error("the stream began with an error")]
    ErrorEvent {
        /// Its own words, where they are spelled as the OpenAI API does.
        message: Option<String>,
    },
    /// It refused our credential.
    #[error("refused our credential with {0}")]
    Refused(StatusCode),
    /// It answered something that is not an answer of the OpenAI API.
    #[error("invalid answer: {0}")]
    Invalid(&'static str),
    /// Its answer is larger than we hold.
    #[error("the answer is larger than {limit} bytes")]
    TooLarge {
        /// The bound in bytes.
        limit: u64,
    },
    /// The client's upload broke, stalled or grew too large on its way.
    #[error("the request body broke")]
    Upload(#[from] UploadError),
    /// The local queue is full.
    #[error("the queue is full")]
    Overloaded {
        /// When a place can be expected.
        retry_after: Duration,
    },
    /// The call waited for a place until its time was over.
    #[error("no place became free in time")]
    NoPlace {
        /// When a place can be expected.
        retry_after: Duration,
    },
    /// The local model is not there (yet, or any more).
    #[error("the model is not loaded")]
    NotLoaded,
    /// The local model failed in the middle of its work.
    #[error("the model failed: {0}")]
    Engine(String),
    /// The call itself is at fault, found out by the local model: an error for the client.
    #[error("bad request: {message}")]
    BadRequest {
        /// What is wrong, for the client.
        message: String,
        /// The field at fault.
        param: Option<&'static str>,
        /// The error's code, as the OpenAI API spells it.
        code: &'static str,
    },
}

/// The parts of an answer that have a timeout of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Until the connection stands.
    Connect,
    /// Until it is secured.
    Tls,
    /// From the request's last byte to the answer's head.
    FirstByte,
    /// From the head of a stream to its first content.
    FirstContent,
    /// Between two pieces of the answer.
    Idle,
    /// All of the call.
    Total,
    /// What one target has of it.
    Target,
    /// What the call's client waits for, as short as it likes.
    Client,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::FirstByte => "first_byte",
            Self::FirstContent => "first_content",
            Self::Idle => "idle",
            Self::Total | Self::Target => "total",
            Self::Client => "client's own",
        })
    }
}

impl UpstreamError {
    /// Returns who is to blame.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Connect(_) => Cause::UpstreamConnect,
            Self::Broken(_) => Cause::UpstreamBroken,
            Self::Timeout {
                phase: Phase::Client,
                ..
            } => Cause::ClientDeadline,
            Self::Timeout { .. } => Cause::UpstreamTimeout,
            Self::Status { status, .. } if *status == StatusCode::GATEWAY_TIMEOUT => {
                Cause::UpstreamTimeout
            }
            Self::Status { .. } | Self::ErrorEvent { .. } => Cause::UpstreamStatus,
            Self::Refused(_) => Cause::UpstreamAuth,
            Self::Invalid(_) | Self::Unexpected(_) => Cause::UpstreamInvalid,
            Self::TooLarge { .. } => Cause::UpstreamTooLarge,
            Self::Upload(error) => error.cause(),
            Self::Overloaded { .. } | Self::NoPlace { .. } => Cause::GatewayOverloaded,
            Self::NotLoaded => Cause::GatewayNotReady,
            Self::Engine(_) => Cause::GatewayEngine,
            Self::BadRequest { .. } => Cause::ClientInvalidBody,
        }
    }

    /// Returns the status that the upstream answered, where it did.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } | Self::Refused(status) | Self::Unexpected(status) => {
                Some(*status)
            }
            Self::Connect(_)
            | Self::Broken(_)
            | Self::Timeout { .. }
            | Self::Invalid(_)
            | Self::TooLarge { .. }
            | Self::Upload(_)
            | Self::ErrorEvent { .. }
            | Self::Overloaded { .. }
            | Self::NoPlace { .. }
            | Self::NotLoaded
            | Self::Engine(_)
            | Self::BadRequest { .. } => None,
        }
    }
}
