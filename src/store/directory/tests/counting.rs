use rusqlite::Connection;

use super::*;
use crate::store::keys::{Record, RuntimeKey};

/// Takes away what budgets are counted from, or puts it back.
fn hide(house: &House, hide: bool) {
    let (from, to) = match hide {
        true => ("request", "hidden"),
        false => ("hidden", "request"),
    };
    let file = Connection::open(house.folder.path().join("weir.db")).unwrap();
    let sql = format!("ALTER TABLE {from} RENAME TO {to}");
    file.execute_batch(&sql).unwrap();
}

#[tokio::test]
async fn a_secret_is_handed_out_even_where_its_budgets_cannot_be_counted() {
    let house = House::new(Configured::default());
    let mut notice = house.directory.ledger.notice();
    let budgets = json!([{ "tokens": 9, "per": "day" }]);
    let free = house.make(json!({ "name": "free" })).await.unwrap();
    let bound = json!({ "name": "bound", "budgets": &budgets });
    let bound = house.make(bound).await.unwrap();
    hide(&house, true);
    let made = house
        .make(json!({ "name": "new", "budgets": &budgets }))
        .await
        .unwrap();
    assert_eq!(house.who(&made), None, "nobody knows what it has used");
    assert_eq!(house.state("new"), KeyState::Uncounted);
    let more =
        json!({ "budgets": [{ "tokens": 5, "per": "day" }, { "tokens": 9, "per": "month" }] });
    let more = form::key_edit(fields(more), Timestamp::now()).unwrap();
    let edited = house.directory.edit_key("bound", more).await.unwrap();
    assert_eq!(edited.state, KeyState::Active, "its old budget bounds it");
    assert!(house.who(&bound).is_some() && house.who(&free).is_some());
    let rotation = Rotation {
        grace: Duration::ZERO,
        force: false,
    };
    let (made, view) = house.directory.rotate_key("new", rotation).await.unwrap();
    assert_eq!(view.state, KeyState::Uncounted);
    house.directory.look(&mut notice).await.unwrap();
    assert_eq!(house.who(&made), None);
    assert!(house.directory.count_owed().await.is_err());
    assert_eq!(house.who(&made), None);
    hide(&house, false);
    house.directory.count_owed().await.unwrap();
    assert_eq!(house.who(&made).as_deref(), Some("new"));
    assert_eq!(house.state("new"), KeyState::Active);
    let balances = house.directory.budgets().balances(Timestamp::now());
    assert_eq!(balances.len(), 3);
}

#[tokio::test]
async fn budgets_of_another_process_that_cannot_be_counted_are_tried_again() {
    let house = House::new(Configured::default());
    let other = House {
        directory: open(&house.folder, Configured::default()),
        folder: tempfile::tempdir().unwrap(),
    };
    let mut notice = other.directory.ledger.notice();
    let secret = house
        .make(json!({ "name": "bob", "budgets": [{ "tokens": 9, "per": "day" }] }))
        .await
        .unwrap();
    hide(&house, true);
    for _ in 0..2 {
        other.directory.look(&mut notice).await.unwrap();
        assert!(other.directory.count_owed().await.is_err());
        assert_eq!(other.state("bob"), KeyState::Uncounted);
        assert_eq!(other.who(&secret), None);
    }
    hide(&house, false);
    other.directory.count_owed().await.unwrap();
    assert_eq!(other.who(&secret).as_deref(), Some("bob"));
    let balances = other.directory.budgets().balances(Timestamp::now());
    assert_eq!(balances.len(), 1);
    other.directory.ledger.close();
}

#[tokio::test]
async fn a_new_key_opens_nothing_before_its_budgets_are_counted() {
    let elsewhere = House::new(Configured::default());
    let house = House::new(Configured::default());
    let budgets = json!([{ "tokens": 9, "per": "day" }]);
    let mut secrets = Vec::new();
    let team = |form: Value| form::new_team(fields(form)).unwrap();
    let bound = team(json!({ "name": "t", "budgets": &budgets }));
    elsewhere.directory.create_team(bound).await.unwrap();
    for form in [
        json!({ "name": "bound", "budgets": &budgets }),
        json!({ "name": "of-team", "team": "t" }),
        json!({ "name": "free" }),
    ] {
        secrets.push(elsewhere.make(form).await.unwrap());
    }
    let free = team(json!({ "name": "t" }));
    house.directory.create_team(free).await.unwrap();
    let old = json!({ "name": "old", "team": "t" });
    secrets.push(house.make(old).await.unwrap());
    let elsewhere = elsewhere.directory.entries().made.clone();
    let mut counting = house.directory.changing.lock().await;
    let list = house.directory.update(&counting, |entries| {
        let teams = elsewhere.teams.into_values().map(Record::Team);
        let keys = elsewhere.keys.into_values().map(Record::Key);
        teams
            .chain(keys)
            .for_each(|record| entries.made.put(record));
    });
    counting.owe(list);
    drop(counting);
    let open = || secrets.iter().map(|secret| house.who(secret).is_some());
    assert_eq!(open().collect::<Vec<_>>(), [false, false, true, true]);
    assert_eq!(house.state("bound"), KeyState::Uncounted);
    house.directory.count_owed().await.unwrap();
    assert!(open().all(|open| open));
    assert_eq!(house.state("bound"), KeyState::Active);
}

#[tokio::test]
async fn a_key_revoked_elsewhere_opens_nothing_even_where_the_ledger_cannot_be_told() {
    let house = House::new(Configured::default());
    let secret = house.make(json!({ "name": "bob" })).await.unwrap();
    let own = house.directory.entries().made.keys["bob"].clone();
    let revoked = Record::Key(RuntimeKey {
        revoked: Some(micros(Timestamp::now())),
        ..own
    });
    let rename = |from: &str, to: &str| {
        let file = Connection::open(house.folder.path().join("weir.db")).unwrap();
        let sql = format!("ALTER TABLE {from} RENAME TO {to}");
        file.execute_batch(&sql).unwrap();
    };
    rename("audit", "hidden");
    let adopt = || house.directory.adopt(vec![revoked.clone()]);
    assert!(adopt().await.is_err());
    assert_eq!(house.who(&secret), None);
    assert_eq!(house.state("bob"), KeyState::Revoked);
    rename("hidden", "audit");
    adopt().await.unwrap();
    assert!(house.directory.entries().closed.is_empty());
    let house = house.restart(Configured::default());
    assert_eq!(house.who(&secret), None);
    assert_eq!(house.state("bob"), KeyState::Revoked);
}

#[tokio::test]
async fn a_key_is_revoked_while_budgets_are_counted() {
    let house = House::new(Configured::default());
    let mut notice = house.directory.ledger.notice();
    let secret = house.make(json!({ "name": "bob" })).await.unwrap();
    let other = house.make(json!({ "name": "carol" })).await.unwrap();
    let own = house.directory.entries().made.keys["bob"].clone();
    let revoked = Record::Key(RuntimeKey {
        revoked: Some(micros(Timestamp::now())),
        ..own
    });
    // It takes as long as it takes.
    let counted = house.directory.replacing.lock().await;
    house.directory.adopt(vec![revoked]).await.unwrap();
    assert_eq!(house.who(&secret), None);
    let directory = Arc::clone(&house.directory);
    let revoking = tokio::spawn(async move { directory.revoke_key("carol").await });
    while house.who(&other).is_some() {
        tokio::task::yield_now().await;
    }
    house.directory.look(&mut notice).await.unwrap();
    assert!(!revoking.is_finished(), "its answer says that all is done");
    drop(counted);
    revoking.await.unwrap().unwrap();
}
