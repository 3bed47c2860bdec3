//! What differs between two configurations, for the report of a reload. Names of fields only: values may be secret.

use super::types::{
    AdminConfig, ApiConfig, CacheConfig, CacheRetriesConfig, CacheTerms, Config, KeyConfig,
    LedgerConfig, LimitsConfig, LocalConfig, LogConfig, MetricsConfig, RemoteConfig, RetryConfig,
    RouteConfig, ServerConfig, TeamConfig, TelemetryConfig, UpstreamConfig, UpstreamKind,
};
use crate::store::limits::{Dimension, Entry};

/// The differences between two configurations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// What a reload brings about, such as `upstream.openai: changed (timeouts, headers)` or `key.bob: added`.
    pub applied: Vec<String>,
    /// The fields that stay as they were until the next start, such as `server.listen`.
    pub restart: Vec<String>,
}

/// What belongs to the process or to its listeners, which a reload leaves alone.
const OF_THE_START: [&str; 17] = [
    "cache.max_bytes",
    "cache.max_entry",
    "cache.retries.max_bytes",
    "cache.retries.max_entries",
    "cache.redis",
    "cache.redis_queue",
    "server.listen",
    "server.workers",
    "server.max_connections",
    "admin.listen",
    "admin.token",
    "ledger.path",
    "ledger.sync",
    "ledger.max_open",
    "log.format",
    "log.level",
    "log.queue",
];

/// Compares two values field by field. All fields are named here, or it does not compile: a new one is not forgotten.
macro_rules! differing {
    ($type:ident { $($field:ident => $name:literal),+ $(,)? }, $old:expr, $new:expr) => {{
        let $type { $($field: _),+ } = $old;
        let fields = [$(($old.$field != $new.$field, $name)),+];
        let mut names: Vec<&'static str> = Vec::new();
        for (differs, name) in fields {
            if differs && !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }};
}

impl Changes {
    /// Returns whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.applied.is_empty() && self.restart.is_empty()
    }

    /// Notes the fields that differ of a table that is always there: from what the process was `started` with, and from
    /// what was served until now.
    fn table(&mut self, name: &str, started: Vec<&'static str>, mut live: Vec<&'static str>) {
        let path = |field: &&'static str| format!("{name}.{field}");
        let is_of_the_start = |path: &String| OF_THE_START.contains(&path.as_str());
        let waiting = started.iter().map(path).filter(is_of_the_start);
        self.restart.extend(waiting);
        live.retain(|field| !is_of_the_start(&path(field)));
        if !live.is_empty() {
            let fields = live.join(", ");
            self.applied.push(format!("{name}: changed ({fields})"));
        }
    }

    /// Notes what differs between two lists of things with names.
    fn list<T: PartialEq>(
        &mut self,
        what: &str,
        old: &[T],
        new: &[T],
        name: fn(&T) -> &str,
        fields: fn(&T, &T) -> Vec<&'static str>,
    ) {
        let find = |list: &'_ [T], wanted: &T| list.iter().position(|i| name(i) == name(wanted));
        for gone in old.iter().filter(|item| find(new, item).is_none()) {
            self.applied.push(format!("{what}.{}: removed", name(gone)));
        }
        let mut order = Vec::new();
        for item in new {
            let Some(before) = find(old, item) else {
                self.applied.push(format!("{what}.{}: added", name(item)));
                continue;
            };
            order.push(before);
            let fields = fields(&old[before], item);
            if !fields.is_empty() {
                let fields = fields.join(", ");
                self.applied
                    .push(format!("{what}.{}: changed ({fields})", name(item)));
            }
        }
        // The first that matches wins, so order is a part of the meaning.
        if !order.is_sorted() {
            self.applied.push(format!("{what}: changed (order)"));
        }
    }
}

