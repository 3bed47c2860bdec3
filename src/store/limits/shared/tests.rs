//! Against a real Redis of their own.

mod budgets;

use std::convert::Infallible;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::settling::renew;
use super::*;
use crate::store::limits::{
    Denied, Dimension, Holder, Refusal, Reservation, Time, limits_from_json,
};
use crate::store::redis::testing::Server;

const LIMITS: [&str; 2] = ["alice", "al:ice{%}, \u{e4}"];

fn limits(of: &[(Holder, Value)]) -> Arc<Limits> {
    let limits = Limits::default();
    let list = of
        .iter()
        .map(|(holder, value)| (holder.clone(), limits_from_json(value, "limits").unwrap()));
    limits.replace(&list.collect::<Vec<_>>());
    Arc::new(limits)
}

fn shared(redis: &Redis, limits: &Arc<Limits>, replica: &str) -> Arc<Shared> {
    slicing(redis, limits, replica, 1)
}

fn slicing(redis: &Redis, limits: &Arc<Limits>, replica: &str, slice: u32) -> Arc<Shared> {
    let limits = Arc::clone(limits);
    let slice = NonZeroU32::new(slice).unwrap();
    Shared::new(
        limits,
        Arc::default(),
        redis.clone(),
        OnOutage::Local,
        replica.to_owned(),
        slice,
        64,
    )
}

fn who(key: &str) -> Who<'_> {
    Who {
        key,
        team: None,
        route: None,
        model: Some("gpt-4o"),
    }
}

fn nothing() -> Result<(), Infallible> {
    Ok(())
}

async fn admit(shared: &Arc<Shared>, key: &str, want: Amount) -> Result<Hold, Refusal> {
    match shared.admit(&who(key), &want, None).await {
        Ok(admitted) => Ok(admitted.hold),
        Err(SharedDenied::Denied {
            denied: Denied::Limit(refusal),
            ..
        }) => Err(*refusal),
        Err(_) => panic!("redis is there"),
    }
}

fn amount(input: u64, output: u64) -> Amount {
    Amount { input, output }
}

/// What is done to both kinds of limits.
#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Back(u64),
    Admit(u64, u64),
    Settle(prop::sample::Index, u64, u64),
    Drop(prop::sample::Index, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<prop::sample::Index>;
    let step = prop_oneof![
        2 => (0..40_000u64).prop_map(Step::Pass),
        1 => (0..3_000u64).prop_map(Step::Back),
        6 => (0..40u64, 0..40u64).prop_map(|(input, output)| Step::Admit(input, output)),
        3 => (index(), 0..80u64, 0..80u64).prop_map(|(i, input, output)| Step::Settle(i, input, output)),
        2 => (index(), any::<bool>()).prop_map(|(i, sent)| Step::Drop(i, sent)),
    ];
    prop::collection::vec(step, 1..160)
}

/// What both kinds say of a call, and of what is left after it.
type Said = (
    Option<(Dimension, u64, u32, Option<Duration>)>,
    Vec<(Dimension, u32, Duration)>,
);

fn said(refusal: Option<&Refusal>, left: &[Headroom]) -> Said {
    let refusal = refusal.map(|it| (it.dimension, it.wanted, it.left, it.retry_after));
    let left = left
        .iter()
        .map(|room| (room.dimension, room.remaining, room.reset));
    (refusal, left.collect())
}

/// The same calls, settlements and clocks, the same decisions.
#[test]
fn redis_decides_as_this_process_does() {
    let runtime = Runtime::new().unwrap();
    let server = Server::start();
    let cases = AtomicU64::new(0);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(96));
    let ran = runner.run(&(1..200u32, steps()), |(size, steps)| {
        let case = cases.fetch_add(1, Ordering::Relaxed);
        runtime.block_on(agree(&server, &format!("case {case}"), size, steps))
    });
    ran.unwrap();
}

