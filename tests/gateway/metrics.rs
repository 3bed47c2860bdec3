//! What `/metrics` tells: of whom, of what, and how much at most.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::support::answers::{answer, ask, chat, json_answer};
use crate::support::client::Client;
use crate::support::gateway::{Config, Gateway};
use crate::support::tls::Identity;
use crate::support::upstream::{Script, Upstream};
use crate::support::{KEY, eventually};

/// The series that there are, without their values; times and sizes alone are left out, whose series come with them.
async fn series(gateway: &Gateway) -> BTreeSet<String> {
    gateway.idle().await;
    let metrics = gateway.metrics().await;
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    let series = lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned());
    series.collect()
}

/// The value of the only series that has all of these parts.
fn value(metrics: &str, parts: &[&str]) -> f64 {
    let found: Vec<&str> = metrics
        .lines()
        .filter(|line| !line.starts_with('#') && parts.iter().all(|part| line.contains(part)))
        .collect();
    let [line] = &found[..] else {
        panic!("{parts:?} is {found:?} in {metrics}");
    };
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[tokio::test]
async fn whatever_a_scraper_accepts_it_gets_the_text_format() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    for accept in [
        "",
        "*/*",
        "application/openmetrics-text;version=1.0.0;q=0.9,text/plain;q=0.1",
        "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
        "text/plain;version=1.0.0;escaping=allow-utf-8",
        "image/png",
        ";;,q=;,",
        "\"",
    ] {
        let scraper = Client::new(gateway.admin()).with_header("accept", accept);
        let answer = scraper.get("/metrics").await;
        assert_eq!(answer.status, 200, "{accept}");
        let kind = answer.header("content-type");
        assert_eq!(kind, Some("text/plain; version=0.0.4; charset=utf-8"));
        assert!(answer.text().starts_with("# HELP "), "{accept}");
    }
}

#[tokio::test]
async fn junk_makes_no_series() {
    let upstream = Upstream::answering(chat()).await;
    let config = Config::new().upstream("upstream", &upstream, "models = [\"gpt-*\"]");
    let gateway = config.start().await;
    let junk = async |number: usize| {
        let client = gateway.client();
        let model = json!({ "model": format!("junk-{number}"), "messages": [] });
        client.chat(model).await;
        let known = json!({ "model": format!("gpt-x{number}"), "messages": [] });
        client.chat(known).await;
        client.get(&format!("/v1/junk-{number}")).await;
        client.get(&format!("/junk-{number}")).await;
        client.get(&format!("/v1/models/junk-{number}")).await;
        let stranger = gateway
            .stranger()
            .with_header("authorization", &format!("Bearer junk-{number}-secret"))
            .with_header("x-request-id", &format!("junk-{number}"));
        stranger.chat(ask()).await;
    };
    junk(0).await;
    let before = series(&gateway).await;
    for number in 1..200 {
        junk(number).await;
    }
    let after = series(&gateway).await;
    let new: Vec<_> = after.difference(&before).collect();
    assert!(new.is_empty(), "{new:?}");
    assert!(after.iter().all(|line| !line.contains("junk")));
}

#[tokio::test]
async fn what_a_limit_refuses_is_told_of_the_model_that_was_asked_and_junk_of_none() {
    let upstream = Upstream::answering(chat()).await;
    let keys = format!(
        "[[key]]\nname = \"alice\"\nsecret = \"{KEY}\"\nlimits = {{ requests_per_day = 1 }}\n\
         [[key]]\nname = \"bob\"\nsecret = \"bob-has-one-token\"\nbudgets = [{{ tokens = 1, per = \"total\" }}]\n"
    );
    let config = Config::new()
        .upstream("upstream", &upstream, "models = [\"gpt-*\", \"o3\"]")
        .without_key()
        .table(&keys);
    let gateway = config.start().await;
    let call = async |secret: &str, model: &str| {
        let client = gateway
            .stranger()
            .with_header("authorization", &format!("Bearer {secret}"));
        let body = json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }] });
        client.chat(body).await.status
    };
    assert_eq!(call(KEY, "gpt-4o").await, 200);
    for model in ["gpt-4o", "gpt-5", "o3", "junk-1", "junk-2"] {
        assert_eq!(call(KEY, model).await, 429, "{model}");
    }
    assert_eq!(call("bob-has-one-token", "o3").await, 429);
    gateway.idle().await;
    let metrics = gateway.metrics().await;
    let refused = |key: &str, cause: &str, model: &str| {
        let (key, model) = (format!("key=\"{key}\""), format!("model=\"{model}\""));
        let cause = format!("cause=\"{cause}\"");
        value(&metrics, &["weir_requests_total{", &key, &cause, &model])
    };
    assert_eq!(refused("alice", "policy_limit", "gpt-*"), 2.0);
    assert_eq!(refused("alice", "policy_limit", "o3"), 1.0);
    assert_eq!(refused("alice", "policy_limit", "none"), 2.0);
    assert_eq!(refused("bob", "policy_budget", "o3"), 1.0);
    assert!(!metrics.contains("junk"), "{metrics}");
}

