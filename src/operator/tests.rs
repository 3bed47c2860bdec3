use serde_json::{Map, Value, json};

use super::*;
use crate::store::keys::Rotation;
use crate::store::ledger::{GroupBy, Ledger, Params, Sync};

fn ledger() -> (tempfile::TempDir, Place) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weir.db");
    let ledger = Ledger::open(&Params {
        path: path.clone(),
        sync: Sync::Never,
        max_open: 8,
        retention: Default::default(),
    });
    ledger.unwrap().close();
    let place = Place::File {
        path,
        configured: Configured::default(),
    };
    (folder, place)
}

async fn act(place: &Place, op: Op) -> Result<String, Failure> {
    let told = keys(place, KeysOptions { op, json: false }).await?;
    Ok(told.text)
}

fn form(json: Value) -> Map<String, Value> {
    json.as_object().unwrap().clone()
}

fn by(by: GroupBy, format: Format) -> UsageOptions {
    UsageOptions {
        by,
        from: None,
        to: None,
        key: None,
        team: None,
        format,
    }
}

#[tokio::test]
async fn a_keys_life_at_the_file() {
    let (_folder, place) = ledger();
    let made = act(
        &place,
        Op::New(form(
            json!({ "name": "a/b ü", "budgets": [{ "tokens": 5, "per": "day" }] }),
        )),
    )
    .await
    .unwrap();
    assert!(
        made.starts_with("key:  wr-") && made.contains("\nname: a/b ü\n"),
        "{made}"
    );
    let listed = act(&place, Op::List).await.unwrap();
    assert!(
        listed.contains("active") && listed.contains("5 tokens/day"),
        "{listed}"
    );
    let name = "a/b ü".to_owned();
    let rotation = Rotation {
        grace: std::time::Duration::from_secs(60),
        force: false,
    };
    let rotate = |rotation| Op::Rotate(name.clone(), rotation);
    let rotated = act(&place, rotate(rotation)).await.unwrap();
    assert!(rotated.contains("is valid until 2"), "{rotated}");
    let refused = act(&place, rotate(rotation)).await.unwrap_err();
    assert!(
        refused.is_users && refused.message.contains("force"),
        "{refused}"
    );
    let forced = Rotation {
        force: true,
        ..rotation
    };
    act(&place, rotate(forced)).await.unwrap();
    act(&place, Op::Revoke(name.clone())).await.unwrap();
    let refused = act(&place, Op::Edit(name, Map::new())).await.unwrap_err();
    assert!(
        refused.is_users && refused.message.contains("revoked"),
        "{refused}"
    );
    let refused = act(&place, Op::New(form(json!({ "name": "" }))))
        .await
        .unwrap_err();
    assert!(
        refused.is_users && refused.message.contains("`name`"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_file_that_is_no_ledger_is_refused_and_none_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weir.db");
    let place = Place::File {
        path: path.clone(),
        configured: Configured::default(),
    };
    for content in [
        None,
        Some(""),
        Some("not a database, but long enough to be looked at as one"),
    ] {
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let refused = usage(&place, &by(GroupBy::Key, Format::Table))
            .await
            .unwrap_err();
        assert!(refused.is_users, "{refused}");
        assert_eq!(path.exists(), content.is_some());
    }
    assert!(act(&place, Op::List).await.unwrap_err().is_users);
}

#[tokio::test]
async fn usage_of_the_file() {
    let (_folder, place) = ledger();
    let text = async |options| usage(&place, &options).await.unwrap().text;
    let table = text(by(GroupBy::Day, Format::Table)).await;
    assert!(
        table.starts_with("DAY") && table.contains("\nTOTAL"),
        "{table}"
    );
    let csv = text(by(GroupBy::Model, Format::Csv)).await;
    assert!(csv.starts_with("model,requests,"), "{csv}");
    let json = text(by(GroupBy::Team, Format::Json)).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["group_by"], "team");
    let mut wrong = by(GroupBy::Key, Format::Table);
    wrong.from = Some("yesterday".into());
    assert!(
        usage(&place, &wrong)
            .await
            .unwrap_err()
            .message
            .contains("--from")
    );
    let mut backwards = by(GroupBy::Key, Format::Table);
    backwards.from = Some("2026-11-02".into());
    backwards.to = Some("2026-11-01".into());
    let at_a_gateway = Place::Gateway {
        url: "http://127.0.0.1:1".into(),
        token: None,
    };
    for place in [&place, &at_a_gateway] {
        let refused = usage(place, &backwards).await.unwrap_err();
        assert_eq!(
            refused.message,
            "--to (2026-11-01T00:00:00Z) lies before --from (2026-11-02T00:00:00Z)"
        );
        assert!(refused.is_users);
    }
    backwards.to.clone_from(&backwards.from);
    for place in [&place, &at_a_gateway] {
        let refused = usage(place, &backwards).await.unwrap_err();
        assert!(refused.is_users);
        let told = refused.message;
        assert!(told.contains("no time lies between them"), "{told}");
    }
}

#[tokio::test]
async fn a_name_of_the_configuration_is_not_given_again() {
    let (_folder, place) = ledger();
    let Place::File { path, .. } = place else {
        panic!("it is a file");
    };
    let terms =
        crate::store::keys::form::new_key(form(json!({ "name": "alice" })), jiff::Timestamp::now());
    let configured = Configured {
        keys: vec![crate::store::directory::ConfiguredKey {
            digest: [7; 32],
            terms: terms.unwrap(),
        }],
        ..Configured::default()
    };
    let place = Place::File { path, configured };
    let new = |name: &str| Op::New(form(json!({ "name": name })));
    let refused = act(&place, new("alice")).await.unwrap_err();
    assert!(
        refused.is_users
            && refused
                .message
                .contains("configuration has one of this name, and that one wins"),
        "{refused}"
    );
    act(&place, new("bob")).await.unwrap();
    let refused = act(&place, new("bob")).await.unwrap_err();
    assert!(refused.message.contains("the name is taken"), "{refused}");
}
