//! Answers that are kept, or shared while they are under way.

use serde_json::{Value, json};

use crate::support::answers::{
    DONE, LAST_CHUNK, STREAM_HEAD, USAGE, chat, chunk, delta, delta_with_null_usage, error_code,
    json_answer,
};
use crate::support::client::Answer;
use crate::support::eventually;
use crate::support::gateway::{Config, Gateway};
use crate::support::upstream::{Gate, Script, Upstream};

const CACHE: &str = "[cache]\nenabled = true\n";

/// A request whose answer is always the same.
fn ask() -> Value {
    json!({"model": "gpt-4o", "seed": 7, "messages": [{"role": "user", "content": "hi"}]})
}

fn ask_stream() -> Value {
    json!({"model": "gpt-4o", "seed": 7, "stream": true, "messages": [{"role": "user", "content": "hi"}]})
}

fn status(answer: &Answer) -> &str {
    answer.headers["cache-status"].to_str().unwrap()
}

/// Waits until no row is open, and returns these columns of all.
async fn rows(gateway: &Gateway, columns: &str) -> Vec<String> {
    eventually("no row is open", async || {
        let open = gateway.ledger("SELECT count(*) FROM request WHERE status = 'open'");
        (open == ["0"]).then_some(())
    })
    .await;
    gateway.ledger(&format!("SELECT {columns} FROM request ORDER BY id"))
}

#[tokio::test]
async fn an_answer_is_kept_and_costs_nothing_again() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream).table(CACHE).start().await;
    let first = gateway.client().chat(ask()).await;
    assert_eq!(status(&first), "weir; fwd=miss");
    let other_spelling =
        r#"{"messages":[{"content":"hi","role":"user"}], "model":"gpt-4o","user":"bob" ,"seed":7}"#;
    let again = gateway.client().chat(other_spelling).await;
    assert!(
        status(&again).starts_with("weir; hit; ttl="),
        "{}",
        status(&again)
    );
    assert_eq!(again.headers["age"], "0");
    assert_eq!(again.headers["content-type"], "application/json");
    assert!(!again.headers.contains_key("x-weir-upstream"));
    assert_eq!(again.body, first.body);
    assert_eq!(upstream.requests().len(), 1);
    let columns = "status, http_status, input_tokens, output_tokens, tokens, provenance, cost IS 0, served_from, cache, attempts";
    assert_eq!(
        rows(&gateway, columns).await,
        [
            "complete 200 3 2 5 upstream 0 upstream miss 1",
            "complete 200 3 2 0 upstream 1 cache hit 0"
        ]
    );
    let usage = gateway.operator().get("/admin/v1/usage").await.json();
    assert_eq!(usage["total"]["requests"], 2);
    assert_eq!(usage["total"]["prompt_tokens"], 3);
    let metrics = gateway.metrics().await;
    for line in [
        "weir_cache_requests_total{endpoint=\"/v1/chat/completions\",result=\"hit\"} 1",
        "weir_cache_requests_total{endpoint=\"/v1/chat/completions\",result=\"miss\"} 1",
        "weir_cache_entries 1",
        "weir_cache_stored_total 1",
    ] {
        assert!(metrics.contains(&format!("\n{line}\n")), "no {line}");
    }
}

#[tokio::test]
async fn a_kept_answer_has_used_what_is_booked_for_it_also_where_its_usage_stands_twice() {
    let answer = r#"{"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2},"choices":[],"usage":{"prompt_tokens":900,"completion_tokens":50,"total_tokens":950}}"#;
    let upstream = Upstream::answering(json_answer("200 OK", answer)).await;
    let gateway = Config::over(&upstream).table(CACHE).start().await;
    gateway.client().chat(ask()).await;
    let hit = gateway.client().chat(ask()).await;
    assert!(status(&hit).starts_with("weir; hit"));
    let columns = "cache, input_tokens, output_tokens, provenance";
    assert_eq!(
        rows(&gateway, columns).await,
        ["miss 900 50 upstream", "hit 900 50 upstream"]
    );
}

