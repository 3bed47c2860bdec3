//! The end of a stream that is finished before its upstream would finish it.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::event::Events;
use crate::openai::endpoint::Endpoint;
use crate::openai::usage::Usage;

/// Writes the events that finish a stream as if it had come to its `max_tokens`: a chunk that gives each of the `choices` the
/// reason `length`, one with the usage where that is given, and `[DONE]`. What is the same in all chunks of a stream (its
/// id, the model) is that of the last chunk in `block`, which is read here.
///
/// `None` where the stream is of an endpoint that ends in another way, or nothing in the block is a chunk.
pub fn ending(
    block: &[u8],
    endpoint: &Endpoint,
    choices: impl IntoIterator<Item = u64>,
    usage: Option<&Usage>,
) -> Option<Bytes> {
    let finished: fn(u64) -> Value = match endpoint {
        Endpoint::ChatCompletions => {
            |index| json!({ "index": index, "delta": {}, "logprobs": null, "finish_reason": "length" })
        }
        Endpoint::Completions => {
            |index| json!({ "index": index, "text": "", "logprobs": null, "finish_reason": "length" })
        }
        _ => return None,
    };
    let chunk = Events::new(block).filter_map(|event| chunk(&event.data()?));
    let mut chunk = chunk.last()?;
    let mut events = Vec::new();
    let mut write = |chunk: &Map<String, Value>| {
        events.extend_from_slice(b"data: ");
        // What was read as JSON always serializes.
        events.extend(serde_json::to_vec(chunk).unwrap_or_default());
        events.extend_from_slice(b"\n\n");
    };
    // Padding of one chunk's own.
    chunk.remove("obfuscation");
    let choices: Value = choices.into_iter().map(finished).collect();
    chunk.insert("choices".into(), choices);
    match usage {
        None => {
            chunk.remove("usage");
            write(&chunk);
        }
        Some(usage) => {
            chunk.insert("usage".into(), Value::Null);
            write(&chunk);
            chunk.insert("choices".into(), json!([]));
            chunk.insert("usage".into(), told(usage));
            write(&chunk);
        }
    }
    events.extend_from_slice(b"data: [DONE]\n\n");
    Some(events.into())
}

/// Reads a chunk that has choices.
fn chunk(data: &[u8]) -> Option<Map<String, Value>> {
    let chunk: Map<String, Value> = serde_json::from_slice(data).ok()?;
    let choices = chunk.get("choices")?.as_array()?;
    (!choices.is_empty()).then_some(chunk)
}

fn told(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt(),
        "completion_tokens": usage.completion(),
        "total_tokens": usage.total(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: &[u8] = b": ping\n\ndata: {\"id\":\"c-1\",\"created\":7,\"model\":\"m\",\"obfuscation\":\"x\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n";

    fn chunks(events: &Bytes) -> Vec<Value> {
        let (last, chunks) = events
            .split(|byte| *byte == b'\n')
            .filter_map(|line| line.strip_prefix(b"data: "))
            .collect::<Vec<_>>()
            .split_last()
            .map(|(last, chunks)| (last.to_vec(), chunks.to_vec()))
            .unwrap();
        assert_eq!(last, b"[DONE]");
        let read = |chunk: &&[u8]| serde_json::from_slice(chunk).unwrap();
        chunks.iter().map(read).collect()
    }

    #[test]
    fn a_chat_ends_for_its_length_with_usage_where_that_was_asked_for() {
        let usage = Usage {
            input: 5,
            output: 2,
            ..Usage::default()
        };
        let events = ending(BLOCK, &Endpoint::ChatCompletions, [0, 1], Some(&usage)).unwrap();
        let choice = |index| json!({ "index": index, "delta": {}, "logprobs": null, "finish_reason": "length" });
        assert_eq!(
            chunks(&events),
            [
                json!({ "id": "c-1", "created": 7, "model": "m", "choices": [choice(0), choice(1)], "usage": null }),
                json!({ "id": "c-1", "created": 7, "model": "m", "choices": [], "usage": { "prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7 } }),
            ]
        );
        let events = ending(BLOCK, &Endpoint::ChatCompletions, [0], None).unwrap();
        assert_eq!(
            chunks(&events),
            [json!({ "id": "c-1", "created": 7, "model": "m", "choices": [choice(0)] })]
        );
    }

    #[test]
    fn a_completion_ends_with_its_own_chunk_and_other_streams_do_not() {
        let events = ending(BLOCK, &Endpoint::Completions, [0], None).unwrap();
        assert_eq!(chunks(&events)[0]["choices"][0]["text"], "");
        assert_eq!(ending(BLOCK, &Endpoint::Responses, [0], None), None);
        for none in [
            &b""[..],
            b"data: {}\n\n",
            b"data: [DONE]\n\n",
            b"data: {\"choices\":[]}\n\n",
        ] {
            assert_eq!(ending(none, &Endpoint::ChatCompletions, [0], None), None);
        }
    }
}
