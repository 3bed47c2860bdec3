//! Every metric: its name, its help, its labels and buckets. Elsewhere there are only calls of the methods below.
//!
//! Label values come from closed sets: endpoints, names of the configuration, statuses and causes of the closed
//! vocabulary. A model is labelled by the configured pattern that it matched, never by the name that a client sent.

use std::time::Duration;

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

mod cache;
mod ledger;
mod redis;
mod traces;
mod upstreams;

use self::cache::Answers;
pub use self::cache::{CacheCounts, CacheState};
use self::ledger::Books;
pub use self::ledger::LedgerState;
pub use self::redis::SharedState;
use self::redis::Together;
pub use self::traces::DroppedSpans;
use self::traces::Spans;
pub use self::upstreams::Snapshot;
use self::upstreams::Upstreams;
use crate::call::Facts;

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a label says when there is nothing to say.
const NONE: &str = "none";

/// All metrics of one gateway.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    duration: HistogramVec,
    overhead: HistogramVec,
    upstream_duration: HistogramVec,
    first_token: HistogramVec,
    in_flight: IntGauge,
    tokens: IntCounterVec,
    received: IntCounterVec,
    sent: IntCounterVec,
    connections: IntGaugeVec,
    refused: IntCounterVec,
    panics: IntCounter,
    ready: IntGauge,
    upstreams: Upstreams,
    books: Books,
    together: Together,
    answers: Answers,
    spans: Spans,
    limited: IntCounterVec,
    reloads: IntCounterVec,
    reloaded: IntGauge,
}

/// How a request ended.
pub struct Finished<'a> {
    /// What the layers learnt.
    pub facts: &'a Facts,
    /// The status sent; `None` when the client had gone before.
    pub status: Option<u16>,
    /// From the request's head to the end of the answer.
    pub duration: Duration,
    /// Bytes of the answer's body.
    pub sent: u64,
}

