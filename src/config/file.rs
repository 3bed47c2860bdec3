//! The file as written: which tables and fields there are, and what may stand in each. What one field says of another
//! is not judged here, see `check`.

mod access;
mod budget;
mod cache;
mod endpoint;
mod failure;
mod ledger;
mod limits;
mod proxy;
mod redis;
mod remote;
mod route;
mod server;
mod telemetry;
mod timeouts;
mod tls;
mod upstream;

use toml::de::DeTable;

pub(super) use self::access::{Key, Team};
pub(super) use self::route::{Route, Target};
pub(super) use self::server::{Admin, Server};
pub(super) use self::upstream::{Kind, Upstream};
use super::defaults;
use super::reader::{Field, Placed, Reader, Table, Text, quote};
use super::types::{
    CacheConfig, LedgerConfig, LimitsConfig, LogConfig, MetricsConfig, RedisConfig, RetryConfig,
    TelemetryConfig,
};
use crate::keys;
use crate::pattern::Pattern;
use crate::secret::Secret;

/// Everything in the file, defaults filled in where they depend on nothing else.
pub(super) struct File {
    pub(super) server: Server,
    pub(super) admin: Admin,
    /// None where the file has no such table at all.
    pub(super) upstreams: Option<Vec<Upstream>>,
    pub(super) routes: Vec<Route>,
    pub(super) retry: RetryConfig,
    pub(super) teams: Vec<Team>,
    pub(super) keys: Vec<Key>,
    pub(super) limits: LimitsConfig,
    pub(super) ledger: LedgerConfig,
    pub(super) cache: CacheConfig,
    pub(super) redis: Option<RedisConfig>,
    pub(super) log: LogConfig,
    pub(super) metrics: MetricsConfig,
    pub(super) telemetry: Option<TelemetryConfig>,
}

impl File {
    /// Reads `[admin]` alone.
    pub(super) fn admin(document: &DeTable<'_>, reader: &mut Reader<'_>) -> Admin {
        server::admin(&mut Table::root(document), reader)
    }

    pub(super) fn read(document: &DeTable<'_>, reader: &mut Reader<'_>) -> Self {
        let mut root = Table::root(document);
        let has_redis = root.has("redis");
        let retry = reader
            .table(&mut root, "retry")
            .map_or(defaults::RETRY, |table| {
                failure::retry(table, reader, &defaults::RETRY)
            });
        let cache = cache::cache(&mut root, has_redis, reader);
        let file = Self {
            server: server::server(&mut root, reader),
            admin: server::admin(&mut root, reader),
            upstreams: upstream::upstreams(&mut root, reader),
            routes: route::routes(&mut root, reader, &retry, &cache.terms),
            retry,
            teams: access::teams(&mut root, reader),
            keys: access::keys(&mut root, reader),
            limits: limits::section(&mut root, reader),
            ledger: ledger::ledger(&mut root, reader),
            cache,
            redis: redis::redis(&mut root, reader),
            log: server::log(&mut root, reader),
            metrics: server::metrics(&mut root, reader),
            telemetry: telemetry::telemetry(&mut root, reader),
        };
        reader.finish(&root);
        file
    }
}

/// Reports a secret of the user's choice that is none.
fn secret_problem(secret: &Placed<Secret>, reader: &mut Reader<'_>) {
    if let Err(why) = keys::check(secret.value.expose()) {
        reader.error(
            &secret.at,
            format!(
                "{why}; write {} or more printable characters without spaces",
                keys::MIN_LENGTH
            ),
        );
    }
}

/// Reads the name of an upstream, a team or a key: a label in metrics and a word in logs.
fn name(table: &mut Table<'_, '_>, reader: &mut Reader<'_>, example: &str) -> Option<Text> {
    const LONGEST: usize = 64;
    let text = reader.required(table, "name", example)?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if text.value.is_empty() || text.value.len() > LONGEST || !text.value.chars().all(is_plain) {
        reader.error(
            &text.at,
            format!(
                "{} cannot be a name; write 1 to {LONGEST} of A-Z a-z 0-9 - _ . @",
                quote(&text.raw)
            ),
        );
        return None;
    }
    Some(text)
}

/// Reads patterns of paths of the data plane.
fn paths(field: &Field<'_, '_>, reader: &mut Reader<'_>) -> Vec<Placed<Pattern>> {
    let paths = reader.patterns(field, "patterns such as [\"/v1/*\"]");
    for path in &paths {
        let text = path.value.as_str();
        if !text.starts_with("/v1/") && !text.starts_with('*') {
            reader.error(
                &path.at,
                "matches no path, since all begin with \"/v1/\"; write such as \"/v1/files*\"",
            );
        }
    }
    paths
}
