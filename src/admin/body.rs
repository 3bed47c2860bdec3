//! Bodies of admin calls: objects of JSON, small, and here in time.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::answer::Problem;
use super::object::{self, ObjectError};

/// No key has so much said of it.
const MAX_BODY: usize = 64 << 10;
/// How long a body may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Reads an object.
pub(super) async fn read<B>(headers: &HeaderMap, body: B) -> Result<Map<String, Value>, Problem>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let whole = read_whole(MAX_BODY, headers, body).await?;
    object::parse(&whole).map_err(|error| match error {
        ObjectError::NoObject => bad("invalid_json", "The body must be an object of JSON."),
        ObjectError::Syntax { line, column } => bad(
            "invalid_json",
            &format!("The body is no JSON: line {line}, column {column}."),
        ),
        ObjectError::Twice(name) => Problem::invalid(&name, "is given twice"),
    })
}

/// Reads a body that is to be JSON. Its media type must be named: the pages of other sites cannot send that one unasked.
pub(super) async fn read_whole<B>(
    max: usize,
    headers: &HeaderMap,
    body: B,
) -> Result<Bytes, Problem>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if !is_json(headers) {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "The body must be JSON, and Content-Type application/json.",
        ));
    }
    let too_large = || {
        let message = format!("The body is larger than {max} bytes.");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
    };
    let announced = body.size_hint().lower();
    if announced > max as u64 {
        return Err(too_large());
    }
    let body = std::pin::pin!(body);
    match timeout(TIMEOUT, Limited::new(body, max).collect()).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(bad("bad_request", "The body broke off.")),
        Err(_) => {
            let message = format!("The body was not whole within {} s.", TIMEOUT.as_secs());
            let status = StatusCode::REQUEST_TIMEOUT;
            Err(Problem::new(status, "request_timeout", message))
        }
    }
}

/// Reads an object, or nothing at all.
pub(super) async fn read_if_any<B>(
    headers: &HeaderMap,
    body: B,
) -> Result<Map<String, Value>, Problem>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match body.is_end_stream() {
        true => Ok(Map::new()),
        false => read(headers, body).await,
    }
}

/// What is said of a body that is no JSON.
pub(super) fn no_json(error: &serde_json::Error) -> Problem {
    if error.is_data() {
        return bad("invalid_json", "The body must be an object of JSON.");
    }
    let (line, column) = (error.line(), error.column());
    let message = format!("The body is no JSON: line {line}, column {column}.");
    bad("invalid_json", &message)
}

fn bad(code: &'static str, message: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, code, message)
}

fn is_json(headers: &HeaderMap) -> bool {
    let is_encoded = headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|coding| coding != "identity");
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    !is_encoded && essence.eq_ignore_ascii_case("application/json")
}
