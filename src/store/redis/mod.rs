//! The Redis that several gateways share: one connection, on which many requests are under way at once, a bound on the
//! time that anybody waits for it, and a breaker.
//!
//! A Redis that does not answer (it is gone, slow, or frozen with its connections open) costs a few requests, and those
//! under way at the moment, their [`Params::timeout`] each. Then it counts as away: nobody waits for it any more, and one
//! task tries to reach it until it answers again, as fast as requests need it. What is to be done without it is for the callers to know.
//!
//! Replies are matched to requests by the order in which those were sent. A request that is given up leaves its place to
//! a reply that nobody reads; so a connection is never left between a question and its answer.

mod link;
mod question;
mod servers;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::{Cmd, FromRedisValue, RedisError};
use tokio::sync::{Notify, watch};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use self::link::Link;
pub use self::link::OpenError;
use self::question::Question;
pub use self::servers::{SentinelCredentials, Servers, ServersError};
pub use redis::{ClientTlsConfig as ClientCertificate, TlsCertificates};

/// So many failures in a row, and it is away. One may be a pause of the network.
const FAILURES: u32 = 3;
/// How long one attempt to connect may take, with all that is asked before the connection is used.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long one server may take to be connected to. Others may be there when one is not.
const NODE_TIMEOUT: Duration = Duration::from_millis(300);
/// How long is waited between two attempts at first, and at most.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How Redis is reached.
#[derive(Clone)]
pub struct Params {
    /// Where it is.
    pub servers: Servers,
    /// How long a request waits for it.
    pub timeout: Duration,
    /// The functions that it is to have.
    pub libraries: Vec<Library>,
    /// What is shared there, for the log.
    pub what: &'static str,
}

/// Functions that Redis is to have. The name of a library is made of its code: whoever has loaded it before has loaded the
/// same.
#[derive(Clone)]
pub struct Library {
    /// The code.
    pub code: String,
    /// A key that lies in a cluster where all do that the functions are called for.
    pub home: &'static str,
    /// What is asked before Redis counts as there: does all that it will have to do.
    pub probe: Cmd,
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
    /// How long their answers were waited for, all together.
    pub waited: Duration,
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
    /// Microseconds.
    waited: AtomicU64,
    failures: AtomicU64,
    outages: AtomicU64,
}

impl Redis {
    /// Connects. A Redis that cannot be reached is away, and comes when it can be.
    ///
    /// # Errors
    /// [`OpenError`] where it answers, and waiting would not help: a wrong password, an old version.
    pub async fn open(params: Params) -> Result<Self, OpenError> {
        let first = match reach(&params).await {
            Err(error) if error.is_final() => return Err(error),
            first => first,
        };
        let inner = Arc::new(Inner {
            params,
            link: ArcSwapOption::empty(),
            failed: AtomicU32::new(0),
            up: watch::Sender::new(false),
            lost: Notify::new(),
            calls: AtomicU64::new(0),
            waited: AtomicU64::new(0),
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

    /// Returns how long a question may take.
    pub fn timeout(&self) -> Duration {
        self.inner.params.timeout
    }

    /// Asks Redis for something, and waits for it no longer than it may take.
    ///
    /// # Errors
    /// [`Away`]: it is not there, it did not answer in time, or it answered by an error.
    pub async fn call<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Away> {
        let timeout = self.inner.params.timeout;
        self.ask(command, timeout, timeout).await
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
        self.ask(command, within, self.inner.params.timeout).await
    }

    /// As [`Redis::call_within`], for what may be much at once: an answer that comes in that time is none too late, and says
    /// nothing of how fast requests are answered.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn call_aside<T: FromRedisValue>(
        &self,
        command: &Cmd,
        within: Duration,
    ) -> Result<T, Away> {
        let within = within.max(self.inner.params.timeout);
        self.ask(command, within, within).await
    }

    /// Reads a key as [`Redis::call`] would. One of another type was written by somebody else: it reads as empty.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Away> {
        let inner = &*self.inner;
        let Some(link) = inner.link.load_full() else {
            return Err(Away);
        };
        inner.calls.fetch_add(1, Ordering::Relaxed);
        let (start, within) = (Instant::now(), inner.params.timeout);
        let answered = timeout(within, link.query(redis::cmd("GET").arg(key))).await;
        let answered = answered.map(|answer| match answer {
            Err(error) if error.code() == Some("WRONGTYPE") => Ok(Some(Vec::new())),
            answer => answer,
        });
        inner.judge(&link, answered, start.elapsed(), within)
    }

    /// Waits for an answer `within` a time; one that took longer than `patience` is a failure all the same.
    async fn ask<T: FromRedisValue>(
        &self,
        command: &Cmd,
        within: Duration,
        patience: Duration,
    ) -> Result<T, Away> {
        let inner = &*self.inner;
        let Some(link) = inner.link.load_full() else {
            return Err(Away);
        };
        inner.calls.fetch_add(1, Ordering::Relaxed);
        let start = Instant::now();
        let answered = timeout(within, link.query(command)).await;
        inner.judge(&link, answered, start.elapsed(), patience)
    }

    /// As [`Redis::call`], but an answer that comes after the caller has gone, or has stopped waiting, is handed to `late`:
    /// whatever Redis has done by then is known after all.
    ///
    /// # Errors
    /// [`Away`]; then `late` may still be called.
    pub async fn call_or_late<T: FromRedisValue + Send + 'static>(
        &self,
        command: Cmd,
        late: impl FnOnce(T) + Send + 'static,
    ) -> Result<T, Away> {
        let inner = &*self.inner;
        let Some(link) = inner.link.load_full() else {
            return Err(Away);
        };
        inner.calls.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::clone(&link);
        let question = Question::new(async move { connection.query(&command).await }, late);
        let start = Instant::now();
        let answered = timeout(inner.params.timeout, question).await;
        let patience = inner.params.timeout;
        inner.judge(&link, answered, start.elapsed(), patience)
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
            waited: Duration::from_micros(inner.waited.load(Ordering::Relaxed)),
            failures: inner.failures.load(Ordering::Relaxed),
            outages: inner.outages.load(Ordering::Relaxed),
        }
    }
}

