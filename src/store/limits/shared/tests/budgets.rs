//! Budgets that several gateways have together, each with a ledger of its own.

use std::sync::atomic::Ordering;

use super::super::settling::tell;
use super::*;
use crate::store::budgets::{self, Budget, Charge, Limit, Period, Spent, Window};

const NOON: &str = "2026-11-25T12:00:00Z";
const NAME: &str = "al:ice{%}, \u{e4}";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn of(per: Period, window: Window) -> Budget {
    Budget {
        limit: Limit::Tokens(100),
        per,
        window,
        warn_at_thousandths: 800,
    }
}

fn total() -> Budget {
    of(Period::Total, Window::Calendar)
}

/// A gateway with this ledger, which is empty, and one budget.
struct Gateway {
    budgets: Arc<Budgets>,
    shared: Arc<Shared>,
}

impl Gateway {
    fn start(redis: &Redis, ledger: &str, began: &str, budget: Budget) -> Self {
        Self::limited(redis, ledger, began, budget, &limits(&[]))
    }

    fn limited(
        redis: &Redis,
        ledger: &str,
        began: &str,
        budget: Budget,
        limits: &Arc<Limits>,
    ) -> Self {
        let budgets = Budgets::shared_by(ledger.into(), at(began));
        let rows = rusqlite::Connection::open_in_memory().unwrap();
        rows.execute_batch(include_str!("../../../ledger/schema.sql"))
            .unwrap();
        let all = vec![(budgets::Holder::Key(NAME.into()), vec![budget])];
        budgets.replace(all, &rows, at(began)).unwrap();
        let budgets = Arc::new(budgets);
        let shared = Shared::new(
            Arc::clone(limits),
            Arc::clone(&budgets),
            redis.clone(),
            OnOutage::Local,
            format!("{ledger} {began}"),
            NonZeroU32::MIN,
            64,
        );
        let gateway = Self { budgets, shared };
        gateway.clock(began);
        gateway
    }

    /// Sets the clock of the gateway, and that of Redis whenever it asks.
    fn clock(&self, now: &str) {
        let micros = at(now).as_microsecond().cast_unsigned();
        self.shared.clock.store(micros, Ordering::Relaxed);
    }

    async fn call(&self, tokens: u64, now: &str) -> Result<SharedAdmitted, SharedDenied> {
        let charge = Charge {
            key: &NAME.into(),
            team: None,
            amount: of_tokens(tokens),
            at: at(now),
        };
        self.clock(now);
        let (who, nothing) = (who(NAME), Amount::default());
        self.shared.admit(&who, &nothing, Some(charge)).await
    }

    /// Has a call use so many tokens.
    async fn spend(&self, tokens: u64, now: &str) {
        let mut admitted = self.call(tokens, now).await.unwrap();
        admitted.hold.sent();
        admitted.budgets.unwrap().settle(of_tokens(tokens));
        self.shared.flush().await;
    }

    async fn refused(&self, tokens: u64, now: &str) -> Spent {
        match self.call(tokens, now).await {
            Err(SharedDenied::Denied {
                denied: Denied::Other(spent),
                ..
            }) => *spent,
            _ => panic!("a budget has no room for it"),
        }
    }

    fn balance(&self, now: &str) -> (u64, u64) {
        let balance = &self.budgets.balances(at(now))[0];
        (balance.used, balance.reserved)
    }

    /// Returns what all have, as Redis says now.
    async fn all(&self, now: &str) -> (u64, u64) {
        self.clock(now);
        let who = who(NAME);
        self.shared.headroom(&who, Some(at(now))).await.unwrap();
        self.balance(now)
    }
}

fn of_tokens(tokens: u64) -> budgets::Amount {
    budgets::Amount {
        tokens,
        ..Default::default()
    }
}

fn key(budget: &str) -> String {
    format!("weir:{{limits}}:1:budget:{budget}:key:{NAME}")
}

async fn ask<T: redis::FromRedisValue>(redis: &Redis, words: &[&str]) -> T {
    let mut command = redis::cmd(words[0]);
    for word in &words[1..] {
        command.arg(*word);
    }
    redis.call(&command).await.unwrap()
}

