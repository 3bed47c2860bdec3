//! `[redis]`: what several gateways share.

use std::num::NonZeroU32;
use std::time::Duration;

use super::super::defaults;
use super::super::reader::{Placed, Reader, Table};
use super::super::types::{RedisConfig, RedisOutageConfig};
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
    let count = fields.len();
    let urls: Vec<Placed<Secret>> = fields
        .iter()
        .filter_map(|field| reader.secret(field))
        .collect();
    if urls.len() == count && count > 0 {
        judge(&urls, cluster, reader);
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

/// Reports addresses that are none, without showing what may hold a password.
fn judge(urls: &[Placed<Secret>], cluster: bool, reader: &mut Reader<'_>) {
    let alone = |url: &Placed<Secret>| Servers::parse(&[url.value.expose()], cluster).err();
    let mut bad = urls.iter().filter_map(|url| Some((url, alone(url)?)));
    if let Some((url, error)) = bad.next() {
        reader.error(&url.at, error.to_string());
        return;
    }
    let all: Vec<_> = urls.iter().map(|url| url.value.expose()).collect();
    if let (Err(error), Some(last)) = (Servers::parse(&all, cluster), urls.last()) {
        let error: ServersError = error;
        reader.error(&last.at, error.to_string());
    }
}
