//! One map of errors, everywhere: section 5 of the contract.

use http::Method;
use serde_json::{Value, json};

use crate::support::KEY;
use crate::support::answers::{CHAT, answer, ask, ask_stream, chat, error_code, json_answer};
use crate::support::gateway::{Config, Gateway};
use crate::support::raw::Raw;
use crate::support::upstream::{Script, Upstream};

#[tokio::test]
async fn an_upstreams_own_refusals_pass_as_they_are() {
    for status in [
        "400 Bad Request",
        "404 Not Found",
        "409 Conflict",
        "413 Content Too Large",
        "415 Unsupported Media Type",
        "422 Unprocessable Entity",
        "429 Too Many Requests",
    ] {
        let body = r#"{"error": {"message":"caf\u00e9 says no","type":"their_type","param":"n","code":"their_code","extra":1.0}}"#;
        let upstream = Upstream::answering(answer(
            status,
            "content-type: application/json\r\nretry-after: 7\r\nretry-after-ms: 6500\r\nx-should-retry: false\r\n",
            body,
        ))
        .await;
        let gateway = Gateway::over(&upstream).await;
        for ask in [ask(), ask_stream()] {
            let answer = gateway.client().chat(ask).await;
            assert_eq!(answer.status.to_string(), status[..3]);
            assert_eq!(answer.text(), body, "{status}");
            assert_eq!(answer.header("retry-after"), Some("7"));
            assert_eq!(answer.header("retry-after-ms"), Some("6500"));
            assert_eq!(answer.header("x-should-retry"), Some("false"));
            assert!(answer.header("x-request-id").is_some());
        }
    }
}

#[tokio::test]
async fn an_upstream_that_refuses_our_credential_is_our_failure() {
    for status in ["401 Unauthorized", "403 Forbidden"] {
        let upstream = Upstream::answering(json_answer(
            status,
            r#"{"error":{"message":"Incorrect API key provided: sk-up****b8d1","code":"invalid_api_key"}}"#,
        ))
        .await;
        let gateway = Gateway::over(&upstream).await;
        for ask in [ask(), ask_stream()] {
            let answer = gateway.client().chat(ask).await;
            answer.error(502, "upstream_error", "upstream_auth_failed");
            assert!(!answer.text().contains("Incorrect"), "{}", answer.text());
        }
    }
}

#[tokio::test]
async fn an_upstreams_failures_are_server_errors() {
    for status in [
        "500 Internal Server Error",
        "502 Bad Gateway",
        "503 Service Unavailable",
        "504 Gateway Timeout",
        "507 Insufficient Storage",
        "529 Overloaded",
    ] {
        let upstream = Upstream::answering(answer(
            status,
            "content-type: text/html\r\n",
            "<h1>nginx</h1>",
        ))
        .await;
        let gateway = Gateway::over(&upstream).await;
        for ask in [ask(), ask_stream()] {
            let answer = gateway.client().chat(ask).await;
            assert!(
                [500, 502, 503, 504].contains(&answer.status),
                "{status} became {}",
                answer.status
            );
            assert_eq!(answer.header("content-type"), Some("application/json"));
            error_code(&answer.json());
            assert!(!answer.text().contains("nginx"));
        }
    }
}

#[tokio::test]
async fn what_is_no_answer_of_the_api_is_an_invalid_response() {
    for (status, headers) in [
        ("204 No Content", ""),
        ("206 Partial Content", "content-range: bytes 0-1/9\r\n"),
        ("301 Moved Permanently", "location: http://127.0.0.1:1/\r\n"),
        ("302 Found", "location: /v1/elsewhere\r\n"),
        ("304 Not Modified", ""),
        ("307 Temporary Redirect", "location: /v1/elsewhere\r\n"),
        ("418 Teapot", ""),
        ("451 Legal Reasons", ""),
        ("600 Strange", ""),
        ("999 Stranger", ""),
    ] {
        let body = if ["204", "304"].contains(&&status[..3]) {
            ""
        } else {
            CHAT
        };
        let bytes = match body {
            "" => format!("HTTP/1.1 {status}\r\n{headers}\r\n").into_bytes(),
            body => answer(
                status,
                &format!("content-type: application/json\r\n{headers}"),
                body,
            ),
        };
        let upstream = Upstream::answering(bytes).await;
        let gateway = Gateway::over(&upstream).await;
        let answer = gateway.client().chat(ask()).await;
        answer.error(502, "upstream_error", "upstream_invalid_response");
        assert_eq!(upstream.calls().len(), 1, "{status} was followed");
    }
}

