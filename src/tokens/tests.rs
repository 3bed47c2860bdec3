use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::openai::endpoint::Endpoint;

/// Prose and code as people write them.
pub(super) const SAMPLES: [&str; 9] = [
    "The quick brown fox jumps over the lazy dog, and then it rests for a while in the shade of an old oak tree. \
     Nobody saw it happen, but everybody had an opinion about it by the evening.",
    "In 2024 the committee published 3 reports (see https://example.com/reports?id=17), of which two were corrected \
     within a week; the third, it turned out, didn't need it.",
    "春天来了，小草从土里钻出来，嫩嫩的，绿绿的。园子里，田野里，瞧去，一大片一大片满是的。坐着，躺着，打两个滚，踢几脚球。",
    "fn main() -> Result<(), Error> {\n    let config = Config::load(\"weir.toml\")?;\n    for (name, value) in &config {\n        \
     println!(\"{name}: {value:?}\");\n    }\n    Ok(())\n}\n",
    "def mean(values: list[float]) -> float:\n    \"\"\"Return the arithmetic mean.\"\"\"\n    if not values:\n        \
     raise ValueError(\"empty\")\n    return sum(values) / len(values)\n",
    "Весна пришла, и снег растаял. Дети играют во дворе, а старики сидят на скамейке и говорят о погоде.",
    "Der Frühling ist da, und die Kinder spielen wieder draußen; die Großmutter sitzt am Fenster und erzählt Geschichten.",
    "春が来て、桜の花が咲きました。子供たちは公園で遊んでいます。今日はとても天気がいいですね。",
    "봄이 오고 꽃이 피었습니다. 아이들은 공원에서 놀고 있습니다. 오늘은 날씨가 참 좋습니다.",
];

fn chat(body: &str) -> u64 {
    prompt(
        Some(Encoding::O200k),
        &Endpoint::ChatCompletions,
        body.as_bytes(),
    )
}

/// What bpe-openai 0.3.2, tiktoken-rs 0.12.1 and tiktoken 4.1.2 agree on.
#[test]
fn reference_counts() {
    for (text, o200k, cl100k) in [
        ("", 0, 0),
        ("hello world", 2, 2),
        ("<|endoftext|>", 7, 7),
        ("<|endofprompt|> hello", 8, 8),
        ("I'Ve don't DON'T 12345 foo\r\n\r\n  bar   \n", 13, 15),
        ("写一首关于春天的诗", 8, 11),
        ("ﬁ ǅ İstanbul Ωμέγα 한국어 日本語のテキスト", 16, 25),
        (&"a".repeat(2500), 313, 313),
        (&" ".repeat(2500), 20, 20),
        (&"\n".repeat(2500), 157, 79),
        (&"写".repeat(833), 833, 833),
        (&"😀".repeat(625), 625, 1250),
        (&"'s".repeat(1250), 1250, 1250),
    ] {
        assert_eq!(count(Encoding::O200k, text), o200k, "{text:?}");
        assert_eq!(count(Encoding::Cl100k, text), cl100k, "{text:?}");
    }
}

#[test]
fn hostile_text_takes_linear_time() {
    warm();
    let size = 1 << 18;
    let scripts = (0..size as u32).filter_map(|i| char::from_u32(i.wrapping_mul(7919) % 0x3000));
    let mut texts = vec![String::from_iter(scripts)];
    for piece in [
        "a",
        " ",
        "\n",
        "!",
        "写",
        "ab",
        " \n",
        "\u{301}",
        "<|endoftext|>",
    ] {
        texts.push(piece.repeat(size / piece.len()));
    }
    for text in texts {
        let began = Instant::now();
        count(Encoding::O200k, &text);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?} for {text:.10}");
    }
}

