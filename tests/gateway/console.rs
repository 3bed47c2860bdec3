//! The console in a real browser: Debian's Chromium, without a screen, driven by `tests/clients/console.mjs`.
//!
//! `tests/run` installs both; without them these tests fail, they are never skipped.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::clients::{clients, node, succeeds};
use crate::support::answers::{
    DONE, LAST_CHUNK, STREAM_HEAD, USAGE, ask, ask_stream, chat, chunk, delta, error_code,
    json_answer,
};
use crate::support::client::Client;
use crate::support::gateway::Gateway;
use crate::support::upstream::{Gate, Received, Script, Upstream};
use crate::support::{ADMIN_TOKEN, KEY, eventually};

#[tokio::test]
async fn keys_are_made_used_rotated_and_revoked_and_the_playground_streams() {
    let (_upstream, gateway) = house().await;
    console("operate", &gateway).await;
    // The playground's calls are booked like anybody's, on the key that they brought.
    let held = gateway
        .ledger("SELECT key, status, http_status, provenance FROM request WHERE model = 'held'");
    assert_eq!(held, ["<b id=injected>carol</b> complete 200 upstream"]);
    let log = gateway.output();
    assert!(
        !log.contains(ADMIN_TOKEN) && !log.contains("What is a weir?"),
        "{log}"
    );
}

#[tokio::test]
async fn everything_is_reached_by_keyboard() {
    let (_upstream, gateway) = house().await;
    console("keyboard", &gateway).await;
}

#[tokio::test]
async fn a_token_that_counts_no_more_brings_the_login_back() {
    let (_upstream, gateway) = house().await;
    console("expired", &gateway).await;
}

#[tokio::test]
async fn a_phone_shows_all_of_it() {
    let (_upstream, gateway) = house().await;
    console("phone", &gateway).await;
}

#[tokio::test]
async fn whoever_leaves_the_page_leaves_the_upstream() {
    let (upstream, gateway) = house().await;
    console("leave", &gateway).await;
    upstream.left().await;
    let ended = eventually("the call is booked", async || {
        let rows = gateway
            .ledger("SELECT key, status FROM request WHERE model = 'endless' AND status <> 'open'");
        (!rows.is_empty()).then_some(rows)
    });
    assert_eq!(ended.await, ["alice client_gone"]);
}

#[tokio::test]
async fn pages_of_other_sites_do_nothing() {
    let (upstream, gateway) = house().await;
    console("stranger", &gateway).await;
    // What a browser says of such pages is believed, should one ever come by the token.
    let operator = gateway.operator().with_header("x-weir-key", KEY);
    for (header, value) in [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        let evil = operator.with_header(header, value);
        for path in ["/admin/v1/playground/chat/completions", "/admin/v1/keys"] {
            let answer = evil.post(path, ask()).await;
            assert_eq!(
                (answer.status, error_code(&answer.json())),
                (403, "cross_site".into()),
                "{path} {value}"
            );
        }
    }
    assert_eq!(upstream.calls().len(), 0);
}

#[tokio::test]
async fn the_icon_is_for_everyone() {
    let (_upstream, gateway) = house().await;
    let icon = Client::new(gateway.admin()).get("/favicon.ico").await;
    assert_eq!(icon.status, 200);
    assert_eq!(icon.header("content-type"), Some("image/svg+xml"));
    let policy = icon.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    assert!(icon.text().starts_with("<svg "), "{}", icon.text());
}

