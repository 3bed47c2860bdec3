//! Bad, ambiguous, slow and oversized requests: refused in the envelope, never passed on, never a hang.

use std::time::{Duration, Instant};

use crate::support::answers::{ask, chat, chunk};
use crate::support::gateway::{Config, Gateway};
use crate::support::raw::Raw;
use crate::support::upstream::Upstream;
use crate::support::{KEY, eventually, within};

/// A request head with the key, up to and without the empty line.
fn head(request_line: &str, headers: &str) -> String {
    format!("{request_line}\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\n{headers}")
}

fn post(headers: &str) -> String {
    head("POST /v1/chat/completions HTTP/1.1", headers)
}

fn good() -> String {
    let body = ask().to_string();
    post(&format!("content-length: {}\r\n\r\n{body}", body.len()))
}

#[tokio::test]
async fn ambiguous_framing_is_refused_and_ends_the_connection() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let body = ask().to_string();
    let length = body.len();
    // Behind each lies a second request: it must never be taken for one.
    let smuggled = head("GET /v1/files/smuggled HTTP/1.1", "\r\n");
    let chunked = format!("{length:x}\r\n{body}\r\n0\r\n\r\n");
    for (what, headers, body) in [
        (
            "two lengths that differ",
            format!("content-length: {length}\r\ncontent-length: 3\r\n"),
            &body,
        ),
        (
            "two lengths in one",
            format!("content-length: {length}, 3\r\n"),
            &body,
        ),
        ("a negative length", "content-length: -1\r\n".into(), &body),
        (
            "a length with a plus",
            format!("content-length: +{length}\r\n"),
            &body,
        ),
        ("a length in hex", "content-length: 0x10\r\n".into(), &body),
        (
            "a length beyond 64 bits",
            "content-length: 18446744073709551620\r\n".into(),
            &body,
        ),
        ("an empty length", "content-length: \r\n".into(), &body),
        (
            "a length of letters",
            "content-length: ten\r\n".into(),
            &body,
        ),
        (
            "an unknown coding",
            "transfer-encoding: xchunked\r\n".into(),
            &chunked,
        ),
        (
            "a coding behind chunked",
            "transfer-encoding: chunked, identity\r\n".into(),
            &chunked,
        ),
        (
            "gzip and chunked",
            "transfer-encoding: gzip, chunked\r\n".into(),
            &chunked,
        ),
        (
            "chunked twice",
            "transfer-encoding: chunked, chunked\r\n".into(),
            &chunked,
        ),
        (
            "two codings in two lines",
            "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n".into(),
            &chunked,
        ),
        (
            "identity",
            "transfer-encoding: identity\r\n".into(),
            &chunked,
        ),
        (
            "a space before the colon",
            "transfer-encoding : chunked\r\n".into(),
            &chunked,
        ),
        (
            "a space before the colon of the length",
            format!("content-length : {length}\r\n"),
            &body,
        ),
        (
            "a folded line",
            "x-a: b\r\n transfer-encoding: chunked\r\n".into(),
            &chunked,
        ),
        (
            "a bare CR in a value",
            format!("x-a: b\rtransfer-encoding: chunked\r\ncontent-length: {length}\r\n"),
            &body,
        ),
        (
            "a NUL in a value",
            format!("x-a: b\0c\r\ncontent-length: {length}\r\n"),
            &body,
        ),
        (
            "a control byte in a value",
            format!("x-a: b\x01c\r\ncontent-length: {length}\r\n"),
            &body,
        ),
        (
            "a name with a space",
            format!("x a: b\r\ncontent-length: {length}\r\n"),
            &body,
        ),
        (
            "a name with a control byte",
            format!("x\x0ba: b\r\ncontent-length: {length}\r\n"),
            &body,
        ),
        (
            "a line without a colon",
            format!("nonsense\r\ncontent-length: {length}\r\n"),
            &body,
        ),
        (
            "an empty name",
            format!(": b\r\ncontent-length: {length}\r\n"),
            &body,
        ),
        (
            "a second host",
            format!("host: other\r\ncontent-length: {length}\r\n"),
            &body,
        ),
    ] {
        let mut raw = Raw::connect(gateway.data()).await;
        raw.send(post(&headers) + "\r\n" + body + &smuggled).await;
        let answer = raw.answer().await;
        assert_eq!(answer.status(), 400, "{what}: {answer:?}");
        answer.code();
        let after = raw.closed().await;
        assert_eq!(
            String::from_utf8_lossy(&after),
            "",
            "{what}: more came after the refusal"
        );
    }
    assert_eq!(upstream.calls().len(), 0);
}

