//! Plain answers: byte for byte, or not at all.

use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use http::Method;
use serde_json::json;

use crate::support::answers::{
    CHAT, LAST_CHUNK, answer, ask, chat, chunk, error_code, json_answer,
};
use crate::support::gateway::{Config, Gateway};
use crate::support::raw::Raw;
use crate::support::upstream::{Script, Upstream};
use crate::support::{KEY, within};

/// A body in which everything is spelled as no serializer would.
const STRANGE: &str = "{ \"messages\" :[{\"role\":\"user\",\"content\":\"caf\\u00e9 \\/ \\ud83d\\ude00 \u{1F600}\"}],\n\t\"temperature\": 1.00e0, \"seed\": 12345678901234567890123, \"x\":1, \"x\":2, \"model\" : \"gpt-4o\" ,\"unknown\":{\"b\":1,\"a\":-0.0},\"stream\":false }";

/// An answer of every endpoint.
const ANSWER: &str = "{ \"choices\":[],\n\"data\" : [], \"output\": [], \"x\": 1.00e0 }";

#[tokio::test]
async fn bodies_travel_byte_for_byte_both_ways() {
    let upstream = Upstream::answering(json_answer("200 OK", ANSWER)).await;
    let gateway = Gateway::over(&upstream).await;
    for path in [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
    ] {
        let answer = gateway
            .client()
            .post(&format!("{path}?a=b%2Fc&d"), STRANGE)
            .await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(answer.text(), ANSWER, "{path}");
        let call = upstream.calls().pop().unwrap();
        assert_eq!(String::from_utf8_lossy(&call.body), STRANGE, "{path}");
        assert_eq!(call.method, "POST");
        assert_eq!(call.target, format!("{path}?a=b%2Fc&d"));
        assert_eq!(
            call.header("content-length"),
            Some(STRANGE.len().to_string().as_str())
        );
    }
}

#[tokio::test]
async fn a_rename_edits_the_model_and_nothing_else() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .route("gpt-4o", "upstream", "org/other \\\"name\\\"")
        .start()
        .await;
    let answer = gateway.client().chat(STRANGE).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        answer.text(),
        CHAT,
        "the answer's model is the upstream's own"
    );
    let sent = String::from_utf8(upstream.call().body).unwrap();
    let expected = STRANGE.replace("\"gpt-4o\"", "\"org/other \\\"name\\\"\"");
    assert_eq!(sent, expected);
}

#[tokio::test]
async fn a_model_spelled_with_escapes_is_the_same_model() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::new()
        .upstream("upstream", &upstream, "models = [\"gpt-4o\"]")
        .start()
        .await;
    let body = r#"{"\u006dodel":"gpt\u002d4o","messages":[]}"#;
    let answer = gateway.client().chat(body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(upstream.call().body, body.as_bytes());
}

#[tokio::test]
async fn two_models_in_one_body_cannot_pass_for_each_other() {
    // What the gateway checks and what the upstream takes must be the same one, or nothing.
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .without_key()
        .table(&format!(
            "[[key]]\nname = \"alice\"\nsecret = \"{KEY}\"\nmodels = [\"cheap\"]"
        ))
        .start()
        .await;
    for body in [
        r#"{"model":"cheap","model":"dear","messages":[]}"#,
        r#"{"model":"dear","model":"cheap","messages":[]}"#,
        r#"{"model":"cheap","\u006dodel":"dear","messages":[]}"#,
    ] {
        let answer = gateway.client().chat(body).await;
        assert!(
            [400, 403].contains(&answer.status),
            "{body}: {}",
            answer.text()
        );
        error_code(&answer.json());
    }
    assert_eq!(upstream.calls().len(), 0);
}

