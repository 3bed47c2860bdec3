//! Real clients against the real binary: openai 0.28.1, the current openai libraries for Python and Node, and curl.
//!
//! `tests/run` installs them under `target/clients`; without them these tests fail, they are never skipped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;

use crate::support::answers::{
    DONE, LAST_CHUNK, STREAM_HEAD, USAGE, answer, chat, chunk, delta, endless_response,
    json_answer, three_choices,
};
use crate::support::gateway::{Config, Ended, Gateway, run_for};
use crate::support::upstream::{Received, Script, Upstream};
use crate::support::{CREDENTIAL, KEY, within};

const LIMITED_KEY: &str = "wk-limited-Nb5RtG8kVw2XpLs9";
/// How long one client's program may take: an interpreter on a busy machine starts slowly.
const PROGRAM: Duration = Duration::from_secs(120);

#[cfg(feature = "local")]
async fn local() -> Gateway {
    Config::new()
        .local()
        .route("text-davinci-003", "local", "poet")
        .route("gpt-3.5-turbo-instruct", "local", "poet")
        .start()
        .await
}

async fn remote() -> (Upstream, Gateway) {
    let seen = AtomicUsize::new(0);
    let upstream = Upstream::start(move |request| api(request, &seen)).await;
    let gateway = Config::over(&upstream)
        .table(&format!(
            "[[key]]\nname = \"limited\"\nsecret = \"{LIMITED_KEY}\"\nmodels = [\"embed\"]"
        ))
        .start()
        .await;
    (upstream, gateway)
}

#[cfg(feature = "local")]
#[tokio::test]
async fn the_tutorials_program_prints_a_poem() {
    let gateway = local().await;
    let program = std::fs::read_to_string(clients().join("poem.py")).unwrap();
    let mine = gateway.dir.path().join("poem.py");
    std::fs::write(&mine, program.replace("YOUR_API_KEY", KEY)).unwrap();
    let mut command = python("legacy");
    command.arg(mine).env("OPENAI_API_BASE", gateway.base_url());
    let ended = succeeds(command).await;
    let chinese = ended
        .stdout
        .chars()
        .filter(|c| ('\u{4e00}'..='\u{9fff}').contains(c))
        .count();
    assert!(chinese >= 10, "no poem: {}", ended.stdout);
}

#[cfg(feature = "local")]
#[tokio::test]
async fn the_legacy_library_speaks_to_the_bundled_model() {
    let gateway = local().await;
    script(python("legacy"), "legacy.py", "local", &gateway).await;
}

#[tokio::test]
async fn the_legacy_library_speaks_to_an_upstream() {
    let (_upstream, gateway) = remote().await;
    script(python("legacy"), "legacy.py", "remote", &gateway).await;
}

#[cfg(feature = "local")]
#[tokio::test]
async fn the_current_python_library_speaks_to_the_bundled_model() {
    let gateway = local().await;
    script(python("current"), "current.py", "local", &gateway).await;
}

#[tokio::test]
async fn the_current_python_library_speaks_to_an_upstream() {
    let (_upstream, gateway) = remote().await;
    script(python("current"), "current.py", "remote", &gateway).await;
    gateway.idle().await;
}

#[tokio::test]
async fn the_current_python_library_waits_for_a_limit() {
    let upstream = Upstream::answering(chat()).await;
    // One at once, and another each second: every call but the first has to wait.
    let limits = "limits = { requests_per_minute = 60, burst = 1 }";
    let gateway = Config::over(&upstream)
        .without_key()
        .table(&format!(
            "[[key]]\nname = \"alice\"\nsecret = \"{KEY}\"\n{limits}"
        ))
        .start()
        .await;
    let program = "import openai\nclient = openai.OpenAI()\nfor _ in range(4):\n    client.chat.completions.create(model='gpt-4o', messages=[{'role': 'user', 'content': 'hi'}])\n";
    let mut command = python("current");
    command.args(["-c", program]);
    command
        .env("OPENAI_API_KEY", KEY)
        .env("OPENAI_BASE_URL", gateway.base_url());
    succeeds(command).await;
    assert_eq!(upstream.calls().len(), 4);
    let metrics = gateway.metrics().await;
    assert!(metrics.contains("weir_limit_refusals_total{"), "{metrics}");
}

