//! What accounting and the ledger add to a call, against the same calls without them: processor time of the whole process,
//! the writing thread included, and latency. Once at a steady 2,000 calls a second for ten seconds, where a machine that
//! wakes up for each of them shows in both; once as fast as 16 clients can, which shows the work alone.
//!
//! `cargo bench --no-default-features --bench ledger`; with `-- flat` only the second part.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark is a test, and prints what it measured"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};
use weir::call::{Call, CallBody, Caller, Head, Record, Reply, RequestId, Try};
use weir::error::GatewayError;
use weir::metrics::Metrics;
use weir::middleware::accounting::{AccountingLayer, Books, ClientGone, OnFailure};
use weir::middleware::admission::{AdmissionLayer, Rules, Ways};
use weir::money::Nanos;
use weir::openai::endpoint::Endpoint;
use weir::openai::json::inspect;
use weir::pattern::Pattern;
use weir::prices::{Price, PriceTable, Prices};
use weir::store::ledger::{Ledger, Params, Sync};
use weir::tokens::Encodings;

/// Calls in a millisecond.
const RATE: u64 = 2;
const SECONDS: u64 = 10;

const BODY: &[u8] = br#"{"model":"gpt-4o","messages":[{"role":"user","content":"Write a poem about spring, in four lines."}]}"#;
const ANSWER: &[u8] = br#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"gpt-4o","choices":[{"index":0,"message":{"role":"assistant","content":"Spring."},"finish_reason":"stop"}],"usage":{"prompt_tokens":17,"completion_tokens":2,"total_tokens":19}}"#;

type Calls = BoxCloneSyncService<Call, Reply, GatewayError>;

fn call() -> Call {
    let bytes = Bytes::from_static(BODY);
    let members = inspect(&bytes, 128).unwrap();
    let caller = Caller {
        team: Some("research".into()),
        ..Caller::configured("alice")
    };
    Call {
        caller: Arc::new(caller),
        endpoint: Endpoint::ChatCompletions,
        model: Some("gpt-4o".into()),
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

/// An upstream that answers at once.
async fn answer(call: Call) -> Result<Reply, GatewayError> {
    call.record.facts().attempts.push(Try {
        upstream: "openai".into(),
        endpoint: "api.openai.com".into(),
        model: call.model.clone(),
        began: Duration::ZERO,
        time: Some(Duration::ZERO),
        result: Try::ANSWERED,
        status: Some(200),
        sent: true,
        counted: None,
    });
    let body = Bytes::from_static(ANSWER);
    Ok(Reply::full(StatusCode::OK, HeaderMap::new(), body))
}

/// Processor time of this process so far, all of its threads together.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The second field may hold spaces; user and system time are the 14th and 15th, in hundredths of a second.
    let fields: Vec<&str> = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .collect();
    let ticks: u64 = fields[11..13]
        .iter()
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(10 * ticks)
}

/// Makes calls at the rate, and returns the processor time of each and how long they took, sorted.
async fn run(calls: &Calls) -> (Duration, Vec<Duration>) {
    let mut under_way = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    let mut times = Vec::new();
    let began = cpu();
    for _ in 0..SECONDS * 1000 {
        ticks.tick().await;
        for _ in 0..RATE {
            let calls = calls.clone();
            under_way.spawn(async move {
                let began = Instant::now();
                let reply = calls.oneshot(call()).await;
                assert!(reply.is_ok());
                began.elapsed()
            });
        }
        while let Some(time) = under_way.try_join_next() {
            times.push(time.unwrap());
        }
    }
    times.extend(under_way.join_all().await);
    let spent = cpu().saturating_sub(began);
    times.sort_unstable();
    (spent / times.len() as u32, times)
}

/// Makes calls one behind the other from 16 clients, and returns the processor time of each.
async fn flat_out(calls: &Calls, ledger: &Ledger) -> Duration {
    const CLIENTS: u32 = 16;
    const CALLS: u32 = 5_000;
    let mut clients = JoinSet::new();
    let began = cpu();
    for _ in 0..CLIENTS {
        let calls = calls.clone();
        clients.spawn(async move {
            for _ in 0..CALLS {
                let reply = calls.clone().oneshot(call()).await;
                assert!(reply.is_ok());
                tokio::task::yield_now().await;
            }
        });
    }
    clients.join_all().await;
    // What was promised is written in the same time.
    ledger.reader().read(|_| Ok(())).await.unwrap();
    cpu().saturating_sub(began) / (CLIENTS * CALLS)
}

fn percentile(times: &[Duration], percent: usize) -> Duration {
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

/// Every model goes somewhere, under its own name.
struct Anywhere;

impl Ways for Anywhere {
    fn label(&self, _: &str) -> Option<Arc<str>> {
        Some("*".into())
    }

    fn only_upstream(&self, _: &Call) -> Option<Arc<str>> {
        None
    }

    fn each_name(&self, model: &str, see: &mut dyn FnMut(&str)) {
        see(model);
    }
}

fn main() {
    weir::tokens::warm();
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&Params {
        path: folder.path().join("weir.db"),
        sync: Sync::EverySecond,
        // The writer may be behind for a while when nothing else takes time.
        max_open: 1_000_000,
        retention: Default::default(),
    })
    .unwrap();
    let table = Arc::new(prices());
    let rules = Rules {
        shared: None,
        metrics: Arc::new(Metrics::new().unwrap()),
        limits: Arc::default(),
        budgets: Arc::default(),
        prices: Arc::clone(&table),
        means: Arc::default(),
        stop: None,
    };
    let books = Books {
        ledger: ledger.clone(),
        prices: table,
        encodings: Encodings::new(Vec::new()),
        means: Arc::default(),
        metrics: Arc::new(Metrics::new().unwrap()),
        on_failure: OnFailure::Refuse,
        client_gone: ClientGone::Cancel,
        deadline: CancellationToken::new(),
        tasks: TaskTracker::new(),
    };
    let bare = Calls::new(service_fn(answer));
    let accounted = AccountingLayer::new(Arc::new(books)).layer(service_fn(answer));
    let admission = AdmissionLayer::new(Arc::new(rules), Arc::new(Anywhere));
    let booked = Calls::new(admission.layer(accounted));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let is_flat = std::env::args().any(|argument| argument == "flat");
    runtime.block_on(async {
        let twice = [("bare", &bare), ("booked", &booked)].repeat(2);
        for (name, calls) in twice.into_iter().filter(|_| !is_flat) {
            let (cpu, times) = run(calls).await;
            println!(
                "{name:>6}: {cpu:>9.1?} of processor time a call, p50 {:>9.1?}, p99 {:>9.1?}, {} calls",
                percentile(&times, 50),
                percentile(&times, 99),
                times.len()
            );
        }
    });
    runtime.block_on(async {
        for (name, calls) in [("bare", &bare), ("booked", &booked)].repeat(2) {
            println!(
                "{name:>6}: {:>9.1?} of processor time a call, flat out",
                flat_out(calls, &ledger).await
            );
        }
    });
    let seen = ledger.snapshot();
    println!("{} rows in {} commits", seen.rows, seen.commits);
    ledger.close();
}

fn prices() -> Prices {
    let price = Price::plain(Nanos::dollars(2), Nanos::dollars(10));
    Prices::new(vec![PriceTable {
        date: "2026-11-25".parse().unwrap(),
        prices: vec![(Pattern::parse("gpt-4o").unwrap(), price)],
    }])
}
