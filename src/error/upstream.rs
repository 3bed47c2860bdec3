//! What failures of upstreams mean to a client.

use std::error::Error as _;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::{INVALID_REQUEST, SERVER, TIMEOUT, UPSTREAM, cut, explain, sentence, upload};
use crate::call::{Cause, StreamError};
use crate::middleware::explain::Explanation;
use crate::upstream::advice::Advice;
use crate::upstream::{DispatchError, Phase, UpstreamError};

pub(super) fn dispatch(error: &DispatchError) -> Explanation {
    match error {
        DispatchError::NoRoute { model } => explain(
            404,
            INVALID_REQUEST,
            "model_not_found",
            Cause::ClientUnknownModel,
            format!(
                "The model `{}` does not exist here: no route and no upstream serves it.",
                cut(model)
            ),
        )
        .param(Some("model")),
        DispatchError::NoClaim { method, path } => explain(
            404,
            INVALID_REQUEST,
            "unknown_url",
            Cause::ClientUnknownPath,
            format!(
                "Unknown request URL: {method} {}. No upstream of this gateway takes it.",
                cut(path)
            ),
        ),
        DispatchError::NothingWell { retry_after } => explain(
            503,
            SERVER,
            "overloaded",
            Cause::UpstreamEjected,
            "Every upstream of this model has failed of late and is left out for a while. Try again a little later.",
        )
        .retry_after(*retry_after),
        DispatchError::Upstream {
            name,
            source,
            spent,
        } => {
            let explanation = upstream(name, source);
            match (spent, source) {
                (true, _) => explanation.final_word(),
                // A wait that was too long for us is the client's to make.
                (
                    false,
                    UpstreamError::Status {
                        advice: Advice {
                            wait: Some(wait), ..
                        },
                        ..
                    },
                ) => explanation.retry_after(*wait),
                (false, _) => explanation,
            }
        }
    }
}

fn upstream(name: &Arc<str>, error: &UpstreamError) -> Explanation {
    let failed = |code, message: String| {
        explain(502, UPSTREAM, code, error.cause(), message).detail(chain(error))
    };
    let timeout = |message: String| {
        explain(504, TIMEOUT, "upstream_timeout", error.cause(), message).detail(chain(error))
    };
    let server =
        |status, code, message: String| explain(status, SERVER, code, error.cause(), message);
    match error {
        UpstreamError::Connect(_) => failed(
            "upstream_error",
            format!("The upstream `{name}` cannot be reached."),
        ),
        UpstreamError::Broken(_) => failed(
            "upstream_error",
            format!("The upstream `{name}` broke off its answer."),
        ),
        UpstreamError::Timeout {
            phase: Phase::Client,
            limit,
        } => timeout(format!(
            "The upstream `{name}` did not answer within the {limit:?} that the client gave it."
        )),
        UpstreamError::Timeout { .. } => {
            timeout(format!("The upstream `{name}` did not answer in time."))
        }
        UpstreamError::Status { status, .. } if *status == StatusCode::GATEWAY_TIMEOUT => timeout(
            format!("The upstream `{name}` did not get an answer in time."),
        ),
        UpstreamError::Status { status, .. } => failed(
            "upstream_error",
            format!(
                "The upstream `{name}` failed with status {}.",
                status.as_u16()
            ),
        ),
        UpstreamError::ErrorEvent { message } => failed(
            "upstream_error",
            message.clone().unwrap_or_else(|| {
                format!("The upstream `{name}` began its stream with an error.")
            }),
        ),
        UpstreamError::Refused(_) => failed(
            "upstream_auth_failed",
            format!("The upstream `{name}` refused the gateway's credential."),
        ),
        UpstreamError::Invalid(_) | UpstreamError::Unexpected(_) => failed(
            "upstream_invalid_response",
            format!("The upstream `{name}` sent an answer that is not valid."),
        ),
        UpstreamError::TooLarge { limit } => failed(
            "upstream_invalid_response",
            format!("The upstream `{name}` sent more than {limit} bytes in one answer."),
        ),
        UpstreamError::Upload(error) => upload(*error),
        UpstreamError::Overloaded { retry_after } => server(
            503,
            "overloaded",
            format!("The queue of `{name}` is full. Try again a little later."),
        )
        .retry_after(*retry_after),
        UpstreamError::NoPlace { retry_after } => server(
            503,
            "overloaded",
            format!("No place at `{name}` became free in time. Try again a little later."),
        )
        .retry_after(*retry_after),
        UpstreamError::NotLoaded => server(
            503,
            "overloaded",
            format!("The model of `{name}` is not loaded yet."),
        )
        .retry_after(Duration::from_secs(1)),
        UpstreamError::Engine(_) => server(
            500,
            "internal_error",
            format!("The model of `{name}` failed."),
        )
        .detail(chain(error)),
        UpstreamError::BadRequest {
            message,
            param,
            code,
        } => explain(400, INVALID_REQUEST, code, error.cause(), message.clone())
            .param(*param)
            .final_word(),
    }
}

pub(super) fn stream(error: StreamError) -> Explanation {
    let (status, kind, code) = match error {
        StreamError::Broken => (502, UPSTREAM, "upstream_error"),
        StreamError::Idle | StreamError::Overdue => (504, TIMEOUT, "upstream_timeout"),
        StreamError::TooLarge => (502, UPSTREAM, "upstream_invalid_response"),
        StreamError::Drained => (503, SERVER, "overloaded"),
        StreamError::Engine => (500, SERVER, "internal_error"),
        StreamError::Unrecorded => (503, SERVER, "ledger_unavailable"),
        // Nobody is left who could be told of the latter.
        StreamError::Behind | StreamError::Abandoned => (408, INVALID_REQUEST, "client_too_slow"),
    };
    let explanation = explain(
        status,
        kind,
        code,
        error.cause(),
        sentence(&error.to_string()),
    );
    match status {
        503 => explanation.retry_after(Duration::from_secs(1)),
        _ => explanation,
    }
}

/// Joins an error and its causes for the log.
fn chain(error: &UpstreamError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}
