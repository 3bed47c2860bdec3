//! The request as the upstream shall see it: its own host, path and credential, and the body byte for byte except for
//! what a rename or the accounting needs.

use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::body::RequestBody;
use super::{Address, Api, Credential, Params, UpstreamError};
use crate::call::{Call, CallBody};
use crate::openai::endpoint::Endpoint;

/// Azure's header for credentials.
pub(super) const API_KEY: HeaderName = HeaderName::from_static("api-key");

/// What a path segment spells out: all but the unreserved characters of RFC 3986.
pub(super) const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Builds the request of a call's try, which is the `number`th in its record.
pub(super) fn build(
    mut call: Box<Call>,
    number: usize,
    model: Option<&str>,
    credential: Option<&Credential>,
    params: &Params,
) -> Result<Request<RequestBody>, UpstreamError> {
    let asked = &call.head.target;
    let path = call.endpoint.canonical_path().unwrap_or(asked.path());
    let path = path.strip_prefix("/v1").unwrap_or(path);
    let has_deployments = matches!(
        call.endpoint,
        Endpoint::ChatCompletions | Endpoint::Completions | Endpoint::Embeddings
    );
    let deployment = model.filter(|_| has_deployments);
    let uri = uri(path, asked.query(), deployment, params)?;
    // What comes back is read here, where it may tell what it used; see `Accounting`. A coding would only cost both sides
    // time. Files are fetched, and come as the client likes them.
    let reads_answer = call.endpoint.is_generation() || call.head.method == Method::POST;
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
            let bytes = members.rewrite(&bytes, model, add_usage);
            RequestBody::full(bytes, Arc::clone(&call.record), number)
        }
        CallBody::Stream { body, length } => RequestBody::upload(body, length),
    };
    let mut request = Request::new(body);
    *request.method_mut() = call.head.method;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    *headers = call.head.headers;
    if reads_answer {
        headers.insert(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        );
    }
    if let Ok(id) = HeaderValue::from_str(call.record.id.as_str()) {
        headers.insert("x-request-id", id);
    }
    if let Some(trace) = &call.record.trace {
        trace.hand_on(number, headers);
    }
    authorize(headers, credential, params);
    Ok(request)
}

/// Puts our credential, and the operator's headers, in place.
pub(super) fn authorize(headers: &mut HeaderMap, credential: Option<&Credential>, params: &Params) {
    headers.remove(header::AUTHORIZATION);
    headers.remove(API_KEY);
    if let Some(Credential { name, value }) = credential {
        headers.insert(name, value.clone());
    }
    for (name, value) in &params.headers {
        headers.insert(name.clone(), value.clone());
    }
}

/// Returns where a path of the API lies at an endpoint: behind its prefix, with path and query as they were spelled. A
/// dated version of Azure's API names the deployment in the path, and itself in the query.
pub(super) fn uri(
    path: &str,
    query: Option<&str>,
    deployment: Option<&str>,
    params: &Params,
) -> Result<Uri, UpstreamError> {
    let unusable = || UpstreamError::Invalid("unusable path");
    let mut text = String::with_capacity(128);
    match &params.address {
        Address::Http(base) => text.push_str(base.path().trim_end_matches('/')),
        Address::Unix { prefix, .. } => text.push_str(prefix.trim_end_matches('/')),
    }
    let version = match &params.api {
        Api::OpenAi => None,
        Api::Azure { version } => version.as_deref(),
    };
    if let (Some(_), Some(deployment)) = (version, deployment) {
        if is_dots(deployment) {
            return Err(UpstreamError::BadRequest {
                message: format!("No deployment can have the name `{deployment}`."),
                param: Some("model"),
                code: "model_not_found",
            });
        }
        text.push_str("/deployments/");
        text.extend(utf8_percent_encode(deployment, SEGMENT));
    }
    text.push_str(path);
    append_query(&mut text, query, version);
    let path_and_query = PathAndQuery::from_maybe_shared(text).map_err(|_| unusable())?;
    let mut parts = match &params.address {
        Address::Http(base) => base.clone().into_parts(),
        // The host that a server on a socket of this machine is told.
        Address::Unix { .. } => Uri::from_static("http://localhost").into_parts(),
    };
    parts.path_and_query = Some(path_and_query);
    Uri::from_parts(parts).map_err(|_| unusable())
}

