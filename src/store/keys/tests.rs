use jiff::Timestamp;
use std::sync::Arc;

use rusqlite::Connection;
use serde_json::{Map, Value, json};

use super::*;
use crate::store::ledger::Ledger;
use crate::store::ledger::{Params, Sync};

const HOUR: Duration = Duration::from_secs(3600);
const FOR_AN_HOUR: Rotation = Rotation {
    grace: HOUR,
    force: false,
};

/// A database with the ledger's tables.
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

fn now() -> Timestamp {
    "2026-11-25T12:00:00.5Z".parse().unwrap()
}

fn author() -> Author {
    Author {
        actor: "admin",
        at: now(),
    }
}

fn fields(json: Value) -> Map<String, Value> {
    match json {
        Value::Object(fields) => fields,
        other => panic!("{other}"),
    }
}

fn terms(json: Value) -> KeyTerms {
    form::new_key(fields(json), now()).unwrap()
}

fn create(connection: &Connection, name: &str) -> Result<RuntimeKey, Refusal> {
    let (_, fresh) = Fresh::make().unwrap();
    let terms = terms(json!({ "name": name }));
    create_key(connection, &terms, &fresh, false, &author()).unwrap()
}

#[test]
fn a_key_is_found_again_as_it_was_made() {
    let (_folder, db) = database();
    let (secret, fresh) = Fresh::make().unwrap();
    assert!(secret.expose().starts_with(&format!("{}-", fresh.id)));
    create_team(
        &db,
        &form::new_team(fields(json!({ "name": "r&d" }))).unwrap(),
        &author(),
    )
    .unwrap()
    .unwrap();
    let terms = terms(json!({
        "name": "alice", "team": "r&d", "models": ["gpt-*", "poet"], "paths": ["/v1/chat/*"],
        "expires": "2027-01-01T00:00:00.123456789Z",
        "budgets": [{ "amount": "50 USD", "per": "month" }, { "tokens": 5, "per": "day", "window": "rolling", "warn_at": 0.5 }],
        "limits": [{ "requests_per_minute": 60, "burst": 5 }, { "tokens_per_day": 9, "models": ["gpt-*"], "shadow": true }],
    }));
    let made = create_key(&db, &terms, &fresh, false, &author())
        .unwrap()
        .unwrap();
    assert_eq!(made.created, now());
    for which in ["alice", &*fresh.id] {
        assert_eq!(find_key(&db, which).unwrap().as_ref(), Some(&made));
    }
    assert_eq!(all_keys(&db).unwrap(), [made]);
    let whole = std::fs::read(_folder.path().join("weir.db")).unwrap();
    let log = std::fs::read(_folder.path().join("weir.db-wal")).unwrap_or_default();
    let secret = secret.expose().as_bytes();
    assert!(
        ![whole, log]
            .concat()
            .windows(secret.len())
            .any(|part| part == secret)
    );
}

#[test]
fn names_may_hold_anything_that_can_be_read() {
    let (_folder, db) = database();
    let names = [
        "'; DROP TABLE api_key; --",
        "../../etc/passwd",
        "a\"b",
        "%s%n%00",
        "100% {\"json\": [1]}",
        "名前 ü",
        "_%_",
        "-rf",
    ];
    for name in names {
        create(&db, name).unwrap();
    }
    for name in names {
        let key = find_key(&db, name).unwrap().unwrap();
        assert_eq!(&*key.terms.name, name);
        assert_eq!(create(&db, name), Err(Refusal::NameTaken));
        revoke_key(&db, name, &author()).unwrap().unwrap();
    }
    assert_eq!(all_keys(&db).unwrap().len(), names.len());
    assert_eq!(find_key(&db, "%").unwrap(), None);
}

