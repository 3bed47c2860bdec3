//! Streams stream: each piece leaves as it comes, a break is told, and nothing is invented.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::answers::{
    DONE, LAST_CHUNK, STREAM_HEAD, USAGE, ask, ask_stream, chunk, delta, delta_with_null_usage,
    error_code,
};
use crate::support::gateway::{Config, Gateway};
use crate::support::raw::Raw;
use crate::support::upstream::{Gate, Script, Upstream};
use crate::support::{KEY, eventually, within};

/// A request that asks for usage itself, so that the gateway has nothing to add or take out.
fn ask_with_usage() -> Value {
    json!({"model": "gpt-4o", "stream": true, "messages": [], "stream_options": {"include_usage": true}})
}

/// A script that sends this body in one chunk.
fn whole(body: &str) -> Script {
    Script::new()
        .send(STREAM_HEAD)
        .send(chunk(body))
        .send(LAST_CHUNK)
}

#[tokio::test]
async fn pieces_leave_as_they_come() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| {
        Script::new()
            .send(STREAM_HEAD)
            .until(&held)
            .send(chunk(delta("one")))
            .until(&held)
            .send(chunk(delta("two")))
            .until(&held)
            .send(chunk(DONE))
            .send(LAST_CHUNK)
    })
    .await;
    let gateway = Gateway::over(&upstream).await;
    for ask in [ask_stream(), ask_with_usage()] {
        gate.open();
        let mut stream = gateway.client().stream("/v1/chat/completions", ask).await;
        assert_eq!(stream.status, 200);
        assert_eq!(stream.headers["content-type"], "text/event-stream");
        // The upstream waits until the client has seen each piece: a gateway that held one back would never end.
        assert_eq!(stream.until("\n\n").await, delta("one"));
        gate.open();
        assert_eq!(stream.until("\n\n").await, delta("two"));
        gate.open();
        assert_eq!(stream.rest().await, (DONE.to_owned(), true));
    }
}

#[tokio::test]
async fn any_split_of_the_bytes_gives_the_same_stream() {
    let body = [
        &delta("héllo 😀"),
        ": a comment\n\n",
        &delta("two"),
        USAGE,
        DONE,
    ]
    .concat();
    for length in [1, 2, 3, 5, 17, 64] {
        let text = body.clone();
        let upstream = Upstream::start(move |_| {
            let mut script = Script::new().send(STREAM_HEAD);
            for piece in text.as_bytes().chunks(length) {
                script = script.send(chunk(piece));
            }
            script.send(LAST_CHUNK)
        })
        .await;
        let gateway = Gateway::over(&upstream).await;
        let mut stream = gateway
            .client()
            .stream("/v1/chat/completions", ask_with_usage())
            .await;
        assert_eq!(
            stream.rest().await,
            (body.clone(), true),
            "pieces of {length}"
        );
    }
}

#[tokio::test]
async fn every_form_of_the_lines_passes_unchanged() {
    let plain = [&delta("a"), &delta("b"), USAGE, DONE].concat();
    for body in [
        plain.replace('\n', "\r\n"),
        plain.replace('\n', "\r"),
        plain.replace("data: ", "data:"),
        format!("\u{feff}{plain}"),
        format!(": ping\n\n:\n\n{plain}"),
        "data: {\"choices\":\ndata: [{\"index\":0}]}\n\n".to_owned() + &plain,
        plain.replace("data: {", "event: x\nid: 1\ndata: {"),
    ] {
        let text = body.clone();
        let upstream = Upstream::start(move |_| whole(&text)).await;
        let gateway = Gateway::over(&upstream).await;
        let mut stream = gateway
            .client()
            .stream("/v1/chat/completions", ask_with_usage())
            .await;
        let (text, whole) = stream.rest().await;
        // A byte order mark is no part of the stream: it may go.
        let [text, body] = [&text, &body].map(|t| t.trim_start_matches('\u{feff}'));
        assert_eq!((text, whole), (body, true));
    }
}

