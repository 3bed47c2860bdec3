//! Keys and teams that are made while the gateway runs.

use std::path::Path;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::support::answers::{ask, ask_stream, chat};
use crate::support::client::{Answer, Client};
use crate::support::gateway::{Config, Ended, Gateway, run, weir};
use crate::support::upstream::Upstream;
use crate::support::{ADMIN_TOKEN, KEY, eventually};

/// A gateway whose ledger lies where the next one finds it.
async fn on(ledger: &Path, upstream: &Upstream, tables: &str) -> Gateway {
    let path = ledger.join("weir.db");
    let config = Config::over(upstream).table(&format!("[ledger]\npath = {path:?}\n{tables}"));
    config.start().await
}

async fn patch(gateway: &Gateway, path: &str, body: Value) -> Answer {
    let client = gateway
        .operator()
        .with_header("content-type", "application/json");
    client.request(Method::PATCH, path, body).await
}

async fn delete(gateway: &Gateway, path: &str) -> Answer {
    gateway.operator().request(Method::DELETE, path, "").await
}

/// Makes a key and returns its secret and its id.
async fn make(gateway: &Gateway, body: Value) -> (String, String) {
    let made = gateway.operator().post("/admin/v1/keys", body).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let made = made.json();
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    (text("key"), text("id"))
}

fn holder(gateway: &Gateway, secret: &str) -> Client {
    gateway
        .stranger()
        .with_header("authorization", &format!("Bearer {secret}"))
}

async fn status(gateway: &Gateway, secret: &str) -> u16 {
    holder(gateway, secret).chat(ask()).await.status
}

#[tokio::test]
async fn a_key_counts_at_once_and_after_a_restart() {
    let upstream = Upstream::answering(chat()).await;
    let folder = tempfile::tempdir().unwrap();
    let gateway = on(folder.path(), &upstream, "").await;
    let (secret, id) = make(&gateway, json!({ "name": "bob" })).await;
    assert!(secret.starts_with(&format!("{id}-")), "{id}");
    assert_eq!(status(&gateway, &secret).await, 200);
    let listed = gateway.operator().get("/admin/v1/keys").await.json();
    let names: Vec<_> = listed["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| (&key["name"], &key["source"]))
        .collect();
    assert_eq!(
        names,
        [
            (&json!("alice"), &json!("config")),
            (&json!("bob"), &json!("admin"))
        ]
    );
    assert!(!gateway.output().contains(&secret), "the log shows a key");
    drop(gateway);

    let gateway = on(folder.path(), &upstream, "").await;
    assert_eq!(status(&gateway, &secret).await, 200);
    assert_eq!(delete(&gateway, "/admin/v1/keys/bob").await.status, 200);
    let answer = holder(&gateway, &secret).chat(ask()).await;
    answer.error(401, "invalid_request_error", "invalid_api_key");
    drop(gateway);

    let gateway = on(folder.path(), &upstream, "").await;
    assert_eq!(status(&gateway, &secret).await, 401);
    for file in ["weir.db", "weir.db-wal"] {
        let bytes = std::fs::read(folder.path().join(file)).unwrap_or_default();
        let has = |text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
        assert!(!has(secret.as_bytes()), "{file} holds a key");
    }
}

#[tokio::test]
async fn what_a_key_may_do_changes_while_it_is_used() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let body = json!({ "name": "bob", "models": ["poet"], "paths": ["/v1/chat/*"] });
    let (secret, id) = make(&gateway, body).await;
    let client = holder(&gateway, &secret);
    client
        .chat(ask())
        .await
        .error(403, "permission_error", "model_not_allowed");
    assert_eq!(client.get("/v1/models").await.status, 403);
    let edited = patch(
        &gateway,
        &format!("/admin/v1/keys/{id}"),
        json!({ "models": ["*"], "paths": null }),
    )
    .await;
    assert_eq!(edited.status, 200, "{}", edited.text());
    assert_eq!(client.chat(ask()).await.status, 200);
    assert_eq!(client.get("/v1/models").await.status, 200);
    let soon = json!({ "expires": (jiff::Timestamp::now() + Duration::from_secs(1)).to_string() });
    assert_eq!(
        patch(&gateway, "/admin/v1/keys/bob", soon).await.status,
        200
    );
    eventually("the key expires", async || {
        (status(&gateway, &secret).await == 401).then_some(())
    })
    .await;
    let shown = gateway.operator().get("/admin/v1/keys/bob").await.json();
    assert_eq!(shown["state"], "expired");
}

