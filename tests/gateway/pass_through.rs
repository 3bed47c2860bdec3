//! Every other path under /v1: carried as it is, in both directions, without being held.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::Method;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use crate::support::answers::{LAST_CHUNK, answer, ask, chunk, error_code, json_answer};
use crate::support::gateway::{Config, Gateway};
use crate::support::raw::Raw;
use crate::support::upstream::{Gate, Script, Upstream, is_pattern, pattern};
use crate::support::{CREDENTIAL, KEY, eventually, patiently, within};

const FILE: u64 = 100 << 20;

fn ok() -> Vec<u8> {
    json_answer("200 OK", "{\"id\": \"file-1\"}")
}

#[tokio::test]
async fn multipart_travels_byte_for_byte() {
    let upstream = Upstream::answering(ok()).await;
    let gateway = Gateway::over(&upstream).await;
    let content_type = "multipart/form-data; boundary=\"--strange (boundary)?\"";
    let body: Vec<u8> = [b"----strange (boundary)?\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\xc3\xa9.bin\"\r\n\r\n".as_slice(), &pattern(0, 70_000), b"\r\n----strange (boundary)?--\r\n"].concat();
    let answer = gateway
        .client()
        .with_header("content-type", content_type)
        .request(Method::POST, "/v1/files?purpose=a%20b&x=%2F", body.clone())
        .await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (200, "{\"id\": \"file-1\"}")
    );
    let call = upstream.call();
    assert_eq!(call.target, "/v1/files?purpose=a%20b&x=%2F");
    assert_eq!(call.header("content-type"), Some(content_type));
    assert_eq!(
        call.header("authorization"),
        Some(format!("Bearer {CREDENTIAL}").as_str())
    );
    assert!(call.body == body, "the body was changed");
}

#[tokio::test]
async fn every_path_and_method_passes() {
    let upstream = Upstream::answering(ok()).await;
    let gateway = Gateway::over(&upstream).await;
    for (method, path) in [
        ("GET", "/v1/files"),
        ("GET", "/v1/files/file-1/content"),
        ("DELETE", "/v1/files/file-1"),
        ("POST", "/v1/images/generations"),
        ("POST", "/v1/audio/transcriptions"),
        ("POST", "/v1/fine_tuning/jobs"),
        ("PATCH", "/v1/not/yet/invented"),
        ("PUT", "/v1/uploads/u-1/parts"),
        ("OPTIONS", "/v1/files"),
        ("PROPFIND", "/v1/vector_stores/a%20b"),
        ("DELETE", "/v1/models/ft%3Amine"),
        ("GET", "/v1/chat/completions?limit=2"),
        ("GET", "/v1/responses/resp-1"),
        ("POST", "/v1/responses/resp-1/cancel"),
    ] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let answer = gateway.client().request(method.clone(), path, "").await;
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
        let call = upstream.calls().pop().unwrap();
        assert_eq!(
            (call.method.as_str(), call.target.as_str()),
            (method.as_str(), path)
        );
    }
}

#[tokio::test]
async fn statuses_and_bodies_pass_as_they_are() {
    for (status, body) in [
        ("201 Created", "made"),
        ("202 Accepted", ""),
        ("206 Partial Content", "part"),
        ("404 Not Found", "their own words"),
    ] {
        let upstream = Upstream::answering(answer(
            status,
            "content-type: application/x-thing\r\ncontent-range: bytes 0-3/9\r\netag: \"e\"\r\n",
            body,
        ))
        .await;
        let gateway = Gateway::over(&upstream).await;
        let answer = gateway
            .client()
            .with_header("range", "bytes=0-3")
            .get("/v1/files/f/content")
            .await;
        assert_eq!(answer.status.to_string(), status[..3]);
        assert_eq!(answer.text(), body);
        assert_eq!(answer.header("content-type"), Some("application/x-thing"));
        assert_eq!(answer.header("etag"), Some("\"e\""));
        assert_eq!(upstream.call().header("range"), Some("bytes=0-3"));
    }
}

