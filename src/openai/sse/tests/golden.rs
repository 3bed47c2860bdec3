//! Transcripts written after the wire formats of these servers; they are not recordings.

use super::*;

macro_rules! fixture {
    ($name:literal) => {
        &include_bytes!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/sse/",
            $name
        ))[..]
    };
}

/// Observes and cleans a transcript in pieces of every size.
fn check(stream: &[u8], cleaned: &[u8], endpoint: &Endpoint, expected: &Observed) {
    for size in (1..40).chain([100, 1000, stream.len()]) {
        let cuts: Vec<usize> = (0..stream.len()).step_by(size).collect();
        let (blocks, tail) = framed(stream, &cuts);
        assert_eq!(tail, Tail::Nothing);
        let (mut observer, mut remover) = (StreamObserver::new(), UsageRemover::new());
        let mut out = Vec::new();
        for block in blocks {
            observer.observe(&block, endpoint);
            out.extend_from_slice(&remover.remove(&block));
        }
        assert_eq!(observer.observed(), expected, "in pieces of {size}");
        assert_eq!(out, cleaned, "in pieces of {size}");
    }
}

fn usage(input: u64, cached_input: u64, output: u64, reasoning: u64) -> Option<Usage> {
    Some(Usage {
        input,
        cached_input,
        output,
        reasoning,
        ..Usage::default()
    })
}

#[test]
fn golden_completions() {
    let finished = |usage, events, deltas| Observed {
        usage,
        done: true,
        finish_reason: true,
        events,
        deltas,
        ..Observed::default()
    };
    check(
        fixture!("openai_chat.sse"),
        fixture!("openai_chat.without_usage.sse"),
        &Endpoint::ChatCompletions,
        &finished(usage(5, 4, 2, 0), 5, 2),
    );
    check(
        fixture!("legacy_completions.sse"),
        fixture!("legacy_completions.without_usage.sse"),
        &Endpoint::Completions,
        &finished(usage(5, 0, 1, 0), 3, 1),
    );
    check(
        fixture!("vllm_running_usage.sse"),
        fixture!("vllm_running_usage.without_usage.sse"),
        &Endpoint::ChatCompletions,
        &finished(usage(7, 0, 3, 0), 5, 2),
    );
    check(
        fixture!("ollama_chat.sse"),
        fixture!("ollama_chat.without_usage.sse"),
        &Endpoint::ChatCompletions,
        &finished(usage(26, 0, 3, 0), 4, 2),
    );
}

#[test]
fn golden_response() {
    let expected = Observed {
        usage: usage(12, 0, 2, 1),
        terminal: true,
        events: 7,
        deltas: 2,
        ..Observed::default()
    };
    let stream = fixture!("responses.sse");
    check(stream, stream, &Endpoint::Responses, &expected);
}
