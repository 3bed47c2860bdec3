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

/// What alice and research have used, and what is reserved.
fn seen(budgets: &Budgets) -> Vec<(u64, u64)> {
    let balances = budgets.balances_of("alice", Some("research"), at(NOON));
    balances.iter().map(|b| (b.used, b.reserved)).collect()
}

#[test]
fn calls_that_come_while_a_budget_is_read_count_once() {
    let month = tokens(100, Period::Month, Window::Calendar);
    let budgets = budgets(&[], &[], &ledger(&[]), at(NOON));
    let mut before = reserve(&budgets, 1, at(NOON)).unwrap();
    before.entered(used(1));
    // It waits for something between its admission and its row.
    let mut waits = reserve(&budgets, 2, at(NOON)).unwrap();
    let replacement = Replacement::begin(&budgets, holders(&[month], &[month]));
    // Read now: what has ended before, or entered its row.
    let file = ledger(&[(NOON, "alice", "research", 33, 33)]);
    waits.entered(used(2));
    let mut during = reserve(&budgets, 4, at(NOON)).unwrap();
    during.entered(used(4));
    let mut short = reserve(&budgets, 8, at(NOON)).unwrap();
    short.entered(used(8));
    short.settle(used(7));
    before.settle(used(1));
    assert!(seen(&budgets).is_empty(), "nobody knows yet");
    drop(reserve(&budgets, 1000, at(NOON)).unwrap());
    replacement.finish(&file, at(NOON)).unwrap();
    assert_eq!(seen(&budgets), [(40, 6), (40, 6)]);
    waits.settle(used(3));
    drop(during);
    assert_eq!(seen(&budgets), [(43, 0), (43, 0)]);
    assert!(reserve(&budgets, 58, at(NOON)).is_err());
}

#[test]
fn a_call_counts_at_a_budget_that_has_read_its_row_when_it_uses_more_than_that_says() {
    let month = tokens(1000, Period::Month, Window::Calendar);
    let budgets = budgets(&[], &[], &ledger(&[]), at(NOON));
    let mut more = reserve(&budgets, 50, at(NOON)).unwrap();
    more.entered(used(30));
    let mut less = reserve(&budgets, 50, at(NOON)).unwrap();
    less.entered(used(30));
    let file = ledger(&[(NOON, "alice", "research", 60, 60)]);
    let both = holders(&[month], &[month]);
    budgets.replace(both, &file, at(NOON)).unwrap();
    assert_eq!(seen(&budgets), [(60, 0), (60, 0)]);
    more.settle(used(45));
    less.settle(used(20));
    assert_eq!(seen(&budgets), [(75, 0), (75, 0)]);
}

#[test]
fn a_budget_that_cannot_be_read_changes_nothing() {
    let day = |limit| tokens(limit, Period::Day, Window::Calendar);
    let month = tokens(1, Period::Month, Window::Calendar);
    let budgets = budgets(&[day(100)], &[], &ledger(&[]), at(NOON));
    reserve(&budgets, 30, at(NOON)).unwrap().settle(used(30));
    let no_ledger = Connection::open_in_memory().unwrap();
    let new = holders(&[day(10), month], &[month]);
    budgets
        .replace(new.clone(), &no_ledger, at(NOON))
        .unwrap_err();
    assert_eq!(reserve(&budgets, 70, at(NOON)).unwrap().accounts.len(), 2);
    assert_eq!(budgets.balances(at(NOON)).len(), 1);
    // Tried again, what is new is read then.
    let file = ledger(&[(NOON, "alice", "research", 5, 5)]);
    budgets.replace(new, &file, at(NOON)).unwrap();
    let balances = budgets.balances_of("alice", Some("research"), at(NOON));
    let mut used: Vec<_> = balances.iter().map(|balance| balance.used).collect();
    used.sort_unstable();
    assert_eq!(used, [5, 5, 30]);
}

#[test]
fn nothing_is_read_where_nobody_calls() {
    let budgets = Budgets::of_nobody();
    let no_ledger = Connection::open_in_memory().unwrap();
    let day = tokens(1, Period::Day, Window::Calendar);
    let new = holders(&[day], &[day]);
    budgets.replace(new, &no_ledger, at(NOON)).unwrap();
    assert!(budgets.balances(at(NOON)).is_empty());
}

#[test]
fn many_budgets_are_read_at_once_each_in_its_own_window() {
    let rows = [
        ("2025-01-01T00:00:00Z", 1),
        ("2026-10-26T12:00:00Z", 10),
        ("2026-11-01T00:00:00Z", 100),
        // The window's first quarter of an hour counts whole.
        ("2026-11-24T12:00:00Z", 1000),
        ("2026-11-25T00:00:00Z", 10_000),
        ("2026-11-25T11:59:59Z", 100_000),
    ];
    for keys in [1, 30] {
        let names: Vec<_> = (0..keys).map(|n| format!("key {n}")).collect();
        let of_all = names.iter().flat_map(|name| {
            rows.map(|(time, tokens)| (time, name.as_str(), "research", tokens, tokens * 2))
        });
        let mut of_all: Vec<_> = of_all.collect();
        of_all.sort_unstable();
        let file = Connection::open_in_memory().unwrap();
        file.execute_batch(include_str!("../ledger/schema.sql"))
            .unwrap();
        for (index, (time, key, team, tokens, cost)) in of_all.into_iter().enumerate() {
            let id = at(time).as_microsecond() + i64::try_from(index).unwrap();
            file.execute(
                "INSERT INTO request (id, request_id, run, key, team, endpoint, stream, status, tokens, cost)
                 VALUES (?, 'r', 1, ?, ?, 'e', 0, 'complete', ?, ?)",
                params![id, key, team, tokens, cost],
            )
            .unwrap();
        }
        let windows = [
            (Period::Day, Window::Calendar, 110_000),
            (Period::Day, Window::Rolling, 111_000),
            (Period::Month, Window::Calendar, 111_100),
            (Period::Month, Window::Rolling, 111_110),
            (Period::Total, Window::Calendar, 111_111),
        ];
        let all = windows.map(|(per, window, _)| tokens(u64::MAX, per, window));
        let in_money = all.map(|budget| Budget {
            limit: Limit::Money(Nanos::new(u64::MAX)),
            ..budget
        });
        let of_key = [all, in_money].concat();
        let mut list: Vec<_> = names
            .iter()
            .map(|name| (Holder::Key(name.as_str().into()), of_key.clone()))
            .collect();
        list.push((Holder::Team("research".into()), all.to_vec()));
        let budgets = Budgets::default();
        budgets
            .replace(list, &file, at("2026-11-25T12:05:00Z"))
            .unwrap();
        for balance in budgets.balances(at("2026-11-25T12:05:00Z")) {
            let of = |per, window| {
                let mut windows = windows.iter();
                windows.find(|w| (w.0, w.1) == (per, window)).unwrap().2
            };
            let one = of(balance.budget.per, balance.budget.window);
            let expected = match (&balance.holder, balance.budget.limit) {
                (Holder::Team(_), _) => one * keys,
                (_, Limit::Tokens(_)) => one,
                (_, Limit::Money(_)) => one * 2,
            };
            assert_eq!(balance.used, expected, "{balance:?}");
        }
    }
}
