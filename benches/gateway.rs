//! What the gateway costs: `cargo bench --bench gateway`.
//!
//! Starts the release binary between an upstream and a client of its own, all on this machine's loopback, and prints a
//! table: added latency, memory when idle, memory of an idle stream, and the time from start to the first answer. Every
//! load is bounded, and nothing is asserted: the numbers are for people, and other work on the machine shows in them.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and may stop when it cannot go on"
)]

use std::convert::Infallible;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

const KEY: &str = "wk-benchmark-0123456789";
const WARM_UP: usize = 500;
const ROUNDS: usize = 5000;
const STREAMS: usize = 1000;
/// Each stream has a descriptor at the client, two at the gateway, one at the upstream.
const DESCRIPTORS: u64 = 8192;
const CHAT: &str = r#"{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;
const ASK: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
const ASK_STREAM: &str =
    r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
const EVENT: &str = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n";

/// A gateway that ends with this value.
struct Gateway {
    child: Child,
    address: SocketAddr,
    started: Instant,
    _dir: tempfile::TempDir,
}

fn main() {
    if descriptors() < DESCRIPTORS {
        let script = format!("ulimit -n {DESCRIPTORS} && exec \"$0\" \"$@\"");
        let error = Command::new("sh")
            .args(["-c", &script])
            .arg(std::env::current_exe().unwrap())
            .env("WEIR_BENCH_DESCRIPTORS", "raised")
            .exec();
        panic!("cannot raise the limit of open files: {error}");
    }
    let upstream = upstream();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(measure(upstream));
}

async fn measure(upstream: SocketAddr) {
    let remote = format!(
        "[[upstream]]\nname = \"mock\"\nkind = \"openai\"\nbase_url = \"http://{upstream}/v1\"\napi_keys = [\"sk-12345678\"]\n"
    );
    let local = "[[upstream]]\nname = \"local\"\nkind = \"local\"\nmodel = \"bundled:poet\"\nmodels = [\"poet\"]\n";
    let feature = if cfg!(feature = "local") {
        "with"
    } else {
        "without"
    };
    println!(
        "\nweir {}, built {feature} the feature `local`\n",
        env!("CARGO_PKG_VERSION")
    );
    row("what", "value");
    row("---", "---");

    let gateway = Gateway::start(&remote);
    let mut client = connect(gateway.address).await;
    post(&mut client, "/v1/chat/completions", ASK).await;
    let first = gateway.started.elapsed();
    row("start to the first answer, remote upstream", &millis(first));
    let idle = gateway.memory();
    row("memory when idle, remote upstream", &mib(idle));
    latency(upstream, gateway.address).await;
    streams(&gateway).await;
    drop(gateway);

    if cfg!(feature = "local") {
        let gateway = Gateway::start(local);
        let mut client = connect(gateway.address).await;
        let ask = "{\"model\":\"poet\",\"prompt\":\"春\",\"max_tokens\":1}";
        post(&mut client, "/v1/completions", ask).await;
        let first = gateway.started.elapsed();
        row("start to the first answer, bundled model", &millis(first));
        row("memory when idle, bundled model", &mib(gateway.memory()));
    }
    println!();
}

/// Asks the upstream directly and through the gateway in turns, so that both see the same machine.
async fn latency(upstream: SocketAddr, gateway: SocketAddr) {
    let mut direct = connect(upstream).await;
    let mut through = connect(gateway).await;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + ROUNDS {
        let first = post(&mut direct, "/v1/chat/completions", ASK).await;
        let second = post(&mut through, "/v1/chat/completions", ASK).await;
        if round >= WARM_UP {
            without.push(first);
            with.push(second);
        }
    }
    without.sort_unstable();
    with.sort_unstable();
    for (name, rank) in [("p50", 0.5), ("p99", 0.99)] {
        let at = |times: &[Duration]| times[(times.len() as f64 * rank) as usize];
        let (without, with) = (at(&without), at(&with));
        row(&format!("latency {name}, direct"), &micros(without));
        row(
            &format!("latency {name}, through the gateway"),
            &micros(with),
        );
        row(
            &format!("latency {name}, added"),
            &micros(with.saturating_sub(without)),
        );
    }
}

