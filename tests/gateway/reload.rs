//! A new configuration takes the place of the old one, and nobody notices who need not.

use http::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::answers::{DONE, LAST_CHUNK, STREAM_HEAD, ask, ask_stream, chat, chunk, delta};
use crate::support::client::Client;
use crate::support::gateway::{Config, Gateway};
use crate::support::raw::Raw;
use crate::support::tls::Identity;
use crate::support::upstream::{Gate, Script, Upstream};
use crate::support::{CREDENTIAL, KEY, eventually};

const BOB: &str = "wk-bob-9sD8fGh2JkLz4XcVbNm6QwErTyUiOp";

fn with_bob(text: &str) -> String {
    format!("{text}\n[[key]]\nname = \"bob\"\nsecret = \"{BOB}\"\n")
}

fn bob(gateway: &Gateway) -> Client {
    let bearer = format!("Bearer {BOB}");
    gateway.stranger().with_header("authorization", &bearer)
}

fn list(value: &Value) -> Vec<String> {
    let items = value.as_array().unwrap();
    items.iter().map(|i| i.as_str().unwrap().into()).collect()
}

#[tokio::test]
async fn keys_come_and_go_at_once() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    assert_eq!(bob(&gateway).chat(ask()).await.status, 401);
    gateway.rewrite(with_bob);
    let reloaded = gateway.reload().await;
    assert_eq!(reloaded.status, 200, "{}", reloaded.text());
    let report = reloaded.json();
    assert_eq!(report["reloaded"], true);
    assert_eq!(list(&report["changed"]), ["key.bob: added"]);
    assert_eq!(report["restart_needed"], json!([]));
    assert_eq!(bob(&gateway).chat(ask()).await.status, 200);

    gateway.rewrite(|text| text.split("[[key]]\nname = \"bob\"").next().unwrap().into());
    let report = gateway.reload().await.json();
    assert_eq!(list(&report["changed"]), ["key.bob: removed"]);
    assert_eq!(bob(&gateway).chat(ask()).await.status, 401);
    assert_eq!(gateway.client().chat(ask()).await.status, 200);
    assert!(!gateway.output().contains(BOB));
}

#[tokio::test]
async fn what_began_on_the_old_configuration_ends_on_it() {
    let gate = Gate::new();
    let gates = gate.clone();
    let old = Upstream::start(move |_| {
        Script::new()
            .send(STREAM_HEAD)
            .send(chunk(delta("one")))
            .until(&gates)
            .send(chunk(delta("two")))
            .send(chunk(DONE))
            .send(LAST_CHUNK)
    })
    .await;
    let new = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&old).await;
    let path = "/v1/chat/completions";
    let mut stream = gateway.client().stream(path, ask_stream()).await;
    stream.until("\n\n").await;

    let (before, after) = (old.base_url(), new.base_url());
    gateway.rewrite(|text| text.replace(&before, &after));
    let report = gateway.reload().await.json();
    assert_eq!(
        list(&report["changed"]),
        ["upstream.upstream: changed (base_url)"]
    );
    assert_eq!(gateway.client().chat(ask()).await.status, 200);
    assert_eq!(new.calls().len(), 1);
    gate.open();
    let (rest, whole) = stream.rest().await;
    assert!(
        whole && rest.contains("two") && rest.contains("[DONE]"),
        "{rest}"
    );
    gateway.idle().await;
}

#[tokio::test]
async fn a_kept_connection_sees_the_new_configuration() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let mut connection = Raw::connect(gateway.data()).await;
    let request =
        format!("GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {BOB}\r\n\r\n");
    connection.send(&request).await;
    assert_eq!(connection.answer().await.status(), 401);
    gateway.rewrite(with_bob);
    assert_eq!(gateway.reload().await.status, 200);
    connection.send(&request).await;
    assert_eq!(connection.answer().await.status(), 200);
}

#[tokio::test]
async fn connections_to_upstreams_that_did_not_change_are_kept() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    for _ in 0..5 {
        assert_eq!(gateway.client().chat(ask()).await.status, 200);
        gateway.rewrite(|text| format!("{text}\n# changed\n"));
        let report = gateway.reload().await.json();
        assert_eq!(report["changed"], json!([]));
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_configuration_with_mistakes_is_refused_and_the_old_one_goes_on() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    gateway.rewrite(|text| {
        text.replace("kind = \"openai\"", "kind = \"opnai\"") + "[sevrer]\nlisten = 3\n"
    });
    let refused = gateway.reload().await;
    assert_eq!(refused.status, 400);
    let report = refused.json();
    assert_eq!(report["reloaded"], false);
    assert_eq!(report["error"]["code"], "invalid_configuration");
    let message = report["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("sevrer") && message.contains("opnai"),
        "{message}"
    );
    assert!(!message.contains(KEY) && !message.contains(CREDENTIAL));
    let problems = report["problems"].as_array().unwrap();
    assert!(problems.len() >= 2);
    assert!(problems.iter().any(|problem| problem["line"].is_u64()));
    let logged = gateway
        .logged("the refusal", |line| {
            line["message"]
                .as_str()
                .unwrap_or_default()
                .contains("refused")
        })
        .await;
    assert!(
        logged["report"].as_str().unwrap().contains("sevrer"),
        "{logged}"
    );
    assert_eq!(gateway.client().chat(ask()).await.status, 200);
    let metrics = gateway.metrics().await;
    assert!(metrics.contains("weir_config_reloads_total{result=\"refused\"} "));
}

