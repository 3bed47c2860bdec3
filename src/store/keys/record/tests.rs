use proptest::prelude::*;
use rusqlite::Connection;
use serde_json::json;

use super::super::{Adopted, Author, adopt, all_keys, all_teams, deleted_teams};
use super::*;
use crate::store::ledger::{Ledger, Params, Sync};

fn micros(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap()
}

fn fields(json: Value) -> Map<String, Value> {
    match json {
        Value::Object(fields) => fields,
        other => panic!("{other}"),
    }
}

/// A key of one name; `made` is which gateway's it is, and `said` what is said of it.
fn key(made: i64, version: i64, said: u8, revoked: Option<i64>) -> Record {
    rotated(key_terms(made, version, said, revoked), 1, said)
}

/// The same with other secrets.
fn rotated(mut key: RuntimeKey, rotated: i64, secret: u8) -> Record {
    key.rotated = rotated;
    key.digest[1] = u8::try_from(rotated).unwrap();
    key.previous = (secret.is_multiple_of(2)).then(|| Previous {
        id: "wr-OldOldOl".into(),
        digest: [secret; 32],
        expires: "9999-01-01T00:00:00Z".parse().unwrap(),
    });
    Record::Key(key)
}

fn key_terms(made: i64, version: i64, said: u8, revoked: Option<i64>) -> RuntimeKey {
    let terms = json!({ "name": "bob: {x}", "models": [format!("model-{said}")], "expires": "2027-01-01T00:00:00.123456789Z",
        "budgets": [{ "amount": "5 USD", "per": "month" }], "limits": { "requests_per_minute": 60 } });
    RuntimeKey {
        id: format!("wr-Abcdefg{made}").into(),
        digest: [100 + u8::try_from(made).unwrap(); 32],
        terms: form::new_key(fields(terms), Timestamp::UNIX_EPOCH).unwrap(),
        created: micros(made),
        revoked: revoked.map(micros),
        previous: None,
        version,
        rotated: 1,
    }
}

fn team(version: i64, said: u8) -> Record {
    let terms = json!({ "name": "r&d", "models": [format!("model-{said}")], "limits": { "tokens_per_day": 9 } });
    match said {
        0 => Record::NoTeam {
            name: "r&d".into(),
            version,
        },
        _ => Record::Team(RuntimeTeam {
            terms: form::new_team(fields(terms)).unwrap(),
            created: micros(version),
            version,
        }),
    }
}

fn any_key() -> impl Strategy<Value = Record> {
    let revoked = prop_oneof![3 => Just(None), 1 => (1..4_i64).prop_map(Some)];
    (1..4_i64, 1..4_i64, 0..4_u8, 1..4_i64, 0..4_u8, revoked).prop_map(
        |(made, version, said, rotation, secret, revoked)| {
            rotated(key_terms(made, version, said, revoked), rotation, secret)
        },
    )
}

fn any_team() -> impl Strategy<Value = Record> {
    (1..5_i64, 0..3_u8).prop_map(|(version, said)| team(version, said))
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let keys = prop::collection::vec(any_key(), 1..7);
    let teams = prop::collection::vec(any_team(), 1..7);
    prop_oneof![keys, teams]
}

fn joined(records: &[Record]) -> Record {
    let joined = records.iter().cloned().reduce(Record::join);
    joined.unwrap()
}

proptest! {
    #[test]
    fn all_orders_of_delivery_end_at_the_same(
        (records, shuffled) in records().prop_flat_map(|records| (Just(records.clone()), Just(records).prop_shuffle())),
        at in any::<prop::sample::Index>(),
    ) {
        let all = joined(&records);
        prop_assert_eq!(&joined(&shuffled), &all);
        // Repeated, and in groups.
        prop_assert_eq!(&joined(&[records.clone(), shuffled.clone()].concat()), &all);
        let (one, other) = shuffled.split_at(at.index(shuffled.len()));
        let groups: Vec<_> = [one, other].into_iter().filter(|group| !group.is_empty()).map(joined).collect();
        prop_assert_eq!(&joined(&groups), &all);
        // What was revoked stays so, the oldest key keeps the name, and its last secret is the one that counts.
        if let Record::Key(joined) = &all {
            let keys = || records.iter().filter_map(|record| match record {
                Record::Key(key) => Some(key),
                Record::Team(_) | Record::NoTeam { .. } => None,
            });
            prop_assert_eq!(joined.revoked.is_some(), keys().any(|key| key.revoked.is_some()));
            let oldest = keys().map(|key| key.created).min();
            prop_assert_eq!(Some(joined.created), oldest);
            let of_it = || keys().filter(|key| Some(key.created) == oldest);
            prop_assert_eq!(Some(joined.rotated), of_it().map(|key| key.rotated).max());
            prop_assert_eq!(Some(joined.version), of_it().map(|key| key.version).max());
        }
    }

    #[test]
    fn what_is_written_reads_the_same(record in prop_oneof![any_key(), any_team()]) {
        prop_assert_eq!(Record::read(&record.field(), &record.text()), Ok(record));
    }

    #[test]
    fn no_garbage_is_a_record_or_a_panic(field in ".{0,12}", text in ".{0,40}") {
        for field in [&field, "key:bob", "team:bob"] {
            prop_assert!(Record::read(field, &text).is_err());
            Head::read(&text);
        }
    }
}

