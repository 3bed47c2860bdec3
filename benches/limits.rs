//! What deciding costs: a call that counts towards six limits of three holders, let in and settled, and one refused; and
//! the same where Redis counts.
//!
//! `cargo bench --no-default-features --bench limits`

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark is a test, and prints what it measured"
)]

use std::hint::black_box;
use std::net::TcpListener;
use std::num::NonZeroU32;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use weir::store::limits::{
    Amount, Holder, Limits, OnOutage, Shared, Time, Who, library, limits_from_json,
};
use weir::store::redis::{Params, Redis, Servers};

const WHO: Who<'_> = Who {
    key: "alice",
    team: Some("research"),
    route: Some("gpt-*"),
    model: Some("gpt-4o-mini"),
};

/// Tokens that fit, whichever limits there are.
const WANT: Amount = Amount {
    input: 30,
    output: 30,
};

/// The time from one call to the next.
const PACE: Duration = Duration::from_millis(1);

/// A thousand keys like this one, so that it has to be found.
fn limits(of_key: &Value) -> Limits {
    let entries = |value: &Value| limits_from_json(value, "limits").unwrap();
    let mut all: Vec<_> = (0..1000)
        .map(|i| (Holder::Key(format!("key-{i}").into()), entries(of_key)))
        .collect();
    all.push((Holder::Key("alice".into()), entries(of_key)));
    all.push((
        Holder::Team("research".into()),
        entries(
            &json!({ "requests_per_day": 4_000_000_000u32, "tokens_per_day": 4_000_000_000u32 }),
        ),
    ));
    all.push((
        Holder::Gateway,
        entries(&json!({ "requests_per_minute": 600_000_000 })),
    ));
    let limits = Limits::default();
    limits.replace(&all);
    limits
}

fn decisions(c: &mut Criterion) {
    let roomy = limits(&json!([
        { "requests_per_minute": 600_000_000, "concurrent": 4_000_000_000u32 },
        { "tokens_per_minute": 600_000_000, "models": ["gpt-*"] },
    ]));
    // Half of a millisecond each: what is taken is restored before the next.
    let mut micros = 0;
    let mut now = || {
        micros += 500;
        Time::from_micros(micros)
    };
    let mut group = c.benchmark_group("limits of six dimensions");
    group.bench_function("let in", |b| {
        b.iter_batched(
            &mut now,
            |now| roomy.admit(&WHO, &WANT, now, || Ok::<_, ()>(())).unwrap(),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("let in and settle", |b| {
        b.iter(|| {
            let now = now();
            let admitted = roomy.admit(black_box(&WHO), &WANT, now, || Ok::<_, ()>(()));
            admitted.unwrap().reservation.settle(WANT, now);
        });
    });
    group.bench_function("what is left", |b| {
        b.iter(|| roomy.headroom(black_box(&WHO), Time::from_micros(1)));
    });
    let tight = limits(&json!([
        { "requests_per_minute": 1, "concurrent": 1000 },
        { "tokens_per_minute": 600_000_000, "models": ["gpt-*"] },
    ]));
    let at = Time::from_micros(0);
    let first = tight.admit(&WHO, &WANT, at, || Ok::<_, ()>(()));
    first.unwrap().reservation.keep();
    group.bench_function("refuse", |b| {
        b.iter(|| {
            tight
                .admit(black_box(&WHO), &WANT, at, || Ok::<_, ()>(()))
                .unwrap_err()
        });
    });
    group.finish();
}

/// A Redis on loopback, which dies with the benchmark.
struct Server(Child, u16);

impl Server {
    fn start() -> Option<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--port"]);
        let child = command.arg(port.to_string()).stdout(Stdio::null()).spawn();
        Some(Self(child.ok()?, port))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The same six limits in Redis: one round trip to be let in, and the settlement behind it.
fn together(c: &mut Criterion) {
    // Where it is not installed, there is nothing to measure.
    let Some(server) = Server::start() else {
        return;
    };
    let runtime = Runtime::new().unwrap();
    let limits = Arc::new(limits(&json!([
        { "requests_per_minute": 600_000_000, "concurrent": 4_000_000_000u32 },
        { "tokens_per_minute": 600_000_000, "models": ["gpt-*"] },
    ])));
    let shared = runtime.block_on(async {
        let url = format!("redis://127.0.0.1:{}", server.1);
        let redis = Redis::open(Params {
            servers: Servers::parse(&[&url], false).unwrap(),
            timeout: Duration::from_secs(1),
            libraries: vec![library()],
            what: "limits and budgets",
        });
        let redis = redis.await.unwrap();
        redis.up().wait_for(|up| *up).await.unwrap();
        Shared::new(
            limits,
            Arc::default(),
            redis,
            OnOutage::Local,
            "bench".to_owned(),
            NonZeroU32::MIN,
            65_536,
        )
    });
    let mut group = c.benchmark_group("limits of six dimensions in redis");
    // What a request waits for: settlements go out behind it, between the calls of a gateway that is not at its limit. It is
    // a task beside the one that speaks with Redis, as a request is.
    let waits = Mutex::new(Vec::new());
    group.bench_function("let in", |b| {
        b.iter_custom(|calls| {
            let shared = Arc::clone(&shared);
            let task = runtime.spawn(async move {
                let mut waits = Vec::new();
                for _ in 0..calls {
                    let asked = Instant::now();
                    let admitted = shared.admit(black_box(&WHO), &WANT, None).await;
                    waits.push(asked.elapsed());
                    let Ok(admitted) = admitted else {
                        panic!("there is room");
                    };
                    admitted.hold.settle(WANT, Time::now());
                    // No sleep: what is measured is no processor's way back from one.
                    while asked.elapsed() < PACE {
                        tokio::task::yield_now().await;
                    }
                }
                waits
            });
            let mut waited = runtime.block_on(task).unwrap();
            let all = waited.iter().sum();
            waits.lock().unwrap().append(&mut waited);
            all
        });
    });
    let mut waits = waits.into_inner().unwrap();
    waits.sort_unstable();
    if let Some(median) = waits.get(waits.len() / 2) {
        println!(
            "half of {} calls were let in within {median:?}",
            waits.len()
        );
    }
    group.bench_function("let in and settle, one after the other", |b| {
        b.iter(|| {
            let admitted = runtime.block_on(shared.admit(black_box(&WHO), &WANT, None));
            let Ok(admitted) = admitted else {
                panic!("there is room");
            };
            admitted.hold.settle(WANT, Time::now());
        });
    });
    group.finish();
}

criterion_group!(benches, decisions, together);
criterion_main!(benches);
