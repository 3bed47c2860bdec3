//! How calls are shared among the targets of a route.

use super::*;

#[tokio::test(start_paused = true)]
async fn calls_of_one_session_stay_at_one_endpoint() {
    let at = [0; 5].map(|_| Scripted::new(&[Answer]));
    let refs: Vec<_> = at.iter().collect();
    let mut route = in_turn(vec![upstream("one", &refs).build()]);
    route.affinity = Some(Affinity::Header(HeaderName::from_static("x-session-id")));
    let dispatch = dispatch(route);
    let of_session = |session: &'static str| {
        let name = HeaderName::from_static("x-session-id");
        let headers = HeaderMap::from_iter([(name, HeaderValue::from_static(session))]);
        call_with(r#"{"model":"m"}"#, headers)
    };
    let mut homes = std::collections::HashSet::new();
    for session in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        let before: Vec<_> = at.iter().map(|at| at.calls()).collect();
        for _ in 0..10 {
            dispatch.clone().oneshot(of_session(session)).await.unwrap();
        }
        let grown: Vec<_> = (0..5).filter(|i| at[*i].calls() > before[*i]).collect();
        assert_eq!(grown.len(), 1, "{session}");
        homes.insert(grown[0]);
    }
    assert!(homes.len() > 1, "sessions are spread");
}

#[tokio::test(start_paused = true)]
async fn weights_and_renames_of_targets_hold() {
    let (one, two) = (Scripted::new(&[Answer]), Scripted::new(&[Answer]));
    let mut route = side_by_side(vec![
        upstream("one", &[&one]).build(),
        upstream("two", &[&two]).build(),
    ]);
    route.balance = Balance::Weighted;
    route.targets[1].weight = 9;
    route.targets[1].model = Some("renamed".into());
    let dispatch = dispatch(route);
    for _ in 0..1000 {
        assert!(succeeds(&dispatch).await);
    }
    assert!((820..980).contains(&two.calls()), "{}", two.calls());
    let seen = two.seen.lock().unwrap();
    assert!(seen.iter().all(|s| s.model.as_deref() == Some("renamed")));
    assert!(seen.windows(2).all(|pair| pair[0].at <= pair[1].at));
}

#[tokio::test(start_paused = true)]
async fn affinity_keeps_to_the_order_and_to_the_weights() {
    for balance in [Balance::Order, Balance::Weighted] {
        let at = [0; 2].map(|_| Scripted::new(&[Answer]));
        let mut route = side_by_side(vec![
            upstream("one", &[&at[0]]).build(),
            upstream("two", &[&at[1]]).build(),
        ]);
        route.balance = balance;
        route.targets[0].weight = 9;
        let name = HeaderName::from_static("x-session-id");
        route.affinity = Some(Affinity::Header(name.clone()));
        let dispatch = dispatch(route);
        for session in 0..400 {
            let value = HeaderValue::from(session);
            let headers = HeaderMap::from_iter([(name.clone(), value)]);
            let call = call_with(r#"{"model":"m"}"#, headers);
            assert!(dispatch.clone().oneshot(call).await.is_ok());
        }
        let first = at[0].calls();
        match balance {
            Balance::Order => assert_eq!(first, 400),
            Balance::P2c | Balance::Weighted => {
                assert!((330..390).contains(&first), "{first} of 400");
            }
        }
    }
}