#[tokio::test]
async fn a_refused_credential_and_a_redirect_stay_inside() {
    for status in ["401 Unauthorized", "403 Forbidden", "302 Found"] {
        let trap = Upstream::answering(ok()).await;
        let location = format!(
            "location: {}/x\r\nwww-authenticate: Bearer\r\n",
            trap.base_url()
        );
        let upstream =
            Upstream::answering(answer(status, &location, "their words on our credential")).await;
        let gateway = Gateway::over(&upstream).await;
        let answer = gateway.client().get("/v1/files").await;
        assert_eq!(answer.status, 502, "{status}: {}", answer.text());
        error_code(&answer.json());
        assert_eq!(trap.connections(), 0, "the redirect was followed");
    }
}

#[tokio::test]
async fn the_clients_encoding_is_its_own_affair() {
    let bytes = [0x1f, 0x8b, 1, 2, 3, 255];
    let upstream = Upstream::answering(answer(
        "200 OK",
        "content-encoding: gzip\r\ncontent-type: text/plain\r\n",
        bytes,
    ))
    .await;
    let gateway = Gateway::over(&upstream).await;
    let answer = gateway
        .client()
        .with_header("accept-encoding", "gzip, zstd;q=0.5")
        .get("/v1/files/f/content")
        .await;
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    assert_eq!(answer.body.as_ref(), bytes);
    assert_eq!(
        upstream.call().header("accept-encoding"),
        Some("gzip, zstd;q=0.5")
    );
}

#[tokio::test]
async fn an_upload_of_100_mb_passes_at_flat_memory() {
    let upstream = Upstream::answering(ok()).await;
    let gateway = Gateway::over(&upstream).await;
    assert_eq!(gateway.client().get("/v1/files").await.status, 200);
    let before = gateway.resident_memory();
    let frames = futures_util::stream::iter(
        (0..FILE / 65536).map(|i| Ok(Frame::data(Bytes::from(pattern(i * 65536, 65536))))),
    );
    let client = gateway
        .client()
        .with_header("content-length", &FILE.to_string());
    let stream = client
        .open_body(
            Method::POST,
            "/v1/files",
            BodyExt::boxed(StreamBody::new(frames)),
        )
        .await;
    assert_eq!(stream.status, 200);
    let call = upstream.calls().pop().unwrap();
    assert_eq!(call.body_length, FILE);
    assert!(call.body_is_pattern, "the body was changed");
    assert_eq!(
        call.header("content-length"),
        Some(FILE.to_string().as_str())
    );
    let growth = gateway.peak_memory() - before;
    assert!(growth < 16 << 20, "grew by {growth} bytes");
}

#[tokio::test]
async fn a_download_of_100_mb_passes_at_flat_memory() {
    let upstream = Upstream::start(|_| {
        Script::new().send(format!("HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {FILE}\r\n\r\n")).fill(FILE)
    })
    .await;
    let gateway = Gateway::over(&upstream).await;
    let before = gateway.resident_memory();
    let mut stream = gateway
        .client()
        .open(Method::GET, "/v1/files/f/content", "")
        .await;
    assert_eq!(stream.headers["content-length"], FILE.to_string());
    let mut length = 0;
    while let Some(piece) = stream.next().await.unwrap() {
        assert!(
            is_pattern(length, &piece),
            "the body was changed at {length}"
        );
        length += piece.len() as u64;
    }
    assert_eq!(length, FILE);
    let growth = gateway.peak_memory() - before;
    assert!(growth < 16 << 20, "grew by {growth} bytes");
}

#[tokio::test]
async fn an_upload_reaches_the_upstream_before_it_is_whole() {
    let upstream = Upstream::answering(ok()).await;
    let gateway = Gateway::over(&upstream).await;
    let mut raw = Raw::connect(gateway.data()).await;
    raw.send(format!("POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ntransfer-encoding: chunked\r\n\r\n")).await;
    raw.send(chunk("begin")).await;
    eventually(
        "the upstream is connected while the client still sends",
        async || (upstream.connections() > 0).then_some(()),
    )
    .await;
    raw.send(chunk("end")).await;
    raw.send(LAST_CHUNK).await;
    assert_eq!(raw.answer().await.status(), 200);
    assert_eq!(upstream.call().body, b"beginend");
}