/// Returns where a path and query of the gateway's own lie at an endpoint.
pub(super) fn get(path_and_query: &str, params: &Params) -> Result<Uri, UpstreamError> {
    match path_and_query.split_once('?') {
        Some((path, query)) => uri(path, Some(query), None, params),
        None => uri(path_and_query, None, None, params),
    }
}

/// Returns whether a name is a step in a path, which no escape makes a name (RFC 3986, section 5.2.4).
pub(super) fn is_dots(name: &str) -> bool {
    matches!(name, "." | "..")
}

/// Appends the client's query as it was spelled; a version of the API is ours to say.
fn append_query(text: &mut String, query: Option<&str>, version: Option<&str>) {
    let Some(version) = version else {
        if let Some(query) = query {
            text.push('?');
            text.push_str(query);
        }
        return;
    };
    text.push_str("?api-version=");
    text.push_str(version);
    let others = query.into_iter().flat_map(|query| query.split('&'));
    let is_version = |pair: &&str| pair.split('=').next() == Some("api-version");
    for pair in others.filter(|pair| !pair.is_empty() && !is_version(pair)) {
        text.push('&');
        text.push_str(pair);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(address: Address, api: Api) -> Params {
        Params {
            address,
            api,
            ..Params::of(Uri::from_static("http://host"))
        }
    }

    fn http(base: &'static str, api: Api) -> Params {
        params(Address::Http(Uri::from_static(base)), api)
    }

    #[test]
    fn prefix_and_query_are_kept() {
        let base = http("https://host:8443/openai/v1/", Api::OpenAi);
        let joined = uri("/files/a%20b", Some("limit=1&after=%2F"), None, &base).unwrap();
        assert_eq!(
            joined,
            "https://host:8443/openai/v1/files/a%20b?limit=1&after=%2F"
        );
        let bare = http("http://host", Api::OpenAi);
        assert_eq!(
            uri("/models", None, None, &bare).unwrap(),
            "http://host/models"
        );
        let socket = Address::Unix {
            socket: "/run/x.sock".into(),
            prefix: "/v1".into(),
        };
        let socket = params(socket, Api::OpenAi);
        assert_eq!(
            uri("/models", None, Some("m"), &socket).unwrap(),
            "http://localhost/v1/models"
        );
    }

    #[test]
    fn azure_names_deployments_and_versions() {
        let version = Some("2024-10-21".to_owned());
        let dated = http("https://x.openai.azure.com/openai", Api::Azure { version });
        let base = "https://x.openai.azure.com/openai";
        let joined = uri("/chat/completions", None, Some("a b/c"), &dated).unwrap();
        assert_eq!(
            joined.to_string(),
            format!("{base}/deployments/a%20b%2Fc/chat/completions?api-version=2024-10-21")
        );
        for name in [".", ".."] {
            let refused = uri("/chat/completions", None, Some(name), &dated);
            let is_the_clients = matches!(refused, Err(UpstreamError::BadRequest { .. }));
            assert!(is_the_clients, "{name} leads elsewhere");
        }
        let joined = get("/health?full=1", &dated).unwrap();
        assert_eq!(
            joined.to_string(),
            format!("{base}/health?api-version=2024-10-21&full=1")
        );
        let query = Some("a=b&api-version=2023-01-01&&c");
        let joined = uri("/files", query, None, &dated).unwrap();
        assert_eq!(
            joined.to_string(),
            format!("{base}/files?api-version=2024-10-21&a=b&c")
        );
        let v1 = http(
            "https://x.openai.azure.com/openai/v1",
            Api::Azure { version: None },
        );
        let joined = uri("/chat/completions", Some("a=b"), Some("m"), &v1).unwrap();
        assert_eq!(
            joined.to_string(),
            format!("{base}/v1/chat/completions?a=b")
        );
    }
}
