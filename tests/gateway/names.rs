//! What keys and teams may be called, and that every place takes such a name.

use http::Method;
use serde_json::{Value, json};

use crate::support::ADMIN_TOKEN;
use crate::support::answers::{ask, chat};
use crate::support::gateway::{Config, Ended, Gateway, run, weir};
use crate::support::upstream::Upstream;

/// The longest of them begins like a path, too.
const NAMES: [(&str, &str); 3] = [
    ("alice b. smith", "r. & d."),
    ("..", "."),
    ("../v1 50%.2 \"ü\"", "a+b=c?d#e / f"),
];

const WRONG: [&str; 6] = [" bob", "bob ", "bo\tb", "bob\n", "\u{a0}bob", ""];

async fn weir_at(gateway: &Gateway, args: &[&str]) -> Ended {
    let mut command = weir(gateway.dir.path());
    command.args(args).env("WEIR_ADMIN_TOKEN", ADMIN_TOKEN);
    command.args(["--admin", &format!("http://{}", gateway.admin())]);
    run(command).await
}

/// Runs a command that must succeed, and returns what it prints.
async fn told(gateway: &Gateway, args: &[&str]) -> String {
    let ended = weir_at(gateway, args).await;
    assert!(ended.status.success(), "{args:?}: {}", ended.stderr);
    ended.stdout
}

async fn told_json(gateway: &Gateway, args: &[&str]) -> Value {
    let text = told(gateway, &[args, &["--json"]].concat()).await;
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn names_with_spaces_and_dots_work_everywhere() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .table("[cache]\nenabled = true\n")
        .start()
        .await;
    for (key, team) in NAMES {
        told(&gateway, &["keys", "team", "new", team]).await;
        let made = told_json(&gateway, &["keys", "new", key, "--team", team]).await;
        assert_eq!((&made["name"], &made["team"]), (&json!(key), &json!(team)));
        let client = gateway
            .stranger()
            .with_header("api-key", made["key"].as_str().unwrap());
        let mut body = ask();
        body["temperature"] = 0.into();
        assert_eq!(client.chat(body).await.status, 200);

        let [key_label, team_label] = [key, team].map(|name| name.replace('"', "\\\""));
        let metrics = gateway.metrics().await;
        let line = metrics.lines().find(|line| {
            line.starts_with("weir_tokens_total{")
                && line.contains(&format!("key=\"{key_label}\""))
                && line.contains(&format!("team=\"{team_label}\""))
        });
        assert!(line.is_some(), "{key}:\n{metrics}");

        for (option, name) in [("--key", key), ("--team", team)] {
            let used = told_json(&gateway, &["usage", option, name]).await;
            assert_eq!(used["total"]["requests"], 1, "{option} {name}");
        }
        let outlook = told_json(&gateway, &["explain", "--key", key, "--model", "gpt-4o"]).await;
        assert_eq!(
            (&outlook["key"]["name"], &outlook["key"]["team"]),
            (&json!(key), &json!(team))
        );
        let query = [("key", key), ("team", team)].map(|(parameter, name)| {
            let name =
                percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
            format!("{parameter}={name}")
        });
        let path = format!("/admin/v1/cache?{}", query.join("&"));
        let purged = gateway.operator().request(Method::DELETE, &path, "").await;
        assert_eq!(purged.json()["purged"], 1, "{key}: {}", purged.text());

        told(&gateway, &["keys", "team", "edit", team, "--models", "*"]).await;
        told(&gateway, &["keys", "edit", key, "--limit", "none"]).await;
        told(&gateway, &["keys", "rotate", key]).await;
        told(&gateway, &["keys", "revoke", key]).await;
        told(&gateway, &["keys", "team", "delete", team]).await;
    }
}

#[tokio::test]
async fn names_that_begin_or_end_with_a_space_or_hold_controls_are_refused() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let ledger = gateway.dir.path().join(".local/share/weir/weir.db");
    let ledger = ledger.to_str().unwrap();
    for name in WRONG {
        for what in ["keys", "teams"] {
            let path = format!("/admin/v1/{what}");
            let refused = gateway
                .operator()
                .post(&path, json!({ "name": name }))
                .await;
            let error = &refused.json()["error"];
            assert_eq!(
                (refused.status, &error["param"]),
                (400, &json!("name")),
                "{what} {name:?}"
            );
        }
        for args in [&["keys", "new", name][..], &["keys", "team", "new", name]] {
            let mut at_file = weir(gateway.dir.path());
            at_file.args(args).args(["--ledger", ledger]);
            for refused in [weir_at(&gateway, args).await, run(at_file).await] {
                assert_eq!(refused.status.code(), Some(1), "{args:?}");
                assert!(refused.stderr.contains("`name`"), "{}", refused.stderr);
            }
        }
        for (table, field) in [("key", "secret = \"wk-0123456789\"\n"), ("team", "")] {
            let dir = tempfile::tempdir().unwrap();
            // A text of JSON is one of TOML.
            let text = format!("[[{table}]]\nname = {}\n{field}", json!(name));
            std::fs::write(dir.path().join("weir.toml"), text).unwrap();
            let mut check = weir(dir.path());
            check.args(["check", "--config", "weir.toml"]);
            let refused = run(check).await;
            assert_eq!(refused.status.code(), Some(1), "{table} {name:?}");
            let place =
                refused.stdout.contains(".name: ") && refused.stdout.contains("weir.toml:2:");
            assert!(place, "{}", refused.stdout);
        }
    }
    assert_eq!(
        gateway.operator().get("/admin/v1/teams").await.json()["data"],
        json!([])
    );
}
