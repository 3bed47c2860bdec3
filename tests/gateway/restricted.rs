//! What a key may use, on the paths that pass through: their models as far as they can be known, and their tokens.

use http::Method;
use serde_json::json;

use crate::support::answers::json_answer;
use crate::support::client::{Answer, Client};
use crate::support::gateway::{Config, Gateway};
use crate::support::raw::Raw;
use crate::support::upstream::Upstream;
use crate::support::{KEY, eventually};

const IMAGE: &str = r#"{"created": 1, "data": [{"b64_json": "eA=="}], "usage": {"input_tokens": 10, "output_tokens": 90, "total_tokens": 100}}"#;

/// A gateway with one key, of which these lines say what it may use.
async fn over(upstream: &Upstream, key: &str) -> Gateway {
    let config = Config::over(upstream).without_key();
    let key = format!("[[key]]\nname = \"alice\"\nsecret = \"{KEY}\"\n{key}\n");
    config.table(&key).start().await
}

async fn upload(client: &Client, path: &str) -> Answer {
    let form = "--x\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\ngpt-4o\r\n--x--\r\n";
    client
        .with_header("content-type", "multipart/form-data; boundary=x")
        .request(Method::POST, path, form)
        .await
}

async fn image(gateway: &Gateway, model: &str) -> Answer {
    let body = json!({ "model": model, "prompt": "a weir" });
    gateway.client().post("/v1/images/generations", body).await
}

#[tokio::test]
async fn a_key_of_some_models_uses_no_other_on_paths_that_pass_through() {
    let upstream = Upstream::answering(json_answer("200 OK", IMAGE)).await;
    let gateway = over(&upstream, "models = [\"gpt-*\"]").await;
    let client = gateway.client();
    let answer = image(&gateway, "gpt-image-1").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        upstream.call().json(),
        json!({ "model": "gpt-image-1", "prompt": "a weir" })
    );
    assert_eq!(client.get("/v1/files").await.status, 200);
    assert_eq!(
        client
            .request(Method::DELETE, "/v1/files/f", "")
            .await
            .status,
        200
    );
    let served = upstream.calls().len();

    let other = image(&gateway, "dall-e-3").await;
    other.error(403, "permission_error", "model_not_allowed");
    assert!(other.text().contains("dall-e-3"));
    let unnamed = client
        .post("/v1/moderations", json!({ "input": "a" }))
        .await;
    unnamed.error(403, "permission_error", "model_not_allowed");
    for path in ["/v1/audio/transcriptions", "/v1/files?model=gpt-4o"] {
        upload(&client, path)
            .await
            .error(403, "permission_error", "model_not_allowed");
    }
    for target in ["/v1/realtime?model=o3", "/v1/realtime"] {
        let mut raw = Raw::connect(gateway.data()).await;
        raw.send(&format!("GET {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")).await;
        let answer = raw.answer().await;
        assert_eq!(answer.status(), 403, "{target}");
        assert_eq!(answer.code(), "model_not_allowed");
    }
    assert_eq!(upstream.calls().len(), served, "something went on");
}

#[tokio::test]
async fn a_key_of_all_models_is_asked_for_none() {
    let upstream = Upstream::answering(json_answer("200 OK", IMAGE)).await;
    let gateway = over(&upstream, "models = [\"*\"]").await;
    let client = gateway.client();
    let answer = upload(&client, "/v1/audio/transcriptions").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let unnamed = client
        .post("/v1/moderations", json!({ "input": "a" }))
        .await;
    assert_eq!(unnamed.status, 200);
}

#[tokio::test]
async fn tokens_of_paths_that_pass_through_count_towards_budgets_and_limits() {
    for bound in [
        "budgets = [{ tokens = 50, per = \"day\" }]",
        "budgets = [{ amount = \"0.000001 USD\", per = \"day\" }]",
        "limits = { tokens_per_minute = 50 }",
        "limits = { output_tokens_per_day = 50 }",
        "limits = [{ tokens_per_minute = 50, models = [\"gpt-4o\"] }]",
    ] {
        let upstream = Upstream::answering(json_answer("200 OK", IMAGE)).await;
        let gateway = over(&upstream, bound).await;
        assert_eq!(image(&gateway, "gpt-4o").await.status, 200, "{bound}");
        let answer = image(&gateway, "gpt-4o").await;
        assert_eq!(answer.status, 429, "{bound}: {}", answer.text());
        assert_eq!(upstream.calls().len(), 1, "{bound}");
    }
}

#[tokio::test]
async fn what_passes_through_stands_in_the_ledger_under_its_model() {
    let upstream = Upstream::answering(json_answer("200 OK", IMAGE)).await;
    let gateway = over(&upstream, "").await;
    assert_eq!(image(&gateway, "gpt-4o").await.status, 200);
    let row = "SELECT model, tokens, cost > 0, provenance FROM request WHERE status <> 'open'";
    eventually("the row is settled", async || {
        (gateway.ledger(row) == ["gpt-4o 100 1 upstream"]).then_some(())
    })
    .await;
}
