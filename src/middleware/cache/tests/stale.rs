//! Answers whose time is over, and upstreams that fail.

use super::*;

/// Its answers are stale as soon as they are there.
const STALE: Terms = Terms {
    ttl: Duration::from_nanos(1),
    stale_if_error: Duration::from_secs(3600),
    ..TERMS
};

#[tokio::test]
async fn what_is_stale_is_served_when_the_upstream_fails_and_says_so() {
    let (calls, upstream, _) = gateway_of(STALE, 1 << 16);
    let (first, _) = text(&calls, call_of("a", TEXT, None)).await;
    // Never otherwise.
    let (second, cached) = text(&calls, call_of("a", TEXT, None)).await;
    assert_eq!(cached, Cached::Miss);
    assert_ne!(first, second);
    upstream.fails.store(1, Ordering::SeqCst);
    let (reply, record) = ask(&calls, call_of("a", TEXT, None)).await;
    let reply = reply.unwrap();
    assert_eq!(reply.headers["warning"], "111 weir \"Revalidation Failed\"");
    assert_eq!(reply.headers["age"], "0");
    assert_eq!(reply.body.collect().await.unwrap().to_bytes(), second);
    let facts = record.facts().clone();
    assert_eq!(facts.cached, Cached::Stale);
    let status = facts.cache_status.unwrap();
    assert_eq!(status, "weir; hit; ttl=-1; detail=stale-if-error");
    assert_eq!(upstream.calls(), 3);
    // What is fresh is served without asking.
    let (_, cached) = text(&calls, call_of("a", TEXT, Some("max-age=60"))).await;
    assert_eq!(cached, Cached::Miss);
    let (_, cached) = text(&calls, call_of("a", TEXT, Some("max-age=60"))).await;
    assert_eq!(cached, Cached::Hit);
}

#[tokio::test]
async fn a_client_may_want_nothing_stale() {
    let (calls, upstream, _) = gateway_of(STALE, 1 << 16);
    text(&calls, call_of("a", TEXT, None)).await;
    for control in ["stale-if-error=0", "no-cache", "max-age=0"] {
        upstream.fails.store(1, Ordering::SeqCst);
        let (reply, _) = ask(&calls, call_of("a", TEXT, Some(control))).await;
        assert_eq!(reply.err(), Some(Failed::Upstream), "{control}");
    }
    for control in ["stale-if-error=60", "stale-if-error=99999999999"] {
        upstream.fails.store(1, Ordering::SeqCst);
        let (_, cached) = text(&calls, call_of("a", TEXT, Some(control))).await;
        assert_eq!(cached, Cached::Stale, "{control}");
    }
    let (only, _) = ask(&calls, call_of("a", TEXT, Some("only-if-cached"))).await;
    assert_eq!(only.err(), Some(Failed::Cache(CacheError::NotKept)));
}

#[tokio::test]
async fn without_leave_nothing_stale_is_served() {
    let terms = Terms {
        stale_if_error: Duration::ZERO,
        ..STALE
    };
    let (calls, upstream, _) = gateway_of(terms, 1 << 16);
    text(&calls, call_of("a", TEXT, None)).await;
    upstream.fails.store(1, Ordering::SeqCst);
    let call = call_of("a", TEXT, Some("stale-if-error=60"));
    assert_eq!(ask(&calls, call).await.0.err(), Some(Failed::Upstream));
}

#[tokio::test]
async fn who_joins_a_call_that_fails_gets_what_is_stale_too() {
    let (calls, upstream, _) = gateway_of(STALE, 1 << 16);
    text(&calls, call_of("a", TEXT, None)).await;
    upstream.fails.store(3, Ordering::SeqCst);
    let one = text(&calls, call_of("a", TEXT, None));
    let other = text(&calls, call_of("a", TEXT, None));
    let ((_, one), (_, other)) = tokio::join!(one, other);
    assert_eq!([one, other], [Cached::Stale; 2]);
}