#[tokio::test]
async fn an_upload_that_breaks_is_never_a_whole_one() {
    let upstream = Upstream::answering(ok()).await;
    let gateway = Gateway::over(&upstream).await;
    for headers in ["content-length: 1000", "transfer-encoding: chunked"] {
        let mut raw = Raw::connect(gateway.data()).await;
        raw.send(format!("POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n{headers}\r\n\r\n5\r\nhello\r\n")).await;
        eventually("the upstream is connected", async || {
            (upstream.connections() > 0).then_some(())
        })
        .await;
        drop(raw);
    }
    gateway.idle().await;
    eventually("the upstream's connections close", async || {
        (upstream.open_connections() == 0).then_some(())
    })
    .await;
    assert_eq!(
        upstream.calls().len(),
        0,
        "a broken upload arrived as a whole one"
    );
}

#[tokio::test]
async fn an_upload_beyond_the_bound_is_refused() {
    let upstream = Upstream::answering(ok()).await;
    let gateway = Config::over(&upstream)
        .server("max_upload = \"1MiB\"")
        .start()
        .await;
    let announced = gateway
        .client()
        .request(Method::POST, "/v1/files", vec![b'x'; (1 << 20) + 1])
        .await;
    announced.error(413, "invalid_request_error", "request_too_large");
    let frames = futures_util::stream::iter(
        (0..40).map(|_| Ok(Frame::data(Bytes::from(vec![b'x'; 65536])))),
    );
    let grown = gateway
        .client()
        .open_body(
            Method::POST,
            "/v1/files",
            BodyExt::boxed(StreamBody::new(frames)),
        )
        .await;
    assert_eq!(grown.status, 413);
    assert_eq!(upstream.calls().len(), 0);
}

#[tokio::test]
async fn a_stalled_upload_times_out() {
    let upstream = Upstream::answering(ok()).await;
    let gateway = Config::over(&upstream)
        .server("body_idle_timeout = \"300ms\"")
        .start()
        .await;
    let mut raw = Raw::connect(gateway.data()).await;
    raw.send(format!("POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: 1000\r\n\r\nhello")).await;
    let answer = raw.answer().await;
    assert_eq!(answer.status(), 408);
    answer.code();
    raw.closed().await;
}

#[tokio::test]
async fn a_break_breaks_the_clients_connection() {
    for script in [
        Script::new()
            .send("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\npart")
            .cut(),
        Script::new()
            .send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n")
            .cut(),
        Script::new()
            .send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n")
            .pause(Duration::from_millis(50))
            .reset(),
    ] {
        let upstream = Upstream::start(move |_| script.clone()).await;
        let gateway = Gateway::over(&upstream).await;
        let mut stream = gateway
            .client()
            .open(Method::GET, "/v1/files/f/content", "")
            .await;
        assert_eq!(stream.status, 200);
        assert_eq!(
            stream.rest().await,
            ("part".to_owned(), false),
            "a cut download looked whole"
        );
    }
}

#[tokio::test]
async fn downloads_leave_as_they_come() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| {
        Script::new()
            .send(
                "HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ntransfer-encoding: chunked\r\n\r\n",
            )
            .send(chunk("first"))
            .until(&held)
            .send(chunk("second"))
            .send(LAST_CHUNK)
    })
    .await;
    let gateway = Gateway::over(&upstream).await;
    let mut stream = gateway
        .client()
        .open(Method::POST, "/v1/audio/speech", "{}")
        .await;
    assert_eq!(stream.until("first").await, "first");
    gate.open();
    assert_eq!(stream.rest().await, ("second".to_owned(), true));
}

