//! The Transformer in the gateway's own process: the bundled model answers as an upstream would.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::answers::error_code;
use crate::support::gateway::{Config, Gateway};
use crate::support::{eventually, within};

const PROMPT: &str = "写一首关于春天的诗";

async fn gateway() -> Gateway {
    Config::new()
        .local()
        .route("text-davinci-003", "local", "poet")
        .start()
        .await
}

/// The events of a stream, without the last `[DONE]`.
fn events(text: &str) -> Vec<Value> {
    let mut events: Vec<&str> = text
        .split("\n\n")
        .filter(|e| !e.is_empty() && !e.starts_with(':'))
        .collect();
    assert_eq!(events.pop(), Some("data: [DONE]"), "{text}");
    events
        .iter()
        .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
        .collect()
}

fn is_chinese(text: &str) -> bool {
    text.chars()
        .filter(|c| ('\u{4e00}'..='\u{9fff}').contains(c))
        .count()
        >= 5
}

#[tokio::test]
async fn the_tutorials_call_brings_a_poem() {
    let gateway = gateway().await;
    let body = json!({"prompt": PROMPT, "max_tokens": 100});
    let answer = gateway
        .client()
        .post("/v1/engines/text-davinci-003/completions", body)
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let json = answer.json();
    assert_eq!(json["object"], "text_completion");
    assert!(json["id"].as_str().is_some_and(|id| !id.is_empty()));
    assert!(json["created"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(json["model"], "poet", "the answer's model is honest");
    let choice = &json["choices"][0];
    assert_eq!(choice["index"], 0);
    assert!(is_chinese(choice["text"].as_str().unwrap()), "{choice}");
    assert!(["stop", "length"].contains(&choice["finish_reason"].as_str().unwrap()));
    let usage = &json["usage"];
    let count = |name: &str| usage[name].as_u64().unwrap();
    assert!(count("prompt_tokens") > 0 && (1..=100).contains(&count("completion_tokens")));
    assert_eq!(
        count("total_tokens"),
        count("prompt_tokens") + count("completion_tokens")
    );
    assert_eq!(answer.header("x-weir-upstream"), Some("local"));
}

#[tokio::test]
async fn chat_answers_as_the_assistant() {
    let gateway = gateway().await;
    let ask = json!({"model": "poet", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 40});
    let json = gateway.client().chat(ask).await.json();
    assert_eq!(json["object"], "chat.completion");
    assert_eq!(json["choices"][0]["message"]["role"], "assistant");
    assert!(
        is_chinese(json["choices"][0]["message"]["content"].as_str().unwrap()),
        "{json}"
    );
    assert!(json["usage"]["total_tokens"].as_u64().unwrap() > 0);
    // The newer name of the bound, and content in parts.
    let ask = json!({"model": "poet", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": PROMPT}]}], "max_completion_tokens": 3});
    let json = gateway.client().chat(ask).await.json();
    assert!(
        json["usage"]["completion_tokens"].as_u64().unwrap() <= 3,
        "{json}"
    );
}

#[tokio::test]
async fn greedy_text_is_the_same_plain_and_streamed() {
    let gateway = gateway().await;
    let ask = |stream| json!({"model": "poet", "prompt": PROMPT, "max_tokens": 60, "temperature": 0, "stream": stream});
    let plain = gateway
        .client()
        .post("/v1/completions", ask(false))
        .await
        .json();
    let mut stream = gateway.client().stream("/v1/completions", ask(true)).await;
    let content_type = stream.headers["content-type"].to_str().unwrap();
    assert!(
        content_type.starts_with("text/event-stream"),
        "{content_type}"
    );
    let (text, whole) = stream.rest().await;
    assert!(whole);
    let events = events(&text);
    let streamed: String = events
        .iter()
        .filter_map(|e| e["choices"][0]["text"].as_str())
        .collect();
    assert_eq!(streamed, plain["choices"][0]["text"].as_str().unwrap());
    assert!(events.iter().all(|e| e["object"] == "text_completion"));
    let reasons: Vec<&Value> = events
        .iter()
        .map(|e| &e["choices"][0]["finish_reason"])
        .filter(|r| !r.is_null())
        .collect();
    assert_eq!(reasons, [&plain["choices"][0]["finish_reason"]]);
    assert!(events.len() > 3, "it came in one piece: {text}");
    assert!(
        events
            .iter()
            .all(|e| e.get("usage").is_none_or(Value::is_null)),
        "nobody asked for usage"
    );
}

#[tokio::test]
async fn a_chat_stream_begins_with_the_role_and_ends_with_usage_when_asked() {
    let gateway = gateway().await;
    let ask = json!({"model": "poet", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 20, "temperature": 0, "stream": true, "stream_options": {"include_usage": true}});
    let mut stream = gateway
        .client()
        .stream("/v1/chat/completions", ask.clone())
        .await;
    let (text, _) = stream.rest().await;
    let events = events(&text);
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert!(
        events
            .iter()
            .all(|e| e["object"] == "chat.completion.chunk" && e["id"] == events[0]["id"])
    );
    let (last, others) = events.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert!(
        others
            .iter()
            .all(|e| e["choices"].as_array().is_some_and(|c| !c.is_empty()))
    );
    let mut plain = ask;
    plain["stream"] = json!(false);
    plain.as_object_mut().unwrap().remove("stream_options");
    let plain = gateway.client().chat(plain).await.json();
    assert_eq!(
        last["usage"]["total_tokens"],
        plain["usage"]["total_tokens"]
    );
    let streamed: String = others
        .iter()
        .filter_map(|e| e["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(
        streamed,
        plain["choices"][0]["message"]["content"].as_str().unwrap()
    );
}

#[tokio::test]
async fn the_parameters_do_what_they_say() {
    let gateway = gateway().await;
    let client = gateway.client();
    let complete = async |more: Value| {
        let mut body =
            json!({"model": "poet", "prompt": PROMPT, "max_tokens": 40, "temperature": 0});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let answer = client.post("/v1/completions", body).await;
        assert_eq!(answer.status, 200, "{more}: {}", answer.text());
        answer.json()
    };
    let text = |json: &Value| json["choices"][0]["text"].as_str().unwrap().to_owned();
    let base = complete(json!({})).await;

    // max_tokens, finish_reason length, exact usage.
    let short = complete(json!({"max_tokens": 5})).await;
    assert_eq!(short["usage"]["completion_tokens"], 5);
    assert_eq!(short["choices"][0]["finish_reason"], "length");
    assert!(text(&base).starts_with(&text(&short)));

    // stop: the text ends before it, the reason says so.
    let mark: String = text(&base).chars().skip(4).take(1).collect();
    let before = text(&base).split(&mark).next().unwrap().to_owned();
    for stop in [json!(mark), json!(["never seen in a poem", mark])] {
        let stopped = complete(json!({"stop": stop})).await;
        assert_eq!(text(&stopped), before);
        assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    }

    // echo puts the prompt before the text.
    let echoed = complete(json!({"echo": true})).await;
    assert_eq!(text(&echoed), format!("{PROMPT}{}", text(&base)));

    // seed: the same seed the same text, other seeds other texts.
    let seeded = async |seed: u64| text(&complete(json!({"temperature": 1.0, "seed": seed})).await);
    assert_eq!(seeded(1).await, seeded(1).await);
    let distinct: std::collections::HashSet<String> =
        [seeded(1).await, seeded(2).await, seeded(3).await].into();
    assert!(distinct.len() > 1);

    // n: that many choices, numbered, all counted.
    let several = complete(json!({"n": 3, "temperature": 1.0, "seed": 7, "max_tokens": 8})).await;
    let indices: Vec<u64> = several["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["index"].as_u64().unwrap())
        .collect();
    assert_eq!(indices, [0, 1, 2]);
    assert_eq!(
        several["usage"]["prompt_tokens"],
        base["usage"]["prompt_tokens"]
    );

    // logprobs: one entry for each token.
    let logprobs = complete(json!({"logprobs": 2, "max_tokens": 5})).await;
    let logprobs = &logprobs["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"].as_array().unwrap().len(), 5);
    assert!(
        logprobs["token_logprobs"]
            .as_array()
            .unwrap()
            .iter()
            .all(|l| l.as_f64().unwrap() <= 0.0)
    );
    assert!(logprobs["top_logprobs"][0].as_object().unwrap().len() >= 2);

    // Without a temperature the model's own rules: not greedy.
    let mut own = HashMap::new();
    for _ in 0..5 {
        let answer = client
            .post(
                "/v1/completions",
                json!({"model": "poet", "prompt": PROMPT, "max_tokens": 30}),
            )
            .await;
        *own.entry(text(&answer.json())).or_insert(0) += 1;
    }
    assert!(own.len() > 1, "five times the same: {own:?}");
}

#[tokio::test]
async fn several_prompts_are_several_choices() {
    let gateway = gateway().await;
    let body = json!({"model": "poet", "prompt": [PROMPT, "写一首关于月亮的诗"], "max_tokens": 5, "temperature": 0});
    let answer = gateway.client().post("/v1/completions", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["choices"].as_array().unwrap().len(), 2);
    assert_eq!(answer.json()["usage"]["completion_tokens"], 10);
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_refused() {
    let gateway = gateway().await;
    let long = PROMPT.repeat(5000);
    for stream in [false, true] {
        let answer = gateway
            .client()
            .post(
                "/v1/completions",
                json!({"model": "poet", "prompt": long, "stream": stream}),
            )
            .await;
        answer.error(400, "invalid_request_error", "context_length_exceeded");
        let answer = gateway.client().chat(json!({"model": "poet", "stream": stream, "messages": [{"role": "user", "content": long}]})).await;
        answer.error(400, "invalid_request_error", "context_length_exceeded");
    }
}

#[tokio::test]
async fn senseless_parameters_are_refused() {
    let gateway = gateway().await;
    for (more, param) in [
        (json!({"max_tokens": "many"}), "max_tokens"),
        (json!({"max_tokens": -1}), "max_tokens"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"temperature": -1}), "temperature"),
        (json!({"top_p": 2}), "top_p"),
        (json!({"n": 0}), "n"),
        (json!({"n": 1_000_000}), "n"),
        (json!({"prompt": 5}), "prompt"),
        (json!({"stop": 5}), "stop"),
    ] {
        let mut body = json!({"model": "poet", "prompt": PROMPT});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let answer = gateway.client().post("/v1/completions", body).await;
        assert_eq!(answer.status, 400, "{more}: {}", answer.text());
        error_code(&answer.json());
        assert_eq!(answer.json()["error"]["param"], param);
    }
    for messages in [
        json!([]),
        json!("hi"),
        json!([{"role": "user"}]),
        json!([5]),
    ] {
        let answer = gateway
            .client()
            .chat(json!({"model": "poet", "messages": messages}))
            .await;
        assert_eq!(answer.status, 400, "{messages}: {}", answer.text());
        error_code(&answer.json());
    }
}

#[tokio::test]
async fn callers_are_served_side_by_side() {
    let gateway = gateway().await;
    // A long one first; a short one that comes later must not wait for its end.
    let long = json!({"model": "poet", "prompt": PROMPT, "max_tokens": 400, "temperature": 1, "seed": 3, "n": 4, "stream": true});
    let mut stream = gateway.client().stream("/v1/completions", long).await;
    stream.until("\n\n").await;
    let short = json!({"model": "poet", "prompt": PROMPT, "max_tokens": 2});
    let answer = gateway.client().post("/v1/completions", short).await;
    assert_eq!(answer.status, 200);
    let (rest, _) = stream.rest().await;
    assert!(
        rest.matches("data: ").count() > 20,
        "the long one was already over: {}",
        rest.len()
    );
}

#[tokio::test]
async fn many_at_once_all_end() {
    let gateway = gateway().await;
    let calls: Vec<_> = (0..16)
        .map(|i| {
            let client = gateway.client();
            let body =
                json!({"model": "poet", "prompt": PROMPT, "max_tokens": 10 + i, "temperature": 0});
            tokio::spawn(async move { client.post("/v1/completions", body).await })
        })
        .collect();
    let mut texts = Vec::new();
    for call in calls {
        let answer = call.await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        texts.push(
            answer.json()["choices"][0]["text"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    for pair in texts.windows(2) {
        assert!(
            pair[1].starts_with(&pair[0]),
            "batching changed the greedy text: {pair:?}"
        );
    }
    gateway.idle().await;
}

#[tokio::test]
async fn a_full_queue_is_told_with_retry_after() {
    let gateway = Config::new()
        .table("[[upstream]]\nname = \"local\"\nkind = \"local\"\nmodel = \"bundled:poet\"\nmodels = [\"poet\"]\nqueue = 1")
        .start()
        .await;
    let calls: Vec<_> = (0..64)
        .map(|_| {
            let client = gateway.client();
            let body = json!({"model": "poet", "prompt": PROMPT, "max_tokens": 40, "n": 2, "temperature": 1});
            tokio::spawn(async move { client.post("/v1/completions", body).await })
        })
        .collect();
    let mut refused = 0;
    for call in calls {
        let answer = call.await.unwrap();
        if answer.status != 200 {
            answer.error(503, "server_error", "overloaded");
            let seconds: u64 = answer
                .header("retry-after")
                .expect("Retry-After")
                .parse()
                .unwrap();
            assert!(seconds >= 1);
            refused += 1;
        }
    }
    assert!(refused > 0, "64 at once and none refused with a queue of 1");
    gateway.idle().await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_generation() {
    let gateway = gateway().await;
    let busy = json!({"model": "poet", "prompt": PROMPT, "max_tokens": 450, "n": 8, "temperature": 1, "stream": true});
    let mut stream = gateway.client().stream("/v1/completions", busy).await;
    assert_eq!(stream.status, 200);
    stream.until("\n\n").await;
    drop(stream);
    within(Duration::from_secs(2), "nothing in flight", gateway.idle()).await;
    // The work itself has ended, not only the wait for it.
    let resting = eventually("the model rests", async || {
        let before = gateway.cpu_time();
        tokio::time::sleep(Duration::from_millis(300)).await;
        (gateway.cpu_time() - before < Duration::from_millis(60)).then_some(())
    });
    within(Duration::from_secs(3), "the model rests", resting).await;
    let after = json!({"model": "poet", "prompt": PROMPT, "max_tokens": 2});
    let answer = gateway.client().post("/v1/completions", after).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn the_bundled_model_is_listed() {
    let gateway = gateway().await;
    let list = gateway.client().get("/v1/models").await.json();
    let mut models: Vec<(String, String)> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| {
            (
                m["id"].as_str().unwrap().into(),
                m["owned_by"].as_str().unwrap().into(),
            )
        })
        .collect();
    models.sort();
    assert_eq!(
        models,
        [
            ("poet".to_owned(), "local".to_owned()),
            ("text-davinci-003".to_owned(), "local".to_owned())
        ]
    );
}

#[tokio::test]
async fn what_the_model_cannot_do_is_said() {
    let gateway = gateway().await;
    for (path, body) in [
        ("/v1/embeddings", json!({"model": "poet", "input": "a"})),
        ("/v1/responses", json!({"model": "poet", "input": "a"})),
    ] {
        let answer = gateway.client().post(path, body).await;
        assert!(
            (400..500).contains(&answer.status),
            "{path}: {} {}",
            answer.status,
            answer.text()
        );
        error_code(&answer.json());
    }
}
