//! Every metric: its name, its help, its labels and buckets. Elsewhere there are only calls of the methods below.
//!
//! Label values come from the configuration, from the keys and teams made at run time, and from closed sets: endpoints,
//! statuses, causes. A model is labelled by the configured pattern that it matched, never by the name that a client sent.
//! What people can make more and more of is bounded: see [`DEFAULT_MAX_SERIES`].

mod cache;
mod declare;
mod engine;
mod family;
mod gone;
mod ledger;
mod limits;
mod listing;
mod process;
mod redis;
mod requests;
#[cfg(test)]
mod tests;
mod traces;
mod upstreams;
mod usage;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{IntCounter, Registry, TextEncoder};

use self::cache::Answers;
pub use self::cache::{CacheCounts, CacheRemoved, CacheState, SharedCacheState};
use self::declare::Declare;
pub use self::declare::Declared;
use self::engine::Engines;
pub use self::engine::{EngineMeter, EngineState};
use self::family::Forget;
use self::gone::Gone;
pub use self::gone::Known;
use self::ledger::Books;
pub use self::ledger::LedgerState;
use self::limits::Bounds;
pub use self::limits::{BudgetLabels, BudgetState, LimitState};
use self::process::Process;
pub use self::redis::SharedState;
use self::redis::Together;
pub use self::requests::Finished;
use self::requests::Requests;
pub use self::traces::DroppedSpans;
use self::traces::Spans;
use self::upstreams::Upstreams;
pub use self::upstreams::{ConnectionMeter, OpenConnection, Snapshot};
use self::usage::Used;
pub use self::usage::Whose;

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How many series a metric may have, unless it is said otherwise. What finds no place is counted under `other`, and in
/// `weir_series_folded_total`.
pub const DEFAULT_MAX_SERIES: usize = 5000;

/// What a label says when there is nothing to say.
const NONE: &str = "none";

/// All metrics of one gateway.
pub struct Metrics {
    registry: Registry,
    declared: Vec<Declared>,
    families: Vec<Box<dyn Forget>>,
    max_series: Arc<AtomicUsize>,
    gone: Mutex<Gone>,
    requests: Requests,
    used: Used,
    bounds: Bounds,
    answers: Answers,
    upstreams: Upstreams,
    engines: Engines,
    books: Books,
    together: Together,
    spans: Spans,
    process: Process,
}

impl Metrics {
    /// Declares all metrics on a registry of their own.
    ///
    /// # Errors
    /// Only when two declarations here collide.
    pub fn new() -> Result<Self, prometheus::Error> {
        let max_series = Arc::new(AtomicUsize::new(DEFAULT_MAX_SERIES));
        let mut declare = Declare::new(Arc::clone(&max_series));
        declare.folded = Some(declare.counters(
            "weir_series_folded_total",
            "Observations of a metric that had as many series as it may have: they were counted under the label value other, or where that makes no sense not at all.",
            ["metric"],
        )?);
        let metrics = Self {
            requests: Requests::new(&mut declare)?,
            used: Used::new(&mut declare)?,
            bounds: Bounds::new(&mut declare)?,
            answers: Answers::new(&mut declare)?,
            upstreams: Upstreams::new(&mut declare)?,
            engines: Engines::new(&mut declare)?,
            books: Books::new(&mut declare)?,
            together: Together::new(&mut declare)?,
            spans: Spans::new(&mut declare)?,
            process: Process::new(&mut declare)?,
            registry: declare.registry,
            declared: declare.all,
            families: declare.families,
            max_series,
            gone: Mutex::default(),
        };
        metrics.note_max_series(DEFAULT_MAX_SERIES);
        Ok(metrics)
    }

    /// Changes how many series a metric may have. Those that there are stay.
    pub fn set_max_series(&self, count: usize) {
        self.max_series.store(count, Ordering::Relaxed);
        self.note_max_series(count);
    }

    /// Returns all metrics there are, in the order of their declaration.
    pub fn declared(&self) -> &[Declared] {
        &self.declared
    }

    /// Forgets the series of keys, teams, models and upstreams that have been gone for long. To be called now and then.
    pub fn forget_gone(&self, known: &Known<'_>, now: std::time::Instant) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.sweep(&self.families, known, now);
    }

    /// Writes the Prometheus text format, version 0.0.4.
    ///
    /// # Errors
    /// Only when a metric is declared wrongly.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut text = String::with_capacity(64 << 10);
        TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// Brings a counter to what was counted elsewhere since the start.
fn raise(counter: &IntCounter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