#[test]
fn names_that_are_none() {
    let long = "n".repeat(129);
    for name in [
        "",
        "a\nb",
        "a\u{7f}",
        "a\u{200b}b",
        "a\u{202e}b",
        "\u{feff}a",
        "a\u{2028}",
        " a",
        "a\u{3000}",
        &long,
        "wr-12345678",
    ] {
        assert!(check_name(name).is_err(), "{name:?}");
    }
    assert!(check_name(&"ü".repeat(128)).is_ok());
}

#[test]
fn a_rotated_key_keeps_its_old_secret_for_a_while() {
    let (_folder, db) = database();
    let old = create(&db, "alice").unwrap();
    let (_, fresh) = Fresh::make().unwrap();
    let new = rotate_key(&db, "alice", &fresh, FOR_AN_HOUR, &author())
        .unwrap()
        .unwrap();
    let previous = new.previous.clone().unwrap();
    assert_eq!((previous.id, previous.digest), (old.id, old.digest));
    assert_eq!(previous.expires, now() + HOUR);
    assert_eq!((&new.id, new.digest), (&fresh.id, fresh.digest));
    assert_eq!(find_key(&db, "alice").unwrap(), Some(new.clone()));
    // The next rotation would end the first secret: it must be wanted, or nothing old be wanted at all.
    let (_, fresh) = Fresh::make().unwrap();
    let refused = rotate_key(&db, "alice", &fresh, FOR_AN_HOUR, &author()).unwrap();
    let previous = new.previous.clone().unwrap();
    let in_grace = Refusal::InGrace {
        id: previous.id,
        until: previous.expires,
    };
    assert_eq!(refused, Err(in_grace));
    assert_eq!(find_key(&db, "alice").unwrap(), Some(new.clone()));
    let forced = Rotation {
        force: true,
        ..FOR_AN_HOUR
    };
    let newer = rotate_key(&db, "alice", &fresh, forced, &author())
        .unwrap()
        .unwrap();
    assert_eq!(newer.previous.unwrap().id, new.id);
    let (_, fresh) = Fresh::make().unwrap();
    let nothing_old = Rotation {
        grace: Duration::ZERO,
        force: false,
    };
    let new = rotate_key(&db, "alice", &fresh, nothing_old, &author())
        .unwrap()
        .unwrap();
    assert_eq!(new.previous, None);
    assert_eq!(find_key(&db, "alice").unwrap(), Some(new));
}

#[test]
fn what_is_revoked_stays_revoked() {
    let (_folder, db) = database();
    create(&db, "alice").unwrap();
    let (_, fresh) = Fresh::make().unwrap();
    rotate_key(&db, "alice", &fresh, FOR_AN_HOUR, &author())
        .unwrap()
        .unwrap();
    let revoked = revoke_key(&db, "alice", &author()).unwrap().unwrap();
    assert!(revoked.revoked.is_some() && revoked.previous.is_none());
    assert_eq!(revoke_key(&db, "alice", &author()).unwrap(), Ok(revoked));
    let edit = KeyEdit::default();
    assert_eq!(
        edit_key(&db, "alice", edit, false, &author()).unwrap(),
        Err(Refusal::Revoked)
    );
    let rotated = rotate_key(&db, "alice", &fresh, FOR_AN_HOUR, &author()).unwrap();
    assert_eq!(rotated, Err(Refusal::Revoked));
    assert_eq!(create(&db, "alice"), Err(Refusal::NameTaken));
    assert_eq!(
        revoke_key(&db, "bob", &author()).unwrap(),
        Err(Refusal::NoKey)
    );
}

