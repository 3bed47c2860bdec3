use rusqlite::Connection;

use super::*;

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
    hide(&house, false);
    house.directory.look(&mut notice).await.unwrap();
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
        assert_eq!(other.state("bob"), KeyState::Uncounted);
        assert_eq!(other.who(&secret), None);
    }
    hide(&house, false);
    other.directory.look(&mut notice).await.unwrap();
    assert_eq!(other.who(&secret).as_deref(), Some("bob"));
    let balances = other.directory.budgets().balances(Timestamp::now());
    assert_eq!(balances.len(), 1);
    other.directory.ledger.close();
}
