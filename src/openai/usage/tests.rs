use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn read(json: &Value) -> Result<Usage, UsageError> {
    Usage::from_json(json.to_string().as_bytes())
}

/// Input, cached, written, audio; output, reasoning, audio.
fn usage(counts: [u64; 7]) -> Result<Usage, UsageError> {
    let [
        input,
        cached_input,
        cache_write,
        input_audio,
        output,
        reasoning,
        output_audio,
    ] = counts;
    Ok(Usage {
        input,
        cached_input,
        cache_write,
        input_audio,
        output,
        reasoning,
        output_audio,
    })
}

#[test]
fn every_spelling_gives_disjoint_classes() {
    for (who, json, expected) in [
        (
            "chat",
            json!({"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
                "prompt_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 20, "audio_tokens": 10},
                "completion_tokens_details": {"reasoning_tokens": 15, "audio_tokens": 5,
                    "accepted_prediction_tokens": 4, "rejected_prediction_tokens": 3}}),
            [40, 30, 20, 10, 30, 15, 5],
        ),
        (
            "embeddings",
            json!({"prompt_tokens": 8, "total_tokens": 8}),
            [8, 0, 0, 0, 0, 0, 0],
        ),
        (
            "responses",
            json!({"input_tokens": 100, "input_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 7},
                "output_tokens": 50, "output_tokens_details": {"reasoning_tokens": 20}, "total_tokens": 150}),
            [63, 30, 7, 0, 30, 20, 0],
        ),
        (
            "images",
            json!({"total_tokens": 100, "input_tokens": 50, "output_tokens": 50,
                "input_tokens_details": {"text_tokens": 10, "image_tokens": 40}}),
            [50, 0, 0, 0, 50, 0, 0],
        ),
        (
            "transcription",
            json!({"type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59,
                "input_token_details": {"text_tokens": 4, "audio_tokens": 10}}),
            [4, 0, 0, 10, 45, 0, 0],
        ),
        (
            "DeepSeek",
            json!({"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105,
                "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36}),
            [36, 64, 0, 0, 5, 0, 0],
        ),
        (
            "Moonshot",
            json!({"prompt_tokens": 19, "completion_tokens": 21, "total_tokens": 40, "cached_tokens": 10}),
            [9, 10, 0, 0, 21, 0, 0],
        ),
        (
            "xAI",
            json!({"prompt_tokens": 10120, "completion_tokens": 1499, "total_tokens": 14428,
                "prompt_tokens_details": {"cached_tokens": 128},
                "completion_tokens_details": {"reasoning_tokens": 2809}}),
            [9992, 128, 0, 0, 1499, 2809, 0],
        ),
        (
            "Gemini",
            json!({"prompt_tokens": 20, "completion_tokens": 151, "total_tokens": 553}),
            [20, 0, 0, 0, 151, 382, 0],
        ),
        (
            "Anthropic",
            json!({"input_tokens": 12, "cache_creation_input_tokens": 200,
                "cache_read_input_tokens": 1000, "output_tokens": 50}),
            [12, 1000, 200, 0, 50, 0, 0],
        ),
        (
            "Anthropic, with a total",
            json!({"input_tokens": 12, "cache_creation_input_tokens": 200,
                "cache_read_input_tokens": 1000, "output_tokens": 50, "total_tokens": 1262}),
            [12, 1000, 200, 0, 50, 0, 0],
        ),
        (
            "Anthropic's names within OpenAI's",
            json!({"prompt_tokens": 1212, "completion_tokens": 50, "total_tokens": 1262,
                "prompt_tokens_details": {"cached_tokens": 1000},
                "cache_creation_input_tokens": 200, "cache_read_input_tokens": 1000}),
            [12, 1000, 200, 0, 50, 0, 0],
        ),
        (
            "Anthropic's names, contained as the total shows",
            json!({"input_tokens": 1212, "output_tokens": 50, "total_tokens": 1262,
                "cache_creation_input_tokens": 200, "cache_read_input_tokens": 1000}),
            [12, 1000, 200, 0, 50, 0, 0],
        ),
        (
            "both spellings, one of them empty",
            json!({"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11,
                "prompt_tokens_details": {"cached_tokens": 4},
                "input_tokens": 0, "output_tokens": 0, "input_tokens_details": null}),
            [5, 4, 0, 0, 2, 0, 0],
        ),
    ] {
        assert_eq!(read(&json), usage(expected), "{who}");
    }
}

#[test]
fn zero_is_a_value_and_null_is_none() {
    let zero = json!({"prompt_tokens": 0, "total_tokens": 0});
    assert_eq!(read(&zero), usage([0; 7]));
    let nulls = json!({"prompt_tokens": 3, "completion_tokens": null, "total_tokens": null,
        "prompt_tokens_details": null, "completion_tokens_details": {"reasoning_tokens": null}});
    assert_eq!(read(&nulls), usage([3, 0, 0, 0, 0, 0, 0]));
}

#[test]
fn a_whole_that_is_no_count_spoils_the_object() {
    for bad in [
        "-1",
        "7.5",
        "7e0",
        "1e400",
        "-0",
        "\"7\"",
        "true",
        "[7]",
        "{}",
        "1099511627777",
        "9007199254740993",
        "18446744073709551615",
        "99999999999999999999999999999999",
    ] {
        let json = format!(r#"{{"prompt_tokens":{bad},"completion_tokens":5}}"#);
        let read = Usage::from_json(json.as_bytes());
        assert_eq!(read, Err(UsageError::Impossible), "{json}");
    }
    for good in ["7", "7.0", "7.000"] {
        let json = format!(r#"{{"prompt_tokens":{good},"completion_tokens":5}}"#);
        let read = Usage::from_json(json.as_bytes());
        assert_eq!(read, usage([7, 0, 0, 0, 5, 0, 0]), "{json}");
    }
}

#[test]
fn what_counts_nothing_says_so() {
    for json in [
        json!({}),
        json!({"total_tokens": 3}),
        json!({"prompt_tokens": null}),
        json!({"type": "duration", "seconds": 12.5}),
    ] {
        assert_eq!(read(&json), Err(UsageError::Nothing), "{json}");
    }
    for json in [
        "null",
        "[]",
        "7",
        "\"usage\"",
        "",
        "{",
        "{\"prompt_tokens\":1",
        "\u{0}",
    ] {
        let read = Usage::from_json(json.as_bytes());
        assert_eq!(read, Err(UsageError::NotAnObject), "{json}");
    }
}

#[test]
fn a_part_never_spoils_the_whole() {
    for (details, expected) in [
        (json!({"cached_tokens": 11}), [10, 0, 0, 0, 0, 0, 0]),
        (json!({"cached_tokens": -3}), [10, 0, 0, 0, 0, 0, 0]),
        (json!({"cached_tokens": "3"}), [10, 0, 0, 0, 0, 0, 0]),
        (json!({"cached_tokens": 1e300}), [10, 0, 0, 0, 0, 0, 0]),
        (json!({"cached_tokens": 3.0}), [7, 3, 0, 0, 0, 0, 0]),
        (
            json!({"cached_tokens": 8, "audio_tokens": 6}),
            [0, 8, 0, 2, 0, 0, 0],
        ),
        (
            json!({"cached_tokens": 10, "cache_write_tokens": 10}),
            [0, 10, 0, 0, 0, 0, 0],
        ),
        (json!("details"), [10, 0, 0, 0, 0, 0, 0]),
        (json!([1]), [10, 0, 0, 0, 0, 0, 0]),
    ] {
        let json = json!({"prompt_tokens": 10, "prompt_tokens_details": details});
        assert_eq!(read(&json), usage(expected), "{json}");
    }
}

#[test]
fn a_total_that_nothing_explains_is_ignored() {
    for total in [json!(3), json!(40), json!(-1), json!("x"), json!(u64::MAX)] {
        let json = json!({"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": total,
            "completion_tokens_details": {"reasoning_tokens": 5}});
        assert_eq!(read(&json), usage([10, 0, 0, 0, 15, 5, 0]), "{json}");
    }
}

#[test]
fn the_last_of_a_key_that_comes_twice_counts() {
    let json = br#"{"prompt_tokens":1,"prompt_tokens":2,"prompt\u005ftokens":3}"#;
    assert_eq!(Usage::from_json(json), usage([3, 0, 0, 0, 0, 0, 0]));
}

#[test]
fn a_hundred_thousand_brackets_are_one_cheap_error() {
    for name in ["prompt_tokens", "prompt_tokens_details", "other"] {
        let json = format!("{{\"{name}\":{}", "[".repeat(100_000));
        let read = Usage::from_json(json.as_bytes());
        assert_eq!(read, Err(UsageError::NotAnObject), "cut");
    }
}

fn any_count() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => (0..200u64).prop_map(Value::from),
        1 => any::<u64>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => Just(json!(MAX_TOKENS)),
        1 => prop_oneof![Just(json!(null)), Just(json!("7")), Just(json!([])), Just(json!({}))],
    ]
}

fn any_details() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec![
        "cached_tokens",
        "cache_write_tokens",
        "cache_creation_tokens",
        "audio_tokens",
        "text_tokens",
        "reasoning_tokens",
    ]);
    let object = prop::collection::btree_map(name, any_count(), 0..5)
        .prop_map(|map| Value::Object(map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()));
    prop_oneof![4 => object, 1 => any_count()]
}

