//! Pairs of files, and what is said of them.

use std::path::Path;

use super::super::{Context, TlsConfig, parse};
use super::*;

fn config(text: &str) -> Config {
    let context = Context {
        env: &|_| None,
        check_model: &|_| Ok(()),
        now: jiff::Timestamp::UNIX_EPOCH,
    };
    parse(text, Path::new("weir.toml"), &context)
        .unwrap()
        .config
}

fn differences(old: &str, new: &str) -> Changes {
    let old = config(old);
    changes(&old, &old, &config(new))
}

const OLD: &str = r#"
        [[upstream]]
        name = "openai"
        kind = "openai"
        base_url = "https://api.openai.com/v1"
        api_keys = ["sk-a-very-secret-key"]
        models = ["gpt-*"]
        [[upstream]]
        name = "azure"
        kind = "azure"
        base_url = "https://name.openai.azure.com"
        api_version = "2024-10-21"
        models = ["azure"]
        [[upstream]]
        name = "poet"
        kind = "local"
        model = "bundled:poet"
        [[route]]
        model = "gpt-4o"
        targets = [{ upstream = "openai" }, { upstream = "azure", priority = 1 }]
        [[team]]
        name = "research"
        [[key]]
        name = "alice"
        team = "research"
        secret = "a-very-secret-word"
    "#;

#[test]
fn the_same_has_no_differences() {
    assert!(differences(OLD, OLD).is_empty());
    assert!(differences("", "[retry]\nattempts = 2\n").is_empty());
}

#[test]
fn what_differs_is_named_without_its_values() {
    let new = OLD
        .replace("sk-a-very-secret-key", "sk-a-very-secret-other")
        .replace("https://api", "https://eu.api")
        .replace("2024-10-21", "2025-04-01-preview")
        .replace("\"bundled:poet\"", "\"bundled:poet\"\nqueue = 3")
        .replace("model = \"gpt-4o\"", "model = \"gpt-4*\"")
        .replace("a-very-secret-word", "another-secret-word")
        .replace(
            "name = \"research\"",
            "name = \"research\"\nmodels = [\"a*\"]\nbudgets = [{ tokens = 1, per = \"day\" }]\nlimits = { concurrent = 1 }",
        );
    let new = format!(
        "{new}\n[[key]]\nname = \"bob\"\nsecret = \"12345678\"\n[retry]\nattempts = 1\nbackoff = {{ base = \"1s\", max = \"9s\" }}\n"
    );
    let Changes { applied, restart } = differences(OLD, &new);
    assert_eq!(
        applied,
        [
            "upstream.openai: changed (base_url, api_keys)",
            "upstream.azure: changed (api_version)",
            "upstream.poet: changed (queue)",
            "route.gpt-4o: removed",
            "route.gpt-4*: added",
            "retry: changed (attempts, backoff)",
            "team.research: changed (models, budgets, limits)",
            "key.alice: changed (secret)",
            "key.bob: added",
        ]
    );
    assert!(restart.is_empty());
}

#[test]
fn limits_are_named_by_their_fields() {
    let key = "[[key]]\nname = \"a\"\nsecret = \"a-secret-word\"\n";
    let route = "[[route]]\nmodel = \"poet\"\ntargets = [{ upstream = \"local\" }]\n";
    let old = format!(
        "{key}limits = {{ concurrent = 1 }}\n{route}[limits]\nrequests_per_minute = 1\nrequests_per_day = 1\ngateway = {{ concurrent = 1 }}\n"
    );
    let new = format!(
        "{key}limits = {{ concurrent = 2 }}\n{route}limits = {{ concurrent = 1 }}\n[limits]\nrequests_per_minute = 2\nrequests_per_day = 1\nburst = 1\nstop_overshoot = 1\ngateway = {{ concurrent = 2 }}\n"
    );
    let changes = differences(&old, &new);
    assert_eq!(
        changes.applied,
        [
            "route.poet: changed (limits)",
            "key.a: changed (limits)",
            "limits: changed (requests_per_minute, burst, gateway, stop_overshoot)",
        ]
    );
    assert!(changes.restart.is_empty() && differences(&new, &new).is_empty());
    let none = differences(&new, "").applied;
    assert_eq!(
        none.last().map(String::as_str),
        Some(
            "limits: changed (requests_per_minute, requests_per_day, burst, gateway, stop_overshoot)"
        )
    );
}

#[test]
fn order_counts_where_the_first_wins() {
    let upstream = |name: &str, host: &str| {
        format!(
            "[[upstream]]\nname = \"{name}\"\nkind = \"openai\"\nbase_url = \"https://{host}/v1\"\npaths = [\"/v1/*\"]\n"
        )
    };
    let (a, b) = (upstream("a", "example.org"), upstream("b", "example.com"));
    let changes = differences(&format!("{a}{b}"), &format!("{b}{a}"));
    assert_eq!(changes.applied, ["upstream: changed (order)"]);
}

#[test]
fn what_only_a_start_can_change_is_told_apart() {
    let new = r#"
            [server]
            listen = "127.0.0.1:9000"
            workers = 3
            max_body = "1MiB"
            max_head = "32KiB"
            stream_ping = "15s"
            keep_alive = "5s"
            [admin]
            token = "a-very-secret-token"
            [ledger]
            path = "other.db"
            sync = "always"
            on_failure = "serve"
            retention = "30d"
            audit_retention = "400d"
            vacuum = false
            client_gone = "drain"
            drain_tokens = 10
            max_open = 100
            encodings = { "a*" = "o200k_base" }
            [log]
            level = "debug"
            access = false
        "#;
    let Changes { applied, restart } = differences("", new);
    assert_eq!(
        applied,
        [
            "server: changed (max_body, max_head, keep_alive, stream_ping)",
            "ledger: changed (on_failure, retention, audit_retention, vacuum, client_gone, drain_tokens, encodings)",
            "log: changed (access)"
        ]
    );
    assert_eq!(
        restart,
        [
            "server.listen",
            "server.workers",
            "admin.token",
            "ledger.path",
            "ledger.sync",
            "ledger.max_open",
            "log.level"
        ]
    );
}

#[test]
fn tls_is_switched_at_the_start_and_replaced_at_any_time() {
    let with = |cert: &str| {
        let mut config = config("");
        config.server.tls = Some(TlsConfig {
            cert: cert.into(),
            key: "tls.key".into(),
        });
        config
    };
    let (none, one) = (config(""), with("a.crt"));
    let switched = changes(&none, &none, &one);
    assert_eq!(
        (switched.applied.len(), switched.restart),
        (0, vec!["server.tls".to_owned()])
    );
    let replaced = changes(&one, &one, &with("b.crt"));
    assert_eq!(replaced.applied, ["server: changed (tls)"]);
    assert!(replaced.restart.is_empty());
    let still_waiting = changes(&none, &one, &with("b.crt"));
    assert_eq!(
        (still_waiting.applied.len(), still_waiting.restart),
        (0, vec!["server.tls".to_owned()])
    );
}

#[test]
fn what_waits_for_a_restart_is_told_until_it_is_as_it_was_at_the_start() {
    let (started, new) = (config(""), config("[server]\nworkers = 3\n"));
    let waiting = Changes {
        restart: vec!["server.workers".to_owned()],
        ..Changes::default()
    };
    assert_eq!(changes(&started, &started, &new), waiting);
    assert_eq!(changes(&started, &new, &new), waiting);
    assert!(changes(&started, &new, &started).is_empty());
}
