//! What answers that are kept cost: the key of a long body, what a miss adds to a call, and a hit beside a bare server.
//!
//! `cargo bench --no-default-features --bench cache`
//!
//! The last figure is processor time, the gateway's and that of a hyper server that reads the same requests and answers with
//! the same bytes, each in a process of its own. Both get the same calls in turn, one at a time on a connection each, so that
//! both pay for being woken at each; and where there are two cores, both are on one and the client is on the other, since where
//! the system puts them would be half of the figure. It is printed, and nothing is asserted.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and may stop when it cannot go on"
)]

use std::convert::Infallible;
use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BatchSize, Criterion};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, ServiceExt};
use weir::call::{Call, CallBody, Caller, Head, Record, Reply, RequestId};
use weir::error::GatewayError;
use weir::middleware::cache::{CacheLayer, Params, Rules, Scope, Terms, Ways, When};
use weir::openai::endpoint::Endpoint;
use weir::openai::json::{canonical, inspect};
use weir::store::cache::{Bounds, Cache};

const KEY: &str = "wk-benchmark-0123456789";
/// Says that this process is the bare server.
const BARE: &str = "WEIR_BENCH_BARE";
const WARM_UP: usize = 2000;
const ROUNDS: usize = 15;
const CALLS: usize = 2000;
const CHAT: &str = r#"{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;
const ASK: &str = r#"{"model":"m","seed":7,"messages":[{"role":"user","content":"hi"}]}"#;

