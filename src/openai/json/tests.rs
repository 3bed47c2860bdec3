use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::*;
use bytes::Bytes;

const DEPTH: usize = 128;

fn found(body: &str) -> Members {
    inspect(body.as_bytes(), DEPTH).unwrap()
}

fn rewritten(body: &str, model: Option<&str>, include_usage: bool) -> String {
    let bytes = Bytes::copy_from_slice(body.as_bytes());
    let edited = found(body).rewrite(&bytes, model, include_usage);
    String::from_utf8(edited.to_vec()).unwrap()
}

#[test]
fn what_is_generated_is_multiplied_by_choices_and_prompts() {
    for (body, choices) in [
        (r#"{"prompt": "a"}"#, 1),
        (r#"{"prompt": ["a", "b", "c"], "n": 2}"#, 6),
        (r#"{"prompt": [1, 2, 3], "best_of": 5}"#, 5),
        (r#"{"prompt": [[1, 2], [3]], "n": 2, "best_of": 4}"#, 8),
        (r#"{"prompt": [], "n": 3, "best_of": 1}"#, 3),
        (r#"{"prompt": null, "n": 0, "best_of": "x"}"#, 1),
    ] {
        let members = inspect(body.as_bytes(), 8).unwrap();
        assert_eq!(
            members.generated_choices(body.as_bytes()),
            choices,
            "{body}"
        );
    }
}

proptest! {
    #[test]
    fn members_that_were_noted_are_those_that_a_walk_finds(
        keys in prop::collection::vec("[a-c]{1,2}", 0..2 * NOTED),
    ) {
        let body: Vec<String> = keys
            .iter()
            .zip(0..)
            .map(|(key, value)| format!("\"{key}\" : [{value}]"))
            .collect();
        let body = format!("{{{}}}", body.join(" ,"));
        let names = ["a", "bc", "cc"];
        let mut walked = Vec::new();
        each_member(body.as_bytes(), &names, |place, value| walked.push((place, value)));
        let mut noted = Vec::new();
        found(&body).each(body.as_bytes(), &names, |place, value| noted.push((place, value)));
        prop_assert_eq!(noted, walked);
    }
}

#[test]
fn finds_the_members_that_decide() {
    let body = r#" { "messages":[{"model":"not me"}], "model" : "gpt" , "stream":true,"stream_options":{} } "#;
    let members = found(body);
    assert_eq!(&body[members.model.clone().unwrap()], r#""gpt""#);
    assert_eq!(members.model(body.as_bytes()).unwrap().unwrap(), "gpt");
    assert!(members.stream(body.as_bytes()).unwrap());
    assert_eq!(&body[members.stream_options.unwrap()], "{}");
    assert_eq!(&body[..members.open], " {");
    assert!(!members.is_empty && found(" { } ").is_empty);
}

#[test]
fn keys_and_names_count_under_any_spelling() {
    let body = r#"{"mod\u0065l":"gp\u0074\/4","\u0073\u0074\u0072\u0065\u0061\u006d":false}"#;
    let members = found(body);
    assert_eq!(members.model(body.as_bytes()).unwrap().unwrap(), "gpt/4");
    assert!(members.stream.is_some());
    assert_eq!(
        inspect(br#"{"model":"a","mod\u0065l":"b"}"#, DEPTH),
        Err(JsonError::Duplicate("model"))
    );
    assert!(
        inspect(br#"{"x":"a","x":"b"}"#, DEPTH).is_ok(),
        "the upstream's business"
    );
}

#[test]
fn refuses_what_is_not_an_object() {
    for body in ["[]", "null", " \"model\" ", "1"] {
        assert_eq!(inspect(body.as_bytes(), DEPTH), Err(JsonError::NotAnObject));
    }
    for (body, offset) in [
        (&b""[..], 0),
        (b"{\"a\":1} x", 8),
        (b"{\"a\":\"\xff\"}", 6),
        (b"{\"a\":1", 6),
        (b"{,}", 1),
        (b"{\"a\":1,}", 7),
        (b"\xef\xbb\xbf{}", 0),
        (b"[1", 2),
    ] {
        assert_eq!(inspect(body, DEPTH), Err(JsonError::Syntax { offset }));
    }
}

#[test]
fn a_hundred_thousand_brackets_are_one_cheap_error() {
    for bracket in ["[", "{\"a\":"] {
        let body = format!("{{\"a\":{}", bracket.repeat(100_000));
        assert_eq!(
            inspect(body.as_bytes(), DEPTH),
            Err(JsonError::TooDeep { limit: DEPTH })
        );
        assert!(
            validate_object(body.as_bytes()).is_err(),
            "cut, at any depth"
        );
    }
    let body = format!(
        "{{\"a\":{}{}}}",
        "[".repeat(DEPTH - 1),
        "]".repeat(DEPTH - 1)
    );
    assert!(inspect(body.as_bytes(), DEPTH).is_ok());
    assert!(inspect(body.as_bytes(), DEPTH - 1).is_err());
}

#[test]
fn wrong_types_name_their_member() {
    let error = |body: &str| {
        let members = found(body);
        let model = members.model(body.as_bytes()).map(drop);
        let stream = members.stream(body.as_bytes()).map(drop);
        model.and(stream).unwrap_err().to_string()
    };
    assert_eq!(error(r#"{"model":1}"#), "`model` must be a string");
    assert_eq!(error(r#"{"model":null}"#), "`model` must be a string");
    assert_eq!(error(r#"{"model":"\ud800"}"#), "`model` must be a string");
    assert_eq!(
        error(r#"{"model":""}"#),
        "`model` must be a non-empty string"
    );
    assert_eq!(error(r#"{"stream":"true"}"#), "`stream` must be a boolean");
    assert_eq!(
        found(r#"{"stream":null}"#).stream(br#"{"stream":null}"#),
        Ok(false)
    );
}

#[test]
fn names_the_model() {
    let set = |body: &str| rewritten(body, Some("a\"b"), false);
    assert_eq!(
        set(r#"{ "model" : "x" , "n":1e2}"#),
        r#"{ "model" : "a\"b" , "n":1e2}"#
    );
    assert_eq!(set(r#"{ "n":1}"#), r#"{"model":"a\"b", "n":1}"#);
    assert_eq!(set("{ }"), r#"{"model":"a\"b" }"#);
    assert_eq!(set(r#"{"model":"a\u0022b"}"#), r#"{"model":"a\u0022b"}"#);
}

#[test]
fn asks_for_usage() {
    let cases = [
        (
            r#"{"n":1}"#,
            r#"{"stream_options":{"include_usage":true},"n":1}"#,
        ),
        ("{}", r#"{"stream_options":{"include_usage":true}}"#),
        (
            r#"{"stream_options": null }"#,
            r#"{"stream_options": {"include_usage":true} }"#,
        ),
        (
            r#"{"stream_options":{ }}"#,
            r#"{"stream_options":{"include_usage":true }}"#,
        ),
        (
            r#"{"stream_options":{ "x":1}}"#,
            r#"{"stream_options":{"include_usage":true, "x":1}}"#,
        ),
        (
            r#"{"stream_options":{"x":1,"include_usage": false }}"#,
            r#"{"stream_options":{"x":1,"include_usage": true }}"#,
        ),
        (
            r#"{"stream_options":{"include_usage":true,"include_usage":false}}"#,
            r#"{"stream_options":{"include_usage":true,"include_usage":true}}"#,
        ),
    ];
    for (body, expected) in cases {
        assert_eq!(rewritten(body, None, true), expected);
        assert!(!found(body).include_usage(body.as_bytes()), "{body}");
        assert!(found(expected).include_usage(expected.as_bytes()));
    }
    for kept in [
        r#"{"stream_options":{"include_usage" : true}}"#,
        r#"{"stream_options":{"include\u005fusage":true}}"#,
        r#"{"stream_options":"x"}"#,
        r#"{"stream_options":[{}]}"#,
    ] {
        assert_eq!(rewritten(kept, None, true), kept);
    }
}

#[test]
fn two_new_members_stand_side_by_side() {
    let both = r#"{"model":"m","stream_options":{"include_usage":true}"#;
    assert_eq!(rewritten("{}", Some("m"), true), format!("{both}}}"));
    assert_eq!(rewritten("{\n}", Some("m"), true), format!("{both}\n}}"));
    assert_eq!(
        rewritten("{ \"n\":1}", Some("m"), true),
        format!("{both}, \"n\":1}}")
    );
}

#[test]
fn without_an_edit_the_very_same_bytes_come_back() {
    let body = Bytes::from_static(br#"{"model":"m","stream_options":{"include_usage":true}}"#);
    let members = inspect(&body, DEPTH).unwrap();
    assert_eq!(
        members.rewrite(&body, Some("m"), true).as_ptr(),
        body.as_ptr()
    );
    assert_eq!(apply(&body, &[]).as_ptr(), body.as_ptr());
}

#[test]
fn an_answer_must_be_whole() {
    let answer = r#"{"id":"1","usage":{"prompt_tokens":1},"error":null}"#;
    let members = validate_object(answer.as_bytes()).unwrap();
    assert_eq!(&answer[members.usage.unwrap()], r#"{"prompt_tokens":1}"#);
    assert_eq!(&answer[members.error.unwrap()], "null");
    for end in 0..answer.len() {
        assert!(validate_object(&answer.as_bytes()[..end]).is_err(), "{end}");
    }
    assert_eq!(validate_object(b"[]"), Err(AnswerError::NotAnObject));
}

#[test]
fn the_first_of_several_names_is_preferred_wherever_it_stands() {
    let names = ["messages", "prompt", "input"];
    for (object, expected) in [
        (r#"{"input":1,"prompt":2,"messages":3}"#, Some("3")),
        (r#"{"messages":3,"input":1}"#, Some("3")),
        (r#"{"messages":3,"cut"#, Some("3")),
        (r#"{"input":1,"prompt":2,"input":4}"#, Some("2")),
        (r#"{"input":1,"input":4}"#, Some("1")),
        (r#"{"input":1,"cut"#, Some("1")),
        (r#"{"a":{"prompt":1}}"#, None),
    ] {
        let found = preferred_member(object.as_bytes(), &names);
        assert_eq!(found.map(|range| &object[range]), expected, "{object}");
    }
}

#[test]
fn finds_a_member_of_the_top_level_only() {
    let data = br#"{"x_groq":{"usage":1},"choices":[{"usage":2}],"usage":{"a":3},"cut":"#;
    let range = top_level_member(data, "usage").unwrap();
    assert_eq!(&data[range], br#"{"a":3}"#);
    assert_eq!(top_level_member(data, "a"), None);
    assert_eq!(top_level_member(b"[]", "a"), None);
    assert_eq!(top_level_member(b"", "a"), None);
}

// What serde_json takes for JSON. It skips a `RawValue` without a bound on depth and looks neither at surrogates nor at
// the size of numbers, exactly as we do.
fn serde_accepts(bytes: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(bytes).is_ok()
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        "[\"\\\\\\n\u{1}é\u{10348}a]{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("[a-z\"\\\\]{0,6}", inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_options() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        Just(json!({"include_usage": true})),
        Just(json!({"include_usage": false, "x": [1]})),
        Just(json!({"include_obfuscation": false})),
        any_json(),
    ]
}

fn any_body() -> impl Strategy<Value = (Value, String)> {
    (
        prop::collection::btree_map("[a-z_]{0,6}", any_json(), 0..5),
        prop::option::of(prop_oneof![".{1,10}".prop_map(Value::from), any_json()]),
        prop::option::of(prop_oneof![any::<bool>().prop_map(Value::from), any_json()]),
        prop::option::of(any_options()),
        any::<bool>(),
    )
        .prop_map(|(rest, model, stream, options, is_pretty)| {
            let mut map: Map<String, Value> = rest.into_iter().collect();
            map.extend(model.map(|v| ("model".into(), v)));
            map.extend(stream.map(|v| ("stream".into(), v)));
            map.extend(options.map(|v| ("stream_options".into(), v)));
            let value = Value::Object(map);
            let text = if is_pretty {
                serde_json::to_string_pretty(&value).unwrap()
            } else {
                value.to_string()
            };
            // What was written is what counts: not every float survives being read.
            (serde_json::from_str(&text).unwrap(), text)
        })
}

fn mutated(text: String, mutations: &[(usize, u8, u8)]) -> Vec<u8> {
    const TELLING: &[u8] = b"{}[],:\"\\ \n0-.eEu+tn1\x00\x1f\x7f\x80\xed\xff/";
    let mut bytes = text.into_bytes();
    for &(at, how, byte) in mutations {
        let at = at % (bytes.len() + 1);
        let byte = TELLING[usize::from(byte) % TELLING.len()];
        match how % 4 {
            0 => bytes.insert(at, byte),
            1 if at < bytes.len() => bytes[at] = byte,
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 if byte == b'{' => bytes.truncate(at),
            _ => {}
        }
    }
    bytes
}

proptest! {
    #[test]
    fn agrees_with_serde_json_on_mutated_bodies(
        (_, text) in any_body(),
        mutations in prop::collection::vec(any::<(usize, u8, u8)>(), 0..4),
    ) {
        let bytes = mutated(text, &mutations);
        let is_json = serde_accepts(&bytes);
        match inspect(&bytes, usize::MAX) {
            Ok(members) => {
                prop_assert!(is_json);
                if let Ok(value) = serde_json::from_slice::<Value>(&bytes) {
                    let model = members.model(&bytes).ok().flatten();
                    let expected = value["model"].as_str().filter(|name| !name.is_empty());
                    prop_assert_eq!(model.as_deref(), expected);
                    prop_assert_eq!(members.stream(&bytes).unwrap_or(false), value["stream"] == true);
                }
            }
            Err(JsonError::NotAnObject) => prop_assert!(is_json),
            Err(JsonError::Syntax { offset }) => {
                prop_assert!(!is_json);
                prop_assert!(offset <= bytes.len());
            }
            Err(JsonError::Duplicate(_)) => {}
            // A mutation may have made `modEl` of `model`.
            Err(JsonError::Type { member: "model", .. }) => {
                let value: Map<String, Value> = serde_json::from_slice(&bytes).unwrap_or_default();
                prop_assert!(
                    !is_json || value.keys().any(|key| key != "model" && key.eq_ignore_ascii_case("model"))
                );
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
        prop_assert_eq!(
            validate_object(&bytes).is_ok(),
            is_json && bytes.trim_ascii_start().starts_with(b"{")
        );
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        prop_assert_eq!(inspect(&bytes, 8).is_ok(), validate_object(&bytes).is_ok());
        let _ = (top_level_member(&bytes, "a"), is_whole(&bytes));
    }

    #[test]
    fn editing_changes_that_and_nothing_else(
        (value, text) in any_body(),
        name in ".{1,10}",
        include_usage in any::<bool>(),
    ) {
        let mut expected = value.clone();
        expected["model"] = name.clone().into();
        let asks = value["stream_options"].is_object() || value["stream_options"].is_null();
        if include_usage && asks {
            expected["stream_options"]["include_usage"] = true.into();
        }
        let edited = rewritten(&text, Some(&name), include_usage);
        prop_assert_eq!(serde_json::from_str::<Value>(&edited).unwrap(), expected);
    }

    #[test]
    fn editing_keeps_every_other_byte((_, text) in any_body(), name in ".{1,10}") {
        let members = found(&text);
        let edits = [members.set_model(text.as_bytes(), &name), members.set_include_usage(text.as_bytes())];
        for edit in edits.into_iter().flatten() {
            let value = members.model.clone() == Some(edit.range.clone())
                || members.stream_options.clone().is_some_and(|o| o.start <= edit.range.start && edit.range.end <= o.end);
            prop_assert!(value || edit.range == (members.open..members.open));
            let edited = apply(&Bytes::from(text.clone()), std::slice::from_ref(&edit));
            let expected = [&text[..edit.range.start], &edit.with, &text[edit.range.end..]].concat();
            prop_assert_eq!(edited, expected.as_bytes());
        }
    }
}

#[test]
fn a_model_in_other_letters_could_be_read_as_another_one() {
    for body in [
        r#"{"model":"cheap","Model":"dear"}"#,
        r#"{"MODEL":"dear"}"#,
        r#"{"m\u004Fdel":"dear"}"#,
    ] {
        assert!(
            matches!(
                inspect(body.as_bytes(), 128),
                Err(JsonError::Type {
                    member: "model",
                    ..
                })
            ),
            "{body}"
        );
    }
}