#[tokio::test]
async fn a_length_beside_chunked_never_rules() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let body = ask().to_string();
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let smuggled = head("GET /v1/files/smuggled HTTP/1.1", "\r\n");
    for length in [3, body.len(), chunked.len(), chunked.len() + smuggled.len()] {
        for order in [
            format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n"),
            format!("transfer-encoding: chunked\r\ncontent-length: {length}\r\n"),
        ] {
            let mut raw = Raw::connect(gateway.data()).await;
            raw.send(post(&order) + "\r\n" + &chunked + &smuggled).await;
            let answer = raw.answer().await;
            match answer.status() {
                400 => drop(answer.code()),
                200 => assert_eq!(answer.head.header("connection"), Some("close"), "{order}"),
                status => panic!("{status} for {order}"),
            }
            assert_eq!(raw.closed().await, b"", "{order}");
        }
    }
    for call in upstream.calls() {
        assert_eq!(call.target, "/v1/chat/completions");
        assert_eq!(call.body, body.as_bytes());
        assert!(
            call.header("content-length").is_none() || call.header("transfer-encoding").is_none()
        );
    }
}

#[tokio::test]
async fn chunked_in_http_1_0_is_refused() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let mut raw = Raw::connect(gateway.data()).await;
    let request = head(
        "POST /v1/chat/completions HTTP/1.0",
        "transfer-encoding: chunked\r\n\r\n",
    );
    raw.send(request + "2\r\n{}\r\n0\r\n\r\n").await;
    assert_eq!(raw.answer().await.status(), 400);
    raw.closed().await;
    assert_eq!(upstream.calls().len(), 0);
}

#[tokio::test]
async fn broken_chunks_reach_no_upstream() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let body = ask().to_string();
    for (what, bytes) in [
        ("a size of letters", format!("zz\r\n{body}\r\n0\r\n\r\n")),
        ("a negative size", format!("-1\r\n{body}\r\n0\r\n\r\n")),
        (
            "a size in 0x",
            format!("0x{:x}\r\n{body}\r\n0\r\n\r\n", body.len()),
        ),
        (
            "a size beyond 64 bits",
            format!("fffffffffffffffff\r\n{body}\r\n0\r\n\r\n"),
        ),
        (
            "a chunk longer than its size",
            format!("{:x}\r\n{body}xx\r\n0\r\n\r\n", body.len()),
        ),
        (
            "a bare LF behind the size",
            format!("{:x}\n{body}\r\n0\r\n\r\n", body.len()),
        ),
    ] {
        let mut raw = Raw::connect(gateway.data()).await;
        raw.send(post("transfer-encoding: chunked\r\n\r\n") + &bytes)
            .await;
        if let Some(answer) = raw.maybe_answer().await {
            assert_eq!(answer.status(), 400, "{what}: {answer:?}");
            answer.code();
        }
        raw.closed().await;
    }
    assert_eq!(upstream.calls().len(), 0);
}

