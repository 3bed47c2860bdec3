//! What an `[[upstream]]` of kind `openai` or `azure` says of the server behind it.

use std::num::NonZeroUsize;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Scheme;

use super::super::problem::At;
use super::super::reader::{Field, Placed, Reader, Table, quote};
use super::super::types::{ApiConfig, EndpointConfig, ProxyConfig, RemoteConfig};
use super::upstream::{Kind, LONGEST_QUEUE};
use super::{endpoint, failure, paths, proxy, timeouts, tls};
use crate::secret::Secret;

/// More calls at once than one upstream has connections for.
const MOST_CONCURRENT: u64 = 1_000_000;

pub(super) fn remote(
    table: &mut Table<'_, '_>,
    reader: &mut Reader<'_>,
    api: ApiConfig,
) -> Option<Kind> {
    let endpoints = endpoint::endpoints(table, reader, &api);
    let api_keys = table
        .field("api_keys")
        .map(|field| api_keys(&field, reader));
    let paths = table.field("paths").map(|field| paths(&field, reader));
    let headers = reader
        .table(table, "headers")
        .map(|table| headers(&table, reader, |name| forbidden(name, &api)));
    let timeouts = timeouts::timeouts(table, reader);
    let (max_concurrent, queue) = concurrency(table, reader);
    let eject = failure::eject(table, reader, endpoints.len());
    let health = reader.table(table, "health");
    let health = health.map(|table| failure::health(table, reader));
    let proxy = table.field("proxy");
    let proxy = proxy.map(|field| proxy::proxy(&field, reader));
    let client_tls = reader.table(table, "tls");
    let client_tls = client_tls.map(|table| tls::client(table, reader));
    without_use(table, reader, &endpoints);
    if endpoints.is_empty() {
        return None;
    }
    let (places, endpoints) = endpoints
        .into_iter()
        .map(|endpoint| (endpoint.at, endpoint.value))
        .unzip();
    let config = RemoteConfig {
        api,
        endpoints,
        api_keys: api_keys.unwrap_or_default(),
        paths: Vec::new(),
        headers: headers.unwrap_or_default(),
        timeouts,
        max_concurrent,
        queue,
        eject,
        health,
        proxy: proxy.unwrap_or(ProxyConfig::Environment),
        tls: client_tls.unwrap_or_default(),
    };
    Some(Kind::Remote {
        config,
        paths,
        places,
    })
}

fn concurrency(
    table: &mut Table<'_, '_>,
    reader: &mut Reader<'_>,
) -> (Option<NonZeroUsize>, usize) {
    let max_concurrent = reader.count(table, "max_concurrent", 0, 0..=MOST_CONCURRENT);
    let queue = reader.count(table, "queue", 0, 0..=LONGEST_QUEUE);
    let max_concurrent = NonZeroUsize::new(max_concurrent);
    if queue > 0 && max_concurrent.is_none() {
        let at = table.name_at("queue");
        reader.warning(
            &at,
            "does nothing without a bound to wait for; write `max_concurrent` too, or leave it out",
        );
    }
    (max_concurrent, queue)
}

/// Doubts fields that say how a way is gone which no endpoint has.
fn without_use(
    table: &Table<'_, '_>,
    reader: &mut Reader<'_>,
    endpoints: &[Placed<EndpointConfig>],
) {
    let any = |is: fn(&Scheme) -> bool| {
        let mut endpoints = endpoints.iter();
        endpoints.any(|endpoint| match &endpoint.value {
            EndpointConfig::Http(uri) => uri.scheme().is_some_and(is),
            EndpointConfig::Unix { .. } => false,
        })
    };
    let of_no_use = [
        ("tls", "https", any(|scheme| *scheme == Scheme::HTTPS)),
        ("proxy", "http or https", any(|_| true)),
    ];
    for (name, what, is_used) in of_no_use {
        if table.has(name) && !is_used && !endpoints.is_empty() {
            let at = table.name_at(name);
            reader.warning(
                &at,
                format!("does nothing, since no endpoint is {what}; leave it out"),
            );
        }
    }
}

fn api_keys(field: &Field<'_, '_>, reader: &mut Reader<'_>) -> Vec<Secret> {
    let mut keys: Vec<(usize, Secret)> = Vec::new();
    for (i, element) in reader.elements(field).iter().enumerate() {
        let Some(secret) = reader.secret(element) else {
            continue;
        };
        let text = secret.value.expose();
        // `${OPENAI_API_KEY:-}` is how a file says that the variable may be absent.
        if text.is_empty() {
            continue;
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            reader.error(
                &secret.at,
                "holds white space or characters outside ASCII; write the key alone",
            );
            continue;
        }
        if let Some((other, _)) = keys.iter().find(|(_, key)| *key == secret.value) {
            let message = format!("is the same key as #{}; write each key once", other + 1);
            reader.error(&secret.at, message);
            continue;
        }
        keys.push((i, secret.value));
    }
    keys.into_iter().map(|(_, key)| key).collect()
}

/// Reads the version of Azure's API: none stands for v1.
pub(super) fn api_version(table: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> Option<String> {
    let text = reader.text(&table.field("api_version")?)?;
    match text.value.as_str() {
        "v1" | "preview" => None,
        version if is_dated(version) => Some(text.value),
        _ => {
            let message = format!(
                "{} is no version; write a date such as \"2024-10-21\" or \"2025-04-01-preview\", or leave it out for the v1 API",
                quote(&text.raw)
            );
            reader.error(&text.at, message);
            None
        }
    }
}

fn is_dated(version: &str) -> bool {
    let date = version.strip_suffix("-preview").unwrap_or(version);
    // The reader of dates takes other forms too, and those have other lengths.
    date.len() == "2024-10-21".len() && date.parse::<jiff::civil::Date>().is_ok()
}

/// The headers that belong to one connection.
pub(super) const OF_ONE_HOP: [HeaderName; 11] = [
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

/// Reads headers to be added to requests. `forbidden` says why one cannot be.
pub(super) fn headers(
    table: &Table<'_, '_>,
    reader: &mut Reader<'_>,
    forbidden: impl Fn(&HeaderName) -> Option<&'static str>,
) -> HeaderMap {
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

fn forbidden(name: &HeaderName, api: &ApiConfig) -> Option<&'static str> {
    let of_the_body = [
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::ACCEPT_ENCODING,
    ];
    let of_azure = matches!(api, ApiConfig::Azure { .. }) && name == "api-key";
    if name == header::AUTHORIZATION || of_azure {
        Some("it is made of `api_keys`")
    } else if name == header::HOST {
        Some("it is made of `base_url`")
    } else if OF_ONE_HOP.contains(name) {
        Some("it belongs to one connection")
    } else if of_the_body.contains(name) {
        Some("it says how the body is sent")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_dates() {
        for (version, expected) in [
            ("2024-10-21", true),
            ("2025-04-01-preview", true),
            ("2024-13-01", false),
            ("20241021", false),
            ("2024-10-21-beta", false),
            ("24-10-21", false),
            ("+002024-10-21", false),
            ("", false),
        ] {
            assert_eq!(is_dated(version), expected, "{version}");
        }
    }
}
