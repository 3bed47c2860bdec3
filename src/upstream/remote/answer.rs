//! Judges an upstream's answer before the client hears of it.

use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::Body;
use http_body_util::BodyExt;
use tower::{Layer, Service, service_fn};
use tower_http::decompression::DecompressionLayer;

use super::UpstreamError;
use super::body::{Clock, Received, Timed};
use crate::call::headers::keep_end_to_end;
use crate::call::{BoxBody, Join, Reply, StreamError};
use crate::openai::endpoint::Endpoint;
use crate::openai::envelope::ErrorBody;
use crate::openai::json::{Answer, validate_object};
use crate::upstream::Phase;
use crate::upstream::advice::{self, Advice};

/// Headers by which an upstream would speak of its own host to whoever reads the answer.
pub(super) const NOT_RETURNED: [HeaderName; 3] = [
    header::SET_COOKIE,
    header::ALT_SVC,
    header::STRICT_TRANSPORT_SECURITY,
];

/// Lets statuses of answers, and errors that are the request's, go on.
pub(super) fn check_status(status: StatusCode, headers: &HeaderMap) -> Result<(), UpstreamError> {
    match status.as_u16() {
        200..=202 | 400 | 404 | 409 | 413 | 415 | 422 | 429 => Ok(()),
        _ => Err(status_error(status, headers)),
    }
}

/// Returns what a status that we do not hand on says of the upstream.
pub(super) fn status_error(status: StatusCode, headers: &HeaderMap) -> UpstreamError {
    match status.as_u16() {
        // The credential is ours, and so is its credit: nothing that the client could mend.
        401..=403 => UpstreamError::Refused(status),
        408 | 500..=599 => UpstreamError::Status {
            status,
            advice: Advice::read(headers, SystemTime::now()),
        },
        _ => UpstreamError::Unexpected(status),
    }
}

/// Takes off a coding that nobody asked for.
pub(super) async fn decode(
    response: Response<Received>,
) -> Result<Response<BoxBody>, UpstreamError> {
    if !response.headers().contains_key(header::CONTENT_ENCODING) {
        return Ok(response.map(erase));
    }
    let mut response = Some(response);
    let answer = service_fn(move |_| std::future::ready(response.take().ok_or(())));
    let mut decoder = DecompressionLayer::new().layer(answer);
    let decoded: Response<_> = decoder
        .call(http::Request::new(http_body_util::Empty::<Bytes>::new()))
        .await
        .map_err(|()| UpstreamError::Invalid("no answer to decode"))?;
    let left = decoded.headers().get(header::CONTENT_ENCODING);
    if left.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(UpstreamError::Invalid("an unknown content coding"));
    }
    let mut decoded = decoded.map(erase);
    decoded.headers_mut().remove(header::CONTENT_ENCODING);
    Ok(decoded)
}

fn erase<B>(body: B) -> BoxBody
where
    B: Body<Data = Bytes> + Send + 'static,
{
    Box::pin(body.map_err(|_| StreamError::Broken))
}

/// Reads a plain answer to its end.
pub(super) async fn collect(
    body: BoxBody,
    clock: Clock,
    max_answer: u64,
) -> Result<Bytes, UpstreamError> {
    let mut body = Timed::new(body, clock.held());
    let mut whole = Join::new(max_answer);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken(error, clock, max_answer))?;
        let data = frame.into_data().unwrap_or_default();
        whole
            .push(data)
            .map_err(|_| UpstreamError::TooLarge { limit: max_answer })?;
    }
    Ok(whole.finish())
}

fn broken(error: StreamError, clock: Clock, max_answer: u64) -> UpstreamError {
    match error {
        StreamError::Idle => UpstreamError::Timeout {
            phase: Phase::Idle,
            limit: clock.timeouts.idle,
        },
        StreamError::Overdue => UpstreamError::Timeout {
            phase: Phase::Total,
            limit: clock.timeouts.total,
        },
        StreamError::TooLarge => UpstreamError::TooLarge { limit: max_answer },
        StreamError::Broken
        | StreamError::Drained
        | StreamError::Engine
        | StreamError::Unrecorded
        | StreamError::Behind
        | StreamError::Abandoned => UpstreamError::Broken(Box::new(error)),
    }
}

