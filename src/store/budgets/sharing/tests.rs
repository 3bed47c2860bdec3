use super::*;
use crate::store::budgets::budget::Budget;
use crate::store::budgets::{Limit, Period, Window};

const NOON: &str = "2026-11-25T12:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn budgets(per: Period, window: Window) -> Budgets {
    let ledger = rusqlite::Connection::open_in_memory().unwrap();
    ledger
        .execute_batch(include_str!("../../ledger/schema.sql"))
        .unwrap();
    let budget = Budget {
        limit: Limit::Tokens(100),
        per,
        window,
        warn_at_thousandths: 800,
    };
    let budgets = Budgets::shared_by("one".into(), at(NOON));
    let all = vec![(Holder::Key("alice".into()), vec![budget])];
    budgets.replace(all, &ledger, at(NOON)).unwrap();
    budgets
}

fn charge(key: &Arc<str>, tokens: u64, at: Timestamp) -> Charge<'_> {
    Charge {
        key,
        team: None,
        amount: Amount {
            tokens,
            ..Amount::default()
        },
        at,
    }
}

fn others(used: u64, reserved: u64) -> Answer {
    Answer {
        others: Taken { used, reserved },
        is_spent: false,
        is_lost: false,
        is_noted: true,
    }
}

fn whole(budgets: &Budgets, now: Timestamp) -> (u64, u64) {
    let balance = &budgets.balances(now)[0];
    (balance.used, balance.reserved)
}

#[test]
fn what_others_have_counts_until_the_period_is_over() {
    let alice = "alice".into();
    for (per, window, within, over) in [
        (
            Period::Day,
            Window::Calendar,
            "2026-11-25T23:59:59Z",
            "2026-11-26T00:00:00Z",
        ),
        (
            Period::Month,
            Window::Calendar,
            "2026-11-30T23:59:59Z",
            "2026-12-01T00:00:00Z",
        ),
        (
            Period::Day,
            Window::Rolling,
            "2026-11-26T11:59:59Z",
            "2026-11-26T12:00:00Z",
        ),
        (
            Period::Month,
            Window::Rolling,
            "2026-12-25T11:59:59Z",
            "2026-12-25T12:00:00Z",
        ),
    ] {
        let budgets = budgets(per, window);
        let [report] = &budgets.reports(true, at(NOON))[..] else {
            panic!("there is one budget");
        };
        report.answered(&others(60, 30), at(NOON));
        assert_eq!(whole(&budgets, at(within)), (60, 30));
        let refused = budgets
            .charge(Some(charge(&alice, 11, at(within))))
            .unwrap_err();
        assert_eq!((refused.used, refused.is_used_up), (60, false));
        assert!(budgets.charge(Some(charge(&alice, 10, at(within)))).is_ok());
        // What others have now is for them to say, when they are asked.
        assert!(
            budgets
                .reserve_alone(&charge(&alice, 100, at(within)))
                .is_ok()
        );
        assert!(
            budgets
                .reserve_alone(&charge(&alice, 101, at(within)))
                .is_err()
        );
        assert_eq!(whole(&budgets, at(over)), (0, 0), "{per:?} {window:?}");
        // An answer from the old period says nothing of the new one.
        report.answered(&others(60, 30), at(over));
        if window == Window::Calendar {
            assert_eq!(whole(&budgets, at(over)), (0, 0));
        }
    }
}

#[test]
fn an_answer_that_is_late_says_nothing() {
    let budgets = budgets(Period::Total, Window::Calendar);
    let first = budgets.reports(true, at(NOON)).remove(0);
    let second = budgets.reports(true, at(NOON)).remove(0);
    assert!(second.number > first.number);
    second.answered(&others(7, 0), at(NOON));
    first.answered(&others(5, 5), at(NOON));
    assert_eq!(whole(&budgets, at(NOON)), (7, 0));
}

