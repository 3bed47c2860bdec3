mod counting;

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::*;
use crate::call::Origin;
use crate::keys::digest;
use crate::pattern::Pattern;
use crate::secret::Secret;
use crate::store::budgets::Amount;
use crate::store::keys::{Rotation, TeamEdit, form};
use crate::store::ledger::{Params, Sync};

pub(super) struct House {
    folder: tempfile::TempDir,
    pub(super) directory: Arc<Directory>,
}

impl House {
    pub(super) fn new(configured: Configured) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let directory = open(&folder, configured);
        Self { folder, directory }
    }

    /// The same file in the next process.
    fn restart(self, configured: Configured) -> Self {
        self.directory.ledger.close();
        let directory = open(&self.folder, configured);
        Self { directory, ..self }
    }

    pub(super) async fn make(&self, form: Value) -> Result<Secret, DirectoryError> {
        let terms = form::new_key(fields(form), Timestamp::now()).unwrap();
        Ok(self.directory.create_key(terms).await?.0)
    }

    /// The name that a secret is good for.
    pub(super) fn who(&self, secret: &Secret) -> Option<Arc<str>> {
        let ring = self.directory.ring.load();
        let found = ring.find(&digest(secret.expose().as_bytes()))?;
        let is_over = found
            .expires
            .is_some_and(|expires| expires <= SystemTime::now());
        (!is_over).then(|| Arc::clone(&found.caller.key))
    }

    fn state(&self, which: &str) -> KeyState {
        self.directory.key(which).unwrap().state
    }
}

fn open(folder: &tempfile::TempDir, configured: Configured) -> Arc<Directory> {
    let ledger = Ledger::open(&Params {
        path: folder.path().join("weir.db"),
        sync: Sync::Never,
        max_open: 8,
        retention: Default::default(),
    });
    Directory::open(
        &ledger.unwrap(),
        &Arc::default(),
        Arc::default(),
        configured,
        ADMIN,
    )
    .unwrap()
}

fn fields(json: Value) -> Map<String, Value> {
    match json {
        Value::Object(fields) => fields,
        other => panic!("{other}"),
    }
}

fn configured(keys: &[(&str, &str)], teams: &[&str]) -> Configured {
    let key = |(name, secret): &(&str, &str)| ConfiguredKey {
        digest: digest(secret.as_bytes()),
        terms: form::new_key(fields(json!({ "name": name })), Timestamp::now()).unwrap(),
    };
    let team = |name: &&str| form::new_team(fields(json!({ "name": name }))).unwrap();
    Configured {
        keys: keys.iter().map(key).collect(),
        teams: teams.iter().map(team).collect(),
        limits: ConfiguredLimits::default(),
    }
}

fn refusal<T>(result: Result<T, DirectoryError>) -> Refusal {
    match result {
        Err(DirectoryError::Refused(refusal)) => refusal,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was done"),
    }
}

#[tokio::test]
async fn a_key_counts_at_once_and_after_a_restart() {
    let house = House::new(configured(&[("file", "config-secret")], &[]));
    let secret = house.make(json!({ "name": "alice" })).await.unwrap();
    assert_eq!(house.who(&secret).as_deref(), Some("alice"));
    assert_eq!(
        house.who(&Secret::new("config-secret")).as_deref(),
        Some("file")
    );
    let house = house.restart(Configured::default());
    assert_eq!(house.who(&secret).as_deref(), Some("alice"));
    assert_eq!(house.who(&Secret::new("config-secret")), None);
    house.directory.revoke_key("alice").await.unwrap();
    assert_eq!(house.who(&secret), None);
    let house = house.restart(Configured::default());
    assert_eq!(
        (house.who(&secret), house.state("alice")),
        (None, KeyState::Revoked)
    );
}

