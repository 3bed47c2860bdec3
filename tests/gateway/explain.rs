//! Calls that are explained and not made: what is told of them is what those hear that are made.

use std::io::Write as _;
use std::process::Stdio;

use http::Method;
use serde_json::{Value, json};

use crate::support::answers::{ask, chat, json_answer};
use crate::support::client::{Answer, Client};
use crate::support::gateway::{Config, Ended, Gateway, run, weir};
use crate::support::upstream::{Script, Upstream};
use crate::support::{ADMIN_TOKEN, KEY, eventually};

async fn asked(gateway: &Gateway, question: Value) -> Answer {
    gateway.operator().post("/admin/v1/explain", question).await
}

async fn explain(gateway: &Gateway, question: Value) -> Value {
    let answer = asked(gateway, question).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// What is told of the usual request, under a key.
async fn told(gateway: &Gateway, key: &str) -> Value {
    explain(gateway, json!({ "key": key, "body": ask() })).await
}

fn client(gateway: &Gateway, secret: &str) -> Client {
    gateway
        .stranger()
        .with_header("authorization", &format!("Bearer {secret}"))
}

/// Makes a key and returns its secret and its id.
async fn make(gateway: &Gateway, body: Value) -> (String, String) {
    let made = gateway.operator().post("/admin/v1/keys", body).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let made = made.json();
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    (text("key"), text("id"))
}

/// Checks that a verdict is what a call that is made hears.
#[track_caller]
fn same(outlook: &Value, answer: &Answer) {
    let verdict = &outlook["verdict"];
    assert_eq!(verdict["status"], answer.status, "{outlook}");
    if answer.status == 200 {
        assert_eq!(verdict["outcome"], "served");
        return;
    }
    assert_eq!(verdict["outcome"], "refused");
    let error = &answer.json()["error"];
    for field in ["code", "type", "param"] {
        assert_eq!(verdict[field], error[field], "{field}");
    }
}

#[tokio::test]
async fn a_call_that_would_be_served_is_told_with_everything_that_it_meets() {
    let upstream = Upstream::answering(chat()).await;
    let spare = Upstream::answering(chat()).await;
    let tables = format!(
        "[[team]]\nname = \"research\"\nbudgets = [{{ amount = \"5 USD\", per = \"month\" }}]\n
         [[key]]\nname = \"alice\"\nsecret = \"{KEY}\"\nteam = \"research\"\n
         limits = [{{ requests_per_minute = 60, burst = 10 }}, {{ tokens_per_day = 9000, models = [\"gpt-*\"] }}, {{ concurrent = 2, models = [\"o1\"] }}]\n"
    );
    let gateway = Config::new()
        .without_key()
        .upstream("first", &upstream, "")
        .upstream("second", &spare, "models = [\"other\"]")
        .routed(
            "gpt-*",
            "targets = [{ upstream = \"second\", model = \"gpt-4o-mini\", priority = 1 }, { upstream = \"first\" }]\nlimits = { requests_per_day = 100 }",
        )
        .table(&tables)
        .start()
        .await;
    let mut body = ask();
    body["max_tokens"] = json!(100);
    body["n"] = json!(2);
    body["stream"] = json!(true);
    let outlook = explain(&gateway, json!({ "key": "alice", "body": body })).await;
    assert_eq!(outlook["verdict"]["outcome"], "served");
    let key = &outlook["key"];
    assert_eq!((&key["found"], &key["opens"]), (&json!(true), &json!(true)));
    assert_eq!(
        (&key["team"], &key["source"], &key["may_use_model"]),
        (&json!("research"), &json!("config"), &json!(true))
    );
    let request = &outlook["request"];
    assert_eq!(request["endpoint"], "/v1/chat/completions");
    assert_eq!(
        (
            &request["model"],
            &request["stream"],
            &request["well_formed"]
        ),
        (&json!("gpt-4o"), &json!(true), &json!(true))
    );
    assert_eq!(
        outlook["route"],
        json!({ "pattern": "gpt-*", "balance": "p2c" })
    );
    let estimate = &outlook["estimate"];
    assert_eq!(
        (
            &estimate["completion_tokens"],
            &estimate["completion_from"],
            &estimate["choices"]
        ),
        (&json!(200), &json!("max_tokens"), &json!(2))
    );
    let prompt = estimate["prompt_tokens"].as_u64().unwrap();
    assert!(prompt > 0 && estimate["cost"].is_string(), "{estimate}");
    let limits: Vec<_> = outlook["limits"]
        .as_array()
        .unwrap()
        .iter()
        .map(|limit| {
            let number = |field: &str| limit[field].as_u64().unwrap();
            assert_eq!(
                (&limit["refuses"], &limit["shadow"]),
                (&json!(false), &json!(false))
            );
            (
                format!(
                    "{} {}",
                    limit["of"].as_str().unwrap(),
                    limit["dimension"].as_str().unwrap()
                ),
                [number("limit"), number("remaining"), number("wanted")],
            )
        })
        .collect();
    assert_eq!(
        limits,
        [
            ("key requests_per_minute".to_owned(), [60, 10, 1]),
            ("key tokens_per_day".to_owned(), [9000, 9000, prompt + 200]),
            ("route requests_per_day".to_owned(), [100, 100, 1]),
        ]
    );
    let budget = &outlook["budgets"][0];
    assert_eq!(
        (
            &budget["of"],
            &budget["name"],
            &budget["limit"],
            &budget["used"],
            &budget["reserved"]
        ),
        (
            &json!("team"),
            &json!("research"),
            &json!("5.00"),
            &json!("0.00"),
            &json!("0.00")
        )
    );
    assert_eq!(
        (&budget["refuses"], &budget["wanted"]),
        (&json!(false), &estimate["cost"])
    );
    assert_eq!(outlook["cache"]["decision"], "off");
    let targets: Vec<_> = outlook["targets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|target| {
            ["upstream", "model", "state", "turn", "first_percent"]
                .map(|field| target[field].clone())
        })
        .collect();
    assert_eq!(
        targets,
        [
            [
                json!("first"),
                json!("gpt-4o"),
                json!("healthy"),
                json!("in_order"),
                json!(100)
            ],
            [
                json!("second"),
                json!("gpt-4o-mini"),
                json!("healthy"),
                json!("in_order"),
                json!(0)
            ],
        ]
    );
    assert_eq!(upstream.calls().len() + spare.calls().len(), 0);
}

#[tokio::test]
async fn keys_that_do_not_open_are_told_and_why() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let unknown = "wk-nobody-GzTq81mXcVbNs";
    let outlook = told(&gateway, unknown).await;
    assert_eq!(outlook["key"]["found"], false);
    same(&outlook, &client(&gateway, unknown).chat(ask()).await);
    assert!(!outlook.to_string().contains(unknown), "it may be a secret");
    assert_eq!(
        outlook["targets"][0]["upstream"], "upstream",
        "told all the same"
    );

    let (secret, id) = make(&gateway, json!({ "name": "bob" })).await;
    for key in ["bob", &id, &secret] {
        let outlook = told(&gateway, key).await;
        assert_eq!(
            (
                &outlook["key"]["name"],
                &outlook["key"]["id"],
                &outlook["key"]["opens"]
            ),
            (&json!("bob"), &json!(id), &json!(true))
        );
        assert!(!outlook.to_string().contains(&secret));
    }
    let edited = json!({ "paths": ["/v1/files"] });
    let operator = gateway
        .operator()
        .with_header("content-type", "application/json");
    operator
        .request(Method::PATCH, "/admin/v1/keys/bob", edited)
        .await;
    let outlook = told(&gateway, "bob").await;
    assert_eq!(outlook["key"]["may_use_path"], false);
    same(&outlook, &client(&gateway, &secret).chat(ask()).await);

    let path = "/admin/v1/keys/bob";
    assert_eq!(
        gateway
            .operator()
            .request(Method::DELETE, path, "")
            .await
            .status,
        200
    );
    for key in ["bob", &secret] {
        let outlook = told(&gateway, key).await;
        assert_eq!(outlook["key"]["state"], "revoked");
        let reason = outlook["key"]["reason"].as_str().unwrap();
        assert!(reason.starts_with("it was revoked at 20"), "{reason}");
        assert_eq!(outlook["limits"], json!([]));
        same(&outlook, &client(&gateway, &secret).chat(ask()).await);
    }
    assert!(!gateway.output().contains(&secret), "the log shows a key");
    assert!(!gateway.output().contains(unknown), "the log shows a key");
}

#[tokio::test]
async fn faulty_requests_and_models_that_are_not_allowed_are_told_as_clients_are() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::new()
        .without_key()
        .upstream("upstream", &upstream, "models = [\"gpt-4o\", \"o1\"]")
        .table(&format!(
            "[[key]]\nname = \"alice\"\nsecret = \"{KEY}\"\nmodels = [\"gpt-*\"]\nlimits = {{ requests_per_day = 99 }}\n"
        ))
        .start()
        .await;
    for (body, well_formed) in [
        (r#"{"model":"o1","messages":[]}"#, true),
        (r#"{"model":"gpt-5","messages":[]}"#, true),
        (r#"{"messages":[]}"#, false),
        (r#"{"model":7}"#, false),
        (r#"{"model":"gpt-4o","model":"o1"}"#, false),
        (r#"{"model":"gpt-4o","stream":"yes"}"#, false),
    ] {
        let question = format!(r#"{{"key":"alice","body":{body}}}"#);
        let answer = gateway.operator().post("/admin/v1/explain", question).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let outlook = answer.json();
        assert_eq!(outlook["request"]["well_formed"], well_formed, "{body}");
        let heard = gateway.client().chat(body).await;
        assert_ne!(heard.status, 200);
        same(&outlook, &heard);
        if !well_formed {
            assert_eq!(
                outlook["request"]["error"],
                heard.json()["error"]["message"]
            );
        }
    }
    let denied = explain(
        &gateway,
        json!({ "key": "alice", "body": { "model": "o1" } }),
    )
    .await;
    assert_eq!(denied["key"]["may_use_model"], false);
    assert_eq!(denied["limits"][0]["dimension"], "requests_per_day");
    assert_eq!(denied["targets"][0]["model"], "o1");
    for path in [
        "/v1/usage",
        "/v1/models",
        "/v1/files?limit=2",
        "/v1/chat%2fx",
        "/nowhere",
    ] {
        let outlook = explain(&gateway, json!({ "key": "alice", "path": path })).await;
        same(&outlook, &gateway.client().get(path).await);
        let own = ["/v1/usage", "/v1/models"].contains(&path);
        assert_eq!(
            outlook["request"]["answered_by"] == "gateway",
            own,
            "{path}"
        );
    }
}

#[tokio::test]
async fn limits_and_budgets_say_what_they_would_and_shadows_refuse_nothing() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .without_key()
        .table(&format!(
            "[[key]]\nname = \"alice\"\nsecret = \"{KEY}\"\nlimits = [{{ requests_per_day = 2 }}, {{ requests_per_minute = 1, shadow = true }}]\nbudgets = [{{ tokens = 8000, per = \"day\" }}]\n"
        ))
        .start()
        .await;
    let by = |outlook: &Value, dimension: &str| {
        let limits = outlook["limits"].as_array().unwrap().clone();
        limits
            .into_iter()
            .find(|limit| limit["dimension"] == dimension)
            .unwrap()
    };
    assert_eq!(gateway.client().chat(ask()).await.status, 200);
    let outlook = told(&gateway, "alice").await;
    assert_eq!(outlook["verdict"]["outcome"], "served");
    let shadow = by(&outlook, "requests_per_minute");
    assert_eq!(
        (&shadow["shadow"], &shadow["refuses"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(by(&outlook, "requests_per_day")["remaining"], 1);
    assert_eq!(outlook["budgets"][0]["used"], 5);
    assert_eq!(outlook["estimate"]["completion_from"], "learnt");
    assert_eq!(outlook["estimate"]["completion_tokens"], 2);

    let large = json!({ "model": "gpt-4o", "messages": [], "max_tokens": 8000 });
    let outlook = explain(&gateway, json!({ "key": "alice", "body": large })).await;
    let budget = &outlook["budgets"][0];
    assert_eq!(
        (&budget["limit"], &budget["refuses"]),
        (&json!(8000), &json!(true))
    );
    assert!(budget["wanted"].as_u64().unwrap() > 8000, "{budget}");
    same(&outlook, &gateway.client().chat(large).await);

    assert_eq!(gateway.client().chat(ask()).await.status, 200);
    let outlook = told(&gateway, "alice").await;
    let limit = by(&outlook, "requests_per_day");
    assert_eq!(
        (&limit["remaining"], &limit["refuses"]),
        (&json!(0), &json!(true))
    );
    assert!(
        limit["retry_after_ms"].as_u64().unwrap() > 3_600_000,
        "{limit}"
    );
    assert_eq!(
        outlook["verdict"]["retry_after_ms"],
        limit["retry_after_ms"]
    );
    same(&outlook, &gateway.client().chat(ask()).await);
}

#[tokio::test]
async fn an_upstream_that_is_left_out_is_told() {
    const ERROR: &str = r#"{"error":{"message":"no","type":"t","param":null,"code":"c"}}"#;
    let bad = Upstream::start(|_| Script::new().send(json_answer("500 Oops", ERROR))).await;
    let eject = "eject = { failures = 1, base = \"5m\", max = \"5m\", floor = 0 }";
    let gateway = Config::new().upstream("bad", &bad, eject).start().await;
    assert_eq!(gateway.client().chat(ask()).await.status, 502);
    let outlook = eventually("it is left out", async || {
        let outlook = told(&gateway, "alice").await;
        (outlook["targets"][0]["state"] == "ejected").then_some(outlook)
    })
    .await;
    let target = &outlook["targets"][0];
    assert_eq!(target["turn"], "never");
    assert!(
        target["ejected_for_ms"].as_u64().unwrap() > 60_000,
        "{target}"
    );
    same(&outlook, &gateway.client().chat(ask()).await);
}

#[tokio::test]
async fn a_thousand_explanations_consume_nothing() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .without_key()
        .table(&format!(
            "[[key]]\nname = \"alice\"\nsecret = \"{KEY}\"\nlimits = [{{ requests_per_minute = 1 }}, {{ requests_per_day = 1, shadow = true }}, {{ tokens_per_day = 3000 }}, {{ concurrent = 1 }}]\nbudgets = [{{ tokens = 3000, per = \"day\" }}]\n"
        ))
        .start()
        .await;
    let counted = |metrics: &str| -> Vec<String> {
        let is_counted = |line: &&str| {
            let mut names = [
                "weir_requests",
                "weir_limit",
                "weir_upstream",
                "weir_ledger_rows",
                "weir_budget",
            ]
            .into_iter();
            names.any(|name| line.starts_with(name))
        };
        metrics
            .lines()
            .filter(is_counted)
            .map(str::to_owned)
            .collect()
    };
    let before = counted(&gateway.metrics().await);
    let first = told(&gateway, "alice").await;
    for _ in 0..1000 {
        assert_eq!(told(&gateway, "alice").await, first);
    }
    assert_eq!(counted(&gateway.metrics().await), before);
    let usage = gateway.operator().get("/admin/v1/usage").await.json();
    assert_eq!(usage["total"]["requests"], 0);
    assert_eq!(gateway.ledger("SELECT count(*) FROM request"), ["0"]);
    let answer = gateway.client().chat(ask()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(gateway.client().chat(ask()).await.status, 429);
}

#[tokio::test]
async fn careless_questions_are_told_what_is_wrong() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    for (question, param) in [
        (r#"{"body":{}}"#, json!("key")),
        (r#"{"key":"alice","modle":"x"}"#, json!("modle")),
        (r#"{"key":"alice","key":"bob"}"#, json!("key")),
        (r#"{"key":"alice","body":"{}"}"#, json!("body")),
        (
            r#"{"key":"alice","headers":{"authorization":"Bearer x"}}"#,
            json!("headers.authorization"),
        ),
        ("[]", Value::Null),
    ] {
        let answer = gateway.operator().post("/admin/v1/explain", question).await;
        assert_eq!(answer.status, 400, "{question}");
        assert_eq!(answer.json()["error"]["param"], param, "{question}");
    }
    let wrong = gateway.operator().get("/admin/v1/explain").await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
    let question = json!({ "key": "alice", "body": ask() });
    let stranger = Client::new(gateway.admin())
        .post("/admin/v1/explain", question)
        .await;
    assert_eq!(stranger.status, 401);
}

#[tokio::test]
async fn a_terminal_is_told_in_columns_and_a_program_in_json() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .table("[limits]\nrequests_per_minute = 60\n")
        .start()
        .await;
    let weir_explain = async |args: &[&str], input: Option<&str>| -> Ended {
        let mut command = weir(gateway.dir.path());
        command.arg("explain").args(args);
        command.args(["--admin", &format!("http://{}", gateway.admin())]);
        command.env("WEIR_ADMIN_TOKEN", ADMIN_TOKEN);
        if let Some(input) = input {
            let mut file = tempfile::tempfile_in(gateway.dir.path()).unwrap();
            file.write_all(input.as_bytes()).unwrap();
            std::io::Seek::rewind(&mut file).unwrap();
            command.stdin(Stdio::from(file));
        }
        run(command).await
    };
    let words = weir_explain(&["--key", "alice", "--model", "gpt-4o"], None).await;
    assert!(words.status.success(), "{}", words.stderr);
    let lines: Vec<_> = words.stdout.lines().collect();
    assert_eq!(lines[0], "verdict   served, 200, by upstream");
    for part in [
        "key       alice, of the configuration",
        "request   POST /v1/chat/completions, model gpt-4o",
        "requests per minute  key alice  *         60    60      1  0s     room",
        "TARGET ",
    ] {
        assert!(
            words.stdout.contains(part),
            "no {part:?} in {}",
            words.stdout
        );
    }
    let input = r#"{"model":"gpt-4o","messages":[],"max_tokens":7}"#;
    let json = weir_explain(&["-", "--key", KEY, "--json"], Some(input)).await;
    assert!(!json.stdout.contains(KEY), "{}", json.stdout);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["estimate"]["completion_tokens"], 7);
    let refused = weir_explain(&["--key", "nobody", "--model", "gpt-4o"], None).await;
    assert_eq!(refused.status.code(), Some(0), "it was told what it asked");
    assert!(
        refused
            .stdout
            .starts_with("verdict   refused, 401 invalid_api_key")
    );
    for (args, said) in [
        (&["--model", "gpt-4o"][..], "name a --key"),
        (&["--key", "alice"], "name a --model"),
        (
            &["--key", "alice", "missing.json"],
            "cannot read missing.json",
        ),
        (&["--key", "alice", "--path", "v1/x"], "`path` is no path"),
    ] {
        let wrong = weir_explain(args, None).await;
        assert_eq!(wrong.status.code(), Some(1), "{args:?}");
        assert!(wrong.stderr.contains(said), "{}", wrong.stderr);
    }
}
