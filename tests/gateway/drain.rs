//! An orderly stop: nothing new, everything begun is finished, and there is a deadline.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::support::answers::{
    DONE, LAST_CHUNK, STREAM_HEAD, ask, ask_stream, chat, chunk, delta, error_code,
};
use crate::support::client::Client;
use crate::support::gateway::{Config, Gateway};
use crate::support::raw::Raw;
use crate::support::upstream::{Gate, Script, Upstream};
use crate::support::{KEY, eventually};

/// An upstream whose streams begin, wait for the gate, and end well.
async fn held() -> (Upstream, Gate) {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| {
        Script::new()
            .send(STREAM_HEAD)
            .send(chunk(delta("one")))
            .until(&held)
            .send(chunk(delta("two")))
            .send(chunk(DONE))
            .send(LAST_CHUNK)
    })
    .await;
    (upstream, gate)
}

/// Waits until the gateway says that it drains.
async fn draining(gateway: &Gateway) {
    let admin = gateway.admin();
    eventually("readiness is false", async || {
        // The listener may be gone only when the process is.
        let _ = TcpStream::connect(admin).await.ok()?;
        (Client::new(admin).get("/readyz").await.status == 503).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_has_begun_is_finished() {
    for signal in ["TERM", "INT"] {
        let (upstream, gate) = held().await;
        let mut gateway = Gateway::over(&upstream).await;
        let mut stream = gateway
            .client()
            .stream("/v1/chat/completions", ask_stream())
            .await;
        stream.until("\n\n").await;
        gateway.signal(signal);
        draining(&gateway).await;
        assert_eq!(
            Client::new(gateway.admin()).get("/healthz").await.status,
            200,
            "it is still alive"
        );
        let data = gateway.data();
        eventually("no new connection is taken", async || {
            TcpStream::connect(data).await.err()
        })
        .await;
        assert!(gateway.exited().is_none(), "it left while a stream ran");
        gate.open();
        assert_eq!(stream.rest().await, ([&delta("two"), DONE].concat(), true));
        assert_eq!(gateway.exit().await.code(), Some(0), "{signal}");
    }
}

#[tokio::test]
async fn an_idle_gateway_stops_at_once() {
    let upstream = Upstream::answering(chat()).await;
    let mut gateway = Gateway::over(&upstream).await;
    // A kept, idle connection does not hold it.
    let mut raw = Raw::connect(gateway.data()).await;
    raw.send(request()).await;
    assert_eq!(raw.answer().await.status(), 200);
    let begun = Instant::now();
    gateway.signal("TERM");
    assert_eq!(gateway.exit().await.code(), Some(0));
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(raw.closed().await, b"");
}

#[tokio::test]
async fn an_endless_stream_ends_at_the_deadline_with_an_error_event() {
    let upstream = Upstream::start(|_| {
        let mut script = Script::new().send(STREAM_HEAD);
        for _ in 0..10_000 {
            script = script
                .send(chunk(delta("x")))
                .pause(Duration::from_millis(50));
        }
        script
    })
    .await;
    let mut gateway = Config::over(&upstream)
        .server("drain_timeout = \"1s\"")
        .start()
        .await;
    let mut stream = gateway
        .client()
        .stream("/v1/chat/completions", ask_stream())
        .await;
    stream.until("\n\n").await;
    let begun = Instant::now();
    gateway.signal("TERM");
    let (text, _) = stream.rest().await;
    assert!(
        begun.elapsed() >= Duration::from_millis(900),
        "ended before its time"
    );
    assert!(!text.contains("[DONE]"));
    let last = text.trim_end().rsplit("data: ").next().unwrap();
    error_code(&serde_json::from_str(last).unwrap_or_else(|_| panic!("no error event: {last}")));
    assert!(gateway.exit().await.code().is_some());
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    upstream.left().await;
}

#[tokio::test]
async fn an_answer_that_goes_on_for_nobody_ends_at_the_deadline_and_is_booked() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| Script::new().until(&held).send(chat())).await;
    let mut gateway = Config::over(&upstream)
        .server("drain_timeout = \"1s\"")
        .table("[cache]\nenabled = true\nwhen = \"always\"\nfinish = true\n")
        .start()
        .await;
    let mut raw = Raw::connect(gateway.data()).await;
    raw.send(request()).await;
    upstream.called(1).await;
    drop(raw);
    eventually("the gateway knows that its client has left", async || {
        let metrics = gateway.metrics().await;
        let mut gauges = metrics.lines();
        let gauge = gauges.find(|line| line.starts_with("weir_requests_in_flight "));
        gauge?.ends_with(" 0").then_some(())
    })
    .await;
    assert_eq!(
        gateway.ledger("SELECT status FROM request"),
        ["open"],
        "it goes on"
    );
    let begun = Instant::now();
    gateway.signal("TERM");
    let code = gateway.exit().await.code();
    let took = begun.elapsed();
    assert_eq!(code, Some(0));
    assert!(took >= Duration::from_millis(900), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    // That its client had left was known first.
    assert_eq!(
        gateway.ledger("SELECT status, error, provenance FROM request"),
        ["failed client_gone estimated"]
    );
    upstream.left().await;
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let (upstream, _gate) = held().await;
    let mut gateway = Gateway::over(&upstream).await;
    let mut stream = gateway
        .client()
        .stream("/v1/chat/completions", ask_stream())
        .await;
    stream.until("\n\n").await;
    gateway.signal("TERM");
    draining(&gateway).await;
    let begun = Instant::now();
    gateway.signal("TERM");
    gateway.exit().await;
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_plain_answer_is_finished_and_the_connection_closed() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| Script::new().until(&held).send(chat())).await;
    let mut gateway = Gateway::over(&upstream).await;
    let mut raw = Raw::connect(gateway.data()).await;
    raw.send(request()).await;
    upstream.called(1).await;
    gateway.signal("TERM");
    draining(&gateway).await;
    gate.open();
    let answer = raw.answer().await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.head.header("connection"), Some("close"));
    raw.closed().await;
    assert_eq!(gateway.exit().await.code(), Some(0));
}

#[tokio::test]
async fn requests_that_lie_unread_are_answered() {
    let upstream = Upstream::answering(chat()).await;
    // Many tries: the race between the request and the signal must be lost by nobody.
    for _ in 0..10 {
        let mut gateway = Gateway::over(&upstream).await;
        let mut kept = Raw::connect(gateway.data()).await;
        kept.send(request()).await;
        assert_eq!(kept.answer().await.status(), 200);
        kept.send(request()).await;
        gateway.signal("TERM");
        let answer = kept
            .maybe_answer()
            .await
            .expect("a request sent before the signal was lost");
        assert_eq!(answer.status(), 200);
        assert_eq!(gateway.exit().await.code(), Some(0));
    }
}

fn request() -> String {
    let body = ask().to_string();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}