#[tokio::test]
async fn a_client_that_leaves_a_download_ends_it() {
    let upstream = Upstream::start(|_| {
        Script::new()
            .send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            .send(chunk("first"))
            .stall()
    })
    .await;
    let gateway = Gateway::over(&upstream).await;
    let mut stream = gateway
        .client()
        .open(Method::GET, "/v1/files/f/content", "")
        .await;
    stream.until("first").await;
    drop(stream);
    within(
        Duration::from_secs(2),
        "the upstream is left",
        upstream.left(),
    )
    .await;
    gateway.idle().await;
}

#[tokio::test]
async fn paths_go_to_the_upstream_that_claims_them() {
    let first = Upstream::answering(ok()).await;
    let second = Upstream::answering(ok()).await;
    let gateway = Config::new()
        .upstream("first", &first, "paths = [\"/v1/files\", \"/v1/files/*\"]")
        .upstream("second", &second, "paths = [\"/v1/audio/*\"]")
        .start()
        .await;
    for (path, upstream) in [
        ("/v1/files", Some("first")),
        ("/v1/files/f", Some("first")),
        ("/v1/audio/speech", Some("second")),
        ("/v1/images/generations", None),
    ] {
        let answer = gateway.client().request(Method::POST, path, "{}").await;
        match upstream {
            Some(name) => assert_eq!(answer.header("x-weir-upstream"), Some(name), "{path}"),
            None => {
                assert_eq!(answer.status, 404, "{path}");
                error_code(&answer.json());
            }
        }
    }
    assert_eq!((first.calls().len(), second.calls().len()), (2, 1));
}

#[cfg(feature = "local")]
#[tokio::test]
async fn without_a_remote_upstream_nothing_claims_a_path() {
    let gateway = Config::new().local().start().await;
    let answer = gateway
        .client()
        .request(Method::POST, "/v1/files", "x")
        .await;
    assert_eq!(answer.status, 404);
    error_code(&answer.json());
}

