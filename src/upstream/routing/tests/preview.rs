//! What is told of a call that is not made holds for those that are.

use super::*;
use crate::upstream::member::Aside;
use crate::upstream::member::health::Standing;

/// The places as `upstream/endpoint`, when they would be asked, and how likely each is the first, in percent.
fn told(dispatch: &Dispatch, call: &Call) -> Vec<(String, Turn, u32)> {
    let places = dispatch.preview(call).unwrap().places.into_iter();
    let told = places.map(|place| {
        let chance = (100.0 * place.chance).round() as u32;
        let name = format!("{}/{}", place.upstream, place.endpoint);
        (name, place.turn, chance)
    });
    told.collect()
}

fn names(told: &[(String, Turn, u32)]) -> Vec<&str> {
    told.iter().map(|(name, ..)| &**name).collect()
}

/// Two upstreams of three endpoints and of one.
fn two_upstreams() -> ([Arc<Scripted>; 3], Arc<Scripted>, [Arc<Member>; 2]) {
    let (at, setup) = three([Answer, Answer, Answer]);
    let spare = Scripted::new(&[Answer]);
    let members = [setup.build(), upstream("spare", &[&spare]).build()];
    (at, spare, members)
}

#[tokio::test(start_paused = true)]
async fn the_order_is_that_of_priorities_and_of_cost() {
    let (_at, _spare, members) = two_upstreams();
    for (endpoint, millis) in members[0].endpoints.iter().zip([30, 10, 20]) {
        let latency = Duration::from_millis(millis);
        endpoint.load.answered(latency, false, Instant::now());
    }
    let dispatch = dispatch(in_turn(members.to_vec()));
    use Turn::InOrder;
    let expected = [
        ("three/1".to_owned(), InOrder, 67),
        ("three/2".to_owned(), InOrder, 33),
        ("three/0".to_owned(), InOrder, 0),
        ("spare/0".to_owned(), InOrder, 0),
    ];
    assert_eq!(told(&dispatch, &call()), expected);
}

#[tokio::test(start_paused = true)]
async fn chances_are_the_shares_of_calls() {
    for balance in [Balance::Weighted, Balance::Order, Balance::P2c] {
        let (at, spare, members) = two_upstreams();
        let mut route = side_by_side(members.to_vec());
        route.balance = balance;
        route.targets[0].weight = 3;
        let dispatch = dispatch(route);
        let told = told(&dispatch, &call());
        let chance = |upstream: &str| -> u32 {
            let of = told.iter().filter(|(name, ..)| name.starts_with(upstream));
            of.map(|(_, _, chance)| chance).sum()
        };
        let expected = match balance {
            Balance::Weighted | Balance::P2c => (75, 25),
            Balance::Order => (99, 0),
        };
        assert_eq!((chance("three"), chance("spare")), expected, "{balance:?}");
        let picks = (0..4000).map(|_| {
            let route = dispatch.table.choose(&call()).unwrap().route;
            let times = Times {
                deadline: Instant::now(),
                overdue: Instant::now(),
                patience: None,
            };
            let plan = Plan::begin(Arc::clone(route), times, true, None)
                .ok()
                .unwrap();
            plan.take().unwrap().0.target
        });
        let of_three = picks.filter(|target| *target == 0).count();
        let share = match balance {
            Balance::Weighted | Balance::P2c => 2840..3160,
            Balance::Order => 4000..4001,
        };
        assert!(share.contains(&of_three), "{balance:?}: {of_three}");
        assert_eq!(calls_of(&at) + spare.calls(), 0, "nobody was asked");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_belong_together_have_one_place() {
    let (_at, _spare, members) = two_upstreams();
    let mut route = side_by_side(members.to_vec());
    let name = HeaderName::from_static("x-session-id");
    route.affinity = Some(Affinity::Header(name.clone()));
    let dispatch = dispatch(route);
    for session in 0..20 {
        let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from(session))]);
        let call = call_with(r#"{"model":"m"}"#, headers);
        let told = told(&dispatch, &call);
        assert_eq!(told[0].2, 100);
        let record = Arc::clone(&call.record);
        dispatch.clone().oneshot(call).await.unwrap();
        let tried = record.facts().attempts[0].clone();
        assert_eq!(told[0].0, format!("{}/{}", tried.upstream, tried.endpoint));
    }
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_left_out_and_its_trial_is_told_but_not_taken() {
    use Turn::{InOrder, LastResort, LeftOut};
    let (_at, _spare, members) = two_upstreams();
    eject(&members[0].endpoints[1]);
    let dispatch = dispatch(in_turn(members.to_vec()));
    let seen = told(&dispatch, &call());
    assert_eq!(names(&seen), ["three/0", "three/2", "spare/0", "three/1"]);
    assert_eq!(seen[3].1, LeftOut);
    tokio::time::advance(5 * SECOND).await;
    for _ in 0..10 {
        let seen = told(&dispatch, &call());
        assert_eq!(seen[0], ("three/1".into(), InOrder, 100), "due");
    }
    let standing = members[0].endpoints[1].health.standing(Instant::now());
    assert_eq!(standing, Standing::Due, "nobody took the trial");

    for endpoint in members.iter().flat_map(|member| &member.endpoints) {
        eject(endpoint);
    }
    let seen = told(&dispatch, &call());
    assert_eq!(seen.iter().filter(|seen| seen.1 == LastResort).count(), 2);
    assert!(dispatch.preview(&call()).unwrap().refused.is_none());
}

#[tokio::test(start_paused = true)]
async fn where_nothing_is_left_it_says_what_the_call_would_hear() {
    let one = Scripted::new(&[Answer]);
    let mut setup = upstream("one", &[&one]);
    setup.floor = 0;
    let member = setup.build();
    eject(&member.endpoints[0]);
    let dispatch = dispatch(in_turn(vec![member]));
    let preview = dispatch.preview(&call()).unwrap();
    assert_eq!(preview.places[0].turn, Turn::LeftOut);
    let Some(DispatchError::NothingWell { retry_after }) = preview.refused else {
        panic!("{:?}", preview.refused);
    };
    assert_eq!(retry_after, 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn credentials_that_are_aside_put_their_upstream_last_and_keep_their_turn() {
    let (one, two) = (Scripted::new(&[Answer]), Scripted::new(&[Answer]));
    let mut setup = upstream("one", &[&one]);
    setup.keys = vec!["a"];
    let mut other = upstream("two", &[&two]);
    other.keys = vec!["c", "d"];
    let (first, second) = (setup.build(), other.build());
    let now = Instant::now();
    first.credentials.refused(0, now, now);
    let dispatch = dispatch(in_turn(vec![first, Arc::clone(&second)]));
    for _ in 0..3 {
        assert_eq!(names(&told(&dispatch, &call())), ["two/0", "one/0"]);
    }
    let places = dispatch.preview(&call()).unwrap().places;
    assert_eq!(places[1].aside, Some(Aside::Refused));
    assert_eq!(second.credentials.first(now), Some(0), "the first in turn");
}
