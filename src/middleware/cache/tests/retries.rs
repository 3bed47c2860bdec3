//! Calls that their clients make again.

use super::*;
use crate::store::retries::Bounds as RetryBounds;

/// Nobody else may get its answer.
pub(super) const RANDOM: &str = r#"{"model":"m","messages":[]}"#;
const RANDOM_STREAM: &str = r#"{"model":"m","stream":true,"messages":[]}"#;
const LINGER: Duration = Duration::from_millis(1500);

pub(super) struct Gateway {
    pub(super) calls: Calls,
    pub(super) upstream: Arc<Upstream>,
    retries: Arc<Retries>,
    cache: Arc<Cache>,
}

fn retrying_of(terms: Terms) -> Gateway {
    retrying_with(terms, None)
}

/// With terms of their own for the route of all calls.
fn retrying_with(terms: Terms, route: Option<Terms>) -> Gateway {
    let upstream = Arc::new(Upstream::default());
    *upstream.name.lock().unwrap() = "first";
    let cache = Arc::new(Cache::new(Bounds {
        bytes: 1 << 20,
        entry: 1 << 16,
    }));
    let retries = Arc::new(Retries::new(RetryBounds {
        bytes: 1 << 20,
        entries: 100,
    }));
    let params = params_of(terms, &cache);
    let params = Params {
        rules: Arc::new(Rules {
            routes: route.map(|terms| ("*".into(), terms)).into_iter().collect(),
            ..(*params.rules).clone()
        }),
        retries: Some(Retrying {
            store: Arc::clone(&retries),
            window: Duration::from_secs(60),
            linger: LINGER,
        }),
        ..params
    };
    let calls = serving(params, &upstream);
    Gateway {
        calls,
        upstream,
        retries,
        cache,
    }
}

pub(super) fn retrying() -> Gateway {
    retrying_of(TERMS)
}

/// What it goes by.
fn params_with(gateway: &Gateway) -> Params {
    Params {
        retries: Some(Retrying {
            store: Arc::clone(&gateway.retries),
            window: Duration::from_secs(60),
            linger: LINGER,
        }),
        ..params_of(TERMS, &gateway.cache)
    }
}

fn with(mut call: Call, headers: &[(&'static str, &'static str)]) -> Call {
    for (name, value) in headers {
        let value = HeaderValue::from_static(value);
        call.head.headers.insert(*name, value);
    }
    call
}

/// As the SDKs make it, after so many tries.
pub(super) fn tried(body: &str, times: &'static str) -> Call {
    let call = call_of("a", body, None);
    with(call, &[("x-stainless-retry-count", times)])
}

pub(super) fn named(body: &str, name: &'static str) -> Call {
    with(call_of("a", body, None), &[("idempotency-key", name)])
}

#[tokio::test]
async fn a_retry_gets_the_answer_that_was_just_given_and_nobody_else_does() {
    let Gateway {
        calls, upstream, ..
    } = retrying();
    let (first, cached) = text(&calls, tried(RANDOM, "0")).await;
    assert_eq!(cached, Cached::Bypass);
    let (reply, record) = ask(&calls, tried(RANDOM, "1")).await;
    let again = reply.unwrap().body.collect().await.unwrap().to_bytes();
    assert_eq!((&again, upstream.calls()), (&first, 1));
    let facts = record.facts().clone();
    assert_eq!(facts.cached, Cached::Hit);
    let status = facts.cache_status.unwrap();
    assert!(
        status.to_str().unwrap().ends_with("; detail=retry"),
        "{status:?}"
    );
    // It may be asked for once more.
    assert_eq!(text(&calls, tried(RANDOM, "2")).await.0, first);
    let mut foreign = tried(RANDOM, "1");
    foreign.caller = Arc::new(Caller {
        team: Some("a".into()),
        ..Caller::configured("bob")
    });
    let other_body = r#"{"model":"m","messages":[],"top_p":1}"#;
    let beta = with(tried(RANDOM, "1"), &[("openai-beta", "x")]);
    let unstored = call_of("a", RANDOM, Some("no-store"));
    let unstored = with(unstored, &[("x-stainless-retry-count", "1")]);
    let mut refusing = tried(RANDOM, "1");
    refusing.caller = Arc::new(Caller {
        team: Some("a".into()),
        keeps: Some(crate::call::Keeps::Nothing),
        ..Caller::configured("alice")
    });
    for (number, other) in [
        foreign,
        tried(RANDOM, "0"),
        tried(RANDOM, "often"),
        call_of("a", RANDOM, None),
        tried(other_body, "1"),
        beta,
        unstored,
        refusing,
    ]
    .into_iter()
    .enumerate()
    {
        let (answer, cached) = text(&calls, other).await;
        assert_eq!(cached, Cached::Bypass, "{number}");
        assert_ne!(answer, first, "{number}");
        assert_eq!(upstream.calls(), number + 2, "{number}");
    }
}

