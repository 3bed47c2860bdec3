//! `[ledger]`: where the book is kept, and what is written into it.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::prices::{built_in_prices, parse_prices};
use super::super::problem::Report;
use super::super::reader::{Reader, Table, Text, plain, quote};
use super::super::types::{
    ClientGoneConfig, EncodingConfig, LedgerConfig, LedgerFailureConfig, SyncConfig,
};
use super::super::{data_dir, defaults};
use crate::pattern::Pattern;
use crate::prices::{PriceTable, Prices};
use crate::units::{format_duration, format_size};

/// A file that holds prices is not larger.
const MAX_PRICES_FILE: u64 = 4 << 20;
/// Less would be gone before anybody has looked at it, and a day is the least that budgets look back.
const SHORTEST_RETENTION: Duration = Duration::from_secs(86_400);
/// A hundred years.
const LONGEST_RETENTION: Duration = Duration::from_secs(36_500 * 86_400);
/// The word for a book that is never shortened.
const FOREVER: &str = "forever";
/// What the largest context windows hold.
const MOST_DRAINED: u64 = 10_000_000;
/// Fewer would stop a busy gateway; more would not fit into memory.
const FEWEST_OPEN: u64 = 64;
const MOST_OPEN: u64 = 10_000_000;

pub(super) fn ledger(root: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> LedgerConfig {
    let table = &mut reader.table_or_empty(root, "ledger");
    let syncs = [
        ("always", SyncConfig::Always),
        ("every_second", SyncConfig::EverySecond),
        ("never", SyncConfig::Never),
    ];
    let failures = [
        ("refuse", LedgerFailureConfig::Refuse),
        ("serve", LedgerFailureConfig::Serve),
    ];
    let leavings = [
        ("cancel", ClientGoneConfig::Cancel),
        ("drain", ClientGoneConfig::Drain),
    ];
    let rows = retention(table, "retention", defaults::RETENTION, reader);
    let ledger = LedgerConfig {
        path: path(table, reader),
        sync: reader.choice(table, "sync", &syncs).unwrap_or_default(),
        prices: prices(table, reader),
        on_failure: reader
            .choice(table, "on_failure", &failures)
            .unwrap_or_default(),
        retention: rows,
        audit_retention: audit_retention(table, rows, reader),
        vacuum: reader.flag(table, "vacuum", defaults::VACUUM),
        client_gone: reader
            .choice(table, "client_gone", &leavings)
            .unwrap_or_default(),
        drain_tokens: reader.integer(
            table,
            "drain_tokens",
            defaults::DRAIN_TOKENS,
            1..=MOST_DRAINED,
        ),
        max_open: reader.count(
            table,
            "max_open",
            defaults::MAX_OPEN,
            FEWEST_OPEN..=MOST_OPEN,
        ),
        encodings: encodings(table, reader),
    };
    if table.has("drain_tokens") && ledger.client_gone == ClientGoneConfig::Cancel {
        let at = table.name_at("drain_tokens");
        reader.warning(
            &at,
            "does nothing unless upstreams are drained; write `client_gone = \"drain\"` beside it, or leave it out",
        );
    }
    reader.finish(table);
    ledger
}

fn path(table: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> PathBuf {
    let folder = data_dir(reader.context.env);
    let text = table.field("path").and_then(|field| reader.text(&field));
    let Some(text) = text.filter(|text| !is_refused(text, reader)) else {
        return folder.join(defaults::LEDGER_PATH);
    };
    folder.join(text.value)
}

/// Reports a path that no file can have.
fn is_refused(text: &Text, reader: &mut Reader<'_>) -> bool {
    let path = &text.value;
    let is_refused = path.is_empty()
        || path.ends_with('/')
        || path.contains(char::is_control)
        || Path::new(path).file_name().is_none();
    if is_refused {
        reader.error(
            &text.at,
            format!(
                "{} is no file; write the path of one, such as \"{}\"",
                quote(&text.raw),
                defaults::LEDGER_PATH
            ),
        );
    }
    is_refused
}

/// Reads the operator's own prices, which go before the built-in ones.
fn prices(table: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> Prices {
    let mut tables = Vec::new();
    if let Some(text) = table.field("prices").and_then(|field| reader.text(&field)) {
        match prices_file(&text, reader) {
            Ok(own) => tables.push(own),
            Err(problems) => {
                for problem in problems {
                    reader.error(&text.at, problem);
                }
            }
        }
    }
    match built_in_prices() {
        Ok(built_in) => tables.push(built_in),
        Err(report) => reader.error(&table.name_at("prices"), report.to_string()),
    }
    Prices::new(tables)
}

fn prices_file(text: &Text, reader: &mut Reader<'_>) -> Result<PriceTable, Vec<String>> {
    let refuse = |why: String| {
        let raw = quote(&text.raw);
        vec![format!("cannot read the prices in {raw}: {why}")]
    };
    let file = reader.file(&text.value);
    let mut bytes = Vec::new();
    std::fs::File::open(&file)
        .and_then(|file| file.take(MAX_PRICES_FILE + 1).read_to_end(&mut bytes))
        .map_err(|error| refuse(plain(&error)))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_PRICES_FILE) {
        let most = format_size(MAX_PRICES_FILE);
        return Err(refuse(format!("the file is larger than {most}")));
    }
    let contents = String::from_utf8(bytes).map_err(|_| refuse("it is not UTF-8".to_owned()))?;
    // Each problem with its own line, which is that of the other file.
    let lines = |report: Report| {
        let lines = report.problems.into_iter().map(|problem| {
            let file = report.file.clone();
            let problems = vec![problem];
            Report {
                file,
                problems,
                files: Vec::new(),
            }
            .to_string()
        });
        lines.collect()
    };
    parse_prices(&contents, Path::new(&text.raw), reader.context).map_err(lines)
}

/// Returns how long something is kept, `None` for ever.
fn retention(
    table: &mut Table<'_, '_>,
    name: &'static str,
    default: Duration,
    reader: &mut Reader<'_>,
) -> Option<Duration> {
    if let Some(field) = table.field(name) {
        match field.value.as_str() {
            Some(FOREVER) => return None,
            Some("never" | "none" | "off" | "infinite" | "unlimited") => {
                let such_as = format_duration(default);
                reader.error(
                    &field.at,
                    format!(
                        "is no time; write such as \"{such_as}\", or \"{FOREVER}\" to keep all of it"
                    ),
                );
                return None;
            }
            Some(_) | None => {}
        }
    }
    Some(reader.duration(table, name, default, SHORTEST_RETENTION..=LONGEST_RETENTION))
}

/// Returns how long it is known who changed what: where nothing is said, not for less than rows are kept.
fn audit_retention(
    table: &mut Table<'_, '_>,
    rows: Option<Duration>,
    reader: &mut Reader<'_>,
) -> Option<Duration> {
    const NAME: &str = "audit_retention";
    match table.has(NAME) {
        true => retention(table, NAME, defaults::AUDIT_RETENTION, reader),
        false => rows.map(|rows| rows.max(defaults::AUDIT_RETENTION)),
    }
}

/// Reads `encodings`, in the order of the file.
fn encodings(
    parent: &mut Table<'_, '_>,
    reader: &mut Reader<'_>,
) -> Vec<(Pattern, EncodingConfig)> {
    let known = [
        ("o200k_base", EncodingConfig::O200k),
        ("cl100k_base", EncodingConfig::Cl100k),
    ];
    let Some(table) = reader.table(parent, "encodings") else {
        return Vec::new();
    };
    let mut fields: Vec<_> = table.all().collect();
    fields.sort_by_key(|(name, _)| name.span().start);
    let mut encodings = Vec::new();
    for (name, field) in fields {
        let encoding = reader.word(&field, &known);
        match Pattern::parse(name.get_ref()) {
            Ok(pattern) => encodings.extend(encoding.map(|encoding| (pattern, encoding))),
            Err(why) => {
                let mut at = field.at.clone();
                at.offset = Some(name.span().start);
                reader.error(
                    &at,
                    format!("the model's name {why}; write a name or a pattern such as \"my-*\""),
                );
            }
        }
    }
    encodings
}
