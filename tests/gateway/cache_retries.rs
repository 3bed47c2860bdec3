//! Calls that clients make again, since they heard nothing of the first one: they get its answer, and pay once.

use serde_json::{Value, json};

use crate::clients::{python, succeeds};
use crate::support::answers::{DONE, LAST_CHUNK, STREAM_HEAD, USAGE, chat, chunk, delta};
use crate::support::client::{Answer, Client};
use crate::support::gateway::{Config, Gateway};
use crate::support::upstream::{Gate, Script, Upstream};
use crate::support::{KEY, eventually};

const CACHE: &str = "[cache]\nenabled = true\n";
/// Nothing is kept for others.
const RETRIES_ALONE: &str = "[cache]\nenabled = false\nretries = { enabled = true }\n";

/// A request whose answer is nobody else's.
fn ask() -> Value {
    json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]})
}

fn tried(gateway: &Gateway, times: &str) -> Client {
    let client = gateway.client();
    client.with_header("x-stainless-retry-count", times)
}

fn status(answer: &Answer) -> &str {
    answer.headers["cache-status"].to_str().unwrap()
}

async fn rows(gateway: &Gateway, columns: &str) -> Vec<String> {
    eventually("no row is open", async || {
        let open = gateway.ledger("SELECT count(*) FROM request WHERE status = 'open'");
        (open == ["0"]).then_some(())
    })
    .await;
    gateway.ledger(&format!("SELECT {columns} FROM request ORDER BY id"))
}

#[tokio::test]
async fn a_retry_gets_the_answer_and_pays_nothing() {
    for cache in [CACHE, RETRIES_ALONE] {
        let upstream = Upstream::answering(chat()).await;
        let gateway = Config::over(&upstream).table(cache).start().await;
        let first = tried(&gateway, "0").chat(ask()).await;
        let again = tried(&gateway, "1").chat(ask()).await;
        assert_eq!(again.body, first.body);
        let told = status(&again);
        assert!(told.starts_with("weir; hit; ttl="), "{told}");
        assert!(told.ends_with("; detail=retry"), "{told}");
        let other = tried(&gateway, "0").chat(ask()).await;
        assert!(status(&other).starts_with("weir; fwd=bypass"));
        assert_eq!(upstream.requests().len(), 2);
        let columns = "status, tokens, cost IS 0, served_from, cache, attempts";
        assert_eq!(
            rows(&gateway, columns).await,
            [
                "complete 5 0 upstream bypass 1",
                "complete 0 1 cache hit 0",
                "complete 5 0 upstream bypass 1"
            ]
        );
    }
}

#[tokio::test]
async fn without_a_cache_nothing_is_kept_for_retries() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream).start().await;
    for times in ["0", "1"] {
        let client = tried(&gateway, times).with_header("idempotency-key", "k");
        assert_eq!(client.chat(ask()).await.status, 200);
    }
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn an_idempotency_key_stands_for_one_request() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream).table(CACHE).start().await;
    let client = gateway.client().with_header("idempotency-key", "order-1");
    let first = client.chat(ask()).await;
    let again = client.chat(ask()).await;
    assert_eq!(again.body, first.body);
    let mut other = ask();
    other["temperature"] = 1.into();
    let refused = client.chat(other).await;
    refused.error(422, "invalid_request_error", "idempotency_key_reused");
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn two_idempotency_keys_are_refused_where_they_would_mean_something() {
    let upstream = Upstream::answering(chat()).await;
    for (cache, status) in [(CACHE, 400), ("", 200)] {
        let gateway = Config::over(&upstream).table(cache).start().await;
        let client = gateway.client().with_header("idempotency-key", "order-1");
        let two = client.with_header("idempotency-key", "order-2");
        let answer = two.chat(ask()).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        if status == 400 {
            answer.error(400, "invalid_request_error", "idempotency_key_ambiguous");
            assert!(answer.text().contains("`Idempotency-Key`"));
        }
    }
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn a_retry_joins_a_stream_that_goes_on() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| {
        Script::new()
            .send(STREAM_HEAD)
            .send(chunk(delta("one")))
            .until(&held)
            .send(chunk(delta("two")))
            .send(chunk(USAGE))
            .send(chunk(DONE))
            .send(LAST_CHUNK)
    })
    .await;
    let gateway = Config::over(&upstream).table(CACHE).start().await;
    let path = "/v1/chat/completions";
    let mut body = ask();
    body["stream"] = true.into();
    let mut first = tried(&gateway, "0").stream(path, body.clone()).await;
    assert_eq!(first.until("\n\n").await, delta("one"));
    let mut again = tried(&gateway, "1").stream(path, body).await;
    assert_eq!(
        again.headers["cache-status"],
        "weir; fwd=bypass; collapsed; detail=retry"
    );
    assert_eq!(again.until("\n\n").await, delta("one"));
    // The first connection was dead all the time.
    drop(first);
    gateway
        .logged("the first client has left", |line| {
            line["cause"] == "client_gone"
        })
        .await;
    gate.open();
    let rest = [delta("two"), DONE.into()].concat();
    assert_eq!(again.rest().await, (rest, true));
    assert_eq!(upstream.requests().len(), 1);
    let columns = "status, tokens, served_from, cache";
    assert_eq!(
        rows(&gateway, columns).await,
        ["client_gone 10 upstream bypass", "complete 0 joined joined"]
    );
}