#[tokio::test]
async fn what_only_a_restart_can_change_is_said() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    gateway
        .rewrite(|text| text.replace("[server]\n", "[server]\nworkers = 3\nmax_body = \"1KiB\"\n"));
    let report = gateway.reload().await.json();
    assert_eq!(list(&report["restart_needed"]), ["server.workers"]);
    assert_eq!(list(&report["changed"]), ["server: changed (max_body)"]);
    let long = json!({"model": "m", "messages": "x".repeat(2000)});
    assert_eq!(gateway.client().chat(long).await.status, 413);
}

#[tokio::test]
async fn sighup_and_a_renamed_file_reload_too() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    gateway.rewrite(with_bob);
    eventually("the file is noticed", async || {
        (bob(&gateway).chat(ask()).await.status == 200).then_some(())
    })
    .await;
    gateway.rewrite(|text| text.replace(BOB, "wk-bob-another-secret-altogether"));
    gateway.signal("HUP");
    eventually("the signal is heard", async || {
        (bob(&gateway).chat(ask()).await.status == 401).then_some(())
    })
    .await;
    let is_trigger = |wanted: &'static str| move |line: &Value| line["trigger"] == wanted;
    gateway.logged("the file", is_trigger("file changed")).await;
}

#[tokio::test]
async fn a_config_map_that_is_exchanged_behind_its_link_is_noticed() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let folder = gateway.dir.path();
    let text = std::fs::read_to_string(folder.join("weir.toml")).unwrap();
    for (name, text) in [("..1", text.clone()), ("..2", with_bob(&text))] {
        std::fs::create_dir(folder.join(name)).unwrap();
        std::fs::write(folder.join(name).join("weir.toml"), text).unwrap();
    }
    let link = |to: &str, at: &str| {
        std::os::unix::fs::symlink(to, folder.join("link")).unwrap();
        std::fs::rename(folder.join("link"), folder.join(at)).unwrap();
    };
    link("..1", "..data");
    link("..data/weir.toml", "weir.toml");
    gateway
        .logged("the link", |line| line["trigger"] == "file changed")
        .await;
    link("..2", "..data");
    eventually("the new folder is noticed", async || {
        (bob(&gateway).chat(ask()).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_certificate_that_was_replaced_is_served() {
    let upstream = Upstream::answering(chat()).await;
    let (one, two) = (Identity::new(), Identity::new());
    let config = Config::over(&upstream).server("tls = { cert = \"tls.crt\", key = \"tls.key\" }");
    one.write(config.path());
    let gateway = config.start().await;
    let connect = async |identity: &Identity| {
        let stream = TcpStream::connect(gateway.data()).await.unwrap();
        identity.try_connect(stream).await.is_ok()
    };
    assert!(connect(&one).await);
    two.write(gateway.dir.path());
    let report = gateway.reload().await.json();
    assert_eq!(report["reloaded"], true, "{report}");
    assert!(connect(&two).await && !connect(&one).await);

    std::fs::write(gateway.dir.path().join("tls.crt"), "nothing").unwrap();
    assert_eq!(gateway.reload().await.status, 400);
    assert!(connect(&two).await, "the old one goes on");
}

#[tokio::test]
async fn only_the_operator_may_reload_and_no_page_of_another_site() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let path = "/admin/v1/reload";
    let stranger = Client::new(gateway.admin());
    assert_eq!(stranger.post(path, "").await.status, 401);
    assert_eq!(
        gateway.client().post(path, "").await.status,
        404,
        "data plane"
    );
    let operator = gateway.operator();
    assert_eq!(operator.get(path).await.status, 405);
    let foreign = operator.with_header("origin", "https://evil.example");
    assert_eq!(foreign.post(path, "").await.status, 403);
    let null = operator.with_header("origin", "null");
    assert_eq!(null.post(path, "").await.status, 403);
    let own = format!("http://{}", gateway.admin());
    let own = operator.with_header("origin", &own);
    assert_eq!(own.post(path, "").await.status, 200);
    let unknown = operator.request(Method::POST, "/admin/v1/relod", "").await;
    assert_eq!(unknown.status, 404);
}

#[tokio::test]
async fn a_gateway_whose_key_was_made_at_start_keeps_it() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .without_key()
        .env("WEIR_KEY", KEY)
        .start()
        .await;
    assert_eq!(gateway.client().chat(ask()).await.status, 200);
    assert_eq!(gateway.reload().await.status, 200);
    assert_eq!(gateway.client().chat(ask()).await.status, 200);
}
