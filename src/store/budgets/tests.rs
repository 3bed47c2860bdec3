use proptest::prelude::*;
use rusqlite::params;

use super::*;
use crate::money::Nanos;

fn tokens(limit: u64, per: Period, window: Window) -> Budget {
    Budget {
        limit: Limit::Tokens(limit),
        per,
        window,
        warn_at_thousandths: 800,
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A ledger with these rows: when, whose, which team's, tokens and cost.
fn ledger(rows: &[(&str, &str, &str, i64, i64)]) -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    connection
        .execute_batch(include_str!("../ledger/schema.sql"))
        .unwrap();
    for (time, key, team, tokens, cost) in rows {
        connection
            .execute(
                "INSERT INTO request (id, request_id, run, key, team, endpoint, stream, status, tokens, cost)
                 VALUES (?, 'r', 1, ?, ?, 'e', 0, 'complete', ?, ?)",
                params![at(time).as_microsecond(), key, team, tokens, cost],
            )
            .unwrap();
    }
    connection
}

fn budgets(key: &[Budget], team: &[Budget], ledger: &Connection, now: Timestamp) -> Budgets {
    let budgets = Budgets::default();
    budgets.replace(holders(key, team), ledger, now).unwrap();
    budgets
}

fn holders(key: &[Budget], team: &[Budget]) -> Vec<(Holder, Vec<Budget>)> {
    vec![
        (Holder::Key("alice".into()), key.to_vec()),
        (Holder::Team("research".into()), team.to_vec()),
    ]
}

fn reserve(budgets: &Budgets, tokens: u64, now: Timestamp) -> Result<Reservation, Box<Spent>> {
    let amount = Amount {
        tokens,
        cost: Nanos::new(tokens),
    };
    budgets.reserve(&"alice".into(), Some(&"research".into()), amount, now)
}

fn used(tokens: u64) -> Amount {
    Amount {
        tokens,
        cost: Nanos::new(tokens),
    }
}

const NOON: &str = "2026-11-25T12:00:00Z";

#[test]
fn all_are_reserved_or_none() {
    let day = |limit| tokens(limit, Period::Day, Window::Calendar);
    let budgets = budgets(&[day(100)], &[day(50)], &ledger(&[]), at(NOON));
    let first = reserve(&budgets, 40, at(NOON)).unwrap();
    let refused = reserve(&budgets, 40, at(NOON)).unwrap_err();
    assert_eq!(refused.holder, Holder::Team("research".into()));
    assert!(!refused.is_used_up);
    let balances = budgets.balances_of("alice", Some("research"), at(NOON));
    assert!(
        balances.iter().all(|balance| balance.reserved == 40),
        "{balances:?}"
    );
    first.settle(used(10));
    let balances = budgets.balances_of("alice", Some("research"), at(NOON));
    assert!(
        balances
            .iter()
            .all(|balance| (balance.reserved, balance.used) == (0, 10)),
        "{balances:?}"
    );
    drop(reserve(&budgets, 40, at(NOON)).unwrap());
    assert!(
        reserve(&budgets, 40, at(NOON)).is_ok(),
        "what is dropped is given back"
    );
}

#[test]
fn a_new_day_begins_at_midnight_and_what_began_before_stays_there() {
    let budgets = budgets(
        &[tokens(100, Period::Day, Window::Calendar)],
        &[],
        &ledger(&[]),
        at(NOON),
    );
    let late = at("2026-11-25T23:59:59Z");
    reserve(&budgets, 1, at(NOON)).unwrap().settle(used(60));
    let across = reserve(&budgets, 40, late).unwrap();
    let spent = reserve(&budgets, 1, late).unwrap_err();
    assert_eq!(spent.renewed, Some(at("2026-11-26T00:00:00Z")));
    let next = at("2026-11-26T00:00:01Z");
    across.settle(used(40));
    assert_eq!(budgets.balances(next)[0].used, 0);
    assert!(reserve(&budgets, 100, next).is_ok());
}

#[test]
fn months_have_their_lengths() {
    let month = tokens(1, Period::Month, Window::Calendar);
    let bounds = |now| month.calendar(at(now)).unwrap();
    assert_eq!(
        bounds("2028-02-29T23:59:59Z"),
        (at("2028-02-01T00:00:00Z"), at("2028-03-01T00:00:00Z"))
    );
    assert_eq!(bounds("2026-12-31T00:00:00Z").1, at("2027-01-01T00:00:00Z"));
}

#[test]
fn a_rolling_day_forgets_what_is_older() {
    let budgets = budgets(
        &[tokens(100, Period::Day, Window::Rolling)],
        &[],
        &ledger(&[]),
        at(NOON),
    );
    reserve(&budgets, 1, at(NOON)).unwrap().settle(used(100));
    assert!(reserve(&budgets, 1, at("2026-11-26T11:59:00Z")).is_err());
    assert!(reserve(&budgets, 1, at("2026-11-26T12:16:00Z")).is_ok());
}

#[test]
fn a_total_never_comes_back_and_remembers_what_was_deleted() {
    let ledger = ledger(&[("2020-01-01T00:00:00Z", "alice", "research", 30, 3)]);
    ledger
        .execute(
            "INSERT INTO forgotten VALUES ('alice', 'research', 0, 1, 50, 5), ('bob', '', 0, 1, 7, 7)",
            [],
        )
        .unwrap();
    let total = tokens(100, Period::Total, Window::Calendar);
    let money = Budget {
        limit: Limit::Money(Nanos::new(100)),
        ..total
    };
    let budgets = budgets(&[total, money], &[], &ledger, at(NOON));
    let mut balances = budgets.balances(at(NOON));
    balances.sort_by_key(|balance| balance.used);
    assert_eq!([balances[0].used, balances[1].used], [8, 80]);
    let spent = reserve(&budgets, 21, at(NOON)).unwrap_err();
    assert_eq!(spent.renewed, None);
}

#[test]
fn the_ledger_fills_what_counts_and_nothing_else() {
    let ledger = ledger(&[
        ("2026-11-24T23:59:59Z", "alice", "research", 1000, 0),
        ("2026-11-25T00:00:00Z", "alice", "research", 10, 0),
        ("2026-11-25T11:00:00Z", "alice", "research", 20, 0),
        ("2026-11-25T11:00:01Z", "o'brien", "research", 40, 0),
        ("2026-11-25T11:00:02Z", "alice2", "other", 80, 0),
    ]);
    let day = tokens(500, Period::Day, Window::Calendar);
    let budgets = budgets(&[day], &[day], &ledger, at(NOON));
    let used = |holder: &str| {
        let balances = budgets.balances(at(NOON));
        balances
            .into_iter()
            .find(|b| b.holder.kind() == holder)
            .unwrap()
            .used
    };
    assert_eq!((used("key"), used("team")), (30, 70));
}

#[test]
fn other_limits_keep_what_was_used_and_calls_under_way() {
    let day = |limit| tokens(limit, Period::Day, Window::Calendar);
    let empty = ledger(&[]);
    let budgets = budgets(&[day(100)], &[], &empty, at(NOON));
    let under_way = reserve(&budgets, 30, at(NOON)).unwrap();
    budgets
        .replace(holders(&[day(50)], &[]), &empty, at(NOON))
        .unwrap();
    assert!(reserve(&budgets, 30, at(NOON)).is_err());
    under_way.settle(used(45));
    assert_eq!(budgets.balances(at(NOON))[0].used, 45);
    assert_eq!(budgets.balances(at(NOON))[0].reserved, 0);
    budgets.replace(Vec::new(), &empty, at(NOON)).unwrap();
    assert!(reserve(&budgets, 1000, at(NOON)).is_ok());
}

#[test]
fn clients_are_warned_of_the_fullest() {
    let day = |limit| tokens(limit, Period::Day, Window::Calendar);
    let budgets = budgets(&[day(100)], &[day(110)], &ledger(&[]), at(NOON));
    let first = reserve(&budgets, 79, at(NOON)).unwrap();
    assert!(
        first.warning().is_none(),
        "what is only reserved warns nobody"
    );
    first.settle(used(90));
    let warned = reserve(&budgets, 1, at(NOON)).unwrap();
    assert_eq!(
        warned
            .warning()
            .map(|balance| (balance.holder.kind(), balance.percent())),
        Some(("key", 90))
    );
}

#[test]
fn what_could_never_be_held_is_told_apart_from_what_is_spent() {
    let day = |limit| tokens(limit, Period::Day, Window::Calendar);
    let budgets = budgets(&[day(100)], &[day(80)], &ledger(&[]), at(NOON));
    let refused = |tokens| reserve(&budgets, tokens, at(NOON)).unwrap_err();
    assert_eq!((refused(81).is_too_large, refused(81).wanted), (true, 81));
    let kept = reserve(&budgets, 80, at(NOON)).unwrap();
    assert!(!refused(80).is_too_large);
    drop(kept);
}

#[test]
fn a_budget_says_what_it_is() {
    let budget = |limit, per, window| {
        Budget {
            limit,
            per,
            window,
            warn_at_thousandths: 1,
        }
        .to_string()
    };
    let money = Limit::Money("50".parse().unwrap());
    assert_eq!(
        budget(money, Period::Month, Window::Calendar),
        "50.00 USD a month"
    );
    assert_eq!(
        budget(Limit::Tokens(5), Period::Day, Window::Rolling),
        "5 tokens in 24 hours"
    );
}

proptest! {
    #[test]
    fn what_is_settled_below_its_estimate_never_exceeds_a_budget(
        mut calls in prop::collection::vec((1_u64..60, 0_u64..60, 0_i64..200_000, any::<bool>()), 1..60),
    ) {
        calls.sort_by_key(|(_, _, seconds, _)| *seconds);
        let day = tokens(100, Period::Day, Window::Calendar);
        let start = at("2026-11-25T00:00:00Z");
        let budgets = budgets(&[day], &[], &ledger(&[]), start);
        let mut admitted: HashMap<i64, u64> = HashMap::new();
        let mut open = Vec::new();
        for (estimate, real, seconds, keeps_open) in calls {
            let now = Timestamp::from_second(start.as_second() + seconds).unwrap();
            let Ok(reservation) = reserve(&budgets, estimate, now) else { continue };
            let real = real.min(estimate);
            *admitted.entry(seconds / 86_400).or_default() += real;
            match keeps_open {
                true => open.push((reservation, real)),
                false => reservation.settle(used(real)),
            }
        }
        open.into_iter().for_each(|(reservation, real)| reservation.settle(used(real)));
        for (day, used) in admitted {
            prop_assert!(used <= 100, "{used} on day {day}");
        }
    }
}

#[test]
fn a_call_under_way_does_not_count_twice_at_a_budget_that_came_meanwhile() {
    let day = tokens(100, Period::Day, Window::Calendar);
    let month = tokens(100, Period::Month, Window::Calendar);
    let budgets = budgets(&[day], &[], &ledger(&[]), at(NOON));
    let under_way = reserve(&budgets, 30, at(NOON)).unwrap();
    // Its open row is in the ledger, at its estimate.
    let with_row = ledger(&[(NOON, "alice", "research", 30, 30)]);
    budgets
        .replace(holders(&[day, month], &[]), &with_row, at(NOON))
        .unwrap();
    under_way.settle(used(20));
    let mut balances = budgets.balances(at(NOON));
    balances.sort_by_key(|balance| balance.used);
    let seen = |balance: &Balance| (balance.budget.per, balance.used, balance.reserved);
    assert_eq!(seen(&balances[0]), (Period::Day, 20, 0));
    assert_eq!(seen(&balances[1]), (Period::Month, 30, 0));
}

#[test]
fn a_month_counts_what_rows_had_used_that_are_kept_for_a_shorter_time() {
    let rows = [(NOON, "alice", "research", 1, 1)];
    let ledger = ledger(&rows);
    for (time, tokens) in [
        ("2026-11-25T06:00:00Z", 10),
        ("2026-11-01T00:00:00Z", 100),
        ("2026-10-31T18:00:00Z", 1000),
        ("2026-10-26T12:00:00Z", 10_000),
        ("2026-10-26T06:00:00Z", 100_000),
    ] {
        ledger
            .execute(
                "INSERT INTO forgotten VALUES ('alice', 'research', ?1, 1, ?2, ?2)",
                params![at(time).as_microsecond(), tokens],
            )
            .unwrap();
    }
    ledger
        .execute_batch("INSERT INTO forgotten VALUES ('alice', 'research', 0, 1, 1000000, 1)")
        .unwrap();
    let month = |window| tokens(10_000_000, Period::Month, window);
    let budgets = budgets(
        &[
            month(Window::Calendar),
            month(Window::Rolling),
            tokens(10_000_000, Period::Total, Window::Calendar),
        ],
        &[month(Window::Calendar)],
        &ledger,
        at(NOON),
    );
    let balances = budgets.balances_of("alice", Some("research"), at(NOON));
    let mut used: Vec<_> = balances.iter().map(|balance| balance.used).collect();
    used.sort_unstable();
    assert_eq!(used, [111, 111, 11_111, 1_111_111]);
}
