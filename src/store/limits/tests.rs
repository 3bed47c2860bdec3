use std::convert::Infallible;
use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn entries(value: Value) -> Vec<Entry> {
    limits_from_json(&value, "limits").unwrap()
}

fn limits(of: &[(Holder, Value)]) -> Limits {
    let limits = Limits::default();
    replace(&limits, of);
    limits
}

fn replace(limits: &Limits, of: &[(Holder, Value)]) {
    let list = of.iter();
    let list: Vec<_> = list
        .map(|(holder, value)| (holder.clone(), entries(value.clone())))
        .collect();
    limits.replace(&list);
}

fn alice() -> Holder {
    Holder::Key("alice".into())
}

fn of_alice(value: Value) -> Limits {
    limits(&[(alice(), value)])
}

const WHO: Who<'_> = Who {
    key: "alice",
    team: Some("research"),
    route: Some("gpt-*"),
    model: Some("gpt-4o"),
};

fn ms(millis: u64) -> Time {
    Time::from_micros(millis * 1000)
}

fn amount(input: u64, output: u64) -> Amount {
    Amount { input, output }
}

fn admit(limits: &Limits, want: Amount, now: Time) -> Result<Reservation, Refusal> {
    admit_as(limits, &WHO, want, now)
}

fn admit_as(
    limits: &Limits,
    who: &Who<'_>,
    want: Amount,
    now: Time,
) -> Result<Reservation, Refusal> {
    match limits.admit(who, &want, now, || Ok::<_, Infallible>(())) {
        Ok(admitted) => Ok(admitted.reservation),
        Err(Denied::Limit(refusal)) => Err(*refusal),
    }
}

/// What is left of each limit, in order.
fn left(limits: &Limits, now: Time) -> Vec<u32> {
    let rooms = limits.headroom(&WHO, now);
    rooms.iter().map(|room| room.remaining).collect()
}

#[test]
fn without_limits_everybody_comes_in() {
    let limits = Limits::default();
    for _ in 0..1000 {
        let call = admit(&limits, amount(u64::MAX, u64::MAX), ms(0)).unwrap();
        call.keep();
    }
    assert_eq!(limits.headroom(&WHO, ms(0)), []);
}

#[test]
fn each_dimension_counts_its_own() {
    let every = json!({
        "requests_per_minute": 60, "burst": 10, "requests_per_day": 100,
        "tokens_per_minute": 1000, "tokens_per_day": 2000,
        "input_tokens_per_minute": 600, "input_tokens_per_day": 700,
        "output_tokens_per_minute": 400, "output_tokens_per_day": 500,
        "concurrent": 2,
    });
    let limits = of_alice(every);
    let call = admit(&limits, amount(100, 50), ms(0)).unwrap();
    assert_eq!(
        left(&limits, ms(0)),
        [9, 99, 850, 1850, 500, 600, 350, 450, 1]
    );
    call.settle(amount(90, 70), ms(0));
    assert_eq!(
        left(&limits, ms(0)),
        [9, 99, 840, 1840, 510, 610, 330, 430, 2]
    );
    let rooms = limits.headroom(&WHO, ms(0));
    let sizes: Vec<u32> = rooms.iter().map(|room| room.size.get()).collect();
    assert_eq!(sizes, [60, 100, 1000, 2000, 600, 700, 400, 500, 2]);
    assert_eq!(
        (rooms[0].burst.get(), rooms[0].reset, rooms[2].reset),
        (10, Duration::from_secs(1), Duration::from_millis(9600))
    );
}

#[test]
fn a_refusal_says_what_and_for_how_long() {
    let limits = limits(&[
        (alice(), json!({ "requests_per_minute": 60, "burst": 1 })),
        (
            Holder::Team("research".into()),
            json!({ "tokens_per_minute": 60, "models": ["gpt-*"] }),
        ),
    ]);
    admit(&limits, amount(30, 20), ms(0)).unwrap().keep();
    // Of two that refuse, the one that is waited for longest.
    let refusal = admit(&limits, amount(20, 10), ms(500)).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "team research has no room: 60 tokens per minute, 10 left, 30 wanted"
    );
    assert_eq!(refusal.retry_after, Some(Duration::from_millis(19_500)));
    assert_eq!(refusal.models[0].as_str(), "gpt-*");
    // Which is true when it is obeyed.
    assert!(admit(&limits, amount(20, 10), ms(19_999)).is_err());
    admit(&limits, amount(20, 10), ms(20_000)).unwrap().keep();
    let refusal = admit(&limits, amount(60, 1), ms(99_000)).unwrap_err();
    assert!(refusal.is_final() && refusal.wanted == 61);
    let refusal = admit(&limits, amount(u64::MAX, u64::MAX), ms(99_000)).unwrap_err();
    assert!(refusal.is_final());
}

