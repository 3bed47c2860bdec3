//! How the admin plane answers.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;

use crate::openai::envelope::ErrorBody;
use crate::store::directory::DirectoryError;
use crate::store::keys::{Invalid, Refusal};
use crate::store::ledger::ReadError;

/// An answer.
pub(super) type Answer = Response<Full<Bytes>>;

/// Why a call is not answered as asked.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
    param: Option<String>,
}

/// How soon a ledger that cannot be used may be asked again, in seconds.
const RETRY_AFTER: u64 = 5;

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            param: None,
        }
    }

    /// A value that cannot be, in a field or a parameter.
    pub(super) fn invalid(param: &str, message: &str) -> Self {
        Self::bad("invalid_value", &format!("`{param}` {message}.")).at(param)
    }

    fn bad(code: &'static str, message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    fn unavailable(message: &str) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "ledger_unavailable",
            message,
        )
    }

    fn at(self, param: &str) -> Self {
        Self {
            param: Some(param.to_owned()),
            ..self
        }
    }
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        Self::invalid(&invalid.param, &invalid.message)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let missing = |code, message: &str| Self::new(StatusCode::NOT_FOUND, code, message);
        match refusal {
            Refusal::NameTaken => Self::bad(
                "name_taken",
                "The name is taken, or was; what was used stands in the ledger under it.",
            )
            .at("name"),
            Refusal::NameConfigured => Self::bad(
                "name_taken",
                "The configuration has one of this name, and that one wins; choose another name, or change it there.",
            )
            .at("name"),
            Refusal::NoKey => missing("key_not_found", "There is no such key."),
            Refusal::NoTeam => missing("team_not_found", "There is no such team."),
            Refusal::Revoked => Self::bad("key_revoked", "The key was revoked, for good."),
            Refusal::InGrace { id, until } => Self::bad(
                "key_in_grace",
                &format!(
                    "The secret {id} from before the last rotation is valid until {until}, and rotating again would end it now. Wait until then, or say `\"force\": true`."
                ),
            ),
            Refusal::Shadowed { id } => Self::bad(
                "configured",
                &format!(
                    "The configuration has a key of this name; the one made at run time is reached by its id, {id}."
                ),
            ),
            Refusal::Configured => Self::bad(
                "configured",
                "It stands in the configuration; change it there, and have that reloaded.",
            ),
            Refusal::UnknownTeam => Self::invalid("team", "is the name of no team"),
            Refusal::TeamHasKeys { keys } => Self::bad(
                "team_has_keys",
                &format!("The team has {keys} keys; revoke them, or move them to another team."),
            ),
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        if error.is_timeout() {
            return Self::unavailable(
                "Adding up took too long; ask for a shorter time, by `from` and `to`.",
            );
        }
        tracing::error!(%error, "the ledger cannot be read");
        Self::unavailable("The ledger cannot be read.")
    }
}

impl From<DirectoryError> for Problem {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::Refused(refusal) => refusal.into(),
            DirectoryError::Ledger(error) => {
                tracing::error!(%error, "a change of keys or teams cannot be written");
                Self::unavailable("The ledger cannot be written. Nothing has changed.")
            }
            DirectoryError::Row(error) => {
                tracing::error!(%error, "a row of the ledger cannot be understood");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "ledger_row_unreadable",
                    "What stands of it in the ledger cannot be understood; the log says why. Nothing has changed.",
                )
            }
            DirectoryError::Read(_) => Self::unavailable(
                "It is written, but the budgets could not be counted; they stay as they were until they can be.",
            ),
            DirectoryError::Randomness | DirectoryError::BrokeOff => {
                tracing::error!(%error, "a change of keys or teams failed");
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                Self::new(
                    status,
                    "internal_error",
                    "The gateway failed; this is a bug.",
                )
            }
        }
    }
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        let kind = match problem.status.is_server_error() {
            true => "server_error",
            false => "invalid_request_error",
        };
        let body = ErrorBody {
            message: &problem.message,
            kind,
            param: problem.param.as_deref(),
            code: problem.code,
        };
        let mut response = text(problem.status, "application/json", body.to_json());
        if problem.status == StatusCode::SERVICE_UNAVAILABLE {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER));
        }
        response
    }
}

/// Answers with JSON.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    // Maps with texts as keys always serialize.
    let body = serde_json::to_vec(body).unwrap_or_default();
    text(status, "application/json", body.into())
}

/// Answers with a list, as the OpenAI API spells one.
pub(super) fn list(data: impl Serialize) -> Answer {
    #[derive(Serialize)]
    struct List<T> {
        object: &'static str,
        data: T,
    }
    let list = List {
        object: "list",
        data,
    };
    json(StatusCode::OK, &list)
}

/// Answers with any text.
pub(super) fn text(status: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// Answers with an error that is the client's.
pub(super) fn error(status: StatusCode, code: &'static str, message: &str) -> Answer {
    Problem::new(status, code, message).into()
}

pub(super) fn unauthorized() -> Answer {
    let mut response = error(
        StatusCode::UNAUTHORIZED,
        "invalid_admin_token",
        "This needs the admin token as a bearer token.",
    );
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

pub(super) fn not_allowed(allow: &'static str) -> Answer {
    let message = format!("Only {allow} is allowed here.");
    let mut response = error(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        &message,
    );
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

pub(super) fn not_found() -> Answer {
    error(
        StatusCode::NOT_FOUND,
        "unknown_url",
        "Unknown URL of the admin plane. It has the console at /, /metrics, /healthz, /readyz, and under /admin/v1 keys, teams, usage, requests, audit, cache, explain, playground and reload.",
    )
}
