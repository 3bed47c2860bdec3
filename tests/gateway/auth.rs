//! Who may come in, decided from the head alone, and what each may use.

use http::Method;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::support::answers::{ask, chat};
use crate::support::gateway::{Config, Gateway};
use crate::support::raw::Raw;
use crate::support::upstream::Upstream;
use crate::support::{CREDENTIAL, KEY};

const OTHER: &str = "wk-bob-Qm4ZtB7yWcHsXk2LdPfRaGvJ8NeUiTo5";

#[tokio::test]
async fn every_spelling_of_the_key_is_taken() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    for (name, value) in [
        ("authorization", format!("Bearer {KEY}")),
        ("authorization", format!("bearer {KEY}")),
        ("Authorization", format!("BEARER {KEY}")),
        ("api-key", KEY.to_owned()),
        ("x-api-key", KEY.to_owned()),
        ("X-API-Key", KEY.to_owned()),
    ] {
        let answer = gateway
            .stranger()
            .with_header(name, &value)
            .chat(ask())
            .await;
        assert_eq!(answer.status, 200, "{name}: {value}: {}", answer.text());
    }
}

#[tokio::test]
async fn no_wrong_key_comes_in_and_nothing_goes_upstream() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let longer = format!("Bearer {KEY}x");
    let shorter = format!("Bearer {}", &KEY[..KEY.len() - 1]);
    let first_20 = format!("Bearer {}{}", &KEY[..20], "a".repeat(KEY.len() - 20));
    let basic = format!("Basic {KEY}");
    let cookie = format!("authorization=Bearer {KEY}; api-key={KEY}");
    let swapped = format!("Bearer {}", KEY.to_uppercase());
    let hash = format!("Bearer sha256:{}", hex(KEY));
    for headers in [
        vec![],
        vec![("authorization", "")],
        vec![("authorization", "Bearer")],
        vec![("authorization", "Bearer ")],
        vec![("authorization", KEY)],
        vec![("authorization", longer.as_str())],
        vec![("authorization", &shorter)],
        vec![("authorization", &first_20)],
        vec![("authorization", &swapped)],
        vec![("authorization", &basic)],
        vec![("authorization", &hash)],
        vec![("authorization", "Bearer ' OR '1'='1")],
        vec![("api-key", "no")],
        vec![("x-api-key", "no")],
        vec![("cookie", &cookie)],
        vec![("x-goog-api-key", KEY)],
    ] {
        for path in [
            "/v1/chat/completions".to_owned(),
            "/v1/files".to_owned(),
            "/v1/chat/completions?api_key=".to_owned() + KEY,
        ] {
            let client = headers
                .iter()
                .fold(gateway.stranger(), |c, (n, v)| c.with_header(n, v));
            let answer = client.post(&path, ask()).await;
            answer.error(401, "invalid_request_error", "invalid_api_key");
            assert!(!answer.text().contains(KEY), "the answer repeats the key");
        }
        for path in ["/v1/models", "/v1/models/gpt-4o", "/v1/engines"] {
            let client = headers
                .iter()
                .fold(gateway.stranger(), |c, (n, v)| c.with_header(n, v));
            let answer = client.get(path).await;
            answer.error(401, "invalid_request_error", "invalid_api_key");
        }
    }
    assert_eq!(upstream.calls().len(), 0);
}

#[tokio::test]
async fn two_authorization_headers_are_refused() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    for (first, second) in [(KEY, "other"), ("other", KEY), (KEY, KEY)] {
        let mut raw = Raw::connect(gateway.data()).await;
        raw.send(format!(
            "GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {first}\r\nauthorization: Bearer {second}\r\n\r\n"
        ))
        .await;
        let answer = raw.answer().await;
        assert!(
            [400, 401].contains(&answer.status()),
            "{first}, {second}: {answer:?}"
        );
        answer.code();
    }
}

#[tokio::test]
async fn a_stranger_is_refused_before_the_body_is_read() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let mut raw = Raw::connect(gateway.data()).await;
    raw.send("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
        .await;
    let answer = raw.answer().await;
    assert_eq!(answer.status(), 401);
    assert_eq!(answer.code(), "invalid_api_key");
    assert_eq!(answer.head.header("connection"), Some("close"));
    raw.closed().await;
}

#[tokio::test]
async fn a_strangers_upload_of_100_mb_is_not_carried() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let before = gateway.peak_memory();
    let mut raw = Raw::connect(gateway.data()).await;
    raw.send("POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=x\r\ncontent-length: 104857600\r\n\r\n")
        .await;
    let piece = vec![b'x'; 64 << 10];
    // Either the gateway reads some of it so that its answer is seen, or it stops us: both are fine.
    for _ in 0..1600 {
        if raw.try_send(&piece).await.is_err() {
            break;
        }
    }
    assert!(gateway.peak_memory() - before < 16 << 20);
    assert_eq!(upstream.calls().len(), 0);
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn keys_may_stand_in_the_file_as_hashes() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .without_key()
        .table(&format!(
            "[[key]]\nname = \"bob\"\nhash = \"sha256:{}\"",
            hex(OTHER)
        ))
        .start()
        .await;
    let bearer = |key| {
        gateway
            .stranger()
            .with_header("authorization", &format!("Bearer {key}"))
    };
    assert_eq!(bearer(OTHER).chat(ask()).await.status, 200);
    let refused = bearer(KEY).chat(ask()).await;
    refused.error(401, "invalid_request_error", "invalid_api_key");
}