#[tokio::test]
async fn legacy_engine_calls_reach_the_modern_path_with_their_model() {
    let upstream = Upstream::answering(json_answer("200 OK", ANSWER)).await;
    let gateway = Gateway::over(&upstream).await;
    for (path, body, modern, model) in [
        (
            "/v1/engines/text-davinci-003/completions",
            "{\"prompt\": \"\\u5199\", \"max_tokens\": 100}",
            "/v1/completions",
            "text-davinci-003",
        ),
        (
            "/v1/engines/org%2Fm%3A1/embeddings",
            "{\"input\": \"a\"}",
            "/v1/embeddings",
            "org/m:1",
        ),
        (
            "/v1/engines/my+model/chat/completions",
            "{\"messages\": []}",
            "/v1/chat/completions",
            "my model",
        ),
        (
            "/v1/engines/a/completions",
            "{\"prompt\":\"x\",\"model\":\"b\"}",
            "/v1/completions",
            "a",
        ),
        ("/v1/engines/a/completions", "{}", "/v1/completions", "a"),
    ] {
        let answer = gateway.client().post(path, body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let call = upstream.calls().pop().unwrap();
        assert_eq!(call.target, modern);
        let sent = call.json();
        assert_eq!(sent["model"], model);
        let mut expected: serde_json::Value = serde_json::from_str(body).unwrap();
        expected["model"] = json!(model);
        assert_eq!(sent, expected);
        if body.contains("\\u5199") {
            assert!(
                String::from_utf8_lossy(&call.body)
                    .contains("\"prompt\": \"\\u5199\", \"max_tokens\": 100"),
                "the client's own spelling is kept"
            );
        }
    }
}

#[tokio::test]
async fn a_chunked_request_reaches_the_upstream_whole() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let mut raw = Raw::connect(gateway.data()).await;
    raw.send(format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ntransfer-encoding: chunked\r\n\r\n")).await;
    for piece in STRANGE.as_bytes().chunks(7) {
        raw.send(chunk(piece)).await;
    }
    raw.send("0\r\nx-trailer: smuggled\r\n\r\n").await;
    assert_eq!(raw.answer().await.status(), 200);
    let call = upstream.call();
    assert_eq!(call.body, STRANGE.as_bytes());
    assert!(call.header("x-trailer").is_none());
}

#[tokio::test]
async fn a_200_means_a_whole_answer() {
    let broken = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let bad_gzip = [GZIP_HEAD.as_slice(), &[0xff; 40]].concat();
    let cases: Vec<(&str, Script)> = vec![
        (
            "a short body",
            Script::new()
                .send(format!("{broken}content-length: 1000\r\n\r\n{CHAT}"))
                .cut(),
        ),
        (
            "a reset body",
            Script::new()
                .send(format!("{broken}content-length: 1000\r\n\r\n{CHAT}"))
                .reset(),
        ),
        (
            "chunks without an end",
            Script::new()
                .send(format!("{broken}transfer-encoding: chunked\r\n\r\n"))
                .send(chunk(CHAT))
                .cut(),
        ),
        (
            "a cut chunk",
            Script::new()
                .send(format!(
                    "{broken}transfer-encoding: chunked\r\n\r\n400\r\n{CHAT}"
                ))
                .cut(),
        ),
        (
            "a bad chunk size",
            Script::new()
                .send(format!(
                    "{broken}transfer-encoding: chunked\r\n\r\nzz\r\n{CHAT}\r\n0\r\n\r\n"
                ))
                .cut(),
        ),
        (
            "two lengths",
            Script::new()
                .send(format!(
                    "{broken}content-length: 10\r\ncontent-length: {}\r\n\r\n{CHAT}",
                    CHAT.len()
                ))
                .cut(),
        ),
        (
            "half a JSON",
            Script::new().send(json_answer("200 OK", &CHAT[..50])),
        ),
        (
            "no JSON",
            Script::new().send(answer(
                "200 OK",
                "content-type: text/html\r\n",
                "<h1>ok</h1>",
            )),
        ),
        ("nothing", Script::new().send(json_answer("200 OK", ""))),
        ("no object", Script::new().send(json_answer("200 OK", "[]"))),
        (
            "half a JSON until the connection's end",
            Script::new()
                .send(format!("{broken}\r\n{}", &CHAT[..50]))
                .cut(),
        ),
        (
            "broken gzip",
            Script::new().send(answer(
                "200 OK",
                "content-type: application/json\r\ncontent-encoding: gzip\r\n",
                bad_gzip,
            )),
        ),
        (
            "cut gzip",
            Script::new().send(answer(
                "200 OK",
                "content-type: application/json\r\ncontent-encoding: gzip\r\n",
                &gzip(CHAT.as_bytes())[..60],
            )),
        ),
        (
            "an encoding nobody asked for",
            Script::new().send(answer(
                "200 OK",
                "content-type: application/json\r\ncontent-encoding: aes128gcm\r\n",
                CHAT,
            )),
        ),
    ];
    for (what, script) in cases {
        let upstream = Upstream::start(move |_| script.clone()).await;
        let gateway = Gateway::over(&upstream).await;
        let answer = gateway.client().chat(ask()).await;
        assert_eq!(answer.status, 502, "{what}: {}", answer.text());
        assert_eq!(answer.json()["error"]["type"], "upstream_error", "{what}");
        error_code(&answer.json());
    }
}

#[tokio::test]
async fn an_answer_until_the_connections_end_is_whole_when_it_parses() {
    let upstream = Upstream::start(|_| {
        Script::new()
            .send(format!(
                "HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{CHAT}"
            ))
            .cut()
    })
    .await;
    let gateway = Gateway::over(&upstream).await;
    let answer = gateway.client().chat(ask()).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, CHAT));
}

