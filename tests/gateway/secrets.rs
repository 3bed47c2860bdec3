//! No secret is ever said: not in an answer, a header, a log line, a metric, nor upstream.

use http::Method;
use serde_json::json;

use crate::support::answers::{ask, ask_stream, json_answer};
use crate::support::client::Client;
use crate::support::gateway::Config;
use crate::support::raw::Raw;
use crate::support::upstream::{Script, Upstream};
use crate::support::{ADMIN_TOKEN, CREDENTIAL, KEY};

const STRANGER: &str = "wk-nobody-Hh7TtYyUuIiOoPp1234567890AbCdEfG";
const PROMPT: &str = "the prompt that nobody but the upstream may read";
const COMPLETION: &str = "the completion that nobody but the client may read";

#[tokio::test]
async fn no_secret_and_no_content_is_told() {
    let upstream = Upstream::start(|request| {
        let auth = request
            .header("authorization")
            .unwrap_or_default()
            .to_owned();
        match request.header("x-case") {
            // An upstream that repeats what it was given.
            Some("401") => Script::new().send(json_answer(
                "401 Unauthorized",
                format!("{{\"error\":{{\"message\":\"Incorrect API key provided: {auth}\"}}}}"),
            )),
            Some("500") => Script::new().send(json_answer(
                "500 Internal Server Error",
                format!("{{\"error\":\"{auth}\"}}"),
            )),
            Some("cut") => Script::new()
                .send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
                .cut(),
            _ => Script::new().send(json_answer(
                "200 OK",
                json!({"choices": [{"text": COMPLETION}]}).to_string(),
            )),
        }
    })
    .await;
    let gateway = Config::over(&upstream)
        .table("[[key]]\nname = \"bob\"\nsecret = \"wk-bob-0123456789abcdef\"\nmodels = [\"none\"]")
        .start()
        .await;
    let mut heard = String::new();
    let mut hear = |answer: crate::support::client::Answer| {
        heard.push_str(&format!(
            "{:?} {}\n",
            answer.headers,
            String::from_utf8_lossy(&answer.body)
        ))
    };

    for case in ["200", "401", "500", "cut"] {
        for stream in [false, true] {
            let body = json!({"model": "gpt-4o", "prompt": PROMPT, "stream": stream});
            let client = gateway.client().with_header("x-case", case);
            let answer = client.post("/v1/completions", body).await;
            if case != "200" {
                hear(answer);
            }
        }
        let mut stream = gateway
            .client()
            .with_header("x-case", case)
            .open(Method::POST, "/v1/files", PROMPT)
            .await;
        if case == "401" {
            hear(crate::support::client::Answer {
                status: stream.status,
                headers: stream.headers.clone(),
                body: stream.rest().await.0.into(),
            });
        }
    }
    for secret in [STRANGER, ADMIN_TOKEN, CREDENTIAL] {
        for name in ["authorization", "api-key", "x-api-key"] {
            hear(
                gateway
                    .stranger()
                    .with_header(name, &format!("Bearer {secret}"))
                    .chat(ask())
                    .await,
            );
            hear(
                gateway
                    .stranger()
                    .with_header(name, secret)
                    .chat(ask_stream())
                    .await,
            );
        }
        hear(
            Client::new(gateway.admin())
                .with_header("authorization", &format!("Bearer {secret}x"))
                .get("/admin/v1/keys")
                .await,
        );
    }
    hear(
        gateway
            .stranger()
            .with_header("api-key", "wk-bob-0123456789abcdef")
            .chat(ask())
            .await,
    );
    hear(gateway.client().chat(format!("{{\"model\": \"{KEY}")).await);
    hear(
        gateway
            .client()
            .get(&format!("/v1/models/x?api_key={KEY}"))
            .await,
    );
    hear(
        gateway
            .client()
            .get(&format!("/nowhere?api_key={KEY}"))
            .await,
    );
    hear(gateway.operator().get("/metrics").await);
    hear(gateway.operator().get("/readyz").await);
    let mut raw = Raw::connect(gateway.data()).await;
    raw.send(format!(
        "GET /v1/models HTTP/1.1\r\nauthorization : Bearer {KEY}\r\n\r\n"
    ))
    .await;
    heard.push_str(&format!("{:?}", raw.answer().await));
    gateway.idle().await;

    let said = format!("{heard}\n{}\n{}", gateway.output(), gateway.metrics().await);
    for secret in [
        KEY,
        CREDENTIAL,
        ADMIN_TOKEN,
        STRANGER,
        "wk-bob-0123456789abcdef",
    ] {
        let tail = &secret[secret.len() - 12..];
        if let Some(at) = said.find(tail) {
            panic!(
                "{secret} was told: {:?}",
                said[..at + tail.len()].lines().last()
            );
        }
    }
    for digest in [KEY, "wk-bob-0123456789abcdef"].map(hex) {
        assert!(!said.contains(&digest), "a key's hash was told");
    }
    for content in [PROMPT, COMPLETION] {
        assert!(!gateway.output().contains(content), "content in the log");
    }
    // And nothing of a client's key went upstream, even where the client wrote it into the query.
    for call in upstream.calls() {
        let head = String::from_utf8_lossy(&call.head).replace(&format!("api_key={KEY}"), "");
        assert!(
            !head.contains(KEY) && !head.contains(STRANGER) && !head.contains(ADMIN_TOKEN),
            "{head}"
        );
    }
}

fn hex(secret: &str) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(secret)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}
