use std::time::{Duration, Instant};

use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::*;
use crate::call::{Caller, Head, Record, RequestId, StreamError};
use crate::upstream::Timeouts;

fn upstream() -> LocalUpstream {
    LocalUpstream::load(Params {
        name: "local".into(),
        source: Source::Poet,
        models: vec!["poet".into(), "text-davinci-003".into()],
        engine: transformer::Params::default(),
        meter: None,
    })
    .unwrap()
}

fn call(endpoint: Endpoint, body: &Value) -> Call {
    let bytes = Bytes::from(body.to_string());
    let now = Instant::now();
    Call {
        caller: Arc::new(Caller::configured("tests")),
        model: Some("poet".into()),
        stream: body["stream"] == true,
        report_usage: false,
        upstream: None,
        estimate: None,
        room: None,
        looked: None,
        deadline: None,
        head: Head {
            method: Method::POST,
            target: "/v1/completions".parse().unwrap(),
            headers: HeaderMap::new(),
        },
        body: CallBody::Json {
            members: Box::default(),
            bytes,
        },
        endpoint,
        upgrade: None,
        record: Arc::new(Record::new(RequestId::fresh(), now)),
    }
}

fn attempt(call: Call, model: Option<&str>) -> Attempt {
    let minute = Duration::from_secs(60);
    Attempt {
        call: Box::new(call),
        model: model.map(Into::into),
        credential: None,
        timeouts: Timeouts {
            first_byte: minute,
            first_content: minute,
            idle: minute,
            total: minute,
        },
        deadline: tokio::time::Instant::now() + minute,
        overdue: tokio::time::Instant::now() + minute,
        number: 0,
    }
}

async fn ask(upstream: &LocalUpstream, endpoint: Endpoint, body: Value) -> Value {
    let reply = upstream
        .call(attempt(call(endpoint, &body), Some("poet")))
        .await
        .unwrap();
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.headers[CONTENT_TYPE], "application/json");
    serde_json::from_slice(reply.body.as_full().unwrap()).unwrap()
}

async fn complete(body: Value) -> Value {
    ask(&upstream(), Endpoint::Completions, body).await
}

async fn chat(body: Value) -> Value {
    ask(&upstream(), Endpoint::ChatCompletions, body).await
}

/// Returns the events of a streamed answer, without `[DONE]`.
async fn events(endpoint: Endpoint, body: Value) -> Vec<Value> {
    let upstream = upstream();
    let reply = upstream
        .call(attempt(call(endpoint, &body), Some("poet")))
        .await
        .unwrap();
    assert!(reply.body.is_events());
    let mut body = reply.body;
    let mut events = Vec::new();
    while let Some(frame) = body.frame().await {
        let bytes = frame.unwrap().into_data().unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let data = text
            .strip_prefix("data: ")
            .unwrap()
            .strip_suffix("\n\n")
            .unwrap();
        assert!(!data.contains('\n'), "one event in each piece");
        events.push(data.to_owned());
    }
    assert_eq!(events.pop().unwrap(), "[DONE]");
    events
        .iter()
        .map(|e| serde_json::from_str(e).unwrap())
        .collect()
}

async fn refusal(endpoint: Endpoint, body: Value) -> (Option<&'static str>, &'static str, String) {
    match upstream().call(attempt(call(endpoint, &body), None)).await {
        Err(UpstreamError::BadRequest {
            message,
            param,
            code,
        }) => (param, code, message),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{body} was answered"),
    }
}

const SPRING: &str = "写一首关于春天的诗";

