//! Limits: how fast a key, a team, a route and everybody may call, and what a client sees of it.

use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};

use crate::support::answers::{
    CHAT, DONE, LAST_CHUNK, STREAM_HEAD, answer, ask, ask_stream, chat, chunk, delta,
    endless_response, json_answer, three_choices,
};
use crate::support::client::{Answer, Client};
use crate::support::gateway::{Config, Gateway};
use crate::support::upstream::{Gate, Script, Upstream};
use crate::support::{KEY, eventually};

/// One key with these limits, and whatever else its table has.
fn limited(upstream: &Upstream, limits: &str) -> Config {
    Config::over(upstream)
        .without_key()
        .table(&key("alice", KEY, limits))
}

fn key(name: &str, secret: &str, limits: &str) -> String {
    format!("[[key]]\nname = \"{name}\"\nsecret = \"{secret}\"\nlimits = {limits}\n")
}

/// A request that may generate so much.
fn asking_for(max_tokens: u64) -> String {
    json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], "max_tokens": max_tokens})
        .to_string()
}

fn told(answer: &Answer, what: &str) -> Option<u32> {
    let value = answer.header(&format!("x-ratelimit-{what}"))?;
    Some(value.parse().unwrap())
}

/// An upstream that answers requests named `held` when it is let.
async fn holding(gate: &Gate) -> Upstream {
    let gate = gate.clone();
    Upstream::start(move |call| match call.header("x-request-id") {
        Some("held") => Script::new().until(&gate).send(chat()),
        _ => Script::new().send(chat()),
    })
    .await
}

fn held(gateway: &Gateway) -> Client {
    gateway.client().with_header("x-request-id", "held")
}

#[tokio::test]
async fn a_burst_is_let_in_and_the_rest_is_told_when_to_come_back() {
    let upstream = Upstream::answering(chat()).await;
    let limits = "{ requests_per_minute = 6, burst = 2 }";
    let gateway = limited(&upstream, limits).start().await;
    for left in [1, 0] {
        let answer = gateway.client().chat(ask()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(told(&answer, "limit-requests"), Some(6));
        assert_eq!(told(&answer, "remaining-requests"), Some(left));
        let reset = answer.header("x-ratelimit-reset-requests").unwrap();
        assert!(reset.ends_with('s') && !reset.starts_with('0'), "{reset}");
        assert_eq!(answer.header("x-ratelimit-limit-tokens"), None);
    }
    let refused = gateway.client().chat(ask()).await;
    let error = refused.error(429, "requests", "rate_limit_exceeded");
    let message = error["message"].as_str().unwrap();
    for part in ["key `alice`", "6 requests per minute", "Try again in"] {
        assert!(message.contains(part), "{message}");
    }
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    let millis: u64 = refused.header("retry-after-ms").unwrap().parse().unwrap();
    assert!((1..=10_000).contains(&millis), "{millis}");
    assert_eq!(seconds, millis.div_ceil(1000));
    assert_eq!(refused.header("x-should-retry"), None);
    assert_eq!(told(&refused, "remaining-requests"), Some(0));
    assert_eq!(upstream.calls().len(), 2);
    let metrics = gateway.metrics().await;
    assert!(
        metrics.contains(
            r#"weir_limit_refusals_total{dimension="requests_per_minute",holder="key",mode="refuse",name="alice"} 1"#
        ),
        "{metrics}"
    );
    let refused = r#"weir_requests_total{cause="policy_limit""#;
    assert!(metrics.contains(refused), "{metrics}");
}

#[tokio::test]
async fn a_hundred_at_once_are_as_many_as_there_may_be() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = limited(&upstream, "{ requests_per_day = 10 }")
        .start()
        .await;
    let calls = (0..100).map(|_| {
        let client = gateway.client();
        async move { client.chat(ask()).await.status }
    });
    let codes = join_all(calls).await;
    let let_in = codes.iter().filter(|code| **code == 200).count();
    let refused = codes.iter().filter(|code| **code == 429).count();
    assert_eq!((let_in, refused), (10, 90));
    assert_eq!(upstream.calls().len(), 10);
}

