//! What is done about failures: `[retry]`, and `retry`, `hedge`, `eject` and `health` of routes and upstreams.

use std::time::Duration;

use http::uri::PathAndQuery;

use super::super::defaults;
use super::super::reader::{Reader, Table, quote};
use super::super::types::{EjectConfig, HealthConfig, HedgeConfig, RetryConfig};
use super::timeouts::{LONGEST, SHORTEST, TIMEOUT};

/// More tries than anybody waits for.
const MOST_ATTEMPTS: u64 = 10;
/// A pause of nothing would be a loop.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
/// Longer than any client waits.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// Longer than anybody looks at an empty screen without a doubt.
const LONGEST_HOLD: Duration = Duration::from_secs(10);
/// A share of less is none, and a slip of the point.
const SMALLEST_SHARE: f64 = 0.001;
/// What is counted in one window.
const MOST_REQUESTS: u64 = 1_000_000;
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);
const LONGEST_WINDOW: Duration = Duration::from_secs(3600);
/// Checks more often would be load.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// Reads a `retry` table; what it leaves out is as in `base`.
pub(super) fn retry(
    mut table: Table<'_, '_>,
    reader: &mut Reader<'_>,
    base: &RetryConfig,
) -> RetryConfig {
    let table = &mut table;
    let attempts = reader.count(table, "attempts", base.attempts, 0..=MOST_ATTEMPTS);
    let (backoff_base, backoff_max) = backoff(table, reader, base);
    let retry = RetryConfig {
        attempts,
        backoff_base,
        backoff_max,
        budget: reader.fraction(table, "budget", base.budget, 0.0..=1.0),
        max_retry_after: reader.duration(
            table,
            "max_retry_after",
            base.max_retry_after,
            Duration::ZERO..=LONGEST_PAUSE,
        ),
        hold: reader.duration(table, "hold", base.hold, Duration::ZERO..=LONGEST_HOLD),
    };
    reader.finish(table);
    retry
}

fn backoff(
    parent: &mut Table<'_, '_>,
    reader: &mut Reader<'_>,
    default: &RetryConfig,
) -> (Duration, Duration) {
    let table = &mut reader.table_or_empty(parent, "backoff");
    let range = SHORTEST_PAUSE..=LONGEST_PAUSE;
    let base = reader.duration(table, "base", default.backoff_base, range.clone());
    let max = reader.duration(table, "max", default.backoff_max, range);
    ordered(table, reader, base, max);
    reader.finish(table);
    (base, max)
}

/// Reports a `base` that is longer than its `max`.
fn ordered(table: &Table<'_, '_>, reader: &mut Reader<'_>, base: Duration, max: Duration) {
    if base > max {
        let at = table.name_at(if table.has("base") { "base" } else { "max" });
        reader.error(
            &at,
            "`base` is longer than `max`; write a shorter `base` or a longer `max`",
        );
    }
}

pub(super) fn hedge(mut table: Table<'_, '_>, reader: &mut Reader<'_>) -> HedgeConfig {
    let table = &mut table;
    let budget = defaults::HEDGE_BUDGET;
    let hedge = HedgeConfig {
        budget: reader.fraction(table, "budget", budget, SMALLEST_SHARE..=1.0),
        after: reader.optional_duration(table, "after", Duration::from_secs(1), TIMEOUT),
    };
    reader.finish(table);
    hedge
}

/// Reads `eject` of an upstream that has so many endpoints.
pub(super) fn eject(
    parent: &mut Table<'_, '_>,
    reader: &mut Reader<'_>,
    endpoints: usize,
) -> EjectConfig {
    let table = &mut reader.table_or_empty(parent, "eject");
    let default = defaults::EJECT;
    let range = SHORTEST..=LONGEST;
    let eject = EjectConfig {
        failures: reader.count(table, "failures", default.failures, 1..=MOST_REQUESTS),
        share: reader.fraction(table, "share", default.share, SMALLEST_SHARE..=1.0),
        min_requests: reader.count(
            table,
            "min_requests",
            default.min_requests,
            1..=MOST_REQUESTS,
        ),
        window: reader.duration(
            table,
            "window",
            default.window,
            SHORTEST_WINDOW..=LONGEST_WINDOW,
        ),
        base: reader.duration(table, "base", default.base, range.clone()),
        max: reader.duration(table, "max", default.max, range),
        floor: reader.count(table, "floor", default.floor, 0..=1000),
    };
    ordered(table, reader, eject.base, eject.max);
    // Without endpoints there is an error already.
    if table.has("floor") && endpoints > 0 && eject.floor > endpoints {
        let at = table.name_at("floor");
        reader.warning(
            &at,
            format!("is more than there are endpoints; write {endpoints} or less"),
        );
    }
    reader.finish(table);
    eject
}

pub(super) fn health(mut table: Table<'_, '_>, reader: &mut Reader<'_>) -> HealthConfig {
    let table = &mut table;
    let path = health_path(table, reader);
    let range = SHORTEST_INTERVAL..=LONGEST;
    let interval = reader.duration(table, "interval", defaults::HEALTH_INTERVAL, range);
    let default = defaults::HEALTH_TIMEOUT.min(interval);
    let timeout = reader.duration(table, "timeout", default, TIMEOUT);
    if timeout > interval {
        let at = table.name_at("timeout");
        reader.error(
            &at,
            "is longer than `interval`, so that checks would overtake each other; write a shorter one",
        );
    }
    reader.finish(table);
    HealthConfig {
        path,
        interval,
        timeout,
    }
}

fn health_path(table: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> String {
    let default = defaults::HEALTH_PATH;
    let Some(text) = table.field("path").and_then(|field| reader.text(&field)) else {
        return default.to_owned();
    };
    let is_path = text.value.starts_with('/')
        && !text.value.contains('#')
        && PathAndQuery::try_from(text.value.as_str()).is_ok();
    if !is_path {
        reader.error(
            &text.at,
            format!(
                "{} is no path below the base URL; write such as \"{default}\"",
                quote(&text.raw)
            ),
        );
    }
    text.value
}