#[test]
fn an_edit_undoes_no_rotation_that_it_did_not_know_of() {
    let (rotation, edit) = (
        rotated(key_terms(1, 2, 1, None), 3, 1),
        rotated(key_terms(1, 9, 3, None), 1, 2),
    );
    let both = rotated(key_terms(1, 9, 3, None), 3, 1);
    assert_eq!(rotation.clone().join(edit.clone()), both);
    assert_eq!(edit.join(rotation), both);
}

#[test]
fn what_is_edited_after_the_last_version_can_be_read() {
    for before in [MOST - 2, MOST - 1, i64::MAX] {
        let edited = key(1, replica().version(before), 1, None);
        let read = Record::read(&edited.field(), &edited.text());
        assert_eq!(read, Ok(edited), "{before}");
    }
}

#[test]
fn what_the_admin_api_would_refuse_is_no_record() {
    let good = key(1, 2, 2, Some(3));
    let text: Value = serde_json::from_str(&good.text()).unwrap();
    assert!(!good.text().contains("secret"));
    let with = |path: &str, value: Value| {
        let mut text = text.clone();
        *text.pointer_mut(path).unwrap() = value;
        text.to_string()
    };
    let mut newer = text.clone();
    newer["rank"] = json!(1);
    let mut of_a_newer_weir = text.clone();
    of_a_newer_weir["key"]["tags"] = json!([]);
    for text in [
        with("/key/limits", json!([{ "requests_per_minute": -1 }])),
        with("/key/limits", json!([{ "requests_per_minute": 1e300 }])),
        with("/key/budgets", json!([{ "tokens": 0, "per": "day" }])),
        with("/key/models", json!([])),
        with("/key/name", json!("eve")),
        with("/key/name", json!("")),
        with("/id", json!("wr-a b")),
        with("/digest", json!("sha256:00")),
        with("/previous/digest", json!("")),
        with("/previous/expires", json!(i64::MAX)),
        with("/version", json!(0)),
        with("/rotated", json!(-1)),
        with("/version", json!(i64::MAX)),
        with("/created", json!(-1)),
        with("/revoked", json!("never")),
        newer.to_string(),
        of_a_newer_weir.to_string(),
        "null".to_owned(),
        String::new(),
    ] {
        assert!(Record::read("key:bob: {x}", &text).is_err(), "{text}");
    }
    assert_eq!(Record::read("key:bob: {x}", &text.to_string()), Ok(good));
    assert!(Record::read("team:bob: {x}", &text.to_string()).is_err());
    assert!(Record::read("bob: {x}", &text.to_string()).is_err());
}

#[test]
fn what_cannot_be_read_is_left_alone_unless_more_is_known() {
    let mut text: Value = serde_json::from_str(&key(2, 5, 1, None).text()).unwrap();
    text["rank"] = json!(1);
    let newer = Head::read(&text.to_string());
    for (record, adds) in [
        (key(2, 5, 1, None), false),
        (key(2, 4, 1, None), false),
        (key(2, 6, 1, None), true),
        (key(1, 1, 1, None), true),
        (key(3, 9, 1, None), false),
        (key(2, 4, 1, Some(7)), true),
    ] {
        assert_eq!(record.adds_to(newer), adds, "{record:?}");
    }
    text["revoked"] = json!(8);
    let revoked = Head::read(&text.to_string());
    assert_eq!(revoked.revoked(), Some(micros(8)));
    assert!(!key(2, 4, 1, Some(7)).adds_to(revoked));
    // Whatever else is newer: it must not come back.
    for record in [key(2, 6, 1, None), key(1, 1, 1, None)] {
        assert!(!record.adds_to(revoked), "{record:?}");
    }
    assert!(key(2, 6, 1, Some(7)).adds_to(revoked));
    for garbage in [
        "garbage",
        "{}",
        "{\"created\":-1}",
        "{\"version\":1e300}",
        "[]",
    ] {
        assert!(key(9, 1, 1, None).adds_to(Head::read(garbage)), "{garbage}");
    }
    assert!(team(1, 0).adds_to(Head::read("{\"version\":-5}")));
    assert!(!team(1, 0).adds_to(Head::read("{\"version\":5,\"created\":9}")));
}