#[tokio::test]
async fn tokens_are_reserved_before_a_call_and_settled_behind_it() {
    let gate = Gate::new();
    let upstream = holding(&gate).await;
    let limits = "{ tokens_per_day = 1000 }";
    let gateway = limited(&upstream, limits).start().await;
    let first = tokio::spawn({
        let client = held(&gateway);
        async move { client.chat(asking_for(900)).await }
    });
    upstream.called(1).await;
    let refused = gateway.client().chat(asking_for(900)).await;
    let error = refused.error(429, "tokens", "rate_limit_exceeded");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("1000 tokens per day"), "{message}");
    assert!(told(&refused, "remaining-tokens").unwrap() < 100);
    gate.open();
    let answer = first.await.unwrap();
    // Five were used, of those that the call could have.
    assert_eq!(answer.status, 200);
    assert_eq!(told(&answer, "limit-tokens"), Some(1000));
    assert_eq!(told(&answer, "remaining-tokens"), Some(995));
    assert_eq!(answer.header("x-ratelimit-limit-requests"), None);
    assert_eq!(gateway.client().chat(asking_for(900)).await.status, 200);
}

#[tokio::test]
async fn a_call_that_never_fits_is_told_so_at_once() {
    let upstream = Upstream::answering(chat()).await;
    let limits = "{ tokens_per_minute = 1000 }";
    let gateway = limited(&upstream, limits).start().await;
    for most in [1000, 1 << 63] {
        let refused = gateway.client().chat(asking_for(most)).await;
        let error = refused.error(429, "tokens", "rate_limit_exceeded");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("Waiting does not help"), "{message}");
        assert_eq!(refused.header("x-should-retry"), Some("false"));
        assert!(refused.header("retry-after").is_some());
        assert_eq!(told(&refused, "remaining-tokens"), Some(1000));
    }
    assert_eq!(upstream.calls().len(), 0);
    // What is no number is for the upstream to judge, and a guess alone keeps nobody out.
    for wrong in [json!("7"), json!(-1), json!(null)] {
        let mut body = ask();
        body["max_tokens"] = wrong;
        assert_eq!(gateway.client().chat(body).await.status, 200);
    }
}

#[tokio::test]
async fn no_number_of_choices_is_reserved_at_nothing() {
    let upstream = Upstream::answering(chat()).await;
    let limits = "{ output_tokens_per_minute = 1000 }";
    let gateway = limited(&upstream, limits).start().await;
    let mut body = ask();
    body["n"] = json!(1001);
    let refused = gateway.client().chat(body.clone()).await;
    let error = refused.error(429, "tokens", "rate_limit_exceeded");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("Waiting does not help"), "{message}");
    let prompts = vec!["a"; 1001];
    let many = json!({ "model": "gpt-4o", "prompt": prompts });
    let refused = gateway.client().post("/v1/completions", many).await;
    refused.error(429, "tokens", "rate_limit_exceeded");
    assert_eq!(upstream.calls().len(), 0);
    body["n"] = json!(900);
    assert_eq!(gateway.client().chat(body).await.status, 200);
}

#[tokio::test]
async fn a_place_is_taken_until_the_stream_ends_whatever_way_it_does() {
    let gate = Gate::new();
    let script = gate.clone();
    let upstream = Upstream::start(move |_| {
        let mut head = STREAM_HEAD.as_bytes().to_vec();
        head.extend(chunk(delta("Hello")));
        let mut rest = chunk(DONE);
        rest.extend(LAST_CHUNK.as_bytes());
        Script::new().send(head).until(&script).send(rest)
    })
    .await;
    let gateway = limited(&upstream, "{ concurrent = 1 }").start().await;
    let open = async || {
        let client = gateway.client();
        client.stream("/v1/chat/completions", ask_stream()).await
    };
    let mut stream = open().await;
    assert_eq!(stream.status, 200);
    let refused = gateway.client().chat(ask_stream()).await;
    refused.error(429, "concurrency", "rate_limit_exceeded");
    assert_eq!(refused.header("retry-after"), Some("1"));
    gate.open();
    stream.until(DONE).await;
    let stream = open().await;
    assert_eq!(stream.status, 200, "the place is free with the last event");
    drop(stream);
    let stream = eventually("the place of a client that left is free", async || {
        let stream = open().await;
        (stream.status == 200).then_some(stream)
    })
    .await;
    drop(stream);
}