async fn agree(
    server: &Server,
    key: &str,
    size: u32,
    steps: Vec<Step>,
) -> Result<(), TestCaseError> {
    let entries = json!([
        { "requests_per_minute": size, "burst": size.div_ceil(2), "tokens_per_minute": size * 10 },
        { "tokens_per_day": size * 40, "output_tokens_per_minute": size * 5, "concurrent": 1 + size / 4 },
        { "tokens_per_minute": size * 3, "models": ["gpt-*"], "shadow": true },
    ]);
    let of = [(Holder::Key(key.into()), entries)];
    let here = limits(&of);
    let redis = server.redis(library()).await;
    let there = shared(&redis, &limits(&of), key);
    // Long before the server's own time, which keys that are gone are forgotten by.
    let mut now = 1_000_000_000_000u64;
    let mut calls: Vec<(Reservation, Hold)> = Vec::new();
    for step in steps {
        there.clock.store(now, Ordering::Relaxed);
        let time = Time::from_micros(now);
        match step {
            Step::Pass(millis) => now += millis * 1000,
            Step::Back(millis) => now -= millis * 1000,
            Step::Admit(input, output) => {
                // Nobody renews in time where an hour passes in a moment.
                renew(&there).await.unwrap();
                let want = amount(input, output);
                let one = here.admit(&who(key), &want, time, nothing);
                let two = there.admit(&who(key), &want, None).await;
                let left = here.headroom(&who(key), time);
                match (one, two) {
                    (Ok(one), Ok(two)) => {
                        prop_assert_eq!(said(None, &left), said(None, &two.left));
                        prop_assert_eq!(one.shadow, two.shadow);
                        calls.push((one.reservation, two.hold));
                    }
                    (
                        Err(Denied::Limit(one)),
                        Err(SharedDenied::Denied {
                            denied: Denied::Limit(two),
                            left: others,
                        }),
                    ) => prop_assert_eq!(said(Some(&one), &left), said(Some(&two), &others)),
                    (one, two) => prop_assert!(false, "{:?}, but {}", one, two.is_ok()),
                }
            }
            Step::Settle(index, input, output) if !calls.is_empty() => {
                let (mut one, mut two) = calls.swap_remove(index.index(calls.len()));
                one.sent();
                two.sent();
                one.settle(amount(input, output), time);
                two.settle(amount(input, output), time);
                there.flush().await;
            }
            Step::Drop(index, sent) if !calls.is_empty() => {
                let (mut one, mut two) = calls.swap_remove(index.index(calls.len()));
                if sent {
                    one.sent();
                    two.sent();
                }
                drop((one, two));
                there.flush().await;
            }
            Step::Settle(..) | Step::Drop(..) => {}
        }
    }
    Ok(())
}

#[tokio::test]
async fn several_gateways_take_exactly_what_there_is() {
    let server = Server::start();
    let of = [(
        Holder::Gateway,
        json!({ "requests_per_day": 100, "tokens_per_day": 5000 }),
    )];
    let mut tasks = Vec::new();
    for replica in 0..3 {
        let shared = shared(
            &server.redis(library()).await,
            &limits(&of),
            &replica.to_string(),
        );
        for _ in 0..20 {
            let shared = Arc::clone(&shared);
            tasks.push(tokio::spawn(async move {
                let mut admitted = 0;
                for _ in 0..10 {
                    if let Ok(hold) = admit(&shared, "alice", amount(5, 5)).await {
                        hold.settle(amount(5, 2), Time::now());
                        admitted += 1;
                    }
                }
                shared.flush().await;
                admitted
            }));
        }
    }
    let mut admitted = 0;
    for task in tasks {
        admitted += task.await.unwrap();
    }
    assert_eq!(admitted, 100);
    let shared = shared(&server.redis(library()).await, &limits(&of), "another");
    let left = shared.headroom(&who("bob"), None).await.unwrap();
    let left: Vec<_> = left.iter().map(|room| room.remaining).collect();
    assert_eq!(left, [0, 5000 - 100 * 7]);
}