/// A gateway that has 200 tokens for each of two keys' answers, over an upstream that says 500 words and does not end.
async fn stopping() -> (Upstream, Gateway) {
    let upstream = Upstream::start(|request| {
        let bytes = match request.target.as_str() {
            "/v1/responses" => endless_response(500),
            _ => three_choices(500),
        };
        Script::new().send(bytes).stall()
    })
    .await;
    let limits = "limits = { output_tokens_per_minute = 200 }";
    let gateway = Config::over(&upstream)
        .without_key()
        .table(&format!(
            "[[key]]\nname = \"alice\"\nsecret = \"{KEY}\"\n{limits}\n[[key]]\nname = \"limited\"\nsecret = \"{LIMITED_KEY}\"\n{limits}\n"
        ))
        .start()
        .await;
    (upstream, gateway)
}

#[tokio::test]
async fn the_current_python_library_takes_streams_that_are_stopped() {
    let (_upstream, gateway) = stopping().await;
    script(python("current"), "current.py", "stopped", &gateway).await;
}

#[tokio::test]
async fn the_current_node_library_takes_streams_that_are_stopped() {
    let (_upstream, gateway) = stopping().await;
    script(node(), "current.mjs", "stopped", &gateway).await;
}

#[tokio::test]
async fn the_current_python_library_speaks_realtime() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        let first =
            json!({"type": "session.created", "event_id": "e-1", "session": {"type": "realtime"}});
        socket.send(Message::text(first.to_string())).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() {
                socket.send(message).await.unwrap();
            }
        }
    });
    let gateway = Config::new()
        .table(&format!("[[upstream]]\nname = \"upstream\"\nkind = \"openai\"\nbase_url = \"{base_url}\"\napi_keys = [\"{CREDENTIAL}\"]"))
        .start()
        .await;
    script(python("current"), "current.py", "realtime", &gateway).await;
}

#[cfg(feature = "local")]
#[tokio::test]
async fn the_current_node_library_speaks_to_the_bundled_model() {
    let gateway = local().await;
    script(node(), "current.mjs", "local", &gateway).await;
}

#[tokio::test]
async fn the_current_node_library_speaks_to_an_upstream() {
    let (_upstream, gateway) = remote().await;
    script(node(), "current.mjs", "remote", &gateway).await;
    // The last call left an endless stream.
    within(
        Duration::from_secs(5),
        "nothing is in flight",
        gateway.idle(),
    )
    .await;
}

#[tokio::test]
async fn curl_speaks_to_an_upstream() {
    let (upstream, gateway) = remote().await;
    let base = gateway.base_url();
    let bearer = format!("Authorization: Bearer {KEY}");
    let curl = |arguments: &[&str]| {
        let mut command = Command::new("curl");
        command
            .args(["-sS", "--fail-with-body", "-H", &bearer])
            .args(arguments);
        command.env("NO_PROXY", "*");
        command
    };
    let chat = format!("{base}/chat/completions");
    let ask = r#"{"model": "gpt-4o", "messages": []}"#;
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let ended = succeeds(curl(&[
            version,
            &chat,
            "-H",
            "Content-Type: application/json",
            "-d",
            ask,
        ]))
        .await;
        assert!(ended.stdout.contains("choices"), "{}", ended.stdout);
        let ended = succeeds(curl(&[
            version,
            "-N",
            &chat,
            "-d",
            r#"{"model": "gpt-4o", "stream": true}"#,
        ]))
        .await;
        assert!(
            ended.stdout.ends_with("data: [DONE]\n\n"),
            "{}",
            ended.stdout
        );
    }
    // Without a content type of its own curl says form-urlencoded: the body is JSON all the same.
    let big = gateway.dir.path().join("big.bin");
    std::fs::write(&big, vec![7_u8; 3_000_000]).unwrap();
    let form = format!("file=@{}", big.display());
    let ended = succeeds(curl(&[
        "--http1.1",
        &format!("{base}/files"),
        "-F",
        "purpose=batch",
        "-F",
        &form,
        "-H",
        "Expect: 100-continue",
    ]))
    .await;
    assert!(ended.stdout.contains("file-1"), "{}", ended.stdout);
    assert!(upstream.calls().pop().unwrap().body_length > 3_000_000);
    let out = gateway.dir.path().join("out.bin");
    succeeds(curl(&[
        &format!("{base}/files/file-1/content"),
        "-o",
        out.to_str().unwrap(),
    ]))
    .await;
    assert_eq!(std::fs::read(&out).unwrap(), binary());
    let refused = run_for(PROGRAM, curl(&[&chat, "-d", "nonsense"])).await;
    assert_eq!(
        refused.status.code(),
        Some(22),
        "curl's code for an HTTP error"
    );
    assert!(
        refused.stdout.contains("invalid_json"),
        "{}",
        refused.stdout
    );
}