/// Holds a plain answer until it is whole: a broken one must never look like an answer.
pub(super) async fn plain(
    response: Response<BoxBody>,
    clock: Clock,
    endpoint: &Endpoint,
    max_answer: u64,
) -> Result<Reply, UpstreamError> {
    let (parts, body) = response.into_parts();
    let body = collect(body, clock, max_answer).await?;
    let mut headers = parts.headers;
    keep_end_to_end(&mut headers, &NOT_RETURNED);
    if parts.status.is_success() {
        let answer =
            validate_object(&body).map_err(|_| UpstreamError::Invalid("not a JSON object"))?;
        // A response object has an `error` of its own; elsewhere it means that there is no answer.
        let error = answer
            .error
            .clone()
            .and_then(|range| body.get(range))
            .is_some_and(|error| error != b"null");
        if error && *endpoint != Endpoint::Responses {
            return Err(UpstreamError::Invalid("an error with a status of success"));
        }
        if !is_expected(&answer, &body, endpoint) {
            return Err(UpstreamError::Invalid("not the object of its endpoint"));
        }
        headers
            .entry(header::CONTENT_TYPE)
            .or_insert(HeaderValue::from_static("application/json"));
        return Ok(Reply::full(parts.status, headers, body));
    }
    advice::bound(&mut headers);
    if validate_object(&body).is_ok() {
        return Ok(Reply::full(parts.status, headers, body));
    }
    // Clients read the envelope, not pages of proxies.
    let message = format!(
        "The upstream answered {} without an error object.",
        parts.status.as_u16()
    );
    let kind = if parts.status == StatusCode::TOO_MANY_REQUESTS {
        "requests"
    } else {
        "invalid_request_error"
    };
    let envelope = ErrorBody {
        message: &message,
        kind,
        param: None,
        code: "upstream_error",
    };
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    Ok(Reply::full(parts.status, headers, envelope.to_json()))
}

/// Returns whether an object is what its endpoint answers: whatever else stands there, the list of what was asked for.
fn is_expected(answer: &Answer, body: &[u8], endpoint: &Endpoint) -> bool {
    let list = match endpoint {
        Endpoint::ChatCompletions | Endpoint::Completions => &answer.choices,
        Endpoint::Embeddings => &answer.data,
        Endpoint::Responses => &answer.output,
        Endpoint::Models
        | Endpoint::Model(_)
        | Endpoint::Engines
        | Endpoint::Engine(_)
        | Endpoint::OwnUsage
        | Endpoint::PassThrough => return true,
    };
    let list = list.clone().and_then(|range| body.get(range));
    list.is_some_and(|list| list.starts_with(b"["))
}

/// Hands an answer on as it comes.
pub(super) fn pass_through(
    response: Response<Received>,
    clock: Clock,
    head_only: bool,
) -> Result<Reply, UpstreamError> {
    let (parts, body) = response.into_parts();
    match parts.status.as_u16() {
        200..=299 | 304 | 400 | 404..=599 => {}
        _ => return Err(status_error(parts.status, &parts.headers)),
    }
    let mut headers = parts.headers;
    advice::bound(&mut headers);
    // The answer to HEAD has a length and no body.
    let length = headers
        .get(header::CONTENT_LENGTH)
        .filter(|_| head_only)
        .cloned();
    keep_end_to_end(&mut headers, &NOT_RETURNED);
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, length);
    }
    Ok(Reply::stream(
        parts.status,
        headers,
        Box::pin(Timed::new(body, clock)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_the_list_of_its_endpoint() {
        use Endpoint::{ChatCompletions, Completions, Embeddings, Responses};
        for (endpoint, body, expected) in [
            (ChatCompletions, r#"{"choices":[]}"#, true),
            (ChatCompletions, "{}", false),
            (ChatCompletions, r#"{"choices":null}"#, false),
            (Completions, r#"{"id":"x","choices":[{}]}"#, true),
            (Completions, r#"{"choices":{}}"#, false),
            (Embeddings, r#"{"data":[]}"#, true),
            (Embeddings, r#"{"choices":[]}"#, false),
            (Responses, r#"{"id":"resp_1","output":[]}"#, true),
            (Responses, "{}", false),
        ] {
            let answer = validate_object(body.as_bytes()).unwrap();
            let found = is_expected(&answer, body.as_bytes(), &endpoint);
            assert_eq!(found, expected, "{endpoint:?} {body}");
        }
    }

    #[test]
    fn a_status_that_is_none_of_the_api_is_told_to_the_log() {
        let status = StatusCode::TEMPORARY_REDIRECT;
        let error = check_status(status, &HeaderMap::new()).unwrap_err();
        assert_eq!(error.status(), Some(status));
        assert!(error.to_string().contains("307"), "{error}");
    }

    #[test]
    fn statuses() {
        for status in [200, 400, 404, 409, 413, 415, 422, 429] {
            assert!(
                check_status(StatusCode::from_u16(status).unwrap(), &HeaderMap::new()).is_ok(),
                "{status}"
            );
        }
        for (status, refused) in [
            (401, true),
            (403, true),
            (500, false),
            (529, false),
            (204, false),
            (302, false),
        ] {
            let error =
                check_status(StatusCode::from_u16(status).unwrap(), &HeaderMap::new()).unwrap_err();
            assert_eq!(
                matches!(error, UpstreamError::Refused(_)),
                refused,
                "{status}"
            );
        }
    }
}
