//! The metrics of the ledger: whether it can be written, and what waits for that.

use prometheus::{IntCounter, IntGauge};

use super::declare::Declare;
use super::{Metrics, raise, signed};

/// The metrics of the ledger.
pub(super) struct Books {
    failing: IntGauge,
    owed: IntGauge,
    open: IntGauge,
    max_open: IntGauge,
    bytes: IntGauge,
    given_up: IntCounter,
    left_out: IntCounter,
    rows: IntCounter,
    commits: IntCounter,
    failures: IntCounter,
    interrupted: IntGauge,
}

/// How the ledger is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerState {
    /// Whether nothing can be written.
    pub failing: bool,
    /// Places that are taken: calls under way, and rows that are not written yet.
    pub open: u64,
    /// How many there are.
    pub max_open: u64,
    /// The size of the file, and of what belongs to it beside it.
    pub bytes: u64,
    /// Settled rows written since the start.
    pub rows: u64,
    /// Commits since the start.
    pub commits: u64,
    /// Commits that failed since the start.
    pub failures: u64,
    /// Settled rows that could not be written yet.
    pub owed: u64,
    /// Settled rows that the file refused for what is in them.
    pub given_up: u64,
    /// Refused requests that were not written down.
    pub left_out: u64,
    /// Rows of dead processes that were settled at the start.
    pub interrupted: u64,
}

impl Books {
    pub(super) fn new(declare: &mut Declare) -> Result<Self, prometheus::Error> {
        Ok(Self {
            failing: declare.gauge(
                "weir_ledger_failing",
                "1 when the ledger could not be written when that was last tried; that another program holds it is no failure for ten seconds.",
            )?,
            owed: declare.gauge(
                "weir_ledger_owed_rows",
                "Rows that wait in memory until the ledger can be written.",
            )?,
            open: declare.gauge(
                "weir_ledger_open_rows",
                "Places that are taken: by calls under way, and by rows that are not written yet.",
            )?,
            max_open: declare.gauge(
                "weir_ledger_open_rows_limit",
                "Places that there are. Without one a call is refused, cause gateway_overloaded.",
            )?,
            bytes: declare.gauge("weir_ledger_bytes", "The size of the ledger's file, of its write-ahead log and of the journals beside it.")?,
            given_up: declare.counter(
                "weir_ledger_given_up_rows_total",
                "Rows that the ledger's file refused for what is in them: they are lost.",
            )?,
            left_out: declare.counter(
                "weir_ledger_left_out_rows_total",
                "Refused requests that were not written down, since their keys had been refused so often.",
            )?,
            rows: declare.counter("weir_ledger_rows_total", "Rows settled.")?,
            commits: declare.counter(
                "weir_ledger_commits_total",
                "Commits; each holds the rows that waited for it.",
            )?,
            failures: declare.counter("weir_ledger_failures_total", "Commits that failed.")?,
            interrupted: declare.gauge(
                "weir_ledger_interrupted_rows",
                "Rows that a process which died had left open, settled at the start.",
            )?,
        })
    }
}

impl Metrics {
    /// Notes how the ledger is.
    pub fn set_ledger(&self, state: &LedgerState) {
        let books = &self.books;
        books.failing.set(i64::from(state.failing));
        books.owed.set(signed(state.owed));
        books.open.set(signed(state.open));
        books.max_open.set(signed(state.max_open));
        books.bytes.set(signed(state.bytes));
        books.interrupted.set(signed(state.interrupted));
        raise(&books.rows, state.rows);
        raise(&books.commits, state.commits);
        raise(&books.failures, state.failures);
        raise(&books.given_up, state.given_up);
        raise(&books.left_out, state.left_out);
    }
}
