//! Every fault of an upstream that HTTP/2 adds: what the client sees of it, how often the upstream is asked, and that the
//! next request is not harmed.

use crate::support::answers::{CHAT, DONE, ask, ask_stream, delta};
use crate::support::frames::{Frames, INTERNAL_ERROR, NO_ERROR, REFUSED_STREAM, Step};
use crate::support::gateway::{Config, Gateway};
use crate::support::tls::Identity;

use Step::{Close, End, GoAway, Reset};

fn head() -> Step {
    Step::Head("application/json", Vec::new())
}

fn with_length(length: usize) -> Step {
    let length = ("content-length", length.to_string());
    Step::Head("application/json", vec![length])
}

/// `kib` KiB in headers of one KiB each, as well as the others.
fn with_headers(kib: usize) -> Step {
    Step::Head("application/json", vec![("x-long", "x".repeat(1024)); kib])
}

fn data(text: &str) -> Step {
    Step::Data(text.to_owned())
}

fn good() -> Vec<Step> {
    vec![head(), data(CHAT), End]
}

/// A gateway that tries twice more, before an upstream that gives these answers.
async fn over(answers: Vec<Vec<Step>>) -> (Gateway, Frames) {
    let identity = Identity::new();
    let upstream = Frames::start(&identity, answers).await;
    let config = Config::new()
        .table(&format!(
            "[[upstream]]\nname = \"upstream\"\nkind = \"openai\"\nbase_url = \"{}\"",
            upstream.base_url()
        ))
        .retry("attempts = 2\nbackoff = { base = \"1ms\", max = \"2ms\" }");
    identity.write(config.path());
    let roots = config.path().join("tls.crt");
    let gateway = config
        .env("SSL_CERT_FILE", roots.to_str().unwrap())
        .start()
        .await;
    (gateway, upstream)
}

/// Asks once more: nothing of a fault is left.
async fn is_well(gateway: &Gateway, what: &str) {
    let seen = gateway.client().chat(ask()).await;
    assert_eq!((seen.status, seen.text()), (200, CHAT.into()), "{what}");
    assert_eq!(seen.header("x-weir-attempts"), Some("1"), "{what}");
    gateway.idle().await;
}

#[tokio::test]
async fn no_fault_looks_like_an_answer_or_harms_the_next_request() {
    let (broken, invalid) = ("upstream_error", "upstream_invalid_response");
    let (one, two) = CHAT.split_at(150);
    for (what, answer, code, attempts) in [
        (
            "a reset before the head",
            vec![Reset(INTERNAL_ERROR)],
            broken,
            3,
        ),
        ("a refused stream", vec![Reset(REFUSED_STREAM)], broken, 3),
        (
            "a reset without an error before the head",
            vec![Reset(NO_ERROR)],
            broken,
            3,
        ),
        (
            "a reset in the body",
            vec![head(), data(one), Reset(INTERNAL_ERROR)],
            broken,
            3,
        ),
        (
            "a reset without an error in the body",
            vec![head(), data(one), Reset(NO_ERROR)],
            broken,
            3,
        ),
        (
            "the same, of a length that was announced",
            vec![with_length(CHAT.len()), data(one), Reset(NO_ERROR)],
            broken,
            3,
        ),
        (
            "a reset where nobody can know that it is the end",
            vec![head(), data(CHAT), Reset(NO_ERROR)],
            broken,
            3,
        ),
        (
            "a farewell before the head, and the end",
            vec![GoAway(INTERNAL_ERROR, true), Close],
            broken,
            3,
        ),
        (
            "a farewell in the body, and the end",
            vec![head(), data(one), GoAway(INTERNAL_ERROR, true), Close],
            broken,
            3,
        ),
        (
            "the end in the body",
            vec![head(), data(two), Close],
            broken,
            3,
        ),
        (
            "headers of 80 KiB",
            vec![with_headers(80), data(CHAT), End],
            invalid,
            1,
        ),
        (
            "headers of 210 KiB",
            vec![with_headers(210), data(CHAT), End],
            invalid,
            1,
        ),
        (
            "headers of 2 MiB, which end the connection",
            vec![with_headers(2048), data(CHAT), End],
            broken,
            3,
        ),
    ] {
        let mut answers = vec![answer; attempts];
        answers.push(good());
        let (gateway, upstream) = over(answers).await;
        let seen = gateway.client().chat(ask()).await;
        assert_eq!(seen.status, 502, "{what}: {}", seen.text());
        seen.error(502, "upstream_error", code);
        assert_eq!(upstream.requests(), attempts, "{what}");
        is_well(&gateway, what).await;
        assert_eq!(upstream.requests(), attempts + 1, "{what}");
    }
}

#[tokio::test]
async fn an_upstream_that_says_farewell_in_good_order_loses_nothing() {
    let (one, two) = CHAT.split_at(150);
    // What it had not begun to work on is asked again, on another connection.
    let (gateway, upstream) = over(vec![vec![GoAway(NO_ERROR, false)], good()]).await;
    let seen = gateway.client().chat(ask()).await;
    assert_eq!((seen.status, seen.text()), (200, CHAT.into()));
    assert_eq!((upstream.requests(), upstream.connections()), (2, 2));
    is_well(&gateway, "not begun").await;

    // What it had begun is brought to its end.
    let begun = vec![head(), data(one), GoAway(NO_ERROR, true), data(two), End];
    let (gateway, upstream) = over(vec![begun, good()]).await;
    let seen = gateway.client().chat(ask()).await;
    assert_eq!((seen.status, seen.text()), (200, CHAT.into()));
    assert_eq!(upstream.requests(), 1);
    is_well(&gateway, "begun").await;
    assert_eq!((upstream.requests(), upstream.connections()), (2, 2));
}

#[tokio::test]
async fn what_passes_through_ends_as_whole_only_if_it_is() {
    for (what, answer, whole) in [
        ("whole", vec![head(), data("one"), End], true),
        (
            "whole, and the rest of the request not wanted",
            vec![head(), data("one"), End, Reset(NO_ERROR)],
            true,
        ),
        (
            "all that was announced",
            vec![with_length(3), data("one"), Reset(NO_ERROR)],
            true,
        ),
        ("cut", vec![head(), data("one"), Reset(NO_ERROR)], false),
        ("cancelled", vec![head(), data("one"), Reset(8)], false),
        (
            "less than was announced",
            vec![with_length(9), data("one"), Reset(NO_ERROR)],
            false,
        ),
    ] {
        let (gateway, upstream) = over(vec![answer, good()]).await;
        let mut stream = gateway
            .client()
            .open(http::Method::GET, "/v1/files/f/content", "")
            .await;
        assert_eq!(stream.status, 200, "{what}");
        assert_eq!(stream.rest().await, ("one".to_owned(), whole), "{what}");
        assert_eq!(upstream.requests(), 1, "{what}");
        is_well(&gateway, what).await;
    }
}

#[tokio::test]
async fn a_stream_that_is_reset_between_two_events_ends_with_an_error() {
    for code in [NO_ERROR, INTERNAL_ERROR] {
        let head = Step::Head("text/event-stream", Vec::new());
        let begun = vec![head, data(&delta("one")), Reset(code)];
        let (gateway, upstream) = over(vec![begun, good()]).await;
        let mut stream = gateway
            .client()
            .stream("/v1/chat/completions", ask_stream())
            .await;
        let (text, _) = stream.rest().await;
        assert!(text.starts_with(&delta("one")), "{text}");
        assert!(text.contains("\"error\"") && !text.contains(DONE), "{text}");
        assert_eq!(upstream.requests(), 1);
        is_well(&gateway, "a stream").await;
    }
}