/// Returns what a reload from `old` to `new` changes, and what it cannot: that still waits for a restart, however many
/// reloads ago the process was `started`.
pub fn changes(started: &Config, old: &Config, new: &Config) -> Changes {
    let mut changes = Changes::default();
    let mut live = server(&old.server, &new.server);
    // Other files are read anew; whether a listener speaks TLS at all is settled at the start.
    let has_tls = |config: &Config| config.server.tls.is_some();
    if ![started, old, new].into_iter().all(has_tls) {
        live.retain(|field| *field != "tls");
    }
    if has_tls(started) != has_tls(new) {
        changes.restart.push("server.tls".to_owned());
    }
    changes.table("server", server(&started.server, &new.server), live);
    changes.table(
        "admin",
        admin(&started.admin, &new.admin),
        admin(&old.admin, &new.admin),
    );
    changes.list(
        "upstream",
        &old.upstreams,
        &new.upstreams,
        |item| &item.name,
        upstream,
    );
    changes.list(
        "route",
        &old.routes,
        &new.routes,
        |item| item.model.as_str(),
        route,
    );
    changes.table("retry", Vec::new(), retry(&old.retry, &new.retry));
    changes.list("team", &old.teams, &new.teams, |item| &item.name, team);
    changes.list("key", &old.keys, &new.keys, |item| &item.name, key);
    changes.table("limits", Vec::new(), limits(&old.limits, &new.limits));
    changes.table(
        "ledger",
        ledger(&started.ledger, &new.ledger),
        ledger(&old.ledger, &new.ledger),
    );
    changes.table(
        "cache",
        cache(&started.cache, &new.cache),
        cache(&old.cache, &new.cache),
    );
    if started.redis != new.redis {
        changes.restart.push("redis".to_owned());
    }
    changes.table("log", log(&started.log, &new.log), log(&old.log, &new.log));
    changes.table("metrics", Vec::new(), metrics(&old.metrics, &new.metrics));
    match (&old.telemetry, &new.telemetry) {
        (Some(old), Some(new)) => changes.table("telemetry", Vec::new(), telemetry(old, new)),
        (None, Some(_)) => changes.applied.push("telemetry: added".to_owned()),
        (Some(_), None) => changes.applied.push("telemetry: removed".to_owned()),
        (None, None) => {}
    }
    changes
}

fn cache(old: &CacheConfig, new: &CacheConfig) -> Vec<&'static str> {
    let mut fields = differing!(CacheTerms {
        enabled => "enabled",
        when => "when",
        scope => "scope",
        ttl => "ttl",
        tools => "tools",
        stale_if_error => "stale_if_error",
        replay => "replay",
        finish => "finish",
    }, old.terms, new.terms);
    fields.extend(differing!(CacheRetriesConfig {
        enabled => "retries.enabled",
        window => "retries.window",
        linger => "retries.linger",
        max_bytes => "retries.max_bytes",
        max_entries => "retries.max_entries",
    }, old.retries, new.retries));
    fields.extend(differing!(CacheConfig {
        terms => "",
        max_bytes => "max_bytes",
        max_entry => "max_entry",
        max_ttl => "max_ttl",
        counts_saved => "hits_count_as",
        retries => "",
        redis => "redis",
        redis_wait => "redis_wait",
        redis_queue => "redis_queue",
    }, old, new));
    fields.retain(|field| !field.is_empty());
    fields
}

fn server(old: &ServerConfig, new: &ServerConfig) -> Vec<&'static str> {
    differing!(ServerConfig {
        listen => "listen",
        tls => "tls",
        workers => "workers",
        max_connections => "max_connections",
        max_body => "max_body",
        max_upload => "max_upload",
        max_answer => "max_answer",
        max_head => "max_head",
        max_headers => "max_headers",
        max_uri => "max_uri",
        max_json_depth => "max_json_depth",
        header_timeout => "header_timeout",
        body_idle_timeout => "body_idle_timeout",
        body_timeout => "body_timeout",
        write_timeout => "write_timeout",
        keep_alive => "keep_alive",
        stream_ping => "stream_ping",
        drain_timeout => "drain_timeout",
    }, old, new)
}

fn admin(old: &AdminConfig, new: &AdminConfig) -> Vec<&'static str> {
    differing!(AdminConfig { listen => "listen", token => "token" }, old, new)
}

fn upstream(old: &UpstreamConfig, new: &UpstreamConfig) -> Vec<&'static str> {
    let UpstreamConfig {
        name: _,
        models,
        kind,
    } = old;
    let mut fields = match (kind, &new.kind) {
        (UpstreamKind::Remote(old), UpstreamKind::Remote(new)) => remote(old, new),
        (UpstreamKind::Local(old), UpstreamKind::Local(new)) => {
            differing!(LocalConfig { model => "model", queue => "queue" }, old, new)
        }
        (UpstreamKind::Remote(_), UpstreamKind::Local(_))
        | (UpstreamKind::Local(_), UpstreamKind::Remote(_)) => vec!["kind"],
    };
    if *models != new.models {
        fields.push("models");
    }
    fields
}

