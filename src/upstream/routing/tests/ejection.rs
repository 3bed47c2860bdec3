//! Endpoints that are left out, and how they come back.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_is_left_out_and_comes_back_by_one_trial() {
    let (bad, good) = (Scripted::new(&[Break]), Scripted::new(&[Answer]));
    let member = upstream("bad", &[&bad]).build();
    let members = vec![Arc::clone(&member), upstream("good", &[&good]).build()];
    let mut route = side_by_side(members);
    // Latency alone would keep calls away from it.
    route.balance = Balance::Weighted;
    let dispatch = dispatch(route);
    for _ in 0..100 {
        assert!(succeeds(&dispatch).await);
    }
    assert_eq!(bad.calls(), 5);
    assert_eq!(member.snapshot().ejected, 1);
    tokio::time::advance(5 * SECOND).await;
    for _ in 0..10 {
        assert!(succeeds(&dispatch).await);
    }
    assert_eq!(bad.calls(), 6, "one trial, and out for ten seconds");
    bad.now_does(Answer);
    tokio::time::advance(10 * SECOND).await;
    for _ in 0..40 {
        assert!(succeeds(&dispatch).await);
    }
    assert!(bad.calls() > 7);
    assert_eq!(member.snapshot().ejected, 0);
}

#[tokio::test(start_paused = true)]
async fn the_last_one_is_kept_unless_the_floor_is_none() {
    let one = Scripted::new(&[Status(520)]);
    let dispatch_of = |floor| {
        let mut setup = upstream("one", &[&one]);
        setup.floor = floor;
        dispatch(in_turn(vec![setup.build()]))
    };
    let kept = dispatch_of(1);
    for _ in 0..20 {
        assert!(!succeeds(&kept).await);
    }
    assert_eq!(one.calls(), 20);
    one.now_does(Answer);
    assert!(succeeds(&kept).await, "it is back as soon as it is well");

    one.now_does(Status(520));
    let left_out = dispatch_of(0);
    for _ in 0..20 {
        assert!(!succeeds(&left_out).await);
    }
    assert_eq!(one.calls(), 21 + 5);
    let error = ask(&left_out).await.err();
    let Some(DispatchError::NothingWell { retry_after }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(retry_after, 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_hangs_is_left_out_though_only_its_clients_give_up() {
    for client_leaves in [false, true] {
        let (hung, good) = (Scripted::new(&[Hang]), Scripted::new(&[Answer]));
        let mut route = side_by_side(vec![
            upstream("hung", &[&hung]).build(),
            upstream("good", &[&good]).build(),
        ]);
        route.balance = Balance::Order;
        let dispatch = dispatch(route);
        for _ in 0..5 {
            let (patience, deadline) = match client_leaves {
                true => (20 * SECOND, 600 * SECOND),
                false => (600 * SECOND, 20 * SECOND),
            };
            let asked = dispatch.clone().oneshot(hurried(deadline));
            let left = tokio::time::timeout(patience, asked).await;
            assert!(left.is_err() || left.is_ok_and(|result| result.is_err()));
        }
        assert!(succeeds(&dispatch).await);
        assert_eq!((hung.calls(), good.calls()), (5, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn clients_in_a_hurry_say_nothing_of_an_endpoint() {
    let slow = Scripted::new(&[Hang]);
    let member = upstream("slow", &[&slow]).build();
    let dispatch = dispatch(in_turn(vec![Arc::clone(&member)]));
    for _ in 0..20 {
        let asked = dispatch.clone().oneshot(hurried(SECOND));
        assert!(asked.await.is_err());
    }
    assert_eq!(member.snapshot().ejected, 0);
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_hangs_until_the_clients_deadline_brings_nothing_back() {
    let one = Scripted::new(&[Break]);
    let mut setup = upstream("one", &[&one]);
    setup.floor = 0;
    let member = setup.build();
    let mut route = in_turn(vec![Arc::clone(&member)]);
    route.retry.attempts = 0;
    let dispatch = dispatch(route);
    for _ in 0..5 {
        assert!(!succeeds(&dispatch).await);
    }
    one.now_does(Hang);
    for deadline in [SECOND, 20 * SECOND] {
        tokio::time::advance(5 * SECOND).await;
        assert!(dispatch.clone().oneshot(hurried(deadline)).await.is_err());
        assert_eq!(member.snapshot().ejected, 1);
    }
    assert_eq!(one.calls(), 7);
    assert!(
        matches!(ask(&dispatch).await, Err(DispatchError::NothingWell { .. })),
        "twenty seconds of silence are a failed trial"
    );
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_cuts_its_streams_is_left_out() {
    let one = Scripted::new(&[Cut(&[WORD])]);
    let mut setup = upstream("one", &[&one]);
    setup.floor = 0;
    let member = setup.build();
    let dispatch = dispatch(in_turn(vec![Arc::clone(&member)]));
    let streamed = async || dispatch.clone().oneshot(streamed()).await;
    for _ in 0..5 {
        let reply = streamed().await.unwrap();
        assert!(reply.body.collect().await.is_err());
    }
    assert_eq!(member.snapshot().ejected, 1);
    tokio::time::advance(5 * SECOND).await;
    let reply = streamed().await.unwrap();
    assert_eq!(member.snapshot().ejected, 0, "it has begun");
    assert!(reply.body.collect().await.is_err());
    assert_eq!(member.snapshot().ejected, 1);
}

#[tokio::test(start_paused = true)]
async fn what_an_upstream_does_not_offer_is_no_failure() {
    let one = Scripted::new(&[Status(501)]);
    let member = upstream("one", &[&one]).build();
    let dispatch = dispatch(in_turn(vec![Arc::clone(&member)]));
    for _ in 0..20 {
        assert!(!succeeds(&dispatch).await);
    }
    assert_eq!(member.snapshot().ejected, 0);
}

#[tokio::test(start_paused = true)]
async fn the_floor_is_a_number_of_endpoints() {
    for (attempts, floor) in [(0, 1), (2, 1), (0, 2), (2, 3)] {
        let (at, mut setup) = three([Status(520), Status(520), Status(520)]);
        setup.floor = floor;
        let member = setup.build();
        let mut route = in_turn(vec![Arc::clone(&member)]);
        route.retry.attempts = attempts;
        let dispatch = dispatch(route);
        while member.snapshot().ejected < 3 {
            assert!(!succeeds(&dispatch).await);
        }
        let before = calls_of(&at);
        assert!(!succeeds(&dispatch).await);
        let asked = calls_of(&at) - before;
        let expected = floor.min(attempts as usize + 1);
        assert_eq!(asked, expected, "{floor}, {attempts}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_trial_never_costs_a_call_its_answer() {
    for attempts in [0, 1, 2] {
        let (at, setup) = three([Break, Break, Answer]);
        let member = setup.build();
        let mut route = in_turn(vec![Arc::clone(&member)]);
        route.retry.attempts = attempts;
        let dispatch = dispatch(route);
        member.endpoints[..2].iter().for_each(|at| eject(at));
        let before = calls_of(&at);
        for _ in 0..10 {
            tokio::time::advance(300 * SECOND).await;
            for _ in 0..4 {
                assert!(succeeds(&dispatch).await, "{attempts}");
            }
        }
        assert_eq!(calls_of(&at) - before, 10 * (4 + 2), "each trial once");
        assert_eq!(member.snapshot().ejected, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_trial_is_not_taken_with_the_last_try() {
    for _ in 0..20 {
        let (at, setup) = three([Break, Break, Answer]);
        let member = setup.build();
        eject(&member.endpoints[0]);
        tokio::time::advance(5 * SECOND).await;
        let mut route = in_turn(vec![member]);
        route.retry.attempts = 1;
        assert!(succeeds(&dispatch(route)).await);
        assert_eq!(at[0].calls(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_hangs_gets_no_more_calls_than_it_takes_to_notice() {
    let (hung, good) = (Scripted::new(&[Hang]), Scripted::new(&[After(SECOND / 5)]));
    let dispatch = dispatch(side_by_side(vec![
        upstream("hung", &[&hung]).build(),
        upstream("good", &[&good]).build(),
    ]));
    for _ in 0..200 {
        tokio::spawn(dispatch.clone().oneshot(call()));
        tokio::time::sleep(SECOND / 10).await;
    }
    assert!(hung.calls() <= 3, "{} of 200", hung.calls());
}

#[tokio::test(start_paused = true)]
async fn an_upstream_is_ready_as_long_as_its_floor_lets_calls_in() {
    for floor in [0, 1] {
        let one = Scripted::new(&[Break]);
        let mut setup = upstream("one", &[&one]);
        setup.floor = floor;
        let member = setup.build();
        eject(&member.endpoints[0]);
        assert_eq!(member.is_ready(), floor > 0);
    }
}
