//! Finds in an event what it brought that was generated.

use crate::openai::endpoint::Endpoint;
use crate::openai::json::{each_element, each_member};

/// Calls `see` with each piece of generated text in an event's data: the number of the choice that it belongs to, or
/// of the output, and what stands between the string's quotes, still escaped.
///
/// Pieces of one choice, put together, are a JSON string again, also where a character was cut between its two escapes.
pub fn each_delta<'a>(data: &'a [u8], endpoint: &Endpoint, mut see: impl FnMut(u64, &'a [u8])) {
    match endpoint {
        Endpoint::ChatCompletions | Endpoint::Completions => {
            each_member(data, &["choices"], |_, choices| {
                each_element(choices, |choice| each_of_choice(choice, &mut see));
            });
        }
        Endpoint::Responses => {
            const MEMBERS: [&str; 4] = ["type", "output_index", "delta", "item"];
            let (mut kind, mut index, mut delta, mut item) = (None, 0, None, None);
            each_member(data, &MEMBERS, |place, value| match place {
                0 => kind = Some(value),
                1 => index = number(value),
                2 => delta = inside(value),
                _ => item = Some(value),
            });
            // A call of a tool has its name where it begins, and nowhere in its deltas.
            if kind == Some(br#""response.output_item.added""#)
                && let Some(item) = item
            {
                each_member(item, &["name"], |_, name| {
                    if let Some(name) = inside(name) {
                        see(index, name);
                    }
                });
            }
            // Sound comes in base64, and its transcript in an event of its own.
            let is_text = kind.is_some_and(|kind| !kind.ends_with(b".audio.delta\""));
            if let Some(delta) = delta.filter(|_| is_text) {
                see(index, delta);
            }
        }
        _ => {}
    }
}

fn each_of_choice<'a>(choice: &'a [u8], see: &mut impl FnMut(u64, &'a [u8])) {
    const TEXTS: [&str; 4] = ["content", "reasoning_content", "reasoning", "refusal"];
    // The index may stand behind the text.
    let mut index = 0;
    let (mut delta, mut text) = (None, None);
    each_member(
        choice,
        &["index", "delta", "text"],
        |place, value| match place {
            0 => index = number(value),
            1 => delta = Some(value),
            _ => text = inside(value),
        },
    );
    if let Some(text) = text {
        see(index, text);
    }
    let Some(delta) = delta else {
        return;
    };
    each_member(delta, &TEXTS, |_, value| {
        if let Some(text) = inside(value) {
            see(index, text);
        }
    });
    // Not in every event: looked for only where they are.
    each_member(delta, &["tool_calls", "function_call"], |place, value| {
        let mut function = |function: &'a [u8]| {
            each_member(function, &["name", "arguments", "input"], |_, value| {
                if let Some(text) = inside(value) {
                    see(index, text);
                }
            });
        };
        match place {
            0 => {
                each_element(value, |call| {
                    each_member(call, &["function", "custom"], |_, value| function(value));
                });
            }
            _ => function(value),
        }
    });
}

/// Returns what stands between a string's quotes. Any other value has none.
pub(super) fn inside(value: &[u8]) -> Option<&[u8]> {
    value.strip_prefix(b"\"")?.strip_suffix(b"\"")
}

pub(super) fn number(value: &[u8]) -> u64 {
    let digits = std::str::from_utf8(value).ok();
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deltas(data: &str, endpoint: &Endpoint) -> Vec<(u64, String)> {
        let mut deltas = Vec::new();
        each_delta(data.as_bytes(), endpoint, |index, raw| {
            deltas.push((index, String::from_utf8_lossy(raw).into_owned()));
        });
        deltas
    }

    #[test]
    fn what_chats_and_completions_generate() {
        for (data, expected) in [
            (
                r#"{"id":"x","choices":[{"delta":{"content":"a\n"},"index":2},{"index":0,"delta":{"reasoning_content":"b"}}]}"#,
                &[(2, r"a\n"), (0, "b")][..],
            ),
            (
                r#"{"choices":[{"delta":{"content":null,"tool_calls":[{"index":1,"id":"call","function":{"name":"f","arguments":"{\""}}]}}]}"#,
                &[(0, "f"), (0, r#"{\""#)],
            ),
            (
                r#"{"choices":[{"delta":{"function_call":{"arguments":"x"}}}]}"#,
                &[(0, "x")],
            ),
            (
                r#"{"choices":[{"text":"t","index":1,"logprobs":{"content":[{"token":"t"}]}}]}"#,
                &[(1, "t")],
            ),
            (r#"{"choices":[{"delta":{"role":"assistant"}}]}"#, &[]),
            (r#"{"choices":[],"usage":{}}"#, &[]),
            (r#"{"choices":[{"delta":{"content":"a"#, &[]),
            ("", &[]),
        ] {
            let expected: Vec<_> = expected.iter().map(|(i, t)| (*i, t.to_string())).collect();
            assert_eq!(deltas(data, &Endpoint::ChatCompletions), expected, "{data}");
        }
    }

    #[test]
    fn what_responses_generate() {
        for (data, expected) in [
            (
                r#"{"type":"response.output_text.delta","output_index":1,"delta":"a"}"#,
                &[(1, "a")][..],
            ),
            (
                r#"{"type":"response.function_call_arguments.delta","delta":"{"}"#,
                &[(0, "{")],
            ),
            (
                r#"{"type":"response.output_item.added","output_index":2,"item":{"type":"function_call","name":"f","arguments":""}}"#,
                &[(2, "f")],
            ),
            (
                r#"{"type":"response.output_item.added","item":{"type":"message","content":[]}}"#,
                &[],
            ),
            (
                r#"{"type":"response.output_item.done","item":{"type":"function_call","name":"f","arguments":"{}"}}"#,
                &[],
            ),
            (r#"{"type":"response.audio.delta","delta":"AAAA"}"#, &[]),
            (r#"{"type":"response.output_text.done","text":"a"}"#, &[]),
        ] {
            let expected: Vec<_> = expected.iter().map(|(i, t)| (*i, t.to_string())).collect();
            assert_eq!(deltas(data, &Endpoint::Responses), expected, "{data}");
        }
        let nothing = deltas(r#"{"delta":"a"}"#, &Endpoint::Embeddings);
        assert_eq!(nothing, []);
    }
}