fn main() {
    if std::env::var_os(BARE).is_some() {
        runtime().block_on(serve());
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    keys(&mut criterion);
    misses(&mut criterion);
    criterion.final_summary();
    runtime().block_on(hits());
}

/// A long conversation with tools.
fn long_body(bytes: usize) -> String {
    let tools: Vec<Value> = (0..8)
        .map(|number| json!({"type": "function", "function": {"name": format!("tool_{number}"), "parameters": {"type": "object", "properties": {"place": {"type": "string", "description": "Where \"it\" is\n"}}}}}))
        .collect();
    let mut messages = Vec::new();
    loop {
        messages.push(json!({"role": "user", "content": "What is the weather like in Paris, and what ought one to wear there? ".repeat(4)}));
        let body = json!({"model": "m", "seed": 7, "tools": tools, "messages": messages});
        let text = body.to_string();
        if text.len() >= bytes {
            return text;
        }
    }
}

fn keys(c: &mut Criterion) {
    let body = long_body(32 << 10);
    let mut form = Vec::new();
    c.bench_function("canonical key of 32 KB", |b| {
        b.iter(|| {
            form.clear();
            canonical(black_box(body.as_bytes()), |key| key == b"user", &mut form).unwrap();
            blake3::hash(&form)
        });
    });
}

/// All calls go to one upstream.
struct One;

impl Ways for One {
    fn label(&self, _: &Call) -> Option<Arc<str>> {
        Some("*".into())
    }

    fn each_primary(&self, _: &Call, see: &mut dyn FnMut(&[u8])) {
        see(b"first");
    }

    fn primaries(&self, _: &Call) -> Vec<(Arc<str>, Arc<str>)> {
        vec![("first".into(), "m".into())]
    }
}

fn call(text: &str, caller: &Arc<Caller>) -> Call {
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    let members = inspect(&bytes, 128).unwrap();
    Call {
        caller: Arc::clone(caller),
        endpoint: Endpoint::ChatCompletions,
        model: Some("m".into()),
        stream: false,
        report_usage: false,
        upstream: None,
        estimate: None,
        room: None,
        looked: None,
        deadline: None,
        head: Head {
            method: Method::POST,
            target: "/v1/chat/completions".parse().unwrap(),
            headers: HeaderMap::new(),
        },
        body: CallBody::Json {
            bytes,
            members: Box::new(members),
        },
        upgrade: None,
        record: Arc::new(Record::new(RequestId::fresh(), Instant::now())),
    }
}

/// The same calls, each another one, without the layer and with it.
fn misses(c: &mut Criterion) {
    let runtime = runtime();
    let caller = Arc::new(Caller {
        team: Some("research".into()),
        ..Caller::configured("alice")
    });
    let bare = tower::service_fn(|_: Call| async {
        let body = Bytes::from_static(CHAT.as_bytes());
        Ok::<_, GatewayError>(Reply::full(StatusCode::OK, HeaderMap::new(), body))
    });
    let params = Params {
        rules: Arc::new(Rules {
            terms: Terms {
                enabled: true,
                when: When::Deterministic,
                scope: Scope::Team,
                ttl: Duration::from_secs(3600),
                tools: true,
                stale_if_error: Duration::ZERO,
                paced: false,
                finish: false,
            },
            routes: Default::default(),
            max_ttl: Duration::from_secs(86_400),
        }),
        shared: None,
        cache: Arc::new(Cache::new(Bounds {
            bytes: 64 << 20,
            entry: 4 << 20,
        })),
        retries: None,
        counts_saved: false,
    };
    let cached = CacheLayer::new(params, Arc::new(One)).layer(bare);
    let next = AtomicU64::new(0);
    let another = || {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        let text = format!(
            r#"{{"model":"m","seed":{seed},"messages":[{{"role":"user","content":"hi"}}]}}"#
        );
        call(&text, &caller)
    };
    let mut group = c.benchmark_group("a call that nobody has made before");
    group.bench_function("without the cache", |b| {
        b.iter_batched(
            another,
            |call| runtime.block_on(bare.oneshot(call)).unwrap(),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("with it", |b| {
        b.iter_batched(
            another,
            |call| runtime.block_on(cached.clone().oneshot(call)).unwrap(),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// A process that ends with this value.
struct Process(Child, SocketAddr);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// Starts a server that says on its standard error where it listens.
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line = log.next().expect("it ended before it served").unwrap();
            if let Some(address) = listening(&line) {
                break address;
            }
        };
        std::thread::spawn(move || log.for_each(drop));
        Self(child, address)
    }

    /// Returns the processor time that it has taken.
    fn time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        // A hundred to the second, on every Linux there is.
        Duration::from_millis(ticks * 10)
    }
}

/// Keeps this thread, and what it starts from now on, on the first or the second of the cores that it had at the start. Returns
/// whether there are two.
#[cfg(target_os = "linux")]
fn pin(core: usize) -> bool {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    static CORES: std::sync::LazyLock<Vec<usize>> = std::sync::LazyLock::new(|| {
        let cores = sched_getaffinity(None).unwrap();
        (0..CpuSet::MAX_CPU)
            .filter(|core| cores.is_set(*core))
            .collect()
    });
    let mut cores = CpuSet::new();
    let [one, other, ..] = CORES[..] else {
        return false;
    };
    cores.set([one, other][core]);
    sched_setaffinity(None, &cores).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn pin(_: usize) -> bool {
    false
}

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

async fn hits() {
    let bare = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(BARE, "1");
        command
    };
    let is_pinned = pin(1);
    let (server, upstream) = (Process::start(bare()), Process::start(bare()));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("weir.toml");
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nworkers = 1\n[admin]\nlisten = \"127.0.0.1:0\"\ntoken = \"admin-0123456789\"\n[log]\nformat = \"json\"\naccess = false\n[cache]\nenabled = true\n[[upstream]]\nname = \"mock\"\nkind = \"openai\"\nbase_url = \"http://{}/v1\"\napi_keys = [\"sk-12345678\"]\n[[key]]\nname = \"bench\"\nsecret = \"{KEY}\"\n",
        upstream.1
    );
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.args(["serve", "--config"]).arg(&file);
    command.env("WEIR_DATA_DIR", dir.path());
    let gateway = Process::start(command);
    pin(0);
    let mut parties = [
        ("a bare hyper server", &server, Duration::ZERO),
        ("a hit of the gateway", &gateway, Duration::ZERO),
    ];
    let mut clients = Vec::new();
    for (_, process, _) in &parties {
        let mut client = connect(process).await;
        for _ in 0..WARM_UP {
            post(&mut client).await;
        }
        clients.push(client);
    }
    for _ in 0..ROUNDS {
        for ((_, process, spent), client) in parties.iter_mut().zip(&mut clients) {
            let before = process.time();
            for _ in 0..CALLS {
                post(client).await;
            }
            // What is written down behind the answers is part of them.
            tokio::time::sleep(Duration::from_millis(150)).await;
            *spent += process.time() - before;
        }
    }
    let calls = ROUNDS * CALLS;
    let place = if is_pinned { "pinned" } else { "not pinned" };
    println!("\nprocessor time of an answer, {calls} of each, {place}");
    for (name, _, spent) in &parties {
        let each = spent.as_secs_f64() * 1e6 / calls as f64;
        println!("  {name:<22} {each:>8.1} µs");
    }
    let [(_, _, without), (_, _, with)] = parties;
    let ratio = with.as_secs_f64() / without.as_secs_f64();
    println!("  ratio                  {ratio:>8.2}");
}

async fn connect(process: &Process) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(process.1).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}

async fn post(client: &mut SendRequest<Full<Bytes>>) {
    let request = Request::post("/v1/chat/completions")
        .header("host", "localhost")
        .header("authorization", format!("Bearer {KEY}"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from_static(ASK.as_bytes())))
        .unwrap();
    client.ready().await.unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    response.into_body().collect().await.unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// The bare server: reads each request, and answers with the same bytes.
#[expect(clippy::print_stderr, reason = "whoever has started it reads that")]
async fn serve() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    eprintln!(
        "{}",
        json!({"message": "listening", "listener": "data", "address": address})
    );
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let serving = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service_fn(answer));
        tokio::spawn(serving);
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let _ = request.into_body().collect().await;
    let response = Response::builder().header("content-type", "application/json");
    Ok(response.body(Full::from(CHAT)).unwrap())
}