#[test]
fn others_hear_of_what_has_changed_and_of_nothing_else() {
    let alice = "alice".into();
    let budgets = budgets(Period::Total, Window::Calendar);
    let untold = || budgets.reports(false, at(NOON));
    // Of a new one, what others have is asked at once.
    let new = untold();
    assert_eq!(new.len(), 1);
    new[0].heard("one 1", Vec::new());
    new[0].answered(&others(0, 0), at(NOON));
    assert!(untold().is_empty());
    // Let in: they know of the call, and hear what has become of it.
    let call = budgets
        .reserve_alone(&charge(&alice, 10, at(NOON)))
        .unwrap();
    let [asked] = &call.reports(at(NOON))[..] else {
        panic!("there is one budget");
    };
    assert_eq!(
        (asked.own, asked.want),
        (
            Taken {
                used: 0,
                reserved: 10
            },
            10
        )
    );
    asked.answered(&others(0, 0), at(NOON));
    call.settle(Amount {
        tokens: 4,
        ..Amount::default()
    });
    let [told] = &untold()[..] else {
        panic!("it has changed");
    };
    assert_eq!(
        told.own,
        Taken {
            used: 4,
            reserved: 0
        }
    );
    told.answered(&others(0, 0), at(NOON));
    assert!(untold().is_empty());
    // Refused: they have never heard of it.
    let call = budgets
        .reserve_alone(&charge(&alice, 10, at(NOON)))
        .unwrap();
    let asked = call.reports(at(NOON)).remove(0);
    let refused = Answer {
        is_spent: true,
        is_noted: false,
        ..others(95, 0)
    };
    asked.answered(&refused, at(NOON));
    let spent = asked.spent(&refused, at(NOON));
    assert_eq!(
        (spent.used, spent.wanted, spent.is_used_up),
        (99, 10, false)
    );
    drop(call);
    assert!(untold().is_empty());
    // Not answered: nobody knows whether they have.
    let call = budgets
        .reserve_alone(&charge(&alice, 10, at(NOON)))
        .unwrap();
    let _ = call.reports(at(NOON));
    drop(call);
    assert_eq!(untold().len(), 1);
}

#[test]
fn in_what_epoch_others_have_used_something_is_asked_for_once() {
    let alice = "alice".into();
    let budgets = budgets(Period::Total, Window::Calendar);
    let untold = || budgets.reports(false, at(NOON));
    untold()[0].answered(&others(0, 0), at(NOON));
    let call = budgets
        .reserve_alone(&charge(&alice, 10, at(NOON)))
        .unwrap();
    let refused = Answer {
        is_spent: true,
        is_noted: false,
        ..others(95, 0)
    };
    budgets.answered(&call.reports(at(NOON)), &[refused], at(NOON));
    drop(call);
    let [asked] = &untold()[..] else {
        panic!("nobody knows in what epoch that stands");
    };
    asked.heard("two 7", Vec::new());
    asked.answered(&others(95, 0), at(NOON));
    assert!(untold().is_empty());
}

#[test]
fn what_is_remembered_of_others_is_bounded_and_ends_with_the_period() {
    let budgets = budgets(Period::Day, Window::Calendar);
    let next = |now: &str| budgets.reports(true, at(now)).remove(0);
    let first = next(NOON);
    let entry = |n: usize| (format!("ledger {n}"), format!("1 {n} 0 0 0"));
    first.heard("one 1", (0..100).map(entry).collect());
    let mut second = next(NOON);
    let remembered: Vec<_> = (36..100).rev().map(entry).collect();
    assert_eq!(second.remembered(), remembered);
    assert_eq!(second.epoch(), "one 1");
    second.restored("two 7", at(NOON));
    assert_eq!(next(NOON).epoch(), "two 7");
    // What was asked before is answered late.
    first.heard("one 1", Vec::new());
    assert_eq!(next(NOON).remembered(), remembered);
    let tomorrow = next("2026-11-26T00:00:00Z");
    assert_eq!((tomorrow.epoch(), tomorrow.remembered()), ("", &[][..]));
}

#[test]
fn a_budget_has_one_name_whatever_its_size_is() {
    let budget = |limit, per, window| Budget {
        limit,
        per,
        window,
        warn_at_thousandths: 800,
    };
    let name = "a:b{c}".into();
    let small = budget(Limit::Tokens(1), Period::Day, Window::Rolling);
    let large = budget(Limit::Tokens(9), Period::Day, Window::Rolling);
    let holder = Holder::Team(name);
    assert_eq!(small.shared_name(&holder), "tokens:day:rolling:team:a:b{c}");
    assert_eq!(small.shared_name(&holder), large.shared_name(&holder));
}
