//! `[[route]]`: its targets, and how calls are shared among them.

use http::header::{self, HeaderName};
use toml::de::DeValue;

use super::super::problem::At;
use super::super::reader::{Field, Placed, Reader, Table, Text, quote};
use super::super::types::{
    AffinityConfig, BalanceConfig, CacheTerms, HedgeConfig, RetryConfig, TimeoutOverrides,
};
use super::{cache, failure, limits, timeouts};
use crate::pattern::Pattern;
use crate::store::limits::Entry;

/// More levels than anybody tells apart.
const LAST_PRIORITY: u64 = 10_000;
/// Enough for shares of a millionth.
const HEAVIEST: u64 = 1_000_000;
/// Prompts that differ in their first bytes have no cache in common; longer prefixes would be hashed for nothing.
const SHORTEST_PREFIX: u64 = 16;
const LONGEST_PREFIX: u64 = 1 << 20;
/// The system prompt's first lines.
const EXAMPLE_PREFIX: u64 = 1 << 10;

const TARGETS: &str = "`targets = [{ upstream = \"openai\" }]`";
const AFFINITY: &str = "`{ header = \"x-session-id\" }` or `{ prompt_prefix = \"1KiB\" }`";

/// One `[[route]]`, as far as it could be read.
pub(in super::super) struct Route {
    pub(in super::super) model: Option<Placed<Pattern>>,
    pub(in super::super) targets: Vec<Target>,
    pub(in super::super) balance: BalanceConfig,
    pub(in super::super) affinity: Option<AffinityConfig>,
    pub(in super::super) retry: Option<RetryConfig>,
    pub(in super::super) timeouts: TimeoutOverrides,
    pub(in super::super) hedge: Option<HedgeConfig>,
    pub(in super::super) limits: Vec<Entry>,
    pub(in super::super) cache: Option<CacheTerms>,
}

/// One target of a route, as far as it could be read.
pub(in super::super) struct Target {
    pub(in super::super) at: At,
    pub(in super::super) upstream: Option<Text>,
    pub(in super::super) rename: Option<Text>,
    pub(in super::super) priority: u32,
    pub(in super::super) weight: u32,
}

/// Reads the routes; what their `retry` and `cache` leave out is as in those.
pub(super) fn routes(
    root: &mut Table<'_, '_>,
    reader: &mut Reader<'_>,
    retry: &RetryConfig,
    cache: &CacheTerms,
) -> Vec<Route> {
    let tables = reader.tables(root, "route", "model");
    tables
        .into_iter()
        .map(|table| route(table, reader, retry, cache))
        .collect()
}

fn route(
    mut table: Table<'_, '_>,
    reader: &mut Reader<'_>,
    retry: &RetryConfig,
    cache: &CacheTerms,
) -> Route {
    let table = &mut table;
    let model = reader.required(table, "model", "`model = \"gpt-4o\"`, a name or a pattern");
    let model =
        model.and_then(|text| reader.pattern(text, "a name or a pattern such as \"gpt-*\""));
    let balances = [
        ("p2c", BalanceConfig::P2c),
        ("weighted", BalanceConfig::Weighted),
        ("order", BalanceConfig::Order),
    ];
    let balance = reader.choice(table, "balance", &balances);
    let balance = balance.unwrap_or_default();
    let targets = targets(table, reader, balance);
    let affinity = reader.table(table, "affinity");
    let affinity = affinity.and_then(|table| affinity_of(table, reader));
    let own_retry = reader.table(table, "retry");
    let own_retry = own_retry.map(|table| failure::retry(table, reader, retry));
    let hedge = reader.table(table, "hedge");
    let hedge = hedge.map(|table| failure::hedge(table, reader));
    let timeouts = timeouts::overrides(table, reader);
    let limits = limits::limits(table, "limits", reader);
    let cache = cache::overrides(table, reader, cache);
    reader.finish(table);
    Route {
        model,
        targets,
        balance,
        affinity,
        retry: own_retry,
        timeouts,
        hedge,
        limits,
        cache,
    }
}

