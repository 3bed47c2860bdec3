//! Whose time a call has, and what happens at its end.

use super::*;
use crate::call::Cause;

#[tokio::test(start_paused = true)]
async fn no_wait_goes_beyond_the_clients_deadline() {
    let one = Scripted::new(&[StatusWith(503, "retry-after", "7")]);
    let dispatch = dispatch(in_turn(vec![upstream("one", &[&one]).build()]));
    let mut hurried = call();
    hurried.deadline = Some(Instant::now() + 5 * SECOND);
    let error = dispatch.clone().oneshot(hurried).await.err();
    assert!(matches!(
        error,
        Some(DispatchError::Upstream { spent: false, .. })
    ));
    assert_eq!(one.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_clients_deadline_is_for_the_beginning_of_an_answer() {
    let one = Scripted::new(&[Answer]);
    let dispatch = dispatch(in_turn(vec![upstream("one", &[&one]).build()]));
    let began = Instant::now();
    let mut hurried = call();
    hurried.deadline = Some(began + 5 * SECOND);
    assert!(dispatch.clone().oneshot(hurried).await.is_ok());
    let seen = one.seen.lock().unwrap();
    let times = (seen[0].deadline - began, seen[0].overdue - began);
    assert_eq!(times, (5 * SECOND, 600 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_a_word_is_not_held_beyond_the_clients_deadline() {
    let one = Scripted::new(&[Silence]);
    let dispatch = dispatch(in_turn(vec![upstream("one", &[&one]).build()]));
    let began = Instant::now();
    let mut hurried = streamed();
    hurried.deadline = Some(began + 5 * SECOND);
    let error = dispatch.clone().oneshot(hurried).await.err();
    let Some(DispatchError::Upstream { source, .. }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(source.cause(), Cause::ClientDeadline, "{source}");
    assert_eq!(began.elapsed(), 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_after_the_deadline() {
    let (one, two) = (Scripted::new(&[Hang]), Scripted::new(&[Hang]));
    let mut setup = upstream("one", &[&one]);
    setup.gate = Some(Arc::new(Gate::new(1, 5)));
    let members = vec![setup.build(), upstream("two", &[&two]).build()];
    let dispatch = dispatch(in_turn(members));
    let _hanging = tokio::spawn(dispatch.clone().oneshot(call()));
    tokio::task::yield_now().await;
    let error = dispatch.clone().oneshot(hurried(SECOND)).await.err();
    assert!(
        matches!(
            error,
            Some(DispatchError::Upstream {
                source: UpstreamError::NoPlace { .. },
                ..
            })
        ),
        "{error:?}"
    );
    assert_eq!(two.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn each_target_has_its_own_time_and_the_call_that_of_the_most_patient() {
    let (slow, good) = (Scripted::new(&[Hang]), Scripted::new(&[After(50 * SECOND)]));
    let make = |name, at, total| {
        let mut member = upstream(name, &[at]).build();
        Arc::get_mut(&mut member).unwrap().timeouts.total = total;
        member
    };
    let members = vec![
        make("slow", &slow, 10 * SECOND),
        make("good", &good, 100 * SECOND),
    ];
    let dispatch = dispatch(in_turn(members));
    let began = Instant::now();
    assert!(succeeds(&dispatch).await);
    assert_eq!(began.elapsed(), 60 * SECOND);
    let seen = good.seen.lock().unwrap();
    assert_eq!(seen[0].overdue - began, 100 * SECOND, "the call's own");
}