#[test]
fn only_what_is_said_changes() {
    let (_folder, db) = database();
    let (_, fresh) = Fresh::make().unwrap();
    let before =
        terms(json!({ "name": "alice", "models": ["a"], "expires": "2027-01-01T00:00:00Z" }));
    create_key(&db, &before, &fresh, false, &author())
        .unwrap()
        .unwrap();
    let edit = form::key_edit(
        fields(json!({ "models": null, "budgets": [{ "tokens": 9, "per": "total" }] })),
        now(),
    );
    let after = edit_key(&db, "alice", edit.unwrap(), false, &author())
        .unwrap()
        .unwrap();
    assert_eq!(after.terms.models, [Pattern::any()]);
    assert_eq!(
        (after.terms.expires, after.terms.budgets.len()),
        (before.expires, 1)
    );
    assert_eq!(find_key(&db, "alice").unwrap(), Some(after));
    let edit = form::key_edit(fields(json!({ "team": "none" })), now()).unwrap();
    let refused = edit_key(&db, "alice", edit.clone(), false, &author()).unwrap();
    assert_eq!(refused, Err(Refusal::UnknownTeam));
    assert!(
        edit_key(&db, "alice", edit, true, &author())
            .unwrap()
            .is_ok()
    );
}

#[test]
fn a_team_with_keys_is_not_deleted() {
    let (_folder, db) = database();
    let team = form::new_team(fields(json!({ "name": "t", "models": ["a*"] }))).unwrap();
    create_team(&db, &team, &author()).unwrap().unwrap();
    assert_eq!(
        create_team(&db, &team, &author()).unwrap(),
        Err(Refusal::NameTaken)
    );
    let (_, fresh) = Fresh::make().unwrap();
    let terms = terms(json!({ "name": "alice", "team": "t" }));
    create_key(&db, &terms, &fresh, false, &author())
        .unwrap()
        .unwrap();
    let refused = delete_team(&db, "t", false, &author()).unwrap();
    assert_eq!(refused, Err(Refusal::TeamHasKeys { keys: 1 }));
    let edit = form::team_edit(fields(json!({ "models": ["b*"] }))).unwrap();
    let edited = edit_team(&db, "t", edit, &author()).unwrap().unwrap();
    assert_eq!(find_team(&db, "t").unwrap(), Some(edited));
    revoke_key(&db, "alice", &author()).unwrap().unwrap();
    assert!(delete_team(&db, "t", false, &author()).unwrap().is_ok());
    assert_eq!(
        delete_team(&db, "t", false, &author()).unwrap(),
        Err(Refusal::NoTeam)
    );
    assert_eq!(all_teams(&db).unwrap(), []);
}

#[test]
fn every_change_is_audited_and_no_digest_is() {
    let (_folder, db) = database();
    create(&db, "alice").unwrap();
    let edit = form::key_edit(fields(json!({ "models": ["a"] })), now()).unwrap();
    edit_key(&db, "alice", edit, false, &author())
        .unwrap()
        .unwrap();
    let (_, fresh) = Fresh::make().unwrap();
    rotate_key(&db, "alice", &fresh, FOR_AN_HOUR, &author())
        .unwrap()
        .unwrap();
    revoke_key(&db, "alice", &author()).unwrap().unwrap();
    let rows = audit::last(&db, 10, None).unwrap();
    let actions: Vec<_> = rows.iter().map(|row| row.action.as_str()).collect();
    assert_eq!(
        actions,
        ["key.revoke", "key.rotate", "key.edit", "key.create"]
    );
    assert!(
        rows.iter()
            .all(|row| row.target == "alice" && row.actor == "admin")
    );
    assert_eq!(
        rows[2].detail,
        json!({ "models": { "from": ["*"], "to": ["a"] } })
    );
    assert_eq!(rows[0].time, "2026-11-25T12:00:00.5Z");
    assert_eq!(audit::last(&db, 1, Some(rows[1].id)).unwrap(), rows[2..3]);
}

#[test]
fn a_row_that_somebody_broke_is_left_out() {
    let (_folder, db) = database();
    create(&db, "alice").unwrap();
    create(&db, "bob").unwrap();
    db.execute("UPDATE api_key SET models = 'all' WHERE name = 'alice'", [])
        .unwrap();
    let names: Vec<_> = all_keys(&db)
        .unwrap()
        .into_iter()
        .map(|key| key.terms.name)
        .collect();
    assert_eq!(names, [Arc::<str>::from("bob")]);
}