#[tokio::test]
async fn what_a_team_or_a_budget_refuses_takes_nothing_of_the_keys_limits() {
    let upstream = Upstream::answering(chat()).await;
    let teams = "[[team]]\nname = \"research\"\nlimits = { requests_per_day = 1 }\n";
    let alice = key("alice", KEY, "{ requests_per_day = 5 }") + "team = \"research\"\n";
    let gateway = Config::over(&upstream)
        .without_key()
        .table(&format!("{teams}{alice}"))
        .start()
        .await;
    assert_eq!(gateway.client().chat(ask()).await.status, 200);
    for _ in 0..3 {
        let refused = gateway.client().chat(ask()).await;
        let error = refused.error(429, "requests", "rate_limit_exceeded");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("team `research`"), "{message}");
    }
    gateway.rewrite(|text| text.replace("requests_per_day = 1 }", "requests_per_day = 100 }"));
    assert_eq!(gateway.reload().await.status, 200);
    let answer = gateway.client().chat(ask()).await;
    assert_eq!(told(&answer, "limit-requests"), Some(5));
    assert_eq!(told(&answer, "remaining-requests"), Some(3));

    let budget = "budgets = [{ tokens = 2, per = \"day\" }]\nteam = \"research\"\n";
    gateway.rewrite(|text| text.replace("team = \"research\"\n", budget));
    assert_eq!(gateway.reload().await.status, 200);
    let refused = gateway.client().chat(ask()).await;
    refused.error(429, "insufficient_quota", "insufficient_quota");
    assert_eq!(told(&refused, "remaining-requests"), Some(3));
}

#[tokio::test]
async fn a_shadow_counts_and_refuses_nothing() {
    let upstream = Upstream::answering(chat()).await;
    let limits = "[{ requests_per_day = 1, shadow = true }, { concurrent = 9 }]";
    let gateway = limited(&upstream, limits).start().await;
    for _ in 0..3 {
        let answer = gateway.client().chat(ask()).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-ratelimit-limit-requests"), None);
    }
    let metrics = gateway.metrics().await;
    assert!(
        metrics.contains(
            r#"weir_limit_refusals_total{dimension="requests_per_day",holder="key",mode="shadow",name="alice"} 2"#
        ),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_reload_keeps_what_was_used() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = limited(&upstream, "{ requests_per_day = 3 }").start().await;
    for _ in 0..2 {
        assert_eq!(gateway.client().chat(ask()).await.status, 200);
    }
    gateway.rewrite(|text| text.replace("requests_per_day = 3", "requests_per_day = 5"));
    assert_eq!(gateway.reload().await.status, 200);
    let answer = gateway.client().chat(ask()).await;
    assert_eq!(told(&answer, "limit-requests"), Some(5));
    assert_eq!(told(&answer, "remaining-requests"), Some(2));
}

#[tokio::test]
async fn routes_models_and_the_gateway_have_limits_of_their_own() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .table("[limits]\ngateway = [{ requests_per_day = 4 }, { requests_per_day = 1, models = [\"o*\"] }]\n")
        .routed("gpt-*", "targets = [{ upstream = \"upstream\" }]\nlimits = { requests_per_day = 2 }")
        .start()
        .await;
    let ask = async |model: &str| {
        let body = json!({ "model": model, "messages": [] });
        let answer = gateway.client().chat(body).await;
        match answer.status {
            200 => String::new(),
            _ => answer.error(429, "requests", "rate_limit_exceeded")["message"]
                .as_str()
                .unwrap()
                .to_owned(),
        }
    };
    assert_eq!(ask("gpt-4o").await, "");
    assert_eq!(ask("gpt-4").await, "");
    let refused = ask("gpt-4o").await;
    assert!(refused.contains("the route `gpt-*`"), "{refused}");
    assert_eq!(ask("o1").await, "");
    let refused = ask("o3").await;
    assert!(
        refused.contains("the gateway: 1 requests per day of o*"),
        "{refused}"
    );
    assert_eq!(ask("mine").await, "");
    let refused = ask("mine").await;
    assert!(
        refused.contains("the gateway: 4 requests per day;"),
        "{refused}"
    );
}