#[tokio::test]
async fn an_answer_in_pieces_is_put_together() {
    for length in [1, 7, 100] {
        let upstream = Upstream::start(move |_| {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
            let bytes = [head.as_bytes(), &chunk(&CHAT[..33]), &chunk(&CHAT[33..]), LAST_CHUNK.as_bytes()].concat();
            Script::new().pieces(&bytes, length)
        })
        .await;
        let gateway = Gateway::over(&upstream).await;
        let answer = gateway.client().chat(ask()).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, CHAT));
    }
}

#[tokio::test]
async fn interim_answers_of_an_upstream_are_skipped() {
    let upstream = Upstream::start(|_| {
        Script::new()
            .send("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n")
            .send(chat())
    })
    .await;
    let gateway = Gateway::over(&upstream).await;
    let answer = gateway.client().chat(ask()).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, CHAT));
}

#[tokio::test]
async fn a_connection_with_extra_bytes_is_not_used_again() {
    // The extra answer must never reach the next client.
    let upstream = Upstream::start(|_| {
        let planted = json_answer("200 OK", r#"{"planted":true}"#);
        Script::new().send([chat(), planted].concat())
    })
    .await;
    let gateway = Gateway::over(&upstream).await;
    for _ in 0..5 {
        let answer = gateway.client().chat(ask()).await;
        assert!(!answer.text().contains("planted"), "{}", answer.text());
    }
    let mut connections: Vec<usize> = upstream.calls().iter().map(|c| c.connection).collect();
    connections.dedup();
    assert_eq!(connections.len(), 5, "a dirty connection was used again");
}

#[tokio::test]
async fn a_clean_connection_is_used_again() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    for _ in 0..10 {
        assert_eq!(gateway.client().chat(ask()).await.status, 200);
    }
    let last = upstream.calls().pop().unwrap();
    assert!(
        last.connection < 3,
        "{} connections for 10 calls in a row",
        last.connection
    );
}