#[test]
fn holders_stand_side_by_side() {
    let one = json!({ "requests_per_day": 3 });
    let limits = limits(&[
        (alice(), one.clone()),
        (Holder::Key("bob".into()), one.clone()),
        (Holder::Team("research".into()), one.clone()),
        (Holder::Route("gpt-*".into()), one),
        (Holder::Gateway, json!({ "requests_per_day": 4 })),
    ]);
    let bob = Who {
        key: "bob",
        team: None,
        route: None,
        model: None,
    };
    admit(&limits, amount(0, 0), ms(0)).unwrap().keep();
    admit_as(&limits, &bob, amount(0, 0), ms(0)).unwrap().keep();
    assert_eq!(left(&limits, ms(0)), [2, 2, 2, 2]);
    for _ in 0..2 {
        admit(&limits, amount(0, 0), ms(0)).unwrap().keep();
    }
    let refusal = admit(&limits, amount(0, 0), ms(0)).unwrap_err();
    assert_eq!(refusal.holder, alice());
    let refusal = admit_as(&limits, &bob, amount(0, 0), ms(0)).unwrap_err();
    assert_eq!(refusal.holder, Holder::Gateway);
    // Names of keys may hold anything.
    let odd = Who {
        key: "alice:{research}",
        ..bob
    };
    assert_eq!(limits.headroom(&odd, ms(0)).len(), 1);
}

#[test]
fn a_limit_of_models_counts_those_together() {
    let limits = of_alice(json!([
        { "requests_per_day": 2, "models": ["gpt-*", "poet"] },
        { "requests_per_day": 3 },
    ]));
    let ask = |model| admit_as(&limits, &Who { model, ..WHO }, amount(0, 0), ms(0));
    ask(Some("gpt-4o")).unwrap().keep();
    ask(Some("poet")).unwrap().keep();
    assert_eq!(ask(Some("gpt-4")).unwrap_err().size.get(), 2);
    ask(None).unwrap().keep();
    assert_eq!(ask(Some("other")).unwrap_err().size.get(), 3);
}

#[test]
fn what_refuses_elsewhere_takes_nothing() {
    let limits = of_alice(json!({ "requests_per_day": 2, "tokens_per_day": 100, "concurrent": 1 }));
    let refused = limits.admit(&WHO, &amount(10, 10), ms(0), || Err::<(), _>("no money"));
    assert!(matches!(refused, Err(Denied::Other("no money"))));
    assert_eq!(left(&limits, ms(0)), [2, 100, 1]);
    // And is not asked where a limit has refused already.
    let refused = limits.admit(&WHO, &amount(100, 10), ms(0), || -> Result<(), ()> {
        panic!("it was asked")
    });
    assert!(matches!(refused, Err(Denied::Limit(_))));
    let admitted = limits.admit(&WHO, &amount(10, 10), ms(0), || Ok::<_, ()>(7));
    let admitted = admitted.unwrap();
    assert_eq!((admitted.also, left(&limits, ms(0))), (7, vec![1, 80, 0]));
}

#[test]
fn a_call_that_was_not_sent_costs_nothing() {
    let limits = of_alice(json!({ "requests_per_day": 2, "tokens_per_day": 100, "concurrent": 1 }));
    drop(admit(&limits, amount(10, 10), ms(0)).unwrap());
    assert_eq!(left(&limits, ms(0)), [2, 100, 1]);
    let mut sent = admit(&limits, amount(10, 10), ms(0)).unwrap();
    sent.sent();
    drop(sent);
    assert_eq!(left(&limits, ms(0)), [1, 80, 1]);
    admit(&limits, amount(10, 10), ms(0)).unwrap().keep();
    assert_eq!(left(&limits, ms(0)), [0, 60, 1]);
}

