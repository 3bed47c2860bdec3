//! `[server]`, `[admin]`, `[log]` and `[metrics]`.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::defaults;
use super::super::problem::At;
use super::super::reader::{Placed, Reader, Table, quote};
use super::super::types::{AdminConfig, LogConfig, LogFormat, MetricsConfig, ServerConfig};
use super::secret_problem;
use super::timeouts::{LONGEST, SHORTEST};
use super::tls;
use crate::metrics::DEFAULT_MAX_SERIES;
use crate::secret::Secret;

/// What no machine holds in memory; for sizes of bodies that are streamed, or a slip of the unit.
const LARGEST: u64 = 1 << 40;

/// Pings more often are traffic of their own; no load balancer waits for longer.
const PING: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);

/// Fewer would drop lines of a quiet gateway; more are gigabytes.
const LOG_QUEUES: RangeInclusive<u64> = 128..=1_000_000;

/// Fewer would not hold what a configuration alone makes; more make a scrape last for seconds.
const SERIES: RangeInclusive<u64> = 100..=1_000_000;

/// Where the admin token is looked for when the file has none.
const TOKEN_VARIABLE: &str = "WEIR_ADMIN_TOKEN";

/// `[server]`, and where it stands.
pub(in super::super) struct Server {
    pub(in super::super) config: ServerConfig,
    pub(in super::super) listen: At,
}

/// `[admin]`, and where it stands.
pub(in super::super) struct Admin {
    pub(in super::super) config: AdminConfig,
    pub(in super::super) listen: At,
    pub(in super::super) token: Option<Placed<Secret>>,
}

