//! Every fault of an upstream: what the client sees of it, how often the upstream is asked, and that nothing of it is left
//! for the next request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write as _;

use crate::support::answers::{
    CHAT, LAST_CHUNK, STREAM_HEAD, answer, ask, ask_stream, chat, chunk, delta, error_code,
    json_answer,
};
use crate::support::client::Answer;
use crate::support::gateway::{Config, Gateway};
use crate::support::upstream::{Script, Upstream};

/// One fault of an answer that is not streamed.
struct Fault {
    what: &'static str,
    script: Script,
    /// What the client sees.
    status: u16,
    code: &'static str,
    /// How often the upstream is asked when two retries are allowed.
    attempts: usize,
}

fn fault(
    what: &'static str,
    script: Script,
    (status, code): (u16, &'static str),
    attempts: usize,
) -> Fault {
    Fault {
        what,
        script,
        status,
        code,
        attempts,
    }
}

const BROKEN: (u16, &str) = (502, "upstream_error");
const INVALID: (u16, &str) = (502, "upstream_invalid_response");
const SLOW: (u16, &str) = (504, "upstream_timeout");
const REFUSED: (u16, &str) = (502, "upstream_auth_failed");

const ERROR: &str =
    r#"{"error":{"message":"its own words","type":"its_type","param":null,"code":"its_code"}}"#;

fn send(bytes: impl Into<Vec<u8>>) -> Script {
    Script::new().send(bytes)
}

fn status(line: &'static str) -> Script {
    send(json_answer(line, ERROR))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// One frame with one block that is not compressed (RFC 8878, section 3.1.1).
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let size = u16::try_from(bytes.len() - 256).unwrap().to_le_bytes();
    let block = ((u32::try_from(bytes.len()).unwrap() << 3) | 1).to_le_bytes();
    let magic = [0x28, 0xb5, 0x2f, 0xfd, 0x60];
    [&magic[..], &size, &block[..3], bytes].concat()
}

/// One block that is not compressed, and an empty last one (RFC 7932, section 9.2).
fn brotli(bytes: &[u8]) -> Vec<u8> {
    let head = ((u32::try_from(bytes.len()).unwrap() - 1) << 4) | 1 << 20;
    [&head.to_le_bytes()[..3], bytes, &[3]].concat()
}

fn statuses() -> Vec<Fault> {
    let own = |line: &'static str, attempts| {
        let number = line[..3].parse().unwrap();
        fault(line, status(line), (number, "its_code"), attempts)
    };
    let failed = |line, attempts| fault(line, status(line), BROKEN, attempts);
    vec![
        own("400 Bad Request", 1),
        own("404 Not Found", 1),
        own("409 Conflict", 3),
        own("413 Too Large", 1),
        own("415 Unsupported", 1),
        own("422 Unprocessable", 1),
        own("429 Too Many", 3),
        fault("401", status("401 Unauthorized"), REFUSED, 1),
        fault("402", status("402 Payment Required"), REFUSED, 1),
        fault("403", status("403 Forbidden"), REFUSED, 1),
        failed("408 Timeout", 3),
        failed("500 Oops", 3),
        failed("501 Not Implemented", 1),
        failed("502 Bad Gateway", 3),
        failed("503 Unavailable", 3),
        fault("504", status("504 Gateway Timeout"), SLOW, 3),
        failed("529 Overloaded", 3),
        fault("204", send("HTTP/1.1 204 No Content\r\n\r\n"), INVALID, 1),
        fault(
            "101",
            send("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
            INVALID,
            1,
        ),
        fault("206", status("206 Partial Content"), INVALID, 1),
        fault(
            "a redirect",
            send(
                "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
            ),
            INVALID,
            1,
        ),
        fault("an unknown status", status("299 Strange"), INVALID, 1),
    ]
}

fn framing() -> Vec<Fault> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let with_length = |length: usize| format!("{head}content-length: {length}\r\n\r\n{CHAT}");
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n");
    vec![
        fault("a reset before the head", Script::new().reset(), BROKEN, 3),
        fault("an end before the head", Script::new().cut(), BROKEN, 3),
        fault(
            "a reset in the head",
            send("HTTP/1.1 200 OK\r\nconte").reset(),
            BROKEN,
            3,
        ),
        fault(
            "a reset in the body",
            send(&chat()[..150]).reset(),
            BROKEN,
            3,
        ),
        fault("an end in the body", send(&chat()[..150]).cut(), BROKEN, 3),
        fault(
            "a long content-length",
            send(with_length(CHAT.len() + 10)).cut(),
            BROKEN,
            3,
        ),
        fault(
            "a short content-length",
            send(with_length(CHAT.len() - 10)),
            INVALID,
            1,
        ),
        fault(
            "chunks without an end",
            send(chunked.clone()).send(chunk(CHAT)).cut(),
            BROKEN,
            3,
        ),
        fault(
            "a chunk that is none",
            send(chunked).send("zzz\r\n").cut(),
            BROKEN,
            3,
        ),
        fault("no HTTP", send("SSH-2.0-OpenSSH_9.2\r\n").cut(), INVALID, 1),
        fault(
            "200 KB of headers",
            send(answer(
                "200 OK",
                &format!("x-long: {}\r\n", "x".repeat(200_000)),
                CHAT,
            )),
            INVALID,
            1,
        ),
        fault(
            "invalid JSON",
            send(json_answer("200 OK", &CHAT[..90])),
            INVALID,
            1,
        ),
        fault("an array", send(json_answer("200 OK", "[]")), INVALID, 1),
        fault("nothing", send(json_answer("200 OK", "")), INVALID, 1),
        fault(
            "a page",
            send(answer("200 OK", "content-type: text/html\r\n", "<html>")),
            INVALID,
            1,
        ),
        fault(
            "an error with 200",
            send(json_answer("200 OK", ERROR)),
            INVALID,
            1,
        ),
        fault(
            "an unknown coding",
            send(answer("200 OK", "content-encoding: rot13\r\n", CHAT)),
            INVALID,
            1,
        ),
        fault(
            "a coding that it is not in",
            send(answer("200 OK", "content-encoding: gzip\r\n", CHAT)),
            BROKEN,
            3,
        ),
        fault(
            "more than max_answer behind a coding",
            send(answer(
                "200 OK",
                "content-encoding: gzip\r\n",
                gzip(&vec![b' '; 64 << 20]),
            )),
            INVALID,
            1,
        ),
    ]
}

