//! Connections themselves: how long they may be held, when they are kept, and that nobody who is slow, silent or gone
//! costs others their place.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::support::answers::{STREAM_HEAD, ask, ask_stream, chat, chunk, delta};
use crate::support::client::Connection;
use crate::support::gateway::{Config, Gateway};
use crate::support::raw::Raw;
use crate::support::upstream::{Script, Upstream};
use crate::support::{KEY, eventually, patiently, within};

#[tokio::test]
async fn a_preface_that_stops_short_gives_its_place_back() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .server("header_timeout = \"300ms\"")
        .start()
        .await;
    for beginning in ["PRI", "PRI * HTTP/2.0\r\n\r\nSM"] {
        let mut raw = Raw::connect(gateway.data()).await;
        raw.send(beginning).await;
        raw.closed().await;
    }
}

#[tokio::test]
async fn a_preface_that_stops_short_does_not_hold_up_a_stop() {
    let upstream = Upstream::answering(chat()).await;
    let mut gateway = Config::over(&upstream)
        .server("header_timeout = \"60s\"\ndrain_timeout = \"60s\"")
        .start()
        .await;
    let mut raw = Raw::connect(gateway.data()).await;
    raw.send("PRI").await;
    gateway.signal("TERM");
    within(Duration::from_secs(10), "the stop", gateway.exit()).await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_stream_is_let_go() {
    let upstream = Upstream::start(|_| {
        let mut script = Script::new().send(STREAM_HEAD);
        for _ in 0..2000 {
            script = script.send(chunk(delta(&"a".repeat(500))));
        }
        script.stall()
    })
    .await;
    let gateway = Config::over(&upstream)
        .server("write_timeout = \"500ms\"")
        .start()
        .await;
    let stream = TcpStream::connect(gateway.data()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1000)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let _connection = Connection::drive(connection);
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{}/v1/chat/completions", gateway.data()))
        .header("authorization", format!("Bearer {KEY}"))
        .body(Full::new(Bytes::from(ask_stream().to_string())))
        .unwrap();
    let response = patiently("an answer", sender.send_request(request)).await;
    // The answer is held and not read.
    upstream.left().await;
    drop(response);
}

#[tokio::test]
async fn a_connection_is_kept_after_a_chunked_request() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let mut raw = Raw::connect(gateway.data()).await;
    for path in ["/v1/chat/completions", "/v1/files"] {
        let body = ask().to_string();
        raw.send(format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        ))
        .await;
        let answer = raw.answer().await;
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.head.header("connection"), None, "{path}");
    }
}

#[tokio::test]
async fn answers_without_a_body_are_not_booked_as_left() {
    let upstream = Upstream::start(|request| {
        Script::new().send(match request.method.as_str() {
            "HEAD" => "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
            "DELETE" => "HTTP/1.1 204 No Content\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        })
    })
    .await;
    let gateway = Gateway::over(&upstream).await;
    for method in [Method::HEAD, Method::DELETE, Method::GET] {
        gateway.client().request(method, "/v1/files/1", "").await;
    }
    gateway.idle().await;
    let metrics = gateway.metrics().await;
    let gone = "weir_requests_total{cause=\"client_gone\"";
    assert!(!metrics.contains(gone), "{metrics}");
}

#[tokio::test]
async fn a_client_that_left_is_booked_as_such() {
    let upstream = Upstream::start(|_| {
        Script::new()
            .send(STREAM_HEAD)
            .send(chunk(delta("a")))
            .stall()
    })
    .await;
    let gateway = Gateway::over(&upstream).await;
    let mut stream = gateway
        .client()
        .stream("/v1/chat/completions", ask_stream())
        .await;
    stream.next().await.unwrap();
    drop(stream);
    eventually("the count", async || {
        gateway
            .metrics()
            .await
            .contains("weir_requests_total{cause=\"client_gone\"")
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_refused_upgrade_is_answered_before_the_connection_ends() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let mut raw = Raw::connect(gateway.data()).await;
    raw.send("POST /v1/files HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\ncontent-length: 900000\r\n\r\n")
        .await;
    raw.send("a".repeat(400_000)).await;
    assert_eq!(raw.answer().await.status(), 401);
}

#[tokio::test]
async fn no_line_of_subprotocols_carries_the_key_upstream() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let mut raw = Raw::connect(gateway.data()).await;
    raw.send(format!(
        "GET /v1/realtime HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-protocol: realtime\r\nsec-websocket-protocol: openai-insecure-api-key.{KEY}\r\n\r\n"
    ))
    .await;
    raw.answer().await;
    let head = String::from_utf8_lossy(&upstream.call().head).into_owned();
    assert!(!head.contains(KEY), "{head}");
    assert!(
        head.to_lowercase()
            .contains("sec-websocket-protocol: realtime"),
        "{head}"
    );
}