#[tokio::test]
async fn a_rotated_keys_old_secret_has_its_time() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let (old, id) = make(&gateway, json!({ "name": "bob" })).await;
    let rotate = async |body: Value| {
        let answer = gateway
            .operator()
            .post("/admin/v1/keys/bob/rotate", body)
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    let rotated = rotate(json!({ "grace": "1h" })).await;
    let new = rotated["key"].as_str().unwrap().to_owned();
    assert_eq!(rotated["previous"]["id"], json!(id));
    assert_eq!(
        (status(&gateway, &old).await, status(&gateway, &new).await),
        (200, 200)
    );
    // Whoever knows the key by its old secret finds it.
    let path = format!("/admin/v1/keys/{id}");
    let found = gateway.operator().get(&path).await;
    assert_eq!((found.status, &found.json()["name"]), (200, &json!("bob")));
    let edited = patch(&gateway, &path, json!({ "models": ["*"] })).await;
    assert_eq!(edited.status, 200, "{}", edited.text());
    // Another rotation would end the first secret before its time: that must be said.
    let refused = gateway
        .operator()
        .post("/admin/v1/keys/bob/rotate", json!({ "grace": "1h" }))
        .await;
    assert_eq!(
        (refused.status, &refused.json()["error"]["code"]),
        (400, &json!("key_in_grace"))
    );
    assert_eq!(status(&gateway, &old).await, 200);
    let rotated = rotate(json!({ "grace": "0s" })).await;
    let newest = rotated["key"].as_str().unwrap();
    assert_eq!(
        (status(&gateway, &old).await, status(&gateway, &new).await),
        (401, 401)
    );
    assert_eq!(status(&gateway, newest).await, 200);
    // Both secrets are one key: its use stands under one name.
    let usage = gateway
        .operator()
        .get("/admin/v1/usage?key=bob")
        .await
        .json();
    assert_eq!(
        (&usage["data"][0]["key"], &usage["total"]["requests"]),
        (&json!("bob"), &json!(4))
    );
    rotate(json!({ "grace": "1ms" })).await;
    let refused = eventually("its time is over", async || {
        let answer = holder(&gateway, newest).chat(ask()).await;
        (answer.status == 401).then_some(answer)
    })
    .await;
    let message = refused.json()["error"]["message"].to_string();
    assert!(message.contains("replaced by a new one"), "{message}");
}

#[tokio::test]
async fn the_configuration_wins_and_says_so() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let taken = gateway
        .operator()
        .post("/admin/v1/keys", json!({ "name": "alice" }))
        .await;
    assert_eq!(
        (taken.status, &taken.json()["error"]["code"]),
        (400, &json!("name_taken"))
    );
    for path in ["/admin/v1/keys/alice", "/admin/v1/keys/alice/rotate"] {
        let method = if path.ends_with("rotate") {
            Method::POST
        } else {
            Method::DELETE
        };
        let answer = gateway.operator().request(method, path, "").await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (400, &json!("configured"))
        );
    }
    let (secret, id) = make(&gateway, json!({ "name": "bob" })).await;
    let bobs = "\n[[key]]\nname = \"bob\"\nsecret = \"wk-another-bob-0123456789\"\n";
    gateway.rewrite(|text| format!("{text}{bobs}"));
    assert_eq!(gateway.reload().await.status, 200);
    assert_eq!(status(&gateway, &secret).await, 401);
    assert_eq!(status(&gateway, "wk-another-bob-0123456789").await, 200);
    let shown = gateway
        .operator()
        .get(&format!("/admin/v1/keys/{id}"))
        .await
        .json();
    assert_eq!(
        (&shown["shadowed"], &shown["state"]),
        (&json!(true), &json!("shadowed"))
    );
    // The name is the configuration's for whoever looks, and for whoever changes.
    let named = gateway.operator().get("/admin/v1/keys/bob").await.json();
    assert_eq!(named["source"], "config");
    let refused = delete(&gateway, "/admin/v1/keys/bob").await;
    assert_eq!(
        (refused.status, &refused.json()["error"]["code"]),
        (400, &json!("configured"))
    );
    assert!(refused.text().contains(&id), "{}", refused.text());
    gateway
        .logged("the shadow is logged", |line| {
            line.to_string().contains("shadowed")
        })
        .await;
    gateway.rewrite(|text| text.replace(bobs, ""));
    assert_eq!(gateway.reload().await.status, 200);
    assert_eq!(status(&gateway, &secret).await, 200);
}