impl Metrics {
    /// Declares all metrics on a registry of their own.
    ///
    /// # Errors
    /// Only when two declarations here collide.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let metrics = Self {
            requests: counters(
                &registry,
                "weir_requests_total",
                "Requests ended, by what was asked, who asked, who answered, the status (499: the client went first) and the cause of a failure.",
                &["endpoint", "key", "model", "upstream", "status", "cause"],
            )?,
            duration: histograms(
                &registry,
                "weir_request_duration_seconds",
                "Time from a request's head to the end of its answer.",
                // 10 ms doubling to 655 s: from a cache's answer to the longest reasoning.
                prometheus::exponential_buckets(0.01, 2.0, 17)?,
                &["endpoint", "upstream"],
            )?,
            overhead: histograms(
                &registry,
                "weir_request_overhead_seconds",
                "Time until the answer's head that was spent waiting neither for the client nor for an upstream.",
                // 25 us doubling to 205 ms: a gateway that needs more is broken.
                prometheus::exponential_buckets(0.000_025, 2.0, 14)?,
                &["endpoint"],
            )?,
            upstream_duration: histograms(
                &registry,
                "weir_upstream_duration_seconds",
                "Time that upstreams took to begin an answer, or to give it whole when it is not streamed.",
                prometheus::exponential_buckets(0.01, 2.0, 17)?,
                &["upstream"],
            )?,
            first_token: histograms(
                &registry,
                "weir_time_to_first_token_seconds",
                "Time from a streamed request's head to the first content of its answer.",
                // 1 ms doubling to 65 s.
                prometheus::exponential_buckets(0.001, 2.0, 17)?,
                &["endpoint", "upstream"],
            )?,
            in_flight: gauge(
                &registry,
                "weir_requests_in_flight",
                "Requests whose answers have not ended.",
            )?,
            tokens: counters(
                &registry,
                "weir_tokens_total",
                "Tokens counted, each in one type: input, cached_input, cache_write and input_audio are the prompt, output, reasoning and output_audio what was generated.",
                &["type", "key", "model", "upstream"],
            )?,
            received: counters(
                &registry,
                "weir_request_body_bytes_total",
                "Bytes of JSON request bodies read.",
                &["endpoint"],
            )?,
            sent: counters(
                &registry,
                "weir_response_body_bytes_total",
                "Bytes of answers sent.",
                &["endpoint"],
            )?,
            connections: gauges(
                &registry,
                "weir_connections",
                "Open client connections.",
                &["listener"],
            )?,
            refused: counters(
                &registry,
                "weir_connections_refused_total",
                "Connections closed before a request could be read, by reason.",
                &["listener", "reason"],
            )?,
            panics: counter(
                &registry,
                "weir_panics_total",
                "Panics caught. Each is a bug.",
            )?,
            ready: gauge(
                &registry,
                "weir_ready",
                "1 when the gateway can serve and is not draining.",
            )?,
            upstreams: Upstreams::new(&registry)?,
            books: Books::new(&registry)?,
            together: Together::new(&registry)?,
            answers: Answers::new(&registry)?,
            spans: Spans::new(&registry)?,
            limited: counters(
                &registry,
                "weir_limit_refusals_total",
                "Calls that a limit had no room for, by whose limit it is and what it counts; those of mode shadow were let in all the same.",
                &["holder", "dimension", "mode"],
            )?,
            reloads: counters(
                &registry,
                "weir_config_reloads_total",
                "Times that the configuration was read anew: applied, or refused for its mistakes.",
                &["result"],
            )?,
            reloaded: gauge(
                &registry,
                "weir_config_applied_timestamp_seconds",
                "When the configuration that is served was applied, in Unix seconds.",
            )?,
            registry,
        };
        let build = gauges(
            &metrics.registry,
            "weir_build_info",
            "Always 1; the labels tell the build.",
            &["version", "features"],
        )?;
        build
            .with_label_values(&[env!("CARGO_PKG_VERSION"), FEATURES])
            .set(1);
        let started = gauge(
            &metrics.registry,
            "weir_start_time_seconds",
            "Start of the process, in Unix seconds.",
        )?;
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        started.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        metrics.reloaded.set(started.get());
        Ok(metrics)
    }

    /// Counts a request in.
    pub fn request_started(&self) {
        self.in_flight.inc();
    }

    /// Observes the head of an answer.
    pub fn answer_began(&self, facts: &Facts, age: Duration) {
        self.overhead
            .with_label_values(&[facts.endpoint.unwrap_or(NONE)])
            .observe(facts.overhead(age).as_secs_f64());
        if let (Some(upstream), Some(time)) = (facts.upstream.as_deref(), facts.upstream_time) {
            self.upstream_duration
                .with_label_values(&[upstream])
                .observe(time.as_secs_f64());
        }
    }

    /// Counts a request out.
    pub fn request_finished(&self, finished: &Finished<'_>) {
        let facts = finished.facts;
        let endpoint = facts.endpoint.unwrap_or(NONE);
        let key = facts.key.as_deref().unwrap_or(NONE);
        let model = facts.route.as_deref().unwrap_or(NONE);
        let upstream = facts.upstream.as_deref().unwrap_or(NONE);
        let cause = facts.cause.unwrap_or("");
        let mut digits = [0; 3];
        let status = status_label(finished.status.unwrap_or(499), &mut digits);
        self.in_flight.dec();
        self.requests
            .with_label_values(&[endpoint, key, model, upstream, status, cause])
            .inc();
        self.duration
            .with_label_values(&[endpoint, upstream])
            .observe(finished.duration.as_secs_f64());
        self.sent
            .with_label_values(&[endpoint])
            .inc_by(finished.sent);
        if facts.received > 0 {
            self.received
                .with_label_values(&[endpoint])
                .inc_by(facts.received);
        }
        if let Some(first) = facts.first_token {
            self.first_token
                .with_label_values(&[endpoint, upstream])
                .observe(first.as_secs_f64());
        }
        if facts.degraded {
            self.upstreams.degraded.with_label_values(&[model]).inc();
        }
        self.answers.finished(endpoint, facts);
        if let Some(usage) = facts.usage {
            for (kind, count) in usage.classes() {
                if count > 0 {
                    self.tokens
                        .with_label_values(&[kind, key, model, upstream])
                        .inc_by(count);
                }
            }
        }
    }

    /// Counts a call that a limit had no room for: `holder` is `key`, `team`, `route` or `gateway`.
    pub fn limit_refused(&self, holder: &'static str, dimension: &'static str, shadow: bool) {
        let mode = if shadow { "shadow" } else { "refuse" };
        self.limited
            .with_label_values(&[holder, dimension, mode])
            .inc();
    }

    /// Counts a panic.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// Returns the gauge of a listener's open connections.
    pub fn connections(&self, listener: &str) -> IntGauge {
        self.connections.with_label_values(&[listener])
    }

    /// Counts a connection on which no request could be read.
    pub fn connection_refused(&self, listener: &str, reason: &'static str) {
        self.refused.with_label_values(&[listener, reason]).inc();
    }

    /// Notes whether the gateway can serve.
    pub fn set_ready(&self, ready: bool) {
        self.ready.set(i64::from(ready));
    }

    /// Counts a reload.
    pub fn reloaded(&self, applied: bool) {
        let result = if applied { "applied" } else { "refused" };
        self.reloads.with_label_values(&[result]).inc();
        if applied {
            let now = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap_or_default();
            self.reloaded
                .set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        }
    }

    /// Writes the Prometheus text format, version 0.0.4.
    ///
    /// # Errors
    /// Only when a metric is declared wrongly.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::with_capacity(16 << 10);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

const FEATURES: &str = if cfg!(feature = "local") { "local" } else { "" };

fn status_label(status: u16, digits: &mut [u8; 3]) -> &str {
    *digits = [status / 100 % 10, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8);
    std::str::from_utf8(digits).unwrap_or(NONE)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let metric = IntCounter::new(name, help)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    let metric = IntGauge::new(name, help)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: Vec<f64>,
    labels: &[&str],
) -> Result<HistogramVec, prometheus::Error> {
    let metric = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_convention() {
        let metrics = Metrics::new().unwrap();
        metrics.request_started();
        metrics.request_finished(&Finished {
            facts: &Facts::default(),
            status: None,
            duration: Duration::ZERO,
            sent: 1,
        });
        for family in metrics.registry.gather() {
            let name = family.name();
            assert!(name.starts_with("weir_"), "{name}");
            let counter = family.get_field_type() == prometheus::proto::MetricType::COUNTER;
            assert_eq!(counter, name.ends_with("_total"), "{name}");
        }
    }

    #[test]
    fn a_client_that_left_counts_as_499() {
        let metrics = Metrics::new().unwrap();
        metrics.request_started();
        let facts = Facts {
            endpoint: Some("/v1/models"),
            ..Facts::default()
        };
        metrics.request_finished(&Finished {
            facts: &facts,
            status: None,
            duration: Duration::ZERO,
            sent: 0,
        });
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        assert!(text.contains(r#"status="499""#), "{text}");
        assert!(text.contains("weir_requests_in_flight 0"), "{text}");
    }
}