#[tokio::test]
async fn a_hit_takes_a_request_of_the_limits_and_no_tokens() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .table(CACHE)
        .without_key()
        .table(&format!(
            "[[key]]\nname = \"alice\"\nsecret = \"{}\"\nlimits = {{ requests_per_day = 10, tokens_per_day = 10_000 }}\n",
            crate::support::KEY
        ))
        .start()
        .await;
    let left = |answer: &Answer, of: &str| {
        let value = &answer.headers[&format!("x-ratelimit-remaining-{of}")];
        value.to_str().unwrap().parse::<u64>().unwrap()
    };
    let first = gateway.client().chat(ask()).await;
    let tokens = left(&first, "tokens");
    let again = gateway.client().chat(ask()).await;
    assert!(status(&again).starts_with("weir; hit"));
    assert_eq!(left(&again, "requests"), 8);
    assert!(left(&again, "tokens") >= tokens);
}

#[tokio::test]
async fn a_stream_is_replayed_and_its_usage_told_to_those_who_ask() {
    let upstream = Upstream::start(|request| {
        assert_eq!(request.json()["stream_options"]["include_usage"], true);
        Script::new()
            .send(STREAM_HEAD)
            .send(chunk(delta_with_null_usage("one")))
            .send(chunk(delta_with_null_usage("two")))
            .send(chunk(USAGE))
            .send(chunk(DONE))
            .send(LAST_CHUNK)
    })
    .await;
    let gateway = Config::over(&upstream).table(CACHE).start().await;
    let mut with_usage = ask_stream();
    with_usage["stream_options"] = json!({"include_usage": true});
    let plain = [delta("one"), delta("two"), DONE.into()].concat();
    let told = [
        delta_with_null_usage("one"),
        delta_with_null_usage("two"),
        USAGE.into(),
        DONE.into(),
    ]
    .concat();
    for (body, wanted) in [
        (ask_stream(), &plain),
        (with_usage.clone(), &told),
        (ask_stream(), &plain),
        (with_usage, &told),
    ] {
        let mut stream = gateway.client().stream("/v1/chat/completions", body).await;
        assert_eq!(stream.headers["content-type"], "text/event-stream");
        assert_eq!(stream.rest().await, (wanted.clone(), true));
    }
    assert_eq!(upstream.requests().len(), 1);
    let columns = "status, input_tokens, output_tokens, cache";
    assert_eq!(
        rows(&gateway, columns).await,
        [
            "complete 7 3 miss",
            "complete 7 3 hit",
            "complete 7 3 hit",
            "complete 7 3 hit"
        ]
    );
}

#[tokio::test]
async fn who_joins_pays_nothing_and_who_leads_pays_though_it_leaves() {
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
    let mut leader = gateway
        .client()
        .stream("/v1/chat/completions", ask_stream())
        .await;
    assert_eq!(leader.until("\n\n").await, delta("one"));
    let mut joiner = gateway
        .client()
        .stream("/v1/chat/completions", ask_stream())
        .await;
    assert_eq!(
        joiner.headers["cache-status"],
        "weir; fwd=miss; collapsed; detail=joined"
    );
    // What has come before is there at once.
    assert_eq!(joiner.until("\n\n").await, delta("one"));
    drop(leader);
    gateway
        .logged("the leader has left", |line| line["cause"] == "client_gone")
        .await;
    gate.open();
    let rest = [delta("two"), DONE.into()].concat();
    assert_eq!(joiner.rest().await, (rest, true));
    assert_eq!(upstream.requests().len(), 1);
    let columns = "status, input_tokens, output_tokens, tokens, provenance, served_from, cache";
    assert_eq!(
        rows(&gateway, columns).await,
        [
            "client_gone 7 3 10 drained upstream miss",
            "complete 7 3 0 upstream joined joined"
        ]
    );
    // It is kept, too, for those who come later.
    let later = gateway.client().chat(ask_stream()).await;
    assert!(status(&later).starts_with("weir; hit"));
}

