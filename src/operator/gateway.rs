//! A running gateway, asked by its admin API.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::Failure;
use crate::client::{Client, causes};
use crate::secret::Secret;

/// The most that is read of an answer, in bytes.
const MAX_ANSWER: usize = 256 << 20;

/// What stands for itself in a path and in a query (RFC 3986, section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

#[derive(Deserialize)]
struct Envelope {
    error: Told,
}

#[derive(Deserialize)]
struct Told {
    message: String,
}

/// Writes a name so that it can stand in a path or a query.
pub(super) fn encode(name: &str) -> String {
    // Whoever tidies paths takes a segment of dots for a way, however it is written; such a key is asked for by its id.
    utf8_percent_encode(name, RESERVED).to_string()
}

/// Reads the address of an admin plane as users write it: `http` or `https`, a host, and perhaps a port. What is asked for
/// there is not theirs to say.
///
/// # Errors
/// [`Failure`], with the address alone where something follows it, and without it where a password may be in it.
pub fn base_url(text: &str) -> Result<String, Failure> {
    if text.contains('@') {
        return Err(Failure::mistake(format!(
            "a base URL has no user and no password; write one such as {}, and the admin token into WEIR_ADMIN_TOKEN or a --token-file",
            super::DEFAULT_URL
        )));
    }
    let uri: Uri = text.parse().map_err(|_| no_base_url(text))?;
    let base = match (uri.scheme_str(), uri.authority()) {
        (Some(scheme @ ("http" | "https")), Some(authority)) => format!("{scheme}://{authority}"),
        _ => return Err(no_base_url(text)),
    };
    match (uri.path(), uri.query()) {
        ("" | "/", None) => Ok(base),
        _ => Err(Failure::mistake(format!(
            "{text} is no base URL, since it names more than the admin plane; write {base}"
        ))),
    }
}

fn no_base_url(text: &str) -> Failure {
    Failure::mistake(format!(
        "{text} is no base URL; write one such as {}",
        super::DEFAULT_URL
    ))
}

/// Asks, with a body of JSON where there is one, and returns the answer's.
pub(super) async fn ask(
    url: &str,
    token: Option<&Secret>,
    method: Method,
    path: &str,
    body: Option<String>,
) -> Result<Bytes, Failure> {
    let uri = format!("{url}/admin/v1/{path}");
    let (status, body) = send(url, token, method, uri, body).await?;
    match status.is_success() {
        true => Ok(body),
        false => Err(refused(status, &body)),
    }
}

/// Sends a request, with a body of JSON where there is one, and returns what is answered. `uri` is the whole of where to;
/// `url` is its base, by which errors name it.
pub(super) async fn send(
    url: &str,
    token: Option<&Secret>,
    method: Method,
    uri: String,
    body: Option<String>,
) -> Result<(StatusCode, Bytes), Failure> {
    let mut request = Request::builder().method(method).uri(uri);
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let mut request = request
        .header(
            header::USER_AGENT,
            concat!("weir/", env!("CARGO_PKG_VERSION")),
        )
        .body(Full::new(Bytes::from(body.unwrap_or_default())))
        .map_err(|error| Failure::mistake(format!("cannot ask {url}: {error}")))?;
    if let Some(token) = token {
        let value = HeaderValue::try_from(format!("Bearer {}", token.expose()));
        let mut value = value.map_err(|_| {
            Failure::mistake("the admin token holds characters that no header can carry")
        })?;
        value.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    let (head, body) = Client::new().send(request, url).await?.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await;
    let body = body
        .map_err(|error| Failure::mistake(format!("the connection broke: {}", causes(&*error))))?;
    Ok((head.status, body.to_bytes()))
}

fn refused(status: StatusCode, body: &[u8]) -> Failure {
    let told = serde_json::from_slice::<Envelope>(body).ok();
    let reason = status.canonical_reason().unwrap_or("refused");
    let mut message = told.map_or_else(|| reason.to_owned(), |told| told.error.message);
    if status == StatusCode::UNAUTHORIZED {
        message.push_str(
            " Set WEIR_ADMIN_TOKEN, or name a --token-file; a gateway without a token in its configuration prints one at its start.",
        );
    }
    Failure {
        message: format!("{message} ({})", status.as_u16()),
        is_users: !status.is_server_error(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_plane_is_named_by_its_address_alone() {
        for (text, expected) in [
            ("http://127.0.0.1:8081", Some("http://127.0.0.1:8081")),
            ("http://[::1]:8081/", Some("http://[::1]:8081")),
            ("https://weir.internal", Some("https://weir.internal")),
            ("http://a:8081/readyz", None),
            ("http://a:8081//", None),
            ("http://a:8081?x", None),
            ("ftp://a", None),
            ("a:8081", None),
            ("/readyz", None),
            ("http://", None),
            ("", None),
        ] {
            assert_eq!(base_url(text).ok().as_deref(), expected, "{text}");
        }
        let refused = base_url("https://a:1/admin/v1?x=y").unwrap_err();
        assert!(refused.is_users && refused.message.ends_with("; write https://a:1"));
        for text in [
            "http://root:hunter2@a:1",
            "root:hunter2@a:1",
            "http://a/?hunter2@",
        ] {
            let Failure { message, is_users } = base_url(text).unwrap_err();
            assert!(is_users && !message.contains("hunter2"), "{message}");
            assert!(message.contains("no user and no password"), "{message}");
        }
    }
}