#[tokio::test]
async fn limits_count_at_once_and_after_a_restart() {
    let upstream = Upstream::answering(chat()).await;
    let folder = tempfile::tempdir().unwrap();
    let default = "[limits]\nrequests_per_day = 50\n";
    let gateway = on(folder.path(), &upstream, default).await;
    let team = json!({ "name": "t", "limits": { "requests_per_day": 20 } });
    let made = gateway.operator().post("/admin/v1/teams", team).await;
    assert_eq!(made.json()["limits"], json!([{ "requests_per_day": 20 }]));
    let limits =
        json!([{ "requests_per_day": 1 }, { "tokens_per_day": 9000, "models": ["gpt-*"] }]);
    let body = json!({ "name": "bob", "team": "t", "limits": limits });
    let (secret, _) = make(&gateway, body).await;
    let left = async |gateway: &Gateway| {
        let answer = holder(gateway, &secret).chat(ask()).await;
        let header = |name: &str| answer.header(&format!("x-ratelimit-{name}"));
        let number = |name: &str| header(name).and_then(|value| value.parse::<u32>().ok());
        (
            answer.status,
            number("limit-requests"),
            number("remaining-requests"),
        )
    };
    assert_eq!(left(&gateway).await, (200, Some(1), Some(0)));
    assert_eq!(left(&gateway).await.0, 429);
    let more = json!({ "limits": { "requests_per_day": 10 } });
    let edited = patch(&gateway, "/admin/v1/keys/bob", more).await;
    assert_eq!(edited.json()["limits"], json!([{ "requests_per_day": 10 }]));
    assert_eq!(left(&gateway).await, (200, Some(10), Some(8)));
    drop(gateway);

    let gateway = on(folder.path(), &upstream, default).await;
    assert_eq!(left(&gateway).await, (200, Some(10), Some(9)));
    // Without limits of its own it has those of every key, and its team's.
    let none = json!({ "limits": null });
    assert_eq!(
        patch(&gateway, "/admin/v1/keys/bob", none).await.status,
        200
    );
    assert_eq!(left(&gateway).await, (200, Some(20), Some(18)));
    for (limits, param) in [
        (
            json!({ "requests_per_minute": 0 }),
            "limits.requests_per_minute",
        ),
        (json!([{ "rpm": 5 }]), "limits[0].rpm"),
        (json!(7), "limits"),
    ] {
        for path in ["/admin/v1/keys/bob", "/admin/v1/teams/t"] {
            let refused = patch(&gateway, path, json!({ "limits": limits })).await;
            let error = &refused.json()["error"];
            assert_eq!((refused.status, &error["param"]), (400, &json!(param)));
        }
    }
}

#[tokio::test]
async fn teams_bound_their_keys() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let team = json!({ "name": "r&d / ü", "models": ["poet"], "budgets": [{ "tokens": 12, "per": "day" }] });
    assert_eq!(
        gateway
            .operator()
            .post("/admin/v1/teams", team)
            .await
            .status,
        201
    );
    let of_team = |name| json!({ "name": name, "team": "r&d / ü" });
    let (one, _) = make(&gateway, of_team("one")).await;
    let (two, _) = make(&gateway, of_team("two")).await;
    assert_eq!(status(&gateway, &one).await, 403);
    let path = "/admin/v1/teams/r%26d%20%2F%20%C3%BC";
    assert_eq!(
        patch(&gateway, path, json!({ "models": ["*"] }))
            .await
            .status,
        200
    );
    let small = json!({ "model": "gpt-4o", "max_tokens": 1, "messages": [] });
    let mut codes = Vec::new();
    for secret in [&one, &two, &one, &two, &one] {
        let answer = holder(&gateway, secret).chat(small.clone()).await;
        codes.push(answer.status);
        if answer.status == 429 {
            answer.error(429, "insufficient_quota", "insufficient_quota");
        }
    }
    assert!(
        codes.starts_with(&[200, 200]) && codes.ends_with(&[429]),
        "{codes:?}"
    );
    // More is given, and it counts at once.
    let more = json!({ "budgets": [{ "tokens": 1000, "per": "day" }] });
    assert_eq!(patch(&gateway, path, more).await.status, 200);
    assert_eq!(holder(&gateway, &one).chat(small).await.status, 200);
    let refused = delete(&gateway, path).await;
    assert_eq!(
        (refused.status, &refused.json()["error"]["code"]),
        (400, &json!("team_has_keys"))
    );
    for name in ["one", "two"] {
        assert_eq!(
            delete(&gateway, &format!("/admin/v1/keys/{name}"))
                .await
                .status,
            200
        );
    }
    assert_eq!(delete(&gateway, path).await.status, 200);
}

