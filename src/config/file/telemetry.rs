//! `[telemetry]`: where traces of requests go, and what they tell.

use std::time::Duration;

use http::header::{self, HeaderName};
use http::uri::PathAndQuery;
use http::{HeaderMap, Uri};
use percent_encoding::percent_decode_str;
use toml::de::DeValue;

use super::super::defaults;
use super::super::problem::At;
use super::super::reader::{Reader, Table, Text, quote};
use super::super::types::{ContentConfig, TelemetryConfig};
use super::remote::{self, OF_ONE_HOP};
use crate::traces::{MAX_PATTERN, MAX_PATTERNS, Redactor};

const EXAMPLE: &str = "write such as \"http://127.0.0.1:4318\"";

/// What is appended where the address does not end so: the path of the protocol.
const PATH: &str = "/v1/traces";
/// Where collectors listen for OTLP over gRPC, which is not what we speak.
const GRPC_PORT: u16 = 4317;

/// A collector nearer than that does not exist; who waits longer holds up all that come behind.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Beyond that nobody waits for a span.
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);
const MOST_WAITING: u64 = 1_000_000;
const MOST_AT_ONCE: u64 = 10_000;
/// What collectors take of one attribute by default lies far below.
const LARGEST_CONTENT: u64 = 1 << 20;

/// The attribute by which services are told apart.
const SERVICE_NAME: &str = "service.name";

/// Fields that do nothing without a collector.
const OF_THE_EXPORT: [&str; 9] = [
    "headers",
    "timeout",
    "queue",
    "batch",
    "interval",
    "sample",
    "service_name",
    "resource",
    "content",
];

pub(super) fn telemetry(
    root: &mut Table<'_, '_>,
    reader: &mut Reader<'_>,
) -> Option<TelemetryConfig> {
    let table = &mut reader.table(root, "telemetry")?;
    let otlp = table.field("otlp").and_then(|field| reader.text(&field));
    // `${OTEL_EXPORTER_OTLP_ENDPOINT:-}` is how a file says that there may be no collector.
    let is_there = otlp.as_ref().is_some_and(|text| !text.value.is_empty());
    let otlp = otlp.filter(|text| !text.value.is_empty());
    let endpoint = otlp.and_then(|text| endpoint(&text, reader));
    let headers = reader.table(table, "headers");
    let headers = headers.map_or_else(HeaderMap::new, |table| {
        remote::headers(&table, reader, forbidden)
    });
    let content = content(table, reader);
    let config = TelemetryConfig {
        // What is missing is an error, or there is no configuration.
        endpoint: endpoint.unwrap_or_default(),
        headers,
        timeout: reader.duration(
            table,
            "timeout",
            defaults::EXPORT_TIMEOUT,
            SHORTEST_TIMEOUT..=LONGEST_TIMEOUT,
        ),
        queue: reader.count(table, "queue", defaults::EXPORT_QUEUE, 1..=MOST_WAITING),
        batch: reader.count(table, "batch", defaults::EXPORT_BATCH, 1..=MOST_AT_ONCE),
        interval: reader.duration(
            table,
            "interval",
            defaults::EXPORT_INTERVAL,
            Duration::ZERO..=LONGEST_INTERVAL,
        ),
        sample: reader.fraction(table, "sample", defaults::SAMPLE, 0.0..=1.0),
        resource: resource(table, reader),
        content,
    };
    if !is_there && !table.has("otlp") {
        for name in OF_THE_EXPORT.into_iter().filter(|name| table.has(name)) {
            let at = table.name_at(name);
            reader.warning(
                &at,
                "does nothing without a collector; write `otlp = \"http://127.0.0.1:4318\"` beside it, or leave it out",
            );
        }
    }
    reader.finish(table);
    is_there.then_some(config)
}

/// Reads the address of the collector: a base URL, as `OTEL_EXPORTER_OTLP_ENDPOINT` is one, or the whole.
fn endpoint(text: &Text, reader: &mut Reader<'_>) -> Option<Uri> {
    match url(&text.value) {
        Ok(uri) => {
            if uri.port_u16() == Some(GRPC_PORT) {
                reader.warning(
                    &text.at,
                    "has the port of OTLP over gRPC; Weir speaks OTLP over HTTP, for which collectors listen at 4318",
                );
            }
            Some(uri)
        }
        // It is not quoted: it may hold a password, and is on the line that is named.
        Err(fault) => {
            reader.error(&text.at, format!("{fault}; {EXAMPLE}"));
            None
        }
    }
}

fn url(text: &str) -> Result<Uri, &'static str> {
    let uri: Uri = text.parse().map_err(|_| "is no URL")?;
    let authority = match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) => authority,
        (Some(_), _) => return Err("has a scheme that is neither http nor https"),
        (None, _) => return Err("has no scheme"),
    };
    let has_port = authority.as_str().len() > authority.host().len();
    if authority.as_str().contains('@') {
        return Err("holds credentials, which belong into `headers`");
    }
    if text.contains('#') || uri.query().is_some() {
        return Err("has a query or a fragment; credentials belong into `headers`");
    }
    if authority.host().is_empty() {
        return Err("has no host");
    }
    if has_port && authority.port_u16().is_none_or(|port| port == 0) {
        return Err("has a port that is none");
    }
    let path = uri.path().trim_end_matches('/');
    let path = match path.ends_with(PATH) {
        true => path.to_owned(),
        false => format!("{path}{PATH}"),
    };
    let mut parts = uri.into_parts();
    parts.path_and_query = PathAndQuery::try_from(path).ok();
    Uri::from_parts(parts).map_err(|_| "is no URL")
}

