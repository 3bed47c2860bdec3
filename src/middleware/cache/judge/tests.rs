//! Bodies and answers, judged by what they say.

use super::*;
use crate::openai::json::inspect;

fn traits(body: &str) -> Traits {
    let members = inspect(body.as_bytes(), 8).unwrap();
    Traits::of(body.as_bytes(), &members, true)
}

#[test]
fn temperature_zero_and_seeds_are_deterministic() {
    for (body, is_deterministic) in [
        (r#"{"temperature":0}"#, true),
        (r#"{"temperature":0.0}"#, true),
        (r#"{"temperature":-0e5}"#, true),
        (r#"{"seed":0}"#, true),
        (r#"{"seed":null}"#, false),
        (r#"{"temperature":1e-9}"#, false),
        (r#"{"temperature":"0"}"#, false),
        (r#"{"top_p":0}"#, false),
        (r#"{}"#, false),
    ] {
        assert_eq!(traits(body).is_deterministic, is_deterministic, "{body}");
    }
}

#[test]
fn what_an_upstream_keeps_is_not_kept_here() {
    for body in [
        r#"{"seed":1,"store":true}"#,
        r#"{"seed":1,"background":true}"#,
        r#"{"seed":1,"previous_response_id":"resp_1"}"#,
        r#"{"seed":1,"conversation":{"id":"c"}}"#,
    ] {
        assert!(traits(body).is_kept, "{body}");
    }
    let said = traits(r#"{"store":false,"conversation":null}"#);
    assert!(!said.is_kept_upstream(&Endpoint::Responses));
    let silent = traits("{}");
    assert!(
        silent.is_kept_upstream(&Endpoint::Responses),
        "it is by default"
    );
    assert!(!silent.is_kept_upstream(&Endpoint::ChatCompletions));
}

#[test]
fn tools_and_their_results_are_told() {
    for (body, has_tools) in [
        (r#"{"tools":[{"type":"function"}]}"#, true),
        (r#"{"tools":[]}"#, false),
        (
            r#"{"messages":[{"role":"user"},{"role":"tool","content":"4"}]}"#,
            true,
        ),
        (
            r#"{"input":[{"type":"function_call_output","output":"4"}]}"#,
            true,
        ),
        (
            r#"{"messages":[{"role":"user","content":"\"role\":\"tool\""}]}"#,
            false,
        ),
    ] {
        assert_eq!(traits(body).has_tools, has_tools, "{body}");
    }
}

#[test]
fn only_whole_answers_are_kept() {
    let whole = |text: &'static str, endpoint| {
        is_whole(&Whole::Text(Bytes::from_static(text.as_bytes())), &endpoint).is_some()
    };
    assert!(whole(r#"{"choices":[]}"#, Endpoint::ChatCompletions));
    assert!(!whole(
        r#"{"error":{"message":"no"}}"#,
        Endpoint::ChatCompletions
    ));
    assert!(!whole("[1]", Endpoint::ChatCompletions));
    assert!(!whole("", Endpoint::Embeddings));
    assert!(whole(
        r#"{"status":"completed","error":null}"#,
        Endpoint::Responses
    ));
    for status in ["incomplete", "failed", "in_progress"] {
        let text = format!(r#"{{"status":"{status}"}}"#);
        let body = Whole::Text(text.into());
        assert!(is_whole(&body, &Endpoint::Responses).is_none(), "{status}");
    }
}

#[test]
fn only_streams_that_have_ended_are_kept() {
    let events = |texts: &[&'static str], endpoint| {
        let blocks: Vec<Bytes> = texts
            .iter()
            .map(|text| Bytes::from_static(text.as_bytes()))
            .collect();
        is_whole(&Whole::Events(blocks, Vec::new()), &endpoint).is_some()
    };
    let delta = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    let finish = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    let done = "data: [DONE]\n\n";
    let chat = Endpoint::ChatCompletions;
    assert!(events(&[delta, finish, done], chat.clone()));
    assert!(!events(&[delta, finish], chat.clone()));
    assert!(!events(&[delta], chat.clone()));
    assert!(!events(&[], chat.clone()));
    let error = "data: {\"error\":{\"message\":\"no\"}}\n\n";
    assert!(!events(&[delta, error, done], chat));
    let completed =
        "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{}}\n\n";
    let failed = "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{}}\n\n";
    assert!(events(&[completed], Endpoint::Responses));
    assert!(!events(&[failed], Endpoint::Responses));
    let incomplete = "event: response.incomplete\ndata: {\"type\":\"response.incomplete\",\"response\":{\"error\":null}}\n\n";
    assert!(!events(&[incomplete], Endpoint::Responses));
    // Whoever had asked for it may have it again.
    let in_order = |text: &'static str| {
        let whole = Whole::Events(vec![Bytes::from_static(text.as_bytes())], Vec::new());
        is_in_order(&whole, &Endpoint::Responses).is_some()
    };
    assert!(in_order(incomplete) && in_order(completed));
    assert!(!in_order(failed));
}