#[tokio::test]
async fn every_key_ends_and_no_two_limits_have_the_same() {
    let server = Server::start();
    let every = || {
        json!([
            { "requests_per_minute": 10, "tokens_per_day": 1000, "concurrent": 3 },
            { "tokens_per_day": 900, "models": ["gpt-*", "b:c"] },
            { "tokens_per_day": 900, "models": ["gpt-*"], "shadow": true },
        ])
    };
    let of = LIMITS.map(|name| (Holder::Key(name.into()), every()));
    let redis = server.redis(library()).await;
    let shared = shared(&redis, &limits(&of), "one");
    let mut holds = Vec::new();
    for name in LIMITS {
        holds.push(admit(&shared, name, amount(1, 1)).await.unwrap());
    }
    let mut keys: Vec<String> = redis.call(redis::cmd("KEYS").arg("*")).await.unwrap();
    keys.sort();
    assert_eq!(keys.len(), 10, "{keys:?}");
    for key in &keys {
        assert!(key.starts_with("weir:{limits}:1:key:"), "{key}");
        let left: i64 = redis.call(redis::cmd("PTTL").arg(key)).await.unwrap();
        assert!(left > 0, "{key}: {left}");
    }
    drop(holds);
    shared.flush().await;
    for key in &keys {
        let left: i64 = redis.call(redis::cmd("PTTL").arg(key)).await.unwrap();
        assert!(left <= 10_000, "{key}: {left}");
    }
}

#[tokio::test]
async fn a_batch_that_comes_twice_counts_once() {
    let server = Server::start();
    let redis = server.redis(library()).await;
    let of = [(Holder::Gateway, json!({ "tokens_per_day": 1000 }))];
    let shared = shared(&redis, &limits(&of), "one");
    let wanted = shared.limits.wanted(&who("alice"), &amount(0, 0));
    let mut settle = shared.function("settle");
    settle
        .arg(2)
        .arg("weir:{limits}:1:replica:two")
        .arg(&*wanted[0].terms.key);
    settle
        .arg(0)
        .arg(7)
        .arg("owe")
        .arg(wanted[0].terms.interval)
        .arg(1000)
        .arg(10)
        .arg(0);
    for expected in [1, 0, 0] {
        let done: i64 = redis.call(&settle).await.unwrap();
        assert_eq!(done, expected);
    }
    let left = shared.headroom(&who("alice"), None).await.unwrap();
    assert_eq!(left[0].remaining, 990);
}

#[tokio::test]
async fn what_others_wrote_counts_as_nothing() {
    let server = Server::start();
    let redis = server.redis(library()).await;
    let of = [(
        Holder::Gateway,
        json!({ "tokens_per_day": 1000, "concurrent": 2 }),
    )];
    let shared = shared(&redis, &limits(&of), "one");
    let wanted = shared.limits.wanted(&who("alice"), &amount(0, 0));
    for value in ["", "garbage", "{}", &"x".repeat(57)] {
        for wanted in &wanted {
            let mut set = redis::cmd("SET");
            let _: () = redis
                .call(set.arg(&*wanted.terms.key).arg(value))
                .await
                .unwrap();
        }
        let hold = admit(&shared, "alice", amount(1, 1)).await.unwrap();
        drop(hold);
        shared.flush().await;
    }
    for wanted in &wanted {
        let mut push = redis::cmd("RPUSH");
        let _: () = redis
            .call(redis::cmd("DEL").arg(&*wanted.terms.key))
            .await
            .unwrap();
        let _: () = redis
            .call(push.arg(&*wanted.terms.key).arg("x"))
            .await
            .unwrap();
    }
    let hold = admit(&shared, "alice", amount(1, 1)).await.unwrap();
    hold.settle(amount(1, 0), Time::now());
    shared.flush().await;
    let left = shared.headroom(&who("alice"), None).await.unwrap();
    assert_eq!((left[0].remaining, left[1].remaining), (999, 2));
}