fn forbidden(name: &HeaderName) -> Option<&'static str> {
    let of_the_body = [
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
    ];
    if *name == header::HOST {
        Some("it is made of `otlp`")
    } else if OF_ONE_HOP.contains(name) {
        Some("it belongs to one connection")
    } else if of_the_body.contains(name) {
        Some("it says how the spans are sent")
    } else {
        None
    }
}

/// Reads what describes this process. The file goes before the environment, where platforms say such things.
fn resource(table: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> Vec<(String, String)> {
    let variable = |name| (reader.context.env)(name).filter(|value| !value.is_empty());
    let mut resource = vec![
        (SERVICE_NAME.to_owned(), defaults::SERVICE_NAME.to_owned()),
        (
            "service.version".to_owned(),
            env!("CARGO_PKG_VERSION").to_owned(),
        ),
    ];
    let described = variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    for pair in described.split(',') {
        // What is no pair is passed over: it is not the gateway's alone.
        if let Some((name, value)) = pair.split_once('=') {
            let value = percent_decode_str(value.trim()).decode_utf8_lossy();
            set(&mut resource, name.trim(), &value);
        }
    }
    if let Some(name) = variable("OTEL_SERVICE_NAME") {
        set(&mut resource, SERVICE_NAME, &name);
    }
    if let Some(written) = reader.table(table, "resource") {
        for (name, field) in written.all() {
            if let Some(text) = reader.text(&field) {
                set(&mut resource, name.get_ref(), &text.value);
            }
        }
    }
    let name = table.field("service_name");
    if let Some(text) = name.and_then(|field| reader.text(&field)) {
        if text.value.is_empty() {
            reader.error(&text.at, "is empty; write a name, or leave it out");
        }
        set(&mut resource, SERVICE_NAME, &text.value);
    }
    resource
}

fn set(resource: &mut Vec<(String, String)>, name: &str, value: &str) {
    if name.is_empty() {
        return;
    }
    match resource.iter_mut().find(|(known, _)| known == name) {
        Some((_, known)) => value.clone_into(known),
        None => resource.push((name.to_owned(), value.to_owned())),
    }
}

fn content(table: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> Option<ContentConfig> {
    let is_told = reader.flag(table, "content", false);
    let max = reader.size(
        table,
        "content_max",
        defaults::CONTENT_MAX,
        64..=LARGEST_CONTENT,
    );
    let field = table.field("redact");
    let redact = field.map_or_else(Vec::new, |field| {
        let elements = reader.elements(&field);
        if elements.len() > MAX_PATTERNS {
            let message = format!("has more than {MAX_PATTERNS} patterns; write fewer");
            reader.error(&field.at, message);
        }
        let mut patterns = Vec::new();
        for element in elements.into_iter().take(MAX_PATTERNS) {
            patterns.extend(pattern(&element.at, element.value, reader));
        }
        if let Err(why) = Redactor::new(&patterns) {
            reader.error(&field.at, format!("{why}; write fewer or smaller patterns"));
        }
        patterns
    });
    for name in ["content_max", "redact"] {
        if table.has(name) && !is_told {
            let at = table.name_at(name);
            reader.warning(
                &at,
                "does nothing while no content is told; write `content = true` beside it, or leave it out",
            );
        }
    }
    is_told.then(|| ContentConfig {
        max: usize::try_from(max).unwrap_or(usize::MAX),
        redact,
    })
}

/// Reads a regular expression, as it stands: `$` is not the environment's there.
fn pattern(at: &At, value: &DeValue<'_>, reader: &mut Reader<'_>) -> Option<String> {
    let DeValue::String(raw) = value else {
        reader.wrong_type(at, value, "a regular expression in a string");
        return None;
    };
    let fault = if raw.len() > MAX_PATTERN {
        format!("is longer than {MAX_PATTERN} bytes")
    } else if raw.is_empty() {
        "is empty, and matches nothing".to_owned()
    } else {
        match Redactor::new(&[raw.to_string()]) {
            Ok(_) => return Some(raw.to_string()),
            Err(why) => format!("{} {why}", quote(raw)),
        }
    };
    reader.error(
        at,
        format!("{fault}; write such as '\\b\\d{{3}}-\\d{{2}}-\\d{{4}}\\b'"),
    );
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_the_protocol_is_appended() {
        for (written, expected) in [
            ("http://host:4318", "http://host:4318/v1/traces"),
            ("http://host:4318/", "http://host:4318/v1/traces"),
            ("https://host/otlp/", "https://host/otlp/v1/traces"),
            ("https://host/otlp/v1/traces", "https://host/otlp/v1/traces"),
        ] {
            assert_eq!(url(written).unwrap().to_string(), expected);
        }
        for bad in [
            "host:4318",
            "grpc://host:4317",
            "http://user:password@host",
            "http://host?key=x",
            "http://host:0",
            "",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }
}
