//! Who of all gateways asks an upstream for an answer: whoever has its lease. It ends by itself soon after its holder has died.

use std::sync::Arc;
use std::time::Duration;

use redis::Cmd;
use tokio::runtime::Handle;
use tokio::time::{Instant, interval_at};
use tokio_util::task::AbortOnDropHandle;

use super::super::Key;
use super::super::record::Stamp;
use super::library::{self, Functions};
use crate::store::redis::Redis;

/// How long a lease outlives a gateway that has died.
const LEASE: Duration = Duration::from_secs(3);
/// How often it is renewed while it is held.
const RENEWAL: Duration = Duration::from_secs(1);

/// The right to ask an upstream for an answer, while others wait for it. It is given back when it is dropped.
pub struct Lease {
    held: Arc<Held>,
    renewing: AbortOnDropHandle<()>,
}

/// Whether it was had.
pub enum Leased {
    /// It was.
    Taken(Lease),
    /// Another gateway has it.
    Elsewhere,
    /// Nobody knows: Redis is away.
    Away,
}

struct Held {
    redis: Redis,
    functions: Functions,
    key: String,
    /// What no other holder knows.
    word: String,
}

impl Lease {
    /// Takes it, if nobody has it.
    pub(super) async fn take(
        redis: &Redis,
        functions: &Functions,
        key: &Key,
        stamp: Stamp,
    ) -> Leased {
        let held = Arc::new(Held {
            redis: redis.clone(),
            functions: functions.clone(),
            key: library::lease(key, stamp),
            word: format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)),
        });
        let mut take = redis::cmd("SET");
        take.arg(&held.key).arg(&held.word);
        take.arg("NX").arg("PX").arg(millis(LEASE));
        let late = Arc::clone(&held);
        // Who has gone before it was given does not keep it.
        let taking = redis.call_or_late(take, move |taken: Option<String>| {
            if taken.is_some() {
                late.release();
            }
        });
        match taking.await {
            Ok(Some(_)) => Leased::Taken(Self::held(held)),
            Ok(None) => Leased::Elsewhere,
            Err(_) => Leased::Away,
        }
    }

    fn held(held: Arc<Held>) -> Self {
        let renewed = Arc::clone(&held);
        let renewing = tokio::spawn(async move {
            let mut ticks = interval_at(Instant::now() + RENEWAL, RENEWAL);
            loop {
                ticks.tick().await;
                let mut renew = renewed.call("renew");
                renew.arg(millis(LEASE));
                let renewed = renewed.redis.call_within::<i64>(&renew, RENEWAL).await;
                // Another gateway has it by now; this one's call goes on.
                if renewed == Ok(0) {
                    break;
                }
            }
        });
        Self {
            held,
            renewing: AbortOnDropHandle::new(renewing),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewing.abort();
        self.held.release();
    }
}

impl Held {
    fn call(&self, function: &str) -> Cmd {
        let mut command = self.functions.call(function);
        command.arg(1).arg(&self.key).arg(&self.word);
        command
    }

    /// Gives it back, soon.
    fn release(self: &Arc<Self>) {
        // Without a runtime the process ends, and so does the lease, by itself.
        if let Ok(runtime) = Handle::try_current() {
            let this = Arc::clone(self);
            runtime.spawn(async move {
                let release = this.call("release");
                let _ = this.redis.call_within::<i64>(&release, RENEWAL).await;
            });
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
