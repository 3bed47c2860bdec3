//! `[redis]`: what several gateways share.

use std::num::NonZeroU32;
use std::time::Duration;

use super::super::defaults;
use super::super::reader::{Placed, Reader, Table};
use super::super::types::{RedisConfig, RedisOutageConfig, SentinelConfig};
use super::tls;
use crate::secret::Secret;
use crate::store::redis::{Servers, ServersError};

/// Less than a round trip would find every Redis away.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(1);
/// Who waits longer waits for Redis instead of for a model.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(10);

/// More would be gone from the limits for a second, and perhaps for nobody.
const MOST_AT_A_TIME: u64 = 1000;

pub(super) fn redis(root: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> Option<RedisConfig> {
    let at = root.name_at("redis");
    let table = &mut reader.table(root, "redis")?;
    let single = table.field("url");
    let several = table.field("urls");
    let cluster = reader.flag(table, "cluster", false);
    let fields = match (single, several) {
        (Some(_), Some(field)) => {
            reader.error(
                &field.at,
                "stands beside `url`; write all addresses into `urls`, or leave it out",
            );
            Vec::new()
        }
        (Some(field), None) => vec![field],
        (None, Some(field)) => reader.elements(&field),
        (None, None) => {
            let message = "has no `url`; write such as `url = \"redis://127.0.0.1:6379\"`";
            reader.error(&at, message);
            Vec::new()
        }
    };
    let has_tls = table.has("tls");
    let tls_at = table.name_at("tls");
    let certificates = reader.table(table, "tls");
    let certificates = certificates.map(|table| tls::client(table, reader));
    let sentinel_at = table.name_at("sentinel");
    let sentinel = reader.table(table, "sentinel");
    let has_sentinel = sentinel.is_some();
    let sentinel = sentinel.and_then(|table| credentials(table, reader));
    let count = fields.len();
    let urls: Vec<Placed<Secret>> = fields
        .iter()
        .filter_map(|field| reader.secret(field))
        .collect();
    if urls.len() == count && count > 0 {
        let servers = judge(&urls, cluster, reader);
        if has_tls && servers.as_ref().is_some_and(|servers| !servers.is_secure()) {
            let message =
                "is for addresses that begin with `rediss`; write one, or leave `tls` out";
            reader.error(&tls_at, message);
        }
        if has_sentinel && servers.is_some_and(|servers| !servers.has_sentinels()) {
            let message =
                "is what Sentinels are shown, and the address is none of theirs; leave it out";
            reader.error(&sentinel_at, message);
        }
    }
    let outages = [
        ("local", RedisOutageConfig::Local),
        ("reject", RedisOutageConfig::Reject),
    ];
    let slice = defaults::REDIS_SLICE.get();
    let slice = reader.count(table, "slice", slice, 1..=MOST_AT_A_TIME);
    let share = reader.fraction(table, "local_share", defaults::LOCAL_SHARE, 0.001..=1.0);
    let redis = RedisConfig {
        urls: urls.into_iter().map(|url| url.value).collect(),
        cluster,
        timeout: reader.duration(
            table,
            "timeout",
            defaults::REDIS_TIMEOUT,
            SHORTEST_TIMEOUT..=LONGEST_TIMEOUT,
        ),
        tls: certificates.unwrap_or_default(),
        sentinel,
        slice: NonZeroU32::new(slice).unwrap_or(defaults::REDIS_SLICE),
        on_outage: reader
            .choice(table, "on_outage", &outages)
            .unwrap_or_default(),
        // At most a thousand: nothing is lost.
        local_share_thousandths: (share * 1000.0).round() as u32,
    };
    if table.has("local_share") && redis.on_outage == RedisOutageConfig::Reject {
        let at = table.name_at("local_share");
        reader.warning(
            &at,
            "does nothing while nobody is let in without Redis; write `on_outage = \"local\"` beside it, or leave it out",
        );
    }
    reader.finish(table);
    Some(redis)
}

/// Reads addresses, and reports those that are none, without showing what may hold a password.
fn judge(urls: &[Placed<Secret>], cluster: bool, reader: &mut Reader<'_>) -> Option<Servers> {
    let alone = |url: &Placed<Secret>| Servers::parse(&[url.value.expose()], cluster).err();
    let mut bad = urls.iter().filter_map(|url| Some((url, alone(url)?)));
    if let Some((url, error)) = bad.next() {
        reader.error(&url.at, error.to_string());
        return None;
    }
    let all: Vec<_> = urls.iter().map(|url| url.value.expose()).collect();
    let servers: Result<Servers, ServersError> = Servers::parse(&all, cluster);
    if let (Err(error), Some(last)) = (&servers, urls.last()) {
        reader.error(&last.at, error.to_string());
    }
    servers.ok()
}

fn credentials(mut table: Table<'_, '_>, reader: &mut Reader<'_>) -> Option<SentinelConfig> {
    let table = &mut table;
    let user = table.field("user");
    let user = user.and_then(|field| reader.text(&field));
    let password = table.field("password");
    if password.is_none() {
        let at = table.at.clone();
        let message = "has no `password`; write such as `password = \"${SENTINEL_PASSWORD}\"`";
        reader.error(&at, message);
    }
    let password = password.and_then(|field| reader.secret(&field));
    reader.finish(table);
    Some(SentinelConfig {
        user: user.map(|text| text.value),
        password: password?.value,
    })
}