#[tokio::test]
async fn a_completion_has_the_shape_of_the_api() {
    let answer =
        complete(json!({"prompt": SPRING, "temperature": 0, "user": "x", "novel": [1]})).await;
    assert_eq!(answer["object"], "text_completion");
    assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(answer["model"], "poet");
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    let choice = &answer["choices"][0];
    let text = choice["text"].as_str().unwrap();
    assert!(text.starts_with("\n春") && text.ends_with('。'), "{text}");
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(choice["index"], 0);
    assert!(choice["logprobs"].is_null());
    let tokens = text.chars().count();
    let usage =
        json!({"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens});
    assert_eq!(answer["usage"], usage);
}

#[tokio::test]
async fn a_chat_has_the_shape_of_the_api() {
    let answer = chat(json!({"messages": [
        {"role": "developer", "content": "You are a poet."},
        {"role": "user", "content": [{"type": "text", "text": "写一首"}, {"type": "text", "text": "诗"}], "name": "li"},
    ], "max_completion_tokens": 5, "temperature": 0}))
    .await;
    assert_eq!(answer["object"], "chat.completion");
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["role"], "assistant");
    assert!(choice["message"]["refusal"].is_null());
    assert_eq!(
        choice["message"]["content"]
            .as_str()
            .unwrap()
            .chars()
            .count(),
        5
    );
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 5);
}

#[tokio::test]
async fn the_model_answers_as_long_as_it_wants_and_with_its_own_temperature_by_default() {
    let upstream = upstream();
    let mut texts = Vec::new();
    for _ in 0..4 {
        let body = json!({"prompt": SPRING});
        let answer = ask(&upstream, Endpoint::Completions, body).await;
        assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() > 16);
        texts.push(answer["choices"][0]["text"].clone());
    }
    texts.dedup();
    assert!(texts.len() > 1, "it samples");
}

#[tokio::test]
async fn prompts_come_in_four_forms() {
    let upstream = upstream();
    let ids = [1, 597, 382, 802, 628, 434, 1006, 427, 381, 870];
    let mut all = Vec::new();
    for prompt in [
        json!(SPRING),
        json!(ids),
        json!([SPRING, "春晓\n"]),
        json!([ids, ids]),
    ] {
        let body = json!({"prompt": prompt, "temperature": 0, "max_tokens": 3});
        let answer = ask(&upstream, Endpoint::Completions, body).await;
        all.push(answer);
    }
    for answer in &all {
        assert_eq!(answer["choices"][0]["text"], "\n春风");
    }
    assert_eq!(all[2]["choices"][1]["index"], 1);
    assert_eq!(all[2]["usage"]["prompt_tokens"], 14);
    assert_eq!(all[3]["usage"]["completion_tokens"], 6);
}

#[tokio::test]
async fn several_choices_differ_and_repeat_with_their_seed() {
    let body = json!({"prompt": SPRING, "n": 3, "seed": -7, "temperature": 1});
    let (first, second) = (complete(body.clone()).await, complete(body).await);
    assert_eq!(first["choices"], second["choices"]);
    assert_eq!(first["choices"].as_array().unwrap().len(), 3);
    assert_ne!(first["choices"][0]["text"], first["choices"][1]["text"]);
    assert_eq!(first["usage"]["prompt_tokens"], 10);
}