#[tokio::test]
async fn usage_is_asked_for_and_taken_out_again() {
    let upstream = Upstream::start(|request| {
        assert_eq!(
            request.json()["stream_options"]["include_usage"],
            true,
            "usage was not asked for"
        );
        whole(
            &[
                &delta_with_null_usage("a"),
                &delta_with_null_usage("b"),
                USAGE,
                DONE,
            ]
            .concat(),
        )
    })
    .await;
    let gateway = Gateway::over(&upstream).await;
    let spelled = r#"{"model":"gpt-4o", "stream" : true,"messages":[],"seed":1.0e1}"#;
    let bodies = [
        spelled.to_owned(),
        r#"{"model":"gpt-4o","stream":true,"stream_options":{},"messages":[]}"#.into(),
        r#"{"model":"gpt-4o","stream":true,"stream_options":null,"messages":[]}"#.into(),
        r#"{"model":"gpt-4o","stream":true,"stream_options":{"include_usage":false},"messages":[]}"#.into(),
        r#"{"model":"gpt-4o","stream":true,"stream_options":{"x":1},"messages":[]}"#.into(),
    ];
    for body in bodies {
        let mut stream = gateway
            .client()
            .stream("/v1/chat/completions", body.clone())
            .await;
        assert_eq!(stream.status, 200);
        let expected = [&delta("a"), &delta("b"), DONE].concat();
        assert_eq!(stream.rest().await, (expected, true), "{body}");
    }
    let calls = upstream.calls();
    let first = String::from_utf8(calls[0].body.clone()).unwrap();
    assert!(
        first.contains(r#""stream" : true,"messages":[],"seed":1.0e1"#),
        "only that edit: {first}"
    );
    assert_eq!(calls[4].json()["stream_options"]["x"], 1);
    let metrics = gateway.metrics().await;
    assert!(
        metrics
            .lines()
            .any(|line| line.contains("token") && line.ends_with(" 35")),
        "5 calls of 7 prompt tokens are not in /metrics"
    );
}

#[tokio::test]
async fn usage_in_the_last_content_chunk_is_no_usage_chunk() {
    // Some upstreams put it beside the last choice: that choice must reach the client.
    let last = delta("end").replace(
        "}]}\n",
        "}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\"total_tokens\":10}}\n",
    );
    let upstream = Upstream::start(move |_| whole(&[&delta("a"), &last, DONE].concat())).await;
    let gateway = Gateway::over(&upstream).await;
    let mut stream = gateway
        .client()
        .stream("/v1/chat/completions", ask_stream())
        .await;
    let (text, whole) = stream.rest().await;
    assert!(
        whole && text.contains("\"end\"") && text.ends_with(DONE),
        "{text}"
    );
}

#[tokio::test]
async fn usage_that_the_client_asked_for_stays() {
    let body = [&delta_with_null_usage("a"), USAGE, DONE].concat();
    let text = body.clone();
    let upstream = Upstream::start(move |_| whole(&text)).await;
    let gateway = Gateway::over(&upstream).await;
    let ask = ask_with_usage().to_string();
    let mut stream = gateway
        .client()
        .stream("/v1/chat/completions", ask.clone())
        .await;
    assert_eq!(stream.rest().await, (body, true));
    assert_eq!(
        upstream.call().body,
        ask.as_bytes(),
        "nothing was to be edited"
    );
}

#[tokio::test]
async fn streams_of_responses_pass_with_their_names() {
    let body = "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0}\n\nevent: response.completed\ndata: {\"type\":\"response.completed\",\"sequence_number\":1,\"response\":{\"usage\":{\"input_tokens\":1,\"output_tokens\":2,\"total_tokens\":3}}}\n\n";
    let upstream = Upstream::start(move |_| whole(body)).await;
    let gateway = Gateway::over(&upstream).await;
    let ask = r#"{"model":"gpt-4o","stream":true,"input":"a"}"#;
    let mut stream = gateway.client().stream("/v1/responses", ask).await;
    assert_eq!(stream.rest().await, (body.to_owned(), true));
    assert_eq!(
        upstream.call().body,
        ask.as_bytes(),
        "this endpoint has no stream_options"
    );
}

#[tokio::test]
async fn a_break_ends_in_an_error_event() {
    let begun = || Script::new().send(STREAM_HEAD).send(chunk(delta("one")));
    for (what, script) in [
        ("cut between chunks", begun().cut()),
        (
            "cut in a chunk",
            begun().send("400\r\ndata: {\"id\":\"chatc").cut(),
        ),
        ("reset", begun().pause(Duration::from_millis(50)).reset()),
        ("a bad chunk", begun().send("zz\r\n").cut()),
        (
            "cut mid-event",
            begun().send(chunk("data: {\"id\":\"chatc")).cut(),
        ),
    ] {
        let upstream = Upstream::start(move |_| script.clone()).await;
        let gateway = Gateway::over(&upstream).await;
        for ask in [ask_stream(), ask_with_usage()] {
            let mut stream = gateway.client().stream("/v1/chat/completions", ask).await;
            assert_eq!(stream.status, 200);
            let (text, _) = stream.rest().await;
            assert!(text.starts_with(&delta("one")), "{what}: {text}");
            broken(&text, what, "upstream_error");
        }
        gateway.idle().await;
    }
}

#[tokio::test]
async fn a_stalled_stream_ends_in_an_error_event() {
    let upstream = Upstream::start(|_| {
        Script::new()
            .send(STREAM_HEAD)
            .send(chunk(delta("one")))
            .stall()
    })
    .await;
    let gateway = Config::new()
        .upstream("upstream", &upstream, "timeouts = { idle = \"300ms\" }")
        .start()
        .await;
    let mut stream = gateway
        .client()
        .stream("/v1/chat/completions", ask_stream())
        .await;
    let (text, _) = stream.rest().await;
    broken(&text, "stall", "upstream_timeout");
    upstream.left().await;
}

#[tokio::test]
async fn a_stream_that_never_begins_is_a_plain_error() {
    // The head alone has come: nothing has reached the client yet, or only an error event does.
    let upstream = Upstream::start(|_| Script::new().send(STREAM_HEAD).cut()).await;
    let gateway = Gateway::over(&upstream).await;
    let mut stream = gateway
        .client()
        .stream("/v1/chat/completions", ask_stream())
        .await;
    let status = stream.status;
    let (text, _) = stream.rest().await;
    match status {
        502 => drop(error_code(&serde_json::from_str(&text).unwrap())),
        200 => broken(&text, "no event", "upstream_error"),
        status => panic!("{status}: {text}"),
    }
}

#[tokio::test]
async fn an_event_beyond_the_bound_ends_the_stream() {
    let upstream = Upstream::start(|_| {
        let mut script = Script::new()
            .send(STREAM_HEAD)
            .send(chunk(delta("one")))
            .send(chunk("data: "));
        for _ in 0..100 {
            script = script.send(chunk("x".repeat(100_000)));
        }
        script.stall()
    })
    .await;
    let gateway = Gateway::over(&upstream).await;
    let before = gateway.resident_memory();
    let mut stream = gateway
        .client()
        .stream("/v1/chat/completions", ask_stream())
        .await;
    let (text, _) = stream.rest().await;
    assert!(!text.contains("[DONE]"));
    assert!(gateway.peak_memory() - before < 64 << 20);
    upstream.left().await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_upstreams_stream() {
    let upstream = Upstream::start(|_| {
        let mut script = Script::new().send(STREAM_HEAD);
        for i in 0..10_000 {
            script = script
                .send(chunk(delta(&i.to_string())))
                .pause(Duration::from_millis(20));
        }
        script
    })
    .await;
    let gateway = Gateway::over(&upstream).await;
    let mut stream = gateway
        .client()
        .stream("/v1/chat/completions", ask_stream())
        .await;
    stream.until("\n\n").await;
    drop(stream);
    within(
        Duration::from_secs(2),
        "the upstream is left",
        upstream.left(),
    )
    .await;
    gateway.idle().await;
}

#[tokio::test]
async fn a_client_that_leaves_a_silent_stream_is_noticed_too() {
    let upstream = Upstream::start(|_| {
        Script::new()
            .send(STREAM_HEAD)
            .send(chunk(delta("one")))
            .stall()
    })
    .await;
    let gateway = Gateway::over(&upstream).await;
    let mut stream = gateway
        .client()
        .stream("/v1/chat/completions", ask_stream())
        .await;
    stream.until("\n\n").await;
    drop(stream);
    within(
        Duration::from_secs(2),
        "the upstream is left",
        upstream.left(),
    )
    .await;
    gateway.idle().await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_stream_begins_is_noticed_too() {
    let upstream = Upstream::start(|_| Script::new().stall()).await;
    let gateway = Gateway::over(&upstream).await;
    let client = gateway.client();
    let call = tokio::spawn(async move { client.chat(ask_stream()).await });
    upstream.called(1).await;
    call.abort();
    let _ = call.await;
    within(
        Duration::from_secs(2),
        "the upstream is left",
        upstream.left(),
    )
    .await;
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_our_reading() {
    const ALL: u64 = 256 << 20;
    let upstream = Upstream::start(|_| {
        let event = delta(&"x".repeat(60_000));
        let times = usize::try_from(ALL).unwrap() / event.len();
        let mut script = Script::new().send(STREAM_HEAD);
        let bytes = chunk(event);
        for _ in 0..times {
            script = script.send(bytes.clone());
        }
        script
    })
    .await;
    let gateway = Gateway::over(&upstream).await;
    let before = gateway.resident_memory();
    let body = ask_stream().to_string();
    let mut raw = Raw::connect(gateway.data()).await;
    raw.send(format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await;
    assert_eq!(raw.head().await.status, 200);
    // The flow stops: twice the same count, a while apart.
    let mut last = 0;
    eventually("the flow stops", async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let sent = upstream.sent();
        let stopped = sent == last;
        last = sent;
        stopped.then_some(())
    })
    .await;
    assert!(
        upstream.sent() < ALL / 4,
        "{} bytes were taken",
        upstream.sent()
    );
    assert!(gateway.peak_memory() - before < 32 << 20);
    drop(raw);
    upstream.left().await;
}

#[tokio::test]
async fn an_answer_that_is_no_stream_is_judged_as_a_plain_one() {
    let upstream = Upstream::answering(crate::support::answers::chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let mut stream = gateway
        .client()
        .stream("/v1/chat/completions", ask_stream())
        .await;
    let (text, _) = stream.rest().await;
    // An upstream that cannot stream answers plainly: clients are told by the content type.
    assert!(
        stream.status == 502 || text == crate::support::answers::CHAT,
        "{} {text}",
        stream.status
    );
}

#[tokio::test]
async fn streams_are_chosen_by_the_body_alone() {
    let upstream = Upstream::answering(crate::support::answers::chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let client = gateway.client().with_header("accept", "text/event-stream");
    let answer = client.chat(ask()).await;
    assert_eq!(answer.text(), crate::support::answers::CHAT);
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

/// Checks that a stream's text ends with one error event and holds no `[DONE]`.
fn broken(text: &str, what: &str, code: &str) {
    assert!(
        !text.contains("[DONE]"),
        "{what}: a broken stream ended well: {text}"
    );
    let last = text.trim_end().rsplit("\n\n").next().unwrap();
    let data = last.rsplit("data: ").next().unwrap();
    let body: Value =
        serde_json::from_str(data).unwrap_or_else(|_| panic!("{what}: no error event: {text}"));
    assert_eq!(error_code(&body), code, "{what}");
    assert!(
        text.ends_with("\n\n"),
        "{what}: the last event is not finished"
    );
}