#[tokio::test]
async fn bad_request_lines_are_refused() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    for (request, statuses) in [
        ("GARBAGE\r\n\r\n".to_owned(), &[400][..]),
        (
            "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03 this was meant for TLS\r\n\r\n".into(),
            &[400],
        ),
        (head("GET /v1/models HTTP/1.2", "\r\n"), &[400, 505]),
        (head("GET /v1/models HTTP/3.0", "\r\n"), &[400, 505]),
        (head("GET  /v1/models HTTP/1.1", "\r\n"), &[400]),
        (head("GET /v1/mo dels HTTP/1.1", "\r\n"), &[400]),
        (head("GET /v1/mo\x00dels HTTP/1.1", "\r\n"), &[400]),
        (head("G\x01T /v1/models HTTP/1.1", "\r\n"), &[400]),
        (head("GET v1/models HTTP/1.1", "\r\n"), &[400]),
        (
            head("GET http://127.0.0.1:1/v1/models HTTP/1.1", "\r\n"),
            &[400],
        ),
        (
            head("GET http://evil.test/v1/models HTTP/1.1", "\r\n"),
            &[400],
        ),
        (head("OPTIONS * HTTP/1.1", "\r\n"), &[400, 404, 405]),
        (
            head("CONNECT 127.0.0.1:22 HTTP/1.1", "\r\n"),
            &[400, 404, 405],
        ),
        (head("TRACE /v1/models HTTP/1.1", "\r\n"), &[400, 405]),
        (
            format!("GET /v1/models HTTP/1.1\r\nauthorization: Bearer {KEY}\r\n\r\n"),
            &[400],
        ),
    ] {
        let mut raw = Raw::connect(gateway.data()).await;
        raw.send(&request).await;
        let line = request.lines().next().unwrap();
        let answer = raw
            .maybe_answer()
            .await
            .unwrap_or_else(|| panic!("no answer to {line:?}"));
        assert!(statuses.contains(&answer.status()), "{line:?}: {answer:?}");
        answer.code();
    }
    assert_eq!(upstream.calls().len(), 0);
}

#[tokio::test]
async fn heads_beyond_the_limits_are_refused_in_the_envelope() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let many: String = (0..120).map(|i| format!("x-{i}: a\r\n")).collect();
    let several: String = (0..20)
        .map(|i| format!("x-{i}: {}\r\n", "a".repeat(8000)))
        .collect();
    let big = format!("x-big: {}\r\n", "a".repeat(70_000));
    let long = format!("GET /v1/files?{} HTTP/1.1", "a".repeat(9000));
    let endless = format!("GET /v1/files?{} HTTP/1.1", "a".repeat(200_000));
    for (what, request, status) in [
        ("many headers", post(&many) + "\r\n", &[431][..]),
        ("one big header", post(&big) + "\r\n", &[431]),
        ("several big headers", post(&several) + "\r\n", &[431]),
        ("a long URI", head(&long, "\r\n"), &[414]),
        // Here the bound of the whole head is met first.
        ("an endless URI", head(&endless, "\r\n"), &[414, 431]),
    ] {
        let mut raw = Raw::connect(gateway.data()).await;
        raw.send(&request).await;
        let answer = raw
            .maybe_answer()
            .await
            .unwrap_or_else(|| panic!("{what}: no answer"));
        assert!(status.contains(&answer.status()), "{what}: {answer:?}");
        assert_eq!(answer.code(), "request_too_large", "{what}");
    }
    // What is just inside passes.
    let inside: String = (0..80)
        .map(|i| format!("x-{i}: {}\r\n", "a".repeat(500)))
        .collect();
    let mut raw = Raw::connect(gateway.data()).await;
    raw.send(
        head(
            &format!("GET /v1/files?{} HTTP/1.1", "a".repeat(7000)),
            &inside,
        ) + "\r\n",
    )
    .await;
    assert_eq!(raw.answer().await.status(), 200);
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn the_limits_of_the_head_can_be_set() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .server("max_head = \"16KiB\"\nmax_headers = 20\nmax_uri = \"200B\"")
        .start()
        .await;
    let many: String = (0..30).map(|i| format!("x-{i}: a\r\n")).collect();
    let big = format!("x-big: {}\r\n", "a".repeat(20_000));
    let long = format!("GET /v1/files?{} HTTP/1.1", "a".repeat(300));
    for (request, status) in [
        (post(&many), 431),
        (post(&big), 431),
        (head(&long, ""), 414),
    ] {
        let mut raw = Raw::connect(gateway.data()).await;
        raw.send(request + "\r\n").await;
        let answer = raw.answer().await;
        assert_eq!(answer.status(), status);
        assert_eq!(answer.code(), "request_too_large");
    }
}

