//! Traces: what a collector is told of requests, what upstreams and clients are told of traces, and that no request waits
//! for any of it.

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use serde_json::json;

use crate::support::answers::{
    DONE, LAST_CHUNK, STREAM_HEAD, USAGE, answer, ask, ask_stream, chat, chunk, delta, json_answer,
};
use crate::support::gateway::{Config, Gateway};
use crate::support::upstream::{Received, Script, Upstream};
use crate::support::{CREDENTIAL, KEY, eventually};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A collector that takes everything.
struct Collector(Upstream);

impl Collector {
    async fn start() -> Self {
        Self(Upstream::answering(answer("200 OK", "", "")).await)
    }

    fn url(&self) -> String {
        self.0.base_url().trim_end_matches("/v1").to_owned()
    }

    /// The requests to which the spans belong that have come so far.
    fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        let requests = self.0.requests();
        requests.iter().map(decode).collect()
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.requests().into_iter();
        let resources = requests.flat_map(|request| request.resource_spans);
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }

    /// Waits for so many spans, and returns them in the order in which they were made: a request's before its attempts'.
    async fn told(&self, count: usize) -> Vec<Span> {
        let spans = eventually("the collector is told", async || {
            let spans = self.spans();
            (spans.len() >= count).then_some(spans)
        });
        let spans = spans.await;
        assert_eq!(spans.len(), count, "{spans:#?}");
        spans
    }
}

fn decode(received: &Received) -> ExportTraceServiceRequest {
    assert_eq!(
        (received.method.as_str(), received.target.as_str()),
        ("POST", "/v1/traces")
    );
    assert_eq!(
        received.header("content-type"),
        Some("application/x-protobuf")
    );
    ExportTraceServiceRequest::decode(&received.body[..]).unwrap()
}

fn find<'a>(attributes: &'a [KeyValue], name: &str) -> Option<&'a Value> {
    let mut named = attributes.iter().filter(|pair| pair.key == name);
    let first = named.next()?;
    assert!(named.next().is_none(), "{name} is there twice");
    let AnyValue { value } = first.value.as_ref().unwrap();
    value.as_ref()
}

fn text<'a>(span: &'a Span, name: &str) -> Option<&'a str> {
    find(&span.attributes, name).map(|value| match value {
        Value::StringValue(text) => text.as_str(),
        other => panic!("{name} is {other:?}"),
    })
}