/// Opens streams that say one word and then wait.
async fn streams(gateway: &Gateway) {
    let before = gateway.memory();
    let mut open = Vec::with_capacity(STREAMS);
    for _ in 0..STREAMS {
        let mut client = connect(gateway.address).await;
        let mut response = client
            .send_request(request("/v1/chat/completions", ASK_STREAM))
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        assert!(frame.is_data());
        open.push((client, response));
    }
    let growth = gateway.memory().saturating_sub(before);
    row(
        &format!("memory of {STREAMS} idle streams, each"),
        &format!("{:.1} KiB", growth as f64 / 1024.0 / STREAMS as f64),
    );
}

impl Gateway {
    fn start(upstreams: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("weir.toml");
        let config = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\ntoken = \"admin-0123456789\"\n[log]\nformat = \"json\"\naccess = false\n{upstreams}[[key]]\nname = \"bench\"\nsecret = \"{KEY}\"\n"
        );
        std::fs::write(&file, config).unwrap();
        let started = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(["serve", "--config"])
            .arg(&file)
            .env("HOME", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line = log
                .next()
                .expect("the gateway ended before it served")
                .unwrap();
            if let Some(address) = listening(&line) {
                break address;
            }
        };
        std::thread::spawn(move || log.for_each(drop));
        Self {
            child,
            address,
            started,
            _dir: dir,
        }
    }

    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
            * 1024
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the address when this is the data listener's line.
fn listening(line: &str) -> Option<SocketAddr> {
    let line: Value = serde_json::from_str(line).ok()?;
    let field = |name| {
        line.get(name)
            .or_else(|| line.get("fields")?.get(name))?
            .as_str()
    };
    (field("message") == Some("listening") && field("listener") == Some("data"))
        .then(|| field("address")?.parse().ok())?
}

async fn connect(address: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}

fn request(path: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::post(path)
        .header("host", "localhost")
        .header("authorization", format!("Bearer {KEY}"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .unwrap()
}

/// Sends one request on a kept connection; returns how long the whole answer took.
async fn post(client: &mut SendRequest<Full<Bytes>>, path: &str, body: &'static str) -> Duration {
    let request = request(path, body);
    let start = Instant::now();
    client.ready().await.unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    response.into_body().collect().await.unwrap();
    start.elapsed()
}

/// Serves on a thread and a runtime of its own.
fn upstream() -> SocketAddr {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let serving = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(answer));
                tokio::spawn(serving);
            }
        });
    });
    receiver.recv().unwrap()
}

async fn answer(
    request: Request<Incoming>,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
    let body = request
        .into_body()
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    let asks: Value = serde_json::from_slice(&body).unwrap_or_default();
    let response = if asks["stream"] == true {
        let word =
            futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(EVENT.as_bytes())))]);
        let silence = futures_util::stream::pending();
        let body = StreamBody::new(futures_util::StreamExt::chain(word, silence));
        Response::builder()
            .header("content-type", "text/event-stream")
            .body(body.boxed_unsync())
    } else {
        Response::builder()
            .header("content-type", "application/json")
            .body(Full::from(CHAT).boxed_unsync())
    };
    Ok(response.unwrap())
}

/// The soft limit of open files.
fn descriptors() -> u64 {
    if std::env::var_os("WEIR_BENCH_DESCRIPTORS").is_some() {
        return u64::MAX;
    }
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    line.split_whitespace()
        .nth(3)
        .and_then(|soft| soft.parse().ok())
        .unwrap_or(u64::MAX)
}

fn row(what: &str, value: &str) {
    println!("| {what:<45} | {value:>12} |");
}

fn micros(time: Duration) -> String {
    format!("{:.0} µs", time.as_secs_f64() * 1e6)
}

fn millis(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}