#[test]
fn places_come_back_however_a_call_ends() {
    let limits = of_alice(json!({ "concurrent": 2 }));
    let one = admit(&limits, amount(0, 0), ms(0)).unwrap();
    let mut two = admit(&limits, amount(0, 0), ms(0)).unwrap();
    let refusal = admit(&limits, amount(0, 0), ms(0)).unwrap_err();
    assert_eq!(refusal.dimension, Dimension::Concurrent);
    assert_eq!(refusal.retry_after, Some(Duration::from_secs(1)));
    one.settle(amount(9, 9), ms(0));
    two.sent();
    assert_eq!(left(&limits, ms(0)), [1]);
    let panicking = admit(&limits, amount(0, 0), ms(0)).unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _panicking = panicking;
        panic!("as it was meant to");
    }));
    assert!(panicked.is_err());
    drop(two);
    assert_eq!(left(&limits, ms(0)), [2]);
}

#[test]
fn more_than_was_reserved_is_owed() {
    let limits = of_alice(json!({ "output_tokens_per_minute": 60 }));
    let call = admit(&limits, amount(0, 10), ms(0)).unwrap();
    call.settle(amount(5, 100), ms(0));
    let refusal = admit(&limits, amount(0, 1), ms(0)).unwrap_err();
    assert_eq!(refusal.retry_after, Some(Duration::from_secs(41)));
    // What takes nothing of it is not kept waiting.
    admit(&limits, amount(10, 0), ms(0)).unwrap().keep();
    admit(&limits, amount(0, 1), ms(41_000)).unwrap().keep();
}

#[test]
fn an_answer_takes_more_while_there_is_any() {
    let limits = limits(&[
        (
            alice(),
            json!([
                { "tokens_per_day": 100, "requests_per_day": 1 },
                { "output_tokens_per_day": 10, "shadow": true },
            ]),
        ),
        (Holder::Gateway, json!({ "output_tokens_per_day": 50 })),
    ]);
    let mut call = admit(&limits, amount(40, 10), ms(0)).unwrap();
    assert_eq!(left(&limits, ms(0)), [0, 50, 0, 40]);
    assert!(call.take_more(30, ms(0)));
    assert_eq!(left(&limits, ms(0)), [0, 20, 0, 10]);
    assert!(!call.take_more(11, ms(0)));
    assert_eq!(left(&limits, ms(0)), [0, 20, 0, 10]);
    assert!(call.take_more(10, ms(0)) && !call.take_more(u32::MAX, ms(0)));
    call.settle(amount(40, 45), ms(0));
    assert_eq!(left(&limits, ms(0)), [0, 15, 0, 5]);
}

#[test]
fn a_shadow_reports_and_lets_in() {
    let limits = of_alice(json!([
        { "requests_per_day": 1, "concurrent": 1, "shadow": true },
        { "requests_per_day": 3 },
    ]));
    let ask = || limits.admit(&WHO, &amount(0, 0), ms(0), || Ok::<_, Infallible>(()));
    let first = ask().unwrap();
    assert_eq!(first.shadow, []);
    let second = ask().unwrap();
    let reported: Vec<Dimension> = second.shadow.iter().map(|r| r.dimension).collect();
    assert_eq!(reported, [Dimension::RequestsPerDay, Dimension::Concurrent]);
    second.reservation.keep();
    // It holds what it let in itself, and nothing of what it would have refused.
    assert_eq!(left(&limits, ms(0)), [0, 0, 1]);
    first.reservation.keep();
    let third = ask().unwrap();
    assert_eq!(
        (third.shadow.len(), left(&limits, ms(0))),
        (1, vec![0, 0, 0])
    );
    third.reservation.keep();
    assert!(matches!(ask(), Err(Denied::Limit(_))));
    let rooms = limits.headroom(&WHO, ms(0));
    assert!(rooms[0].shadow && !rooms[2].shadow);
    assert_eq!(tightest_requests(&rooms), Some(&rooms[2]));
}

