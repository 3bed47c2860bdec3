//! What upstreams answer, as bytes.

use serde_json::{Value, json};

/// A chat completion as an upstream would write it: its spelling is not serde's.
pub const CHAT: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"gpt-4o-2024",  "choices":[{"index":0,"message":{"role":"assistant","content":"caf\u00e9 \/ ok"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5},"x_unknown":1.0e2}"#;

/// A whole answer with a length.
pub fn answer(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut bytes = format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// A whole JSON answer with a length.
pub fn json_answer(status: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    answer(status, "content-type: application/json\r\n", body)
}

/// The usual good answer.
pub fn chat() -> Vec<u8> {
    json_answer("200 OK", CHAT)
}

/// The head of a chunked event stream.
pub const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// The end of a chunked body.
pub const LAST_CHUNK: &str = "0\r\n\r\n";

/// One chunk of a chunked body.
pub fn chunk(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

/// One event of a chat stream with this content.
pub fn delta(content: &str) -> String {
    let content = Value::from(content);
    format!(
        "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":{content}}},\"finish_reason\":null}}]}}\n\n"
    )
}

/// A chat stream of three choices: the second finishes itself, the first says so many words, a token each, and the third
/// only begins.
pub fn three_choices(words: usize) -> Vec<u8> {
    let of = |index: u64, delta: Value, finish_reason: Option<&str>| {
        let choice = json!({"index": index, "delta": delta, "finish_reason": finish_reason});
        let event = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]});
        chunk(format!("data: {event}\n\n"))
    };
    let mut bytes = STREAM_HEAD.as_bytes().to_vec();
    for index in 0..3 {
        bytes.extend(of(index, json!({"role": "assistant", "content": ""}), None));
    }
    bytes.extend(of(1, json!({"content": "yes"}), None));
    bytes.extend(of(1, json!({}), Some("stop")));
    for _ in 0..words {
        bytes.extend(of(0, json!({"content": " word"}), None));
    }
    bytes
}

/// A stream of the responses API that says so many words, a token each, and does not end.
pub fn endless_response(words: u64) -> Vec<u8> {
    let of = |number: u64, kind: &str, mut event: Value| {
        event["type"] = kind.into();
        event["sequence_number"] = number.into();
        chunk(format!("event: {kind}\ndata: {event}\n\n"))
    };
    let response = json!({
        "id": "resp_1", "object": "response", "created_at": 1, "status": "in_progress", "model": "gpt-4o",
        "output": [], "parallel_tool_calls": true, "tool_choice": "auto", "tools": [], "usage": null,
    });
    let item = json!({"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []});
    let part = json!({"type": "output_text", "text": "", "annotations": []});
    let place = json!({"item_id": "msg_1", "output_index": 0, "content_index": 0});
    let with = |member: &str, value: Value| {
        let mut event = place.clone();
        event[member] = value;
        event
    };
    let mut bytes = STREAM_HEAD.as_bytes().to_vec();
    bytes.extend(of(0, "response.created", json!({"response": response})));
    let added = json!({"output_index": 0, "item": item});
    bytes.extend(of(1, "response.output_item.added", added));
    bytes.extend(of(2, "response.content_part.added", with("part", part)));
    for number in 3..words + 3 {
        let delta = with("delta", " word".into());
        bytes.extend(of(number, "response.output_text.delta", delta));
    }
    bytes
}

/// The same event as an upstream sends it when usage was asked for.
pub fn delta_with_null_usage(content: &str) -> String {
    delta(content).replace("}]}\n", "}],\"usage\":null}\n")
}

/// The usage chunk.
pub const USAGE: &str = "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\"total_tokens\":10}}\n\n";

/// The end of a stream.
pub const DONE: &str = "data: [DONE]\n\n";

/// Checks that this is the error envelope, whole and with nothing beside it, and returns its code.
pub fn error_code(body: &Value) -> String {
    let error = body["error"]
        .as_object()
        .unwrap_or_else(|| panic!("not the envelope: {body}"));
    assert_eq!(
        body.as_object().unwrap().len(),
        1,
        "more than an error: {body}"
    );
    for field in ["message", "type", "param", "code"] {
        assert!(error.contains_key(field), "no {field} in {body}");
    }
    assert!(!error["message"].as_str().unwrap().is_empty());
    assert!(error["type"].is_string(), "{body}");
    error["code"]
        .as_str()
        .unwrap_or_else(|| panic!("no code in {body}"))
        .to_owned()
}

/// A chat request for `gpt-4o`.
pub fn ask() -> Value {
    json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]})
}

/// The same request, streamed.
pub fn ask_stream() -> Value {
    json!({"model": "gpt-4o", "stream": true, "messages": [{"role": "user", "content": "hi"}]})
}