fn any_usage() -> impl Strategy<Value = Value> {
    let count = prop::sample::select(vec![
        "prompt_tokens",
        "input_tokens",
        "completion_tokens",
        "output_tokens",
        "total_tokens",
        "prompt_cache_hit_tokens",
        "cached_tokens",
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
        "x",
    ]);
    let details = prop::sample::select(vec![
        "prompt_tokens_details",
        "input_tokens_details",
        "input_token_details",
        "completion_tokens_details",
        "output_tokens_details",
    ]);
    (
        prop::collection::btree_map(count, any_count(), 0..7),
        prop::collection::btree_map(details, any_details(), 0..4),
    )
        .prop_map(|(counts, details)| {
            let members = counts.into_iter().chain(details);
            Value::Object(members.map(|(k, v)| (k.to_owned(), v)).collect())
        })
}

/// The whole of one side, in whatever spelling; `None` when one is there that is no count.
fn whole(json: &Value, names: [&str; 2]) -> Option<u64> {
    let mut largest = 0;
    for name in names {
        match &json[name] {
            Value::Null => {}
            Value::Number(number) => {
                let count = number.as_u64().or_else(|| {
                    let float = number.as_f64()?;
                    (number.is_f64() && number.to_string().ends_with(".0") && float >= 0.0)
                        .then_some(float as u64)
                })?;
                largest = largest.max(count);
            }
            _ => return None,
        }
    }
    (largest <= MAX_TOKENS).then_some(largest)
}

