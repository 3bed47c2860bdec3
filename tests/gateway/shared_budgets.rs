//! Budgets that gateways count together, each with a ledger of its own.

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::answers::chat;
use crate::support::gateway::{Config, Gateway};
use crate::support::redis::Redis;
use crate::support::upstream::Upstream;
use crate::support::{KEY, eventually};

/// What each answer uses, and more that is reserved for it.
const USED: u64 = 5;
const MOST: u64 = 20;
/// What all gateways have together.
const TOKENS: u64 = 400;

/// A gateway with one key and its budget, which is counted in Redis.
async fn on(upstream: &Upstream, redis: &Redis, lines: &str) -> Gateway {
    // On a machine that is busy enough, anything may take longer than usual.
    let table = redis.table(&format!("timeout = \"10s\"\n{lines}"));
    let key = format!(
        "[[key]]\nname = \"alice\"\nsecret = \"{KEY}\"\nbudgets = [{{ tokens = {TOKENS}, per = \"total\" }}]\n"
    );
    let config = Config::over(upstream).without_key().table(&key);
    config.table(&table).start().await
}

async fn house(lines: &str) -> (Upstream, Redis, [Gateway; 2]) {
    let upstream = Upstream::answering(chat()).await;
    let redis = Redis::start().await;
    let gateways = [
        on(&upstream, &redis, lines).await,
        on(&upstream, &redis, lines).await,
    ];
    (upstream, redis, gateways)
}

fn question() -> String {
    json!({ "model": "gpt-4o", "messages": [{ "role": "user", "content": "hi" }], "max_tokens": MOST }).to_string()
}

async fn call(gateway: &Gateway) -> u16 {
    gateway.client().chat(question()).await.status
}

/// What a gateway says that all have used.
async fn says(gateway: &Gateway) -> u64 {
    let told: Value = gateway.client().get("/v1/usage").await.json();
    told["budgets"][0]["used"].as_u64().unwrap()
}

async fn comes_to(gateway: &Gateway, used: u64) {
    eventually(&format!("{used} are used"), async || {
        (says(gateway).await == used).then_some(())
    })
    .await;
}

/// What stands in its ledger.
fn booked(gateway: &Gateway) -> u64 {
    let rows = gateway.ledger("SELECT coalesce(sum(tokens), 0) FROM request");
    rows[0].parse().unwrap()
}

#[tokio::test]
async fn two_gateways_use_one_budget_and_one_that_dies_is_counted_once() {
    let (upstream, _redis, mut gateways) = house("").await;
    let workers = (0..16).map(|worker| {
        let gateway = &gateways[worker % 2];
        async move {
            let mut codes = Vec::new();
            for _ in 0..10 {
                codes.push(call(gateway).await);
            }
            codes
        }
    });
    let codes = join_all(workers).await.concat();
    assert!(codes.iter().all(|code| [200, 429].contains(code)));
    // One at a time, until it is used up but for what a call reserves.
    while call(&gateways[0]).await == 200 {}
    let used = upstream.calls().len() as u64 * USED;
    assert!(used <= TOKENS && used + MOST + 40 >= TOKENS, "{used}");
    for gateway in &gateways {
        comes_to(gateway, used).await;
    }
    assert_eq!(booked(&gateways[0]) + booked(&gateways[1]), used);
    let refused = gateways[1].client().chat(question()).await;
    refused.error(429, "insufficient_quota", "insufficient_quota");

    gateways[1].signal("KILL");
    gateways[1].restart().await;
    // It has asked before it answers.
    assert_eq!(says(&gateways[1]).await, used);
    for gateway in &gateways {
        comes_to(gateway, used).await;
        assert_eq!(call(gateway).await, 429);
        assert_eq!(says(gateway).await, used);
    }
}

#[tokio::test]
async fn a_call_that_counts_towards_a_budget_asks_redis_once() {
    let (_upstream, redis, [gateway, other]) = house("slice = 100").await;
    // Told every ten seconds, by each of them.
    let begun = Instant::now();
    let start = redis.function_calls();
    while call(&gateway).await == 200 {}
    // What was used is told besides.
    comes_to(&gateway, says(&gateway).await).await;
    let before = redis.function_calls();
    for _ in 0..50 {
        assert_eq!(call(&other).await, 429);
        // This one has used so much itself that it need not ask.
        assert_eq!(call(&gateway).await, 429);
    }
    let swept = 2 * (begun.elapsed().as_secs() / 10 + 1);
    let asked = redis.function_calls() - before;
    assert!((50..=50 + 1 + swept).contains(&asked), "{asked}");
    let calls = 1 + TOKENS / USED;
    assert!(before - start <= 2 * calls + swept, "{start}, {before}");
}

