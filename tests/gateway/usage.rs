//! What was used is told: to operators of everything, to a key of its own.

use http::Method;
use serde_json::{Value, json};

use crate::support::ADMIN_TOKEN;
use crate::support::answers::{ask, chat};
use crate::support::gateway::{Config, Gateway, run, weir};
use crate::support::upstream::Upstream;

const BOB: &str = "wk-bob-Qm4ZtB7yWcHsXk2LdPfRaGvJ8NeUiTo5";

/// Alice called twice, Bob of the team `research` once.
async fn used() -> (Upstream, Gateway) {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .table(&format!(
            "[[team]]\nname = \"research\"\nbudgets = [{{ tokens = 1_000_000, per = \"day\" }}]\n
             [[key]]\nname = \"bob\"\nsecret = \"{BOB}\"\nteam = \"research\"\nbudgets = [{{ amount = \"5 USD\", per = \"month\" }}]\n"
        ))
        .start()
        .await;
    for _ in 0..2 {
        assert_eq!(gateway.client().chat(ask()).await.status, 200);
    }
    assert_eq!(bob(&gateway).chat(ask()).await.status, 200);
    (upstream, gateway)
}

fn bob(gateway: &Gateway) -> crate::support::client::Client {
    gateway
        .stranger()
        .with_header("authorization", &format!("Bearer {BOB}"))
}