#[test]
fn the_tightest_has_the_least_left() {
    let limits = limits(&[
        (
            alice(),
            json!({ "requests_per_minute": 60, "burst": 5, "requests_per_day": 5, "tokens_per_minute": 100 }),
        ),
        (
            Holder::Team("research".into()),
            json!({ "requests_per_minute": 6, "input_tokens_per_day": 70, "concurrent": 1 }),
        ),
    ]);
    let call = admit(&limits, amount(10, 10), ms(0)).unwrap();
    let rooms = call.headroom(WHO.model, ms(0));
    assert_eq!(rooms, limits.headroom(&WHO, ms(0)));
    let requests = tightest_requests(&rooms).unwrap();
    assert_eq!(
        (requests.dimension, requests.remaining),
        (Dimension::RequestsPerDay, 4)
    );
    let tokens = tightest_tokens(&rooms).unwrap();
    assert_eq!(
        (tokens.dimension, tokens.remaining),
        (Dimension::InputTokensPerDay, 60)
    );
    assert_eq!(tightest_tokens(&rooms[..1]), None);
}

#[test]
fn what_counts_the_same_goes_on_and_the_rest_begins_anew() {
    let limits = of_alice(json!([
        { "requests_per_day": 10, "tokens_per_minute": 100, "concurrent": 5 },
        { "requests_per_day": 10, "models": ["a", "gpt-*"] },
    ]));
    let call = admit(&limits, amount(10, 30), ms(0)).unwrap();
    let other = admit(&limits, amount(0, 0), ms(0)).unwrap();
    replace(
        &limits,
        &[(
            alice(),
            json!([
                { "requests_per_day": 20, "tokens_per_minute": 1000, "concurrent": 1 },
                { "requests_per_day": 10, "models": ["gpt-*", "a"] },
                { "requests_per_day": 10, "models": ["gpt-*"] },
                { "requests_per_day": 10, "shadow": true },
                { "requests_per_minute": 10, "models": ["gpt-*"] },
            ]),
        )],
    );
    assert_eq!(left(&limits, ms(0)), [18, 960, 0, 8, 10, 10, 10]);
    // What is under way ends where it began.
    call.settle(amount(10, 10), ms(0));
    assert_eq!(left(&limits, ms(0)), [18, 980, 0, 8, 10, 10, 10]);
    replace(&limits, &[(alice(), json!({ "requests_per_day": 1 }))]);
    other.settle(amount(5, 5), ms(0));
    assert_eq!(left(&limits, ms(0)), [0]);
    replace(&limits, &[]);
    assert!(left(&limits, ms(0)).is_empty());
}

#[test]
fn threads_take_exactly_what_there_is() {
    let limits = limits(&[
        (
            alice(),
            json!({ "requests_per_day": 1000, "concurrent": 3 }),
        ),
        (Holder::Gateway, json!({ "tokens_per_day": 5000 })),
    ]);
    let admitted = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    if let Ok(call) = admit(&limits, amount(5, 5), Time::from_micros(1)) {
                        admitted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        call.settle(amount(5, 0), Time::from_micros(1));
                    }
                }
            });
        }
    });
    let mut admitted = admitted.into_inner();
    while let Ok(call) = admit(&limits, amount(5, 5), Time::from_micros(1)) {
        admitted += 1;
        call.settle(amount(5, 0), Time::from_micros(1));
    }
    // The last five tokens are fewer than the ten that a call takes first.
    assert_eq!(admitted, 999);
    assert_eq!(left(&limits, Time::from_micros(1)), [1, 3, 5]);
}

/// What is done in a property test.
#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Back(u64),
    Admit(u64, u64),
    Settle(prop::sample::Index, u64, u64),
    Drop(prop::sample::Index, bool),
    More(prop::sample::Index, u32),
    Replace(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<prop::sample::Index>;
    let step = prop_oneof![
        2 => (0..40_000u64).prop_map(Step::Pass),
        1 => (0..100_000u64).prop_map(Step::Back),
        6 => (0..40u64, 0..40u64).prop_map(|(input, output)| Step::Admit(input, output)),
        3 => (index(), 0..80u64, 0..80u64).prop_map(|(i, input, output)| Step::Settle(i, input, output)),
        2 => (index(), any::<bool>()).prop_map(|(i, sent)| Step::Drop(i, sent)),
        1 => (index(), 1..50u32).prop_map(|(i, n)| Step::More(i, n)),
        1 => (1..100u32).prop_map(Step::Replace),
    ];
    prop::collection::vec(step, 1..80)
}