fn number(span: &Span, name: &str) -> Option<i64> {
    find(&span.attributes, name).map(|value| match value {
        Value::IntValue(number) => *number,
        other => panic!("{name} is {other:?}"),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_error(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code == 2)
}

/// A gateway over an upstream that tells a collector at once.
async fn traced(upstream: &Upstream, collector: &Collector, lines: &str) -> Gateway {
    let table = format!(
        "[telemetry]\notlp = \"{}\"\ninterval = \"0ms\"\n{lines}\n",
        collector.url()
    );
    let config = Config::over(upstream).retry("backoff = { base = \"1ms\", max = \"1ms\" }");
    config.table(&table).start().await
}

/// What the gateway has counted of a metric, all its series together.
async fn counted(gateway: &Gateway, name: &str) -> u64 {
    let metrics = gateway.metrics().await;
    let lines = metrics.lines().filter(|line| line.starts_with(name));
    lines
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

#[tokio::test]
async fn a_call_is_a_span_and_its_attempt_another() {
    let (upstream, collector) = (Upstream::answering(chat()).await, Collector::start().await);
    let gateway = traced(
        &upstream,
        &collector,
        "headers = { x-token = \"collectors-own\" }\nresource = { \"deployment.environment.name\" = \"test\" }",
    )
    .await;
    let seen = gateway.client().chat(ask()).await;
    assert_eq!(seen.status, 200);
    let spans = collector.told(2).await;
    let [server, client] = &spans[..] else {
        panic!("{spans:#?}");
    };
    assert_eq!(server.name, "POST /v1/chat/completions");
    assert_eq!(server.kind, i32::from(SpanKind::Server));
    assert!(server.parent_span_id.is_empty() && !is_error(server));
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/v1/chat/completions"),
        ("url.path", "/v1/chat/completions"),
        ("network.protocol.version", "1.1"),
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "openai"),
        ("gen_ai.request.model", "gpt-4o"),
        ("weir.key.id", "alice"),
        ("weir.cache", "bypass"),
        ("weir.request.id", seen.header("x-request-id").unwrap()),
    ] {
        assert_eq!(text(server, name), Some(value), "{name}");
    }
    assert_eq!(number(server, "http.response.status_code"), Some(200));
    assert_eq!(number(server, "gen_ai.usage.input_tokens"), Some(3));
    assert_eq!(number(server, "gen_ai.usage.output_tokens"), Some(2));
    assert_eq!(text(server, "error.type"), None);

    assert_eq!(client.name, "chat gpt-4o");
    assert_eq!(client.kind, i32::from(SpanKind::Client));
    assert_eq!(client.trace_id, server.trace_id);
    assert_eq!(client.parent_span_id, server.span_id);
    assert_eq!(text(client, "server.address"), Some("127.0.0.1"));
    assert_eq!(number(client, "http.response.status_code"), Some(200));
    assert_eq!(number(client, "http.request.resend_count"), None);
    assert!(!is_error(client));
    assert!(server.start_time_unix_nano <= client.start_time_unix_nano);
    assert!(client.start_time_unix_nano < client.end_time_unix_nano);
    assert!(client.end_time_unix_nano <= server.end_time_unix_nano);

    // The upstream's span will be a child of the attempt's.
    let expected = format!("00-{}-{}-01", hex(&client.trace_id), hex(&client.span_id));
    let received = upstream.call();
    assert_eq!(received.header("traceparent"), Some(&*expected));
    assert_eq!(received.header("tracestate"), None);
    // The log knows the trace.
    let id = hex(&server.trace_id);
    let line = gateway.logged("the request", |line| line["trace.id"] == *id);
    assert_eq!(line.await["message"], "request");

    let request = collector.requests().remove(0);
    let resource = request.resource_spans[0].resource.as_ref().unwrap();
    for (name, value) in [
        ("service.name", "weir"),
        ("deployment.environment.name", "test"),
    ] {
        let expected = Value::StringValue(value.to_owned());
        assert_eq!(find(&resource.attributes, name), Some(&expected));
    }
    let posts = collector.0.requests();
    assert_eq!(posts[0].header("x-token"), Some("collectors-own"));
    // Nothing that was said, and nobody's credential.
    let told = format!("{request:?}");
    for secret in ["messages", "caf\u{e9}", KEY, CREDENTIAL] {
        assert!(!told.contains(secret), "{secret} in {told}");
    }
    assert!(!gateway.output().contains("collectors-own"));
    assert_eq!(counted(&gateway, "weir_spans_exported_total").await, 2);
}

#[tokio::test]
async fn a_clients_trace_is_continued_and_what_is_none_is_ignored() {
    let (upstream, collector) = (Upstream::answering(chat()).await, Collector::start().await);
    let gateway = traced(&upstream, &collector, "").await;
    let client = gateway.client();
    let parent = format!("00-{TRACE}-{PARENT}-01");
    client
        .with_header("traceparent", &parent)
        .with_header("tracestate", "vendor=value")
        .chat(ask())
        .await;
    // A client that records nothing is followed in that, too.
    client
        .with_header("traceparent", &parent.replace("-01", "-00"))
        .chat(ask())
        .await;
    client
        .with_header("traceparent", &parent.to_uppercase())
        .with_header("tracestate", "vendor=value")
        .chat(ask())
        .await;
    let spans = collector.told(4).await;
    assert_eq!(hex(&spans[0].trace_id), TRACE);
    assert_eq!(hex(&spans[0].parent_span_id), PARENT);
    assert_eq!(spans[0].trace_state, "vendor=value");
    assert_ne!(hex(&spans[2].trace_id), TRACE);
    assert!(spans[2].parent_span_id.is_empty());
    let calls = upstream.calls();
    let told = |index: usize, name: &str| calls[index].header(name).map(str::to_owned);
    let attempt = hex(&spans[1].span_id);
    assert_eq!(
        told(0, "traceparent"),
        Some(format!("00-{TRACE}-{attempt}-01"))
    );
    assert_eq!(told(0, "tracestate").as_deref(), Some("vendor=value"));
    let unrecorded = told(1, "traceparent").unwrap();
    assert!(unrecorded.starts_with(&format!("00-{TRACE}-")) && unrecorded.ends_with("-00"));
    assert!(!unrecorded.contains(PARENT));
    assert!(!told(2, "traceparent").unwrap().contains(TRACE));
    assert_eq!(told(2, "tracestate"), None);
}

#[tokio::test]
async fn without_a_collector_a_clients_headers_pass_and_none_are_made() {
    let upstream = Upstream::answering(chat()).await;
    // The environment alone sends nothing anywhere.
    let collector = Collector::start().await;
    let config = Config::over(&upstream).env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url());
    let gateway = config.start().await;
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let client = gateway.client().with_header("traceparent", &parent);
    client
        .with_header("tracestate", "vendor=value")
        .chat(ask())
        .await;
    gateway.client().chat(ask()).await;
    let calls = upstream.calls();
    assert_eq!(calls[0].header("traceparent"), Some(&*parent));
    assert_eq!(calls[0].header("tracestate"), Some("vendor=value"));
    assert_eq!(calls[1].header("traceparent"), None);
    let line = gateway.logged("the request", |line| line["trace.id"] == TRACE);
    line.await;
    gateway.idle().await;
    assert_eq!(collector.0.connections(), 0);
    assert_eq!(counted(&gateway, "weir_spans_").await, 0);
}