#[tokio::test]
async fn when_all_have_left_the_upstream_is_left() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| {
        Script::new()
            .send(STREAM_HEAD)
            .send(chunk(delta("one")))
            .until(&held)
    })
    .await;
    let gateway = Config::over(&upstream).table(CACHE).start().await;
    let path = "/v1/chat/completions";
    let mut leader = gateway.client().stream(path, ask_stream()).await;
    leader.until("\n\n").await;
    let mut joiner = gateway.client().stream(path, ask_stream()).await;
    joiner.until("\n\n").await;
    let under_way = async || {
        let state = gateway.operator().get("/admin/v1/cache").await.json();
        state["under_way"].clone()
    };
    let seen = under_way().await;
    assert_eq!(seen["calls"], 1, "two clients, one call: {seen}");
    assert!(seen["bytes"].as_u64().unwrap() > 0, "{seen}");
    assert_eq!(seen["max_bytes"], 256 << 20);
    drop(leader);
    drop(joiner);
    let statuses = rows(&gateway, "status, cache").await;
    assert_eq!(statuses, ["client_gone miss", "client_gone joined"]);
    gateway.idle().await;
    eventually("nothing is held any more", async || {
        let seen = under_way().await;
        (seen["calls"] == 0 && seen["bytes"] == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn errors_are_not_kept_and_a_client_may_ask_for_what_is_there_alone() {
    let upstream = Upstream::start(|request| match request.json()["seed"] == 7 {
        true => Script::new().send(json_answer(
            "400 Bad Request",
            r#"{"error":{"message":"no","type":"invalid_request_error","param":null,"code":null}}"#,
        )),
        false => Script::new().send(chat()),
    })
    .await;
    let gateway = Config::over(&upstream).table(CACHE).start().await;
    for _ in 0..2 {
        assert_eq!(gateway.client().chat(ask()).await.status, 400);
    }
    assert_eq!(upstream.requests().len(), 2);
    let wary = gateway
        .client()
        .with_header("cache-control", "only-if-cached");
    let answer = wary.chat(ask()).await;
    assert_eq!(answer.status, 504);
    assert_eq!(error_code(&answer.json()), "not_cached");
    assert_eq!(answer.headers["x-should-retry"], "false");
    assert_eq!(status(&answer), "weir; fwd=miss");
    let mut other = ask();
    other["seed"] = 8.into();
    gateway.client().chat(other.clone()).await;
    assert_eq!(wary.chat(other).await.status, 200);
    assert_eq!(upstream.requests().len(), 3);
}

#[tokio::test]
async fn operators_see_the_cache_and_empty_it() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream).table(CACHE).start().await;
    let operator = gateway.operator();
    let path = "/admin/v1/cache";
    for _ in 0..3 {
        gateway.client().chat(ask()).await;
    }
    let state = operator.get(path).await.json();
    assert_eq!(state["entries"], 1);
    assert_eq!(state["max_bytes"], 256 << 20);
    let chats = &state["endpoints"][0];
    assert_eq!(chats["endpoint"], "/v1/chat/completions");
    assert_eq!(chats["hits"], 2);
    assert_eq!(chats["hit_ratio"], 0.6667);
    assert_eq!(state["endpoints"][1]["hit_ratio"], Value::Null);
    let delete = async |query: &str| {
        operator
            .request(http::Method::DELETE, &format!("{path}{query}"), "")
            .await
    };
    for wrong in [
        "",
        "?all=yes",
        "?all=true&key=alice",
        "?who=me",
        "?team=%ff",
        "?team=",
        "?model=gpt-4o&key=",
    ] {
        assert_eq!(delete(wrong).await.status, 400, "{wrong}");
    }
    assert_eq!(
        delete("?team=research").await.json(),
        json!({"purged": 0, "purged_for_retries": 0})
    );
    assert_eq!(
        delete("?model=gpt-5*").await.json(),
        json!({"purged": 0, "purged_for_retries": 0})
    );
    assert_eq!(
        delete("?key=alice&model=gpt-4*").await.json(),
        json!({"purged": 1, "purged_for_retries": 0})
    );
    gateway.client().chat(ask()).await;
    // An answer that is kept for a retry as well counts once in each.
    let retrying = gateway.client().with_header("idempotency-key", "k");
    let mut other = ask();
    other["seed"] = 8.into();
    retrying.chat(other).await;
    let retries = &operator.get(path).await.json()["retries"];
    assert_eq!(
        (&retries["entries"], &retries["idempotency_keys"]),
        (&json!(1), &json!(1))
    );
    assert!(retries["bytes"].as_u64().unwrap() > 0, "{retries}");
    assert_eq!(retries["max_bytes"], 64 << 20);
    assert_eq!(retries["max_entries"], 10_000);
    assert_eq!(
        delete("?all=true").await.json(),
        json!({"purged": 2, "purged_for_retries": 1})
    );
    assert_eq!(operator.get(path).await.json()["retries"]["entries"], 0);
    assert_eq!(upstream.requests().len(), 3);
    let audit = operator.get("/admin/v1/audit").await.text();
    assert!(audit.contains("cache.purge"), "{audit}");
}

#[tokio::test]
async fn explain_tells_what_the_cache_would_do_and_what_the_nearest_answer_differs_in() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream).table(CACHE).start().await;
    let explain = async |body: Value| {
        let question =
            json!({"key": crate::support::KEY, "path": "/v1/chat/completions", "body": body});
        let answer = gateway.operator().post("/admin/v1/explain", question).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let cache = answer.json()["cache"].clone();
        [cache["decision"].clone(), cache["reason"].clone()]
            .map(|text| text.as_str().unwrap().to_owned())
    };
    assert_eq!(explain(ask()).await, ["miss", "no answer is kept for it"]);
    gateway.client().chat(ask()).await;
    let [decision, reason] = explain(ask()).await;
    assert_eq!(decision, "hit", "{reason}");
    let mut other = ask();
    other["seed"] = 8.into();
    other["top_p"] = 1.into();
    assert_eq!(
        explain(other).await,
        ["miss", "the nearest answer differs in `seed`, `top_p`"]
    );
    let mut random = ask();
    random.as_object_mut().unwrap().remove("seed");
    assert_eq!(explain(random).await, ["bypass", "not-deterministic"]);
    // What nobody knows the meaning of may change the answer, and is named.
    let with = async |headers: Value, body: Value| {
        let question = json!({"key": crate::support::KEY, "path": "/v1/chat/completions", "headers": headers, "body": body});
        let answer = gateway.operator().post("/admin/v1/explain", question).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    let outlook = with(json!({"x-of-some-proxy": "1"}), ask()).await;
    let reason = "the nearest answer differs in `(header x-of-some-proxy)`";
    assert_eq!(outlook["cache"]["reason"], reason);
    let only = json!({"cache-control": "only-if-cached"});
    let outlook = with(only.clone(), ask()).await;
    assert_eq!(outlook["verdict"]["status"], 200, "{outlook}");
    let mut other = ask();
    other["seed"] = 9.into();
    let outlook = with(only, other).await;
    assert_eq!(outlook["verdict"]["status"], 504, "{outlook}");
    let outlook = with(json!({}), json!({"model": 5})).await;
    assert_eq!(outlook["cache"]["reason"], "the request cannot be read");
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn teams_and_routes_have_answers_of_their_own() {
    let upstream = Upstream::answering(chat()).await;
    let key = |name: &str, team: &str| {
        format!(
            "[[key]]\nname = \"{name}\"\nsecret = \"wk-{name}-0123456789abcdef\"\nteam = \"{team}\"\n"
        )
    };
    let gateway = Config::over(&upstream)
        .table(CACHE)
        .table("[[team]]\nname = \"red\"\n\n[[team]]\nname = \"blue\"\n")
        .table(&key("rita", "red"))
        .table(&key("rob", "red"))
        .table(&key("bea", "blue"))
        .routed(
            "gpt-4",
            "targets = [{ upstream = \"upstream\" }]\ncache = { enabled = false }",
        )
        .start()
        .await;
    let of = |name: &str| {
        gateway.stranger().with_header(
            "authorization",
            &format!("Bearer wk-{name}-0123456789abcdef"),
        )
    };
    for (name, state) in [
        ("rita", "fwd=miss"),
        ("rob", "hit"),
        ("bea", "fwd=miss"),
        ("rita", "hit"),
    ] {
        let answer = of(name).chat(ask()).await;
        assert!(
            status(&answer).starts_with(&format!("weir; {state}")),
            "{name}: {}",
            status(&answer)
        );
    }
    let mut off = ask();
    off["model"] = "gpt-4".into();
    assert_eq!(
        status(&of("rita").chat(off).await),
        "weir; fwd=bypass; detail=off"
    );
}

#[tokio::test]
async fn a_key_at_its_limit_or_its_budget_still_gets_what_is_there() {
    for (bound, counts_tokens) in [
        ("limits = { tokens_per_day = 100 }", false),
        ("budgets = [{ tokens = 100, per = \"day\" }]", false),
        ("limits = { tokens_per_day = 100 }", true),
        ("budgets = [{ tokens = 100, per = \"day\" }]", true),
    ] {
        let upstream = Upstream::answering(chat()).await;
        let hits = match counts_tokens {
            true => "[cache]\nhits_count_as = \"tokens\"\n",
            false => CACHE,
        };
        let key = crate::support::KEY;
        let mut gateway = Config::over(&upstream)
            .table(hits)
            .without_key()
            .table(&format!(
                "[[key]]\nname = \"alice\"\nsecret = \"{key}\"\n{bound}\n"
            ))
            .start()
            .await;
        // It reserves nearly all, and uses five.
        let mut body = ask();
        body["max_tokens"] = 85.into();
        assert_eq!(gateway.client().chat(body.clone()).await.status, 200);
        let mut other = body.clone();
        other["seed"] = 8.into();
        other["max_tokens"] = 95.into();
        assert_eq!(gateway.client().chat(other).await.status, 429, "{bound}");
        for _ in 0..30 {
            let answer = gateway.client().chat(body.clone()).await;
            if counts_tokens && answer.status == 429 {
                break;
            }
            assert!(status(&answer).starts_with("weir; hit"), "{bound}");
        }
        let answer = gateway.client().chat(body.clone()).await;
        let expected = if counts_tokens { 429 } else { 200 };
        assert_eq!(answer.status, expected, "{bound}");
        assert_eq!(upstream.requests().len(), 1);
        let costs = rows(&gateway, "cost IS 0, tokens, cache").await;
        let told = if counts_tokens { "1 5 hit" } else { "1 0 hit" };
        let hits = costs.iter().filter(|row| *row == told).count();
        assert_eq!(hits > 20, !counts_tokens, "{costs:?}");
        assert!(hits > 0, "{costs:?}");
        if counts_tokens && bound.starts_with("budgets") {
            // What was counted is counted after a restart, too: the memory is empty then, and the budget is not.
            gateway.signal("TERM");
            gateway.restart().await;
            let answer = gateway.client().chat(body).await;
            assert_eq!(answer.status, 429);
        }
    }
}

#[tokio::test]
async fn keys_and_teams_say_which_answers_are_kept_for_them() {
    let upstream = Upstream::answering(chat()).await;
    let key = |name: &str, more: &str| {
        format!("[[key]]\nname = \"{name}\"\nsecret = \"wk-{name}-0123456789abcdef\"\n{more}\n")
    };
    let gateway = Config::over(&upstream)
        .table(CACHE)
        .table("[[team]]\nname = \"all\"\ncache = \"always\"\n\n[[team]]\nname = \"none\"\ncache = \"off\"\n")
        .table(&key("ann", "team = \"all\""))
        .table(&key("abe", "team = \"all\"\ncache = \"on-request\""))
        .table(&key("nick", "team = \"none\"\ncache = \"always\""))
        .table(&key("plain", ""))
        .start()
        .await;
    let of = |secret: &str| {
        let bearer = format!("Bearer {secret}");
        gateway.stranger().with_header("authorization", &bearer)
    };
    let mut random = ask();
    random.as_object_mut().unwrap().remove("seed");
    for (name, expected) in [
        ("ann", "fwd=miss"),
        ("ann", "hit"),
        ("abe", "fwd=bypass; detail=not-asked-for"),
        ("nick", "fwd=bypass; detail=off"),
        ("plain", "fwd=bypass; detail=not-deterministic"),
    ] {
        let answer = of(&format!("wk-{name}-0123456789abcdef"))
            .chat(random.clone())
            .await;
        let told = status(&answer);
        assert!(
            told.starts_with(&format!("weir; {expected}")),
            "{name}: {told}"
        );
    }
    // Keys made at run time say so, too, and it counts at once.
    let operator = gateway.operator();
    let wrong = json!({"name": "made", "cache": "sometimes"});
    let refused = operator.post("/admin/v1/keys", wrong).await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.json()["error"]["param"], "cache");
    let made = json!({"name": "made", "cache": "always"});
    let made = operator.post("/admin/v1/keys", made).await.json();
    assert_eq!(made["cache"], "always");
    let secret = made["key"].as_str().unwrap();
    for expected in ["fwd=miss", "hit"] {
        let answer = of(secret).chat(random.clone()).await;
        let told = status(&answer);
        assert!(told.starts_with(&format!("weir; {expected}")), "{told}");
    }
    let path = "/admin/v1/keys/made";
    for (cache, expected) in [
        (json!("off"), "fwd=bypass; detail=off"),
        (Value::Null, "fwd=bypass; detail=not-deterministic"),
    ] {
        let edit = json!({"cache": cache}).to_string();
        let editor = operator.with_header("content-type", "application/json");
        let edited = editor.request(http::Method::PATCH, path, edit).await;
        assert_eq!(edited.json()["cache"], cache);
        let answer = of(secret).chat(random.clone()).await;
        assert_eq!(status(&answer), format!("weir; {expected}"));
    }
}