async fn usage(gateway: &Gateway, query: &str) -> Value {
    let answer = gateway
        .operator()
        .get(&format!("/admin/v1/usage{query}"))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

#[tokio::test]
async fn usage_is_added_up_by_whatever_is_asked() {
    let (_upstream, gateway) = used().await;
    let by_key = usage(&gateway, "").await;
    assert_eq!(by_key["group_by"], "key");
    assert_eq!(by_key["data"][0]["key"], "alice");
    assert_eq!(
        by_key["total"],
        json!({
            "requests": 3, "prompt_tokens": 9, "completion_tokens": 6, "cached_tokens": 0, "reasoning_tokens": 0,
            "cost": by_key["total"]["cost"], "unpriced_requests": by_key["total"]["unpriced_requests"],
            "cache_hits": 0, "saved_tokens": 0,
        })
    );
    assert!(by_key["total"]["cost"].is_string());
    for (group_by, names) in [
        ("team", vec![Value::Null, json!("research")]),
        ("model", vec![json!("gpt-4o")]),
        ("upstream", vec![json!("upstream")]),
    ] {
        let usage = usage(&gateway, &format!("?group_by={group_by}")).await;
        let found: Vec<_> = usage["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|group| group["key"].clone())
            .collect();
        assert_eq!(found, names, "{group_by}");
        assert_eq!(usage["total"]["requests"], 3);
    }
    let today = jiff::Timestamp::now().to_string()[..10].to_owned();
    let by_day = usage(&gateway, "?group_by=day&from=2026-01-01").await;
    assert_eq!(
        by_day["data"].as_array().unwrap().last().unwrap()["key"],
        json!(today)
    );
    assert_eq!(usage(&gateway, "?key=bob").await["total"]["requests"], 1);
    assert_eq!(
        usage(&gateway, "?team=research&from=0").await["total"]["requests"],
        1
    );
    assert_eq!(
        usage(&gateway, "?to=2020-01-01T00:00:00Z").await["data"],
        json!([])
    );
}

#[tokio::test]
async fn csv_runs_nothing_in_a_spreadsheet() {
    let (_upstream, gateway) = used().await;
    let body = json!({ "model": "=HYPERLINK(\"http://x\"),a", "messages": [] });
    gateway.client().chat(body).await;
    let answer = gateway
        .operator()
        .get("/admin/v1/usage?group_by=model&format=csv")
        .await;
    assert!(
        answer
            .header("content-type")
            .unwrap()
            .starts_with("text/csv")
    );
    let text = answer.text();
    assert!(text.starts_with("model,requests,prompt_tokens,"), "{text}");
    assert!(
        text.contains("\r\n\"'=HYPERLINK(\"\"http://x\"\"),a\",1,"),
        "{text}"
    );
    // Nobody knows its price.
    assert!(text.contains(",a\",1,3,2,0,0,,1,0,0\r\n"), "{text}");
}

#[tokio::test]
async fn mistakes_in_the_question_are_named() {
    let (_upstream, gateway) = used().await;
    for (query, param) in [
        ("?from=now", "from"),
        ("?group_by=everything", "group_by"),
        ("?format=xls", "format"),
        ("?from=2026-11-02&to=2026-11-01", "to"),
        ("?from=2026-11-01&to=2026-11-01", "to"),
        ("?key=a&key=b", "key"),
        ("?group%5Fby=key&x=1", "x"),
    ] {
        let answer = gateway
            .operator()
            .get(&format!("/admin/v1/usage{query}"))
            .await;
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status, &error["param"]),
            (400, &json!(param)),
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_key_is_told_its_own_use_and_no_others() {
    let (upstream, gateway) = used().await;
    let calls = upstream.calls().len();
    let told = bob(&gateway).get("/v1/usage").await;
    assert_eq!(told.status, 200, "{}", told.text());
    assert!(!told.text().contains("alice"));
    let told = told.json();
    assert_eq!(
        (&told["key"], &told["team"]),
        (&json!("bob"), &json!("research"))
    );
    assert_eq!(
        (&told["month"]["requests"], &told["month"]["tokens"]),
        (&json!(1), &json!(5))
    );
    assert_eq!(
        (&told["total"]["requests"], &told["total"]["tokens"]),
        (&json!(1), &json!(5))
    );
    let budgets = told["budgets"].as_array().unwrap();
    assert_eq!(
        (&budgets[0]["name"], &budgets[0]["amount"]),
        (&json!("bob"), &json!("5.00 USD"))
    );
    assert_eq!(
        (
            &budgets[1]["name"],
            &budgets[1]["used"],
            &budgets[1]["left"]
        ),
        (&json!("research"), &json!(5), &json!(999_995))
    );
    // It is neither forwarded nor booked, and has one spelling and one method.
    assert_eq!(upstream.calls().len(), calls);
    assert_eq!(
        bob(&gateway).get("/v1/usage").await.json()["total"]["requests"],
        1
    );
    assert_eq!(
        gateway.client().get("/v1/usage").await.json()["budgets"],
        json!([])
    );
    let answer = bob(&gateway).request(Method::POST, "/v1/usage", "").await;
    answer.error(405, "invalid_request_error", "method_not_allowed");
    assert_eq!(gateway.stranger().get("/v1/usage").await.status, 401);
    assert_eq!(bob(&gateway).get("/v1/Usage").await.status, 404);
}

#[tokio::test]
async fn a_table_for_people_and_json_for_machines() {
    let (_upstream, gateway) = used().await;
    let hostile = json!({ "model": "\u{1b}[2Jgpt", "messages": [] });
    gateway.client().chat(hostile).await;
    let weir_usage = async |args: &[&str]| {
        let mut command = weir(gateway.dir.path());
        command.arg("usage").args(args);
        command.args(["--admin", &format!("http://{}", gateway.admin())]);
        command.env("WEIR_ADMIN_TOKEN", ADMIN_TOKEN);
        run(command).await
    };
    let table = weir_usage(&[]).await;
    assert!(table.status.success(), "{}", table.stderr);
    let lines: Vec<_> = table.stdout.lines().collect();
    assert!(
        lines[0].starts_with("KEY") && lines.last().unwrap().starts_with("TOTAL"),
        "{}",
        table.stdout
    );
    let by_model = weir_usage(&["--by", "model"]).await.stdout;
    assert!(!by_model.contains('\u{1b}'), "{by_model:?}");
    let json = weir_usage(&["--by", "team", "--json"]).await.stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["group_by"], "team");
    // A slip in a name is no empty table like any other.
    let ledger = gateway.dir.path().join(".local/share/weir/weir.db");
    for (args, word) in [
        (["--key", "nobody"], Some("no key of the name `nobody`")),
        (["--team", "nobody"], Some("no team of the name `nobody`")),
        (["--key", "bob"], None),
    ] {
        for to in ["2020-01-01", "2120-01-01"] {
            let told = weir_usage(&[&args[..], &["--to", to]].concat()).await;
            assert!(told.status.success(), "{}", told.stderr);
            match word {
                Some(word) => assert!(told.stderr.contains(word), "{}", told.stderr),
                None => assert_eq!(told.stderr, ""),
            }
        }
    }
    let mut command = weir(gateway.dir.path());
    command
        .args(["usage", "--key", "nobody", "--ledger"])
        .arg(ledger);
    let told = run(command).await;
    assert!(told.status.success(), "{}", told.stderr);
    assert!(
        told.stderr.contains("no key of the name"),
        "{}",
        told.stderr
    );
    let wrong = weir_usage(&["--from", "yesterday"]).await;
    assert_eq!(wrong.status.code(), Some(1));
    assert!(wrong.stderr.contains("--from"), "{}", wrong.stderr);
    for (to, told) in [
        ("2026-11-01", "no time lies between them"),
        ("2026-10-31", "lies before --from"),
    ] {
        let empty = weir_usage(&["--from", "2026-11-01", "--to", to]).await;
        assert_eq!(empty.status.code(), Some(1));
        assert!(empty.stderr.contains(told), "{}", empty.stderr);
    }

    // The configuration says where the gateway listens only when that is no free port; the token it does say.
    let mut command = weir(gateway.dir.path());
    command.args([
        "usage",
        "--config",
        "weir.toml",
        "--admin",
        &format!("http://{}", gateway.admin()),
    ]);
    let by_config = run(command).await;
    assert!(by_config.status.success(), "{}", by_config.stderr);
}

#[tokio::test]
async fn a_configuration_of_which_nothing_would_be_read_is_refused() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let url = format!("http://{}", gateway.admin());
    std::fs::write(gateway.dir.path().join("token"), ADMIN_TOKEN).unwrap();
    let weir_usage = async |named: &[&str], variables: &[(&str, &str)]| {
        let mut command = weir(gateway.dir.path());
        command.args(["usage", "--admin", &url]).args(named);
        command.envs(variables.iter().copied());
        run(command).await
    };
    let config = ["--config", "weir.toml"];
    let token = ("WEIR_ADMIN_TOKEN", ADMIN_TOKEN);
    let of_file = [&config[..], &["--token-file", "token"]].concat();
    for (named, variables, source) in [
        (&config[..], &[token][..], "WEIR_ADMIN_TOKEN"),
        (&of_file, &[], "--token-file"),
    ] {
        let refused = weir_usage(named, variables).await;
        assert_eq!(refused.status.code(), Some(1));
        let why = "nothing would be read of the --config: ";
        assert!(
            refused.stderr.contains(why) && refused.stderr.contains(source),
            "{}",
            refused.stderr
        );
    }
    // What only the environment names may be left unread.
    let asked = weir_usage(&[], &[token, ("WEIR_CONFIG", "missing.toml")]).await;
    assert!(asked.status.success(), "{}", asked.stderr);
}