#[tokio::test]
async fn hostile_names_and_bodies_do_no_harm() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    for (name, path) in [
        (
            "'; DROP TABLE api_key; --",
            "%27%3B%20DROP%20TABLE%20api_key%3B%20--",
        ),
        ("../../etc/passwd", "..%2F..%2Fetc%2Fpasswd"),
        ("a\"b\\c", "a%22b%5Cc"),
        ("100%25", "100%2525"),
    ] {
        let (secret, _) = make(&gateway, json!({ "name": name })).await;
        assert_eq!(status(&gateway, &secret).await, 200, "{name}");
        let shown = gateway
            .operator()
            .get(&format!("/admin/v1/keys/{path}"))
            .await;
        assert_eq!((shown.status, &shown.json()["name"]), (200, &json!(name)));
        let usage = gateway
            .operator()
            .get(&format!("/admin/v1/usage?key={path}"))
            .await;
        assert_eq!(usage.json()["total"]["requests"], 1, "{name}");
        assert_eq!(
            delete(&gateway, &format!("/admin/v1/keys/{path}"))
                .await
                .status,
            200
        );
    }
    for body in [
        json!({ "name": "x", "limits": { "rpm": -1 } }),
        json!({ "name": "x\u{0}y" }),
        json!({ "name": "n".repeat(129) }),
        json!({ "name": "x", "budgets": [{ "amount": "-1 USD", "per": "day" }] }),
        json!({ "name": "x", "budgets": [{ "tokens": 1e300, "per": "day" }] }),
        json!({ "name": "x", "expires": "2020-01-01T00:00:00Z" }),
        json!(null),
    ] {
        let answer = gateway
            .operator()
            .post("/admin/v1/keys", body.clone())
            .await;
        assert_eq!(answer.status, 400, "{body}");
    }
    let large = gateway
        .operator()
        .post("/admin/v1/keys", " ".repeat(70_000))
        .await;
    assert_eq!(large.status, 413);
    let form = gateway
        .operator()
        .with_header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(
        form.request(Method::POST, "/admin/v1/keys", "name=x")
            .await
            .status,
        415
    );
    let page = gateway
        .operator()
        .with_header("origin", "http://evil.example");
    assert_eq!(
        page.post("/admin/v1/keys", json!({ "name": "x" }))
            .await
            .status,
        403
    );
    assert_eq!(page.get("/admin/v1/keys").await.status, 403);
    let client =
        Client::new(gateway.admin()).with_header("authorization", &format!("Bearer {KEY}"));
    for path in ["keys", "teams", "usage", "audit"] {
        assert_eq!(
            client.get(&format!("/admin/v1/{path}")).await.status,
            401,
            "{path}"
        );
    }
}

#[tokio::test]
async fn every_change_is_in_the_audit() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let (secret, _) = make(&gateway, json!({ "name": "bob" })).await;
    patch(
        &gateway,
        "/admin/v1/keys/bob",
        json!({ "models": ["gpt-*"] }),
    )
    .await;
    delete(&gateway, "/admin/v1/keys/bob").await;
    gateway.reload().await;
    let audit = gateway.operator().get("/admin/v1/audit?limit=10").await;
    let rows = audit.json()["data"].as_array().unwrap().clone();
    let actions: Vec<_> = rows
        .iter()
        .map(|row| row["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        actions,
        ["config.reload", "key.revoke", "key.edit", "key.create"]
    );
    assert!(rows.iter().all(|row| row["actor"] == "admin"));
    assert_eq!(
        rows[2]["detail"]["models"],
        json!({ "from": ["*"], "to": ["gpt-*"] })
    );
    assert!(!audit.text().contains(&secret));
}