#[tokio::test]
async fn stop_strings_end_an_answer_and_are_not_in_it() {
    let full = complete(json!({"prompt": SPRING, "temperature": 0})).await;
    let full = full["choices"][0]["text"].as_str().unwrap().to_owned();
    let cut =
        complete(json!({"prompt": SPRING, "temperature": 0, "stop": ["nowhere", "寒，春"]})).await;
    assert_eq!(
        cut["choices"][0]["text"],
        full.split("寒，春").next().unwrap()
    );
    assert_eq!(cut["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn an_echo_stands_in_front_and_its_tokens_are_scored() {
    let body =
        json!({"prompt": "春🙂", "echo": true, "max_tokens": 2, "temperature": 0, "logprobs": 2});
    let answer = complete(body).await;
    let text = answer["choices"][0]["text"].as_str().unwrap();
    assert!(text.starts_with("春🙂"));
    let logprobs = &answer["choices"][0]["logprobs"];
    let tokens = logprobs["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 1 + 4 + 2, "{tokens:?}");
    assert_eq!(tokens[0], "春");
    assert_eq!(tokens[1], "bytes:\\xf0");
    assert_eq!(logprobs["text_offset"], json!([0, 1, 2, 2, 2, 2, 3]));
    assert!(logprobs["top_logprobs"][5].as_object().unwrap().len() >= 2);
    let only = complete(json!({"prompt": "春", "echo": true, "max_tokens": 0})).await;
    assert_eq!(only["choices"][0]["text"], "春");
    assert_eq!(only["usage"]["completion_tokens"], 0);
    assert_eq!(only["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn chat_tokens_come_with_their_probabilities() {
    let answer = chat(
        json!({"messages": [{"role": "user", "content": SPRING}], "logprobs": true,
        "top_logprobs": 2, "max_tokens": 4, "temperature": 0}),
    )
    .await;
    let content = answer["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    assert_eq!(content.len(), 4);
    assert_eq!(content[0]["token"], "春");
    assert_eq!(content[0]["bytes"], json!("春".as_bytes()));
    assert!(content[0]["logprob"].as_f64().unwrap() <= 0.0);
    assert_eq!(content[0]["top_logprobs"].as_array().unwrap().len(), 2);
    assert_eq!(content[0]["top_logprobs"][0]["token"], "春");
}

#[tokio::test]
async fn a_streamed_chat_is_the_whole_one_in_pieces() {
    let mut body = json!({"messages": [{"role": "user", "content": SPRING}], "temperature": 0});
    let whole = chat(body.clone()).await;
    body["stream"] = true.into();
    body["stream_options"] = json!({"include_usage": true});
    let mut events = events(Endpoint::ChatCompletions, body).await;
    let usage = events.pop().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"], whole["usage"]);
    let mut text = String::new();
    for event in &events {
        assert_eq!(event["object"], "chat.completion.chunk");
        assert_eq!(event["id"], usage["id"]);
        assert!(event.as_object().unwrap().contains_key("usage") && event["usage"].is_null());
        text.push_str(
            event["choices"][0]["delta"]["content"]
                .as_str()
                .unwrap_or(""),
        );
    }
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(
        events.last().unwrap()["choices"][0]["finish_reason"],
        "stop"
    );
    assert_eq!(events.last().unwrap()["choices"][0]["delta"], json!({}));
    assert_eq!(whole["choices"][0]["message"]["content"], text);
}

#[tokio::test]
async fn a_streamed_completion_without_usage_has_none() {
    let body = json!({"prompt": SPRING, "temperature": 0, "stream": true, "n": 2, "max_tokens": 6});
    let events = events(Endpoint::Completions, body).await;
    let mut texts = [String::new(), String::new()];
    for event in &events {
        assert_eq!(event["object"], "text_completion");
        assert!(!event.as_object().unwrap().contains_key("usage"));
        let choice = &event["choices"][0];
        texts[choice["index"].as_u64().unwrap() as usize] += choice["text"].as_str().unwrap();
    }
    assert_eq!(texts[0], "\n春风吹雨过");
    assert_eq!(texts[0], texts[1]);
    let ends = events
        .iter()
        .filter(|e| e["choices"][0]["finish_reason"] == "length");
    assert_eq!(ends.count(), 2);
}

#[tokio::test]
async fn mistakes_are_refused_with_their_field() {
    let completion = |extra: Value| {
        let mut body = json!({"prompt": "x"});
        body.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        (Endpoint::Completions, body)
    };
    let chat = |messages: Value, extra: Value| {
        let mut body = json!({"messages": messages});
        body.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        (Endpoint::ChatCompletions, body)
    };
    let user = json!([{"role": "user", "content": "x"}]);
    for ((endpoint, body), param, code) in [
        (
            completion(json!({"temperature": "hot"})),
            "temperature",
            "invalid_type",
        ),
        (
            completion(json!({"temperature": 2.1})),
            "temperature",
            "invalid_value",
        ),
        (
            completion(json!({"max_tokens": -1})),
            "max_tokens",
            "invalid_value",
        ),
        (
            completion(json!({"max_tokens": 1.5})),
            "max_tokens",
            "invalid_type",
        ),
        (completion(json!({"n": 0})), "n", "invalid_value"),
        (completion(json!({"n": 128})), "n", "invalid_value"),
        (
            completion(json!({"best_of": 2})),
            "best_of",
            "unsupported_parameter",
        ),
        (
            completion(json!({"suffix": "end"})),
            "suffix",
            "unsupported_parameter",
        ),
        (
            completion(json!({"stop": ["1", "2", "3", "4", "5"]})),
            "stop",
            "invalid_value",
        ),
        (
            completion(json!({"logit_bias": {"99999": 1}})),
            "logit_bias",
            "invalid_value",
        ),
        (
            completion(json!({"logprobs": true})),
            "logprobs",
            "invalid_type",
        ),
        (
            completion(json!({"prompt": [99999]})),
            "prompt",
            "invalid_value",
        ),
        (
            completion(json!({"prompt": [1, "x"]})),
            "prompt",
            "invalid_type",
        ),
        (completion(json!({"prompt": []})), "prompt", "invalid_value"),
        (
            completion(json!({"prompt": "诗".repeat(300)})),
            "prompt",
            "context_length_exceeded",
        ),
        (
            completion(json!({"prompt": "x".repeat(100_000)})),
            "prompt",
            "context_length_exceeded",
        ),
        (chat(json!([]), json!({})), "messages", "invalid_value"),
        (chat(json!("x"), json!({})), "messages", "invalid_type"),
        (
            chat(json!([{"role": "god", "content": "x"}]), json!({})),
            "messages",
            "invalid_value",
        ),
        (
            chat(json!([{"role": "user"}]), json!({})),
            "messages",
            "invalid_type",
        ),
        (
            chat(
                json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
                json!({}),
            ),
            "messages",
            "unsupported_parameter",
        ),
        (
            chat(user.clone(), json!({"tools": [{}]})),
            "tools",
            "unsupported_parameter",
        ),
        (
            chat(
                user.clone(),
                json!({"response_format": {"type": "json_object"}}),
            ),
            "response_format",
            "unsupported_parameter",
        ),
        (
            chat(user.clone(), json!({"top_logprobs": 2})),
            "top_logprobs",
            "invalid_value",
        ),
        (
            chat(user, json!({"max_tokens": 0})),
            "max_tokens",
            "invalid_value",
        ),
    ] {
        let (got_param, got_code, message) = refusal(endpoint, body).await;
        assert_eq!((got_param, got_code), (Some(param), code), "{message}");
    }
    assert_eq!(
        refusal(Endpoint::Embeddings, json!({"input": "x"})).await.1,
        "unsupported_endpoint"
    );
}

#[tokio::test]
async fn more_tokens_than_fit_are_as_many_as_fit() {
    let answer = complete(
        json!({"prompt": [1, 2, 3], "max_tokens": 1_000_000, "logit_bias": {"2": -100, "4": -100}}),
    )
    .await;
    assert_eq!(answer["usage"]["total_tokens"], 256);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn an_upstream_that_goes_away_breaks_its_streams() {
    let upstream = upstream();
    let body = json!({"prompt": SPRING, "stream": true, "max_tokens": 240, "logit_bias": {"2": -100, "4": -100}});
    let reply = upstream
        .call(attempt(call(Endpoint::Completions, &body), None))
        .await
        .unwrap();
    drop(upstream);
    let end = tokio::time::timeout(Duration::from_secs(10), reply.body.collect())
        .await
        .unwrap();
    assert_eq!(end.unwrap_err(), StreamError::Engine);
}

#[tokio::test]
async fn models_are_listed_and_named_honestly() {
    let upstream = upstream();
    assert!(upstream.is_ready());
    let models = upstream.models(None).await.unwrap();
    assert_eq!(
        models.iter().map(|m| m.id.as_str()).collect::<Vec<_>>(),
        ["poet", "text-davinci-003"]
    );
    assert_eq!(
        upstream.served(Some("text-davinci-003")),
        "text-davinci-003"
    );
    assert_eq!(upstream.served(Some("gpt-9")), "poet");
}