#[tokio::test]
async fn each_attempt_is_a_span() {
    let collector = Collector::start().await;
    let failing = Upstream::answering(json_answer("503 No", "{}")).await;
    let well = Upstream::answering(chat()).await;
    let table = format!(
        "[telemetry]\notlp = \"{}\"\ninterval = \"0ms\"\n",
        collector.url()
    );
    let gateway = Config::new()
        .upstream("one", &failing, "models = [\"one-*\"]")
        .upstream("two", &well, "models = [\"two-*\"]")
        .retry("attempts = 0")
        .routed(
            "gpt-4o",
            "targets = [{ upstream = \"one\" }, { upstream = \"two\", model = \"other\", priority = 1 }]",
        )
        .table(&table)
        .start()
        .await;
    assert_eq!(gateway.client().chat(ask()).await.status, 200);
    let spans = collector.told(3).await;
    let [server, first, second] = &spans[..] else {
        panic!("{spans:#?}");
    };
    assert!(!is_error(server));
    assert_eq!(number(server, "weir.attempts"), Some(2));
    assert_eq!(text(server, "gen_ai.response.model"), Some("other"));
    for (attempt, upstream) in [(first, &failing), (second, &well)] {
        assert_eq!(attempt.parent_span_id, server.span_id);
        let told = upstream.call();
        let told = told.header("traceparent").unwrap();
        assert_eq!(&told[36..52], hex(&attempt.span_id));
    }
    assert!(is_error(first) && !is_error(second));
    assert_eq!(text(first, "error.type"), Some("upstream_status"));
    assert_eq!(number(first, "http.response.status_code"), Some(503));
    assert_eq!(text(first, "weir.upstream"), Some("one"));
    assert_eq!(text(second, "weir.upstream"), Some("two"));
    assert_eq!(number(second, "http.request.resend_count"), Some(1));
    assert_eq!(second.name, "chat other");
}

#[tokio::test]
async fn a_streams_spans_end_with_it_however_it_ends() {
    let collector = Collector::start().await;
    let upstream = Upstream::start(|request| {
        let script = Script::new().send(STREAM_HEAD).send(chunk(delta("one")));
        match request.json()["user"].as_str().unwrap_or("") {
            "cut" => script.cut(),
            "left" => script.stall(),
            _ => script
                .send(chunk(
                    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
                ))
                .send(chunk(USAGE))
                .send(chunk(DONE))
                .send(LAST_CHUNK),
        }
    })
    .await;
    let gateway = traced(&upstream, &collector, "").await;
    let ask = |user: &str| {
        let mut ask = ask_stream();
        ask["user"] = user.into();
        ask
    };
    let path = "/v1/chat/completions";
    gateway.client().stream(path, ask("")).await.rest().await;
    let spans = collector.told(2).await;
    assert!(!is_error(&spans[0]) && !is_error(&spans[1]));
    assert_eq!(number(&spans[0], "gen_ai.usage.output_tokens"), Some(3));
    assert_eq!(spans[1].events[0].name, "weir.first_token");
    assert_eq!(spans[1].end_time_unix_nano, spans[0].end_time_unix_nano);

    gateway.client().stream(path, ask("cut")).await.rest().await;
    let spans = collector.told(4).await;
    assert!(is_error(&spans[2]) && is_error(&spans[3]));
    assert_eq!(text(&spans[2], "error.type"), Some("upstream_broken"));
    assert_eq!(text(&spans[3], "error.type"), Some("upstream_broken"));

    let mut stream = gateway.client().stream(path, ask("left")).await;
    stream.until("\n\n").await;
    drop(stream);
    let spans = collector.told(6).await;
    assert_eq!(text(&spans[4], "error.type"), Some("client_gone"));
    assert!(!is_error(&spans[4]) && !is_error(&spans[5]));
}