proptest! {
    #[test]
    fn the_parts_add_up_to_the_whole(json in any_usage()) {
        let Ok(usage) = read(&json) else { return Ok(()) };
        let prompt = whole(&json, ["prompt_tokens", "input_tokens"]).unwrap();
        let completion = whole(&json, ["completion_tokens", "output_tokens"]).unwrap();
        let beside = usage.cached_input + usage.cache_write;
        prop_assert!(
            usage.prompt() == prompt || usage.prompt() == prompt + beside,
            "{:?}", usage
        );
        prop_assert!(
            usage.completion() == completion || usage.completion() == completion + usage.reasoning,
            "{:?}", usage
        );
        prop_assert_eq!(usage.total(), usage.prompt() + usage.completion());
        prop_assert_eq!(usage.total(), usage.classes().iter().map(|(_, count)| count).sum::<u64>());
        prop_assert!(usage.total() < 1 << 53);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = Usage::from_json(&bytes);
    }

    #[test]
    fn arbitrary_json_never_panics(text in r#"[{}\[\]":,a0-9.eE\\+-]{0,40}"#) {
        let _ = Usage::from_json(text.as_bytes());
        let _ = Usage::from_json(format!(r#"{{"prompt_tokens":{text}}}"#).as_bytes());
    }
}
