//! The Redis that several gateways share: one connection, on which many requests are under way at once, a bound on the
//! time that anybody waits for it, and a breaker.
//!
//! A Redis that does not answer (it is gone, slow, or frozen with its connections open) costs a few requests their
//! [`Params::timeout`] each. Then it counts as away: nobody waits for it any more, and one task tries to reach it until
//! it answers again. What is to be done without it is for the callers to know.
//!
//! Replies are matched to requests by the order in which those were sent. A request that is given up leaves its place to
//! a reply that nobody reads; so a connection is never left between a question and its answer.

mod link;
mod servers;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::{Cmd, FromRedisValue};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use self::link::Link;
pub use self::link::OpenError;
pub use self::servers::{Servers, ServersError};

/// So many failures in a row, and it is away. One may be a pause of the network.
const FAILURES: u32 = 3;
/// How long one attempt to connect may take, with all that is asked before the connection is used.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long is waited between two attempts.
const PAUSE: Duration = Duration::from_millis(250);

/// How Redis is reached.
#[derive(Clone, Debug)]
pub struct Params {
    /// Where it is.
    pub servers: Servers,
    /// How long a request waits for it.
    pub timeout: Duration,
    /// The code of the functions that it is to have, each a library of its own.
    pub libraries: Vec<String>,
}

/// Redis does not answer; nobody knows whether it has done what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("redis is away")]
pub struct Away;

/// How Redis is, and what it was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedisState {
    /// Whether it answers.
    pub up: bool,
    /// Commands that were sent since the start.
    pub calls: u64,
    /// Those of them that it did not answer in time, or at all.
    pub failures: u64,
    /// How often it went away since the start.
    pub outages: u64,
}

/// The Redis that several gateways share. Clones are the same one.
#[derive(Clone)]
pub struct Redis {
    inner: Arc<Inner>,
    _keeper: Arc<AbortOnDropHandle<()>>,
}

struct Inner {
    params: Params,
    link: ArcSwapOption<Link>,
    /// In a row.
    failed: AtomicU32,
    up: watch::Sender<bool>,
    lost: Notify,
    calls: AtomicU64,
    failures: AtomicU64,
    outages: AtomicU64,
}

impl Redis {
    /// Connects. A Redis that cannot be reached is away, and comes when it can be.
    ///
    /// # Errors
    /// [`OpenError`] where it answers, and waiting would not help: a wrong password, an old version.
    pub async fn open(params: Params) -> Result<Self, OpenError> {
        let first = match timeout(OPEN_TIMEOUT, Link::open(&params)).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(error)) if error.is_final() => return Err(error),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(OpenError::Silent),
        };
        let inner = Arc::new(Inner {
            params,
            link: ArcSwapOption::empty(),
            failed: AtomicU32::new(0),
            up: watch::Sender::new(false),
            lost: Notify::new(),
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            outages: AtomicU64::new(0),
        });
        match first {
            Ok(link) => inner.found(link),
            Err(error) => inner.gone(&error),
        }
        let keeper = tokio::spawn(keep(Arc::clone(&inner)));
        Ok(Self {
            inner,
            _keeper: Arc::new(AbortOnDropHandle::new(keeper)),
        })
    }

    /// Asks Redis for something, and waits for it no longer than it may take.
    ///
    /// # Errors
    /// [`Away`]: it is not there, it did not answer in time, or it answered by an error.
    pub async fn call<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Away> {
        self.call_within(command, self.inner.params.timeout).await
    }

    /// As [`Redis::call`], for what no client waits for.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn call_within<T: FromRedisValue>(
        &self,
        command: &Cmd,
        within: Duration,
    ) -> Result<T, Away> {
        let inner = &*self.inner;
        let Some(link) = inner.link.load_full() else {
            return Err(Away);
        };
        inner.calls.fetch_add(1, Ordering::Relaxed);
        let error = match timeout(within, link.query(command)).await {
            Ok(Ok(answer)) => {
                inner.failed.store(0, Ordering::Relaxed);
                return Ok(answer);
            }
            Ok(Err(error)) => OpenError::from(error),
            Err(_) => OpenError::Silent,
        };
        inner.failures.fetch_add(1, Ordering::Relaxed);
        let in_a_row = inner.failed.fetch_add(1, Ordering::Relaxed) + 1;
        if in_a_row >= FAILURES || error.is_end() {
            inner.lose(&link, &error);
        }
        Err(Away)
    }

    /// Returns whether it answers, now and whenever that changes.
    pub fn up(&self) -> watch::Receiver<bool> {
        self.inner.up.subscribe()
    }

    /// Returns how it is, and what it was asked.
    pub fn snapshot(&self) -> RedisState {
        let inner = &*self.inner;
        RedisState {
            up: *inner.up.borrow(),
            calls: inner.calls.load(Ordering::Relaxed),
            failures: inner.failures.load(Ordering::Relaxed),
            outages: inner.outages.load(Ordering::Relaxed),
        }
    }
}

impl Inner {
    fn found(&self, link: Link) {
        self.failed.store(0, Ordering::Relaxed);
        self.link.store(Some(Arc::new(link)));
        self.up.send_replace(true);
        tracing::info!(servers = %self.params.servers, "redis answers: limits are shared");
    }

    /// Gives up a connection, if it is still the one that is used.
    fn lose(&self, link: &Arc<Link>, error: &OpenError) {
        let current = self.link.compare_and_swap(link, None);
        if current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, link))
        {
            self.gone(error);
            self.lost.notify_one();
        }
    }

    fn gone(&self, error: &OpenError) {
        self.outages.fetch_add(1, Ordering::Relaxed);
        self.up.send_replace(false);
        tracing::warn!(servers = %self.params.servers, %error, "redis is away");
    }
}

/// Tries to reach Redis whenever it is away.
async fn keep(inner: Arc<Inner>) {
    loop {
        while inner.link.load().is_none() {
            match timeout(OPEN_TIMEOUT, Link::open(&inner.params)).await {
                Ok(Ok(link)) => inner.found(link),
                Ok(Err(error)) => tracing::debug!(%error, "redis is still away"),
                Err(_) => tracing::debug!("redis is still silent"),
            }
            if inner.link.load().is_none() {
                tokio::time::sleep(PAUSE).await;
            }
        }
        inner.lost.notified().await;
    }
}
