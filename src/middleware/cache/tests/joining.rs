//! Calls that are alike and under way at once.

use std::sync::{OnceLock, Weak};

use super::*;

/// Asks, whenever it is asked where a call goes, whether another call could begin meanwhile.
#[derive(Default)]
struct Watching {
    desk: OnceLock<Weak<Desk<Failed>>>,
    times: AtomicUsize,
}

impl Watching {
    fn watch(&self) {
        let Some(desk) = self.desk.get().and_then(Weak::upgrade) else {
            return;
        };
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            drop(desk.flights().lock());
            tell.send(())
        });
        let told = told.recv_timeout(Duration::from_secs(10));
        assert!(told.is_ok(), "other calls wait for this one");
        self.times.fetch_add(1, Ordering::SeqCst);
    }
}

impl Ways for Watching {
    fn label(&self, call: &Call) -> Option<Arc<str>> {
        self.watch();
        One.label(call)
    }

    fn each_primary(&self, call: &Call, see: &mut dyn FnMut(&[u8])) {
        self.watch();
        One.each_primary(call, see);
    }

    fn primaries(&self, call: &Call) -> Vec<(Arc<str>, Arc<str>)> {
        self.watch();
        One.primaries(call)
    }
}

#[tokio::test]
async fn others_may_begin_while_it_is_found_out_where_a_call_goes() {
    let (_, upstream, cache) = gateway_of(TERMS, 1 << 16);
    let ways = Arc::new(Watching::default());
    let layer = CacheLayer::new(params_of(TERMS, &cache), Arc::clone(&ways) as Arc<dyn Ways>);
    let _ = ways.desk.set(Arc::downgrade(&layer.desk));
    let answering = Arc::clone(&upstream);
    let inner = service_fn(move |call| Arc::clone(&answering).answer(call));
    let calls = Calls::new(layer.layer(inner));
    text(&calls, call_of("a", TEXT, None)).await;
    // The key, what it is compared by, and who may have answered.
    assert!(ways.times.load(Ordering::SeqCst) >= 3);
    assert_eq!((upstream.calls(), cache.snapshot().entries), (1, 1));
}

