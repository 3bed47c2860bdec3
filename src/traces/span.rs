//! The spans of a request that has ended: its own, and one for each of its attempts.
//!
//! Names of attributes are those of the semantic conventions, <https://opentelemetry.io/docs/specs/semconv/gen-ai/> and
//! <https://opentelemetry.io/docs/specs/semconv/http/http-spans/>, where there is one.

use std::time::{Duration, UNIX_EPOCH};

use http::{Method, Uri, Version};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use serde_json::json;

use super::attribute::{count, put};
use super::{ContentParams, Ended};
use crate::call::{Cause, Facts, Message, Outcome, SpanId, Trace, Try};
use crate::openai::endpoint::Endpoint;

/// The version of the conventions that names are taken from.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.37.0";

/// The flags of a span (`SpanFlags`): whether it is known if its parent is remote, and whether it is.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// A model in this process, as a provider and as an endpoint.
const LOCAL_PROVIDER: &str = "weir";
const LOCAL_ENDPOINT: &str = "local";

/// Who answers at well-known hosts, by how their names end. An upstream elsewhere speaks the OpenAI API, and is named after
/// that.
const PROVIDERS: [(&str, &str); 11] = [
    (".openai.azure.com", "azure.ai.openai"),
    (".services.ai.azure.com", "azure.ai.inference"),
    ("api.anthropic.com", "anthropic"),
    ("api.cohere.com", "cohere"),
    ("api.deepseek.com", "deepseek"),
    ("api.groq.com", "groq"),
    ("api.mistral.ai", "mistral_ai"),
    ("api.perplexity.ai", "perplexity"),
    ("api.x.ai", "x_ai"),
    ("generativelanguage.googleapis.com", "gcp.gemini"),
    (".amazonaws.com", "aws.bedrock"),
];

/// Makes spans.
pub(super) struct Spans {
    resource: Resource,
    content: Option<ContentParams>,
}

/// When a request was under way, in nanoseconds since 1970.
#[derive(Clone, Copy)]
struct Times {
    began: u64,
    ended: u64,
}

// === impl Spans ===

impl Spans {
    pub(super) fn new(resource: Vec<(String, String)>, content: Option<ContentParams>) -> Self {
        let attributes = resource.into_iter().map(|(name, value)| KeyValue {
            key: name,
            value: Some(AnyValue {
                value: Some(Value::StringValue(value)),
            }),
            ..KeyValue::default()
        });
        Self {
            resource: Resource {
                attributes: attributes.collect(),
                ..Resource::default()
            },
            content,
        }
    }

    /// Says whose these spans are.
    pub(super) fn of_resource(&self, spans: Vec<Span>) -> ResourceSpans {
        ResourceSpans {
            resource: Some(self.resource.clone()),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope {
                    name: env!("CARGO_PKG_NAME").to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    ..InstrumentationScope::default()
                }),
                spans,
                schema_url: SCHEMA.to_owned(),
            }],
            schema_url: SCHEMA.to_owned(),
        }
    }

    /// Makes the spans of a request.
    pub(super) fn make(&self, ended: &Ended, spans: &mut Vec<Span>) {
        let Some(trace) = &ended.record.trace else {
            return;
        };
        let Some(own) = trace.span else {
            return;
        };
        let times = Times::of(ended);
        let facts = ended.record.facts();
        let remote = if trace.parent.is_some() { IS_REMOTE } else { 0 };
        let mut span = begun(trace, own, trace.parent, remote);
        span.kind = SpanKind::Server.into();
        span.name = server_name(&ended.method, facts.endpoint);
        span.start_time_unix_nano = times.began;
        span.end_time_unix_nano = times.ended;
        span.attributes = server_attributes(ended, &facts);
        if let (Some(params), Some(content)) = (&self.content, &facts.content) {
            for (name, messages) in [
                ("gen_ai.input.messages", &content.input),
                ("gen_ai.output.messages", &content.output),
            ] {
                if !messages.is_empty() {
                    put(&mut span.attributes, name, told(messages, params));
                }
            }
        }
        // What is the client's fault is no error of a server.
        if ended.status.is_some_and(|status| status >= 500)
            || matches!(facts.outcome, Some(Outcome::Failed(_)))
        {
            span.status = failed(facts.cause.map(Cause::as_str));
        }
        spans.push(span);
        for (number, attempt) in facts.attempts.iter().enumerate() {
            let Some(id) = trace.attempt(number) else {
                continue;
            };
            let mut span = begun(trace, id, Some(own), 0);
            describe(&mut span, attempt, number, &facts, times);
            spans.push(span);
        }
    }
}

fn begun(trace: &Trace, id: SpanId, parent: Option<SpanId>, remote: u32) -> Span {
    let state = trace.state.as_ref().and_then(|state| state.to_str().ok());
    Span {
        trace_id: trace.id.as_bytes().to_vec(),
        span_id: id.as_bytes().to_vec(),
        parent_span_id: parent.map_or_else(Vec::new, |parent| parent.as_bytes().to_vec()),
        trace_state: state.unwrap_or_default().to_owned(),
        flags: HAS_IS_REMOTE | remote | u32::from(trace.sampled),
        ..Span::default()
    }
}