#[tokio::test]
async fn what_is_stale_is_served_when_the_upstream_fails() {
    let gate = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let fails = std::sync::Arc::clone(&gate);
    let upstream =
        Upstream::start(
            move |_| match fails.load(std::sync::atomic::Ordering::SeqCst) {
                true => Script::new().send(json_answer(
                    "503 Service Unavailable",
                    r#"{"error":{"message":"no","type":"server_error","param":null,"code":null}}"#,
                )),
                false => Script::new().send(chat()),
            },
        )
        .await;
    let gateway = Config::over(&upstream)
        .table("[cache]\nttl = \"1s\"\nstale_if_error = \"1h\"\n")
        .retry("attempts = 0")
        .start()
        .await;
    let first = gateway.client().chat(ask()).await;
    let wary = gateway
        .client()
        .with_header("cache-control", "only-if-cached");
    eventually("the answer is stale", async || {
        (wary.chat(ask()).await.status == 504).then_some(())
    })
    .await;
    gate.store(true, std::sync::atomic::Ordering::SeqCst);
    let stale = gateway.client().chat(ask()).await;
    assert_eq!((stale.status, &stale.body), (200, &first.body));
    let told = status(&stale);
    assert!(told.starts_with("weir; hit; ttl=-"), "{told}");
    assert!(told.ends_with("; detail=stale-if-error"), "{told}");
    assert_eq!(stale.headers["warning"], "111 weir \"Revalidation Failed\"");
    let fresh = gateway
        .client()
        .with_header("cache-control", "stale-if-error=0");
    assert!(fresh.chat(ask()).await.status >= 500);
    let columns = "status, http_status, served_from, cache, attempts, cost IS 0";
    let rows = rows(&gateway, columns).await;
    assert!(
        rows.contains(&"complete 200 cache stale 1 1".to_owned()),
        "{rows:?}"
    );
}