fn slowness() -> Vec<Fault> {
    let drip = (0..60).fold(send(&chat()[..90]), |script, at| {
        script
            .pause(Duration::from_millis(50))
            .send(&chat()[90 + at..=90 + at])
    });
    vec![
        fault("no answer", Script::new().stall(), SLOW, 3),
        fault(
            "half a head",
            send("HTTP/1.1 200 OK\r\ncon").stall(),
            SLOW,
            3,
        ),
        fault(
            "nothing behind the head",
            send(&chat()[..90]).stall(),
            SLOW,
            3,
        ),
        fault("a byte now and then", drip, SLOW, 1),
    ]
}

/// What comes well in spite of its form.
fn oddities() -> Vec<(&'static str, Script)> {
    let chunked = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n";
    let early = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
    vec![
        (
            "HTTP/1.0",
            send(format!("HTTP/1.0 200 OK\r\n\r\n{CHAT}")).cut(),
        ),
        ("interim answers", send(early).send(chat())),
        (
            "trailers",
            send(chunked)
                .send(chunk(CHAT))
                .send("0\r\nx-t: 1\r\nset-cookie: a=b\r\n\r\n"),
        ),
        (
            "gzip",
            send(answer(
                "200 OK",
                "content-encoding: gzip\r\n",
                gzip(CHAT.as_bytes()),
            )),
        ),
        (
            "zstd",
            send(answer(
                "200 OK",
                "content-encoding: zstd\r\n",
                zstd(CHAT.as_bytes()),
            )),
        ),
        (
            "br",
            send(answer(
                "200 OK",
                "content-encoding: br\r\n",
                brotli(CHAT.as_bytes()),
            )),
        ),
        ("small pieces", Script::new().pieces(&chat(), 9)),
    ]
}

/// A gateway over an upstream that answers a fault until it is told to be well.
async fn over(script: Script, retry: &str) -> (Gateway, Upstream, Arc<AtomicBool>) {
    let is_well = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&is_well);
    let upstream = Upstream::start(move |_| match switch.load(Ordering::SeqCst) {
        true => send(chat()),
        false => script.clone(),
    })
    .await;
    let timeouts = "timeouts = { first_byte = \"150ms\", idle = \"150ms\", total = \"1500ms\" }";
    let gateway = Config::new()
        .server("max_answer = \"1MiB\"")
        .upstream("upstream", &upstream, timeouts)
        .retry(retry)
        .start()
        .await;
    (gateway, upstream, is_well)
}