fn remote(old: &RemoteConfig, new: &RemoteConfig) -> Vec<&'static str> {
    let both_azure = matches!(
        (&old.api, &new.api),
        (ApiConfig::Azure { .. }, ApiConfig::Azure { .. })
    );
    let mut fields = differing!(RemoteConfig {
        api => "kind",
        endpoints => "base_url",
        api_keys => "api_keys",
        paths => "paths",
        headers => "headers",
        timeouts => "timeouts",
        max_concurrent => "max_concurrent",
        queue => "queue",
        eject => "eject",
        health => "health",
        proxy => "proxy",
        tls => "tls",
    }, old, new);
    if let Some(first) = fields
        .first_mut()
        .filter(|first| **first == "kind" && both_azure)
    {
        *first = "api_version";
    }
    fields
}

fn route(old: &RouteConfig, new: &RouteConfig) -> Vec<&'static str> {
    differing!(RouteConfig {
        model => "model",
        targets => "targets",
        balance => "balance",
        affinity => "affinity",
        retry => "retry",
        timeouts => "timeouts",
        hedge => "hedge",
        limits => "limits",
        cache => "cache",
    }, old, new)
}

fn retry(old: &RetryConfig, new: &RetryConfig) -> Vec<&'static str> {
    differing!(RetryConfig {
        attempts => "attempts",
        backoff_base => "backoff",
        backoff_max => "backoff",
        budget => "budget",
        max_retry_after => "max_retry_after",
        hold => "hold",
    }, old, new)
}

fn team(old: &TeamConfig, new: &TeamConfig) -> Vec<&'static str> {
    differing!(TeamConfig {
        name => "name",
        models => "models",
        budgets => "budgets",
        limits => "limits",
        cache => "cache",
    }, old, new)
}

fn key(old: &KeyConfig, new: &KeyConfig) -> Vec<&'static str> {
    differing!(KeyConfig {
        name => "name",
        team => "team",
        digest => "secret",
        models => "models",
        paths => "paths",
        expires => "expires",
        budgets => "budgets",
        limits => "limits",
        cache => "cache",
    }, old, new)
}

/// The limits of keys stand at the top of the table: their own fields are named.
fn limits(old: &LimitsConfig, new: &LimitsConfig) -> Vec<&'static str> {
    let own = |config: &LimitsConfig| config.keys.first().cloned().unwrap_or_default();
    let (before, after) = (own(old), own(new));
    let dimensions = Dimension::ALL.into_iter();
    let mut fields: Vec<&'static str> = dimensions
        .filter(|dimension| before.size(*dimension) != after.size(*dimension))
        .map(Dimension::as_str)
        .collect();
    let (before, after) = (&before, &after);
    fields.extend(differing!(Entry {
        burst => "burst",
        models => "models",
        shadow => "shadow",
        // Named one by one above.
        sizes => "",
    }, before, after));
    fields.extend(differing!(LimitsConfig {
        keys => "",
        gateway => "gateway",
        stop_stream => "stop_stream",
        stop_overshoot => "stop_overshoot",
    }, old, new));
    fields.retain(|field| !field.is_empty());
    fields
}

fn ledger(old: &LedgerConfig, new: &LedgerConfig) -> Vec<&'static str> {
    differing!(LedgerConfig {
        path => "path",
        sync => "sync",
        prices => "prices",
        on_failure => "on_failure",
        retention => "retention",
        audit_retention => "audit_retention",
        vacuum => "vacuum",
        client_gone => "client_gone",
        drain_tokens => "drain_tokens",
        max_open => "max_open",
        encodings => "encodings",
    }, old, new)
}

fn log(old: &LogConfig, new: &LogConfig) -> Vec<&'static str> {
    differing!(LogConfig { format => "format", level => "level", access => "access", sample => "sample", queue => "queue" }, old, new)
}

fn metrics(old: &MetricsConfig, new: &MetricsConfig) -> Vec<&'static str> {
    differing!(MetricsConfig { max_series => "max_series" }, old, new)
}

fn telemetry(old: &TelemetryConfig, new: &TelemetryConfig) -> Vec<&'static str> {
    differing!(TelemetryConfig {
        endpoint => "otlp",
        headers => "headers",
        timeout => "timeout",
        queue => "queue",
        batch => "batch",
        interval => "interval",
        sample => "sample",
        resource => "resource",
        content => "content",
    }, old, new)
}

#[cfg(test)]
mod tests;
