use super::*;

// === observing ===

fn observed(stream: &[u8], endpoint: &Endpoint) -> Observed {
    let mut observer = StreamObserver::new();
    observer.observe(stream, endpoint);
    observer.observed().clone()
}

#[test]
fn the_usage_that_comes_last_counts() {
    let stream = br#"data: {"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":3,"completion_tokens":1}}

data: {"x_groq":{"usage":{"prompt_tokens":9,"completion_tokens":9}}}

data: {"choices":[{"delta":{"content":"\"usage\":{}"}}],"usage":null}

data: {"choices":[],
data: "usage":{"prompt_tokens":0,"completion_tokens":0}}

"#;
    let seen = observed(stream, &Endpoint::ChatCompletions);
    assert_eq!(seen.usage, Some(Usage::default()), "zero is a value");
    assert_eq!((seen.events, seen.deltas), (4, 2));
}

#[test]
fn errors_are_seen_under_every_guise() {
    for stream in [
        "data: {\"error\":{\"message\":\"m\"}}\n\n",
        "data: {\"error\": \"m\"}\n\n",
        "event: error\ndata: {\"message\":\"m\"}\n\n",
        "data: {\"type\":\"error\",\"message\":\"m\"}\n\n",
    ] {
        assert!(
            observed(stream.as_bytes(), &Endpoint::ChatCompletions).error,
            "{stream}"
        );
    }
    for stream in [
        "data: {\"error\":null}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"error\\\":1\"}}]}\n\n",
        "data: {\"response\":{\"error\":{}}}\n\n",
        "event: error\n\n",
    ] {
        assert!(
            !observed(stream.as_bytes(), &Endpoint::ChatCompletions).error,
            "{stream}"
        );
    }
}

#[test]
fn the_end_of_a_response_is_seen_with_and_without_a_name() {
    let data = r#"{"type":"response.incomplete","response":{"usage":{"input_tokens":1,"output_tokens":2}}}"#;
    for stream in [
        format!("data: {data}\n\n"),
        format!("event: response.incomplete\ndata: {data}\n\n"),
    ] {
        let seen = observed(stream.as_bytes(), &Endpoint::Responses);
        assert!(seen.terminal);
        assert_eq!(seen.usage.map(|u| (u.input, u.output)), Some((1, 2)));
    }
}

#[test]
fn a_role_alone_is_no_content() {
    for data in [
        r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
        r#"{"choices":[{"delta":{"role":"assistant","content": null,"tool_calls":[]}}]}"#,
        r#"{"choices":[]}"#,
    ] {
        let seen = observed(
            format!("data: {data}\n\n").as_bytes(),
            &Endpoint::ChatCompletions,
        );
        assert_eq!((seen.events, seen.deltas), (1, 0), "{data}");
    }
    let call = br#"data: {"choices":[{"delta":{"content":null,"tool_calls":[{"index":0}]}}]}"#;
    assert_eq!(observed(call, &Endpoint::ChatCompletions).deltas, 1);
}

// === removing ===