#[tokio::test]
async fn a_retry_joins_the_call_that_is_under_way() {
    let Gateway {
        calls, upstream, ..
    } = retrying();
    let (first, _) = ask(&calls, call_of("a", RANDOM_STREAM, None)).await;
    let mut first = first.unwrap().body;
    let script = upstream.script();
    script.send(Ok(event(1))).unwrap();
    assert_eq!(next(&mut first).await, Some(Ok(event(1))));
    let (again, record) = ask(&calls, tried(RANDOM_STREAM, "1")).await;
    assert_eq!(record.facts().cached, Cached::Joined);
    assert_eq!(
        record.facts().cache_status.clone().unwrap(),
        "weir; fwd=bypass; collapsed; detail=retry"
    );
    script.send(Ok(DONE.into())).unwrap();
    drop(script);
    upstream.end();
    let sent = [&event(1)[..], DONE.as_bytes()].concat();
    let got = again.unwrap().body.collect().await.unwrap().to_bytes();
    assert_eq!((got, upstream.calls()), (sent.into(), 1));
    // A first try like it is another call.
    let _ = ask(&calls, tried(RANDOM_STREAM, "0")).await;
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn a_failure_is_not_what_a_retry_gets() {
    let Gateway {
        calls,
        upstream,
        retries,
        ..
    } = retrying();
    upstream.fails.store(1, Ordering::SeqCst);
    let (failed, _) = ask(&calls, tried(RANDOM, "0")).await;
    assert_eq!(failed.err(), Some(Failed::Upstream));
    let (_, cached) = text(&calls, tried(RANDOM, "1")).await;
    assert_eq!((cached, upstream.calls()), (Cached::Bypass, 2));
    // Nor is a stream that broke.
    let (broken, _) = ask(&calls, tried(RANDOM_STREAM, "0")).await;
    let script = upstream.script();
    script.send(Ok(event(1))).unwrap();
    script.send(Err(StreamError::Broken)).unwrap();
    assert!(broken.unwrap().body.collect().await.is_err());
    assert_eq!(retries.snapshot().entries, 1);
    let (_, record) = ask(&calls, tried(RANDOM_STREAM, "1")).await;
    assert_eq!(record.facts().cached, Cached::Bypass);
}

#[tokio::test]
async fn an_idempotency_key_stands_for_one_call() {
    let Gateway {
        calls, upstream, ..
    } = retrying();
    let (first, _) = text(&calls, named(RANDOM, "k1")).await;
    let (again, cached) = text(&calls, named(RANDOM, "k1")).await;
    assert_eq!((again, cached), (first, Cached::Hit));
    let other = r#"{"model":"m","messages":[],"top_p":1}"#;
    let (refused, _) = ask(&calls, named(other, "k1")).await;
    let error = Some(Failed::Cache(CacheError::KeyReused));
    assert_eq!(refused.err(), error);
    assert_eq!(upstream.calls(), 1);
    // The same in the words of another key is another call; and after a failure the key is free.
    text(&calls, named(RANDOM, "k2")).await;
    assert_eq!(upstream.calls(), 2);
    upstream.fails.store(1, Ordering::SeqCst);
    assert!(ask(&calls, named(RANDOM, "k3")).await.0.is_err());
    let (_, cached) = text(&calls, named(other, "k3")).await;
    assert_eq!((cached, upstream.calls()), (Cached::Bypass, 4));
}

#[tokio::test]
async fn of_two_idempotency_keys_none_is_taken() {
    let gateway = retrying();
    let two = |second: &'static str, control| {
        let mut call = with(call_of("a", RANDOM, control), &[("idempotency-key", "k")]);
        let second = HeaderValue::from_static(second);
        call.head.headers.append("idempotency-key", second);
        call
    };
    let error = CacheError::KeyAmbiguous;
    for second in ["k", "other"] {
        let (refused, _) = ask(&gateway.calls, two(second, None)).await;
        assert_eq!(refused.err(), Some(Failed::Cache(error)), "{second:?}");
        let params = params_with(&gateway);
        let seen = preview(&params, &two(second, None), &One).await;
        assert_eq!(seen.refused, Some(error), "{second:?}");
    }
    // Where nothing is kept for whoever asks again, keys are the upstream's business.
    let unstored = two("other", Some("no-store"));
    assert!(ask(&gateway.calls, unstored).await.0.is_ok());
    assert_eq!(gateway.upstream.calls(), 1);
}