#[tokio::test]
async fn an_upgrade_nobody_asked_for_is_an_invalid_response() {
    let upstream = Upstream::answering(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
    )
    .await;
    let gateway = Gateway::over(&upstream).await;
    let answer = gateway.client().chat(ask()).await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    error_code(&answer.json());
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_named_as_such() {
    let upstream = Upstream::answering(chat()).await;
    let config = Config::over(&upstream);
    drop(upstream);
    let gateway = config.start().await;
    let answer = gateway.client().chat(ask()).await;
    let error = answer.error(502, "upstream_error", "upstream_error");
    let message = error["message"].as_str().unwrap();
    assert!(
        !message.contains("127.0.0.1"),
        "an inner address: {message}"
    );
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_head_is_an_upstream_error() {
    for script in [
        Script::new().cut(),
        Script::new().reset(),
        Script::new().send("HTTP/1.1 200 OK\r\ncontent-ty").cut(),
        Script::new().send("220 smtp.example ESMTP\r\n\r\n").cut(),
    ] {
        let upstream = Upstream::start(move |_| script.clone()).await;
        let gateway = Gateway::over(&upstream).await;
        for ask in [ask(), ask_stream()] {
            let answer = gateway.client().chat(ask).await;
            assert_eq!(answer.status, 502, "{}", answer.text());
            assert_eq!(answer.json()["error"]["type"], "upstream_error");
            error_code(&answer.json());
        }
    }
}

#[tokio::test]
async fn an_upstream_that_says_nothing_is_too_slow() {
    let upstream = Upstream::start(|_| Script::new().stall()).await;
    let gateway = Config::new()
        .upstream(
            "upstream",
            &upstream,
            "timeouts = { first_byte = \"300ms\" }",
        )
        .start()
        .await;
    for ask in [ask(), ask_stream()] {
        let answer = gateway.client().chat(ask).await;
        answer.error(504, "timeout_error", "upstream_timeout");
    }
    let answer = gateway
        .client()
        .request(Method::POST, "/v1/files", "x")
        .await;
    answer.error(504, "timeout_error", "upstream_timeout");
    upstream.left().await;
}

#[tokio::test]
async fn an_upstream_that_drips_is_ended_by_the_total_timeout() {
    let upstream = Upstream::start(|_| {
        let mut script = Script::new().send(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n",
        );
        for _ in 0..1000 {
            script = script.send(" ").pause(std::time::Duration::from_millis(50));
        }
        script
    })
    .await;
    let gateway = Config::new()
        .upstream("upstream", &upstream, "timeouts = { total = \"1s\" }")
        .start()
        .await;
    let answer = gateway.client().chat(ask()).await;
    answer.error(504, "timeout_error", "upstream_timeout");
    upstream.left().await;
}

#[tokio::test]
async fn unknown_paths_are_404_and_wrong_methods_405() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    for path in [
        "/",
        "/v1",
        "/v2/models",
        "/healthz",
        "/metrics",
        "/readyz",
        "/admin/v1/keys",
        "/v1//chat/completions",
        "/v1/files/../chat/completions",
        "/v1/%63hat/completions",
        "/v1/chat/completions/",
        "/V1/models",
    ] {
        let answer = gateway.client().post(path, ask()).await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
        error_code(&answer.json());
    }
    for (method, path, allow) in [
        (Method::GET, "/v1/completions", "POST"),
        (Method::DELETE, "/v1/chat/completions", "POST"),
        (Method::PUT, "/v1/embeddings", "POST"),
        (Method::POST, "/v1/models", "GET"),
        (Method::GET, "/v1/engines/x/completions", "POST"),
    ] {
        let answer = gateway.client().request(method, path, "").await;
        assert_eq!(answer.status, 405, "{path}: {}", answer.text());
        error_code(&answer.json());
        assert!(answer.header("allow").unwrap().contains(allow));
    }
    assert_eq!(upstream.calls().len(), 0);
}

#[tokio::test]
async fn a_model_without_a_route_is_not_found() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::new()
        .upstream("upstream", &upstream, "models = [\"gpt-*\"]")
        .start()
        .await;
    let answer = gateway
        .client()
        .chat(json!({"model": "o4", "messages": []}))
        .await;
    let error = answer.error(404, "invalid_request_error", "model_not_found");
    assert_eq!(error["param"], "model");
    let answer = gateway
        .client()
        .post("/v1/engines/davinci/completions", json!({"prompt": "a"}))
        .await;
    answer.error(404, "invalid_request_error", "model_not_found");
    assert_eq!(upstream.calls().len(), 0);
}