/// Runs one of the scripts of `tests/clients` in one of its modes.
async fn script(mut command: Command, name: &str, mode: &str, gateway: &Gateway) {
    command.arg(clients().join(name)).arg(mode);
    command
        .env("OPENAI_API_KEY", KEY)
        .env("LIMITED_KEY", LIMITED_KEY);
    command
        .env("OPENAI_API_BASE", gateway.base_url())
        .env("OPENAI_BASE_URL", gateway.base_url());
    let ended = succeeds(command).await;
    assert_eq!(ended.stdout.trim(), "ok");
}

pub async fn succeeds(command: Command) -> Ended {
    let ended = run_for(PROGRAM, command).await;
    assert!(
        ended.status.success(),
        "{}\n{}{}",
        ended.status,
        ended.stdout,
        ended.stderr
    );
    ended
}

pub fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

fn installed(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/clients")
        .join(path);
    assert!(
        path.exists(),
        "{} is missing: run tests/run once, it installs the clients",
        path.display()
    );
    path
}

pub fn python(venv: &str) -> Command {
    quiet(Command::new(installed(venv).join("bin/python")))
}

pub fn node() -> Command {
    let modules = installed("node/node_modules");
    let own = modules.join("node-bin/bin/node");
    let mut command = quiet(Command::new(if own.exists() { own } else { "node".into() }));
    command.env("NODE_MODULES", modules);
    command
}

/// Nothing of the machine's own settings reaches a client.
fn quiet(mut command: Command) -> Command {
    command.env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("PYTHONUTF8", "1").env("NO_PROXY", "*");
    command
}