#[tokio::test]
async fn a_body_that_announces_too_much_is_refused_before_it_is_read() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .server("max_body = \"64KiB\"")
        .start()
        .await;
    let mut raw = Raw::connect(gateway.data()).await;
    raw.send(post("content-length: 65537\r\n\r\n")).await;
    let answer = raw.answer().await;
    assert_eq!(answer.status(), 413);
    assert_eq!(answer.code(), "request_too_large");
    assert_eq!(answer.head.header("connection"), Some("close"));
    raw.closed().await;

    // Nor is a client told to go on that waits to be told.
    let mut raw = Raw::connect(gateway.data()).await;
    raw.send(post(
        "content-length: 65537\r\nexpect: 100-continue\r\n\r\n",
    ))
    .await;
    assert_eq!(raw.head().await.status, 413);
    assert_eq!(upstream.calls().len(), 0);
}

#[tokio::test]
async fn a_client_that_sends_on_is_listened_to_for_a_while() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .server("max_body = \"64KiB\"")
        .start()
        .await;
    let mut raw = Raw::connect(gateway.data()).await;
    raw.send(post("content-length: 4000000\r\n\r\n")).await;
    raw.send([b'x'; 5000]).await;
    assert_eq!(raw.answer().await.status(), 413);
    // A close with bytes unread resets the connection: clients that still write would fail before they read why.
    for piece in 0..20 {
        let sent = raw.try_send([b'x'; 5000]).await;
        assert!(sent.is_ok(), "piece {piece}: {sent:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(raw);

    // All of it at once, and only then a look at the answer.
    let mut raw = Raw::connect(gateway.data()).await;
    raw.send(post("content-length: 4000000\r\n\r\n")).await;
    raw.send(vec![b'x'; 4_000_000]).await;
    let answer = raw.maybe_answer().await.expect("the answer was lost");
    assert_eq!(answer.status(), 413);
    assert_eq!(upstream.calls().len(), 0);
}

#[tokio::test]
async fn a_body_that_grows_too_large_is_refused() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .server("max_body = \"64KiB\"")
        .start()
        .await;
    let mut raw = Raw::connect(gateway.data()).await;
    raw.send(post("transfer-encoding: chunked\r\n\r\n")).await;
    for _ in 0..10 {
        if raw.try_send(chunk(" ".repeat(10_000))).await.is_err() {
            break;
        }
    }
    let answer = raw.answer().await;
    assert_eq!(answer.status(), 413);
    assert_eq!(answer.code(), "request_too_large");
    raw.closed().await;

    // A body of just the bound passes.
    let mut raw = Raw::connect(gateway.data()).await;
    let body = ask().to_string();
    let body = body.clone() + &" ".repeat((64 << 10) - body.len());
    raw.send(post("content-length: 65536\r\n\r\n") + &body)
        .await;
    assert_eq!(raw.answer().await.status(), 200);
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn a_slow_head_times_out() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .server("header_timeout = \"400ms\"")
        .start()
        .await;
    for start in ["GET /v1/models HTTP/1.1\r\nhost: x\r\n", "GET"] {
        let mut raw = Raw::connect(gateway.data()).await;
        let begun = Instant::now();
        raw.send(start).await;
        // Dripping does not buy time.
        let dripping = async {
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if raw.try_send("x").await.is_err() || begun.elapsed() > Duration::from_secs(1) {
                    break;
                }
            }
            raw
        };
        let mut raw = dripping.await;
        if let Some(answer) = raw.maybe_answer().await {
            assert_eq!(answer.status(), 408, "{answer:?}");
            answer.code();
        } else {
            panic!("no 408 for {start:?}");
        }
        raw.closed().await;
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    // Nothing at all is an idle connection, closed without a word.
    let mut raw = Raw::connect(gateway.data()).await;
    let said = within(
        Duration::from_secs(100),
        "a silent connection is closed",
        raw.closed(),
    )
    .await;
    assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 408"));
}

