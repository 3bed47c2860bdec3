//! What other gateways have got, or are getting: asked once an answer is not in memory, and before an upstream is.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use tokio::time::{Instant, sleep};
use tower::{Service, ServiceExt};

use super::CacheError;
use super::desk::{Desk, Quest};
use super::flight::Asking;
use super::judge::Ask;
use super::replay::replay;
use super::status;
use crate::call::{Cached, Call, Record, Reply};
use crate::middleware::explain::Explain;
use crate::store::cache::shared::{Lease, Leased, SharedCache, Stamp, Waited};
use crate::store::cache::{Entry, Key};
use crate::store::redis::Away;

/// How long is waited until another gateway's answer is looked for, at first and at most.
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// What several gateways keep together, and how it is used.
#[derive(Clone)]
pub struct Shared {
    /// Where it is kept.
    pub cache: Arc<SharedCache>,
    /// How long a call waits for the answer that another gateway is getting; zero: not at all.
    pub wait: Duration,
}

/// What a call that leads has from the gateways that share.
#[derive(Clone)]
pub(super) struct Share {
    cache: Arc<SharedCache>,
    /// What was known of purges when it began; `None`: its answer is not put there.
    stamp: Option<Stamp>,
    lease: Arc<Mutex<Option<Lease>>>,
}

/// Who answers a call that leads.
enum Turn {
    /// Another gateway, by what it has put there.
    Elsewhere(Arc<Entry>),
    /// An upstream.
    Own,
}

// === impl Shared ===

impl Shared {
    /// Returns what is kept for a call and young enough for it.
    async fn find(&self, ask: &Ask) -> Result<Option<Arc<Entry>>, Away> {
        let entry = self.cache.get(&ask.key).await?;
        Ok(entry.filter(|entry| ask.takes(entry)))
    }

    pub(super) fn share(&self) -> Share {
        Share {
            cache: Arc::clone(&self.cache),
            stamp: self.cache.stamp(),
            lease: Arc::default(),
        }
    }

    /// Looks for an answer, and where there is none waits for the gateway that is getting it, or has others wait for this one.
    async fn turn(
        &self,
        ask: &Ask,
        deadline: Option<Instant>,
        share: &Share,
        record: &Record,
    ) -> Turn {
        match self.find(ask).await {
            Ok(Some(entry)) => return Turn::Elsewhere(entry),
            Ok(None) => {}
            // Whoever has waited for Redis once does not wait for it again.
            Err(Away) => return Turn::Own,
        }
        if self.wait.is_zero() {
            return Turn::Own;
        }
        let now = Instant::now();
        // Whoever waits for half of its time has the other half for an upstream.
        let patience = deadline.map(|end| end.saturating_duration_since(now) / 2);
        let until = now + patience.map_or(self.wait, |patience| patience.min(self.wait));
        let mut pause = PAUSE;
        let mut has_waited = false;
        let turn = loop {
            match self.cache.lease(&ask.key).await {
                Leased::Taken(lease) => {
                    // Whoever had it before may have put its answer there since.
                    if let Ok(Some(entry)) = self.find(ask).await {
                        break Some(Turn::Elsewhere(entry));
                    }
                    share.hold(lease);
                    break Some(Turn::Own);
                }
                Leased::Elsewhere if Instant::now() < until => {}
                Leased::Elsewhere | Leased::Away => break None,
            }
            has_waited = true;
            sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
            match self.find(ask).await {
                Ok(Some(entry)) => break Some(Turn::Elsewhere(entry)),
                Ok(None) => {}
                // It has been waited for, and is not for the lease again.
                Err(_) => break None,
            }
        };
        if has_waited {
            record.facts().waited_for_others = true;
            self.cache.note_wait(match &turn {
                Some(Turn::Elsewhere(_)) => Waited::Answered,
                Some(Turn::Own) => Waited::Led,
                None => Waited::Alone,
            });
        }
        turn.unwrap_or(Turn::Own)
    }
}

// === impl Share ===

impl Share {
    fn hold(&self, lease: Lease) {
        let mut held = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        *held = Some(lease);
    }

    /// Has other gateways wait no longer.
    pub(super) fn end(&self) {
        let mut held = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        let lease = held.take();
        drop(held);
        drop(lease);
    }

    /// Gives other gateways an answer; they wait until they have it.
    pub(super) fn put(&self, key: Key, entry: Arc<Entry>) {
        if let Some(stamp) = self.stamp {
            let mut held = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
            let lease = held.take();
            drop(held);
            self.cache.put(key, entry, stamp, lease);
        }
    }
}

// === impl Desk ===

impl<E> Desk<E> {
    /// Returns what other gateways keep for a call.
    pub(super) async fn find_shared(&self, quest: &Quest) -> Option<(&Shared, Arc<Entry>)> {
        let shared = self.params().shared.as_ref()?;
        let ask = quest.ask.as_ref().filter(|ask| !ask.control.no_cache)?;
        Some((shared, shared.find(ask).await.ok()??))
    }
}

impl<E: From<CacheError> + Explain + Send + 'static> Desk<E> {
    /// Answers a call by what was in Redis.
    pub(super) fn shared_hit(
        &self,
        shared: &Shared,
        entry: &Entry,
        call: &Call,
        quest: &Quest,
    ) -> Reply {
        shared.cache.note_hit();
        let status = with_detail(&status::hit(entry.fresh_for()));
        self.note_kept(&call.record, Cached::Hit, status, entry);
        call.record.facts().route = self.ways().label(call);
        replay(entry, quest.ask.is_some_and(|ask| ask.paced))
    }

    /// Returns what asks for an answer: other gateways first, and then an upstream.
    pub(super) fn asking<S>(
        self: &Arc<Self>,
        inner: S,
        call: Call,
        quest: &Quest,
        share: Option<Share>,
    ) -> Asking<E>
    where
        S: Service<Call, Response = Reply, Error = E> + Send + 'static,
        S::Future: Send,
    {
        let ask = quest.ask.filter(|ask| !ask.control.no_cache);
        let Some((share, ask)) = share.zip(ask) else {
            return Box::pin(inner.oneshot(call));
        };
        let (desk, quest) = (Arc::clone(self), *quest);
        Box::pin(async move {
            if let Some(shared) = &desk.params().shared
                && let Turn::Elsewhere(entry) =
                    shared.turn(&ask, call.deadline, &share, &call.record).await
            {
                return Ok(desk.shared_hit(shared, &entry, &call, &quest));
            }
            inner.oneshot(call).await
        })
    }
}

/// `weir; hit; ttl=3599; detail=redis`
fn with_detail(hit: &HeaderValue) -> HeaderValue {
    let status = [hit.as_bytes(), b"; detail=redis"].concat();
    HeaderValue::try_from(status).unwrap_or_else(|_| hit.clone())
}