#[tokio::test]
async fn a_try_that_may_be_billed_before_what_is_stale_is_told_alike_everywhere() {
    let gate = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let fails = std::sync::Arc::clone(&gate);
    let upstream = Upstream::start(move |_| {
        match fails.load(std::sync::atomic::Ordering::SeqCst) {
            // It has read the request, and nobody knows what it did.
            true => Script::new().cut(),
            false => Script::new().send(chat()),
        }
    })
    .await;
    let gateway = Config::over(&upstream)
        .table("[cache]\nttl = \"1s\"\nstale_if_error = \"1h\"\n")
        .retry("attempts = 0")
        .start()
        .await;
    gateway.client().chat(ask()).await;
    let wary = gateway
        .client()
        .with_header("cache-control", "only-if-cached");
    eventually("the answer is stale", async || {
        (wary.chat(ask()).await.status == 504).then_some(())
    })
    .await;
    gate.store(true, std::sync::atomic::Ordering::SeqCst);
    let stale = gateway.client().chat(ask()).await;
    assert!(status(&stale).ends_with("; detail=stale-if-error"));
    let columns = "tokens > 0, cost > 0, served_from";
    let tried = gateway.ledger(&format!(
        "SELECT {columns} FROM request WHERE cache = 'stale'"
    ));
    assert_eq!(tried, ["1 1 cache"]);
    let metrics = gateway.metrics().await;
    for (column, metric) in [
        ("cost", "weir_cost_nanodollars_total{"),
        ("tokens", "weir_tokens_total{"),
    ] {
        let told = metrics.lines().filter(|line| line.starts_with(metric));
        let told = told.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        let booked = gateway.ledger(&format!("SELECT sum({column}) FROM request"));
        assert_eq!(booked, [told.sum::<u64>().to_string()], "{column}");
    }
}

