//! The targets of a route: who is asked, under which name, and who stands in for whom.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::answers::{ask, chat, json_answer};
use crate::support::eventually;
use crate::support::gateway::{Config, Gateway};
use crate::support::upstream::{Gate, Script, Upstream};

const ERROR: &str = r#"{"error":{"message":"no","type":"t","param":null,"code":"c"}}"#;

async fn failing() -> Upstream {
    Upstream::answering(json_answer("500 Oops", ERROR)).await
}

async fn routed(one: &Upstream, two: &Upstream, lines: &str) -> Gateway {
    Config::new()
        .upstream("one", one, "models = [\"one-*\"]")
        .upstream("two", two, "models = [\"two-*\"]")
        .routed("gpt-4o", lines)
        .start()
        .await
}

#[tokio::test]
async fn the_next_priority_answers_under_its_own_name() {
    let (one, two) = (failing().await, Upstream::answering(chat()).await);
    let targets = "targets = [{ upstream = \"two\", model = \"name-two\", priority = 1 }, { upstream = \"one\", model = \"name-one\" }]";
    let gateway = routed(&one, &two, targets).await;
    let seen = gateway.client().chat(ask()).await;
    assert_eq!(seen.status, 200, "{}", seen.text());
    assert_eq!(seen.header("x-weir-upstream"), Some("two"));
    assert_eq!(seen.header("x-weir-attempts"), Some("2"));
    assert_eq!(seen.header("x-weir-degraded"), None);
    assert_eq!(one.call().json()["model"], "name-one");
    assert_eq!(two.call().json()["model"], "name-two");
}

#[tokio::test]
async fn an_answer_that_is_the_clients_fault_is_final() {
    let one = Upstream::answering(json_answer("404 Not Found", ERROR)).await;
    let two = Upstream::answering(chat()).await;
    let targets = "balance = \"order\"\ntargets = [{ upstream = \"one\" }, { upstream = \"two\" }]";
    let gateway = routed(&one, &two, targets).await;
    assert_eq!(gateway.client().chat(ask()).await.status, 404);
    assert_eq!(two.calls().len(), 0);
}

#[tokio::test]
async fn weights_are_shares() {
    let (one, two) = (
        Upstream::answering(chat()).await,
        Upstream::answering(chat()).await,
    );
    let targets = "balance = \"weighted\"\ntargets = [{ upstream = \"one\", weight = 4 }, { upstream = \"two\" }]";
    let gateway = routed(&one, &two, targets).await;
    for _ in 0..200 {
        assert_eq!(gateway.client().chat(ask()).await.status, 200);
    }
    let share = one.calls().len();
    assert!((130..190).contains(&share), "{share} of 200");
}

#[tokio::test]
async fn calls_alike_in_a_header_or_in_their_prompts_beginning_stay_together() {
    for (affinity, header) in [
        ("{ header = \"x-session-id\" }", true),
        ("{ prompt_prefix = \"64B\" }", false),
    ] {
        let (one, two) = (
            Upstream::answering(chat()).await,
            Upstream::answering(chat()).await,
        );
        let lines = format!(
            "affinity = {affinity}\ntargets = [{{ upstream = \"one\" }}, {{ upstream = \"two\" }}]"
        );
        let gateway = routed(&one, &two, &lines).await;
        let mut homes = Vec::new();
        for session in 0..16 {
            let before = one.calls().len();
            for turn in 0..4 {
                let prefix = format!("session {session} {}", "x".repeat(80));
                let body = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": format!("{prefix} {turn}")}]});
                let client = match header {
                    true => gateway
                        .client()
                        .with_header("x-session-id", &session.to_string()),
                    false => gateway.client(),
                };
                assert_eq!(client.chat(body).await.status, 200);
            }
            homes.push(one.calls().len() - before);
        }
        assert!(
            homes.iter().all(|calls| [0, 4].contains(calls)),
            "{homes:?}"
        );
        assert!(homes.contains(&0) && homes.contains(&4), "{homes:?}");
    }
}

#[tokio::test]
async fn a_slow_answer_is_overtaken_and_cancelled() {
    let slow = Upstream::start(|_| Script::new().stall()).await;
    let fast = Upstream::answering(chat()).await;
    let lines = "balance = \"order\"\nhedge = { budget = 1.0, after = \"100ms\" }\ntargets = [{ upstream = \"one\" }, { upstream = \"two\" }]";
    let gateway = routed(&slow, &fast, lines).await;
    let began = Instant::now();
    let seen = gateway.client().chat(ask()).await;
    assert_eq!(seen.status, 200);
    assert!(began.elapsed() >= Duration::from_millis(100));
    assert_eq!(seen.header("x-weir-upstream"), Some("two"));
    assert_eq!(seen.header("x-weir-attempts"), Some("2"));
    slow.left().await;
    let metrics = gateway.metrics().await;
    assert!(metrics.contains("weir_hedges_total{event=\"won\",model=\"gpt-4o\"} 1"));
    assert!(
        metrics.contains("weir_upstream_attempts_total{result=\"abandoned\",upstream=\"one\"} 1")
    );
    gateway.idle().await;
}