/// What the scripted upstream answers to the clients.
fn api(request: &Received, seen: &AtomicUsize) -> Script {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let model = body["model"].as_str().unwrap_or_default();
    let stream = body["stream"] == true;
    match (request.method.as_str(), request.target.split('?').next().unwrap()) {
        ("POST", _) if model.starts_with("status-") => refuse(&model["status-".len()..]),
        ("POST", _) if model == "twice-429" && seen.fetch_add(1, Ordering::SeqCst) < 2 => refuse("429"),
        ("POST", _) if model == "cut" => Script::new().send("HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{").cut(),
        ("POST", _) if model == "broken-stream" => Script::new().send(STREAM_HEAD).send(chunk(delta("a"))).cut(),
        ("POST", _) if model == "endless" => Script::new().send(STREAM_HEAD).send(chunk(delta("a"))).stall(),
        ("POST", "/v1/chat/completions") if stream => {
            let usage = if body["stream_options"]["include_usage"] == true { USAGE } else { "" };
            let text = [&delta("héllo "), &delta("😀"), usage, DONE].concat();
            let mut script = Script::new().send(STREAM_HEAD);
            for piece in text.as_bytes().chunks(11) {
                script = script.send(chunk(piece));
            }
            script.send(LAST_CHUNK)
        }
        ("POST", "/v1/chat/completions") => good(
            r#"{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"gpt-4o-2024","choices":[{"index":0,"message":{"role":"assistant","content":"h\u00e9llo \ud83d\ude00"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5},"x_unknown":1.0e2}"#,
        ),
        ("POST", "/v1/completions") => good(
            &json!({"id": "cmpl-1", "object": "text_completion", "created": 1, "model": model, "choices": [{"index": 0, "text": model, "finish_reason": "stop", "logprobs": null}]}).to_string(),
        ),
        ("POST", "/v1/embeddings") => {
            let embedding = match body["encoding_format"].as_str() {
                Some("base64") if model == "embed" => json!("AAAAPwAAgL8AAABA"),
                _ => json!([0.5, -1.0, 2.0]),
            };
            good(&json!({"object": "list", "model": model, "data": [{"object": "embedding", "index": 0, "embedding": embedding}], "usage": {"prompt_tokens": 1, "total_tokens": 1}}).to_string())
        }
        ("POST", "/v1/responses") => response(stream),
        ("GET", "/v1/models") => {
            let models: Vec<Value> = ["gpt-4o", "embed", "org/model-with-slash"].iter().map(|id| json!({"id": id, "object": "model", "created": 1, "owned_by": "them"})).collect();
            good(&json!({"object": "list", "data": models}).to_string())
        }
        ("GET", target) if target.starts_with("/v1/models/") => good(
            &json!({"id": "org/model-with-slash", "object": "model", "created": 1, "owned_by": "them"}).to_string(),
        ),
        ("POST", "/v1/files") => good(
            &json!({"id": "file-1", "object": "file", "bytes": request.body_length, "created_at": 1, "filename": "a", "purpose": "batch", "status": "processed"}).to_string(),
        ),
        ("DELETE", "/v1/files/file-1") => good(r#"{"id":"file-1","object":"file","deleted":true}"#),
        ("GET", "/v1/files/file-1/content") | ("POST", "/v1/audio/speech") => {
            Script::new().send(answer("200 OK", "content-type: application/octet-stream\r\n", binary()))
        }
        (method, target) => panic!("the clients' upstream knows no {method} {target}"),
    }
}

fn good(body: &str) -> Script {
    let headers = "content-type: application/json\r\nopenai-processing-ms: 12\r\nopenai-organization: org-1\r\n";
    Script::new().send(answer("200 OK", headers, body))
}

fn refuse(status: &str) -> Script {
    let body = r#"{"error":{"message":"theirs","type":"their_type","param":"their_param","code":"their_code"}}"#;
    Script::new().send(json_answer(&format!("{status} Refused"), body))
}

fn response(stream: bool) -> Script {
    let output = json!([{"type": "message", "id": "msg-1", "status": "completed", "role": "assistant", "content": [{"type": "output_text", "text": "hello", "annotations": []}]}]);
    let whole = json!({"id": "resp-1", "object": "response", "created_at": 1, "model": "gpt-4o", "status": "completed", "output": output, "parallel_tool_calls": true, "tool_choice": "auto", "tools": [], "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2, "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}});
    if !stream {
        return good(&whole.to_string());
    }
    let mut begun = whole.clone();
    begun["status"] = json!("in_progress");
    begun["output"] = json!([]);
    let mut script = Script::new().send(STREAM_HEAD);
    for (kind, event) in [
        (
            "response.created",
            json!({"type": "response.created", "sequence_number": 0, "response": begun}),
        ),
        (
            "response.output_text.delta",
            json!({"type": "response.output_text.delta", "sequence_number": 1, "item_id": "msg-1", "output_index": 0, "content_index": 0, "delta": "hello", "logprobs": []}),
        ),
        (
            "response.completed",
            json!({"type": "response.completed", "sequence_number": 2, "response": whole}),
        ),
    ] {
        script = script.send(chunk(format!("event: {kind}\ndata: {event}\n\n")));
    }
    script.send(LAST_CHUNK)
}

/// A file with every byte.
fn binary() -> Vec<u8> {
    (0..=255_u8).cycle().take(256_000).collect()
}