#[tokio::test]
async fn refused_calls_are_spans_without_attempts() {
    let (upstream, collector) = (Upstream::answering(chat()).await, Collector::start().await);
    let gateway = traced(&upstream, &collector, "content = true").await;
    assert_eq!(gateway.stranger().chat(ask()).await.status, 401);
    let bad = gateway.client().chat(json!({"model": 7})).await;
    assert_eq!(bad.status, 400);
    assert_eq!(gateway.client().get("/nowhere").await.status, 404);
    let spans = collector.told(3).await;
    for (span, status) in spans.iter().zip([401, 400, 404]) {
        assert_eq!(number(span, "http.response.status_code"), Some(status));
        assert!(text(span, "error.type").is_some_and(|cause| cause.starts_with("client_")));
        // It is the client's fault, and no error of ours.
        assert!(!is_error(span));
    }
    assert_eq!(text(&spans[0], "weir.key.id"), None);
    assert_eq!(text(&spans[1], "weir.key.id"), Some("alice"));
    assert_eq!(spans[2].name, "GET");
    assert_eq!(upstream.calls().len(), 0);
}

#[tokio::test]
async fn content_is_told_when_it_is_wanted_and_never_a_credential() {
    let collector = Collector::start().await;
    let upstream = Upstream::start(|request| match request.json()["stream"].as_bool() {
        Some(true) => Script::new()
            .send(STREAM_HEAD)
            .send(chunk(delta("The key is sk-")))
            .send(chunk(delta("0123456789abcdef, sir")))
            .send(chunk(
                "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
            ))
            .send(chunk(DONE))
            .send(LAST_CHUNK),
        _ => Script::new().send(chat()),
    })
    .await;
    let gateway = traced(
        &upstream,
        &collector,
        "content = true\ncontent_max = \"100B\"\nredact = ['\\b\\d{3}-\\d{2}-\\d{4}\\b']",
    )
    .await;
    let said = format!(
        "My number is 123-45-6789, my key {KEY}, and {}",
        "so on ".repeat(100)
    );
    let mut ask = json!({"model": "gpt-4o", "messages": [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": [{"type": "text", "text": said}]},
    ]});
    gateway.client().chat(ask.clone()).await;
    ask["stream"] = true.into();
    let path = "/v1/chat/completions";
    gateway.client().stream(path, ask).await.rest().await;
    let spans = collector.told(4).await;
    for (span, answered) in [
        (&spans[0], "caf\u{e9} / ok"),
        (&spans[2], "The key is [redacted], sir"),
    ] {
        let json = |name| serde_json::from_str(text(span, name).unwrap()).unwrap();
        let input: serde_json::Value = json("gen_ai.input.messages");
        assert_eq!(input[0]["role"], "system");
        assert_eq!(
            input[0]["parts"],
            json!([{"type": "text", "content": "Be brief"}])
        );
        let told = input[1]["parts"][0]["content"].as_str().unwrap();
        let begin = "My number is [redacted], my key [redacted], and so on";
        assert!(told.starts_with(begin) && told.len() < 110, "{told}");
        let output: serde_json::Value = json("gen_ai.output.messages");
        assert_eq!(output[0]["role"], "assistant");
        assert_eq!(output[0]["parts"][0]["content"], answered);
    }
    let told = format!("{:?}", collector.requests());
    for secret in ["123-45", "sk-0123", &KEY[..12]] {
        assert!(!told.contains(secret), "{secret}");
    }
    // What is told to the collector is told nowhere else.
    assert!(!gateway.output().contains("My number"));
}

