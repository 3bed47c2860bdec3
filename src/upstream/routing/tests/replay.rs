//! Calls that cannot be sent twice.

use super::*;

fn upload() -> Call {
    let body = http_body_util::Empty::new().map_err(|never| -> UploadError { match never {} });
    Call {
        body: CallBody::Stream {
            body: Upload::new(Box::pin(body)),
            length: None,
        },
        ..call()
    }
}

fn without_body(method: Method) -> Call {
    let mut call = Call {
        body: CallBody::Empty,
        ..call()
    };
    call.head.method = method;
    call
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_repeated_is_tried_again_only_if_nothing_was_sent() {
    let to_switch = || Call {
        upgrade: Some(hyper::upgrade::on(http::Request::new(()))),
        ..without_body(Method::GET)
    };
    let calls: [&dyn Fn() -> Call; 4] = [
        &upload,
        &|| without_body(Method::DELETE),
        &|| without_body(Method::POST),
        &to_switch,
    ];
    for (index, call) in calls.into_iter().enumerate() {
        for (first, again) in [
            (Unreached, true),
            (Break, false),
            (Status(503), false),
            (StatusWith(429, "retry-after", "1"), false),
        ] {
            let (one, two) = (Scripted::new(&[first]), Scripted::new(&[Answer]));
            let one_member = upstream("one", &[&one]).build();
            let two_member = upstream("two", &[&two]).build();
            let _ = dispatch(in_turn(vec![one_member, two_member]))
                .oneshot(call())
                .await;
            let expected = if again { (3, 1) } else { (1, 0) };
            assert_eq!((one.calls(), two.calls()), expected, "{index}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_was_taken_is_not_sent_again_whatever_the_failure_says() {
    let (one, two) = (Scripted::new(&[Swallow]), Scripted::new(&[Answer]));
    let members = [("one", &one), ("two", &two)].map(|(name, at)| upstream(name, &[at]).build());
    let dispatch = dispatch(in_turn(members.into()));
    assert!(dispatch.oneshot(upload()).await.is_err());
    assert_eq!((one.calls(), two.calls()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn uploads_bring_an_endpoint_back_when_nothing_else_does() {
    let (one, two) = (Scripted::new(&[Break]), Scripted::new(&[Answer]));
    let mut setup = upstream("one", &[&one, &two]);
    setup.floor = 0;
    let member = setup.build();
    let dispatch = dispatch(in_turn(vec![Arc::clone(&member)]));
    let upload = async || dispatch.clone().oneshot(upload()).await.is_ok();
    eject(&member.endpoints[0]);
    one.now_does(Answer);
    for (secs, calls) in [(5, 0), (4, 0), (1, 1)] {
        tokio::time::advance(secs * SECOND).await;
        assert!(upload().await);
        assert_eq!(one.calls(), calls);
    }
    assert_eq!(member.snapshot().ejected, 0);
    // Where nobody else is there, none waits for that.
    member.endpoints.iter().for_each(|at| eject(at));
    assert!(!upload().await);
    tokio::time::advance(6 * SECOND).await;
    assert!(upload().await);
}
