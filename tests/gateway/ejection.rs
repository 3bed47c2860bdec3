//! Endpoints that fail are left out, and come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::support::answers::{ask, chat, json_answer};
use crate::support::eventually;
use crate::support::gateway::{Config, Gateway};
use crate::support::upstream::{Script, Upstream};

const ERROR: &str = r#"{"error":{"message":"no","type":"t","param":null,"code":"c"}}"#;

/// An upstream that answers well or badly as it is told.
async fn moody() -> (Upstream, Arc<AtomicBool>) {
    let fails = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&fails);
    let upstream = Upstream::start(move |_| {
        Script::new().send(match switch.load(Ordering::SeqCst) {
            true => json_answer("500 Oops", ERROR),
            false => chat(),
        })
    })
    .await;
    (upstream, fails)
}

async fn metric(gateway: &Gateway, sample: &str) -> Option<()> {
    gateway.metrics().await.contains(sample).then_some(())
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_out_and_comes_back_by_a_trial() {
    let (bad, fails) = moody().await;
    let good = Upstream::answering(chat()).await;
    let eject = "eject = { failures = 3, base = \"300ms\", max = \"300ms\" }";
    let gateway = Config::new()
        .upstream("bad", &bad, eject)
        .upstream("good", &good, "models = [\"other\"]")
        .routed(
            "gpt-4o",
            "balance = \"order\"\ntargets = [{ upstream = \"bad\" }, { upstream = \"good\" }]",
        )
        .start()
        .await;
    for _ in 0..20 {
        let seen = gateway.client().chat(ask()).await;
        assert_eq!(seen.status, 200);
        assert_eq!(seen.header("x-weir-upstream"), Some("good"));
    }
    let calls = bad.calls().len();
    assert!(
        (3..10).contains(&calls),
        "three, and a trial now and then: {calls}"
    );
    let ejected = "weir_upstream_endpoints{state=\"ejected\",upstream=\"bad\"} 1";
    assert!(metric(&gateway, ejected).await.is_some());
    assert!(
        metric(&gateway, "weir_upstream_ejections_total{upstream=\"bad\"}")
            .await
            .is_some()
    );
    gateway
        .logged("the ejection", |line| line["upstream.name"] == "bad")
        .await;

    fails.store(false, Ordering::SeqCst);
    eventually("it is back", async || {
        let seen = gateway.client().chat(ask()).await;
        assert_eq!(seen.status, 200, "a trial is nobody's risk");
        (seen.header("x-weir-upstream") == Some("bad")).then_some(())
    })
    .await;
    let ejected = "weir_upstream_endpoints{state=\"ejected\",upstream=\"bad\"} 0";
    assert!(metric(&gateway, ejected).await.is_some());
}

#[tokio::test]
async fn the_last_endpoint_is_asked_however_it_fails() {
    let (bad, fails) = moody().await;
    let gateway = Config::new()
        .upstream("bad", &bad, "eject = { failures = 2, base = \"1m\" }")
        .start()
        .await;
    for _ in 0..10 {
        assert_eq!(gateway.client().chat(ask()).await.status, 502);
    }
    assert_eq!(bad.calls().len(), 10);
    let ready = |is: u8| format!("weir_upstream_ready{{upstream=\"bad\"}} {is}\n");
    assert!(
        metric(&gateway, &ready(0)).await.is_some(),
        "it is not well"
    );
    let readyz = gateway.operator().get("/readyz").await;
    assert_eq!(readyz.status, 200, "its calls are taken");
    fails.store(false, Ordering::SeqCst);
    assert_eq!(
        gateway.client().chat(ask()).await.status,
        200,
        "no minute to wait"
    );
    assert!(metric(&gateway, &ready(1)).await.is_some());
}

#[tokio::test]
async fn an_upstream_that_refuses_all_its_credentials_is_not_ready() {
    let upstream = Upstream::start(|request| {
        let is_bad = request.header("authorization") == Some("Bearer bad");
        Script::new().send(match is_bad {
            true => json_answer("401 Unauthorized", ERROR),
            false => chat(),
        })
    })
    .await;
    let of = |name: &str, keys: &str| {
        let base = upstream.base_url();
        format!(
            "[[upstream]]\nname = \"{name}\"\nkind = \"openai\"\nbase_url = \"{base}\"\napi_keys = [{keys}]\nmodels = [\"{name}\"]\n"
        )
    };
    let tables = of("none", "\"bad\"") + &of("some", "\"bad\", \"good\"");
    let gateway = Config::new().table(&tables).start().await;
    for model in ["none", "some", "some"] {
        gateway
            .client()
            .chat(json!({ "model": model, "messages": [] }))
            .await;
    }
    for (name, is) in [("none", 0), ("some", 1)] {
        let refused =
            format!("weir_upstream_credentials{{state=\"refused\",upstream=\"{name}\"}} 1\n");
        assert!(metric(&gateway, &refused).await.is_some(), "{name}");
        let ready = format!("weir_upstream_ready{{upstream=\"{name}\"}} {is}\n");
        assert!(metric(&gateway, &ready).await.is_some(), "{name}");
    }
}

#[tokio::test]
async fn without_a_floor_nothing_is_asked_and_the_client_told_when_to_come_back() {
    let (bad, fails) = moody().await;
    let eject = "eject = { failures = 2, base = \"400ms\", max = \"400ms\", floor = 0 }";
    let gateway = Config::new().upstream("bad", &bad, eject).start().await;
    assert_eq!(gateway.operator().get("/readyz").await.status, 200);
    for _ in 0..2 {
        assert_eq!(gateway.client().chat(ask()).await.status, 502);
    }
    let seen = gateway.client().chat(ask()).await;
    seen.error(503, "server_error", "overloaded");
    assert_eq!(seen.header("retry-after"), Some("1"));
    let wait: u64 = seen.header("retry-after-ms").unwrap().parse().unwrap();
    assert!((1..=400).contains(&wait), "{wait}");
    assert_eq!(bad.calls().len(), 2);
    fails.store(false, Ordering::SeqCst);
    eventually("it is back", async || {
        (gateway.client().chat(ask()).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(gateway.operator().get("/readyz").await.status, 200);
}

#[tokio::test]
async fn health_checks_eject_and_restore_without_traffic() {
    let (bad, fails) = moody().await;
    let lines = "eject = { failures = 2, base = \"1h\", max = \"1h\", floor = 0 }\nhealth = { path = \"/health?x=1\", interval = \"100ms\", timeout = \"80ms\" }";
    let gateway = Config::new().upstream("bad", &bad, lines).start().await;
    eventually("the checks eject it", async || {
        metric(
            &gateway,
            "weir_upstream_endpoints{state=\"ejected\",upstream=\"bad\"} 1",
        )
        .await
    })
    .await;
    assert_eq!(gateway.operator().get("/readyz").await.status, 503);
    let checks = bad.requests();
    assert!(
        checks
            .iter()
            .all(|r| r.method == "GET" && r.target == "/v1/health?x=1")
    );
    fails.store(false, Ordering::SeqCst);
    eventually("the checks bring it back", async || {
        (gateway.operator().get("/readyz").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(gateway.client().chat(ask()).await.status, 200);
}

#[tokio::test]
async fn what_is_known_of_health_outlives_a_reload() {
    let (bad, _) = moody().await;
    let eject = "eject = { failures = 2, base = \"1h\", max = \"1h\", floor = 0 }";
    let gateway = Config::new().upstream("bad", &bad, eject).start().await;
    for _ in 0..2 {
        assert_eq!(gateway.client().chat(ask()).await.status, 502);
    }
    assert_eq!(gateway.client().chat(ask()).await.status, 503);
    // Something of the upstream changes, but not what its health is judged by.
    gateway.rewrite(|text| text.replace("eject =", "max_concurrent = 7\neject ="));
    assert_eq!(gateway.reload().await.status, 200);
    assert_eq!(gateway.client().chat(ask()).await.status, 503);
    assert_eq!(bad.calls().len(), 2);
}