#[tokio::test]
async fn keys_made_at_run_time_share_a_series_where_there_is_room_for_no_more() {
    let upstream = Upstream::answering(chat()).await;
    let config = Config::over(&upstream).table("[metrics]\nmax_series = 100\n");
    let gateway = config.start().await;
    for number in 0..120 {
        let made = json!({ "name": format!("made-{number}") });
        let made = gateway.operator().post("/admin/v1/keys", made).await;
        let secret = made.json()["key"].as_str().unwrap().to_owned();
        let client = gateway
            .stranger()
            .with_header("authorization", &format!("Bearer {secret}"));
        assert_eq!(client.chat(ask()).await.status, 200);
    }
    gateway.idle().await;
    let metrics = gateway.metrics().await;
    let of_requests = |line: &&str| line.starts_with("weir_requests_total{");
    assert_eq!(metrics.lines().filter(of_requests).count(), 101);
    let others = ["weir_requests_total{", "key=\"other\"", "status=\"200\""];
    assert_eq!(value(&metrics, &others), 20.0);
    let folded = ["weir_series_folded_total", "weir_requests_total"];
    assert_eq!(value(&metrics, &folded), 20.0);
    assert_eq!(value(&metrics, &["weir_series_limit"]), 100.0);
}

/// What happens to a call, and the word for it.
#[tokio::test]
async fn metric_log_and_ledger_have_one_word_for_a_cause() {
    let upstream = Upstream::start(|request| {
        let limited = r#"{"error":{"message":"slow down","type":"requests","code":"rate_limit"}}"#;
        let wrong = r#"{"error":{"message":"no","type":"invalid_request_error"}}"#;
        Script::new().send(match request.json()["model"].as_str() {
            Some("gpt-limited") => json_answer("429 Too Many Requests", limited),
            Some("gpt-wrong") => json_answer("422 Unprocessable Entity", wrong),
            Some("gpt-broken") => json_answer("500 Internal Server Error", wrong),
            Some("gpt-odd") => answer("200 OK", "", "no json"),
            _ => chat(),
        })
    })
    .await;
    let keys = format!(
        "[[team]]\nname = \"research\"\n[[key]]\nname = \"alice\"\nteam = \"research\"\nsecret = \"{KEY}\"\nmodels = [\"gpt-*\"]\n\
         [[key]]\nname = \"bob\"\nsecret = \"bob-has-one-call\"\nlimits = {{ requests_per_day = 1 }}\n"
    );
    let config = Config::over(&upstream).without_key().table(&keys);
    let gateway = config.start().await;
    let call = async |name: &str, model: &str| {
        let secret = if name == "bob" {
            "bob-has-one-call"
        } else {
            KEY
        };
        let client = gateway
            .stranger()
            .with_header("authorization", &format!("Bearer {secret}"))
            .with_header("x-request-id", &format!("{name}-{model}"));
        let body = json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }] });
        client.chat(body).await.status
    };
    let blamed = |cause: &str| {
        let (who, _) = cause.split_once('_').unwrap_or(("none", ""));
        let labels = format!("{{blame=\"{who}\",cause=\"{cause}\"}}");
        format!("weir_requests_by_blame_total{labels}")
    };
    let metrics = gateway.metrics().await;
    for cause in ["", "policy_limit", "upstream_limited", "gateway_panic"] {
        assert_eq!(value(&metrics, &[&blamed(cause)]), 0.0, "{cause}");
    }
    assert_eq!(call("bob", "gpt-4o").await, 200);
    let all = [
        ("alice", "gpt-limited", 429, "upstream_limited"),
        ("bob", "gpt-5", 429, "policy_limit"),
        ("alice", "gpt-wrong", 422, "client_rejected"),
        ("alice", "gpt-broken", 502, "upstream_status"),
        ("alice", "gpt-odd", 502, "upstream_invalid"),
        ("alice", "other", 403, "policy_model"),
    ];
    for (name, model, status, cause) in all {
        assert_eq!(call(name, model).await, status, "{model}");
        let id = format!("{name}-{model}");
        let line = gateway
            .logged("the call", |line| line["request.id"] == *id)
            .await;
        assert_eq!(line["cause"], cause, "{line}");
        eventually("it stands in the ledger", async || {
            let query = format!("SELECT error FROM request WHERE request_id = '{id}'");
            (gateway.ledger(&query) == [cause]).then_some(())
        })
        .await;
        let team = if name == "alice" { "research" } else { "none" };
        let labels = [
            "weir_requests_total{",
            &format!("cause=\"{cause}\""),
            &format!("key=\"{name}\""),
            &format!("team=\"{team}\""),
            &format!("status=\"{status}\""),
        ];
        gateway.idle().await;
        let metrics = gateway.metrics().await;
        assert_eq!(value(&metrics, &labels), 1.0);
        assert_eq!(value(&metrics, &[&blamed(cause)]), 1.0);
    }
    let metrics = gateway.metrics().await;
    let fine = ["weir_requests_total{", "cause=\"\"", "key=\"bob\""];
    assert_eq!(value(&metrics, &fine), 1.0);
    assert_eq!(value(&metrics, &[&blamed("")]), 1.0);
    let refused = [
        "weir_limit_refusals_total{",
        "name=\"bob\"",
        "requests_per_day",
    ];
    assert_eq!(value(&metrics, &refused), 1.0);
    let used = ["weir_limit_used_ratio{", "name=\"bob\"", "requests_per_day"];
    assert_eq!(value(&metrics, &used), 1.0);
}

