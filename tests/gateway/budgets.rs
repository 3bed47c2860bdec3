//! Budgets: what a call reserves of them, and what a client is told where it does not fit.

use serde_json::{Value, json};

use crate::support::KEY;
use crate::support::answers::{ask, chat};
use crate::support::client::Answer;
use crate::support::gateway::{Config, Gateway};
use crate::support::upstream::Upstream;

/// One key with these budgets.
async fn over(upstream: &Upstream, budgets: &str) -> Gateway {
    let key = format!("[[key]]\nname = \"alice\"\nsecret = \"{KEY}\"\nbudgets = {budgets}\n");
    let config = Config::over(upstream).without_key();
    config.table(&key).start().await
}

async fn complete(gateway: &Gateway, body: Value) -> Answer {
    gateway.client().post("/v1/completions", body).await
}

fn is_final(answer: &Answer) {
    answer.error(429, "insufficient_quota", "insufficient_quota");
    assert_eq!(answer.header("x-should-retry"), Some("false"));
}

#[tokio::test]
async fn a_call_larger_than_a_budget_is_told_that_it_never_fits() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = over(&upstream, "[{ tokens = 1000, per = \"day\" }]").await;
    let prompt = json!({ "model": "m", "prompt": "a", "max_tokens": 2000 });
    let answer = complete(&gateway, prompt).await;
    is_final(&answer);
    assert!(answer.text().contains("can never fit"), "{}", answer.text());
    assert_eq!(answer.header("retry-after"), Some("3600"));
    assert_eq!(upstream.calls().len(), 0);
    assert_eq!(gateway.client().chat(ask()).await.status, 200);
}

#[tokio::test]
async fn a_spent_budget_tells_when_it_begins_anew_or_keeps_clients_away() {
    for (per, renews) in [("day", true), ("total", false)] {
        let upstream = Upstream::answering(chat()).await;
        let gateway = over(
            &upstream,
            &format!("[{{ tokens = 1000, per = \"{per}\" }}]"),
        )
        .await;
        let body = json!({ "model": "m", "prompt": "a", "max_tokens": 995 });
        assert_eq!(complete(&gateway, body.clone()).await.status, 200);
        let answer = complete(&gateway, body).await;
        is_final(&answer);
        assert!(answer.text().contains("does not fit any more"));
        assert_eq!(answer.text().contains("begins anew"), renews, "{per}");
        let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        match renews {
            true => assert!(seconds <= 24 * 3600, "{seconds}"),
            false => assert_eq!(seconds, 3600),
        }
    }
}

#[tokio::test]
async fn each_prompt_and_each_choice_is_reserved_for() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = over(&upstream, "[{ tokens = 1000, per = \"day\" }]").await;
    for (body, fits) in [
        (json!({ "prompt": ["a", "b", "c"], "n": 2 }), true),
        (json!({ "prompt": ["a", "b", "c"], "best_of": 4 }), false),
        (json!({ "prompt": [[1, 2], [3], [4], [5]], "n": 3 }), false),
        (
            json!({ "prompt": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12] }),
            true,
        ),
        (json!({ "prompt": "a", "n": 2, "best_of": 11 }), false),
    ] {
        let mut body = body;
        body["model"] = "m".into();
        body["max_tokens"] = 100.into();
        let answer = complete(&gateway, body.clone()).await;
        assert_eq!(answer.status == 200, fits, "{body}: {}", answer.text());
    }
}

#[tokio::test]
async fn the_warning_is_plain_ascii() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let budgets = json!([{ "tokens": 1000, "per": "day", "warn_at": 0.001 }]);
    let body = json!({ "name": "höhe", "budgets": budgets });
    let made = gateway.operator().post("/admin/v1/keys", body).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let secret = made.json()["key"].as_str().unwrap().to_owned();
    let client = gateway
        .stranger()
        .with_header("authorization", &format!("Bearer {secret}"));
    let body = json!({ "model": "m", "messages": [], "max_tokens": 5 });
    assert_eq!(client.chat(body.clone()).await.status, 200);
    let answer = client.chat(body).await;
    assert_eq!(
        answer.header("x-weir-budget-warning"),
        Some("key \"h%C3%B6he\" has used 0 % of 1000 tokens a day")
    );
}
