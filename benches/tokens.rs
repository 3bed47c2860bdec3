//! What counting tokens costs: 10,000 of them in the texts that clients send, hostile text, and a stream's deltas.
//!
//! `cargo bench --no-default-features --bench tokens`

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weir::openai::endpoint::Endpoint;
use weir::tokens::{Encoding, GeneratedText, count, prompt, warm};

const ENGLISH: &str = include_str!("../README.md");
const CODE: &str = include_str!("../src/openai/json/scan.rs");
const CHINESE: &str = "春天来了，小草从土里钻出来，嫩嫩的，绿绿的。园子里，田野里，瞧去，一大片一大片满是的。坐着，躺着，打两个滚，\
     踢几脚球，赛几趟跑，捉几回迷藏。风轻悄悄的，草软绵绵的。桃树、杏树、梨树，你不让我，我不让你，都开满了花赶趟儿。\n";

/// Repeats a text up to this many tokens of `o200k_base`, or a few more.
fn sized(text: &str, tokens: u64) -> String {
    let mut sized = String::new();
    while count(Encoding::O200k, &sized) < tokens {
        let rest = tokens - count(Encoding::O200k, &sized);
        // A character is a token at most, here.
        sized.extend(text.chars().take(rest as usize));
    }
    sized
}

fn texts(c: &mut Criterion) {
    warm();
    let mut group = c.benchmark_group("10,000 tokens");
    for (name, text) in [("English", ENGLISH), ("Chinese", CHINESE), ("code", CODE)] {
        let text = sized(text, 10_000);
        for encoding in [Encoding::O200k, Encoding::Cl100k] {
            group.throughput(Throughput::Elements(count(encoding, &text)));
            group.bench_function(format!("{name}/{}", encoding.name()), |b| {
                b.iter(|| count(encoding, black_box(&text)));
            });
        }
    }
    group.finish();

    let body = serde_json::json!({"model": "gpt-4o", "messages": [{"role": "user", "content": sized(ENGLISH, 10_000)}]});
    let body = body.to_string();
    c.bench_function("prompt of 10,000 tokens", |b| {
        b.iter(|| {
            prompt(
                Some(Encoding::O200k),
                &Endpoint::ChatCompletions,
                black_box(body.as_bytes()),
            )
        });
    });
}

fn hostile(c: &mut Criterion) {
    let size = 1 << 20;
    let letters = (0..size as u32)
        .map(|i| char::from(b'a' + (i.wrapping_mul(2_654_435_761) >> 24) as u8 % 26));
    let scripts = (0..size as u32 / 3)
        .filter_map(|i| char::from_u32((i.wrapping_mul(2_654_435_761) >> 8) % 0x3000));
    let mut group = c.benchmark_group("hostile MiB");
    group.sample_size(10);
    for (name, text) in [
        ("one letter", "a".repeat(size)),
        ("spaces", " ".repeat(size)),
        ("letters", letters.collect()),
        ("every script", scripts.collect()),
    ] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| count(Encoding::O200k, black_box(&text)))
        });
    }
    group.finish();
}

fn streams(c: &mut Criterion) {
    let data = r#"{"id":"chatcmpl-AbC","object":"chat.completion.chunk","created":1763900000,"model":"gpt-4o-mini","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}"#;
    let mut generated = GeneratedText::new(Endpoint::ChatCompletions, Some(Encoding::O200k));
    let other = data.replace("AbC", "DeF");
    let mut group = c.benchmark_group("keep the text of a chunk");
    group.bench_function("like the one before", |b| {
        b.iter(|| generated.push(black_box(data.as_bytes())));
    });
    group.bench_function("unlike the one before", |b| {
        b.iter(|| {
            generated.push(black_box(data.as_bytes()));
            generated.push(black_box(other.as_bytes()));
        });
    });
    group.finish();
}

criterion_group!(benches, texts, hostile, streams);
criterion_main!(benches);
