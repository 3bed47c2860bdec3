//! `timeouts` of remote upstreams and of routes.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::defaults;
use super::super::reader::{Reader, Table};
use super::super::types::{TimeoutOverrides, TimeoutsConfig};

/// Timeouts shorter than this fire on a healthy network.
pub(super) const SHORTEST: Duration = Duration::from_millis(10);
/// Longer waits are a slip of the unit.
pub(super) const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// What every timeout may be.
pub(super) const TIMEOUT: RangeInclusive<Duration> = SHORTEST..=LONGEST;

pub(super) fn timeouts(parent: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> TimeoutsConfig {
    let table = &mut reader.table_or_empty(parent, "timeouts");
    let default = defaults::TIMEOUTS;
    let timeouts = TimeoutsConfig {
        connect: reader.duration(table, "connect", default.connect, TIMEOUT),
        tls: reader.duration(table, "tls", default.tls, TIMEOUT),
        first_byte: reader.duration(table, "first_byte", default.first_byte, TIMEOUT),
        first_content: reader.duration(table, "first_content", default.first_content, TIMEOUT),
        idle: reader.duration(table, "idle", default.idle, TIMEOUT),
        total: reader.duration(table, "total", default.total, TIMEOUT),
    };
    let parts = [
        ("connect", timeouts.connect),
        ("tls", timeouts.tls),
        ("first_byte", timeouts.first_byte),
        ("first_content", timeouts.first_content),
        ("idle", timeouts.idle),
    ];
    for (name, part) in parts {
        doubt(table, reader, name, part, timeouts.total);
    }
    reader.finish(table);
    timeouts
}

pub(super) fn overrides(parent: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> TimeoutOverrides {
    let table = &mut reader.table_or_empty(parent, "timeouts");
    for name in ["connect", "tls"] {
        if table.field(name).is_some() {
            let at = table.name_at(name);
            reader.error(
                &at,
                format!(
                    "connections are shared by all routes; write `{name}` into the upstream's `timeouts`"
                ),
            );
        }
    }
    let default = defaults::TIMEOUTS;
    let mut read = |name, example| reader.optional_duration(table, name, example, TIMEOUT);
    let timeouts = TimeoutOverrides {
        first_byte: read("first_byte", default.first_byte),
        first_content: read("first_content", default.first_content),
        idle: read("idle", default.idle),
        total: read("total", default.total),
    };
    let parts = [
        ("first_byte", timeouts.first_byte),
        ("first_content", timeouts.first_content),
        ("idle", timeouts.idle),
    ];
    for (name, part) in parts {
        if let (Some(part), Some(total)) = (part, timeouts.total) {
            doubt(table, reader, name, part, total);
        }
    }
    reader.finish(table);
    timeouts
}

/// Doubts a written timeout that the total one never lets run out.
fn doubt(
    table: &Table<'_, '_>,
    reader: &mut Reader<'_>,
    name: &str,
    part: Duration,
    total: Duration,
) {
    if table.has(name) && part > total {
        let at = table.name_at(name);
        reader.warning(
            &at,
            "is longer than `total` and never runs out; write a shorter one, or a longer `total`",
        );
    }
}