#[tokio::test]
async fn a_client_that_says_how_long_it_waits_gets_its_answer_when_it_asks_again() {
    const LINGERING: &str = "[cache]\nenabled = true\nretries = { linger = \"60s\" }\n";
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| Script::new().until(&held).send(chat())).await;
    let gateway = Config::over(&upstream).table(LINGERING).start().await;
    let hurried = |times, time| tried(&gateway, times).with_header("x-stainless-timeout", time);
    let first = hurried("0", "0.5");
    let left = tokio::spawn(async move { first.chat(ask()).await });
    upstream.called(1).await;
    left.abort();
    gateway
        .logged("the first try was given up", |line| {
            line["cause"] == "client_gone"
        })
        .await;
    // When it is told so, the time of the first try is long over.
    let late = hurried("1", "1").chat(ask()).await;
    late.error(504, "timeout_error", "upstream_timeout");
    gate.open();
    let again = hurried("2", "60").chat(ask()).await;
    assert_eq!(again.status, 200);
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn the_python_library_gets_the_answer_that_came_too_late_for_its_first_try() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| Script::new().until(&held).send(chat())).await;
    let gateway = Config::over(&upstream).table(CACHE).start().await;
    let program = "import openai\nclient = openai.OpenAI(timeout=2, max_retries=2)\nmade = client.chat.completions.create(model='gpt-4o', messages=[{'role': 'user', 'content': 'hi'}])\nassert made.usage.total_tokens == 5, made\n";
    let mut command = python("current");
    command.args(["-c", program]);
    command
        .env("OPENAI_API_KEY", KEY)
        .env("OPENAI_BASE_URL", gateway.base_url());
    let waiting = async {
        gateway
            .logged("the first try was given up", |line| {
                line["cause"] == "client_gone"
            })
            .await;
        gate.open();
    };
    tokio::join!(succeeds(command), waiting);
    assert_eq!(upstream.requests().len(), 1);
    let rows = rows(&gateway, "status, tokens, cost IS 0").await;
    assert_eq!(rows.first().unwrap(), "client_gone 5 0");
    assert_eq!(rows.last().unwrap(), "complete 0 1");
}

#[tokio::test]
async fn a_call_that_is_not_asked_for_again_ends_its_upstream() {
    let upstream = Upstream::start(|_| Script::new().stall()).await;
    let gateway = Config::over(&upstream).table(CACHE).start().await;
    let client = tried(&gateway, "0");
    let left = tokio::spawn(async move { client.chat(ask()).await });
    upstream.called(1).await;
    left.abort();
    upstream.left().await;
    let statuses = rows(&gateway, "status, cache").await;
    assert_eq!(statuses, ["client_gone bypass"]);
    gateway.idle().await;
}