async fn check(fault: Fault, retry: &str, attempts: usize) {
    let (gateway, upstream, is_well) = over(fault.script, retry).await;
    let what = fault.what;
    let seen: Answer = gateway.client().chat(ask()).await;
    assert_eq!(seen.status, fault.status, "{what}: {}", seen.text());
    assert_eq!(error_code(&seen.json()), fault.code, "{what}");
    assert_eq!(upstream.calls().len(), attempts, "{what}, {retry}");
    let told = seen.header("x-weir-attempts").unwrap();
    assert_eq!(told, attempts.to_string(), "{what}");
    is_well.store(true, Ordering::SeqCst);
    let next = gateway.client().chat(ask()).await;
    assert_eq!(
        (next.status, next.text()),
        (200, CHAT.into()),
        "after {what}"
    );
    gateway.idle().await;
}

const TWICE_MORE: &str = "attempts = 2\nbackoff = { base = \"1ms\", max = \"2ms\" }";

async fn check_all(faults: fn() -> Vec<Fault>) {
    for fault in faults() {
        check(fault, "attempts = 0", 1).await;
    }
    for fault in faults() {
        let attempts = fault.attempts;
        check(fault, TWICE_MORE, attempts).await;
    }
}

#[tokio::test]
async fn statuses_are_kept_or_become_ours() {
    check_all(statuses).await;
}

#[tokio::test]
async fn broken_framing_is_never_an_answer() {
    check_all(framing).await;
}

#[tokio::test]
async fn slow_upstreams_are_left_in_time() {
    check_all(slowness).await;
}

#[tokio::test]
async fn odd_forms_of_good_answers_are_answers() {
    for (what, script) in oddities() {
        let (gateway, upstream, _) = over(script, TWICE_MORE).await;
        let seen = gateway.client().chat(ask()).await;
        assert_eq!((seen.status, seen.text()), (200, CHAT.into()), "{what}");
        assert_eq!(seen.header("set-cookie"), None, "{what}");
        assert_eq!(upstream.calls().len(), 1, "{what}");
    }
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_an_error_event_and_is_never_asked_for_again() {
    let begun = || send(STREAM_HEAD).send(chunk(delta("one")));
    for (what, script) in [
        ("a reset", begun().reset()),
        ("an end without the last chunk", begun().cut()),
        ("an end without [DONE]", begun().send(LAST_CHUNK)),
        ("half an event", begun().send(chunk("data: {\"cho")).cut()),
        ("silence", begun().stall()),
    ] {
        let (gateway, upstream, _) = over(script, TWICE_MORE).await;
        let path = "/v1/chat/completions";
        let mut stream = gateway.client().stream(path, ask_stream()).await;
        assert_eq!(stream.status, 200, "{what}");
        let (text, _) = stream.rest().await;
        assert!(text.contains("one"), "{what}: {text}");
        assert!(text.contains("data: {\"error\""), "{what}: {text}");
        assert!(!text.contains("[DONE]"), "{what}: {text}");
        assert_eq!(upstream.calls().len(), 1, "{what}");
    }
}

#[tokio::test]
async fn a_stream_that_fails_before_its_first_word_is_asked_for_again() {
    let error = "data: {\"error\":{\"message\":\"busy\"}}\n\n";
    for (what, script) in [
        ("a reset", send(STREAM_HEAD).reset()),
        ("an end", send(STREAM_HEAD).send(LAST_CHUNK)),
        (
            "an error event",
            send(STREAM_HEAD).send(chunk(error)).send(LAST_CHUNK),
        ),
        ("a status", status("503 Unavailable")),
    ] {
        let (gateway, upstream, _) = over(script, TWICE_MORE).await;
        let seen = gateway.client().chat(ask_stream()).await;
        assert_eq!(upstream.calls().len(), 3, "{what}");
        assert!(seen.text().contains("error"), "{what}: {}", seen.text());
        assert_eq!(seen.header("x-should-retry"), Some("false"), "{what}");
    }
}
