//! Second attempts beside slow ones.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_overtaken_within_the_budget() {
    let (slow, fast) = (
        Scripted::new(&[After(20 * SECOND)]),
        Scripted::new(&[Answer]),
    );
    let mut route = side_by_side(vec![
        upstream("slow", &[&slow]).build(),
        upstream("fast", &[&fast]).build(),
    ]);
    route.balance = Balance::Order;
    route.hedge = Some(Arc::new(Hedge::new(1.0, Some(SECOND))));
    let dispatch = dispatch(route);
    let began = Instant::now();
    let call = call();
    let record = Arc::clone(&call.record);
    assert!(dispatch.clone().oneshot(call).await.is_ok());
    assert_eq!(began.elapsed(), SECOND);
    assert_eq!((slow.calls(), fast.calls()), (1, 1));
    let facts = record.facts();
    let results: Vec<_> = facts.attempts.iter().map(|a| a.result).collect();
    assert_eq!(results, ["abandoned", "answered"]);
    assert_eq!(facts.upstream.as_deref(), Some("fast"));
    assert_eq!(
        dispatch
            .snapshots()
            .map(|(_, s)| s.in_flight)
            .sum::<usize>(),
        0
    );
}

#[tokio::test(start_paused = true)]
async fn no_second_attempt_goes_to_a_lower_priority() {
    let (slow, local) = (
        Scripted::new(&[After(20 * SECOND)]),
        Scripted::new(&[Answer]),
    );
    let mut poet = upstream("poet", &[&local]);
    poet.local = true;
    let mut route = in_turn(vec![upstream("slow", &[&slow]).build(), poet.build()]);
    let hedge = Arc::new(Hedge::new(1.0, Some(SECOND)));
    route.hedge = Some(Arc::clone(&hedge));
    let dispatch = dispatch(route);
    let reply = ask(&dispatch).await.unwrap();
    assert!(!reply.headers.contains_key("x-weir-degraded"));
    assert_eq!((slow.calls(), local.calls()), (1, 0));
    assert!(hedge.withdraw(), "nothing was taken for it");
}

#[tokio::test(start_paused = true)]
async fn second_attempts_start_at_the_percentile_of_good_answers() {
    let (one, two) = (Scripted::new(&[Status(501)]), Scripted::new(&[Status(501)]));
    let mut route = side_by_side(vec![
        upstream("one", &[&one]).build(),
        upstream("two", &[&two]).build(),
    ]);
    route.balance = Balance::Order;
    route.hedge = Some(Arc::new(Hedge::new(1.0, None)));
    let dispatch = dispatch(route);
    // Failures come at once, and are no measure of an answer.
    for _ in 0..20 {
        assert!(!succeeds(&dispatch).await);
    }
    one.now_does(After(2 * SECOND));
    two.now_does(Answer);
    let before = two.calls();
    for _ in 0..20 {
        assert!(succeeds(&dispatch).await);
    }
    assert_eq!(two.calls(), before, "nothing is known yet");
    one.now_does(After(20 * SECOND));
    let began = Instant::now();
    assert!(succeeds(&dispatch).await);
    assert_eq!(began.elapsed(), 2 * SECOND);
}