#[tokio::test]
async fn what_an_upstream_encodes_is_decoded() {
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
    zlib.write_all(CHAT.as_bytes()).unwrap();
    for (encoding, bytes) in [
        ("gzip", gzip(CHAT.as_bytes())),
        ("deflate", zlib.finish().unwrap()),
    ] {
        let upstream = Upstream::answering(answer(
            "200 OK",
            &format!("content-type: application/json\r\ncontent-encoding: {encoding}\r\n"),
            bytes,
        ))
        .await;
        let gateway = Gateway::over(&upstream).await;
        for accept in ["gzip, deflate", "identity", "br"] {
            let answer = gateway
                .client()
                .with_header("accept-encoding", accept)
                .chat(ask())
                .await;
            assert_eq!(answer.text(), CHAT, "{encoding}");
            assert_eq!(answer.header("content-encoding"), None);
            let length = CHAT.len().to_string();
            assert!([None, Some(length.as_str())].contains(&answer.header("content-length")));
        }
        let offered: Vec<_> = upstream
            .calls()
            .iter()
            .map(|c| c.header("accept-encoding").map(str::to_owned))
            .collect();
        assert!(
            offered.iter().all(|o| *o == offered[0]),
            "what is offered is ours: {offered:?}"
        );
    }
}

#[tokio::test]
async fn a_decompression_bomb_is_bounded() {
    let bomb = {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let zeros = vec![b' '; 1 << 20];
        for _ in 0..512 {
            encoder.write_all(&zeros).unwrap();
        }
        encoder.finish().unwrap()
    };
    let upstream = Upstream::answering(answer(
        "200 OK",
        "content-type: application/json\r\ncontent-encoding: gzip\r\n",
        bomb,
    ))
    .await;
    let gateway = Gateway::over(&upstream).await;
    let before = gateway.resident_memory();
    let answer = gateway.client().chat(ask()).await;
    assert_eq!(answer.status, 502, "{}", answer.text().len());
    error_code(&answer.json());
    let growth = gateway.peak_memory() - before;
    assert!(growth < 256 << 20, "grew by {growth} bytes");
}

#[tokio::test]
async fn an_answer_beyond_the_bound_is_refused() {
    let upstream = Upstream::start(|_| {
        Script::new().send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n").send(chunk(" ".repeat(70_000))).send(chunk(CHAT)).send(LAST_CHUNK)
    })
    .await;
    let gateway = Config::over(&upstream)
        .server("max_answer = \"64KiB\"")
        .start()
        .await;
    let answer = gateway.client().chat(ask()).await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.json()["error"]["type"], "upstream_error");
}