#[tokio::test]
async fn a_thousand_like_calls_are_one() {
    let (calls, upstream) = gateway();
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let (calls, tell) = (calls.clone(), tell.clone());
        asking.spawn(async move {
            let (reply, _) = ask(&calls, streamed()).await;
            tell.send(()).unwrap();
            reply.unwrap().body.collect().await.unwrap().to_bytes()
        });
    }
    // Half of them listen when the first words come, the others join on the way.
    for _ in 0..500 {
        told.recv().await;
    }
    let script = upstream.script();
    let mut sent = Vec::new();
    for number in 0..50 {
        sent.extend_from_slice(&event(number));
        script.send(Ok(event(number))).unwrap();
        tokio::task::yield_now().await;
    }
    for _ in 500..1000 {
        told.recv().await;
    }
    sent.extend_from_slice(DONE.as_bytes());
    script.send(Ok(DONE.into())).unwrap();
    drop(script);
    upstream.end();
    for got in asking.join_all().await {
        assert_eq!(got, sent);
    }
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn a_leader_that_leaves_anywhere_takes_nobody_along() {
    for read in 0..4 {
        let (calls, upstream) = gateway();
        let (leader, record) = ask(&calls, streamed()).await;
        let mut leader = leader.unwrap().body;
        let (joiner, joined) = ask(&calls, streamed()).await;
        let mut joiner = joiner.unwrap().body;
        assert_eq!(joined.facts().cached, Cached::Joined);
        let age = Duration::from_secs(1);
        assert_eq!(joined.facts().overhead(age), None, "it waited for another");
        assert_eq!(record.facts().overhead(age), Some(age));
        let script = upstream.script();
        for number in 0..3 {
            script.send(Ok(event(number))).unwrap();
        }
        for number in 0..read {
            assert_eq!(next(&mut leader).await, Some(Ok(event(number))));
        }
        assert!(record.goes_on_without_client(false));
        drop(leader);
        script.send(Ok(DONE.into())).unwrap();
        drop(script);
        upstream.end();
        for number in 0..3 {
            assert_eq!(next(&mut joiner).await, Some(Ok(event(number))));
        }
        assert_eq!(next(&mut joiner).await, Some(Ok(DONE.into())));
        assert_eq!(next(&mut joiner).await, None);
        assert_eq!(upstream.cancelled.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test]
async fn a_leader_that_leaves_before_there_is_a_head_takes_nobody_along() {
    let (calls, upstream) = gateway();
    let mut leader = Box::pin(ask(&calls, streamed()));
    assert!(futures_util::poll!(&mut leader).is_pending());
    let mut joiner = Box::pin(ask(&calls, streamed()));
    assert!(futures_util::poll!(&mut joiner).is_pending());
    drop(leader);
    let (joiner, _) = joiner.await;
    let mut joiner = joiner.unwrap().body;
    upstream.script().send(Ok(event(1))).unwrap();
    assert_eq!(next(&mut joiner).await, Some(Ok(event(1))));
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn with_the_last_listener_the_upstream_goes() {
    let (calls, upstream) = gateway();
    let (leader, record) = ask(&calls, streamed()).await;
    let (joiner, _) = ask(&calls, streamed()).await;
    let (mut leader, mut joiner) = (leader.unwrap().body, joiner.unwrap().body);
    upstream.script().send(Ok(event(1))).unwrap();
    // The leader's client leaves; its books read on, but only what others ask for.
    assert!(record.goes_on_without_client(false));
    assert!(futures_util::poll!(Box::pin(next(&mut leader))).is_pending());
    assert_eq!(next(&mut joiner).await, Some(Ok(event(1))));
    assert_eq!(next(&mut leader).await, Some(Ok(event(1))));
    assert_eq!(upstream.cancelled.load(Ordering::SeqCst), 0);
    drop(joiner);
    assert_eq!(upstream.cancelled.load(Ordering::SeqCst), 1);
    assert_eq!(next(&mut leader).await, Some(Err(StreamError::Abandoned)));
    // The next one like it begins anew.
    let _ = ask(&calls, streamed()).await;
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn a_leader_alone_does_not_go_on() {
    let (calls, upstream) = gateway();
    let (leader, record) = ask(&calls, streamed()).await;
    assert!(!record.goes_on_without_client(false));
    drop(leader);
    assert_eq!(upstream.cancelled.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_failure_before_the_first_byte_is_the_leaders_alone() {
    let (calls, upstream) = gateway();
    upstream.fails.store(1, Ordering::SeqCst);
    let leader = ask(&calls, call_of("a", TEXT, None));
    let joiner = ask(&calls, call_of("a", TEXT, None));
    let ((leader, _), (joiner, record)) = tokio::join!(leader, joiner);
    assert_eq!(leader.err(), Some(Failed::Upstream));
    assert!(joiner.is_ok());
    assert_eq!(record.facts().cached, Cached::Miss);
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn a_failure_on_the_way_is_everybodys() {
    let (calls, upstream) = gateway();
    let (leader, _) = ask(&calls, streamed()).await;
    let (joiner, _) = ask(&calls, streamed()).await;
    let script = upstream.script();
    script.send(Ok(event(1))).unwrap();
    script.send(Err(StreamError::Broken)).unwrap();
    for reply in [leader, joiner] {
        let mut body = reply.unwrap().body;
        assert_eq!(next(&mut body).await, Some(Ok(event(1))));
        assert_eq!(next(&mut body).await, Some(Err(StreamError::Broken)));
        assert_eq!(next(&mut body).await, None);
    }
}

#[tokio::test]
async fn a_slow_listener_delays_nobody_and_holds_no_more_than_the_bound() {
    let (calls, upstream, cache) = gateway_of(TERMS, 1000);
    let (fast, _) = ask(&calls, streamed()).await;
    let (slow, _) = ask(&calls, streamed()).await;
    let (mut fast, mut slow) = (fast.unwrap().body, slow.unwrap().body);
    let script = upstream.script();
    for number in 0..100 {
        script.send(Ok(event(number))).unwrap();
        assert_eq!(next(&mut fast).await, Some(Ok(event(number))));
    }
    assert_eq!(next(&mut slow).await, Some(Err(StreamError::Behind)));
    // Nobody joins what has no beginning any more.
    let _ = ask(&calls, streamed()).await;
    assert_eq!(upstream.calls(), 2);
    script.send(Ok(DONE.into())).unwrap();
    assert_eq!(next(&mut fast).await, Some(Ok(DONE.into())));
    assert_eq!(cache.snapshot().stored, 0);
}

#[tokio::test]
async fn two_teams_never_share_an_answer_under_way() {
    let (calls, upstream) = gateway();
    let (_one, _) = ask(&calls, streamed()).await;
    let (_other, record) = ask(&calls, call_of("b", STREAM, None)).await;
    assert_eq!(record.facts().cached, Cached::Miss);
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn a_panic_leaves_nobody_waiting() {
    let (calls, upstream) = gateway();
    upstream.panics.store(true, Ordering::SeqCst);
    let asking: Vec<_> = (0..3)
        .map(|_| {
            let calls = calls.clone();
            tokio::spawn(async move { ask(&calls, streamed()).await.0.is_ok() })
        })
        .collect();
    for asked in asking {
        assert!(asked.await.is_err_and(|error| error.is_panic()));
    }
    // The next one begins anew.
    upstream.panics.store(false, Ordering::SeqCst);
    assert!(ask(&calls, streamed()).await.0.is_ok());
}