pub(super) fn server(root: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> Server {
    let table = &mut reader.table_or_empty(root, "server");
    let timeouts = SHORTEST..=LONGEST;
    let listen = address(table, reader, defaults::LISTEN);
    let tls = reader
        .table(table, "tls")
        .and_then(|table| tls::server(table, reader));
    let config = ServerConfig {
        listen: listen.value,
        tls,
        workers: reader.count(table, "workers", defaults::WORKERS, 0..=1024),
        max_connections: reader.count(
            table,
            "max_connections",
            defaults::MAX_CONNECTIONS,
            1..=10_000_000,
        ),
        max_body: reader.size(table, "max_body", defaults::MAX_BODY, 1 << 10..=LARGEST),
        max_upload: reader.size(table, "max_upload", defaults::MAX_UPLOAD, 1 << 10..=LARGEST),
        max_answer: reader.size(table, "max_answer", defaults::MAX_ANSWER, 1 << 10..=LARGEST),
        // hyper reads a head into a buffer that cannot be smaller than 8 KiB.
        max_head: small(
            table,
            reader,
            "max_head",
            defaults::MAX_HEAD,
            8 << 10,
            16 << 20,
        ),
        // Below 16 the SDKs' own headers do not fit; `http` holds no more than 32 768.
        max_headers: reader.count(table, "max_headers", defaults::MAX_HEADERS, 16..=10_000),
        // `http` takes no URI of more than 65 534 bytes.
        max_uri: small(table, reader, "max_uri", defaults::MAX_URI, 128, 65_534),
        // Below 8 a plain tool call does not fit; above 1 000 a recursive reader behind us may run out of stack.
        max_json_depth: reader.count(table, "max_json_depth", defaults::MAX_JSON_DEPTH, 8..=1000),
        header_timeout: reader.duration(
            table,
            "header_timeout",
            defaults::HEADER_TIMEOUT,
            timeouts.clone(),
        ),
        body_idle_timeout: reader.duration(
            table,
            "body_idle_timeout",
            defaults::BODY_IDLE_TIMEOUT,
            timeouts.clone(),
        ),
        body_timeout: reader.duration(
            table,
            "body_timeout",
            defaults::BODY_TIMEOUT,
            timeouts.clone(),
        ),
        write_timeout: reader.duration(
            table,
            "write_timeout",
            defaults::WRITE_TIMEOUT,
            timeouts.clone(),
        ),
        keep_alive: reader.duration(table, "keep_alive", defaults::KEEP_ALIVE, timeouts),
        stream_ping: reader.optional_duration(table, "stream_ping", Duration::from_secs(15), PING),
        drain_timeout: reader.duration(
            table,
            "drain_timeout",
            defaults::DRAIN_TIMEOUT,
            Duration::ZERO..=LONGEST,
        ),
    };
    if config.max_uri > config.max_head {
        let at = table.name_at(if table.has("max_head") {
            "max_head"
        } else {
            "max_uri"
        });
        reader.error(
            &at,
            "a URI of `max_uri` does not fit into `max_head`; write a larger `max_head` or a smaller `max_uri`",
        );
    }
    reader.finish(table);
    Server {
        config,
        listen: listen.at,
    }
}

pub(super) fn admin(root: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> Admin {
    let table = &mut reader.table_or_empty(root, "admin");
    let listen = address(table, reader, defaults::ADMIN_LISTEN);
    let token = table.field("token").and_then(|field| reader.secret(&field));
    // `${WEIR_ADMIN_TOKEN:-}` is how a file says that the variable may be absent.
    let token = token.filter(|token| !token.value.expose().is_empty());
    let token = token.or_else(|| token_of_environment(reader));
    if let Some(token) = &token {
        secret_problem(token, reader);
    }
    reader.finish(table);
    Admin {
        config: AdminConfig {
            listen: listen.value,
            token: token.as_ref().map(|token| token.value.clone()),
        },
        listen: listen.at,
        token,
    }
}

/// A token that the file does not have is the environment's, as a key would be, and as the command line's is.
fn token_of_environment(reader: &Reader<'_>) -> Option<Placed<Secret>> {
    let token = (reader.context.env)(TOKEN_VARIABLE).filter(|token| !token.is_empty())?;
    Some(Placed {
        at: At {
            path: TOKEN_VARIABLE.to_owned(),
            offset: None,
        },
        value: Secret::new(token),
    })
}

pub(super) fn log(root: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> LogConfig {
    let table = &mut reader.table_or_empty(root, "log");
    let formats = [
        ("auto", LogFormat::Auto),
        ("text", LogFormat::Text),
        ("json", LogFormat::Json),
    ];
    let levels = [
        ("error", tracing::Level::ERROR),
        ("warn", tracing::Level::WARN),
        ("info", tracing::Level::INFO),
        ("debug", tracing::Level::DEBUG),
        ("trace", tracing::Level::TRACE),
    ];
    let format = reader.choice(table, "format", &formats);
    let level = reader.choice(table, "level", &levels);
    let log = LogConfig {
        format: format.unwrap_or(LogFormat::Auto),
        level: level.unwrap_or(tracing::Level::INFO),
        access: reader.flag(table, "access", true),
        sample: reader.fraction(table, "sample", 1.0, 0.0..=1.0),
        queue: reader.count(table, "queue", defaults::LOG_QUEUE, LOG_QUEUES),
    };
    reader.finish(table);
    log
}

pub(super) fn metrics(root: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> MetricsConfig {
    let table = &mut reader.table_or_empty(root, "metrics");
    let metrics = MetricsConfig {
        max_series: reader.count(table, "max_series", DEFAULT_MAX_SERIES, SERIES),
    };
    reader.finish(table);
    metrics
}

fn address(
    table: &mut Table<'_, '_>,
    reader: &mut Reader<'_>,
    default: SocketAddr,
) -> Placed<SocketAddr> {
    let absent = Placed {
        at: table.at.clone(),
        value: default,
    };
    let Some(text) = table.field("listen").and_then(|field| reader.text(&field)) else {
        return absent;
    };
    match text.value.parse() {
        Ok(value) => Placed { at: text.at, value },
        Err(_) => {
            reader.error(
                &text.at,
                format!(
                    "{} is no address; write \"IP:PORT\", such as \"{default}\"",
                    quote(&text.raw)
                ),
            );
            absent
        }
    }
}

/// Reads a size of something held in memory.
fn small(
    table: &mut Table<'_, '_>,
    reader: &mut Reader<'_>,
    name: &'static str,
    default: usize,
    from: u32,
    to: u32,
) -> usize {
    let range = u64::from(from)..=u64::from(to);
    let fallback = u64::try_from(default).unwrap_or(u64::MAX);
    usize::try_from(reader.size(table, name, fallback, range)).unwrap_or(default)
}