#[tokio::test]
async fn an_answer_that_goes_on_takes_more_until_there_is_none() {
    let server = Server::start();
    let redis = server.redis(library()).await;
    let of = [(Holder::Gateway, json!({ "tokens_per_day": 100 }))];
    let shared = shared(&redis, &limits(&of), "one");
    let mut hold = admit(&shared, "alice", amount(10, 10)).await.unwrap();
    hold.sent();
    let mut denied = 0;
    for _ in 0..6 {
        assert!(hold.take_more(20, Time::now()));
        assert!(!hold.take_more(20, Time::now()), "one question at a time");
        let Hold::Shared(taken) = &hold else {
            panic!("counted in redis");
        };
        while taken.is_asking() {
            tokio::task::yield_now().await;
        }
        denied += hold.denied().unwrap_or(0);
    }
    assert_eq!(denied, 2 * 20, "four times there was room");
    let left = shared.headroom(&who("alice"), None).await.unwrap();
    assert_eq!(left[0].remaining, 0);
    hold.settle(amount(10, 75), Time::now());
    shared.flush().await;
    let left = shared.headroom(&who("alice"), None).await.unwrap();
    assert_eq!(left[0].remaining, 15);
}

#[tokio::test]
async fn an_answer_may_end_before_it_is_told_of_what_it_asked_for() {
    let server = Server::start();
    let redis = server.redis(library()).await;
    let of = [(Holder::Gateway, json!({ "tokens_per_day": 1000 }))];
    let shared = shared(&redis, &limits(&of), "one");
    let mut hold = admit(&shared, "alice", amount(10, 10)).await.unwrap();
    hold.sent();
    assert!(hold.take_more(100, Time::now()));
    hold.settle(amount(10, 40), Time::now());
    let settled = async || {
        loop {
            shared.flush().await;
            let left = shared.headroom(&who("alice"), None).await.unwrap();
            if left[0].remaining == 1000 - 50 {
                break;
            }
        }
    };
    let settled = tokio::time::timeout(Duration::from_secs(20), settled()).await;
    settled.expect("each token is counted once");
}

#[tokio::test]
async fn what_is_used_while_redis_is_away_is_owed_when_it_is_back() {
    let server = Server::start();
    let redis = server.redis(library()).await;
    let of = [(
        Holder::Gateway,
        json!({ "tokens_per_day": 1000, "concurrent": 2 }),
    )];
    let shared = shared(&redis, &limits(&of), "one");
    let before = admit(&shared, "alice", amount(10, 10)).await.unwrap();
    let mut kill = redis::cmd("CLIENT");
    let _ = redis
        .call::<()>(
            kill.arg("KILL")
                .arg("TYPE")
                .arg("normal")
                .arg("SKIPME")
                .arg("no"),
        )
        .await;
    // Whoever comes now may find it away or back already.
    let mut up = redis.up();
    let mut alone = None;
    for _ in 0..1000 {
        let hold = admit(&shared, "alice", amount(100, 100)).await.unwrap();
        if matches!(hold, Hold::Alone(_)) {
            alone = Some(hold);
            break;
        }
        drop(hold);
        shared.flush().await;
        let _ = redis.call::<()>(&kill).await;
    }
    let alone = alone.expect("it is away for a moment");
    alone.settle(amount(100, 50), Time::now());
    before.settle(amount(10, 0), Time::now());
    up.wait_for(|up| *up).await.unwrap();
    shared.flush().await;
    let left = shared.headroom(&who("alice"), None).await.unwrap();
    assert_eq!((left[0].remaining, left[1].remaining), (1000 - 150 - 10, 2));
}

