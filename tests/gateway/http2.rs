//! HTTP/2 on both sides: by prior knowledge and by ALPN towards clients, by ALPN towards upstreams.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::answers::{
    CHAT, DONE, STREAM_HEAD, ask, ask_stream, chat, delta, error_code, json_answer,
};
use crate::support::client::{Answer, Connection, Stream};
use crate::support::gateway::{Config, Gateway};
use crate::support::tls::Identity;
use crate::support::upstream::{Gate, Script, Upstream};
use crate::support::{KEY, patiently, within};

/// One HTTP/2 connection.
struct Session {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
    _connection: Connection,
}

impl Session {
    async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        authority: String,
    ) -> Self {
        let (sender, connection) = patiently(
            "the preface",
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)),
        )
        .await
        .unwrap();
        Self {
            sender,
            authority,
            _connection: Connection::drive(connection),
        }
    }

    async fn clear(gateway: &Gateway) -> Self {
        let stream = TcpStream::connect(gateway.data()).await.unwrap();
        Self::over(stream, format!("http://{}", gateway.data())).await
    }

    fn request(&self, method: Method, path: &str, body: String) -> Request<Full<Bytes>> {
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.authority))
            .header("authorization", format!("Bearer {KEY}"))
            .body(Full::new(body.into()))
            .unwrap()
    }

    async fn send(&mut self, method: Method, path: &str, body: String) -> Answer {
        let request = self.request(method, path, body);
        let response = patiently("an answer", self.sender.send_request(request))
            .await
            .unwrap();
        let (parts, body) = response.into_parts();
        let body = patiently("its body", body.collect())
            .await
            .unwrap()
            .to_bytes();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        }
    }

    async fn stream(&mut self, path: &str, body: String) -> Stream {
        let request = self.request(Method::POST, path, body);
        let response = patiently("an answer", self.sender.send_request(request))
            .await
            .unwrap();
        Stream::new(response, Connection::drive(std::future::pending::<()>()))
    }
}

#[tokio::test]
async fn by_prior_knowledge() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let mut session = Session::clear(&gateway).await;
    for _ in 0..3 {
        let answer = session
            .send(Method::POST, "/v1/chat/completions", ask().to_string())
            .await;
        assert_eq!((answer.status, answer.text().as_str()), (200, CHAT));
        for hop in ["connection", "transfer-encoding", "keep-alive"] {
            assert!(!answer.headers.contains_key(hop));
        }
    }
    let answer = session
        .send(Method::POST, "/v1/chat/completions", "nonsense".into())
        .await;
    answer.error(400, "invalid_request_error", "invalid_json");
    let answer = session.send(Method::GET, "/nowhere", String::new()).await;
    assert_eq!(answer.status, 404);
    error_code(&answer.json());
}

#[tokio::test]
async fn the_admin_listener_speaks_it_too() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let stream = TcpStream::connect(gateway.admin()).await.unwrap();
    let mut session = Session::over(stream, format!("http://{}", gateway.admin())).await;
    assert_eq!(
        session
            .send(Method::GET, "/healthz", String::new())
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn many_streams_on_one_connection_do_not_wait_for_each_other() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |request| {
        if request.json()["stream"] == true {
            Script::new()
                .send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
                .send(delta("one"))
                .until(&held)
                .send(DONE)
                .cut()
        } else {
            Script::new().send(chat())
        }
    })
    .await;
    let gateway = Gateway::over(&upstream).await;
    let mut session = Session::clear(&gateway).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = session
            .stream("/v1/chat/completions", ask_stream().to_string())
            .await;
        assert_eq!(stream.until("\n\n").await, delta("one"));
        streams.push(stream);
    }
    let answer = session
        .send(Method::POST, "/v1/chat/completions", ask().to_string())
        .await;
    assert_eq!(answer.status, 200, "a plain call beside 20 waiting streams");
    for mut stream in streams {
        gate.open();
        assert_eq!(stream.rest().await, (DONE.to_owned(), true));
    }
}

#[tokio::test]
async fn a_reset_stream_cancels_its_upstream_call_alone() {
    let upstream = Upstream::start(|request| {
        if request.json()["stream"] == true {
            let event = delta("one");
            let head = format!("{STREAM_HEAD}{:x}\r\n{event}\r\n", event.len());
            Script::new().send(head).stall()
        } else {
            Script::new().send(chat())
        }
    })
    .await;
    let gateway = Gateway::over(&upstream).await;
    let mut session = Session::clear(&gateway).await;
    let mut stream = session
        .stream("/v1/chat/completions", ask_stream().to_string())
        .await;
    stream.until("\n\n").await;
    drop(stream);
    within(
        Duration::from_secs(2),
        "the upstream is left",
        upstream.left(),
    )
    .await;
    let answer = session
        .send(Method::POST, "/v1/chat/completions", ask().to_string())
        .await;
    assert_eq!(answer.status, 200, "the connection lives on");
}