#[tokio::test]
async fn listings_are_requests_and_use_no_tokens() {
    let upstream =
        Upstream::answering(json_answer("200 OK", r#"{"object":"list","data":[]}"#)).await;
    let limits = "{ requests_per_day = 2, tokens_per_day = 1 }";
    let gateway = limited(&upstream, limits).start().await;
    for _ in 0..2 {
        let answer = gateway.client().get("/v1/models").await;
        assert_eq!(answer.status, 200);
        assert_eq!(told(&answer, "remaining-tokens"), Some(1));
    }
    let refused = gateway.client().get("/v1/models").await;
    refused.error(429, "requests", "rate_limit_exceeded");
    // What a key has used is told without end.
    assert_eq!(gateway.client().get("/v1/usage").await.status, 200);
}

#[tokio::test]
async fn what_passes_through_owes_its_tokens() {
    let upstream = Upstream::start(|call| match call.method.as_str() {
        "POST" => Script::new().send(json_answer(
            "200 OK",
            r#"{"text":"hi","usage":{"type":"tokens","input_tokens":14,"output_tokens":5,"total_tokens":19}}"#,
        )),
        _ => Script::new().send(json_answer("200 OK", r#"{"object":"file"}"#)),
    })
    .await;
    let limits = "{ tokens_per_day = 20 }";
    let gateway = limited(&upstream, limits).start().await;
    let client = gateway.client();
    let send = async || {
        client
            .request(Method::POST, "/v1/audio/transcriptions", "sound")
            .await
    };
    assert_eq!(send().await.status, 200);
    let refused = eventually("the first is settled", async || {
        let answer = send().await;
        (answer.status == 429).then_some(answer)
    })
    .await;
    refused.error(429, "tokens", "rate_limit_exceeded");
    assert_eq!(client.get("/v1/files/f-1").await.status, 200);
}

#[tokio::test]
async fn every_answer_tells_our_limits_in_the_place_of_the_upstreams() {
    let upstream = Upstream::start(|call| {
        let theirs = "content-type: application/json\r\nx-ratelimit-limit-requests: 9999\r\nx-ratelimit-remaining-requests: 9998\r\nx-ratelimit-reset-requests: 6m0s\r\nx-ratelimit-limit-tokens: 77\r\n";
        match call.header("x-request-id") {
            Some("fails") => Script::new().send(json_answer("500 Oops", "{}")),
            Some("wrong") => Script::new().send(answer("400 Bad Request", theirs, r#"{"error":{"message":"theirs"}}"#)),
            _ => Script::new().send(answer("200 OK", theirs, CHAT)),
        }
    })
    .await;
    let limits = "{ requests_per_day = 9 }";
    let gateway = limited(&upstream, limits).start().await;
    for (number, (id, status, tokens)) in [
        ("fine", 200, Some(77)),
        ("wrong", 400, Some(77)),
        ("fails", 502, None),
    ]
    .into_iter()
    .enumerate()
    {
        let client = gateway.client().with_header("x-request-id", id);
        let answer = client.chat(ask()).await;
        assert_eq!(answer.status, status);
        assert_eq!(told(&answer, "limit-requests"), Some(9), "{id}");
        assert_eq!(told(&answer, "remaining-requests"), Some(8 - number as u32));
        let reset = answer.header("x-ratelimit-reset-requests").unwrap();
        assert!(reset.contains('h') && reset.ends_with('s'), "{reset}");
        assert_eq!(told(&answer, "limit-tokens"), tokens, "{id}");
    }
}

/// A stream of so many words, a token each, that then waits for ever.
async fn talking(words: usize) -> Upstream {
    saying(" word", words).await
}

async fn saying(piece: &str, times: usize) -> Upstream {
    let mut events = STREAM_HEAD.as_bytes().to_vec();
    for _ in 0..times {
        events.extend(chunk(delta(piece)));
    }
    Upstream::start(move |_| Script::new().send(events.clone()).stall()).await
}

/// The data of a stream's events, `[DONE]` last.
fn events(text: &str) -> Vec<Value> {
    let mut data: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .collect();
    assert_eq!(data.pop(), Some("[DONE]"), "{text}");
    let read = |data: &&str| serde_json::from_str(data).unwrap();
    data.iter().map(read).collect()
}

#[tokio::test]
async fn a_stream_of_many_short_tokens_ends_no_later_than_prose() {
    for piece in ["7 1 9 ", "春风吹", "w277-1110 ", "3f9a0c77", "wonderful "] {
        let upstream = saying(piece, 2000).await;
        let limits = "limits = { output_tokens_per_day = 600 }";
        let alice = format!("[[key]]\nname = \"alice\"\nsecret = \"{KEY}\"\n{limits}\n");
        let gateway = Config::over(&upstream)
            .without_key()
            .table(&alice)
            .start()
            .await;
        let client = gateway.client();
        let mut stream = client.stream("/v1/chat/completions", ask_stream()).await;
        stream.rest().await;
        let rows = gateway.ledger("SELECT error, provenance, output_tokens FROM request");
        let tokens = rows[0].strip_prefix("policy_stopped counted ").unwrap();
        let tokens: u64 = tokens.parse().unwrap();
        assert!((560..=664).contains(&tokens), "{tokens} of {piece}");
    }
}

#[tokio::test]
async fn a_stream_that_runs_out_of_its_limit_is_finished_properly() {
    for limits in [
        "limits = { output_tokens_per_day = 200 }",
        "budgets = [{ tokens = 200, per = \"day\" }]\nlimits = { output_tokens_per_day = 100_000, models = [\"gpt-*\"], shadow = true }",
    ] {
        let upstream = talking(2000).await;
        let alice = format!("[[key]]\nname = \"alice\"\nsecret = \"{KEY}\"\n{limits}\n");
        let gateway = Config::over(&upstream)
            .without_key()
            .table(&alice)
            .table("[limits]\nstop_overshoot = 32\n")
            .start()
            .await;
        let mut body = ask_stream();
        body["stream_options"] = json!({ "include_usage": true });
        // Nothing is known of the model yet; a budget alone would reserve a thousand.
        if limits.starts_with("budgets") {
            body["max_tokens"] = json!(10);
        }
        let client = gateway.client();
        let mut stream = client.stream("/v1/chat/completions", body).await;
        assert_eq!(stream.status, 200);
        let (text, ended_well) = stream.rest().await;
        assert!(ended_well);
        let mut events = events(&text);
        let usage = events.pop().unwrap();
        let last = events.pop().unwrap();
        assert_eq!(last["choices"][0]["finish_reason"], "length");
        assert_eq!(last["choices"][0]["delta"], json!({}));
        assert_eq!(
            (&last["id"], &last["model"]),
            (&json!("chatcmpl-1"), &json!("m"))
        );
        assert_eq!(usage["choices"], json!([]));
        let generated = usage["usage"]["completion_tokens"].as_u64().unwrap();
        let words = events.len() as u64;
        assert_eq!(generated, words);
        assert!((180..=232).contains(&words), "{words}");
        upstream.left().await;
        assert_eq!(
            gateway.ledger("SELECT status, error, http_status, output_tokens FROM request"),
            [format!("complete policy_stopped 200 {words}")]
        );
        assert_eq!(gateway.client().chat(asking_for(20)).await.status, 429);
        let metrics = gateway.metrics().await;
        let stopped = r#"weir_requests_total{cause="policy_stopped""#;
        assert!(metrics.contains(stopped), "{metrics}");
    }
}

#[tokio::test]
async fn a_stream_without_a_wish_for_usage_ends_without_it_or_is_let_go_on() {
    let upstream = talking(300).await;
    let limits = "{ output_tokens_per_day = 100 }";
    let gateway = limited(&upstream, limits).start().await;
    let client = gateway.client();
    let mut stream = client.stream("/v1/chat/completions", ask_stream()).await;
    let (text, ended_well) = stream.rest().await;
    assert!(ended_well && !text.contains("\"usage\""), "{text}");
    let last = events(&text).pop().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "length");

    let gateway = limited(&upstream, limits)
        .table("[limits]\nstop_stream = false\n")
        .start()
        .await;
    let client = gateway.client();
    let mut stream = client.stream("/v1/chat/completions", ask_stream()).await;
    let mut words = 0;
    while words < 300 {
        let piece = stream.next().await.unwrap().expect("it goes on");
        words += std::str::from_utf8(&piece)
            .unwrap()
            .matches(" word")
            .count();
    }
    drop(stream);
    // What it used is owed.
    eventually("it is settled", async || {
        let open = gateway.ledger("SELECT count(*) FROM request WHERE status = 'open'");
        (open == ["0"]).then_some(())
    })
    .await;
    let answer = gateway.client().chat(asking_for(1)).await;
    assert_eq!(answer.status, 429);
    assert_eq!(told(&answer, "remaining-tokens"), Some(0));
}

#[tokio::test]
async fn of_several_choices_those_are_finished_that_have_not_finished_themselves() {
    let upstream = Upstream::start(|_| Script::new().send(three_choices(500)).stall()).await;
    let gateway = limited(&upstream, "{ output_tokens_per_day = 200 }")
        .start()
        .await;
    let mut body = ask_stream();
    body["n"] = json!(3);
    let client = gateway.client();
    let mut stream = client.stream("/v1/chat/completions", body).await;
    let (text, ended_well) = stream.rest().await;
    assert!(ended_well);
    let events = events(&text);
    let reasons: Vec<_> = events
        .iter()
        .flat_map(|event| event["choices"].as_array().unwrap())
        .filter(|choice| choice["finish_reason"].is_string())
        .map(|choice| {
            (
                choice["index"].as_u64().unwrap(),
                choice["finish_reason"].as_str().unwrap(),
            )
        })
        .collect();
    // The third had begun, and brought nothing yet.
    assert_eq!(reasons, [(1, "stop"), (0, "length"), (2, "length")]);
    assert!((180..=300).contains(&events.len()), "{}", events.len());
    upstream.left().await;
}

#[tokio::test]
async fn a_stream_of_the_responses_api_ends_as_incomplete() {
    let upstream = Upstream::start(|_| Script::new().send(endless_response(500)).stall()).await;
    let gateway = limited(&upstream, "{ output_tokens_per_day = 200 }")
        .start()
        .await;
    let body = json!({ "model": "gpt-4o", "input": "hi", "stream": true });
    let client = gateway.client();
    let mut stream = client.stream("/v1/responses", body).await;
    let (text, ended_well) = stream.rest().await;
    assert!(ended_well);
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let events: Vec<Value> = data
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    for (number, event) in (0..).zip(&events) {
        assert_eq!(event["sequence_number"], number);
    }
    let deltas = events
        .iter()
        .filter(|event| event["delta"].is_string())
        .count();
    let kinds: Vec<_> = events[events.len() - 4..]
        .iter()
        .map(|event| &event["type"])
        .collect();
    assert_eq!(
        kinds,
        [
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.incomplete"
        ]
    );
    let response = &events.last().unwrap()["response"];
    assert_eq!(
        (&response["id"], &response["status"]),
        (&json!("resp_1"), &json!("incomplete"))
    );
    assert_eq!(
        response["incomplete_details"]["reason"],
        "max_output_tokens"
    );
    assert_eq!(
        response["output"][0]["content"][0]["text"],
        " word".repeat(deltas)
    );
    assert_eq!(response["usage"]["output_tokens"], deltas);
    assert!((180..=300).contains(&deltas), "{deltas}");
    upstream.left().await;
    assert_eq!(
        gateway.ledger("SELECT status, error, http_status, output_tokens FROM request"),
        [format!("complete policy_stopped 200 {deltas}")]
    );
}
