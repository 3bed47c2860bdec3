//! Tries after a failure: how many, after which pauses, and what they may cost.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_failure_is_tried_twice_more_after_growing_pauses() {
    let one = Scripted::new(&[Status(500), Break, Answer]);
    let dispatch = dispatch(in_turn(vec![upstream("one", &[&one]).build()]));
    let began = Instant::now();
    assert!(succeeds(&dispatch).await);
    assert_eq!(one.calls(), 3);
    assert!(began.elapsed() <= SECOND / 2 + SECOND);
}

#[tokio::test(start_paused = true)]
async fn when_the_tries_are_spent_the_client_is_told_not_to_try_itself() {
    let one = Scripted::new(&[Status(503)]);
    let dispatch = dispatch(in_turn(vec![upstream("one", &[&one]).build()]));
    let error = ask(&dispatch).await.err();
    let Some(DispatchError::Upstream { spent, .. }) = error else {
        panic!("{error:?}");
    };
    assert!(spent);
    assert_eq!(one.calls(), 3);
    let limited = Scripted::new(&[Status(429)]);
    let dispatch = self::dispatch(in_turn(vec![upstream("one", &[&limited]).build()]));
    let reply = ask(&dispatch).await.unwrap();
    assert_eq!(reply.status, 429);
    assert_eq!(should_retry(&reply).unwrap(), "false");
    assert_eq!(limited.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_stays_down_is_replaced_by_the_next() {
    let (one, two) = (Scripted::new(&[Status(500)]), Scripted::new(&[Answer]));
    let members = vec![
        upstream("one", &[&one]).build(),
        upstream("two", &[&two]).build(),
    ];
    let dispatch = dispatch(in_turn(members));
    let call = call();
    let record = Arc::clone(&call.record);
    let reply = dispatch.clone().oneshot(call).await.unwrap();
    assert_eq!(reply.status, 200);
    assert_eq!((one.calls(), two.calls()), (3, 1));
    let facts = record.facts();
    assert_eq!(facts.upstream.as_deref(), Some("two"));
    let results: Vec<_> = facts
        .attempts
        .iter()
        .map(|a| (a.result, a.status))
        .collect();
    let failed = ("upstream_status", Some(500));
    assert_eq!(results, [failed, failed, failed, ("answered", Some(200))]);
}

#[tokio::test(start_paused = true)]
async fn without_retries_the_next_target_is_still_asked() {
    let (one, two) = (Scripted::new(&[Break]), Scripted::new(&[Answer]));
    for make in [in_turn, side_by_side] {
        let members = vec![
            upstream("one", &[&one]).build(),
            upstream("two", &[&two]).build(),
        ];
        let mut route = make(members);
        route.retry.attempts = 0;
        let dispatch = dispatch(route);
        let began = Instant::now();
        for _ in 0..4 {
            assert!(succeeds(&dispatch).await);
        }
        assert_eq!(began.elapsed(), Duration::ZERO, "nobody waits");
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_the_least_wait_and_a_long_one_goes_to_the_client() {
    for status in [429, 503] {
        for (name, value, millis) in [
            ("retry-after", "7", 7000),
            ("retry-after", "0.9", 900),
            ("retry-after-ms", "650", 650),
        ] {
            let one = Scripted::new(&[StatusWith(status, name, value), Answer]);
            let dispatch = dispatch(in_turn(vec![upstream("one", &[&one]).build()]));
            let began = Instant::now();
            assert!(succeeds(&dispatch).await);
            // The pause of our own is up to half a second.
            let waited = began.elapsed().as_millis();
            assert!((millis..millis + 10).contains(&waited), "{value}: {waited}");
        }
    }

    let long = Scripted::new(&[StatusWith(429, "retry-after", "31")]);
    let dispatch = dispatch(in_turn(vec![upstream("one", &[&long]).build()]));
    let began = Instant::now();
    let reply = ask(&dispatch).await.unwrap();
    assert_eq!(reply.status, 429);
    assert_eq!(reply.headers["retry-after"], "31");
    assert_eq!(should_retry(&reply), None, "the client may wait");
    assert_eq!((long.calls(), began.elapsed()), (1, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn the_budget_keeps_an_outage_from_being_amplified() {
    let one = Scripted::new(&[Status(500)]);
    let mut setup = upstream("one", &[&one]);
    setup.budget = 0.2;
    let mut route = in_turn(vec![setup.build()]);
    // No pauses, so that all of it happens within one window of the budget.
    (route.retry.base, route.retry.max) = (Duration::ZERO, Duration::ZERO);
    let dispatch = dispatch(route);
    for _ in 0..500 {
        assert!(!succeeds(&dispatch).await);
    }
    assert!(one.calls() <= 500 + 100 + 30, "{}", one.calls());
    assert!(one.calls() >= 600);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_begins_with_an_error_is_asked_for_again() {
    let one = Scripted::new(&[Stream(&[ERROR]), Stream(&[]), Stream(&[WORD, DONE])]);
    let dispatch = dispatch(in_turn(vec![upstream("one", &[&one]).build()]));
    let reply = dispatch.clone().oneshot(streamed()).await.unwrap();
    let whole = reply.body.collect().await.unwrap().to_bytes();
    assert_eq!(whole, [WORD, DONE].concat());
    assert_eq!(one.calls(), 3);

    let bad = Scripted::new(&[Stream(&[ERROR])]);
    let dispatch = self::dispatch(in_turn(vec![upstream("one", &[&bad]).build()]));
    let error = dispatch.clone().oneshot(streamed()).await.err();
    let Some(DispatchError::Upstream {
        source: UpstreamError::ErrorEvent { message },
        spent: true,
        ..
    }) = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(message.as_deref(), Some("overloaded"), "its own words");
    assert_eq!(bad.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_after_its_first_word_is_not_asked_for_again() {
    let one = Scripted::new(&[Stream(&[WORD, ERROR])]);
    let dispatch = dispatch(in_turn(vec![upstream("one", &[&one]).build()]));
    let reply = dispatch.clone().oneshot(streamed()).await.unwrap();
    let whole = reply.body.collect().await.unwrap().to_bytes();
    assert_eq!(whole, [WORD, ERROR].concat());
    assert_eq!(one.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_rolling_failure_of_three_endpoints_is_nobodys_concern() {
    let at = [0; 3].map(|_| Scripted::new(&[Answer]));
    let members = ["a", "b", "c"].into_iter().zip(&at);
    let members = members.map(|(name, at)| upstream(name, &[at]).build());
    let dispatch = dispatch(side_by_side(members.collect()));
    for round in 0..30 {
        at[round % 3].now_does(Break);
        at[(round + 2) % 3].now_does(Answer);
        let calls = (0..50).map(|_| ask(&dispatch));
        let answers = futures_util::future::join_all(calls).await;
        assert!(answers.iter().all(Result::is_ok), "round {round}");
        tokio::time::advance(SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_several_endpoints_is_not_amplified_either() {
    let (at, mut setup) = three([Status(500), Status(500), Status(500)]);
    setup.budget = 0.2;
    let mut route = in_turn(vec![setup.build()]);
    (route.retry.base, route.retry.max) = (Duration::ZERO, Duration::ZERO);
    let dispatch = dispatch(route);
    for _ in 0..500 {
        assert!(!succeeds(&dispatch).await);
    }
    let calls = calls_of(&at);
    assert!(calls <= 500 + 100 + 30, "{calls}");
}

#[tokio::test(start_paused = true)]
async fn fall_backs_are_requests_of_the_upstream_that_they_reach() {
    let (down, two) = (Scripted::new(&[Status(501)]), Scripted::new(&[Status(500)]));
    let mut setup = upstream("two", &[&two]);
    setup.budget = 1.0;
    let mut route = in_turn(vec![upstream("down", &[&down]).build(), setup.build()]);
    route.retry.attempts = 1;
    (route.retry.base, route.retry.max) = (Duration::ZERO, Duration::ZERO);
    let dispatch = dispatch(route);
    for _ in 0..200 {
        assert!(!succeeds(&dispatch).await);
    }
    assert_eq!(two.calls(), 400, "a retry for each, as the budget allows");
}

#[tokio::test(start_paused = true)]
async fn a_wait_is_kept_though_another_place_has_been_asked_since() {
    let at = [
        Scripted::new(&[StatusWith(503, "retry-after", "20"), Answer]),
        Scripted::new(&[StatusWith(500, "x-should-retry", "false")]),
    ];
    let mut route = side_by_side(vec![
        upstream("a", &[&at[0]]).build(),
        upstream("b", &[&at[1]]).build(),
    ]);
    route.balance = Balance::Order;
    let dispatch = dispatch(route);
    let began = Instant::now();
    assert!(succeeds(&dispatch).await);
    assert_eq!(began.elapsed(), 20 * SECOND);
    assert_eq!((at[0].calls(), at[1].calls()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_place_that_wants_no_retry_gets_none_though_another_fails_after_it() {
    let at = [
        Scripted::new(&[StatusWith(500, "x-should-retry", "false")]),
        Scripted::new(&[Status(501)]),
    ];
    let mut route = side_by_side(vec![
        upstream("a", &[&at[0]]).build(),
        upstream("b", &[&at[1]]).build(),
    ]);
    route.balance = Balance::Order;
    let dispatch = dispatch(route);
    let Some(DispatchError::Upstream { spent, .. }) = ask(&dispatch).await.err() else {
        panic!("no error of an upstream");
    };
    assert!(spent, "no retry of the client's could mend it");
    assert_eq!((at[0].calls(), at[1].calls()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_spent_budget_leaves_a_trace() {
    let one = Scripted::new(&[Status(500)]);
    let mut setup = upstream("one", &[&one]);
    setup.budget = 0.0;
    let member = setup.build();
    let metrics = Arc::clone(&member.endpoints[0].metrics);
    assert!(!succeeds(&dispatch(in_turn(vec![member]))).await);
    let text = metrics.render().unwrap();
    let text = String::from_utf8_lossy(text.as_ref()).into_owned();
    assert!(
        text.contains("weir_retry_budget_exhausted_total{upstream=\"one\"} 1"),
        "{text}"
    );
}