#[tokio::test]
async fn what_one_has_the_others_have_not() {
    let server = Server::start();
    let redis = server.redis(library()).await;
    let one = Gateway::start(&redis, "one", NOON, total());
    let two = Gateway::start(&redis, "two", NOON, total());
    let held = one.call(60, NOON).await.unwrap();
    let spent = two.refused(41, NOON).await;
    assert_eq!((spent.used, spent.wanted, spent.is_used_up), (0, 41, false));
    let other = two.call(40, NOON).await.unwrap();
    assert_eq!(two.balance(NOON), (0, 100));
    one.refused(1, NOON).await;
    held.budgets.unwrap().settle(of_tokens(50));
    other.budgets.unwrap().settle(of_tokens(10));
    one.shared.flush().await;
    two.shared.flush().await;
    assert_eq!(one.all(NOON).await, (60, 0));
    assert_eq!(two.all(NOON).await, (60, 0));
    two.spend(40, NOON).await;
    let spent = one.refused(1, NOON).await;
    assert_eq!((spent.used, spent.is_used_up), (100, true));
    // What was refused has left nothing behind.
    assert_eq!(one.all(NOON).await, (100, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_storm_at_two_gateways_uses_the_budget_and_no_more() {
    let server = Server::start();
    let mut tasks = Vec::new();
    let mut gateways = Vec::new();
    for ledger in ["one", "two"] {
        let redis = server.redis(library()).await;
        let gateway = Arc::new(Gateway::start(&redis, ledger, NOON, total()));
        for _ in 0..8 {
            let gateway = Arc::clone(&gateway);
            tasks.push(tokio::spawn(async move {
                let mut used = 0;
                for _ in 0..40 {
                    if let Ok(admitted) = gateway.call(7, NOON).await {
                        admitted.budgets.unwrap().settle(of_tokens(3));
                        used += 3;
                    }
                }
                used
            }));
        }
        gateways.push(gateway);
    }
    let mut used = 0;
    for task in tasks {
        used += task.await.unwrap();
    }
    for gateway in &gateways {
        gateway.shared.flush().await;
    }
    for gateway in &gateways {
        assert_eq!(gateway.all(NOON).await, (used, 0));
    }
    assert!(used <= 100, "{used}");
    // One at a time, nobody holds what another one could have.
    while let Ok(admitted) = gateways[0].call(7, NOON).await {
        admitted.budgets.unwrap().settle(of_tokens(3));
        used += 3;
    }
    assert!((94..=100).contains(&used), "{used}");
}

#[tokio::test]
async fn a_call_takes_of_limits_and_budgets_or_of_none() {
    let server = Server::start();
    let redis = server.redis(library()).await;
    let limits = limits(&[(Holder::Gateway, json!({ "requests_per_day": 2 }))]);
    let one = Gateway::limited(&redis, "one", NOON, total(), &limits);
    let two = Gateway::limited(&redis, "two", NOON, total(), &limits);
    one.spend(90, NOON).await;
    for (gateway, tokens) in [(&one, 11), (&two, 11), (&two, 101)] {
        gateway.refused(tokens, NOON).await;
    }
    let held = two.call(5, NOON).await.unwrap();
    // Of two reasons the limit is told, wherever the other one was found.
    for tokens in [1, 11, 101] {
        let refused = one.call(tokens, NOON).await;
        let Err(SharedDenied::Denied { denied, left }) = refused else {
            panic!("there is no room");
        };
        assert!(matches!(denied, Denied::Limit(_)));
        assert_eq!(left[0].remaining, 0);
    }
    drop(held);
    two.shared.flush().await;
    assert_eq!(one.all(NOON).await, (90, 0));
}

#[tokio::test]
async fn a_new_period_begins_with_nothing() {
    let server = Server::start();
    let redis = server.redis(library()).await;
    let day = of(Period::Day, Window::Calendar);
    let one = Gateway::start(&redis, "one", NOON, day);
    let two = Gateway::start(&redis, "two", NOON, day);
    let (late, early) = ("2026-11-25T23:59:59Z", "2026-11-26T00:00:00Z");
    let held = one.call(70, late).await.unwrap();
    two.refused(31, late).await;
    // The calls that are under way are so in the new day, too.
    let next = two.call(100, early).await.unwrap();
    assert_eq!(two.balance(early), (0, 100));
    drop(next);
    held.budgets.unwrap().settle(of_tokens(70));
    one.clock(early);
    one.shared.flush().await;
    assert_eq!(one.all(early).await, (0, 0));
    assert_eq!(two.all(early).await, (0, 0));
}

#[tokio::test]
async fn reports_that_are_late_or_repeated_do_not_go_back() {
    let server = Server::start();
    let redis = server.redis(library()).await;
    let one = Gateway::start(&redis, "one", NOON, total());
    let two = Gateway::start(&redis, "two", NOON, total());
    let old = one.budgets.reports(true, at(NOON));
    one.spend(30, NOON).await;
    let new = one.budgets.reports(true, at(NOON));
    for reports in [&new, &old, &new, &old] {
        one.shared.report(&mut reports.clone()).await.unwrap();
        assert_eq!(two.all(NOON).await, (30, 0));
    }
    // A later run on the same ledger, which was emptied meanwhile.
    tell(&two.shared, true).await.unwrap();
    let again = Gateway::start(&redis, "one", "2026-11-25T12:00:01Z", total());
    tell(&again.shared, true).await.unwrap();
    assert_eq!(two.all(NOON).await, (0, 0));
    one.shared.report(&mut new.clone()).await.unwrap();
    assert_eq!(two.all(NOON).await, (0, 0));
    again.spend(30, NOON).await;
    assert_eq!(two.all(NOON).await, (30, 0));
}

#[tokio::test]
async fn what_was_lost_in_redis_is_told_again() {
    let server = Server::start();
    let redis = server.redis(library()).await;
    let one = Gateway::start(&redis, "one", NOON, total());
    let two = Gateway::start(&redis, "two", NOON, total());
    one.spend(30, NOON).await;
    two.spend(20, NOON).await;
    let _: () = ask(&redis, &["FLUSHALL"]).await;
    tell(&one.shared, true).await.unwrap();
    tell(&two.shared, true).await.unwrap();
    assert_eq!(one.all(NOON).await, (50, 0));
    assert_eq!(two.all(NOON).await, (50, 0));
    let lasts: i64 = ask(&redis, &["PTTL", &key("tokens:total:calendar")]).await;
    assert!(lasts > 365 * 24 * 3_600_000, "{lasts}");
}

#[tokio::test]
async fn an_emptied_redis_hears_of_all_from_the_first_who_asks() {
    let server = Server::start();
    let redis = server.redis(library()).await;
    let start = |ledger| Gateway::start(&redis, ledger, NOON, total());
    let (one, two, three) = (start("one"), start("two"), start("three"));
    one.spend(50, NOON).await;
    two.spend(30, NOON).await;
    for gateway in [&one, &two, &three] {
        tell(&gateway.shared, true).await.unwrap();
    }
    // One is never heard of again, and what three has is nothing.
    drop(one);
    let _: () = ask(&redis, &["FLUSHALL"]).await;
    let spent = three.refused(21, NOON).await;
    assert_eq!((spent.used, spent.is_used_up), (80, false));
    three.spend(20, NOON).await;
    assert_eq!(two.refused(1, NOON).await.used, 100);
    tell(&two.shared, true).await.unwrap();
    let _: () = ask(&redis, &["FLUSHALL"]).await;
    assert_eq!(two.all(NOON).await, (100, 0));
    let _: () = ask(&redis, &["FLUSHALL"]).await;
    tell(&two.shared, true).await.unwrap();
    assert_eq!(start("four").all(NOON).await, (100, 0));
}

#[tokio::test]
async fn what_is_brought_back_is_not_newer_than_it_was() {
    let server = Server::start();
    let redis = server.redis(library()).await;
    let day = of(Period::Day, Window::Rolling);
    let one = Gateway::start(&redis, "one", NOON, day);
    let two = Gateway::start(&redis, "two", NOON, day);
    one.spend(30, NOON).await;
    tell(&two.shared, true).await.unwrap();
    one.spend(10, NOON).await;
    let _: () = ask(&redis, &["FLUSHALL"]).await;
    tell(&one.shared, true).await.unwrap();
    // Two remembers less of it, and has heard of all of it since.
    assert_eq!(two.all(NOON).await, (40, 0));
    let _: () = ask(&redis, &["FLUSHALL"]).await;
    assert_eq!(two.all("2026-11-26T11:59:59.999Z").await, (40, 0));
    assert_eq!(two.all("2026-11-26T12:00:00Z").await, (0, 0));
}

#[tokio::test]
async fn what_a_ledger_has_that_is_not_heard_of_goes_with_its_window() {
    let server = Server::start();
    let redis = server.redis(library()).await;
    let day = of(Period::Day, Window::Rolling);
    let one = Gateway::start(&redis, "one", NOON, day);
    let two = Gateway::start(&redis, "two", NOON, day);
    let admitted = one.call(60, NOON).await.unwrap();
    assert_eq!(two.all("2026-11-26T11:59:59.999Z").await, (0, 60));
    let over = "2026-11-26T12:00:00Z";
    assert_eq!(two.all(over).await, (0, 0));
    // Whoever writes next leaves it out.
    let other = two.call(100, over).await.unwrap();
    let fields: Vec<String> = ask(&redis, &["HKEYS", &key("tokens:day:rolling")]).await;
    assert_eq!(fields, ["epoch", "two"]);
    drop((admitted, other));
}

#[tokio::test]
async fn garbage_counts_as_nothing_and_stops_nothing() {
    let server = Server::start();
    let redis = server.redis(library()).await;
    let one = Gateway::start(&redis, "one", NOON, total());
    let two = Gateway::start(&redis, "two", NOON, total());
    let key = key("tokens:total:calendar");
    let huge = "9".repeat(400);
    for garbage in [
        "",
        "x",
        "1 2 3 4",
        "1 2 3 4 5 6",
        "-1 2 3 0 0",
        "1 nan inf 0 0",
        "1 2.5 3 0 0",
        &format!("1 {huge} 0 0 0"),
    ] {
        for field in ["one", "two", "other", ""] {
            let _: i64 = ask(&redis, &["HSET", &key, field, garbage]).await;
        }
        one.spend(1, NOON).await;
        two.spend(1, NOON).await;
    }
    assert_eq!(one.all(NOON).await, (16, 0));
    for command in [["RPUSH", &key, "x"], ["SET", &key, "x"]] {
        let _: i64 = ask(&redis, &["DEL", &key]).await;
        let _: redis::Value = ask(&redis, &command).await;
        assert!(one.call(93, NOON).await.is_err());
        one.spend(1, NOON).await;
        two.spend(1, NOON).await;
    }
    assert_eq!(one.all(NOON).await, (20, 0));
    // Sums that no integer holds are cut off.
    for field in ["a", "b"] {
        let most = "1 9000000000000000000 9000000000000000000 0 0";
        let _: i64 = ask(&redis, &["HSET", &key, field, most]).await;
    }
    one.refused(1, NOON).await;
}

#[tokio::test]
async fn what_was_heard_after_it_was_remembered_decides_when_redis_was_emptied() {
    let server = Server::start();
    let redis = server.redis(library()).await;
    let start = |ledger| Gateway::start(&redis, ledger, NOON, total());
    let (one, two) = (start("one"), start("two"));
    one.spend(30, NOON).await;
    tell(&two.shared, true).await.unwrap();
    one.spend(70, NOON).await;
    assert_eq!(two.refused(1, NOON).await.used, 100);
    // Of two it comes back as 30.
    for _ in 0..2 {
        let _: () = ask(&redis, &["FLUSHALL"]).await;
        assert_eq!(two.refused(1, NOON).await.used, 100);
        assert_eq!(two.all(NOON).await, (100, 0));
    }
    tell(&one.shared, true).await.unwrap();
    assert_eq!(two.all(NOON).await, (100, 0));
    assert_eq!(start("three").refused(1, NOON).await.used, 100);
}

#[tokio::test]
async fn what_was_heard_in_no_epoch_decides_when_redis_was_emptied() {
    let server = Server::start();
    let redis = server.redis(library()).await;
    let start = |ledger| Gateway::start(&redis, ledger, NOON, total());
    let (two, three) = (start("two"), start("three"));
    for gateway in [&two, &three] {
        // Nobody has used anything yet.
        tell(&gateway.shared, true).await.unwrap();
    }
    let one = start("one");
    one.spend(100, NOON).await;
    assert_eq!(two.refused(1, NOON).await.used, 100);
    let _: () = ask(&redis, &["FLUSHALL"]).await;
    // Who has never heard of it knows no better, and begins anew: unless what two asks in the background, in what epoch that
    // stands, comes in between, and tells of it.
    let begun = match three.call(5, NOON).await {
        Ok(mut admitted) => {
            admitted.hold.sent();
            admitted.budgets.unwrap().settle(of_tokens(5));
            three.shared.flush().await;
            5
        }
        Err(_) => 0,
    };
    // Whether the answer came before the loss decides whether it brings back what stood there, beside what three has used
    // since.
    let used = two.refused(1, NOON).await.used;
    assert!([100, 100 + begun].contains(&used), "{used}");
    tell(&one.shared, true).await.unwrap();
    assert_eq!(two.refused(1, NOON).await.used, 100 + begun);
    assert_eq!(three.refused(1, NOON).await.used, 100 + begun);
}

#[tokio::test]
async fn what_was_used_before_a_loss_ends_with_a_window_that_rolls() {
    let server = Server::start();
    let redis = server.redis(library()).await;
    let day = of(Period::Day, Window::Rolling);
    let one = Gateway::start(&redis, "one", NOON, day);
    let two = Gateway::start(&redis, "two", NOON, day);
    one.spend(30, NOON).await;
    tell(&two.shared, true).await.unwrap();
    one.spend(70, NOON).await;
    two.refused(1, NOON).await;
    let _: () = ask(&redis, &["FLUSHALL"]).await;
    two.refused(1, "2026-11-25T12:00:10Z").await;
    two.refused(1, "2026-11-25T12:00:39Z").await;
    // By then each of the others has told what it has, if it still does.
    assert_eq!(two.all("2026-11-25T12:00:40Z").await, (30, 0));
    two.spend(70, "2026-11-25T12:00:40Z").await;
}