/// A gateway over an upstream that takes one call at a time, and one more in its queue.
async fn narrow(gate: &Gate) -> (Gateway, Upstream) {
    let gate = gate.clone();
    let upstream = Upstream::start(move |_| Script::new().until(&gate).send(chat())).await;
    let gateway = Config::new()
        .upstream("upstream", &upstream, "max_concurrent = 1\nqueue = 1")
        .start()
        .await;
    (gateway, upstream)
}

async fn waiting(gateway: &Gateway, count: usize) {
    let sample = format!("weir_upstream_queue_length{{upstream=\"upstream\"}} {count}\n");
    eventually("the queue", async || {
        gateway.metrics().await.contains(&sample).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_full_queue_is_told_and_a_waiter_has_its_turn() {
    let gate = Gate::new();
    let (gateway, upstream) = narrow(&gate).await;
    let asking = || {
        let client = gateway.client();
        tokio::spawn(async move { client.chat(ask()).await })
    };
    let first = asking();
    upstream.called(1).await;
    let second = asking();
    waiting(&gateway, 1).await;
    let third = gateway.client().chat(ask()).await;
    third.error(503, "server_error", "overloaded");
    assert!(third.header("retry-after").is_some());
    assert_eq!(upstream.calls().len(), 1);
    gate.open();
    assert_eq!(first.await.unwrap().status, 200);
    gate.open();
    assert_eq!(second.await.unwrap().status, 200);
    waiting(&gateway, 0).await;
}

#[tokio::test]
async fn who_leaves_the_queue_leaves_its_place_and_nobody_waits_beyond_the_deadline() {
    let gate = Gate::new();
    let (gateway, upstream) = narrow(&gate).await;
    let client = gateway.client();
    let first = tokio::spawn(async move { client.chat(ask()).await });
    upstream.called(1).await;
    let client = gateway.client();
    let second = tokio::spawn(async move { client.chat(ask()).await });
    waiting(&gateway, 1).await;
    second.abort();
    waiting(&gateway, 0).await;
    let hurried = gateway.client().with_header("x-stainless-timeout", "0.2");
    let began = Instant::now();
    assert_eq!(hurried.chat(ask()).await.status, 503);
    assert!(began.elapsed() < Duration::from_secs(5));
    gate.open();
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(upstream.calls().len(), 1);
}

#[cfg(feature = "local")]
#[tokio::test]
async fn the_local_model_answers_when_all_remote_ones_are_down_and_says_so() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    let is_well = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&is_well);
    let remote = Upstream::start(move |_| {
        Script::new().send(match switch.load(Ordering::SeqCst) {
            true => chat(),
            false => json_answer("503 Unavailable", ERROR),
        })
    })
    .await;
    let gateway = Config::new()
        .upstream("remote", &remote, "models = [\"x\"]\neject = { base = \"200ms\", max = \"200ms\" }")
        .local()
        .routed(
            "gpt-4o",
            "targets = [{ upstream = \"remote\" }, { upstream = \"local\", model = \"poet\", priority = 1 }]",
        )
        .start()
        .await;
    let short = json!({"model": "gpt-4o", "max_tokens": 4, "messages": [{"role": "user", "content": "写诗"}]});
    let seen = gateway.client().chat(short.clone()).await;
    assert_eq!(seen.status, 200, "{}", seen.text());
    assert_eq!(seen.header("x-weir-degraded"), Some("true"));
    assert_eq!(seen.header("x-weir-upstream"), Some("local"));
    assert_eq!(seen.json()["model"], "poet");
    gateway
        .logged("the stand-in", |line| line["degraded"] == true)
        .await;
    let metrics = gateway.metrics().await;
    assert!(
        metrics.contains("weir_degraded_total{model=\"gpt-4o\"} 1"),
        "{metrics}"
    );

    let mut streamed = short.clone();
    streamed["stream"] = true.into();
    let seen = gateway.client().chat(streamed).await;
    assert!(seen.text().ends_with("data: [DONE]\n\n"), "{}", seen.text());
    assert_eq!(seen.header("x-weir-degraded"), Some("true"));

    is_well.store(true, Ordering::SeqCst);
    eventually("the remote one answers again", async || {
        let seen = gateway.client().chat(short.clone()).await;
        assert_eq!(seen.status, 200);
        (seen.header("x-weir-degraded").is_none()).then_some(())
    })
    .await;
}