#[tokio::test]
async fn realtime_is_piped_through() {
    // The server speaks first, then echoes until it is told to close.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut seen = None;
        #[expect(
            clippy::result_large_err,
            reason = "the callback's type is tungstenite's"
        )]
        let mut socket = tokio_tungstenite::accept_hdr_async(
            stream,
            |request: &Request, mut response: Response| {
                seen = Some((request.uri().to_string(), request.headers().clone()));
                if request.headers().contains_key("sec-websocket-protocol") {
                    response
                        .headers_mut()
                        .insert("sec-websocket-protocol", "realtime".parse().unwrap());
                }
                Ok(response)
            },
        )
        .await
        .unwrap();
        socket.send(Message::text("session.created")).await.unwrap();
        let mut echoed = 0_usize;
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                echoed += message.len();
                socket.send(message).await.unwrap();
            }
        }
        (seen.unwrap(), echoed)
    });
    let gateway = Config::new()
        .table(&format!("[[upstream]]\nname = \"upstream\"\nkind = \"openai\"\nbase_url = \"http://{address}/v1\"\napi_keys = [\"{CREDENTIAL}\"]\nmax_concurrent = 1"))
        .start()
        .await;
    let mut request = format!("ws://{}/v1/realtime?model=gpt-realtime", gateway.data())
        .into_client_request()
        .unwrap();
    request
        .headers_mut()
        .insert("authorization", format!("Bearer {KEY}").parse().unwrap());
    request
        .headers_mut()
        .insert("sec-websocket-protocol", "realtime".parse().unwrap());
    let stream = TcpStream::connect(gateway.data()).await.unwrap();
    let (mut socket, response) = patiently(
        "the handshake",
        tokio_tungstenite::client_async(request, stream),
    )
    .await
    .unwrap();
    assert_eq!(response.status(), 101);
    let first = patiently("the first message", socket.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(first.to_text().unwrap(), "session.created");
    for message in [
        Message::text("höhe"),
        Message::binary(pattern(0, 300_000)),
        Message::text(""),
    ] {
        socket.send(message.clone()).await.unwrap();
        let echo = patiently("the echo", socket.next()).await.unwrap().unwrap();
        assert!(echo == message, "the message was changed");
    }
    let in_flight = "weir_upstream_in_flight{upstream=\"upstream\"} ";
    let counts = async |count: u32| {
        gateway
            .metrics()
            .await
            .contains(&format!("{in_flight}{count}\n"))
    };
    assert!(
        counts(1).await,
        "a tunnel is a call for as long as it lasts"
    );
    let refused = gateway.client().get("/v1/files").await;
    refused.error(503, "server_error", "overloaded");
    let of_tunnel = "WHERE endpoint = '/v1/realtime'";
    let status = gateway.ledger(&format!("SELECT status FROM request {of_tunnel}"));
    assert_eq!(status, ["open"]);
    socket.close(None).await.unwrap();
    patiently("the closing", async {
        while let Some(Ok(_)) = socket.next().await {}
    })
    .await;
    let ((uri, headers), echoed) = patiently("the server", server).await.unwrap();
    assert_eq!(uri, "/v1/realtime?model=gpt-realtime");
    assert_eq!(headers["authorization"], format!("Bearer {CREDENTIAL}"));
    assert!(!format!("{headers:?}").contains(KEY));
    assert_eq!(echoed, 300_000 + "höhe".len());
    // The upstream's side is closed; with the client's the tunnel is over.
    drop(socket);
    gateway.idle().await;
    let row = format!(
        "SELECT status, http_status, received_bytes > 300000, sent_bytes > 300000 FROM request {of_tunnel}"
    );
    eventually("the row is settled", async || {
        (gateway.ledger(&row) == ["complete 101 1 1"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn realtime_takes_the_key_of_a_browser() {
    let upstream = Upstream::start(|_| {
        Script::new().send("HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\n\r\n")
    })
    .await;
    let gateway = Gateway::over(&upstream).await;
    let mut request = format!("ws://{}/v1/realtime?model=m", gateway.data())
        .into_client_request()
        .unwrap();
    request.headers_mut().insert(
        "sec-websocket-protocol",
        format!("realtime, openai-insecure-api-key.{KEY}")
            .parse()
            .unwrap(),
    );
    let stream = TcpStream::connect(gateway.data()).await.unwrap();
    let refused = patiently(
        "the refusal",
        tokio_tungstenite::client_async(request, stream),
    )
    .await;
    assert!(refused.is_err(), "the upstream did not upgrade");
    let call = upstream.call();
    let head = String::from_utf8_lossy(&call.head).into_owned();
    assert!(!head.contains(KEY), "the gateway key went upstream: {head}");
    assert_eq!(
        call.header("authorization"),
        Some(format!("Bearer {CREDENTIAL}").as_str())
    );
}

#[tokio::test]
async fn realtime_without_a_key_reaches_nobody() {
    let upstream = Upstream::answering(ok()).await;
    let gateway = Gateway::over(&upstream).await;
    let mut raw = Raw::connect(gateway.data()).await;
    raw.send("GET /v1/realtime?model=m HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").await;
    let answer = raw.answer().await;
    assert_eq!(answer.status(), 401);
    answer.code();
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn an_upgrade_opens_no_tunnel_elsewhere() {
    // `Upgrade` on any other path is a hop-by-hop header like the rest.
    let upstream = Upstream::answering(crate::support::answers::chat()).await;
    let gateway = Gateway::over(&upstream).await;
    for upgrade in ["h2c", "websocket", "tls/1.0"] {
        let client = gateway
            .client()
            .with_header("connection", "upgrade")
            .with_header("upgrade", upgrade);
        let answer = client.post("/v1/chat/completions", ask()).await;
        assert!(
            answer.status == 200 || answer.status == 400,
            "{}",
            answer.status
        );
    }
    for call in upstream.calls() {
        assert!(call.header("upgrade").is_none());
    }
}