#[tokio::test]
async fn the_playground_is_the_data_plane() {
    let (upstream, gateway) = house().await;
    let path = "/admin/v1/playground/chat/completions";
    let ours = gateway.operator().with_header("x-weir-key", KEY);
    let answer = ours.post(path, ask()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-weir-upstream"), Some("upstream"));
    let call = upstream.call();
    assert!(!String::from_utf8_lossy(&call.head).contains(ADMIN_TOKEN));
    assert_eq!(call.header("x-weir-key"), None);
    // It refuses as the data plane does, and says so in its words.
    for (key, status, code) in [
        (None, 401, "invalid_api_key"),
        (Some("wr-nobody"), 401, "invalid_api_key"),
        (Some(ADMIN_TOKEN), 401, "invalid_api_key"),
    ] {
        let client = match key {
            Some(key) => gateway.operator().with_header("x-weir-key", key),
            None => gateway.operator(),
        };
        client
            .post(path, ask())
            .await
            .error(status, "invalid_request_error", code);
    }
    let nonsense = ours.post(path, "{nonsense").await;
    nonsense.error(400, "invalid_request_error", "invalid_json");
    // A gateway key opens nothing of the admin plane.
    let anyone =
        Client::new(gateway.admin()).with_header("authorization", &format!("Bearer {KEY}"));
    assert_eq!(anyone.post(path, ask()).await.status, 401);
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn a_stop_lets_the_playground_finish() {
    let gate = Gate::new();
    let (_upstream, mut gateway) = house_with(&gate).await;
    let ours = gateway.operator().with_header("x-weir-key", KEY);
    let mut asked = ask_stream();
    asked["model"] = json!("held");
    let mut stream = ours
        .stream("/admin/v1/playground/chat/completions", asked)
        .await;
    stream.until("\n\n").await;
    gateway.signal("TERM");
    let late = eventually("the playground takes nothing more", async || {
        let late = ours.get("/admin/v1/playground/models").await;
        (late.status == 503).then_some(late)
    });
    assert_eq!(error_code(&late.await.json()), "shutting_down");
    gate.open();
    let (rest, whole) = stream.rest().await;
    assert!(whole && rest.ends_with(DONE), "{rest}");
    assert!(gateway.exit().await.success());
}

#[tokio::test]
async fn failures_are_told_with_their_causes_and_tries() {
    let (_upstream, gateway) = house().await;
    let client = gateway.client();
    client.chat(ask()).await;
    client
        .chat(json!({ "model": "broken", "messages": [] }))
        .await;
    let list = async |query: &str| {
        let path = format!("/admin/v1/requests{query}");
        let answer = gateway.operator().get(&path).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["data"].as_array().unwrap().clone()
    };
    let errors = list("?status=error").await;
    assert_eq!(errors.len(), 1, "{errors:?}");
    let row = &errors[0];
    assert_eq!(
        (
            &row["key"],
            &row["model"],
            &row["cause"],
            &row["http_status"]
        ),
        (
            &json!("alice"),
            &json!("broken"),
            &json!("upstream_status"),
            &json!(502)
        )
    );
    let attempt = &row["attempts"][0];
    assert_eq!(
        (
            &attempt["upstream"],
            &attempt["result"],
            &attempt["http_status"]
        ),
        (&json!("upstream"), &json!("upstream_status"), &json!(500))
    );
    let all = list("").await;
    assert_eq!(all.len(), 2);
    assert_eq!(all[1]["status"], "complete");
    let before = list(&format!("?before={}&limit=1", all[0]["id"])).await;
    assert_eq!(before, [all[1].clone()]);
}

/// A gateway over an upstream that answers by the model: `held` in two parts with a pause until `release` is asked for,
/// `broken` with a 500, `endless` without an end.
async fn house() -> (Upstream, Gateway) {
    house_with(&Gate::new()).await
}

/// The same, with a gate that `held` waits at.
async fn house_with(gate: &Gate) -> (Upstream, Gateway) {
    let gate = gate.clone();
    let upstream = Upstream::start(move |request| answer(request, &gate)).await;
    let gateway = Gateway::over(&upstream).await;
    (upstream, gateway)
}

fn answer(request: &Received, gate: &Gate) -> Script {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let stream = Script::new().send(STREAM_HEAD);
    match body["model"].as_str().unwrap_or_default() {
        "held" => stream
            .send(chunk(delta("A low dam ")))
            .until(gate)
            .send(chunk([&delta("that measures"), USAGE, DONE].concat()))
            .send(LAST_CHUNK),
        "endless" => stream.send(chunk(delta("On and on"))).stall(),
        "broken" => Script::new().send(json_answer("500 Broken", "{}")),
        "release" => {
            gate.open();
            Script::new().send(chat())
        }
        "" => Script::new().send(json_answer(
            "200 OK",
            r#"{"object":"list","data":[{"id":"gpt-4o","object":"model","created":1,"owned_by":"them"}]}"#,
        )),
        _ => Script::new().send(chat()),
    }
}

/// Runs the browser through one of its scripts.
async fn console(mode: &str, gateway: &Gateway) {
    let mut command = node();
    command.arg(clients().join("console.mjs")).arg(mode);
    command
        .env("CHROMIUM", chromium())
        .env("HOME", gateway.dir.path())
        .env("ADMIN_URL", format!("http://{}", gateway.admin()))
        .env("ADMIN_TOKEN", ADMIN_TOKEN)
        .env("GATEWAY_KEY", KEY)
        .env("OPENAI_BASE_URL", gateway.base_url());
    let ended = succeeds(command).await;
    assert_eq!(ended.stdout.trim(), "ok");
}

fn chromium() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|folder| folder.join("chromium"));
    places
        .find(|place| place.exists())
        .expect("chromium is missing: run tests/run once, it installs it")
}