#[tokio::test]
async fn ten_times_what_there_is_room_for_passes_through() {
    let text = format!(
        r#"{{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{{"index":0,"message":{{"role":"assistant","content":"{}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}}}"#,
        "x".repeat(4096)
    );
    let upstream = Upstream::answering(json_answer("200 OK", text)).await;
    let gateway = Config::over(&upstream)
        .table("[cache]\nmax_bytes = \"64KiB\"\nmax_entry = \"16KiB\"\n")
        .start()
        .await;
    for seed in 0..160 {
        let mut body = ask();
        body["seed"] = seed.into();
        assert_eq!(gateway.client().chat(body).await.status, 200);
        let state = gateway.operator().get("/admin/v1/cache").await.json();
        assert!(state["bytes"].as_u64().unwrap() <= 64 << 10, "{state}");
    }
    let state = gateway.operator().get("/admin/v1/cache").await.json();
    assert!(state["entries"].as_u64().unwrap() > 0, "{state}");
    assert_eq!(state["stored"], 160);
}

#[tokio::test]
async fn a_leader_that_is_cut_at_any_byte_takes_nobody_along() {
    let words = |from: usize, to: usize| -> String {
        (from..to).map(|word| delta(&word.to_string())).collect()
    };
    for cut in [0, 1, 100, 777, 1500, 2400] {
        let gate = Gate::new();
        let held = gate.clone();
        let upstream = Upstream::start(move |_| {
            let first = chunk(words(0, 20));
            let rest = chunk([&words(20, 40), USAGE, DONE].concat());
            Script::new()
                .send(STREAM_HEAD)
                .pieces(&first, 50)
                .until(&held)
                .pieces(&rest, 50)
                .send(LAST_CHUNK)
        })
        .await;
        let gateway = Config::over(&upstream).table(CACHE).start().await;
        let path = "/v1/chat/completions";
        let mut leader = gateway.client().stream(path, ask_stream()).await;
        let joiners = [gateway.client(), gateway.client()];
        let mut joined = Vec::new();
        for joiner in joiners {
            joined.push(joiner.stream(path, ask_stream()).await);
        }
        let mut read = 0;
        while read < cut {
            read += leader.next().await.unwrap().unwrap().len();
        }
        drop(leader);
        gateway
            .logged("the leader has left", |line| line["cause"] == "client_gone")
            .await;
        gate.open();
        let all = [&words(0, 40), DONE].concat();
        for mut joiner in joined {
            assert_eq!(joiner.rest().await, (all.clone(), true), "{cut}");
        }
        assert_eq!(upstream.requests().len(), 1);
    }
}