#[tokio::test]
async fn bad_bodies_are_told_apart_and_leave_the_connection_usable() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let mut raw = Raw::connect(gateway.data()).await;
    let nested = format!(r#"{{"model":"m","x":{}}}"#, "[".repeat(100_000));
    let closed = format!(
        r#"{{"model":"m","x":{}{}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let objects = format!(
        r#"{{"model":"m","x":{}1{}}}"#,
        r#"{"a":"#.repeat(200),
        "}".repeat(200)
    );
    let bodies: &[(&[u8], &str, Value)] = &[
        (b"", "invalid_json", Value::Null),
        (b"hello", "invalid_json", Value::Null),
        (b"{\"model\":\"m\"", "invalid_json", Value::Null),
        (b"{\"model\":\"m\"} trailing", "invalid_json", Value::Null),
        (b"{\"model\":\"m\",}", "invalid_json", Value::Null),
        (b"{\"model\":\"m\",\"x\":NaN}", "invalid_json", Value::Null),
        (b"{\"model\":\"m\",\"x\":01}", "invalid_json", Value::Null),
        (
            b"{\"model\":\"m\",\"x\":\"\xff\xfe\"}",
            "invalid_json",
            Value::Null,
        ),
        (
            b"\xef\xbb\xbf{\"model\":\"m\xc3\"}",
            "invalid_json",
            Value::Null,
        ),
        (b"{\"model\":\"\\ud800\"}", "invalid_type", json!("model")),
        (nested.as_bytes(), "invalid_json", Value::Null),
        (closed.as_bytes(), "invalid_json", Value::Null),
        (objects.as_bytes(), "invalid_json", Value::Null),
        (b"[]", "invalid_json", Value::Null),
        (b"\"model\"", "invalid_json", Value::Null),
        (b"null", "invalid_json", Value::Null),
        (b"{\"model\":5}", "invalid_type", json!("model")),
        (b"{\"model\":null}", "invalid_type", json!("model")),
        (b"{\"model\":[\"m\"]}", "invalid_type", json!("model")),
        (
            b"{\"model\":\"m\",\"stream\":\"yes\"}",
            "invalid_type",
            json!("stream"),
        ),
        (
            b"{\"model\":\"m\",\"stream\":1}",
            "invalid_type",
            json!("stream"),
        ),
    ];
    for (body, code, param) in bodies {
        let start = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        raw.send(format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        ))
        .await;
        raw.send(body).await;
        let answer = raw.answer().await;
        assert_eq!(answer.status(), 400, "{start}: {answer:?}");
        let found = answer.code();
        assert_eq!(&found, code, "{start}");
        let json: Value = serde_json::from_slice(&answer.body).unwrap();
        if *param != Value::Null {
            assert_eq!(&json["error"]["param"], param, "{start}");
        }
    }
    assert_eq!(upstream.calls().len(), 0);
    let good = ask().to_string();
    raw.send(format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {}\r\n\r\n{good}",
        good.len()
    ))
    .await;
    assert_eq!(
        raw.answer().await.status(),
        200,
        "the connection was usable"
    );
}

#[tokio::test]
async fn a_missing_model_is_the_clients_mistake() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let answer = gateway.client().chat(json!({"messages": []})).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    error_code(&answer.json());
    assert_eq!(answer.json()["error"]["param"], "model");
    assert_eq!(upstream.calls().len(), 0);
}

#[tokio::test]
async fn nothing_in_a_request_chooses_a_host() {
    let upstream = Upstream::answering(chat()).await;
    let trap = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let url = trap.base_url();
    let mut body = ask();
    for field in ["api_base", "base_url", "api_url", "endpoint", "custom_host"] {
        body[field] = json!(url);
    }
    body["user_config"] = json!({"api_base": url});
    let client = [
        "x-portkey-custom-host",
        "x-base-url",
        "x-forwarded-host",
        "forwarded",
    ]
    .iter()
    .fold(gateway.client(), |c, name| c.with_header(name, &url));
    let path = format!("/v1/chat/completions?api_base={url}");
    assert_eq!(client.post(&path, body).await.status, 200);
    assert_eq!(trap.connections(), 0);
    assert_eq!(upstream.calls().len(), 1);
}