#[tokio::test]
async fn a_frozen_collector_holds_nobody_up() {
    let upstream = Upstream::answering(chat()).await;
    let frozen = Collector(Upstream::start(|_| Script::new().stall()).await);
    let lines = "queue = 4\nbatch = 1\ntimeout = \"60s\"";
    let mut gateway = traced(&upstream, &frozen, lines).await;
    assert_eq!(gateway.client().chat(ask()).await.status, 200);
    frozen.0.called(1).await;
    for _ in 0..20 {
        assert_eq!(gateway.client().chat(ask()).await.status, 200);
    }
    // One request is with the collector, four wait, and of each of the others two spans are gone.
    let dropped = "weir_spans_dropped_total{reason=\"queue_full\"}";
    eventually("what is dropped is counted", async || {
        (counted(&gateway, dropped).await == 2 * 16).then_some(())
    })
    .await;
    assert_eq!(counted(&gateway, "weir_traces_waiting").await, 4);
    assert_eq!(counted(&gateway, "weir_spans_exported_total").await, 0);
    // A stop does not wait for it.
    gateway.signal("TERM");
    assert!(gateway.exit().await.success());
}

#[tokio::test]
async fn a_collector_that_is_away_is_told_of_once_and_found_again() {
    let upstream = Upstream::answering(chat()).await;
    let away = Upstream::answering(answer("503 No", "retry-after: 0\r\n", "")).await;
    let collector = Collector(away);
    let gateway = traced(&upstream, &collector, "batch = 1").await;
    for _ in 0..2 {
        assert_eq!(gateway.client().chat(ask()).await.status, 200);
    }
    let dropped = "weir_spans_dropped_total{reason=\"failed\"}";
    eventually("what is given up is counted", async || {
        (counted(&gateway, dropped).await == 4).then_some(())
    })
    .await;
    let warnings = || {
        let lines = gateway.log().into_iter();
        let told = lines.filter(|line| line["message"].as_str().unwrap().starts_with("spans are"));
        told.collect::<Vec<_>>()
    };
    assert_eq!(warnings().len(), 1, "{:?}", warnings());
    assert_eq!(warnings()[0]["why"], "it answers 503");
    // Another collector, at a reload: the next spans go there.
    let well = Collector::start().await;
    gateway.rewrite(|text| text.replace(&collector.url(), &well.url()));
    let reloaded = gateway.reload().await;
    assert!(
        reloaded.text().contains("telemetry: changed (otlp)"),
        "{}",
        reloaded.text()
    );
    assert_eq!(gateway.client().chat(ask()).await.status, 200);
    well.told(2).await;
}

#[tokio::test]
async fn spans_that_a_collector_rejects_are_counted() {
    let upstream = Upstream::answering(chat()).await;
    let partial = ExportTraceServiceResponse {
        partial_success: Some(ExportTracePartialSuccess {
            rejected_spans: 1,
            error_message: "too old".to_owned(),
        }),
    };
    let collector =
        Collector(Upstream::answering(answer("200 OK", "", partial.encode_to_vec())).await);
    let gateway = traced(&upstream, &collector, "").await;
    gateway.client().chat(ask()).await;
    let rejected = "weir_spans_dropped_total{reason=\"rejected\"}";
    eventually("what is rejected is counted", async || {
        (counted(&gateway, rejected).await == 1).then_some(())
    })
    .await;
    assert_eq!(counted(&gateway, "weir_spans_exported_total").await, 1);
}

#[tokio::test]
async fn what_waits_at_a_stop_is_sent() {
    let (upstream, collector) = (Upstream::answering(chat()).await, Collector::start().await);
    let mut gateway = traced(&upstream, &collector, "").await;
    gateway.rewrite(|text| text.replace("interval = \"0ms\"", "interval = \"60s\""));
    gateway.reload().await;
    for _ in 0..3 {
        gateway.client().chat(ask()).await;
    }
    gateway.signal("TERM");
    assert!(gateway.exit().await.success());
    assert_eq!(collector.spans().len(), 6);
    assert_eq!(collector.requests().len(), 1);
}

#[tokio::test]
async fn a_share_of_none_makes_no_spans() {
    let (upstream, collector) = (Upstream::answering(chat()).await, Collector::start().await);
    let gateway = traced(&upstream, &collector, "sample = 0").await;
    gateway.client().chat(ask()).await;
    let told = upstream.call();
    assert!(told.header("traceparent").unwrap().ends_with("-00"));
    // What a client records is recorded here, too.
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let client = gateway.client().with_header("traceparent", &parent);
    client.chat(ask()).await;
    assert_eq!(hex(&collector.told(2).await[0].trace_id), TRACE);
}
