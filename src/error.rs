//! Every way in which a request can fail, and the one map from there to what the client, the log and the metrics see.
//!
//! The matches are exhaustive on purpose: a new variant does not compile until its status, type, code, cause and
//! headers are decided.

mod accounting;
mod admission;
mod upstream;

use std::borrow::Cow;
use std::time::Duration;

use http::{HeaderValue, StatusCode, header};

use crate::call::{Cause, StreamError, UploadError};
use crate::middleware::accounting::AccountingError;
use crate::middleware::admission::AdmissionError;
use crate::middleware::api::ApiError;
use crate::middleware::auth::AuthError;
use crate::middleware::cache::CacheError;
use crate::middleware::explain::{Explain, Explanation};
use crate::middleware::own_usage::OwnUsageError;
use crate::middleware::route::RouteError;
use crate::openai::endpoint::TargetError;
use crate::openai::json::JsonError;
use crate::upstream::DispatchError;

/// The sum of what the layers can raise.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The request line or the headers cannot be taken.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The caller is not known, or may not do this.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The body cannot be taken.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The caller cannot be told what it used.
    #[error(transparent)]
    OwnUsage(#[from] OwnUsageError),
    /// The call would use more than it may.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    /// The call cannot be written down.
    #[error(transparent)]
    Accounting(#[from] AccountingError),
    /// No answer is kept for the call, and it wants no other; or it says to be one that it is not.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// No upstream could be chosen, or the chosen one failed.
    #[error(transparent)]
    Dispatch(#[from] DispatchError),
    /// The answer broke after it had begun.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The server room turned the bytes away before they were a request.
    #[error("the connection's bytes are no request")]
    Connection(StatusCode),
    /// A bug.
    #[error("a panic was caught")]
    Panic,
}

const INVALID_REQUEST: &str = "invalid_request_error";
const UPSTREAM: &str = "upstream_error";
const TIMEOUT: &str = "timeout_error";
const SERVER: &str = "server_error";

impl Explain for GatewayError {
    fn explain(&self) -> Explanation {
        match self {
            Self::Route(error) => route(error),
            Self::Auth(error) => auth(error),
            Self::Api(error) => api(error),
            Self::OwnUsage(error) => own_usage(error),
            Self::Admission(error) => admission::admission(error),
            Self::Accounting(error) => accounting::accounting(error),
            Self::Cache(CacheError::NotKept) => not_kept(),
            Self::Cache(CacheError::KeyReused) => key_reused(),
            Self::Cache(CacheError::KeyAmbiguous) => key_ambiguous(),
            Self::Cache(CacheError::TooLate) => too_late(),
            Self::Dispatch(error) => upstream::dispatch(error),
            Self::Stream(error) => upstream::stream(*error),
            Self::Connection(status) => connection(*status),
            Self::Panic => explain(
                500,
                SERVER,
                "internal_error",
                Cause::GatewayPanic,
                "The gateway failed; this is a bug.",
            ),
        }
    }
}

/// RFC 9111, section 5.2.1.7.
fn not_kept() -> Explanation {
    explain(
        504,
        TIMEOUT,
        "not_cached",
        Cause::ClientNotCached,
        "No answer is kept for this request, and its `cache-control: only-if-cached` wants no other.",
    )
    .final_word()
}

fn too_late() -> Explanation {
    explain(
        504,
        TIMEOUT,
        "upstream_timeout",
        Cause::ClientDeadline,
        "The same request is under way, and was not answered within the time that the client gave it.",
    )
}

/// draft-ietf-httpapi-idempotency-key-header, section 2.7.
fn key_reused() -> Explanation {
    explain(
        422,
        INVALID_REQUEST,
        "idempotency_key_reused",
        Cause::ClientKeyReused,
        "This `Idempotency-Key` was used for a request with another path, header or body. Send another key, or the same request.",
    )
    .final_word()
}

fn key_ambiguous() -> Explanation {
    explain(
        400,
        INVALID_REQUEST,
        "idempotency_key_ambiguous",
        Cause::ClientMalformed,
        "More than one `Idempotency-Key` header. Send one key for each request.",
    )
    .final_word()
}

fn explain(
    status: u16,
    kind: &'static str,
    code: &'static str,
    cause: Cause,
    message: impl Into<String>,
) -> Explanation {
    Explanation {
        status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        kind,
        code,
        param: None,
        message: message.into(),
        cause,
        detail: None,
        headers: Vec::new(),
        close: false,
    }
}

impl Explanation {
    fn param(mut self, param: Option<&'static str>) -> Self {
        self.param = param;
        self
    }

    fn detail(mut self, detail: String) -> Self {
        self.detail = Some(detail);
        self
    }

    /// Asks for a new connection: the bytes that follow on this one are not to be trusted.
    fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    fn header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Whole seconds for everyone, milliseconds for the SDKs that read them.
    fn retry_after(self, wait: Duration) -> Self {
        // Upwards: whoever comes back then does not come too early.
        let millis = wait.as_nanos().div_ceil(1_000_000).max(1);
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        self.header(
            header::RETRY_AFTER,
            HeaderValue::from(millis.div_ceil(1000)),
        )
        .header(
            header::HeaderName::from_static("retry-after-ms"),
            HeaderValue::from(millis),
        )
    }

    /// Tells the SDKs that the same request will fail again.
    fn final_word(self) -> Self {
        self.header(
            header::HeaderName::from_static("x-should-retry"),
            HeaderValue::from_static("false"),
        )
    }
}

fn route(error: &RouteError) -> Explanation {
    let too_large = |status, cause, message: String| {
        explain(status, INVALID_REQUEST, "request_too_large", cause, message).closing()
    };
    match error {
        RouteError::Target {
            error: TargetError::UnknownPath,
            method,
            path,
        } => explain(
            404,
            INVALID_REQUEST,
            "unknown_url",
            Cause::ClientUnknownPath,
            format!(
                "Unknown request URL: {method} {}. The OpenAI API lies under /v1.",
                cut(path)
            ),
        ),
        RouteError::Target {
            error: TargetError::MethodNotAllowed { allow },
            method,
            path,
        } => explain(
            405,
            INVALID_REQUEST,
            "method_not_allowed",
            Cause::ClientMethod,
            format!(
                "Not allowed to {method} on {} (HTTP methods allowed: {allow}).",
                cut(path)
            ),
        )
        .header(header::ALLOW, HeaderValue::from_static(allow)),
        RouteError::UriTooLong { limit } => too_large(
            414,
            Cause::ClientTooLarge,
            format!("The request URI is longer than {limit} bytes."),
        ),
        RouteError::HeadTooLarge { limit } => too_large(
            431,
            Cause::ClientTooLarge,
            format!("The request headers are larger than {limit} bytes."),
        ),
        RouteError::TooManyHeaders { limit } => too_large(
            431,
            Cause::ClientTooLarge,
            format!("The request has more than {limit} headers."),
        ),
        RouteError::Malformed(what) => explain(
            400,
            INVALID_REQUEST,
            "bad_request",
            Cause::ClientMalformed,
            format!("Malformed request: {what}."),
        )
        .closing(),
    }
}

fn own_usage(error: &OwnUsageError) -> Explanation {
    explain(
        503,
        SERVER,
        "ledger_unavailable",
        Cause::GatewayLedger,
        "What was used cannot be read at the moment.",
    )
    .retry_after(Duration::from_secs(5))
    .detail(error.0.to_string())
}

fn auth(error: &AuthError) -> Explanation {
    let unauthorized = |cause, message: &str| {
        explain(401, INVALID_REQUEST, "invalid_api_key", cause, message)
            .header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    };
    match error {
        AuthError::Missing => unauthorized(
            Cause::ClientNoKey,
            "No API key provided. Send the gateway key as `Authorization: Bearer KEY` (or `api-key`, `x-api-key`).",
        ),
        AuthError::Ambiguous => unauthorized(
            Cause::ClientNoKey,
            "More than one Authorization header. Send the gateway key once.",
        ),
        AuthError::Unknown { prefix } => {
            let explanation = unauthorized(
                Cause::ClientWrongKey,
                "Incorrect API key provided. The gateway does not know this key.",
            );
            match prefix {
                Some(prefix) => explanation.detail(format!("unknown key {prefix}…")),
                None => explanation,
            }
        }
        AuthError::Expired => unauthorized(Cause::ClientExpiredKey, "This API key has expired."),
        AuthError::Replaced => unauthorized(
            Cause::ClientExpiredKey,
            "This API key was replaced by a new one, and is not valid any more. Use the new one.",
        ),
        AuthError::Path { path, .. } => explain(
            403,
            "permission_error",
            "path_not_allowed",
            Cause::PolicyPath,
            format!("This API key may not use the path {}.", cut(path)),
        ),
    }
}

fn api(error: &ApiError) -> Explanation {
    match error {
        ApiError::Json(error) => json(error),
        ApiError::ModelMissing => explain(
            400,
            INVALID_REQUEST,
            "invalid_type",
            Cause::ClientInvalidBody,
            "You must provide a `model`, as a string.",
        )
        .param(Some("model")),
        ApiError::ModelNotAllowed { model } => explain(
            403,
            "permission_error",
            "model_not_allowed",
            Cause::PolicyModel,
            format!("This API key may not use the model `{}`.", cut(model)),
        )
        .param(Some("model")),
        ApiError::ModelUnknown => explain(
            403,
            "permission_error",
            "model_not_allowed",
            Cause::PolicyModel,
            "This API key may use some models only, and this call does not tell its model where that can be checked before it goes on: in the query of a WebSocket, or as `model` in a JSON body of at most 256 KiB.",
        )
        .param(Some("model"))
        .closing(),
        ApiError::Encoded => explain(
            415,
            INVALID_REQUEST,
            "unsupported_content_encoding",
            Cause::ClientInvalidBody,
            "Compressed request bodies are not supported on this path.",
        )
        .closing(),
        ApiError::Upload(error) => upload(*error),
        ApiError::Overdue { limit } => explain(
            408,
            INVALID_REQUEST,
            "request_timeout",
            Cause::ClientSlow,
            format!("The request body did not arrive within {limit:?}."),
        )
        .closing(),
    }
}

fn json(error: &JsonError) -> Explanation {
    let (code, param) = match error {
        JsonError::Syntax { .. } | JsonError::NotAnObject | JsonError::TooDeep { .. } => {
            ("invalid_json", None)
        }
        JsonError::Duplicate(member) => ("invalid_json", Some(*member)),
        JsonError::Type { member, .. } => ("invalid_type", Some(*member)),
    };
    explain(
        400,
        INVALID_REQUEST,
        code,
        Cause::ClientInvalidBody,
        sentence(&error.to_string()),
    )
    .param(param)
}

fn upload(error: UploadError) -> Explanation {
    let (status, code, message) = match error {
        UploadError::TooLarge { limit } => (
            413,
            "request_too_large",
            format!("The request body is larger than {limit} bytes."),
        ),
        UploadError::Stalled { .. } => (408, "request_timeout", unusable(error)),
        UploadError::Broken => (400, "bad_request", unusable(error)),
    };
    explain(status, INVALID_REQUEST, code, error.cause(), message).closing()
}

fn unusable(error: UploadError) -> String {
    sentence(&format!("the request body is unusable: {error}"))
}

fn connection(status: StatusCode) -> Explanation {
    match status {
        StatusCode::REQUEST_TIMEOUT => explain(
            408,
            INVALID_REQUEST,
            "request_timeout",
            Cause::ClientSlow,
            "The request head did not arrive in time.",
        ),
        StatusCode::URI_TOO_LONG => explain(
            414,
            INVALID_REQUEST,
            "request_too_large",
            Cause::ClientTooLarge,
            "The request URI is too long.",
        ),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => explain(
            431,
            INVALID_REQUEST,
            "request_too_large",
            Cause::ClientTooLarge,
            "The request head has too many headers, or too large ones.",
        ),
        _ => explain(
            400,
            INVALID_REQUEST,
            "bad_request",
            Cause::ClientMalformed,
            "The bytes on this connection are not a valid HTTP request.",
        ),
    }
    .closing()
}

/// Cuts what a client wrote to a length that a message and a log line can bear.
fn cut(text: &str) -> Cow<'_, str> {
    const LENGTH: usize = 128;
    match text.char_indices().nth(LENGTH) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// Turns an error's text into a sentence for a person.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars
        .next()
        .map(|c| c.to_uppercase().to_string())
        .unwrap_or_default();
    format!("{first}{}.", chars.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::UpstreamError;

    fn upstream_error(source: UpstreamError) -> Explanation {
        GatewayError::from(DispatchError::Upstream {
            name: "openai".into(),
            source,
            spent: false,
        })
        .explain()
    }

    #[test]
    fn internal_text_stays_inside() {
        let cause = std::io::Error::other("10.0.0.7:4317 refused");
        let explanation = upstream_error(UpstreamError::Connect(Box::new(cause)));
        assert_eq!(explanation.status, 502);
        assert!(!explanation.message.contains("10.0.0.7"));
        assert!(explanation.detail.unwrap().contains("10.0.0.7"));
    }

    #[test]
    fn a_clients_own_deadline_is_told_by_its_figure() {
        let explanation = upstream_error(UpstreamError::Timeout {
            phase: crate::upstream::Phase::Client,
            limit: Duration::from_secs(8),
        });
        assert_eq!(explanation.status, 504);
        assert_eq!(explanation.cause, Cause::ClientDeadline);
        assert!(explanation.message.contains("8s"), "{explanation:?}");
    }

    #[test]
    fn a_stream_that_never_began_is_told_in_the_upstreams_own_words() {
        let message = Some("try later".to_owned());
        let explanation = upstream_error(UpstreamError::ErrorEvent { message });
        assert_eq!(explanation.status, 502);
        assert_eq!(explanation.message, "try later");
        assert_eq!(explanation.cause, Cause::UpstreamStatus);
    }

    #[test]
    fn a_wait_for_a_place_is_no_full_queue() {
        let retry_after = Duration::from_secs(1);
        let explanation = upstream_error(UpstreamError::NoPlace { retry_after });
        assert!(explanation.message.contains("became free in time"));
    }

    #[test]
    fn every_503_says_when_to_come_back() {
        for error in [
            UpstreamError::Overloaded {
                retry_after: Duration::from_millis(1500),
            },
            UpstreamError::NoPlace {
                retry_after: Duration::from_secs(1),
            },
            UpstreamError::NotLoaded,
        ] {
            let explanation = upstream_error(error);
            assert_eq!(explanation.status, 503);
            assert!(
                explanation
                    .headers
                    .iter()
                    .any(|(name, _)| name == header::RETRY_AFTER)
            );
        }
    }

    #[test]
    fn retry_after_is_rounded_up_to_whole_seconds() {
        let explanation = upstream_error(UpstreamError::Overloaded {
            retry_after: Duration::from_millis(1500),
        });
        let value = |wanted: &str| {
            explanation
                .headers
                .iter()
                .find(|(name, _)| name == wanted)
                .unwrap()
                .1
                .clone()
        };
        assert_eq!(value("retry-after"), "2");
        assert_eq!(value("retry-after-ms"), "1500");
    }

    #[test]
    fn a_wrong_method_is_told_the_right_ones() {
        let error = RouteError::Target {
            error: TargetError::MethodNotAllowed { allow: "POST" },
            method: http::Method::GET,
            path: "/v1/completions".into(),
        };
        let explanation = GatewayError::from(error).explain();
        assert_eq!(explanation.status, 405);
        assert_eq!(
            explanation.headers,
            [(header::ALLOW, HeaderValue::from_static("POST"))]
        );
    }

    #[test]
    fn we_never_answer_409() {
        for error in [StreamError::Broken, StreamError::Idle, StreamError::Drained] {
            assert_ne!(GatewayError::from(error).explain().status, 409);
        }
    }
}