#[tokio::test]
async fn a_slow_body_times_out() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .server("body_idle_timeout = \"300ms\"\nbody_timeout = \"1s\"")
        .start()
        .await;
    // Silence.
    let mut raw = Raw::connect(gateway.data()).await;
    raw.send(post("content-length: 100\r\n\r\n{")).await;
    let answer = raw.answer().await;
    assert_eq!(answer.status(), 408);
    answer.code();
    raw.closed().await;
    // Dripping.
    let mut raw = Raw::connect(gateway.data()).await;
    let begun = Instant::now();
    raw.send(post("content-length: 1000\r\n\r\n{")).await;
    while begun.elapsed() < Duration::from_secs(2) && raw.try_send(" ").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let answer = raw.answer().await;
    assert_eq!(answer.status(), 408);
    raw.closed().await;
    assert_eq!(upstream.calls().len(), 0);
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_keep_alive() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .server("keep_alive = \"500ms\"")
        .start()
        .await;
    let mut raw = Raw::connect(gateway.data()).await;
    raw.send(good()).await;
    assert_eq!(raw.answer().await.status(), 200);
    let begun = Instant::now();
    assert_eq!(raw.closed().await, b"");
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_refused_request_leaves_the_connection_usable() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let mut raw = Raw::connect(gateway.data()).await;
    for (request, status) in [
        (head("GET /nowhere HTTP/1.1", "\r\n"), 404),
        (head("GET /v1/completions HTTP/1.1", "\r\n"), 405),
        (post("content-length: 3\r\n\r\n{a}"), 400),
        ("GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(), 401),
        (good(), 200),
    ] {
        raw.send(&request).await;
        let answer = raw.answer().await;
        assert_eq!(answer.status(), status, "{request}");
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let mut raw = Raw::connect(gateway.data()).await;
    raw.send(good() + &head("GET /nowhere HTTP/1.1", "\r\n") + &good())
        .await;
    for status in [200, 404, 200] {
        assert_eq!(raw.answer().await.status(), status);
    }
    assert_eq!(upstream.calls().len(), 2);
}

#[tokio::test]
async fn a_request_in_pieces_is_a_request() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let mut raw = Raw::connect(gateway.data()).await;
    for byte in good().as_bytes() {
        raw.send([*byte]).await;
    }
    assert_eq!(raw.answer().await.status(), 200);
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let mut raw = Raw::connect(gateway.data()).await;
    let body = ask().to_string();
    raw.send(post(&format!(
        "content-length: {}\r\nexpect: 100-continue\r\n\r\n",
        body.len()
    )))
    .await;
    assert_eq!(raw.head().await.status, 100);
    raw.send(&body).await;
    assert_eq!(raw.answer().await.status(), 200);
    assert_eq!(upstream.call().body, body.as_bytes());
}

#[tokio::test]
async fn http_1_0_is_served_and_closed() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let mut raw = Raw::connect(gateway.data()).await;
    let body = ask().to_string();
    raw.send(head(
        "POST /v1/chat/completions HTTP/1.0",
        &format!("content-length: {}\r\n\r\n{body}", body.len()),
    ))
    .await;
    let answer = raw.answer().await;
    assert_eq!(answer.status(), 200);
    assert!(
        answer.head.header("transfer-encoding").is_none(),
        "HTTP/1.0 knows no chunks"
    );
    raw.closed().await;
}

#[tokio::test]
async fn head_and_options_have_no_surprises() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let mut raw = Raw::connect(gateway.data()).await;
    raw.send(head("HEAD /nowhere HTTP/1.1", "\r\n")).await;
    let answer = raw.head().await;
    assert_eq!(answer.status, 404);
    // No body follows a HEAD: the next answer begins right behind.
    raw.send(good()).await;
    assert_eq!(raw.answer().await.status(), 200);
}

#[tokio::test]
async fn more_connections_than_allowed_wait_or_are_refused_and_hurt_nobody() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .server("max_connections = 5")
        .start()
        .await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(Raw::connect(gateway.data()).await);
    }
    drop(idle);
    eventually("a place is free again", async || {
        let mut raw = Raw::connect(gateway.data()).await;
        raw.send(good()).await;
        let answer = tokio::time::timeout(Duration::from_secs(2), raw.maybe_answer()).await;
        (answer.ok()??.status() == 200).then_some(())
    })
    .await;
    // The admin listener has places of its own.
    assert_eq!(gateway.operator().get("/healthz").await.status, 200);
}