#[tokio::test]
async fn a_redis_that_is_emptied_hears_of_all_of_it_again() {
    let (_upstream, redis, [one, two]) = house("").await;
    for gateway in [&one, &two] {
        for _ in 0..3 {
            assert_eq!(call(gateway).await, 200);
        }
    }
    comes_to(&one, 6 * USED).await;
    redis.ask(&["FLUSHALL"]);
    let key = "weir:{limits}:1:budget:tokens:total:calendar:key:alice";
    // Beside both stands when all of it was begun.
    eventually("both are there", async || {
        redis.ask(&["HLEN", key]).starts_with('3').then_some(())
    })
    .await;
    for gateway in [&one, &two] {
        assert_eq!(call(gateway).await, 200);
    }
    comes_to(&one, 8 * USED).await;
    comes_to(&two, 8 * USED).await;
}

#[tokio::test]
async fn an_emptied_redis_gives_nobody_a_budget_again() {
    let (upstream, redis, [one, two]) = house("").await;
    while call(&one).await == 200 {}
    let used = says(&one).await;
    comes_to(&two, used).await;
    for _ in 0..3 {
        redis.ask(&["FLUSHALL"]);
        assert_eq!(call(&two).await, 429);
    }
    assert_eq!(upstream.calls().len() as u64 * USED, used);
}

#[tokio::test]
async fn what_is_used_while_redis_is_away_counts_everywhere_when_it_is_back() {
    let (_upstream, mut redis, [one, two]) = house("").await;
    assert_eq!((call(&one).await, call(&two).await), (200, 200));
    comes_to(&one, 2 * USED).await;
    redis.kill();
    for _ in 0..4 {
        assert_eq!((call(&one).await, call(&two).await), (200, 200));
    }
    // Its own, and what the other one was last known to have.
    assert_eq!(says(&one).await, 6 * USED);
    let mut let_in = 4;
    while call(&one).await == 200 {
        let_in += 1;
    }
    assert!((let_in + 2) * USED <= TOKENS, "{let_in}");
    redis.restart().await;
    comes_to(&two, (let_in + 1 + 5) * USED).await;
    assert_eq!(call(&two).await, 429);
    comes_to(&one, (let_in + 1 + 5) * USED).await;
}

#[tokio::test]
async fn nobody_uses_a_budget_without_redis_where_that_is_configured() {
    let (_upstream, mut redis, [one, _two]) = house("on_outage = \"reject\"").await;
    assert_eq!(call(&one).await, 200);
    redis.kill();
    let refused = one.client().chat(question()).await;
    refused.error(503, "server_error", "limits_unavailable");
    // What is explained is what the call gets: also where the gateway needs nobody to know that a budget has no room.
    let too_much = MOST * TOKENS;
    for (most, code) in [
        (MOST, "limits_unavailable"),
        (too_much, "insufficient_quota"),
    ] {
        let mut body: Value = serde_json::from_str(&question()).unwrap();
        body["max_tokens"] = json!(most);
        let question = json!({ "key": "alice", "body": body });
        let explained = one.operator().post("/admin/v1/explain", question).await;
        assert_eq!(explained.json()["verdict"]["code"], code);
        let answer = one.client().chat(body.to_string()).await;
        assert_eq!(answer.json()["error"]["code"], code);
    }
    redis.restart().await;
    eventually("it lets in again", async || {
        (call(&one).await == 200).then_some(())
    })
    .await;
    comes_to(&one, 2 * USED).await;
}

#[tokio::test]
async fn what_is_explained_of_a_budget_is_what_all_have_used() {
    let (_upstream, _redis, [one, two]) = house("").await;
    while call(&one).await == 200 {}
    let used = says(&one).await;
    eventually("the other one knows", async || {
        let body: Value = serde_json::from_str(&question()).unwrap();
        let question = json!({ "key": "alice", "body": body });
        let answer = two.operator().post("/admin/v1/explain", question).await;
        let outlook = answer.json();
        (outlook["verdict"]["code"] == "insufficient_quota").then_some(())
    })
    .await;
    assert_eq!(says(&two).await, used);
}
