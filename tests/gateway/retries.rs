//! Tries after a failure: how many, after which wait, with which credential, and what the client hears of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::support::answers::{
    CHAT, DONE, LAST_CHUNK, STREAM_HEAD, answer, ask, ask_stream, chat, chunk, delta, json_answer,
};
use crate::support::gateway::{Config, Gateway};
use crate::support::upstream::{Received, Script, Upstream, pattern};
use crate::support::within;

const ERROR: &str = r#"{"error":{"message":"no","type":"t","param":null,"code":"c"}}"#;
const QUICK: &str = "attempts = 2\nbackoff = { base = \"1ms\", max = \"2ms\" }";

/// An upstream that goes through these answers, and stays at the last.
async fn in_turn(answers: Vec<Vec<u8>>) -> Upstream {
    let next = AtomicUsize::new(0);
    Upstream::start(move |_| {
        let at = next.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
        Script::new().send(answers[at].clone())
    })
    .await
}

fn told(line: &str, header: &str) -> Vec<u8> {
    answer(
        line,
        &format!("content-type: application/json\r\n{header}\r\n"),
        ERROR,
    )
}

async fn over(upstream: &Upstream, retry: &str) -> Gateway {
    Config::over(upstream).retry(retry).start().await
}

/// Asks with these `api_keys`, of which the upstream takes the good ones.
async fn with_keys(keys: &str, retry: &str, script: fn(&str) -> Vec<u8>) -> (Gateway, Upstream) {
    let upstream = Upstream::start(move |request: &Received| {
        Script::new().send(script(request.header("authorization").unwrap_or_default()))
    })
    .await;
    let gateway = Config::new()
        .table(&format!(
            "[[upstream]]\nname = \"upstream\"\nkind = \"openai\"\nbase_url = \"{}\"\napi_keys = [{keys}]",
            upstream.base_url()
        ))
        .retry(retry)
        .start()
        .await;
    (gateway, upstream)
}

#[tokio::test]
async fn a_wait_that_the_upstream_asks_for_is_the_least() {
    // How long, and in which words, is tried without a clock (`advice`, `routing`).
    for line in ["429 Too Many", "503 Unavailable"] {
        let upstream = in_turn(vec![told(line, "retry-after-ms: 60"), chat()]).await;
        let gateway = over(&upstream, QUICK).await;
        let began = Instant::now();
        let seen = gateway.client().chat(ask()).await;
        assert_eq!((seen.status, seen.text()), (200, CHAT.into()), "{line}");
        assert!(began.elapsed() >= Duration::from_millis(60), "{line}");
        assert_eq!(seen.header("x-weir-attempts"), Some("2"));
    }
}