/// The sum of OpenAI's cookbook: 3 for a message and its role, 1 for a name, 3 for the reply.
#[test]
fn chats_count_as_the_cookbook_does() {
    assert_eq!(
        chat(r#"{"messages":[{"role":"user","content":"hello world"}]}"#),
        3 + 3 + 1 + 2
    );
    assert_eq!(
        chat(
            r#"{"messages":[{"role":"user","name":"hello","content":[{"type":"text","text":"hello world"}]}]}"#
        ),
        3 + 3 + 1 + 2 + 2
    );
    assert_eq!(
        chat(
            r#"{"messages":[{"role":"assistant","content":null,"tool_calls":[{"id":"x","type":"function","function":{"name":"hello","arguments":"hello world"}}]}]}"#
        ),
        3 + 3 + 1 + 1 + 2
    );
    let image = chat(
        r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:AAAA"}}]}]}"#,
    );
    assert_eq!(image, 3 + 3 + 1 + 765);
    let tools = r#"[{"type":"function","function":{"name":"f","parameters":{}}}]"#;
    assert_eq!(
        chat(&format!(r#"{{"messages":[],"tools":{tools}}}"#)),
        3 + count(Encoding::O200k, tools)
    );
}

#[test]
fn older_prompts_and_inputs() {
    for (body, expected) in [
        (r#"{"prompt":"hello world"}"#, 2),
        (r#"{"prompt":"\u0068ello world","suffix":"hello"}"#, 3),
        (r#"{"prompt":["hello world","hello"]}"#, 3),
        (r#"{"prompt":[1,22,333]}"#, 3),
        (r#"{"prompt":[[1,22],[333]]}"#, 3),
        (r#"{"prompt":null}"#, 0),
        (r#"{"prompt":[{"a":1},true]}"#, 0),
        (r#"{"input":"hello world"}"#, 2),
    ] {
        for endpoint in [Endpoint::Completions, Endpoint::Embeddings] {
            let tokens = prompt(Some(Encoding::O200k), &endpoint, body.as_bytes());
            assert_eq!(tokens, expected, "{body}");
        }
    }
}

#[test]
fn responses_count_items_and_instructions() {
    for (body, expected) in [
        (r#"{"input":"hello world"}"#, 3 + 4 + 2),
        (
            r#"{"input":"hello world","instructions":"hello"}"#,
            3 + 4 + 2 + 4 + 1,
        ),
        (
            r#"{"input":[{"role":"user","content":[{"type":"input_text","text":"hello world"}]},{"type":"function_call_output","call_id":"c","output":"hello"}]}"#,
            3 + 4 + 2 + 3 + 1,
        ),
    ] {
        let tokens = prompt(Some(Encoding::O200k), &Endpoint::Responses, body.as_bytes());
        assert_eq!(tokens, expected, "{body}");
    }
}

#[test]
fn answers() {
    for (endpoint, body, expected) in [
        (
            Endpoint::ChatCompletions,
            r#"{"choices":[{"message":{"role":"assistant","content":"hello world","reasoning_content":"hello"}},{"message":{"content":null,"tool_calls":[{"function":{"name":"hello","arguments":"hello"}}]}}]}"#,
            5,
        ),
        (
            Endpoint::Completions,
            r#"{"choices":[{"text":"hello world"},{"text":"hello"}]}"#,
            3,
        ),
        (
            Endpoint::Responses,
            r#"{"output":[{"type":"reasoning","summary":[{"text":"hello"}]},{"type":"message","role":"assistant","content":[{"type":"output_text","text":"hello world"}]},{"type":"function_call","name":"hello","arguments":"hello"}]}"#,
            5,
        ),
        (Endpoint::Embeddings, r#"{"data":[{"embedding":[1]}]}"#, 0),
        (Endpoint::ChatCompletions, r#"{"choices":"#, 2),
    ] {
        let tokens = answer(Some(Encoding::O200k), &endpoint, body.as_bytes());
        assert_eq!(tokens, expected, "{body}");
    }
}

#[test]
fn beyond_the_limit_text_is_estimated() {
    let half = "hello world ".repeat(EXACT_LIMIT / 12 * 2 / 3);
    let body =
        format!(r#"{{"messages":[{{"role":"user","content":"{half}"}},{{"content":"{half}"}}]}}"#);
    let expected = 3 + 3 + 1 + count(Encoding::O200k, &half) + 3 + estimate(half.as_bytes());
    assert_eq!(chat(&body), expected);
}

#[test]
fn deep_bodies_do_not_overflow_the_stack() {
    let deep = "[".repeat(1 << 20);
    for body in [
        format!(r#"{{"messages":{deep}"#),
        format!(r#"{{"messages":{deep}{}}}"#, "]".repeat(1 << 20)),
        deep,
    ] {
        assert!(chat(&body) > 0);
    }
}

proptest! {
    #[test]
    fn odd_bodies_are_taken(value in r#"([\[\]{}:,"0-9a\\ ]|"content"|"text"|"role"|"function"|null){0,30}"#, bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        for endpoint in [Endpoint::ChatCompletions, Endpoint::Completions, Endpoint::Embeddings, Endpoint::Responses, Endpoint::PassThrough] {
            for name in ["messages", "prompt", "input", "choices", "output"] {
                let body = format!(r#"{{"{name}":{value}}}"#);
                prompt(Some(Encoding::Cl100k), &endpoint, body.as_bytes());
                answer(Some(Encoding::Cl100k), &endpoint, body.as_bytes());
            }
            prompt(None, &endpoint, &bytes);
            answer(None, &endpoint, &bytes);
        }
    }
}