fn removed(block: &str) -> String {
    let out = UsageRemover::new().remove(&Bytes::copy_from_slice(block.as_bytes()));
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn usage_goes_with_its_comma_on_either_side() {
    for (data, expected) in [
        (r#"{"a":1,"usage":null}"#, r#"{"a":1}"#),
        (r#"{ "usage" : null , "a":1 }"#, r#"{ "a":1 }"#),
        (
            r#"{"a":1 , "usage":{"b":[1]}, "c":2}"#,
            r#"{"a":1 , "c":2}"#,
        ),
        (r#"{ "usage":null }"#, "{  }"),
        (r#"{"usage":1,"a":1,"usage":2,"usage":3}"#, r#"{"a":1}"#),
        (
            r#"{"choices":[{}],"usage":{"total_tokens":1}}"#,
            r#"{"choices":[{}]}"#,
        ),
        (r#"{"choices":[],"usage":null}"#, r#"{"choices":[]}"#),
    ] {
        assert_eq!(
            removed(&format!(": c\ndata:{data}\n\n")),
            format!(": c\ndata:{expected}\n\n")
        );
    }
    assert_eq!(
        removed("data: {\"a\":1,\ndata: \"usage\"\r\ndata: :null,\ndata:\"b\":2}\n\n"),
        "data: {\"a\":1,\ndata: \r\ndata: \ndata:\"b\":2}\n\n"
    );
}

#[test]
fn the_usage_chunk_goes_as_a_whole() {
    let usage = "data: {\"choices\":[ ],\"usage\":{\"total_tokens\":1}}\n\n";
    assert_eq!(removed(usage), "");
    assert_eq!(
        removed(&format!("data: {{}}\n\n{usage}data: [DONE]\n\n")),
        "data: {}\n\ndata: [DONE]\n\n"
    );
    let mut remover = UsageRemover::new();
    let chunk = Bytes::from_static(b"data: {\"choices\":[],\"usage\":{}}\r\n\r");
    assert_eq!(remover.remove(&chunk), "");
    assert_eq!(remover.remove(&Bytes::new()), "");
    assert_eq!(
        remover.remove(&Bytes::from_static(b"\ndata: [DONE]\r\n")),
        "data: [DONE]\r\n"
    );
    assert_eq!(remover.remove(&Bytes::from_static(b"\n")), "\n");
}

#[test]
fn what_holds_no_usage_is_the_same_slice() {
    for block in [
        "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\":null\"}}]}\n\n",
        "data: {\"x_groq\":{\"usage\":{}}}\n\n",
        "data: {\"usage\":null\n\n",
        ": \"usage\":null\n\n",
    ] {
        let block = Bytes::from_static(block.as_bytes());
        let kept = UsageRemover::new().remove(&block);
        assert_eq!((kept.as_ptr(), kept.len()), (block.as_ptr(), block.len()));
    }
}

proptest! {
    #[test]
    fn the_remover_keeps_every_other_byte(
        members in prop::collection::vec(("[a-t]{1,3}", prop::sample::select(&["1", "\"春\"", "[{\"usage\":null}]", "{}"][..])), 0..4),
        at in 0..5usize,
        value in prop::sample::select(&["null", "{\"prompt_tokens\":1}", "0"][..]),
        end in prop::sample::select(&["\n", "\r\n", "\r"][..]),
        cuts in any_cuts(),
    ) {
        let text = |members: &[(String, &str)]| {
            let members: Vec<String> = members.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
            format!("data: {{{}}}{end}{end}", members.join(","))
        };
        let mut with_usage = members.clone();
        with_usage.insert(at.min(members.len()), ("usage".into(), value));
        let stream = text(&with_usage).repeat(2) + "data: [DONE]" + end + end;
        let expected = text(&members).repeat(2) + "data: [DONE]" + end + end;
        let mut remover = UsageRemover::new();
        let (blocks, _) = framed(stream.as_bytes(), &cuts);
        let out: Vec<Bytes> = blocks.iter().map(|block| remover.remove(block)).collect();
        prop_assert_eq!(out.concat(), expected.as_bytes());
    }
}

#[test]
fn choices_are_known_by_their_beginning_and_their_end() {
    let stream = br#"data: {"choices":[{"index":2,"delta":{"role":"assistant","content":""},"finish_reason":null}]}

data: {"choices":[{"delta":{"content":"\"finish_reason\":\"x\""},"index":1,"finish_reason":null}]}

data: {"choices":[{"index":1,"delta":{"content":"a"},"finish_reason":"stop"},{"index":0,"delta":{},"finish_reason":""}]}

data: {"choices":[],"usage":{}}

"#;
    let mut observer = StreamObserver::new();
    observer.observe(stream, &Endpoint::ChatCompletions);
    assert_eq!(observer.begun(), [2, 1, 0]);
    assert_eq!(observer.finished(), [1]);
    for index in 0..1000 {
        let event =
            format!("data: {{\"choices\":[{{\"index\":{index},\"finish_reason\":\"stop\"}}]}}\n\n");
        observer.observe(event.as_bytes(), &Endpoint::ChatCompletions);
    }
    assert_eq!(observer.finished().len(), 128);
}
