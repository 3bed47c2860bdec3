use std::convert::Infallible;
use std::time::Instant;

use http::Method;
use http::uri::PathAndQuery;
use tower::ServiceExt;

use super::*;
use crate::call::{CallBody, Head, Record, RequestId};
use crate::store::budgets::{Budget, Holder, Period, Window};
use crate::store::ledger::{Ledger, Params, Sync};

#[derive(Debug)]
struct Failure;

impl From<OwnUsageError> for Failure {
    fn from(_: OwnUsageError) -> Self {
        Self
    }
}

impl From<Infallible> for Failure {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

fn call(endpoint: Endpoint) -> Call {
    Call {
        caller: Arc::new(Caller {
            team: Some("research".into()),
            ..Caller::configured("alice")
        }),
        endpoint,
        model: None,
        stream: false,
        report_usage: false,
        upstream: None,
        estimate: None,
        room: None,
        looked: None,
        deadline: None,
        head: Head {
            method: Method::GET,
            target: PathAndQuery::from_static("/v1/usage"),
            headers: HeaderMap::new(),
        },
        body: CallBody::Empty,
        upgrade: None,
        record: Arc::new(Record::new(RequestId::fresh(), Instant::now())),
    }
}

/// Answers 204 to whatever comes through.
async fn ask(layer: &OwnUsageLayer, endpoint: Endpoint) -> Result<(StatusCode, Value), Failure> {
    let inner = tower::service_fn(|_: Call| async {
        let headers = HeaderMap::new();
        Ok::<_, Failure>(Reply::full(StatusCode::NO_CONTENT, headers, "".into()))
    });
    let reply = layer.layer(inner).oneshot(call(endpoint)).await?;
    let body = reply.body.as_full().unwrap();
    let body = serde_json::from_slice(body).unwrap_or_default();
    Ok((reply.status, body))
}

#[tokio::test]
async fn a_key_is_told_what_it_and_its_team_have_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weir.db");
    let ledger = Ledger::open(&Params {
        path: path.clone(),
        sync: Sync::Never,
        max_open: 8,
        retention: Default::default(),
    })
    .unwrap();
    let now = Timestamp::now().as_microsecond();
    let file = rusqlite::Connection::open(&path).unwrap();
    for (id, key, status) in [
        (1, "alice", "complete"),
        (now, "alice", "failed"),
        (now + 1, "alice", "open"),
        (now + 2, "bob", "complete"),
    ] {
        file.execute(
            "INSERT INTO request (id, request_id, run, key, team, endpoint, stream, status, input_tokens, cached_input_tokens, output_tokens, cost, tokens)
             VALUES (?, '', 1, ?, 'research', '', 0, ?, 5, 2, 3, 1234000, 10)",
            (id, key, status),
        )
        .unwrap();
    }
    file.execute(
        "INSERT INTO forgotten VALUES ('alice', 'research', 0, 1, 100, 1000000000)",
        [],
    )
    .unwrap();
    let budget = |limit, per| Budget {
        limit,
        per,
        window: Window::Calendar,
        warn_at_thousandths: 800,
    };
    let budgets = Arc::new(Budgets::default());
    let list = vec![
        (
            Holder::Team("research".into()),
            vec![budget(Limit::Tokens(100), Period::Day)],
        ),
        (
            Holder::Key("alice".into()),
            vec![budget(Limit::Money(Nanos::dollars(5)), Period::Total)],
        ),
        (
            Holder::Key("bob".into()),
            vec![budget(Limit::Tokens(1), Period::Day)],
        ),
    ];
    budgets.replace(list, &file, Timestamp::now()).unwrap();
    let layer = OwnUsageLayer::new(ledger.reader(), budgets);

    let (status, told) = ask(&layer, Endpoint::OwnUsage).await.unwrap();
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        (&told["key"], &told["team"]),
        (&json!("alice"), &json!("research"))
    );
    let month = &told["month"];
    assert_eq!(
        (&month["requests"], &month["tokens"], &month["cost"]),
        (&json!(1), &json!(10), &json!("0.001234"))
    );
    assert_eq!(
        (&month["prompt_tokens"], &month["completion_tokens"]),
        (&json!(7), &json!(3))
    );
    assert_eq!(
        told["total"],
        json!({ "requests": 3, "tokens": 120, "cost": "1.002468" })
    );
    let budgets = told["budgets"].as_array().unwrap();
    let of: Vec<_> = budgets.iter().map(|budget| &budget["name"]).collect();
    assert_eq!(of, ["alice", "research"]);
    // An open row counts at its estimate.
    assert_eq!(
        (&budgets[0]["used"], &budgets[0]["left"]),
        (&json!("1.003702"), &json!("3.996298"))
    );
    assert_eq!(
        (&budgets[1]["used"], &budgets[1]["left"]),
        (&json!(30), &json!(70))
    );
    assert!(budgets[0]["renewed"].is_null() && budgets[1]["renewed"].is_string());

    assert_eq!(
        ask(&layer, Endpoint::Models).await.unwrap().0,
        StatusCode::NO_CONTENT
    );
    drop(file);
    ledger.close();
    std::fs::remove_file(&path).unwrap();
    assert!(ask(&layer, Endpoint::OwnUsage).await.is_err());
}