/// Limits of every dimension and holder, near a size.
fn everywhere(size: u32) -> Vec<(Holder, Value)> {
    vec![
        (
            alice(),
            json!([
                { "requests_per_minute": size, "burst": size.div_ceil(2), "concurrent": size.div_ceil(3) },
                { "tokens_per_minute": size * 9, "models": ["gpt-*"] },
                { "output_tokens_per_minute": size, "shadow": true },
            ]),
        ),
        (
            Holder::Team("research".into()),
            json!({ "input_tokens_per_minute": size * 8 }),
        ),
        (Holder::Gateway, json!({ "requests_per_day": size * 3 })),
    ]
}

proptest! {
    #[test]
    fn a_refused_call_changes_nothing_and_no_place_leaks(size in 1..60u32, steps in steps()) {
        let limits = limits(&everywhere(size));
        let mut now = 1_000_000;
        let mut open = Vec::new();
        for step in steps {
            match step {
                Step::Pass(millis) => now += millis,
                Step::Back(millis) => now -= millis.min(now),
                Step::Admit(input, output) => {
                    let before = limits.headroom(&WHO, ms(now));
                    match admit(&limits, amount(input, output), ms(now)) {
                        Ok(call) => open.push(call),
                        Err(refusal) => {
                            prop_assert!(u64::from(refusal.left) < refusal.wanted);
                            prop_assert_eq!(before, limits.headroom(&WHO, ms(now)));
                        }
                    }
                }
                Step::More(index, n) if !open.is_empty() => {
                    let before = limits.headroom(&WHO, ms(now));
                    if !index.get_mut(&mut open).take_more(n, ms(now)) {
                        prop_assert_eq!(before, limits.headroom(&WHO, ms(now)));
                    }
                }
                Step::Settle(index, input, output) if !open.is_empty() => {
                    let call = open.swap_remove(index.index(open.len()));
                    call.settle(amount(input, output), ms(now));
                }
                Step::Drop(index, sent) if !open.is_empty() => {
                    let mut call = open.swap_remove(index.index(open.len()));
                    if sent {
                        call.sent();
                    }
                }
                Step::Replace(size) => replace(&limits, &everywhere(size)),
                Step::More(..) | Step::Settle(..) | Step::Drop(..) => {}
            }
            for room in limits.headroom(&WHO, ms(now)) {
                prop_assert!(room.remaining <= room.burst.get());
            }
        }
        open.clear();
        let rooms = limits.headroom(&WHO, ms(now));
        for room in rooms.iter().filter(|room| room.dimension == Dimension::Concurrent) {
            prop_assert_eq!(room.remaining, room.size.get());
        }
        // After two days everything is as new, wherever the clock stands.
        for room in limits.headroom(&WHO, ms(now + 48 * 3_600_000)) {
            prop_assert_eq!(room.remaining, room.burst.get());
        }
    }

    #[test]
    fn obeying_a_refusal_is_enough(size in 1..60u32, wants in prop::collection::vec((0..40u64, 0..40u64), 1..60)) {
        let limits = limits(&everywhere(size));
        let mut now = ms(0);
        for (input, output) in wants {
            match admit(&limits, amount(input, output), now) {
                Ok(call) => call.keep(),
                Err(Refusal { retry_after: None, .. }) => {}
                Err(Refusal { retry_after: Some(wait), .. }) => {
                    now = Time::from_micros(now.as_micros() + wait.as_micros() as u64);
                    prop_assert!(admit(&limits, amount(input, output), now).is_ok());
                }
            }
        }
    }
}

#[test]
fn sizes_stay_in_their_range() {
    assert_eq!(Dimension::Concurrent.size(0), None);
    assert_eq!(Dimension::TokensPerMinute.size(600_000_001), None);
    assert_eq!(
        Dimension::TokensPerDay.size(u64::from(u32::MAX)),
        NonZeroU32::new(u32::MAX)
    );
    assert_eq!(Dimension::TokensPerDay.size(u64::from(u32::MAX) + 1), None);
}