#[tokio::test]
async fn an_expired_key_is_refused() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .table(&format!(
            "[[key]]\nname = \"bob\"\nsecret = \"{OTHER}\"\nexpires = 2020-01-01T00:00:00Z"
        ))
        .table(
            "[[key]]\nname = \"carol\"\nsecret = \"wk-carol-0123456789\"\nexpires = 2099-01-01T00:00:00Z",
        )
        .start()
        .await;
    let expired = gateway.stranger().with_header("api-key", OTHER);
    let answer = expired.chat(ask()).await;
    answer.error(401, "invalid_request_error", "invalid_api_key");
    let fresh = gateway
        .stranger()
        .with_header("api-key", "wk-carol-0123456789");
    assert_eq!(fresh.chat(ask()).await.status, 200);
}

#[tokio::test]
async fn a_key_may_use_only_its_models() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .without_key()
        .table(&format!(
            "[[key]]\nname = \"bob\"\nsecret = \"{OTHER}\"\nmodels = [\"gpt-*\", \"poet\"]"
        ))
        .start()
        .await;
    let bob = gateway.stranger().with_header("api-key", OTHER);
    assert_eq!(bob.chat(ask()).await.status, 200);
    for (path, body) in [
        (
            "/v1/chat/completions",
            json!({"model": "o4", "messages": []}),
        ),
        ("/v1/completions", json!({"model": "xgpt-4", "prompt": "a"})),
        ("/v1/embeddings", json!({"model": "embed", "input": "a"})),
        ("/v1/responses", json!({"model": "o4", "input": "a"})),
        ("/v1/engines/davinci/completions", json!({"prompt": "a"})),
        // The engine of the path is the model, whatever the body says.
        (
            "/v1/engines/davinci/completions",
            json!({"prompt": "a", "model": "gpt-4o"}),
        ),
    ] {
        let answer = bob.post(path, body).await;
        answer.error(403, "permission_error", "model_not_allowed");
    }
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn a_team_bounds_its_keys() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .without_key()
        .table("[[team]]\nname = \"research\"\nmodels = [\"gpt-*\"]")
        .table(&format!(
            "[[key]]\nname = \"bob\"\nteam = \"research\"\nsecret = \"{OTHER}\""
        ))
        .start()
        .await;
    let bob = gateway.stranger().with_header("api-key", OTHER);
    assert_eq!(bob.chat(ask()).await.status, 200);
    let answer = bob.chat(json!({"model": "o4", "messages": []})).await;
    answer.error(403, "permission_error", "model_not_allowed");
}

#[tokio::test]
async fn a_key_may_use_only_its_paths() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .without_key()
        .table(&format!(
            "[[key]]\nname = \"bob\"\nsecret = \"{OTHER}\"\npaths = [\"/v1/chat/*\"]"
        ))
        .start()
        .await;
    let bob = gateway.stranger().with_header("api-key", OTHER);
    assert_eq!(bob.chat(ask()).await.status, 200);
    for path in [
        "/v1/completions",
        "/v1/files",
        "/v1/engines/gpt-4o/completions",
    ] {
        let answer = bob.post(path, ask()).await;
        answer.error(403, "permission_error", "path_not_allowed");
    }
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn the_upstreams_credential_replaces_the_key() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let bearer = format!("Bearer {KEY}");
    for (name, value) in [
        ("authorization", bearer.as_str()),
        ("api-key", KEY),
        ("x-api-key", KEY),
    ] {
        let client = gateway.stranger().with_header(name, value);
        assert_eq!(client.chat(ask()).await.status, 200);
        assert_eq!(
            client.request(Method::POST, "/v1/files", "x").await.status,
            200
        );
    }
    // All three at once: the one that counts lets in, none travels on.
    let client = gateway
        .client()
        .with_header("api-key", KEY)
        .with_header("x-api-key", KEY);
    client.chat(ask()).await;
    let calls = upstream.calls();
    assert!(calls.len() >= 6);
    for call in calls {
        assert_eq!(
            call.header("authorization"),
            Some(format!("Bearer {CREDENTIAL}").as_str())
        );
        let head = String::from_utf8_lossy(&call.head).into_owned();
        assert!(!head.contains(KEY), "the gateway key went upstream: {head}");
        assert!(call.header("api-key").is_none() && call.header("x-api-key").is_none());
    }
}

#[tokio::test]
async fn the_host_header_decides_nothing() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    for host in [
        "example.com",
        "localhost/v1/models?",
        "127.0.0.1:8081",
        "evil.test/healthz",
    ] {
        let mut raw = Raw::connect(gateway.data()).await;
        raw.send(format!("GET /v1/models HTTP/1.1\r\nhost: {host}\r\n\r\n"))
            .await;
        let answer = raw.answer().await;
        assert!([400, 401].contains(&answer.status()), "{host}: {answer:?}");
    }
    assert_eq!(upstream.calls().len(), 0);
}

fn hex(secret: &str) -> String {
    Sha256::digest(secret)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}
