//! The tests' own house: the scripted upstream and the clients do what the other modules take for granted.

use std::time::Duration;

use http::Method;

use crate::support::answers::{CHAT, LAST_CHUNK, STREAM_HEAD, ask, chat, chunk};
use crate::support::client::Client;
use crate::support::raw::Raw;
use crate::support::upstream::{Script, Upstream, is_pattern, pattern};
use crate::support::within;

fn client(upstream: &Upstream) -> Client {
    let base = upstream.base_url();
    let address = base["http://".len()..].trim_end_matches("/v1");
    Client::new(address.parse().unwrap())
}

#[tokio::test]
async fn the_upstream_keeps_what_it_was_asked() {
    let upstream = Upstream::answering(chat()).await;
    let answer = client(&upstream).with_header("x-a", "b").chat(ask()).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, CHAT));
    let call = upstream.call();
    assert_eq!(call.json(), ask());
    assert_eq!(call.header("x-a"), Some("b"));
    assert!(call.head.ends_with(b"\r\n\r\n"));
}

#[tokio::test]
async fn the_upstream_sees_a_client_that_leaves_and_none_that_stays() {
    let upstream =
        Upstream::start(|_| Script::new().send(STREAM_HEAD).send(chunk("one")).stall()).await;
    let mut stream = client(&upstream).stream("/v1/x", ask()).await;
    stream.until("one").await;
    let early = tokio::time::timeout(Duration::from_millis(200), upstream.left()).await;
    assert!(early.is_err(), "nobody has left");
    drop(stream);
    within(Duration::from_secs(1), "it is seen", upstream.left()).await;
}

#[tokio::test]
async fn breaks_break() {
    for script in [
        Script::new().send(STREAM_HEAD).send(chunk("one")).cut(),
        Script::new()
            .send(STREAM_HEAD)
            .send(chunk("one"))
            .pause(Duration::from_millis(20))
            .reset(),
    ] {
        let upstream = Upstream::start(move |_| script.clone()).await;
        let mut stream = client(&upstream).open(Method::GET, "/v1/x", "").await;
        assert_eq!(stream.rest().await, ("one".to_owned(), false));
    }
    let upstream = Upstream::answering(format!("{STREAM_HEAD}3\r\none\r\n{LAST_CHUNK}")).await;
    let mut stream = client(&upstream).open(Method::GET, "/v1/x", "").await;
    assert_eq!(stream.rest().await, ("one".to_owned(), true));
}

#[tokio::test]
async fn raw_answers_are_read_by_their_framing() {
    let upstream = Upstream::answering([chat(), chat()].concat()).await;
    let base = upstream.base_url();
    let address = base["http://".len()..]
        .trim_end_matches("/v1")
        .parse()
        .unwrap();
    let mut raw = Raw::connect(address).await;
    raw.send("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
        .await;
    for _ in 0..2 {
        let answer = raw.answer().await;
        assert_eq!(
            (answer.status(), answer.body.as_slice()),
            (200, CHAT.as_bytes())
        );
    }
    assert_eq!(upstream.call().body, b"{}");
}

#[test]
fn the_pattern_knows_its_place() {
    let bytes = pattern(1_048_000, 3000);
    assert!(is_pattern(1_048_000, &bytes));
    assert!(!is_pattern(1_048_001, &bytes));
    assert!(!is_pattern(1_048_000, &pattern(1_048_000 + 65536, 3000)));
}