#[tokio::test]
async fn limits_hold_in_the_envelope() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .server("max_body = \"64KiB\"")
        .start()
        .await;
    let mut session = Session::clear(&gateway).await;
    let answer = session
        .send(Method::POST, "/v1/chat/completions", " ".repeat(70_000))
        .await;
    answer.error(413, "invalid_request_error", "request_too_large");
    let path = format!("/v1/files?{}", "a".repeat(9000));
    let answer = session.send(Method::GET, &path, String::new()).await;
    assert_eq!(answer.status, 414);
    let answer = session
        .send(Method::POST, "/v1/chat/completions", ask().to_string())
        .await;
    assert_eq!(answer.status, 200, "the connection is usable afterwards");
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn under_tls_the_protocol_is_agreed_on() {
    let upstream = Upstream::answering(chat()).await;
    let identity = Identity::new();
    let config = Config::over(&upstream).server("tls = { cert = \"tls.crt\", key = \"tls.key\" }");
    identity.write(config.path());
    let gateway = config.start().await;

    let stream = TcpStream::connect(gateway.data()).await.unwrap();
    let stream = identity.connect(stream, &[b"h2", b"http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let authority = format!("https://localhost:{}", gateway.data().port());
    let mut session = Session::over(stream, authority).await;
    let answer = session
        .send(Method::POST, "/v1/chat/completions", ask().to_string())
        .await;
    assert_eq!((answer.status, answer.text().as_str()), (200, CHAT));

    for protocols in [&[b"http/1.1".as_slice()][..], &[]] {
        let stream = TcpStream::connect(gateway.data()).await.unwrap();
        let mut stream = identity.connect(stream, protocols).await;
        let request = format!(
            "GET /v1/nowhere HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A close without close_notify would be an error here.
        patiently("an answer", stream.read_to_end(&mut answer))
            .await
            .unwrap();
        assert!(
            answer.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }

    // Plain HTTP on a TLS port hangs nobody, and a broken handshake harms nobody.
    let mut raw = crate::support::raw::Raw::connect(gateway.data()).await;
    raw.send("GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n").await;
    raw.closed().await;
    let answer = session
        .send(Method::POST, "/v1/chat/completions", ask().to_string())
        .await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn upstreams_are_spoken_to_in_http_2_where_they_offer_it() {
    let identity = Identity::new();
    let upstream = Upstream::start_tls(&identity, |request| {
        if request.method == "POST" && request.json()["stream"] == true {
            Script::new()
                .send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
                .send(delta("one"))
                .send(DONE)
        } else {
            Script::new().send(json_answer("200 OK", CHAT))
        }
    })
    .await;
    let config = Config::over(&upstream);
    identity.write(config.path());
    let roots = config.path().join("tls.crt");
    let gateway = config
        .env("SSL_CERT_FILE", roots.to_str().unwrap())
        .start()
        .await;
    for _ in 0..5 {
        let answer = gateway.client().chat(ask()).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, CHAT));
        let mut stream = gateway
            .client()
            .stream("/v1/chat/completions", ask_stream())
            .await;
        assert_eq!(stream.rest().await, ([&delta("one"), DONE].concat(), true));
    }
    let calls = upstream.calls();
    assert!(
        calls
            .iter()
            .all(|call| call.version == "HTTP/2.0" && call.connection == 0),
        "{calls:?}"
    );
    assert!(
        calls
            .iter()
            .all(|call| !format!("{:?}", call.headers).contains(KEY))
    );
}

#[tokio::test]
async fn a_client_that_leaves_resets_the_upstreams_stream() {
    let identity = Identity::new();
    let upstream = Upstream::start_tls(&identity, |_| {
        Script::new()
            .send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
            .send(delta("one"))
            .stall()
    })
    .await;
    let config = Config::over(&upstream);
    identity.write(config.path());
    let roots = config.path().join("tls.crt");
    let gateway = config
        .env("SSL_CERT_FILE", roots.to_str().unwrap())
        .start()
        .await;
    let mut stream = gateway
        .client()
        .stream("/v1/chat/completions", ask_stream())
        .await;
    stream.until("\n\n").await;
    drop(stream);
    within(
        Duration::from_secs(2),
        "the upstream is left",
        upstream.left(),
    )
    .await;
}

#[tokio::test]
async fn an_upstream_with_an_unknown_certificate_gets_no_credential() {
    let identity = Identity::new();
    let upstream = Upstream::start_tls(&identity, |_| Script::new().send(chat())).await;
    let gateway = Gateway::over(&upstream).await;
    let answer = gateway.client().chat(ask()).await;
    answer.error(502, "upstream_error", "upstream_error");
    assert_eq!(upstream.requests().len(), 0);
}

#[tokio::test]
async fn a_refusal_arrives_though_the_body_is_still_on_its_way() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let mut session = Session::clear(&gateway).await;
    for _ in 0..5 {
        let body = "x".repeat(27 << 20);
        let request = session.request(Method::POST, "/v1/chat/completions", body);
        let response = patiently("an answer", session.sender.send_request(request))
            .await
            .unwrap();
        assert_eq!(response.status(), 413);
        let body = patiently("its body", response.into_body().collect())
            .await
            .unwrap()
            .to_bytes();
        assert!(!body.is_empty());
    }
}
