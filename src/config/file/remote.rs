//! What an `[[upstream]]` of kind `openai` says of the server behind it.

use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Uri};

use super::super::defaults;
use super::super::problem::At;
use super::super::reader::{Field, Reader, Table, Text};
use super::super::types::{RemoteConfig, TimeoutsConfig};
use super::paths;
use super::upstream::Kind;
use crate::secret::Secret;

/// Timeouts shorter than this fire on a healthy network.
const SHORTEST: Duration = Duration::from_millis(10);
/// Longer waits are a slip of the unit.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

pub(super) fn remote(table: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> Option<Kind> {
    let base_url = reader.required(
        table,
        "base_url",
        "`base_url = \"https://api.openai.com/v1\"`",
    );
    let base_url = base_url.and_then(|text| url(&text, reader));
    let api_key = table
        .field("api_keys")
        .and_then(|field| api_key(&field, reader));
    let paths = table.field("paths").map(|field| paths(&field, reader));
    let headers = reader
        .table(table, "headers")
        .map(|table| headers(&table, reader));
    let timeouts = timeouts(table, reader);
    for name in ["max_concurrent", "queue"] {
        // Zero says that there is no bound, and so far there is none.
        let is_zero = table.field(name).is_some_and(|field| field.is_integer(0));
        if !is_zero {
            reader.not_built(table, name);
        }
    }
    reader.not_built(table, "eject");
    Some(Kind::Remote {
        config: RemoteConfig {
            base_url: base_url?,
            api_key,
            paths: Vec::new(),
            headers: headers.unwrap_or_default(),
            timeouts,
        },
        paths,
    })
}

fn url(text: &Text, reader: &mut Reader<'_>) -> Option<Uri> {
    // The URL is not quoted: it may hold a password, and is on the line that is named.
    let example = "write a URL such as \"https://api.openai.com/v1\"";
    let fault = match text.value.parse::<Uri>() {
        Err(_) => "is no URL".to_owned(),
        Ok(uri) => match (uri.scheme_str(), uri.authority()) {
            (Some("http" | "https"), Some(authority)) => {
                let has_port = authority.as_str().len() > authority.host().len();
                if authority.as_str().contains('@') {
                    "holds credentials, which belong into `api_keys`".to_owned()
                } else if text.value.contains('#') || uri.query().is_some() {
                    "has a query or a fragment, which no request would keep".to_owned()
                } else if authority.host().is_empty() {
                    "has no host".to_owned()
                } else if has_port && authority.port_u16().is_none_or(|port| port == 0) {
                    "has a port that is none".to_owned()
                } else if let Some(end) = endpoint_at_end(uri.path()) {
                    format!("ends in an endpoint; leave out `{end}`, it is added to each request")
                } else {
                    return Some(without_slash(uri, text, reader));
                }
            }
            (Some(_), _) => "has a scheme that is neither http nor https".to_owned(),
            (None, _) => "has no scheme".to_owned(),
        },
    };
    reader.error(&text.at, format!("{fault}; {example}"));
    None
}

fn endpoint_at_end(path: &str) -> Option<&'static str> {
    // No `/models`: some servers have the whole API below a path of that name.
    let endpoints = [
        "/chat/completions",
        "/completions",
        "/embeddings",
        "/responses",
    ];
    endpoints
        .into_iter()
        .find(|end| path.trim_end_matches('/').ends_with(end))
}

/// Takes the slash from the end, so that paths can be appended, and doubts a URL without any path.
fn without_slash(uri: Uri, text: &Text, reader: &mut Reader<'_>) -> Uri {
    let path = uri.path().trim_end_matches('/').to_owned();
    if path.is_empty() {
        reader.warning(
            &text.at,
            "has no path; most servers have the OpenAI API under `/v1`",
        );
        return uri;
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(path).ok();
    Uri::from_parts(parts).unwrap_or(uri)
}

fn api_key(field: &Field<'_, '_>, reader: &mut Reader<'_>) -> Option<Secret> {
    let elements = reader.elements(field);
    if elements.len() > 1 {
        reader.error(
            &field.at,
            "more than one key is not built yet; it comes with a later version, write one until then",
        );
    }
    let secret = reader.secret(elements.first()?)?;
    let text = secret.value.expose();
    // `${OPENAI_API_KEY:-}` is how a file says that the variable may be absent.
    if text.is_empty() {
        return None;
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        reader.error(
            &secret.at,
            "holds white space or characters outside ASCII; write the key alone",
        );
        return None;
    }
    Some(secret.value)
}

fn headers(table: &Table<'_, '_>, reader: &mut Reader<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, field) in table.all() {
        let at = At {
            path: field.at.path.clone(),
            offset: Some(name.span().start),
        };
        let Ok(header) = HeaderName::from_bytes(name.get_ref().as_bytes()) else {
            reader.error(
                &at,
                "is no header's name; write letters, digits and hyphens",
            );
            continue;
        };
        if let Some(why) = forbidden(&header) {
            reader.error(&at, format!("cannot be set: {why}; leave it out"));
            continue;
        }
        if headers.contains_key(&header) {
            reader.error(&at, "is there twice, in another letter case; write it once");
            continue;
        }
        // Some servers take their credential in a header of their own, so every value may be secret.
        let Some(secret) = reader.secret(&field) else {
            continue;
        };
        match HeaderValue::from_str(secret.value.expose()) {
            Ok(mut value) if !value.as_bytes().trim_ascii().is_empty() => {
                value.set_sensitive(true);
                headers.insert(header, value);
            }
            Ok(_) => reader.error(
                &secret.at,
                "is empty; write a value, or leave the header out",
            ),
            Err(_) => reader.error(
                &secret.at,
                "holds control characters; write one line of printable text",
            ),
        }
    }
    headers
}

fn forbidden(name: &HeaderName) -> Option<&'static str> {
    let hop_by_hop = [
        header::CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::EXPECT,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        HeaderName::from_static("http2-settings"),
    ];
    let of_the_body = [
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::ACCEPT_ENCODING,
    ];
    if name == header::AUTHORIZATION {
        Some("it is made of `api_keys`")
    } else if name == header::HOST {
        Some("it is made of `base_url`")
    } else if hop_by_hop.contains(name) {
        Some("it belongs to one connection")
    } else if of_the_body.contains(name) {
        Some("it says how the body is sent")
    } else {
        None
    }
}

fn timeouts(parent: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> TimeoutsConfig {
    let table = &mut reader.table_or_empty(parent, "timeouts");
    let range = SHORTEST..=LONGEST;
    let timeouts = TimeoutsConfig {
        connect: reader.duration(table, "connect", defaults::CONNECT_TIMEOUT, range.clone()),
        first_byte: reader.duration(
            table,
            "first_byte",
            defaults::FIRST_BYTE_TIMEOUT,
            range.clone(),
        ),
        idle: reader.duration(table, "idle", defaults::IDLE_TIMEOUT, range.clone()),
        total: reader.duration(table, "total", defaults::TOTAL_TIMEOUT, range),
    };
    let parts = [
        ("connect", timeouts.connect),
        ("first_byte", timeouts.first_byte),
        ("idle", timeouts.idle),
    ];
    for (name, part) in parts {
        if table.has(name) && part > timeouts.total {
            let at = table.name_at(name);
            reader.warning(&at, "is longer than `total` and never runs out; write a shorter one, or a longer `total`");
        }
    }
    reader.finish(table);
    timeouts
}