fn targets(
    table: &mut Table<'_, '_>,
    reader: &mut Reader<'_>,
    balance: BalanceConfig,
) -> Vec<Target> {
    let Some(field) = table.field("targets") else {
        let at = table.at.clone();
        reader.error(&at, format!("`targets` is missing; write {TARGETS}"));
        return Vec::new();
    };
    let elements = reader.elements(&field);
    if elements.is_empty() && matches!(field.value, DeValue::Array(_)) {
        reader.error(
            &field.at,
            format!("is empty and leads nowhere; write {TARGETS}"),
        );
    }
    let targets = elements.into_iter();
    targets
        .filter_map(|element| target(element, reader, balance))
        .collect()
}

fn target(
    element: Field<'_, '_>,
    reader: &mut Reader<'_>,
    balance: BalanceConfig,
) -> Option<Target> {
    let table = &mut reader.as_table(element)?;
    let upstream = reader.required(table, "upstream", "the `name` of an [[upstream]]");
    let rename = table.field("model").and_then(|field| reader.text(&field));
    let target = Target {
        at: table.at.clone(),
        upstream,
        rename: rename.filter(|text| !is_refused(text, reader)),
        priority: reader.count(table, "priority", 0, 0..=LAST_PRIORITY),
        weight: reader.count(table, "weight", 1, 1..=HEAVIEST),
    };
    if target.weight != 1 && balance != BalanceConfig::Weighted {
        let at = table.name_at("weight");
        reader.warning(
            &at,
            "does nothing unless the route is weighted; write `balance = \"weighted\"` beside `targets`, or leave it out",
        );
    }
    reader.finish(table);
    Some(target)
}

/// Reports a model's name that no upstream could have.
fn is_refused(text: &Text, reader: &mut Reader<'_>) -> bool {
    let is_pattern = text.value.contains('*');
    let is_name = Pattern::parse(&text.value).is_ok();
    if is_pattern {
        reader.error(
            &text.at,
            format!(
                "{} is a pattern; write one name, or leave it out to keep the name",
                quote(&text.raw)
            ),
        );
    } else if !is_name {
        reader.error(
            &text.at,
            format!(
                "{} is no model's name; write one, or leave it out",
                quote(&text.raw)
            ),
        );
    }
    is_pattern || !is_name
}

fn affinity_of(mut table: Table<'_, '_>, reader: &mut Reader<'_>) -> Option<AffinityConfig> {
    let table = &mut table;
    let header = table.field("header");
    let has_header = header.is_some();
    let header = header.and_then(|field| affinity_header(&field, reader));
    let has_prefix = table.has("prompt_prefix");
    let range = SHORTEST_PREFIX..=LONGEST_PREFIX;
    let prefix = reader.size(table, "prompt_prefix", EXAMPLE_PREFIX, range);
    reader.finish(table);
    let at = table.at.clone();
    match (has_header, has_prefix) {
        (true, false) => header.map(AffinityConfig::Header),
        (false, true) => usize::try_from(prefix)
            .ok()
            .map(AffinityConfig::PromptPrefix),
        (false, false) => {
            reader.error(&at, format!("says nothing; write {AFFINITY}"));
            None
        }
        (true, true) => {
            let message = "has both `header` and `prompt_prefix`; write one of the two";
            reader.error(&at, message);
            None
        }
    }
}

fn affinity_header(field: &Field<'_, '_>, reader: &mut Reader<'_>) -> Option<HeaderName> {
    let text = reader.text(field)?;
    let Ok(name) = HeaderName::from_bytes(text.value.as_bytes()) else {
        reader.error(
            &text.at,
            "is no header's name; write letters, digits and hyphens, such as \"x-session-id\"",
        );
        return None;
    };
    let credentials = [
        header::AUTHORIZATION,
        header::PROXY_AUTHORIZATION,
        header::COOKIE,
        HeaderName::from_static("api-key"),
        HeaderName::from_static("x-api-key"),
    ];
    if credentials.contains(&name) {
        reader.error(
            &text.at,
            "carries a credential, and names no session; write a header of its own, such as \"x-session-id\"",
        );
        return None;
    }
    Some(name)
}
