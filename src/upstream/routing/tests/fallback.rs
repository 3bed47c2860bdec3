//! Who stands in for whom, and which answer counts when several have been asked.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_local_model_stands_in_and_says_so() {
    let (remote, local) = (Scripted::new(&[Status(500)]), Scripted::new(&[Answer]));
    let mut poet = upstream("poet", &[&local]);
    poet.local = true;
    let dispatch = dispatch(in_turn(vec![
        upstream("remote", &[&remote]).build(),
        poet.build(),
    ]));
    let call = call();
    let record = Arc::clone(&call.record);
    let reply = dispatch.clone().oneshot(call).await.unwrap();
    assert_eq!(reply.headers["x-weir-degraded"], "true");
    assert!(record.facts().degraded);
    remote.now_does(Answer);
    let reply = ask(&dispatch).await.unwrap();
    assert!(!reply.headers.contains_key("x-weir-degraded"));
}

#[tokio::test(start_paused = true)]
async fn a_full_upstream_makes_room_for_the_next_target() {
    let (one, two) = (Scripted::new(&[Hang]), Scripted::new(&[Answer]));
    let mut setup = upstream("one", &[&one]);
    setup.gate = Some(Arc::new(Gate::new(1, 0)));
    let dispatch = dispatch(in_turn(vec![
        setup.build(),
        upstream("two", &[&two]).build(),
    ]));
    let hanging = tokio::spawn(dispatch.clone().oneshot(call()));
    tokio::task::yield_now().await;
    assert!(succeeds(&dispatch).await);
    assert_eq!((one.calls(), two.calls()), (1, 1));
    hanging.abort();
    let _ = hanging.await;
    assert_eq!(
        dispatch
            .snapshots()
            .map(|(_, s)| s.in_flight)
            .sum::<usize>(),
        0
    );
}

#[tokio::test(start_paused = true)]
async fn who_cannot_serve_a_call_does_not_hide_that_another_has_failed() {
    for unable in [
        CannotDo,
        Told(404, "model_not_found"),
        Told(400, "context_length_exceeded"),
    ] {
        let (down, other) = (
            Scripted::new(&[Status(503)]),
            Scripted::new(std::slice::from_ref(&unable)),
        );
        let setups = [upstream("down", &[&down]), upstream("other", &[&other])];
        let dispatch = dispatch(in_turn(setups.map(Setup::build).into()));
        let call = call();
        let record = Arc::clone(&call.record);
        let error = dispatch.clone().oneshot(call).await.err();
        let Some(DispatchError::Upstream {
            name,
            source: UpstreamError::Status { status, .. },
            spent,
        }) = error
        else {
            panic!("{error:?}");
        };
        assert_eq!((&*name, status.as_u16(), spent), ("down", 503, true));
        assert_eq!(record.facts().upstream.as_deref(), Some("down"));
        assert_eq!(other.calls(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_told_where_nobody_after_it_can_serve_the_call() {
    let limited = Scripted::new(&[StatusWith(429, "retry-after", "60")]);
    let local = Scripted::new(&[CannotDo]);
    let setups = [
        upstream("limited", &[&limited]),
        upstream("local", &[&local]),
    ];
    let dispatch = dispatch(in_turn(setups.map(Setup::build).into()));
    let reply = ask(&dispatch).await.unwrap();
    assert_eq!(reply.status, 429);
    assert_eq!(reply.headers["retry-after"], "60");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_nobody_has_failed_is_told_what_is_wrong_with_it() {
    let (one, two) = (
        Scripted::new(&[Told(404, "model_not_found")]),
        Scripted::new(&[Answer]),
    );
    let setups = [upstream("one", &[&one]), upstream("two", &[&two])];
    let dispatch = dispatch(in_turn(setups.map(Setup::build).into()));
    assert_eq!(ask(&dispatch).await.unwrap().status, 404);
    assert_eq!(two.calls(), 0);
    // What is wrong wherever it is asked stays the client's.
    let (down, two) = (
        Scripted::new(&[Status(503)]),
        Scripted::new(&[Told(400, "invalid_json")]),
    );
    let setups = [upstream("down", &[&down]), upstream("two", &[&two])];
    let dispatch = self::dispatch(in_turn(setups.map(Setup::build).into()));
    assert_eq!(ask(&dispatch).await.unwrap().status, 400);
}

#[tokio::test(start_paused = true)]
async fn a_third_target_is_asked_where_the_second_cannot_serve() {
    let at = [
        Scripted::new(&[Status(503)]),
        Scripted::new(&[CannotDo]),
        Scripted::new(&[Answer]),
    ];
    let members = ["a", "b", "c"].into_iter().zip(&at);
    let members = members.map(|(name, at)| upstream(name, &[at]).build());
    assert!(succeeds(&dispatch(in_turn(members.collect()))).await);
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_place_is_no_try() {
    let one = Scripted::new(&[Hang]);
    let mut setup = upstream("one", &[&one]);
    setup.gate = Some(Arc::new(Gate::new(1, 0)));
    let dispatch = dispatch(in_turn(vec![setup.build()]));
    let _hanging = tokio::spawn(dispatch.clone().oneshot(call()));
    tokio::task::yield_now().await;
    let call = call();
    let record = Arc::clone(&call.record);
    assert!(dispatch.clone().oneshot(call).await.is_err());
    assert!(record.facts().attempts.is_empty());
    assert_eq!(record.facts().upstream.as_deref(), Some("one"));
}

#[tokio::test(start_paused = true)]
async fn models_are_asked_for_at_each_endpoint() {
    let (dead, well) = (Scripted::new(&[Break]), Scripted::new(&[Answer]));
    let dispatch = dispatch(in_turn(vec![upstream("one", &[&dead, &well]).build()]));
    for (endpoint, told) in [
        (Path::Models, "\"listed\""),
        (Path::Model("listed".into()), "\"listed\""),
    ] {
        let call = Call { endpoint, ..call() };
        let reply = dispatch.clone().oneshot(call).await.unwrap();
        let body = reply.body.collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&body).contains(told));
    }
}