/// Names the span of a request: by its method, and by its endpoint where that is one of a few.
fn server_name(method: &Method, endpoint: Option<&str>) -> String {
    let method = known(method).unwrap_or("HTTP");
    match endpoint.filter(|label| label.starts_with('/')) {
        Some(label) => format!("{method} {label}"),
        None => method.to_owned(),
    }
}

/// Returns a method that everybody knows.
fn known(method: &Method) -> Option<&'static str> {
    const METHODS: [&str; 9] = [
        "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE",
    ];
    METHODS.into_iter().find(|known| method.as_str() == *known)
}

fn server_attributes(ended: &Ended, facts: &Facts) -> Vec<KeyValue> {
    let mut told = Vec::with_capacity(24);
    put(
        &mut told,
        "http.request.method",
        known(&ended.method).unwrap_or("_OTHER"),
    );
    put(&mut told, "url.path", &*ended.path);
    put(
        &mut told,
        "http.route",
        facts.endpoint.filter(|label| label.starts_with('/')),
    );
    put(
        &mut told,
        "http.response.status_code",
        ended.status.map(i64::from),
    );
    put(
        &mut told,
        "network.protocol.version",
        version(ended.version),
    );
    put(&mut told, "error.type", facts.cause.map(Cause::as_str));
    put(&mut told, "gen_ai.operation.name", operation(facts));
    put(&mut told, "gen_ai.request.model", facts.model.as_deref());
    let answering = facts
        .attempts
        .iter()
        .rev()
        .find(|attempt| is_answer(attempt));
    if let Some(attempt) = answering {
        put(
            &mut told,
            "gen_ai.provider.name",
            provider(&attempt.endpoint),
        );
    }
    let served = facts.served_model.as_deref();
    let asked = answering.and_then(|attempt| attempt.model.as_deref());
    put(&mut told, "gen_ai.response.model", served.or(asked));
    if let Some(usage) = facts.usage {
        put(
            &mut told,
            "gen_ai.usage.input_tokens",
            count(usage.prompt()),
        );
        put(
            &mut told,
            "gen_ai.usage.output_tokens",
            count(usage.completion()),
        );
    }
    put(&mut told, "weir.request.id", ended.record.id.as_str());
    put(&mut told, "weir.key.id", facts.key.as_deref());
    put(&mut told, "weir.team", facts.team.as_deref());
    put(&mut told, "weir.route", facts.route.as_deref());
    put(&mut told, "weir.upstream", facts.upstream.as_deref());
    if facts.endpoint.is_some() {
        put(&mut told, "weir.cache", facts.cached.as_str());
        put(&mut told, "weir.stream", facts.stream);
        let attempts = u64::try_from(facts.attempts.len()).unwrap_or(u64::MAX);
        put(&mut told, "weir.attempts", count(attempts));
    }
    if facts.degraded {
        put(&mut told, "weir.degraded", true);
    }
    put(
        &mut told,
        "weir.first_token",
        facts.first_token.map(|time| time.as_secs_f64()),
    );
    told
}

/// Describes an attempt, the `number`th of its request.
fn describe(span: &mut Span, attempt: &Try, number: usize, facts: &Facts, times: Times) {
    let is_local = &*attempt.endpoint == LOCAL_ENDPOINT;
    let kind = match is_local {
        true => SpanKind::Internal,
        false => SpanKind::Client,
    };
    span.kind = kind.into();
    let operation = operation(facts);
    span.name = match (operation, attempt.model.as_deref()) {
        (Some(operation), Some(model)) => format!("{operation} {model}"),
        (Some(operation), None) => operation.to_owned(),
        (None, _) => attempt.upstream.to_string(),
    };
    span.start_time_unix_nano = times.after(attempt.began);
    span.end_time_unix_nano = match attempt.time {
        // What is streamed lasts as long as its request.
        Some(time) if !(is_answer(attempt) && lasts(facts)) => times.after(attempt.began + time),
        _ => times.ended,
    };
    let told = &mut span.attributes;
    put(told, "gen_ai.operation.name", operation);
    put(told, "gen_ai.provider.name", provider(&attempt.endpoint));
    put(told, "gen_ai.request.model", attempt.model.as_deref());
    let place: Option<Uri> = attempt.endpoint.parse().ok().filter(|_| !is_local);
    if let Some(host) = place.as_ref().and_then(Uri::host) {
        put(told, "server.address", host.trim_matches(['[', ']']));
        let default = match place.as_ref().and_then(Uri::scheme_str) {
            Some("https") => 443,
            _ => 80,
        };
        let port = place.as_ref().and_then(Uri::port_u16).unwrap_or(default);
        put(told, "server.port", i64::from(port));
    }
    put(
        told,
        "http.response.status_code",
        attempt.status.map(i64::from),
    );
    if number > 0 {
        let number = u64::try_from(number).unwrap_or(u64::MAX);
        put(told, "http.request.resend_count", count(number));
    }
    put(told, "weir.upstream", &*attempt.upstream);
    put(told, "weir.result", attempt.result);
    let refused = attempt.status.filter(|status| *status >= 400);
    let broken = facts
        .cause
        .map(Cause::as_str)
        .filter(|cause| cause.starts_with("upstream_"));
    let error = match attempt.result {
        Try::ABANDONED => None,
        Try::ANSWERED => refused
            .map(|status| status.to_string())
            .or(broken.map(str::to_owned)),
        cause => Some(cause.to_owned()),
    };
    if let Some(error) = error {
        span.status = failed(Some(&error));
        put(told, "error.type", error);
    }
    if let Some(time) = facts.first_token.filter(|_| is_answer(attempt)) {
        span.events.push(Event {
            time_unix_nano: times.after(time),
            name: "weir.first_token".to_owned(),
            ..Event::default()
        });
    }
}