#[tokio::test]
async fn an_empty_idempotency_key_is_none() {
    let gateway = retrying();
    let keyed = |names: &[&'static str]| {
        let mut call = call_of("a", RANDOM, None);
        for name in names {
            let name = HeaderValue::from_static(name);
            call.head.headers.append("idempotency-key", name);
        }
        call
    };
    // Without a name nothing says that it is asked for again.
    for (names, upstream) in [(&[""][..], 1), (&["", ""], 2)] {
        let (_, cached) = text(&gateway.calls, keyed(names)).await;
        let seen = preview(&params_with(&gateway), &keyed(names), &One).await;
        assert_eq!((cached, seen.refused), (Cached::Bypass, None), "{names:?}");
        assert_eq!(gateway.upstream.calls(), upstream, "{names:?}");
    }
    // Beside one that says something they are nothing.
    let (first, _) = text(&gateway.calls, keyed(&["k"])).await;
    for names in [["", "k"], ["k", ""]] {
        let again = text(&gateway.calls, keyed(&names)).await;
        assert_eq!(again, (first.clone(), Cached::Hit), "{names:?}");
    }
    assert_eq!(gateway.upstream.calls(), 3);
}

#[tokio::test]
async fn a_key_under_way_is_taken_too() {
    let Gateway {
        calls, upstream, ..
    } = retrying();
    let (_first, _) = ask(&calls, named(RANDOM_STREAM, "k")).await;
    let (refused, _) = ask(&calls, named(RANDOM, "k")).await;
    let error = Some(Failed::Cache(CacheError::KeyReused));
    assert_eq!(refused.err(), error);
    let (again, record) = ask(&calls, named(RANDOM_STREAM, "k")).await;
    assert!(again.is_ok());
    assert_eq!(record.facts().cached, Cached::Joined);
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn what_is_shared_serves_retries_and_what_is_not_kept_there_is_kept_for_them() {
    let Gateway {
        calls,
        upstream,
        retries,
        cache,
    } = retrying();
    let (first, _) = text(&calls, tried(TEXT, "0")).await;
    assert_eq!(
        (cache.snapshot().entries, retries.snapshot().entries),
        (1, 1)
    );
    assert_eq!(text(&calls, tried(TEXT, "1")).await.0, first);
    // Whoever does not ask again has no use for it.
    let other = r#"{"model":"m","seed":3,"messages":[]}"#;
    text(&calls, call_of("a", other, None)).await;
    assert_eq!(
        (cache.snapshot().entries, retries.snapshot().entries),
        (2, 1)
    );
    // A new answer was wanted, and is not asked for twice.
    let newer = || with(call_of("a", TEXT, Some("no-cache")), &[]);
    let (second, _) = text(&calls, newer()).await;
    let again = with(newer(), &[("x-stainless-retry-count", "1")]);
    assert_eq!(text(&calls, again).await.0, second);
    assert_eq!(upstream.calls(), 3);
    // What another upstream answered is nobody else's.
    *upstream.name.lock().unwrap() = "fallback";
    let body = r#"{"model":"m","seed":2,"messages":[]}"#;
    let (third, _) = text(&calls, tried(body, "0")).await;
    assert_eq!(text(&calls, tried(body, "1")).await.0, third);
    assert_eq!(upstream.calls(), 4);
}

#[tokio::test]
async fn a_retry_gets_its_answer_where_the_shared_one_does_not_do() {
    let Gateway {
        calls, upstream, ..
    } = retrying();
    // It is kept for an hour.
    let wants = |times| {
        let call = call_of("a", TEXT, Some("min-fresh=7200"));
        with(call, &[("x-stainless-retry-count", times)])
    };
    let (first, _) = text(&calls, wants("0")).await;
    assert_eq!(text(&calls, wants("1")).await, (first, Cached::Hit));
    assert_eq!(upstream.calls(), 1);
    // Somebody else's do as little as ever.
    text(&calls, wants("0")).await;
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn a_route_that_keeps_nothing_keeps_nothing_for_retries() {
    let off = Terms {
        enabled: false,
        ..TERMS
    };
    for (terms, route, upstream_calls) in [(TERMS, off, 2), (off, off, 1)] {
        let gateway = retrying_with(terms, Some(route));
        for times in ["0", "1"] {
            text(&gateway.calls, tried(RANDOM, times)).await;
        }
        assert_eq!(gateway.upstream.calls(), upstream_calls);
        assert_eq!(
            gateway.retries.snapshot().entries as usize,
            2 - upstream_calls
        );
    }
}

#[tokio::test]
async fn whoever_wants_only_what_is_there_asks_no_upstream() {
    let gateway = retrying();
    let (calls, _) = super::gateway();
    let wants = |times| {
        let call = call_of("a", RANDOM, Some("only-if-cached"));
        with(call, &[("x-stainless-retry-count", times)])
    };
    for (calls, call) in [
        (&gateway.calls, wants("0")),
        (&gateway.calls, wants("1")),
        (&calls, wants("0")),
    ] {
        let (refused, record) = ask(calls, call).await;
        assert_eq!(refused.err(), Some(Failed::Cache(CacheError::NotKept)));
        assert_eq!(record.facts().cached, Cached::Bypass);
    }
    assert_eq!(gateway.upstream.calls(), 0);
}

#[tokio::test]
async fn a_preview_knows_of_retries() {
    let gateway = retrying();
    let params = params_with(&gateway);
    let seen = |call: Call| {
        let params = params.clone();
        async move { preview(&params, &call, &One).await }
    };
    assert_eq!(seen(tried(RANDOM, "1")).await.decision, "bypass");
    text(&gateway.calls, tried(RANDOM, "0")).await;
    let again = seen(tried(RANDOM, "1")).await;
    assert_eq!((again.decision, again.is_answered), ("hit", true));
    assert_eq!(seen(tried(RANDOM, "0")).await.decision, "bypass");
    text(&gateway.calls, named(RANDOM, "k")).await;
    let reused = seen(named(TEXT, "k")).await;
    assert_eq!(reused.refused, Some(CacheError::KeyReused));
    let wants = call_of("a", RANDOM, Some("only-if-cached"));
    assert_eq!(seen(wants).await.refused, Some(CacheError::NotKept));
}

#[tokio::test]
async fn an_answer_is_kept_though_its_stack_has_been_replaced() {
    let Gateway {
        calls,
        upstream,
        retries,
        cache,
    } = retrying();
    let (reply, _) = ask(&calls, tried(STREAM, "0")).await;
    drop(calls);
    upstream.script().send(Ok(DONE.into())).unwrap();
    upstream.end();
    reply.unwrap().body.collect().await.unwrap();
    assert_eq!(
        (cache.snapshot().entries, retries.snapshot().entries),
        (1, 1)
    );
}

#[tokio::test]
async fn a_key_stays_that_of_the_call_that_has_it_since_a_purge() {
    let Gateway {
        calls,
        upstream,
        cache,
        ..
    } = retrying();
    let (first, _) = ask(&calls, named(RANDOM_STREAM, "k")).await;
    let script = upstream.script();
    cache.purge(|_| true);
    let _second = ask(&calls, named(RANDOM_STREAM, "k")).await;
    assert_eq!(upstream.calls(), 2);
    script.send(Err(StreamError::Broken)).unwrap();
    assert!(first.unwrap().body.collect().await.is_err());
    let (refused, _) = ask(&calls, named(RANDOM, "k")).await;
    let error = Some(Failed::Cache(CacheError::KeyReused));
    assert_eq!(refused.err(), error);
}

#[tokio::test]
async fn a_retry_that_joins_says_whether_it_was_looked_up() {
    let Gateway { calls, .. } = retrying();
    let _first = ask(&calls, tried(STREAM, "0")).await;
    let (_again, record) = ask(&calls, tried(STREAM, "1")).await;
    let status = record.facts().cache_status.clone().unwrap();
    assert_eq!(status, "weir; fwd=miss; collapsed; detail=retry");
}

/// Holds the upstream back, makes a call, and lets its client leave: as accounting does, it is read on where it goes on.
async fn left(gateway: &Gateway, call: Call) -> (bool, tokio::task::JoinHandle<bool>) {
    let gate = Arc::new(Notify::new());
    *gateway.upstream.gate.lock().unwrap() = Some(gate);
    let record = Arc::clone(&call.record);
    let mut leader = Box::pin(gateway.calls.clone().oneshot(call));
    assert!(futures_util::poll!(&mut leader).is_pending());
    let goes_on = record.goes_on_without_client(false);
    let books = tokio::spawn(async move {
        match goes_on {
            true => match leader.await {
                Ok(reply) => reply.body.collect().await.is_ok(),
                Err(_) => false,
            },
            false => false,
        }
    });
    tokio::task::yield_now().await;
    (goes_on, books)
}

fn open(gateway: &Gateway) {
    let gate = gateway.upstream.gate.lock().unwrap().take();
    gate.unwrap().notify_one();
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_client_may_ask_again_waits_for_that() {
    let gateway = retrying();
    let (goes_on, books) = left(&gateway, tried(RANDOM, "0")).await;
    assert!(goes_on);
    tokio::time::advance(LINGER / 2).await;
    let mut again = Box::pin(ask(&gateway.calls, tried(RANDOM, "1")));
    assert!(futures_util::poll!(&mut again).is_pending());
    // It leaves as well, and comes back once more.
    drop(again);
    tokio::time::advance(LINGER * 2 / 3).await;
    let mut again = Box::pin(text(&gateway.calls, tried(RANDOM, "2")));
    assert!(futures_util::poll!(&mut again).is_pending());
    tokio::time::advance(LINGER * 3).await;
    open(&gateway);
    assert_eq!(again.await.1, Cached::Joined);
    assert!(books.await.unwrap());
    assert_eq!(gateway.upstream.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_asks_for_again_is_left() {
    let gateway = retrying();
    let (goes_on, books) = left(&gateway, tried(RANDOM, "0")).await;
    assert!(goes_on);
    tokio::time::advance(LINGER - Duration::from_millis(1)).await;
    tokio::task::yield_now().await;
    assert_eq!(gateway.upstream.cancelled.load(Ordering::SeqCst), 0);
    tokio::time::advance(Duration::from_millis(2)).await;
    assert!(!books.await.unwrap());
    assert_eq!(gateway.upstream.cancelled.load(Ordering::SeqCst), 1);
    // Whoever comes later asks anew.
    *gateway.upstream.gate.lock().unwrap() = None;
    let (_, cached) = text(&gateway.calls, tried(RANDOM, "1")).await;
    assert_eq!((cached, gateway.upstream.calls()), (Cached::Bypass, 2));
}

/// A call whose client waits a second for its answer.
fn hurried(times: &'static str) -> Call {
    let mut call = tried(RANDOM, times);
    call.deadline = Some(tokio::time::Instant::now() + Duration::from_secs(1));
    call
}

#[tokio::test(start_paused = true)]
async fn a_call_outlives_the_patience_of_a_client_that_may_ask_again() {
    let gateway = retrying();
    let (_, books) = left(&gateway, hurried("0")).await;
    tokio::time::advance(Duration::from_millis(1200)).await;
    let mut again = Box::pin(text(&gateway.calls, hurried("1")));
    assert!(futures_util::poll!(&mut again).is_pending());
    open(&gateway);
    assert_eq!(again.await.1, Cached::Joined);
    assert!(books.await.unwrap());
    assert_eq!(gateway.upstream.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_joins_waits_no_longer_than_it_says() {
    let gateway = retrying();
    let (_, _books) = left(&gateway, tried(RANDOM, "0")).await;
    let (late, record) = ask(&gateway.calls, hurried("1")).await;
    assert_eq!(late.err(), Some(Failed::Cache(CacheError::TooLate)));
    assert_eq!(record.facts().cached, Cached::Joined);
    assert_eq!(gateway.upstream.calls(), 1);
    // The call goes on for whoever comes then.
    let mut again = Box::pin(text(&gateway.calls, tried(RANDOM, "2")));
    assert!(futures_util::poll!(&mut again).is_pending());
    open(&gateway);
    assert_eq!(again.await.1, Cached::Joined);
}

#[tokio::test]
async fn books_that_have_read_enough_end_what_nobody_gets() {
    let gateway = retrying();
    let (_reply, record) = ask(&gateway.calls, tried(RANDOM_STREAM, "0")).await;
    assert!(record.goes_on_without_client(true));
    let again = ask(&gateway.calls, tried(RANDOM_STREAM, "1")).await;
    assert!(!record.ends_without_client());
    drop(again);
    assert!(record.ends_without_client());
    let (_, other) = ask(&gateway.calls, tried(RANDOM_STREAM, "2")).await;
    assert_eq!(other.facts().cached, Cached::Bypass, "it is closed");
    let finishing = retrying_of(Terms {
        finish: true,
        ..TERMS
    });
    let (_reply, record) = ask(&finishing.calls, streamed()).await;
    assert!(record.goes_on_without_client(true));
    assert!(!record.ends_without_client());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_while_nobody_waits_is_kept_for_the_retry() {
    let gateway = retrying();
    let (_, books) = left(&gateway, tried(RANDOM, "0")).await;
    open(&gateway);
    assert!(books.await.unwrap());
    let (_, cached) = text(&gateway.calls, tried(RANDOM, "1")).await;
    assert_eq!((cached, gateway.upstream.calls()), (Cached::Hit, 1));
}

#[tokio::test]
async fn a_client_that_does_not_ask_again_is_not_waited_for() {
    let gateway = retrying();
    let (goes_on, books) = left(&gateway, call_of("a", RANDOM, None)).await;
    assert!(!goes_on);
    assert!(!books.await.unwrap());
    assert_eq!(gateway.upstream.cancelled.load(Ordering::SeqCst), 1);
    // Nor is one that has got the beginning of its answer: the SDKs do not ask for the rest.
    *gateway.upstream.gate.lock().unwrap() = None;
    let (reply, record) = ask(&gateway.calls, tried(RANDOM_STREAM, "0")).await;
    assert!(!record.goes_on_without_client(false));
    drop(reply);
    assert_eq!(gateway.upstream.cancelled.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_call_that_is_to_be_finished_goes_on_though_all_have_left() {
    let gateway = retrying_of(Terms {
        finish: true,
        ..TERMS
    });
    let Gateway {
        calls,
        upstream,
        cache,
        ..
    } = &gateway;
    let (leader, record) = ask(calls, streamed()).await;
    let (joiner, _) = ask(calls, streamed()).await;
    let script = upstream.script();
    script.send(Ok(event(1))).unwrap();
    assert!(record.goes_on_without_client(false));
    drop(joiner);
    let books = tokio::spawn(leader.unwrap().body.collect());
    tokio::task::yield_now().await;
    script.send(Ok(DONE.into())).unwrap();
    drop(script);
    upstream.end();
    assert!(books.await.unwrap().is_ok());
    assert_eq!(cache.snapshot().entries, 1);
    assert_eq!(upstream.cancelled.load(Ordering::SeqCst), 0);
    assert_eq!(text(calls, streamed()).await.1, Cached::Hit);
}

#[tokio::test]
async fn which_call_it_is_matters_where_it_may_have_been_made_before_or_is_made_now() {
    let gateway = retrying();
    let desk = Desk::<Failed>::new(params_with(&gateway), Arc::new(One));
    let look_up = |call: &Call| {
        let looked = desk.look_up(call).unwrap();
        (looked.found.is_some(), looked.quest.identity.is_some())
    };
    let plain = || call_of("a", TEXT, None);
    assert_eq!(look_up(&plain()), (false, true), "it is made now");
    text(&gateway.calls, plain()).await;
    assert_eq!(look_up(&plain()), (true, false));
    for (name, value) in [("x-stainless-retry-count", "1"), ("idempotency-key", "k")] {
        let mut again = plain();
        let headers = &mut again.head.headers;
        headers.insert(name, HeaderValue::from_static(value));
        assert_eq!(look_up(&again), (true, true), "{name}");
    }
    let mut first = plain();
    let headers = &mut first.head.headers;
    headers.insert("x-stainless-retry-count", HeaderValue::from_static("0"));
    assert_eq!(look_up(&first), (true, false));
}

#[tokio::test]
async fn a_name_is_its_call_s_also_where_another_one_s_answer_was_there() {
    let gateway = retrying();
    let named = |body: &str| {
        let mut call = call_of("a", body, None);
        let headers = &mut call.head.headers;
        headers.insert("idempotency-key", HeaderValue::from_static("k"));
        call
    };
    text(&gateway.calls, call_of("a", TEXT, None)).await;
    let (_, cached) = text(&gateway.calls, named(TEXT)).await;
    assert_eq!(cached, Cached::Hit);
    let (reused, _) = ask(&gateway.calls, named(RANDOM)).await;
    assert_eq!(reused.err(), Some(Failed::Cache(CacheError::KeyReused)));
    assert_eq!(gateway.upstream.calls(), 1);
}
