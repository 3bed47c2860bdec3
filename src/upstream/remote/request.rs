//! The request as the upstream shall see it: its own host, path and credential, and the body byte for byte except for
//! what a rename or the accounting needs.

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};

use super::body::RequestBody;
use super::{Params, UpstreamError};
use crate::call::{Call, CallBody};

/// Builds the request of a call.
pub(super) fn build(
    mut call: Call,
    model: Option<&str>,
    params: &Params,
) -> Result<Request<RequestBody>, UpstreamError> {
    let asked = &call.head.target;
    let path = call.endpoint.canonical_path().unwrap_or(asked.path());
    let uri = uri(
        &params.base_url,
        path.strip_prefix("/v1").unwrap_or(path),
        asked.query(),
    )?;
    let judged = call.endpoint.is_generation();
    let body = match call.body {
        CallBody::Empty => {
            // hyper says nothing of an absent body, and some servers will not take that from a POST (RFC 9110,
            // section 8.6).
            if matches!(call.head.method, Method::POST | Method::PUT | Method::PATCH) {
                call.head
                    .headers
                    .insert(header::CONTENT_LENGTH, HeaderValue::from(0));
            }
            RequestBody::empty()
        }
        CallBody::Json { bytes, members } => {
            // The engine of a legacy path, and a route's new name, must stand in the body that the upstream reads.
            let add_usage = call.stream && call.report_usage && call.endpoint.has_stream_options();
            RequestBody::full(members.rewrite(&bytes, model, add_usage))
        }
        CallBody::Stream { body, length } => RequestBody::upload(body, length),
    };
    let mut request = Request::new(body);
    *request.method_mut() = call.head.method;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    *headers = call.head.headers;
    if judged {
        // What comes back is read here: a coding would only cost both sides time.
        headers.insert(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        );
    }
    if let Ok(id) = HeaderValue::from_str(call.record.id.as_str()) {
        headers.insert("x-request-id", id);
    }
    authorize(headers, params);
    Ok(request)
}

/// Puts our credential, and the operator's headers, in place.
pub(super) fn authorize(headers: &mut HeaderMap, params: &Params) {
    match &params.authorization {
        Some(value) => headers.insert(header::AUTHORIZATION, value.clone()),
        None => headers.remove(header::AUTHORIZATION),
    };
    for (name, value) in &params.headers {
        headers.insert(name.clone(), value.clone());
    }
}

/// Joins the base URL with a path of the API and a query, both as they were spelled.
pub(super) fn uri(base: &Uri, path: &str, query: Option<&str>) -> Result<Uri, UpstreamError> {
    let prefix = base.path().trim_end_matches('/');
    let mut text =
        String::with_capacity(prefix.len() + path.len() + query.map_or(0, |q| q.len() + 1));
    text.push_str(prefix);
    text.push_str(path);
    if let Some(query) = query {
        text.push('?');
        text.push_str(query);
    }
    let mut parts = base.clone().into_parts();
    parts.path_and_query = Some(
        PathAndQuery::from_maybe_shared(text)
            .map_err(|_| UpstreamError::Invalid("unusable path"))?,
    );
    Uri::from_parts(parts).map_err(|_| UpstreamError::Invalid("unusable URL"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_and_query_are_kept() {
        let base = Uri::from_static("https://host:8443/openai/v1/");
        let joined = uri(&base, "/files/a%20b", Some("limit=1&after=%2F")).unwrap();
        assert_eq!(
            joined,
            "https://host:8443/openai/v1/files/a%20b?limit=1&after=%2F"
        );
        assert_eq!(
            uri(&Uri::from_static("http://host"), "/models", None).unwrap(),
            "http://host/models"
        );
    }
}