#[tokio::test]
async fn many_changes_at_once_come_one_by_one() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let names: Vec<String> = (0..20).map(|i| format!("key-{i}")).collect();
    // Each name twice: one of the two gets it.
    let calls = names.iter().chain(&names).map(|name| {
        let operator = gateway.operator();
        let body = json!({ "name": name });
        async move { operator.post("/admin/v1/keys", body).await.status }
    });
    let mut codes = futures_util::future::join_all(calls).await;
    codes.sort_unstable();
    assert_eq!(codes, [vec![201; 20], vec![400; 20]].concat());
    let listed = gateway.operator().get("/admin/v1/keys").await.json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 21);
}

#[tokio::test]
async fn a_stream_goes_on_when_its_key_is_revoked() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let (secret, _) = make(&gateway, json!({ "name": "bob" })).await;
    let stream = holder(&gateway, &secret)
        .stream("/v1/chat/completions", ask_stream())
        .await;
    assert_eq!(delete(&gateway, "/admin/v1/keys/bob").await.status, 200);
    assert_eq!(stream.status, 200);
    assert_eq!(status(&gateway, &secret).await, 401);
}

async fn cli(gateway: &Gateway, args: &[&str]) -> Ended {
    let mut command = weir(gateway.dir.path());
    command.args(args).env("WEIR_ADMIN_TOKEN", ADMIN_TOKEN);
    run(command).await
}