#[test]
fn budgets_are_written_as_they_are_read() {
    for (words, json, shown) in [
        (
            "50 USD/month",
            json!({ "amount": "50 USD", "per": "month" }),
            "50.00 USD a month",
        ),
        (
            "0.5 USD/day/rolling",
            json!({ "amount": "0.5 USD", "per": "day", "window": "rolling" }),
            "0.50 USD in 24 hours",
        ),
        (
            "5000000 tokens/total",
            json!({ "tokens": 5_000_000, "per": "total" }),
            "5000000 tokens in total",
        ),
    ] {
        assert_eq!(budget::words_to_json(words), Ok(json.clone()));
        let read = budget::from_json(&json, "b").unwrap();
        assert_eq!(read.to_string(), shown);
        assert_eq!(budget::from_json(&budget::to_json(&read), "b"), Ok(read));
    }
    for words in [
        "",
        "50 USD",
        "x tokens/day",
        "1 USD/day/rolling/x",
        "-1 tokens/day",
    ] {
        assert!(budget::words_to_json(words).is_err(), "{words}");
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let day = |budget: Value| json!({ "name": "a", "budgets": [budget] });
    for (json, param) in [
        (json!({}), "name"),
        (json!({ "name": "" }), "name"),
        (json!({ "name": 5 }), "name"),
        (json!({ "name": "a", "limit": 5 }), "limit"),
        (json!({ "name": "a", "key": "wr-" }), "key"),
        (json!({ "name": "a", "team": 5 }), "team"),
        (json!({ "name": "a", "models": "gpt-*" }), "models"),
        (json!({ "name": "a", "models": [] }), "models"),
        (json!({ "name": "a", "models": ["ok", ""] }), "models[1]"),
        (json!({ "name": "a", "models": [5] }), "models[0]"),
        (json!({ "name": "a", "paths": ["/admin"] }), "paths[0]"),
        (json!({ "name": "a", "expires": "tomorrow" }), "expires"),
        (json!({ "name": "a", "expires": 1_900_000_000 }), "expires"),
        (
            json!({ "name": "a", "expires": "2026-11-25T12:00:00Z" }),
            "expires",
        ),
        (json!({ "name": "a", "budgets": {} }), "budgets"),
        (day(json!("50 USD/month")), "budgets[0]"),
        (day(json!({ "per": "day" })), "budgets[0]"),
        (day(json!({ "amount": "1 USD" })), "budgets[0].per"),
        (
            day(json!({ "amount": "1 USD", "per": "week" })),
            "budgets[0].per",
        ),
        (
            day(json!({ "amount": "1 EUR", "per": "day" })),
            "budgets[0].amount",
        ),
        (
            day(json!({ "amount": 1, "per": "day" })),
            "budgets[0].amount",
        ),
        (
            day(json!({ "amount": "-1 USD", "per": "day" })),
            "budgets[0].amount",
        ),
        (
            day(json!({ "amount": "0 USD", "per": "day" })),
            "budgets[0].amount",
        ),
        (
            day(json!({ "amount": "1e99 USD", "per": "day" })),
            "budgets[0].amount",
        ),
        (
            day(json!({ "amount": "99999999999 USD", "per": "day" })),
            "budgets[0].amount",
        ),
        (
            day(json!({ "tokens": 0, "per": "day" })),
            "budgets[0].tokens",
        ),
        (
            day(json!({ "tokens": -1, "per": "day" })),
            "budgets[0].tokens",
        ),
        (
            day(json!({ "tokens": 1.5, "per": "day" })),
            "budgets[0].tokens",
        ),
        (
            day(json!({ "tokens": u64::MAX, "per": "day" })),
            "budgets[0].tokens",
        ),
        (
            day(json!({ "tokens": 1, "amount": "1 USD", "per": "day" })),
            "budgets[0].tokens",
        ),
        (
            day(json!({ "tokens": 1, "per": "total", "window": "rolling" })),
            "budgets[0].window",
        ),
        (
            day(json!({ "tokens": 1, "per": "day", "warn_at": 0 })),
            "budgets[0].warn_at",
        ),
        (
            day(json!({ "tokens": 1, "per": "day", "warn_at": 2 })),
            "budgets[0].warn_at",
        ),
        (
            day(json!({ "tokens": 1, "per": "day", "why": 2 })),
            "budgets[0].why",
        ),
        (
            json!({ "name": "a", "budgets": [{ "tokens": 1, "per": "day" }, { "tokens": 2, "per": "day" }] }),
            "budgets[1]",
        ),
    ] {
        let refused = form::new_key(fields(json.clone()), now()).unwrap_err();
        assert_eq!(refused.param, param, "{json}: {refused}");
    }
    assert_eq!(
        form::key_edit(fields(json!({ "name": "b" })), now())
            .unwrap_err()
            .param,
        "name"
    );
    assert_eq!(
        form::team_edit(fields(json!({ "paths": [] })))
            .unwrap_err()
            .param,
        "paths"
    );
}

#[test]
fn times_of_grace() {
    let rotation = |json: Value| form::rotation(fields(json)).ok();
    let grace = |json: Value| rotation(json).map(|rotation| rotation.grace);
    assert!(rotation(json!({ "force": true })).unwrap().force);
    assert!(!rotation(json!({ "force": null })).unwrap().force);
    assert_eq!(grace(json!({})), Some(DEFAULT_GRACE));
    assert_eq!(grace(json!({ "grace": "1h" })), Some(HOUR));
    assert_eq!(grace(json!({ "grace": "0" })), Some(Duration::ZERO));
    assert_eq!(grace(json!({ "grace": "0s" })), Some(Duration::ZERO));
    for wrong in [
        json!({ "grace": 5 }),
        json!({ "grace": "-1h" }),
        json!({ "grace": "9999d" }),
        json!({ "greace": "1h" }),
        json!({ "force": 1 }),
    ] {
        assert_eq!(grace(wrong.clone()), None, "{wrong}");
    }
}

#[test]
fn expiry_is_a_time_a_date_or_never() {
    let expires = |value: Value| {
        let edit = form::key_edit(fields(json!({ "expires": value })), now());
        edit.map(|edit| edit.expires.flatten().map(|time| time.to_string()))
    };
    let day = Some("2099-12-31T00:00:00Z".to_owned());
    assert_eq!(expires(json!("2099-12-31T00:00:00Z")), Ok(day.clone()));
    assert_eq!(expires(json!("2099-12-31")), Ok(day));
    assert_eq!(expires(json!("never")), Ok(None));
    assert_eq!(expires(Value::Null), Ok(None));
    for wrong in [json!("2001-01-01"), json!("soon"), json!(4_000_000_000_u64)] {
        assert_eq!(
            expires(wrong.clone()).unwrap_err().param,
            "expires",
            "{wrong}"
        );
    }
}

#[test]
fn the_id_from_before_a_rotation_is_the_keys_too() {
    let (_folder, db) = database();
    let old = create(&db, "alice").unwrap().id;
    let rotate = |which: &str, force| {
        let (_, fresh) = Fresh::make().unwrap();
        let rotation = Rotation { grace: HOUR, force };
        let rotated = rotate_key(&db, which, &fresh, rotation, &author()).unwrap();
        rotated.unwrap().id
    };
    let middle = rotate(&old, false);
    let edit = KeyEdit {
        expires: Some(Some(now() + HOUR)),
        ..KeyEdit::default()
    };
    let edited = edit_key(&db, &old, edit, false, &author()).unwrap();
    assert_eq!(&*edited.unwrap().id, &*middle);
    rotate(&middle, true);
    // The one before that has gone.
    assert_eq!(find_key(&db, &old).unwrap(), None);
    let revoked = revoke_key(&db, &middle, &author()).unwrap().unwrap();
    assert!(revoked.revoked.is_some());
}