#[tokio::test]
async fn the_lease_of_a_gateway_that_died_ends() {
    let server = Server::start();
    let redis = server.redis(library()).await;
    let of = [(Holder::Gateway, json!({ "concurrent": 1 }))];
    let dead = shared(&redis, &limits(&of), "dead");
    let alive = shared(&redis, &limits(&of), "alive");
    dead.clock.store(1_000_000_000, Ordering::Relaxed);
    let hold = admit(&dead, "alice", amount(1, 1)).await.unwrap();
    for (seconds, is_free) in [(0, false), (9, false), (11, true)] {
        alive
            .clock
            .store(1_000_000_000 + seconds * 1_000_000, Ordering::Relaxed);
        let admitted = admit(&alive, "alice", amount(1, 1)).await;
        assert_eq!(admitted.is_ok(), is_free, "{seconds}");
    }
    // One that was only asleep has its place again, though there are now more than there may be.
    alive.flush().await;
    dead.clock.store(1_012_000_000, Ordering::Relaxed);
    renew(&dead).await.unwrap();
    alive.clock.store(1_012_000_000, Ordering::Relaxed);
    assert!(admit(&alive, "alice", amount(1, 1)).await.is_err());
    drop(hold);
    dead.flush().await;
    assert!(admit(&alive, "alice", amount(1, 1)).await.is_ok());
}

#[tokio::test]
async fn slices_let_nobody_in_beyond_a_limit_and_come_back() {
    let server = Server::start();
    let of = [(
        Holder::Gateway,
        json!({ "requests_per_day": 400, "tokens_per_day": 40_000 }),
    )];
    let redis = server.redis(library()).await;
    let replicas = ["one", "two", "three"];
    let replicas = replicas.map(|name| slicing(&redis, &limits(&of), name, 10));
    let before = redis.snapshot().calls;
    let mut admitted = 0;
    for call in 0..300 {
        let replica = &replicas[call % 3];
        let hold = admit(replica, "alice", amount(5, 5)).await.unwrap();
        assert!(matches!(hold, Hold::Sliced(_)), "{call}");
        hold.settle(amount(5, 2), Time::now());
        admitted += 1;
    }
    let asked = redis.snapshot().calls - before;
    assert!(asked < 100, "{asked} round trips");
    // Near the end each asks for itself, and what others have taken beforehand is not there.
    loop {
        let mut any = false;
        for replica in &replicas {
            if let Ok(hold) = admit(replica, "alice", amount(5, 5)).await {
                hold.settle(amount(5, 2), Time::now());
                admitted += 1;
                any = true;
            }
        }
        if !any {
            break;
        }
    }
    assert!((390..=400).contains(&admitted), "{admitted}");
    for replica in &replicas {
        replica.flush().await;
    }
    let left = replicas[0].headroom(&who("bob"), None).await.unwrap();
    let left: Vec<_> = left.iter().map(|room| room.remaining).collect();
    assert_eq!(left, [400 - admitted, 40_000 - 7 * admitted]);
}

#[tokio::test]
async fn calls_of_a_slice_end_in_every_way() {
    let server = Server::start();
    let of = [(Holder::Gateway, json!({ "tokens_per_day": 10_000 }))];
    let redis = server.redis(library()).await;
    let shared = slicing(&redis, &limits(&of), "one", 10);
    let call = async || admit(&shared, "alice", amount(10, 10)).await.unwrap();
    let (unsent, mut unknown, more, mut grown) =
        (call().await, call().await, call().await, call().await);
    drop(unsent);
    unknown.sent();
    drop(unknown);
    more.settle(amount(10, 500), Time::now());
    grown.sent();
    assert!(
        grown.take_more(20, Time::now()),
        "of the slice, or asked for"
    );
    assert_eq!(grown.denied(), None);
    // What it asked for may be there only after its end.
    grown.settle(amount(10, 30), Time::now());
    let settled = async || {
        loop {
            shared.flush().await;
            let left = shared.headroom(&who("bob"), None).await.unwrap();
            if left[0].remaining == 10_000 - 20 - 510 - 40 {
                break;
            }
        }
    };
    let settled = tokio::time::timeout(Duration::from_secs(20), settled()).await;
    settled.expect("each token is counted once");
    // Places are each call's own.
    let of = [(
        Holder::Gateway,
        json!({ "tokens_per_day": 10_000, "concurrent": 100 }),
    )];
    let shared = slicing(&redis, &limits(&of), "two", 10);
    let hold = admit(&shared, "alice", amount(1, 1)).await.unwrap();
    assert!(matches!(hold, Hold::Shared(_)));
}
