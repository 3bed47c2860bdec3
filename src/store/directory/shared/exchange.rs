//! What is asked of Redis where keys are shared.

use std::time::Duration;

use redis::Cmd;
use sha2::{Digest, Sha256};

use crate::store::keys::Record;
use crate::store::redis::{Away, Library, Redis};

/// The functions, without their name.
const CODE: &str = include_str!("keys.lua");
/// What stands for their name.
const LIBRARY: &str = "@LIBRARY@";
/// The longest record; the functions know the same.
pub(super) const MOST_BYTES: usize = 1 << 20;
/// How many records go one way at a time.
pub(super) const PAGE: usize = 64;
/// How many bytes go to Redis at a time, besides one record: whatever else it is asked for waits meanwhile.
pub(super) const ENOUGH_BYTES: usize = 1 << 17;

/// How long is waited for an answer, where requests wait for less: it may be much.
const TIMEOUT: Duration = Duration::from_secs(1);

const STATE: &str = "weir:{keys}:1:state";
const RECORDS: &str = "weir:{keys}:1:records";
const ORDER: &str = "weir:{keys}:1:order";

/// How much of what Redis has was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    epoch: String,
    changes: u64,
}

/// What Redis answers.
#[derive(Debug)]
pub(super) struct Reply {
    epoch: String,
    /// The number of the last change.
    changes: u64,
    /// Whether what was seen before is not what is there.
    pub(super) is_anew: bool,
    /// Whether there is more to see.
    pub(super) has_more: bool,
    /// Fields and texts.
    pub(super) records: Vec<(String, String)>,
    /// The number of the last of these.
    last: u64,
}

/// Asks Redis.
pub(super) struct Exchange {
    redis: Redis,
    function: String,
}

/// Returns the functions that Redis is to have.
pub fn library() -> Library {
    let name = name();
    let mut probe = redis::cmd("FCALL");
    probe.arg(format!("{name}_probe")).arg(3);
    // Each gateway's own: they may ask at once.
    let own = fastrand::u64(..);
    for what in ["state", "records", "order"] {
        probe.arg(format!("weir:{{keys}}:1:probe:{own:016x}:{what}"));
    }
    Library {
        code: CODE.replace(LIBRARY, &name),
        home: STATE,
        probe,
    }
}

/// Returns what the functions are called by: gateways of another version have functions of their own.
fn name() -> String {
    let digest = Sha256::digest(CODE);
    let digest = digest.iter().take(4);
    let digest: String = digest.map(|byte| format!("{byte:02x}")).collect();
    format!("weir_keys_{digest}")
}

impl Seen {
    /// Returns what Redis says as long as there is nothing more to see.
    fn state(&self) -> Option<String> {
        (self.changes > 0).then(|| format!("{}:{}", self.epoch, self.changes))
    }
}

impl Reply {
    /// Returns how much was seen once this is.
    pub(super) fn seen(&self) -> Seen {
        Seen {
            epoch: self.epoch.clone(),
            changes: match self.has_more {
                true => self.last,
                false => self.changes,
            },
        }
    }

    /// Reads what the function returns; `None`: somebody else's function has its name.
    fn read(parts: Vec<Vec<u8>>) -> Option<Self> {
        let text = |part: Vec<u8>| String::from_utf8_lossy(&part).into_owned();
        let mut parts = parts.into_iter().map(text);
        let (epoch, changes) = (parts.next()?, parts.next()?.parse().ok()?);
        let (is_anew, has_more) = (parts.next()? == "1", parts.next()? == "1");
        let (mut records, mut last) = (Vec::new(), 0);
        while let Some(field) = parts.next() {
            records.push((field, parts.next()?));
            last = parts.next()?.parse().ok()?;
        }
        Some(Self {
            epoch,
            changes,
            is_anew,
            has_more,
            records,
            last,
        })
    }
}

impl Exchange {
    pub(super) fn new(redis: Redis) -> Self {
        Self {
            redis,
            function: format!("{}_exchange", name()),
        }
    }

    /// Returns whether nothing was changed since, and nothing has got lost. Of a key of another type `MGET` says that there
    /// is none.
    pub(super) async fn is_unchanged(&self, seen: &Seen) -> Result<bool, Away> {
        let mut look = redis::cmd("MGET");
        look.arg(STATE);
        let (state,): (Option<Vec<u8>>,) = self.redis.call_aside(&look, TIMEOUT).await?;
        let expected = seen.state().map(String::into_bytes);
        if state != expected || expected.is_none() {
            return Ok(state == expected);
        }
        // Redis may have evicted what the state counts, or somebody else may have written over it.
        for (key, kind) in [(RECORDS, "hash"), (ORDER, "zset")] {
            let mut look = redis::cmd("TYPE");
            look.arg(key);
            let found: String = self.redis.call_aside(&look, TIMEOUT).await?;
            if found != kind {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Offers records, and asks for what was changed since; `None`: what it answers cannot be read.
    pub(super) async fn exchange(
        &self,
        seen: Option<&Seen>,
        own: &[Record],
    ) -> Result<Option<Reply>, Away> {
        let mut exchange: Cmd = redis::cmd("FCALL");
        exchange.arg(&self.function).arg(3);
        exchange.arg(STATE).arg(RECORDS).arg(ORDER);
        exchange.arg(format!("{:016x}", fastrand::u64(..)));
        match seen {
            Some(seen) => exchange.arg(&seen.epoch).arg(seen.changes),
            None => exchange.arg("").arg(0),
        };
        exchange.arg(PAGE);
        for record in own {
            exchange.arg(record.field()).arg(record.text());
        }
        let parts: Vec<Vec<u8>> = self.redis.call_aside(&exchange, TIMEOUT).await?;
        Ok(Reply::read(parts))
    }
}