#[tokio::test]
async fn a_wait_that_is_too_long_goes_to_the_client() {
    let retry = format!("{QUICK}\nmax_retry_after = \"5s\"");
    let upstream = Upstream::answering(told("429 Too Many", "retry-after: 6")).await;
    let gateway = over(&upstream, &retry).await;
    let seen = gateway.client().chat(ask()).await;
    assert_eq!((seen.status, seen.text()), (429, ERROR.into()));
    assert_eq!(seen.header("retry-after"), Some("6"));
    assert_eq!(seen.header("x-should-retry"), None);
    assert_eq!(upstream.calls().len(), 1);

    let upstream = Upstream::answering(told("503 Unavailable", "retry-after: 6")).await;
    let gateway = over(&upstream, &retry).await;
    let seen = gateway.client().chat(ask()).await;
    assert_eq!(seen.status, 502);
    assert_eq!(seen.header("retry-after"), Some("6"));
    assert_eq!(seen.header("x-should-retry"), None);
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn only_when_our_tries_are_spent_the_client_is_told_not_to_try() {
    for (line, status) in [
        ("503 Unavailable", 502),
        ("429 Too Many", 429),
        ("409 Conflict", 409),
    ] {
        let upstream = Upstream::answering(json_answer(line, ERROR)).await;
        let gateway = over(&upstream, QUICK).await;
        let seen = gateway.client().chat(ask()).await;
        assert_eq!(seen.status, status);
        assert_eq!(seen.header("x-should-retry"), Some("false"), "{line}");
        let gateway = over(&upstream, "attempts = 0").await;
        let seen = gateway.client().chat(ask()).await;
        assert_eq!(seen.header("x-should-retry"), None, "{line}");
    }
}

#[tokio::test]
async fn an_upstream_that_wants_no_retry_gets_none() {
    let upstream = Upstream::answering(told("500 Oops", "x-should-retry: false")).await;
    let gateway = over(&upstream, QUICK).await;
    assert_eq!(gateway.client().chat(ask()).await.status, 502);
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn a_budget_of_nothing_allows_nothing() {
    let upstream = Upstream::answering(json_answer("500 Oops", ERROR)).await;
    let gateway = over(&upstream, &format!("{QUICK}\nbudget = 0")).await;
    assert_eq!(gateway.client().chat(ask()).await.status, 502);
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn an_outage_is_not_amplified_beyond_the_budget() {
    let upstream = Upstream::answering(json_answer("500 Oops", ERROR)).await;
    let gateway = over(&upstream, QUICK).await;
    for _ in 0..200 {
        assert_eq!(gateway.client().chat(ask()).await.status, 502);
    }
    let calls = upstream.calls().len();
    assert!((220..=200 + 40 + 30).contains(&calls), "{calls}");
}

#[tokio::test]
async fn a_clients_own_deadline_shortens_ours() {
    let upstream = Upstream::start(|_| Script::new().stall()).await;
    let gateway = over(&upstream, QUICK).await;
    for (name, value) in [
        ("x-stainless-timeout", "0.3"),
        ("x-stainless-timeout", "300ms"),
        ("request-timeout", "0.3"),
    ] {
        let client = gateway.client().with_header(name, value);
        let asked = client.chat(ask());
        let seen = within(Duration::from_secs(3), "the deadline", asked).await;
        seen.error(504, "timeout_error", "upstream_timeout");
    }
    assert_eq!(upstream.calls().len(), 3, "no time is left for another try");
}

#[tokio::test]
async fn every_try_sends_the_same_bytes() {
    let upstream = in_turn(vec![json_answer("500 Oops", ERROR), chat()]).await;
    let gateway = over(&upstream, QUICK).await;
    let body = "{ \"model\":\"gpt-4o\", \"x\" : 1.0e0,\n\"messages\":[] }";
    assert_eq!(gateway.client().chat(body).await.status, 200);
    let calls = upstream.calls();
    assert_eq!(calls.len(), 2);
    assert!(calls.iter().all(|call| call.body == body.as_bytes()));
    assert_eq!(calls[0].headers, calls[1].headers);
}

#[tokio::test]
async fn an_upload_is_never_sent_twice_and_a_harmless_get_is() {
    let upstream = Upstream::answering(json_answer("503 Unavailable", ERROR)).await;
    let gateway = over(&upstream, QUICK).await;
    let seen = gateway.client().post("/v1/files", vec![7; 1000]).await;
    assert_eq!(seen.status, 503, "passed through as it is");
    assert_eq!(upstream.calls().len(), 1);
    let seen = gateway.client().get("/v1/files").await;
    assert_eq!(
        (seen.status, seen.header("x-should-retry")),
        (503, Some("false"))
    );
    assert_eq!(upstream.calls().len(), 4);
}

#[tokio::test]
async fn what_cannot_be_repeated_goes_elsewhere_where_no_connection_comes_about() {
    let upstream = Upstream::answering(json_answer("200 OK", "{}")).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = closed.local_addr().unwrap();
    drop(closed);
    let gateway = Config::new()
        .table(&format!(
            "[[upstream]]\nname = \"two\"\nkind = \"openai\"\nbase_urls = [\"http://{nobody}/v1\", \"{}\"]\neject = {{ failures = 1000, share = 1 }}",
            upstream.base_url()
        ))
        .retry(QUICK)
        .start()
        .await;
    let client = gateway.client();
    let body = pattern(0, 300_000);
    for _ in 0..8 {
        let uploaded = client.post("/v1/files", body.clone()).await;
        let deleted = client.request(Method::DELETE, "/v1/files/f", "").await;
        let cancelled = client.post("/v1/batches/b/cancel", "").await;
        for seen in [uploaded, deleted, cancelled] {
            assert_eq!(seen.status, 200, "{}", seen.text());
        }
    }
    let calls = upstream.calls();
    assert_eq!(calls.len(), 24, "each was sent once");
    for upload in calls.iter().filter(|call| call.target == "/v1/files") {
        assert!(upload.body_is_pattern && upload.body_length == 300_000);
    }
    let metrics = gateway.metrics().await;
    let refused = "weir_upstream_attempts_total{result=\"upstream_connect\"";
    assert!(metrics.contains(refused), "{metrics}");
}

#[tokio::test]
async fn a_stream_that_begins_with_an_error_begins_anew() {
    let head = |events: &str| {
        [
            STREAM_HEAD.as_bytes(),
            &chunk(events),
            LAST_CHUNK.as_bytes(),
        ]
        .concat()
    };
    let failed = head("data: {\"error\":{\"message\":\"busy\",\"code\":\"busy\"}}\n\n");
    let good = head(&format!("{}{DONE}", delta("one")));
    let upstream = in_turn(vec![failed.clone(), good]).await;
    let gateway = over(&upstream, QUICK).await;
    let seen = gateway.client().chat(ask_stream()).await;
    assert!(
        seen.text().contains("one") && seen.text().ends_with(DONE),
        "{}",
        seen.text()
    );
    assert!(!seen.text().contains("busy"));
    assert_eq!(upstream.calls().len(), 2);

    let late = head(&format!(
        "{}data: {{\"error\":{{\"message\":\"busy\"}}}}\n\n",
        delta("one")
    ));
    let upstream = Upstream::answering(late).await;
    let gateway = over(&upstream, QUICK).await;
    let seen = gateway.client().chat(ask_stream()).await;
    assert!(seen.text().contains("one") && seen.text().contains("busy"));
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn a_refused_credential_makes_room_for_the_next_at_once() {
    let script = |credential: &str| match credential {
        "Bearer sk-good-0000" => chat(),
        _ => json_answer("401 Unauthorized", ERROR),
    };
    let keys = "\"sk-bad-0000\", \"sk-good-0000\"";
    let (gateway, upstream) = with_keys(keys, "attempts = 0", script).await;
    for _ in 0..5 {
        assert_eq!(gateway.client().chat(ask()).await.status, 200);
    }
    let calls = upstream.calls();
    let bad = |call: &&Received| call.header("authorization") == Some("Bearer sk-bad-0000");
    assert_eq!(
        calls.iter().filter(bad).count(),
        1,
        "put aside after one refusal"
    );

    let refuse = |_: &str| told("403 Forbidden", "x-secret: its own");
    let (gateway, upstream) = with_keys(keys, QUICK, refuse).await;
    let seen = gateway.client().chat(ask()).await;
    let error = seen.error(502, "upstream_error", "upstream_auth_failed");
    assert_eq!(upstream.calls().len(), 2);
    assert!(!error.to_string().contains("\"no\"") && !seen.text().contains("sk-"));
    assert!(!gateway.output().contains("sk-bad") && !gateway.output().contains("sk-good"));
}

#[tokio::test]
async fn a_limited_credential_makes_room_for_the_next_at_once() {
    let script = |credential: &str| match credential {
        "Bearer sk-free-0000" => chat(),
        _ => told("429 Too Many", "retry-after: 20"),
    };
    let keys = "\"sk-busy-0000\", \"sk-free-0000\"";
    let (gateway, upstream) = with_keys(keys, QUICK, script).await;
    let began = Instant::now();
    for _ in 0..5 {
        assert_eq!(gateway.client().chat(ask()).await.status, 200);
    }
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "nobody waits for the limit"
    );
    assert_eq!(upstream.calls().len(), 6);
}

#[tokio::test]
async fn the_log_tells_each_try_of_a_request_that_had_several() {
    let upstream = in_turn(vec![json_answer("500 Oops", ERROR), chat()]).await;
    let gateway = over(&upstream, QUICK).await;
    assert_eq!(gateway.client().chat(ask()).await.status, 200);
    let line: Value = gateway
        .logged("the request", |line| line["attempts"] == 2)
        .await;
    let tries = line["tries"].as_str().unwrap();
    assert!(
        tries.contains("upstream_status") && tries.ends_with("answered"),
        "{tries}"
    );
    let metrics = gateway.metrics().await;
    for result in ["answered", "upstream_status"] {
        let sample =
            format!("weir_upstream_attempts_total{{result=\"{result}\",upstream=\"upstream\"}} 1");
        assert!(metrics.contains(&sample), "{metrics}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_waiting_and_the_tries() {
    let upstream = Upstream::answering(told("503 Unavailable", "retry-after: 2")).await;
    let gateway = Arc::new(over(&upstream, QUICK).await);
    let asking = tokio::spawn({
        let client = gateway.client();
        async move { client.chat(ask()).await }
    });
    upstream.called(1).await;
    asking.abort();
    gateway.idle().await;
    assert_eq!(upstream.calls().len(), 1);
}
