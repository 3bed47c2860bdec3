//! The hot path of the wire: what inspecting a body and passing an event on cost.
//!
//! `cargo bench --no-default-features --bench wire`

#![expect(clippy::unwrap_used, reason = "a benchmark is a test")]

use std::hint::black_box;
use std::ops::Range;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde::Deserialize;
use serde_json::value::RawValue;
use weir::openai::endpoint::Endpoint;
use weir::openai::json;
use weir::openai::sse::{Framer, StreamObserver, UsageRemover};

/// Builds a chat body of about this many bytes, in turns of about 300, with line breaks, as chats have them.
fn chat_body(size: usize, text: &str) -> String {
    let turn = text.repeat(260 / text.len());
    let mut messages = Vec::new();
    while messages.len() * 300 < size.saturating_sub(200) {
        let role = ["user", "assistant"][messages.len() % 2];
        messages.push(serde_json::json!({"role": role, "content": turn}));
    }
    serde_json::json!({
        "messages": messages,
        "model": "gpt-4o-mini",
        "stream": true,
        "stream_options": {"include_usage": true},
        "temperature": 0.7,
    })
    .to_string()
}

/// The same work done by serde_json: members as raw values, ranges by subtracting addresses. It bounds no depth where it
/// skips, which would need a pass of its own.
fn inspect_with_serde(body: &[u8]) -> [Option<Range<usize>>; 3] {
    #[derive(Deserialize)]
    struct Members<'a> {
        #[serde(borrow)]
        model: Option<&'a RawValue>,
        #[serde(borrow)]
        stream: Option<&'a RawValue>,
        #[serde(borrow)]
        stream_options: Option<&'a RawValue>,
    }
    let text = std::str::from_utf8(body).unwrap();
    let members: Members<'_> = serde_json::from_str(text).unwrap();
    [members.model, members.stream, members.stream_options].map(|value| {
        let value = value?.get();
        let start = value.as_ptr() as usize - text.as_ptr() as usize;
        Some(start..start + value.len())
    })
}

fn bodies(c: &mut Criterion) {
    let prose = "The quick brown fox jumps over the lazy dog, and then it rests.\n";
    let bodies = [
        ("1 KB", chat_body(1024, prose)),
        ("32 KB", chat_body(32 * 1024, prose)),
        (
            "32 KB Chinese",
            chat_body(32 * 1024, "写一首关于春天的诗，"),
        ),
        (
            "32 KB tokens",
            format!("{{\"input\":[{}1]}}", "12345,".repeat(5400)),
        ),
    ];
    let mut group = c.benchmark_group("inspect");
    for (name, body) in &bodies {
        let body = body.as_bytes();
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("{name}/ours"), |b| {
            b.iter(|| json::inspect(black_box(body), 128).unwrap());
        });
        group.bench_function(format!("{name}/serde_json"), |b| {
            b.iter(|| inspect_with_serde(black_box(body)));
        });
    }
    group.finish();

    let body = Bytes::from(bodies[1].1.clone());
    let members = json::inspect(&body, 128).unwrap();
    c.bench_function("rewrite/32 KB", |b| {
        b.iter(|| members.rewrite(black_box(&body), Some("another"), true));
    });
}

fn streams(c: &mut Criterion) {
    let chunk = |usage: &str| {
        let data = r#"{"id":"chatcmpl-AbC","object":"chat.completion.chunk","created":1763900000,"model":"gpt-4o-mini","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]"#;
        Bytes::from(format!("data: {data}{usage}}}\n\n"))
    };
    let plain = chunk("");
    let with_null = chunk(",\"usage\":null");
    let endpoint = Endpoint::ChatCompletions;

    let mut group = c.benchmark_group("chunk of 200 bytes");
    let mut framer = Framer::default();
    group.bench_function("frame", |b| b.iter(|| framer.push(plain.clone()).unwrap()));
    let mut observer = StreamObserver::new();
    group.bench_function("frame and observe", |b| {
        b.iter(|| {
            let ready = framer.push(plain.clone()).unwrap();
            observer.observe(&ready, &endpoint);
            ready
        });
    });
    let mut remover = UsageRemover::new();
    group.bench_function("frame, observe and take out a null usage", |b| {
        b.iter(|| {
            let ready = framer.push(with_null.clone()).unwrap();
            observer.observe(&ready, &endpoint);
            remover.remove(&ready)
        });
    });
    let (head, tail) = (plain.slice(..120), plain.slice(120..));
    group.bench_function("frame, split in two", |b| {
        b.iter(|| {
            framer.push(head.clone()).unwrap();
            framer.push(tail.clone()).unwrap()
        });
    });
    group.finish();
}

criterion_group!(benches, bodies, streams);
criterion_main!(benches);
