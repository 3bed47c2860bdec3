//! The metrics of the process: its connections, its configuration, its build, what the system says of it.

use std::time::SystemTime;

use prometheus::{IntCounter, IntGauge};

use super::declare::Declare;
use super::family::Family;
use super::{Metrics, raise, signed};

/// The metrics of the process.
pub(super) struct Process {
    ready: IntGauge,
    panics: IntCounter,
    connections: Family<IntGauge, 1>,
    max_connections: Family<IntGauge, 1>,
    refused: Family<IntCounter, 2>,
    guesses: IntCounter,
    dropped_lines: IntCounter,
    max_series: IntGauge,
    reloads: Family<IntCounter, 1>,
    reload_worked: IntGauge,
    applied: IntGauge,
    certificate: Family<IntGauge, 1>,
}

const FEATURES: &str = if cfg!(feature = "local") { "local" } else { "" };

impl Process {
    pub(super) fn new(declare: &mut Declare) -> Result<Self, prometheus::Error> {
        let process = Self {
            ready: declare.gauge(
                "weir_ready",
                "1 when the gateway can serve and is not draining.",
            )?,
            panics: declare.counter("weir_panics_total", "Panics caught. Each is a bug.")?,
            connections: declare.gauges(
                "weir_connections",
                "Open client connections.",
                ["listener"],
            )?,
            max_connections: declare.gauges(
                "weir_connections_limit",
                "Client connections that may be open at once.",
                ["listener"],
            )?,
            refused: declare.counters(
                "weir_connections_refused_total",
                "Connections closed before a request could be read, by reason.",
                ["listener", "reason"],
            )?,
            guesses: declare.counter(
                "weir_admin_refused_total",
                "Requests to the admin listener that were refused for a wrong admin token.",
            )?,
            dropped_lines: declare.counter(
                "weir_log_lines_dropped_total",
                "Lines of the log that were lost, since nobody read it fast enough, or whoever did has gone.",
            )?,
            max_series: declare.gauge(
                "weir_series_limit",
                "Series that each metric may have.",
            )?,
            reloads: declare.counters(
                "weir_config_reloads_total",
                "Times that the configuration was read anew: applied, or refused for its mistakes.",
                ["result"],
            )?,
            reload_worked: declare.gauge(
                "weir_config_last_reload_successful",
                "0 when the configuration that was read last is refused, and an older one is served.",
            )?,
            applied: declare.gauge(
                "weir_config_applied_timestamp_seconds",
                "When the configuration that is served was applied, in Unix seconds.",
            )?,
            certificate: declare.gauges(
                "weir_tls_certificate_expiry_timestamp_seconds",
                "When the certificate of a listener is no longer valid, in Unix seconds.",
                ["listener"],
            )?,
        };
        let build = declare.gauges(
            "weir_build_info",
            "Always 1; the labels tell the build.",
            ["version", "features"],
        )?;
        build.with([env!("CARGO_PKG_VERSION"), FEATURES]).set(1);
        let started = declare.gauge(
            "weir_start_time_seconds",
            "Start of the process, in Unix seconds.",
        )?;
        let now = unix_seconds(SystemTime::now());
        started.set(now);
        process.applied.set(now);
        process.reload_worked.set(1);
        for result in ["applied", "refused"] {
            process.reloads.with([result]);
        }
        #[cfg(target_os = "linux")]
        declare.collector(prometheus::process_collector::ProcessCollector::for_self())?;
        Ok(process)
    }
}

impl Metrics {
    /// Counts a panic.
    pub fn panicked(&self) {
        self.process.panics.inc();
    }

    /// Counts a request that brought a wrong admin token.
    pub fn admin_refused(&self) {
        self.process.guesses.inc();
    }

    /// Returns the gauge of a listener's open connections.
    pub fn connections(&self, listener: &str) -> IntGauge {
        self.process.connections.with([listener])
    }

    /// Notes how many connections of a listener may be open at once.
    pub fn set_connections_limit(&self, listener: &str, limit: usize) {
        let limits = &self.process.max_connections;
        limits.with([listener]).set(signed(limit as u64));
    }

    /// Counts a connection on which no request could be read.
    pub fn connection_refused(&self, listener: &str, reason: &'static str) {
        self.process.refused.with([listener, reason]).inc();
    }

    /// Notes whether the gateway can serve.
    pub fn set_ready(&self, ready: bool) {
        self.process.ready.set(i64::from(ready));
    }

    /// Notes how many lines of the log were dropped since the start.
    pub fn set_dropped_lines(&self, count: u64) {
        raise(&self.process.dropped_lines, count);
    }

    /// Notes until when a listener's certificate is valid.
    pub fn set_certificate(&self, listener: &str, expires: SystemTime) {
        let gauge = self.process.certificate.with([listener]);
        gauge.set(unix_seconds(expires));
    }

    /// Counts a reload.
    pub fn reloaded(&self, applied: bool) {
        let process = &self.process;
        let result = if applied { "applied" } else { "refused" };
        process.reloads.with([result]).inc();
        process.reload_worked.set(i64::from(applied));
        if applied {
            process.applied.set(unix_seconds(SystemTime::now()));
        }
    }

    pub(super) fn note_max_series(&self, count: usize) {
        self.process.max_series.set(signed(count as u64));
    }
}

fn unix_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    signed(since.unwrap_or_default().as_secs())
}