fn database() -> (tempfile::TempDir, Connection) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weir.db");
    let ledger = Ledger::open(&Params {
        path: path.clone(),
        sync: Sync::Never,
        max_open: 8,
        retention: Default::default(),
    });
    ledger.unwrap().close();
    (folder, Connection::open(path).unwrap())
}

fn replica() -> Author {
    Author {
        actor: "replica",
        at: micros(1_000_000),
    }
}

fn audited(db: &Connection) -> Vec<String> {
    let sql = "SELECT actor || ' ' || action || ' ' || target FROM audit ORDER BY id";
    let mut select = db.prepare(sql).unwrap();
    let rows = select.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[test]
fn ledgers_that_are_told_the_same_say_the_same() {
    let records = [
        key(2, 3, 1, None),
        key(1, 2, 2, None),
        key(1, 2, 2, Some(5)),
        key(1, 4, 3, None),
        team(1, 1),
        team(3, 0),
        team(2, 2),
    ];
    let say = |order: &mut dyn Iterator<Item = &Record>| {
        let (_folder, db) = database();
        for record in order {
            adopt(&db, record, &replica()).unwrap();
            assert_eq!(adopt(&db, record, &replica()).unwrap().0, Adopted::Known);
        }
        (
            all_keys(&db).unwrap(),
            all_teams(&db).unwrap(),
            deleted_teams(&db).unwrap(),
        )
    };
    let said = say(&mut records.iter());
    assert_eq!(say(&mut records.iter().rev()), said);
    assert_eq!(said.0.len(), 1);
    let joined = rotated(key_terms(1, 4, 3, Some(5)), 1, 2);
    assert_eq!(Record::Key(said.0[0].clone()), joined);
    assert_eq!((said.1, said.2), (vec![], vec![("r&d".into(), 3)]));
}

#[test]
fn what_others_did_is_audited_and_a_name_has_one_key() {
    let (_folder, db) = database();
    let adopt = |record: &Record| {
        let (adopted, says) = adopt(&db, record, &replica()).unwrap();
        let own = all_keys(&db).unwrap().pop().map(Record::Key);
        if matches!(record, Record::Key(_)) && adopted != Adopted::LeftOut {
            assert_eq!(says, own);
        }
        adopted
    };
    assert_eq!(adopt(&key(2, 2, 1, None)), Adopted::Changed);
    assert_eq!(adopt(&key(2, 3, 3, None)), Adopted::Changed);
    assert_eq!(adopt(&key(3, 9, 3, None)), Adopted::Known);
    assert_eq!(adopt(&key(1, 1, 1, None)), Adopted::Replaced);
    assert_eq!(adopt(&key(1, 1, 1, Some(4))), Adopted::Changed);
    adopt(&team(1, 1));
    adopt(&team(2, 2));
    adopt(&team(3, 0));
    // A key with the id or the secret of another one is nobody's.
    let Record::Key(stolen) = key(1, 5, 1, None) else {
        panic!()
    };
    let mut eve = stolen.clone();
    eve.terms.name = "eve".into();
    assert_eq!(adopt(&Record::Key(eve.clone())), Adopted::LeftOut);
    eve.id = "wr-EveEveEv".into();
    assert_eq!(adopt(&Record::Key(eve)), Adopted::LeftOut);
    // What stands here wrongly is left as it is.
    db.execute("UPDATE api_key SET limits = 'garbage'", [])
        .unwrap();
    assert_eq!(adopt(&key(1, 7, 1, None)), Adopted::LeftOut);
    let told = [
        "replica key.create bob: {x}",
        "replica key.edit bob: {x}",
        "replica key.replace bob: {x}",
        "replica key.revoke bob: {x}",
        "replica team.create r&d",
        "replica team.edit r&d",
        "replica team.delete r&d",
    ];
    assert_eq!(audited(&db), told);
}