#[tokio::test]
async fn tokens_cost_and_what_was_saved_are_told_of_key_team_model_and_upstream() {
    let upstream = Upstream::answering(chat()).await;
    let tables = format!(
        "[cache]\nenabled = true\n\
         [ledger]\nprices = \"own.toml\"\n\
         [[team]]\nname = \"research\"\nbudgets = [{{ amount = \"1 USD\", per = \"day\" }}]\n\
         [[key]]\nname = \"alice\"\nteam = \"research\"\nsecret = \"{KEY}\"\nbudgets = [{{ tokens = 100, per = \"total\" }}]\n"
    );
    let config = Config::over(&upstream).without_key().table(&tables);
    let prices =
        "date = \"2026-11-25\"\n[[price]]\nmodel = \"gpt-4o\"\ninput = 1000\noutput = 2000\n";
    std::fs::write(config.path().join("own.toml"), prices).unwrap();
    let gateway = config.start().await;
    let deterministic = json!({
        "model": "gpt-4o", "seed": 7, "messages": [{ "role": "user", "content": "hi" }]
    });
    for _ in 0..3 {
        let answer = gateway.client().chat(deterministic.clone()).await;
        assert_eq!(answer.status, 200);
    }
    gateway.idle().await;
    let metrics = gateway.metrics().await;
    let who = ["key=\"alice\"", "team=\"research\"", "model=\"*\""];
    let of = |name: &str, more: &[&str]| {
        let parts: Vec<&str> = who.iter().chain(more).copied().collect();
        value(&metrics, &[&[name], &parts[..]].concat())
    };
    let by = "upstream=\"upstream\"";
    assert_eq!(of("weir_tokens_total{", &["type=\"input\"", by]), 3.0);
    assert_eq!(of("weir_tokens_total{", &["type=\"output\"", by]), 2.0);
    // A thousand dollars for a million tokens are a million nano-dollars for one.
    assert_eq!(of("weir_cost_nanodollars_total{", &[by]), 7e6);
    assert_eq!(of("weir_cache_saved_tokens_total{", &["\"input\""]), 6.0);
    assert_eq!(of("weir_cache_saved_nanodollars_total{", &[]), 14e6);
    let budget = |name: &str, holder: &str| value(&metrics, &[name, holder]);
    assert_eq!(budget("weir_budget_used_tokens{", "alice"), 5.0);
    assert_eq!(budget("weir_budget_limit_tokens{", "alice"), 100.0);
    assert_eq!(budget("weir_budget_limit_dollars{", "research"), 1.0);
    assert_eq!(budget("weir_budget_used_dollars{", "research"), 0.007);
    assert_eq!(budget("weir_budget_used_ratio{", "alice"), 0.05);
    let took = ["weir_key_request_duration_seconds_count{", "alice"];
    assert_eq!(value(&metrics, &took), 3.0);
    assert_eq!(value(&metrics, &["weir_upstream_connections{"]), 1.0);
    assert!(value(&metrics, &["weir_ledger_bytes"]) > 0.0);
    assert!(value(&metrics, &["process_resident_memory_bytes"]) > 0.0);
}

#[tokio::test]
async fn a_certificate_tells_when_it_expires() {
    let upstream = Upstream::answering(chat()).await;
    let config = Config::over(&upstream).server("tls = { cert = \"tls.crt\", key = \"tls.key\" }");
    Identity::new().write(config.path());
    let gateway = config.start().await;
    let metrics = gateway.metrics().await;
    let expires = value(&metrics, &["weir_tls_certificate_expiry", "\"data\""]);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    assert!(expires > (now.unwrap() + Duration::from_secs(3600)).as_secs_f64());
}

#[tokio::test]
async fn a_reload_changes_the_bound_and_tells_whether_it_worked() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    gateway.rewrite(|text| format!("[metrics]\nmax_series = 321\n{text}"));
    assert_eq!(gateway.reload().await.status, 200);
    let metrics = gateway.metrics().await;
    assert_eq!(value(&metrics, &["weir_series_limit"]), 321.0);
    let worked = ["weir_config_last_reload_successful"];
    assert_eq!(value(&metrics, &worked), 1.0);
    gateway.rewrite(|text| text.replace("321", "1"));
    assert_ne!(gateway.reload().await.status, 200);
    let metrics = gateway.metrics().await;
    assert_eq!(value(&metrics, &worked), 0.0);
    assert_eq!(value(&metrics, &["weir_series_limit"]), 321.0);
}