#[tokio::test]
async fn a_keys_life_from_a_terminal() {
    let upstream = Upstream::answering(chat()).await;
    let folder = tempfile::tempdir().unwrap();
    let gateway = on(folder.path(), &upstream, "").await;
    let url = format!("http://{}", gateway.admin());
    let at = |args: &[&str]| {
        [args, &["--admin", &url]]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let weir_keys = async |args: &[&str]| {
        let args = at(args);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        cli(&gateway, &args).await
    };
    let made = weir_keys(&[
        "keys",
        "new",
        "bob/b",
        "--models",
        "gpt-*,poet",
        "--budget",
        "50 USD/month",
        "--limit",
        "600 requests/minute burst 20",
        "--limit",
        "9 concurrent for gpt-*",
    ])
    .await;
    assert!(made.status.success(), "{}", made.stderr);
    let secret = made
        .stdout
        .lines()
        .next()
        .unwrap()
        .strip_prefix("key:  ")
        .unwrap();
    assert_eq!(status(&gateway, secret).await, 200);
    let listed = weir_keys(&["keys", "list"]).await.stdout;
    assert!(
        listed.contains("bob/b") && listed.contains("50.00 USD/month") && listed.contains("alice"),
        "{listed}"
    );
    assert!(
        listed.contains("600 requests/minute burst 20; 9 concurrent for gpt-*"),
        "{listed}"
    );
    let rotated = weir_keys(&["keys", "rotate", "bob/b", "--grace", "0"]).await;
    assert!(
        rotated.status.success() && rotated.stdout.contains("valid no more"),
        "{}",
        rotated.stdout
    );
    assert_eq!(status(&gateway, secret).await, 401);
    let edited = weir_keys(&["keys", "edit", "bob/b", "--budget", "none", "--json"]).await;
    let edited: Value = serde_json::from_str(&edited.stdout).unwrap();
    assert_eq!(edited["budgets"], json!([]));
    let edited = weir_keys(&["keys", "edit", "bob/b", "--limit", "none", "--json"]).await;
    let edited: Value = serde_json::from_str(&edited.stdout).unwrap();
    assert_eq!(edited["limits"], json!([]));
    assert!(
        weir_keys(&["keys", "revoke", "bob/b"])
            .await
            .status
            .success()
    );
    let refused = weir_keys(&["keys", "rotate", "nobody"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("no such key"), "{}", refused.stderr);
    for (option, value, told) in [
        (
            "--limit",
            "-1 requests/minute",
            "invalid value '-1 requests/minute' for '--limit",
        ),
        (
            "--budget",
            "-5 USD/month",
            "`budgets[0].amount` is negative",
        ),
    ] {
        let refused = weir_keys(&["keys", "edit", "bob/b", option, value]).await;
        assert_eq!(refused.status.code(), Some(1));
        assert!(refused.stderr.contains(told), "{}", refused.stderr);
    }
    let usage = weir_keys(&["usage"]).await.stdout;
    assert!(
        usage.contains("bob/b") && usage.contains("TOTAL"),
        "{usage}"
    );
    // Where it is done stands on either side of what is done.
    for args in [
        &["keys", "--admin", &url, "list"][..],
        &["keys", "list", "--admin", &url],
        &["keys", "--json", "team", "--admin", &url, "list"],
    ] {
        let listed = cli(&gateway, args).await;
        assert!(listed.status.success(), "{args:?}: {}", listed.stderr);
    }
    let readyz = format!("{url}/readyz");
    for args in [&["keys", "list"][..], &["usage"], &["explain"]] {
        let refused = cli(&gateway, &[args, &["--admin", &readyz]].concat()).await;
        assert_eq!(refused.status.code(), Some(1));
        let told = format!("write {url}\n");
        assert!(refused.stderr.ends_with(&told), "{}", refused.stderr);
    }
    // Without the token, and where nobody listens.
    let mut stranger = weir(gateway.dir.path());
    stranger.args(["keys", "list", "--admin", &url]);
    let stranger = run(stranger).await;
    assert_eq!(stranger.status.code(), Some(1));
    assert!(
        stranger.stderr.contains("WEIR_ADMIN_TOKEN"),
        "{}",
        stranger.stderr
    );
    assert_eq!(
        cli(&gateway, &["keys", "list", "--admin", "http://127.0.0.1:1"])
            .await
            .status
            .code(),
        Some(1)
    );

    // At the file itself, beside the gateway, which notices.
    let path = folder.path().join("weir.db").display().to_string();
    let made = cli(&gateway, &["keys", "new", "carol", "--ledger", &path]).await;
    assert!(made.status.success(), "{}", made.stderr);
    let secret = made
        .stdout
        .lines()
        .next()
        .unwrap()
        .strip_prefix("key:  ")
        .unwrap()
        .to_owned();
    let usage = cli(&gateway, &["usage", "--ledger", &path, "--csv"]).await;
    assert!(
        usage.stdout.starts_with("key,requests,") && usage.stdout.contains("\r\nbob/b,1,3,2,"),
        "{}",
        usage.stdout
    );
    eventually("the key counts", async || {
        (status(&gateway, &secret).await == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn keys_that_lose_their_team_are_named() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .table("[[team]]\nname = \"research\"\n")
        .start()
        .await;
    let body = json!({ "name": "bob", "team": "research" });
    let (secret, _) = make(&gateway, body).await;
    assert_eq!(status(&gateway, &secret).await, 200);
    gateway.rewrite(|text| text.replace("[[team]]\nname = \"research\"\n", ""));
    let named = |text: &str| text.contains("no team \"research\"") && text.contains("\"bob\"");
    let checked = cli(&gateway, &["check", "--config", "weir.toml"]).await;
    assert!(
        checked.status.success() && named(&checked.stdout),
        "{}",
        checked.stdout
    );
    let reloaded = gateway.reload().await;
    assert_eq!(reloaded.status, 200);
    let warnings = reloaded.json()["warnings"]
        .to_string()
        .replace("\\\"", "\"");
    assert!(named(&warnings), "{warnings}");
    assert_eq!(status(&gateway, &secret).await, 401);
    let shown = gateway.operator().get("/admin/v1/keys/bob").await.json();
    assert_eq!(shown["state"], "team_missing");
}

#[tokio::test]
async fn gateways_that_share_a_ledger_follow_each_other() {
    let upstream = Upstream::answering(chat()).await;
    let folder = tempfile::tempdir().unwrap();
    let one = on(folder.path(), &upstream, "").await;
    let other = on(folder.path(), &upstream, "").await;
    let becomes = async |secret: &str, expected: u16| {
        eventually("the other gateway has noticed", async || {
            (status(&other, secret).await == expected).then_some(())
        })
        .await;
    };
    let (secret, _) = make(&one, json!({ "name": "bob" })).await;
    becomes(&secret, 200).await;
    let rotated = one
        .operator()
        .post("/admin/v1/keys/bob/rotate", json!({ "grace": "0s" }))
        .await;
    let new = rotated.json()["key"].as_str().unwrap().to_owned();
    becomes(&new, 200).await;
    assert_eq!(status(&other, &secret).await, 401);
    let models = json!({ "models": ["poet"] });
    assert_eq!(patch(&one, "/admin/v1/keys/bob", models).await.status, 200);
    becomes(&new, 403).await;
    assert_eq!(delete(&one, "/admin/v1/keys/bob").await.status, 200);
    becomes(&new, 401).await;
}