#[tokio::test]
async fn headers_that_belong_to_the_call_travel_and_others_do_not() {
    let upstream = Upstream::answering(answer(
        "200 OK",
        "content-type: application/json\r\nopenai-processing-ms: 12\r\nopenai-organization: org-1\r\nopenai-version: 2020-10-01\r\nx-ratelimit-limit-requests: 100\r\nx-unknown: kept\r\nset-cookie: a=b\r\nset-cookie: c=d\r\nalt-svc: h3=\":443\"\r\nstrict-transport-security: max-age=1\r\nkeep-alive: timeout=5\r\nconnection: x-private\r\nx-private: hidden\r\nproxy-authenticate: Basic\r\nx-request-id: upstream-1\r\n",
        CHAT,
    ))
    .await;
    let gateway = Config::new()
        .upstream(
            "upstream",
            &upstream,
            "headers = { OpenAI-Project = \"proj-1\" }",
        )
        .start()
        .await;
    let client = [
        ("openai-organization", "org-client"),
        ("openai-beta", "assistants=v2"),
        ("idempotency-key", "once"),
        ("x-stainless-lang", "python"),
        ("user-agent", "OpenAI/Python 3.54.0"),
        ("accept", "application/json"),
        ("connection", "keep-alive, x-secret-hop"),
        ("x-secret-hop", "hidden"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("trailer", "x-t"),
        ("proxy-authorization", "Basic abc"),
        ("proxy-connection", "keep-alive"),
        ("x-custom", "kept"),
    ]
    .iter()
    .fold(gateway.client(), |c, (n, v)| c.with_header(n, v));
    let answer = client.chat(ask()).await;
    assert_eq!(answer.status, 200);

    let call = upstream.call();
    assert_eq!(
        call.header("host"),
        Some(upstream.base_url()["http://".len()..].trim_end_matches("/v1"))
    );
    assert_eq!(call.header("openai-beta"), Some("assistants=v2"));
    assert_eq!(call.header("idempotency-key"), Some("once"));
    assert_eq!(call.header("x-stainless-lang"), Some("python"));
    assert_eq!(call.header("user-agent"), Some("OpenAI/Python 3.54.0"));
    assert_eq!(call.header("accept"), Some("application/json"));
    assert_eq!(call.header("content-type"), Some("application/json"));
    assert_eq!(call.header("openai-project"), Some("proj-1"));
    assert_eq!(call.header("x-custom"), Some("kept"));
    for gone in [
        "x-secret-hop",
        "keep-alive",
        "te",
        "trailer",
        "proxy-authorization",
        "proxy-connection",
    ] {
        assert_eq!(call.header(gone), None, "{gone} went upstream");
    }

    assert_eq!(answer.header("openai-processing-ms"), Some("12"));
    assert_eq!(answer.header("openai-organization"), Some("org-1"));
    assert_eq!(answer.header("x-unknown"), Some("kept"));
    assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("100"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("x-weir-upstream"), Some("upstream"));
    assert!(answer.header("server-timing").is_some());
    for gone in [
        "set-cookie",
        "alt-svc",
        "strict-transport-security",
        "keep-alive",
        "x-private",
        "proxy-authenticate",
    ] {
        assert!(
            !answer.headers.contains_key(gone),
            "{gone} reached the client"
        );
    }
}

#[tokio::test]
async fn every_request_has_one_id_in_the_answer_and_in_the_log() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let client = gateway.client();
    let with_id = |id| client.with_header("x-request-id", id);
    let mut seen = Vec::new();
    for answer in [
        client.chat(ask()).await,
        with_id("mine-1").chat(ask()).await,
        with_id("not fit for a log").chat(ask()).await,
        client.chat("not json").await,
        client.get("/nowhere").await,
        gateway.stranger().get("/v1/models").await,
        client.request(Method::GET, "/v1/files", "").await,
    ] {
        let id = answer
            .header("x-request-id")
            .expect("a request id")
            .to_owned();
        gateway
            .logged("the request's line", |line| line.to_string().contains(&id))
            .await;
        assert!(!seen.contains(&id), "{id} twice");
        seen.push(id);
    }
    assert_eq!(seen[1], "mine-1");
}

#[tokio::test]
async fn the_upstreams_own_id_is_handed_on_and_logged() {
    let headers = "content-type: application/json\r\nx-request-id: theirs\r\n";
    let upstream = Upstream::answering(answer("200 OK", headers, CHAT)).await;
    let gateway = Gateway::over(&upstream).await;
    let answer = gateway
        .client()
        .with_header("x-request-id", "mine")
        .chat(ask())
        .await;
    // One id, theirs or the client's: the log ties the two together.
    let id = answer.header("x-request-id").expect("a request id");
    assert!(["theirs", "mine"].contains(&id));
    gateway
        .logged("both ids in one line", |line| {
            let line = line.to_string();
            line.contains("\"theirs\"") && line.contains("\"mine\"")
        })
        .await;
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_upstream_call_along() {
    let upstream = Upstream::start(|_| Script::new().stall()).await;
    let gateway = Gateway::over(&upstream).await;
    for part in [0, 1] {
        let client = gateway.client();
        let call = tokio::spawn(async move { client.chat(ask()).await });
        upstream.called(part + 1).await;
        call.abort();
        let _ = call.await;
    }
    within(
        Duration::from_secs(2),
        "the upstream is left",
        upstream.left(),
    )
    .await;
    gateway.idle().await;
}

#[tokio::test]
async fn a_client_that_leaves_mid_answer_takes_its_upstream_call_along() {
    let upstream = Upstream::start(|_| {
        Script::new().send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{").stall()
    })
    .await;
    let gateway = Gateway::over(&upstream).await;
    let client = gateway.client();
    let call = tokio::spawn(async move { client.chat(ask()).await });
    upstream.called(1).await;
    call.abort();
    let _ = call.await;
    within(
        Duration::from_secs(2),
        "the upstream is left",
        upstream.left(),
    )
    .await;
}

/// The fixed head of a gzip file.
const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
