//! The access log: what a line says, which requests have one, and that nobody waits for whoever reads it.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Stdio};

use serde_json::json;

use crate::support::answers::{ask, chat};
use crate::support::client::Client;
use crate::support::gateway::{Config, weir};
use crate::support::redis::free_port;
use crate::support::upstream::Upstream;
use crate::support::{KEY, eventually, patiently};

#[tokio::test]
async fn a_line_has_what_the_ledger_has_and_no_content() {
    let upstream = Upstream::answering(chat()).await;
    let tables = format!(
        "[ledger]\nprices = \"own.toml\"\n[[team]]\nname = \"research\"\n\
         [[key]]\nname = \"alice\"\nteam = \"research\"\nsecret = \"{KEY}\"\n"
    );
    let config = Config::over(&upstream)
        .without_key()
        .route("chat", "upstream", "gpt-4o")
        .table(&tables);
    let prices =
        "date = \"2026-11-25\"\n[[price]]\nmodel = \"gpt-4o\"\ninput = 1000\noutput = 2000\n";
    std::fs::write(config.path().join("own.toml"), prices).unwrap();
    let gateway = config.start().await;
    let content = "something that nobody else is to read";
    let body = json!({ "model": "chat", "messages": [{ "role": "user", "content": content }] });
    let client = gateway.client().with_header("x-request-id", "the-one");
    let answer = client
        .post("/v1/chat/completions?secret=query-of-theirs", body)
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let line = gateway
        .logged("the request", |line| line["request.id"] == "the-one")
        .await;
    for (field, expected) in [
        ("http.method", json!("POST")),
        ("url.path", json!("/v1/chat/completions")),
        ("http.status", json!(200)),
        ("endpoint", json!("/v1/chat/completions")),
        ("key.id", json!("alice")),
        ("team.id", json!("research")),
        ("model", json!("chat")),
        ("model.served", json!("gpt-4o")),
        ("model.route", json!("chat")),
        ("upstream.name", json!("upstream")),
        ("attempts", json!(1)),
        ("stream", json!(false)),
        ("cache", json!("bypass")),
        ("tokens.input", json!(3)),
        ("tokens.output", json!(2)),
        ("tokens.reasoning", json!(0)),
        ("cost_usd", json!("0.007")),
    ] {
        assert_eq!(line[field], expected, "{field}: {line}");
    }
    for field in ["duration_ms", "upstream_ms", "sent_bytes", "received_bytes"] {
        assert!(line[field].as_f64().unwrap() > 0.0, "{field}: {line}");
    }
    assert!(line.get("cause").is_none_or(serde_json::Value::is_null));
    let output = gateway.output();
    for secret in [content, "query-of-theirs", KEY] {
        assert!(!output.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn of_a_sample_of_none_only_failures_have_a_line() {
    let upstream = Upstream::answering(chat()).await;
    let config = Config::over(&upstream);
    let gateway = config.start().await;
    gateway.rewrite(|text| text.replace("[log]\n", "[log]\nsample = 0\n"));
    assert_eq!(gateway.reload().await.status, 200);
    for number in 0..20 {
        let id = format!("fine-{number}");
        let client = gateway.client().with_header("x-request-id", &id);
        assert_eq!(client.chat(ask()).await.status, 200);
    }
    let client = gateway.client().with_header("x-request-id", "failed");
    assert_eq!(client.chat("nonsense").await.status, 400);
    gateway
        .logged("the failure", |line| line["request.id"] == "failed")
        .await;
    let lines = gateway.log();
    let of_fine = |line: &&serde_json::Value| {
        let id = line["request.id"].as_str();
        id.is_some_and(|id| id.starts_with("fine-"))
    };
    assert_eq!(lines.iter().filter(of_fine).count(), 0);
}

/// A process that is killed with this value.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A gateway whose standard output and error nobody has begun to read: where one would, what its clients and its operator
/// ask, and itself.
async fn unread(upstream: &Upstream) -> (Killed, std::io::PipeReader, Client, Client, Config) {
    // Nobody reads where it would tell its ports.
    let (data, admin) = (free_port(), free_port());
    let config = Config::over(upstream);
    let text = config
        .text()
        .replacen("127.0.0.1:0", &format!("127.0.0.1:{data}"), 1)
        .replacen("127.0.0.1:0", &format!("127.0.0.1:{admin}"), 1)
        .replace("[log]\n", "[log]\nqueue = 128\n");
    let file = config.path().join("weir.toml");
    std::fs::write(&file, text).unwrap();
    let (reader, log) = std::io::pipe().unwrap();
    let gateway = Killed(
        weir(config.path())
            .args(["serve", "--config"])
            .arg(&file)
            .stdout(Stdio::from(log.try_clone().unwrap()))
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap(),
    );
    eventually("it listens", async || {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", data)).await;
        stream.ok()
    })
    .await;
    let admin = Client::new(([127, 0, 0, 1], admin).into());
    let client = Client::new(([127, 0, 0, 1], data).into())
        .with_header("authorization", &format!("Bearer {KEY}"));
    (gateway, reader, client, admin, config)
}

async fn dropped_lines(admin: &Client) -> u64 {
    let metrics = admin.get("/metrics").await.text();
    let line = metrics
        .lines()
        .find(|line| line.starts_with("weir_log_lines_dropped_total "));
    line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap()
}

async fn stops(mut gateway: Killed) {
    let pid = gateway.0.id();
    let killed = std::process::Command::new("sh")
        .args(["-c", &format!("kill -TERM {pid}")])
        .status();
    assert!(killed.unwrap().success());
    let status = eventually("it stops", async || gateway.0.try_wait().unwrap()).await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_no_request_and_no_stop() {
    let upstream = Upstream::answering(chat()).await;
    let (gateway, reader, client, admin, _config) = unread(&upstream).await;
    // A pipe holds 64 KiB: these are far more.
    patiently("lines are dropped", async {
        while dropped_lines(&admin).await == 0 {
            for _ in 0..50 {
                assert_eq!(client.chat(ask()).await.status, 200);
            }
        }
    })
    .await;
    // Nothing that is said at the end has room, either.
    fill(&reader);
    stops(gateway).await;
    drop(reader);
}

/// Fills a pipe to its last byte.
fn fill(reader: &std::io::PipeReader) {
    const O_NONBLOCK: i32 = 0o4000;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).custom_flags(O_NONBLOCK);
    let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
    let mut writer = options.open(path).unwrap();
    while writer.write(b" ").is_ok() {}
}

#[tokio::test]
async fn lines_that_whoever_read_the_log_has_gone_before_are_counted() {
    let upstream = Upstream::answering(chat()).await;
    let (gateway, reader, client, admin, _config) = unread(&upstream).await;
    assert_eq!(dropped_lines(&admin).await, 0);
    drop(reader);
    for _ in 0..20 {
        assert_eq!(client.chat(ask()).await.status, 200);
    }
    eventually("each call's line is counted", async || {
        (dropped_lines(&admin).await >= 20).then_some(())
    })
    .await;
    stops(gateway).await;
}
