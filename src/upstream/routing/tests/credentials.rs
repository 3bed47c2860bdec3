//! Several credentials of one upstream: refused, limited, put aside.

use super::*;

#[tokio::test(start_paused = true)]
async fn refused_credentials_are_put_aside_and_the_next_is_shown_at_once() {
    let one = Scripted::new(&[Refuse, Answer]);
    let mut setup = upstream("one", &[&one]);
    setup.keys = vec!["a", "b"];
    let dispatch = dispatch(in_turn(vec![setup.build()]));
    let began = Instant::now();
    for _ in 0..3 {
        assert!(succeeds(&dispatch).await);
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(one.credentials(), ["a", "b", "b", "b"]);
}

#[tokio::test(start_paused = true)]
async fn all_refused_is_an_error_that_no_retry_mends() {
    let one = Scripted::new(&[Refuse]);
    let mut setup = upstream("one", &[&one]);
    setup.keys = vec!["a", "b"];
    let dispatch = dispatch(in_turn(vec![setup.build()]));
    let error = ask(&dispatch).await.err();
    assert!(matches!(
        error,
        Some(DispatchError::Upstream {
            source: UpstreamError::Refused(_),
            spent: true,
            ..
        })
    ));
    assert_eq!(one.credentials(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_limited_credential_makes_room_for_the_next() {
    let one = Scripted::new(&[StatusWith(429, "retry-after", "20"), Answer]);
    let mut setup = upstream("one", &[&one]);
    setup.keys = vec!["a", "b"];
    let dispatch = dispatch(in_turn(vec![setup.build()]));
    let began = Instant::now();
    assert!(succeeds(&dispatch).await);
    assert!(succeeds(&dispatch).await);
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(one.credentials(), ["a", "b", "b"]);
    tokio::time::advance(20 * SECOND).await;
    assert!(succeeds(&dispatch).await);
    assert!(succeeds(&dispatch).await);
    assert!(one.credentials()[3..].contains(&HeaderValue::from_static("a")));
}

#[tokio::test(start_paused = true)]
async fn a_limited_credential_is_not_shown_at_the_next_endpoint_before_its_time() {
    let at = [
        Scripted::new(&[StatusWith(429, "retry-after", "20"), Answer]),
        Scripted::new(&[StatusWith(429, "retry-after", "20"), Answer]),
    ];
    let mut setup = upstream("one", &[&at[0], &at[1]]);
    setup.keys = vec!["a"];
    let dispatch = dispatch(in_turn(vec![setup.build()]));
    let began = Instant::now();
    let _ = ask(&dispatch).await;
    let mut seen: Vec<Instant> = Vec::new();
    for at in &at {
        seen.extend(at.seen.lock().unwrap().iter().map(|seen| seen.at));
    }
    seen.sort();
    let waits: Vec<_> = seen.iter().map(|at| *at - began).collect();
    assert!(
        waits[1..].iter().all(|wait| *wait >= 20 * SECOND),
        "{waits:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_target_whose_credentials_are_aside_is_asked_last() {
    for refuses in [Refuse, StatusWith(429, "retry-after", "40")] {
        let (bad, good) = (
            Scripted::new(std::slice::from_ref(&refuses)),
            Scripted::new(&[Answer]),
        );
        let mut setup = upstream("bad", &[&bad]);
        setup.keys = vec!["a"];
        let mut route = side_by_side(vec![setup.build(), upstream("good", &[&good]).build()]);
        route.balance = Balance::Order;
        let dispatch = dispatch(route);
        for _ in 0..10 {
            assert!(succeeds(&dispatch).await);
        }
        assert_eq!((bad.calls(), good.calls()), (1, 10));
        good.now_does(Status(501));
        assert!(!succeeds(&dispatch).await);
        assert_eq!(bad.calls(), 2, "for want of a better one");
        bad.now_does(Answer);
        tokio::time::advance(60 * SECOND).await;
        assert!(succeeds(&dispatch).await);
        assert_eq!(bad.calls(), 3, "its time is over");
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_will_be_over_soon_asks_nobody_whom_the_operator_likes_less() {
    let (one, poet) = (
        Scripted::new(&[Status(429), Answer]),
        Scripted::new(&[Answer]),
    );
    let mut first = upstream("one", &[&one]);
    first.keys = vec!["a"];
    let dispatch = dispatch(in_turn(vec![
        first.build(),
        upstream("poet", &[&poet]).build(),
    ]));
    let calls = (0..5).map(|_| ask(&dispatch));
    let answers = futures_util::future::join_all(calls).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(poet.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_credential_that_is_free_first_is_waited_for() {
    let one = Scripted::new(&[
        StatusWith(429, "retry-after", "1"),
        StatusWith(429, "retry-after", "60"),
        Answer,
    ]);
    let mut setup = upstream("one", &[&one]);
    setup.keys = vec!["a", "b"];
    let dispatch = dispatch(in_turn(vec![setup.build()]));
    let began = Instant::now();
    assert!(succeeds(&dispatch).await);
    assert_eq!(began.elapsed(), SECOND);
    assert_eq!(one.credentials(), ["a", "b", "a"]);
}