#[tokio::test]
async fn both_secrets_of_a_rotated_key_open_until_the_grace_is_over() {
    let house = House::new(Configured::default());
    let first = house.make(json!({ "name": "alice" })).await.unwrap();
    let rotate = |grace| {
        let rotation = Rotation {
            grace,
            force: false,
        };
        house.directory.rotate_key("alice", rotation)
    };
    let (second, view) = rotate(Duration::from_secs(3600)).await.unwrap();
    assert!(view.previous.is_some());
    assert!(house.who(&first).is_some() && house.who(&second).is_some());
    let (third, view) = rotate(Duration::ZERO).await.unwrap();
    assert_eq!(view.previous, None);
    assert_eq!((house.who(&first), house.who(&second)), (None, None));
    assert!(house.who(&third).is_some());
    let (fourth, _) = rotate(Duration::from_millis(1)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(house.who(&third).is_none() && house.who(&fourth).is_some());
}

#[tokio::test]
async fn holders_of_one_name_are_told_apart_and_a_rotated_key_is_the_same() {
    let house = House::new(Configured::default());
    let origins = |secret: &Secret| {
        let ring = house.directory.ring.load();
        let caller = &ring.find(&digest(secret.expose().as_bytes()))?.caller;
        Some((caller.key_origin, caller.team_origin))
    };
    let team = || form::new_team(fields(json!({ "name": "t" }))).unwrap();
    house.directory.create_team(team()).await.unwrap();
    let in_team = |name| house.make(json!({ "name": name, "team": "t" }));
    let alice = in_team("alice").await.unwrap();
    let (key, of_team) = origins(&alice).unwrap();
    assert!(matches!((key, of_team), (Origin::Made(_), Origin::Made(_))));
    let rotation = Rotation {
        grace: Duration::from_secs(3600),
        force: false,
    };
    let (rotated, _) = house.directory.rotate_key("alice", rotation).await.unwrap();
    for secret in [&alice, &rotated] {
        assert_eq!(origins(secret), Some((key, of_team)));
    }
    // The team is another one now, and has nothing but its name.
    house.directory.revoke_key("alice").await.unwrap();
    house.directory.delete_team("t").await.unwrap();
    house.directory.create_team(team()).await.unwrap();
    let (_, of_next) = origins(&in_team("bob").await.unwrap()).unwrap();
    assert_ne!(of_next, of_team);
    // So is a key of the configuration, whatever secret that has.
    for secret in ["one", "another"] {
        let configuration = configured(&[("alice", secret)], &["t"]);
        house.directory.reconfigure(configuration).await.unwrap();
        let (key, _) = origins(&Secret::new(secret)).unwrap();
        assert_eq!(key, Origin::Configured);
    }
    let carol = in_team("carol").await.unwrap();
    assert_eq!(origins(&carol).unwrap().1, Origin::Configured);
}

#[tokio::test]
async fn the_configuration_wins() {
    let house = House::new(configured(&[("bob", "config-secret")], &[]));
    assert_eq!(
        refusal(house.make(json!({ "name": "bob" })).await),
        Refusal::NameConfigured
    );
    let secret = house.make(json!({ "name": "alice" })).await.unwrap();
    for shadowing in [("alice", "another-secret"), ("carol", secret.expose())] {
        house
            .directory
            .reconfigure(configured(&[shadowing], &[]))
            .await
            .unwrap();
        let views = house.directory.keys();
        let view = views
            .iter()
            .find(|view| view.source == Source::Admin)
            .unwrap();
        assert!(view.shadowed && view.state == KeyState::Shadowed);
        let expected = (shadowing.1 == secret.expose()).then_some("carol");
        assert_eq!(house.who(&secret).as_deref(), expected);
        if shadowing.0 == "alice" {
            let refused = refusal(house.directory.revoke_key("alice").await);
            let id = view.id.clone().unwrap().into();
            assert_eq!(refused, Refusal::Shadowed { id });
        }
        // It can still be changed, under its own id.
        assert_eq!(
            house
                .directory
                .key(view.id.as_deref().unwrap())
                .unwrap()
                .source,
            Source::Admin
        );
    }
    house
        .directory
        .reconfigure(Configured::default())
        .await
        .unwrap();
    assert_eq!(house.who(&secret).as_deref(), Some("alice"));
    let house = house.restart(configured(&[("bob", "config-secret")], &[]));
    assert_eq!(
        refusal(house.directory.revoke_key("bob").await),
        Refusal::Configured
    );
}

#[tokio::test]
async fn teams_of_both_kinds_bound_their_keys() {
    let house = House::new(configured(&[], &["file"]));
    let team = form::new_team(fields(json!({ "name": "made", "models": ["gpt-*"] }))).unwrap();
    house.directory.create_team(team.clone()).await.unwrap();
    assert_eq!(
        refusal(house.directory.create_team(team).await),
        Refusal::NameTaken
    );
    let in_team = |name, team| house.make(json!({ "name": name, "team": team }));
    assert_eq!(refusal(in_team("x", "nobody").await), Refusal::UnknownTeam);
    let (of_file, of_made) = (
        in_team("a", "file").await.unwrap(),
        in_team("b", "made").await.unwrap(),
    );
    let may_use = |secret: &Secret, model| {
        let ring = house.directory.ring.load();
        ring.find(&digest(secret.expose().as_bytes()))
            .unwrap()
            .caller
            .may_use(model)
    };
    assert!(may_use(&of_file, "poet") && !may_use(&of_made, "poet") && may_use(&of_made, "gpt-4"));
    let edit = TeamEdit {
        models: Some(vec![Pattern::any()]),
        budgets: None,
        limits: None,
        cache: None,
    };
    house
        .directory
        .edit_team("made", edit.clone())
        .await
        .unwrap();
    assert!(may_use(&of_made, "poet"));
    assert_eq!(
        refusal(house.directory.edit_team("file", edit).await),
        Refusal::Configured
    );
    let refused = refusal(house.directory.delete_team("made").await);
    assert_eq!(refused, Refusal::TeamHasKeys { keys: 1 });
    assert_eq!(house.directory.team("file").unwrap().keys, ["a"]);
    // A key without its team would have no bounds but its own.
    house
        .directory
        .reconfigure(Configured::default())
        .await
        .unwrap();
    assert_eq!(
        (house.who(&of_file), house.state("a")),
        (None, KeyState::TeamMissing)
    );
    house.directory.revoke_key("b").await.unwrap();
    house.directory.delete_team("made").await.unwrap();
    assert_eq!(house.directory.teams(), []);
}

#[tokio::test]
async fn budgets_count_at_once() {
    let house = House::new(Configured::default());
    house.make(json!({ "name": "alice" })).await.unwrap();
    let key: Arc<str> = "alice".into();
    let fits = |tokens| {
        let amount = Amount {
            tokens,
            ..Amount::default()
        };
        let budgets = house.directory.budgets();
        budgets
            .reserve(&key, None, amount, Timestamp::now())
            .is_ok()
    };
    assert!(fits(100));
    let set = |budgets: Value| {
        let edit = form::key_edit(fields(json!({ "budgets": budgets })), Timestamp::now());
        house.directory.edit_key("alice", edit.unwrap())
    };
    set(json!([{ "tokens": 50, "per": "day" }])).await.unwrap();
    assert!(!fits(100) && fits(50));
    set(json!([{ "tokens": 100, "per": "day" }])).await.unwrap();
    assert!(fits(100) && !fits(101));
    let house = house.restart(Configured::default());
    assert_eq!(
        house.directory.budgets().balances(Timestamp::now()).len(),
        1
    );
    house.directory.revoke_key("alice").await.unwrap();
    assert_eq!(house.directory.budgets().balances(Timestamp::now()), []);
}

#[tokio::test]
async fn limits_count_at_once_and_stay_used() {
    let entries = |value: Value| limits::limits_from_json(&value, "limits").unwrap();
    let configured = |default: u32, own: u32| {
        let keys = [("file", "config-secret"), ("other", "other-secret")];
        let mut all = configured(&keys, &["t"]);
        all.keys[0].terms.limits = entries(json!({ "requests_per_day": own }));
        all.teams[0].limits = entries(json!({ "concurrent": 7 }));
        all.limits.keys = entries(json!({ "requests_per_day": default }));
        all
    };
    let house = House::new(configured(3, 2));
    house
        .make(json!({ "name": "alice", "team": "t" }))
        .await
        .unwrap();
    let ask = |key: &str| {
        let who = limits::Who {
            key,
            team: Some("t"),
            route: None,
            model: None,
        };
        let now = limits::Time::from_micros(0);
        let admitted =
            house
                .directory
                .limits()
                .admit(&who, &limits::Amount::default(), now, || Ok::<_, ()>(()));
        admitted.map(|admitted| admitted.reservation.keep()).is_ok()
    };
    for (key, times) in [("file", 2), ("other", 3), ("alice", 3)] {
        for _ in 0..times {
            assert!(ask(key), "{key}");
        }
        assert!(!ask(key), "{key}");
    }
    house
        .directory
        .rotate_key(
            "alice",
            Rotation {
                grace: Duration::from_secs(9),
                force: false,
            },
        )
        .await
        .unwrap();
    assert!(!ask("alice") && !ask("file"));
    house.directory.reconfigure(configured(4, 2)).await.unwrap();
    assert!(ask("alice") && !ask("alice") && ask("other") && !ask("file"));
    let edit = |limits: Value| {
        form::key_edit(fields(json!({ "limits": limits })), Timestamp::now()).unwrap()
    };
    let own = edit(json!({ "requests_per_day": 6 }));
    let view = house.directory.edit_key("alice", own).await.unwrap();
    assert_eq!(view.terms["limits"], json!([{ "requests_per_day": 6 }]));
    assert!(ask("alice") && ask("alice") && !ask("alice"));
    house
        .directory
        .edit_key("alice", edit(json!(null)))
        .await
        .unwrap();
    assert!(!ask("alice"), "the configuration's limit is back");
}

#[tokio::test]
async fn whoever_leaves_in_the_middle_stops_nothing() {
    let house = House::new(Configured::default());
    house.make(json!({ "name": "alice" })).await.unwrap();
    let mut leaving = Box::pin(house.directory.revoke_key("alice"));
    assert!(futures_util::poll!(&mut leaving).is_pending());
    drop(leaving);
    while house.state("alice") != KeyState::Revoked {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn nothing_shown_holds_a_digest() {
    let house = House::new(configured(&[("file", "config-secret")], &["t"]));
    let secret = house
        .make(json!({ "name": "alice", "team": "t" }))
        .await
        .unwrap();
    let shown = serde_json::to_string(&(house.directory.keys(), house.directory.teams())).unwrap();
    for hidden in [secret.expose(), "config-secret"] {
        let hash = crate::keys::format_hash(&digest(hidden.as_bytes()));
        assert!(
            !shown.contains(hidden) && !shown.contains(&hash["sha256:".len()..]),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn what_another_process_changes_is_taken_over() {
    let house = House::new(configured(&[], &[]));
    let other = House {
        directory: open(&house.folder, configured(&[], &[])),
        folder: tempfile::tempdir().unwrap(),
    };
    let mut notice = other.directory.ledger.notice();
    let mut looks = async || {
        other.directory.look(&mut notice).await.unwrap();
        other.directory.count_owed().await.unwrap();
    };
    looks().await;
    let team = json!({ "name": "t", "budgets": [{ "tokens": 9, "per": "day" }] });
    let team = form::new_team(fields(team)).unwrap();
    house.directory.create_team(team).await.unwrap();
    let secret = house
        .make(json!({ "name": "bob", "team": "t" }))
        .await
        .unwrap();
    assert_eq!(other.who(&secret), None);
    looks().await;
    assert_eq!(other.who(&secret).as_deref(), Some("bob"));
    assert_eq!(
        other.directory.budgets().balances(Timestamp::now()).len(),
        1
    );
    // Its own changes, and others', come together.
    let own = other.make(json!({ "name": "carol" })).await.unwrap();
    house.directory.revoke_key("bob").await.unwrap();
    looks().await;
    assert_eq!(other.who(&secret), None);
    assert_eq!(other.who(&own).as_deref(), Some("carol"));
    other.directory.ledger.close();
    house.directory.ledger.close();
}

#[tokio::test]
async fn a_key_is_found_by_its_name_its_id_and_each_of_its_secrets() {
    let house = House::new(configured(&[("carol", "secret-of-carol")], &[]));
    let first = house.make(json!({ "name": "alice" })).await.unwrap();
    let old = house.directory.key("alice").unwrap().id.unwrap();
    let rotation = Rotation {
        grace: Duration::from_secs(3600),
        force: false,
    };
    let (second, view) = house.directory.rotate_key("alice", rotation).await.unwrap();
    let id = view.id.unwrap();
    let found = |which: &str| {
        let found = house.directory.find(which)?;
        let is_of = |secret: &Secret| found.digest == digest(secret.expose().as_bytes());
        let secret = [is_of(&first), is_of(&second)];
        Some((found.view.name, secret, found.is_previous))
    };
    for (which, is_previous) in [
        ("alice", false),
        (&id, false),
        (second.expose(), false),
        (&old, true),
        (first.expose(), true),
    ] {
        let secret = [is_previous, !is_previous];
        assert_eq!(found(which), Some(("alice".into(), secret, is_previous)));
    }
    for which in ["carol", "secret-of-carol"] {
        assert_eq!(found(which).unwrap().0, "carol");
    }
    assert_eq!(found("nobody"), None);
    house.directory.revoke_key("alice").await.unwrap();
    let found = house.directory.find(second.expose()).unwrap();
    assert_eq!(found.view.state, KeyState::Revoked);
}
