//! The admin listener: health, readiness and metrics, apart from the data plane.

use std::collections::HashSet;

use http::Method;

use crate::support::answers::{
    DONE, LAST_CHUNK, STREAM_HEAD, ask, ask_stream, chat, chunk, delta, error_code,
};
use crate::support::client::{Client, whole};
use crate::support::gateway::{Config, Gateway};
use crate::support::raw::Raw;
use crate::support::upstream::{Script, Upstream};
use crate::support::{ADMIN_TOKEN, KEY};

#[tokio::test]
async fn health_and_readiness() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let anyone = Client::new(gateway.admin());
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(anyone.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn the_data_plane_has_nothing_of_it() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    for path in [
        "/healthz",
        "/readyz",
        "/metrics",
        "/admin/v1/keys",
        "/v1/../metrics",
        "/v1/%2e%2e/metrics",
    ] {
        let answer = gateway.client().get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        error_code(&answer.json());
        // Nor with the admin's token in the client's place.
        let client = gateway
            .stranger()
            .with_header("authorization", &format!("Bearer {ADMIN_TOKEN}"));
        assert!(
            [401, 404].contains(&client.get(path).await.status),
            "{path}"
        );
    }
    let client = gateway
        .stranger()
        .with_header("authorization", &format!("Bearer {ADMIN_TOKEN}"));
    assert_eq!(
        client.chat(ask()).await.status,
        401,
        "the admin token is no gateway key"
    );
    assert_eq!(upstream.calls().len(), 0);
}

#[tokio::test]
async fn the_admin_plane_has_nothing_of_the_data_plane() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let client =
        Client::new(gateway.admin()).with_header("authorization", &format!("Bearer {KEY}"));
    let answer = client.chat(ask()).await;
    assert!([401, 404].contains(&answer.status), "{}", answer.status);
    let answer = gateway.operator().get("/v1/models").await;
    assert_eq!(answer.status, 404);
    assert_eq!(upstream.calls().len(), 0);
}

#[tokio::test]
async fn admin_calls_need_the_token() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    for token in ["", KEY, "x", &ADMIN_TOKEN[..20]] {
        let client =
            Client::new(gateway.admin()).with_header("authorization", &format!("Bearer {token}"));
        let answer = client.get("/admin/v1/keys").await;
        assert_eq!(answer.status, 401, "{token:?}: {}", answer.text());
    }
}

#[tokio::test]
async fn the_metrics_are_well_formed_and_count() {
    let upstream = Upstream::start(|request| {
        let stream = [STREAM_HEAD.as_bytes(), &chunk(delta("a")), &chunk(DONE)].concat();
        match request.json()["stream"] == true {
            true => Script::new().send(stream).send(LAST_CHUNK),
            false => Script::new().send(chat()),
        }
    })
    .await;
    let gateway = Gateway::over(&upstream).await;
    for _ in 0..3 {
        assert_eq!(gateway.client().chat(ask()).await.status, 200);
    }
    assert_eq!(gateway.client().chat(ask_stream()).await.status, 200);
    gateway.client().chat("nonsense").await;
    gateway.stranger().chat(ask()).await;
    gateway.client().get("/nowhere").await;
    gateway.idle().await;
    let text = gateway.metrics().await;
    let samples = parse(&text);
    let sum = |part: &str, labels: &[&str]| -> f64 {
        samples
            .iter()
            .filter(|(name, l, _)| name.contains(part) && labels.iter().all(|x| l.contains(x)))
            .map(|(_, _, v)| v)
            .sum()
    };
    assert!(sum("weir_requests_total", &[]) >= 6.0, "{text}");
    assert!(sum("weir_requests_total", &["200"]) >= 3.0, "{text}");
    assert!(
        sum("tokens", &["\"upstream\""]) >= 15.0,
        "3 calls of 5 tokens: {text}"
    );
    for part in [
        "duration",
        "overhead",
        "in_flight",
        "first_token",
        "tokens",
        "bytes",
        "build_info",
    ] {
        assert!(
            samples.iter().any(|(name, _, _)| name.contains(part)),
            "no {part} in /metrics"
        );
    }
}

#[tokio::test]
async fn no_label_comes_from_a_request() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    for i in 0..20 {
        let client = gateway.client();
        client
            .chat(format!("{{\"model\":\"invented-{i}\",\"messages\":[]}}"))
            .await;
        client.get(&format!("/v1/files/invented-{i}")).await;
        client.get(&format!("/invented-{i}")).await;
        client
            .request(
                Method::from_bytes(format!("INVENTED{i}").as_bytes()).unwrap(),
                "/v1/files",
                "",
            )
            .await;
        client
            .post(&format!("/v1/engines/invented-{i}/completions"), "{}")
            .await;
    }
    let text = gateway.metrics().await;
    assert!(!text.to_lowercase().contains("invented"), "{text}");
}

#[tokio::test]
async fn in_flight_comes_back_to_zero_whatever_happens() {
    let upstream = Upstream::start(|request| match request.header("x-case") {
        Some("stall") => Script::new().stall(),
        Some("cut") => Script::new()
            .send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")
            .cut(),
        Some("reset") => Script::new().reset(),
        _ => Script::new().send(chat()),
    })
    .await;
    let gateway = Config::new()
        .upstream(
            "upstream",
            &upstream,
            "timeouts = { first_byte = \"200ms\" }",
        )
        .start()
        .await;
    for case in ["fine", "stall", "cut", "reset"] {
        for ask in [ask(), ask_stream()] {
            gateway.client().with_header("x-case", case).chat(ask).await;
        }
        let client = gateway.client().with_header("x-case", case);
        let upload = client.try_open(Method::POST, "/v1/files", whole("x")).await;
        if let Ok(mut answer) = upload {
            answer.rest().await;
        }
    }
    gateway.client().chat("nonsense").await;
    let mut raw = Raw::connect(gateway.data()).await;
    raw.send(format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: 99\r\n\r\n{{")).await;
    drop(raw);
    gateway.idle().await;
}

/// Reads the text format strictly: every sample belongs to a family with help and type, named as we name.
fn parse(text: &str) -> Vec<(String, String, f64)> {
    let mut helped = HashSet::new();
    let mut types = std::collections::HashMap::new();
    let mut samples = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("help text");
            assert!(!help.is_empty());
            assert!(helped.insert(name.to_owned()), "{name} helped twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(
                name.starts_with("weir_") || name.starts_with("process_"),
                "{name}"
            );
            assert!(
                kind != "counter" || name.ends_with("_total"),
                "{name} is a counter"
            );
            assert!(
                types.insert(name.to_owned(), kind.to_owned()).is_none(),
                "{name} typed twice"
            );
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|suffix| name.strip_suffix(suffix))
                .find(|family| types.get(*family).is_some_and(|kind| kind == "histogram"))
                .unwrap_or(name);
            assert!(
                types.contains_key(family) && helped.contains(family),
                "{line}"
            );
            samples.push((
                name.to_owned(),
                labels.to_owned(),
                value.parse().expect(line),
            ));
        }
    }
    samples
}