impl Inner {
    /// Draws conclusions from what has come of a question. An answer that nobody would have waited for is a failure, too.
    fn judge<T>(
        &self,
        link: &Arc<Link>,
        answered: Result<Result<T, RedisError>, Elapsed>,
        took: Duration,
        patience: Duration,
    ) -> Result<T, Away> {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.waited.fetch_add(micros, Ordering::Relaxed);
        let (answer, error) = match answered {
            Ok(Ok(answer)) if took <= self.params.timeout => {
                self.failed.store(0, Ordering::Relaxed);
                return Ok(answer);
            }
            Ok(Ok(answer)) if took <= patience => return Ok(answer),
            Ok(Ok(answer)) => (Ok(answer), OpenError::Silent),
            Ok(Err(error)) => (Err(Away), OpenError::from(error)),
            Err(_) => (Err(Away), OpenError::Silent),
        };
        self.failures.fetch_add(1, Ordering::Relaxed);
        let in_a_row = self.failed.fetch_add(1, Ordering::Relaxed) + 1;
        if in_a_row >= FAILURES || error.is_end() {
            self.lose(link, &error);
        }
        answer
    }

    fn found(&self, link: Link) {
        self.failed.store(0, Ordering::Relaxed);
        self.link.store(Some(Arc::new(link)));
        self.up.send_replace(true);
        let what = self.params.what;
        tracing::info!(servers = %self.params.servers, "redis answers: {what} are shared");
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
        tracing::warn!(servers = %self.params.servers, shared = self.params.what, %error, "redis is away");
    }
}

/// Tries to reach Redis whenever it is away.
async fn keep(inner: Arc<Inner>) {
    loop {
        let mut pause = PAUSE;
        let mut told = None;
        while inner.link.load().is_none() {
            match reach(&inner.params).await {
                Ok(link) => {
                    inner.found(link);
                    break;
                }
                // Somebody has to do something about it, and is to know what.
                Err(error) if error.is_final() && told != Some(error.to_string()) => {
                    tracing::warn!(%error, "redis is back, and cannot be used");
                    told = Some(error.to_string());
                }
                Err(error) => tracing::debug!(%error, "redis is still away"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        inner.lost.notified().await;
    }
}

/// Connects, and sees that it answers as fast as requests need it.
async fn reach(params: &Params) -> Result<Link, OpenError> {
    let link = timeout(OPEN_TIMEOUT, Link::open(params)).await;
    let link = link.unwrap_or(Err(OpenError::Silent))?;
    for library in &params.libraries {
        let probe = timeout(params.timeout, link.probe(&library.probe)).await;
        probe.unwrap_or(Err(OpenError::Silent))?;
    }
    Ok(link)
}