fn is_answer(attempt: &Try) -> bool {
    attempt.result == Try::ANSWERED
}

/// Returns whether an answer goes on behind its beginning: it is a stream, or passes through.
fn lasts(facts: &Facts) -> bool {
    facts.stream || facts.endpoint == Some(Endpoint::PassThrough.label())
}

fn failed(cause: Option<&str>) -> Option<Status> {
    Some(Status {
        message: cause.unwrap_or_default().to_owned(),
        code: StatusCode::Error.into(),
    })
}

/// Returns what the conventions call what is asked for; `None` where it generates nothing.
fn operation(facts: &Facts) -> Option<&'static str> {
    let label = facts.endpoint?;
    let named = [
        (Endpoint::ChatCompletions, "chat"),
        (Endpoint::Responses, "chat"),
        (Endpoint::Completions, "text_completion"),
        (Endpoint::Embeddings, "embeddings"),
    ];
    let mut named = named.into_iter();
    named.find_map(|(endpoint, name)| (endpoint.label() == label).then_some(name))
}

fn provider(endpoint: &str) -> &'static str {
    if endpoint == LOCAL_ENDPOINT {
        return LOCAL_PROVIDER;
    }
    let place: Option<Uri> = endpoint.parse().ok();
    let host = place.as_ref().and_then(Uri::host).unwrap_or_default();
    let mut providers = PROVIDERS.into_iter();
    let known = providers.find(|(end, _)| host.ends_with(end));
    known.map_or("openai", |(_, name)| name)
}

fn version(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        _ => None,
    }
}

/// Tells messages as the conventions do, in JSON, redacted and cut.
fn told(messages: &[Message], params: &ContentParams) -> String {
    let mut left = params.max;
    let mut told = Vec::new();
    for message in messages {
        let mut text = String::new();
        params.redactor.redact(&message.text, left, &mut text);
        left = left.saturating_sub(message.text.len());
        let mut role = String::new();
        params.redactor.redact(&message.role, MAX_ROLE, &mut role);
        told.push(json!({"role": role, "parts": [{"type": "text", "content": text}]}));
        if left == 0 {
            break;
        }
    }
    serde_json::Value::from(told).to_string()
}

/// How many bytes of a role are told, which the client chooses.
const MAX_ROLE: usize = 32;

// === impl Times ===

impl Times {
    fn of(ended: &Ended) -> Self {
        let end = ended.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            began: nanos(end.saturating_sub(ended.age)),
            ended: nanos(end),
        }
    }

    /// Returns the time so long after the request's head, but not behind its end.
    fn after(self, time: Duration) -> u64 {
        self.began.saturating_add(nanos(time)).min(self.ended)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traces::Redactor;

    #[test]
    fn providers_are_known_by_their_hosts() {
        for (endpoint, expected) in [
            ("local", "weir"),
            ("https://api.openai.com/v1", "openai"),
            ("http://127.0.0.1:8000/v1", "openai"),
            ("unix:/run/llama.sock:/v1", "openai"),
            ("https://mine.openai.azure.com/openai", "azure.ai.openai"),
            ("https://api.mistral.ai/v1", "mistral_ai"),
        ] {
            assert_eq!(provider(endpoint), expected, "{endpoint}");
        }
    }

    #[test]
    fn unknown_methods_and_paths_make_no_names() {
        let odd = Method::from_bytes(b"BREW").unwrap();
        assert_eq!(server_name(&odd, Some("other")), "HTTP");
        assert_eq!(server_name(&Method::GET, None), "GET");
        let label = Endpoint::Models.label();
        assert_eq!(server_name(&Method::GET, Some(label)), "GET /v1/models");
    }

    #[test]
    fn messages_share_their_room() {
        let message = |text: &str| Message {
            role: "user".to_owned(),
            text: text.to_owned(),
        };
        let params = ContentParams {
            max: 5,
            redactor: Redactor::new(&[]).unwrap(),
        };
        let messages = [message("abc"), message("def"), message("ghi")];
        let told: serde_json::Value = serde_json::from_str(&told(&messages, &params)).unwrap();
        let part = |text: &str| json!([{"type": "text", "content": text}]);
        assert_eq!(
            told,
            json!([{"role": "user", "parts": part("abc")}, {"role": "user", "parts": part("de")}])
        );
    }
}
