//! Answers calls by what others like them have got: from the cache, or together with one that is under way.
//!
//! It stands inside of accounting, so that what it serves is in the ledger like anything else, at no cost; and outside of
//! everything that is tried at upstreams, so that only an answer in order is kept or shared. Whoever asks first leads: the
//! call goes upstream as its own would, and pays. Those who ask for the same while it is under way get what has come and then
//! the rest as it comes. Should it fail before there is anything to share, each of them asks by itself.
//!
//! What may be kept, and what makes two calls the same, is in `judge` and `key`.

mod control;
mod flight;
mod judge;
mod key;
mod preview;
mod shape;
mod status;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use rustc_hash::FxHashMap;
use tower::{Layer, Service, ServiceExt};

use self::flight::{Begun, Flight, Head, Listener, OnWhole, Whole};
use self::judge::{Ask, Verdict, is_whole};
pub use self::judge::{Rules, Scope, Terms, Ways, When};
pub use self::preview::{Preview, preview};
use self::shape::Shape;
use crate::call::{BoxBody, Cached, Call, Reply, StreamError};
use crate::store::cache::{Cache, Entry, Key, Stored, Tags};

/// Why a call is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// It wants an answer that is there already, and there is none.
    #[error("no answer is kept for it")]
    NotKept,
}

/// What of an answer's headers belongs to whoever gets it.
const KEPT_HEADERS: [HeaderName; 3] = [
    header::CONTENT_TYPE,
    HeaderName::from_static("openai-model"),
    HeaderName::from_static("openai-version"),
];

/// How many bytes of a stream that is replayed go out at a time.
const AT_ONCE: usize = 64 << 10;

/// What calls are answered by.
#[derive(Clone)]
pub struct Params {
    /// What holds for which calls.
    pub rules: Arc<Rules>,
    /// Where answers are kept.
    pub cache: Arc<Cache>,
}

/// Builds [`Caching`].
pub struct CacheLayer<E> {
    desk: Arc<Desk<E>>,
}

/// The service of this layer.
pub struct Caching<S, E> {
    inner: S,
    desk: Arc<Desk<E>>,
}

struct Desk<E> {
    params: Params,
    ways: Arc<dyn Ways>,
    flights: Arc<Flights<E>>,
}

/// The calls that can be joined, by their keys: as many as there are calls under way.
struct Flights<E> {
    by_key: Mutex<FxHashMap<Key, Arc<Flight<E>>>>,
}

/// What a call does that was not found in the cache.
enum Part<E> {
    Lead(Listener<E>),
    Join(Listener<E>),
}

// === impl CacheLayer ===

impl<E> CacheLayer<E> {
    /// Answers by these rules, and knows by `ways` where calls go.
    pub fn new(params: Params, ways: Arc<dyn Ways>) -> Self {
        let flights = Flights {
            by_key: Mutex::default(),
        };
        Self {
            desk: Arc::new(Desk {
                params,
                ways,
                flights: Arc::new(flights),
            }),
        }
    }
}

impl<S, E> Layer<S> for CacheLayer<E> {
    type Service = Caching<S, E>;

    fn layer(&self, inner: S) -> Caching<S, E> {
        Caching {
            inner,
            desk: Arc::clone(&self.desk),
        }
    }
}

impl<S: Clone, E> Clone for Caching<S, E> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            desk: Arc::clone(&self.desk),
        }
    }
}

impl<S, E> Service<Call> for Caching<S, E>
where
    S: Service<Call, Response = Reply, Error = E> + Clone + Send + 'static,
    S::Future: Send,
    E: From<CacheError> + Send + 'static,
{
    type Response = Reply;
    type Error = E;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, E>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        let desk = Arc::clone(&self.desk);
        let verdict = desk.params.rules.judge(&call, &*desk.ways);
        Box::pin(async move {
            match verdict {
                Verdict::Bypass(why) => {
                    note(&call, Cached::Bypass, status::bypass(why));
                    inner.oneshot(call).await
                }
                Verdict::Look(ask) => desk.answer(inner, call, ask).await,
            }
        })
    }
}

/// Notes how a call is answered.
fn note(call: &Call, cached: Cached, status: HeaderValue) {
    let mut facts = call.record.facts();
    facts.cached = cached;
    facts.cache_status = Some(status);
}

// === impl Desk ===

impl<E: From<CacheError> + Send + 'static> Desk<E> {
    async fn answer<S>(self: &Arc<Self>, inner: S, call: Call, ask: Ask) -> Result<Reply, E>
    where
        S: Service<Call, Response = Reply, Error = E> + Send + 'static,
        S::Future: Send,
    {
        if let Some(entry) = self.find(&ask) {
            note(&call, Cached::Hit, status::hit(entry.fresh_for()));
            let mut facts = call.record.facts();
            facts.route = self.ways.label(&call);
            facts.served_model.clone_from(&entry.served_model);
            drop(facts);
            return Ok(replay(&entry));
        }
        if ask.control.only_if_cached {
            note(&call, Cached::Miss, status::miss(&ask));
            return Err(CacheError::NotKept.into());
        }
        // Where nobody can join, the call may be needed yet.
        let (part, call) = self.enter(inner, call, &ask);
        match part {
            Part::Lead(mut listener) => {
                let begun = std::future::poll_fn(|cx| listener.poll_begun(cx)).await;
                match begun {
                    Begun::Shared(head) => Ok(read(listener, head.headers.clone(), &head).await),
                    Begun::Alone(reply) => Ok(*reply),
                    Begun::Failed(error) => Err(error),
                    // It is the leader who is told.
                    Begun::Elsewhere => Err(CacheError::NotKept.into()),
                }
            }
            Part::Join(mut listener) => {
                let Some((inner, call)) = call else {
                    return Err(CacheError::NotKept.into());
                };
                let begun = std::future::poll_fn(|cx| listener.poll_begun(cx)).await;
                if let Begun::Shared(head) = begun {
                    note(&call, Cached::Joined, status::joined());
                    call.record.facts().route = self.ways.label(&call);
                    return Ok(read(listener, kept(&head.headers), &head).await);
                }
                drop(listener);
                note(&call, Cached::Miss, status::miss(&ask));
                inner.oneshot(call).await
            }
        }
    }

    /// Returns what is kept for a call and young enough for it.
    fn find(&self, ask: &Ask) -> Option<Arc<Entry>> {
        if ask.control.no_cache {
            return None;
        }
        let entry = self.params.cache.get(&ask.key)?;
        let is_young = ask.control.max_age.is_none_or(|most| entry.age() <= most);
        is_young.then_some(entry)
    }

    /// Joins the call that is under way, or leads one. Who joins keeps the call.
    fn enter<S>(self: &Arc<Self>, inner: S, call: Call, ask: &Ask) -> (Part<E>, Option<(S, Call)>)
    where
        S: Service<Call, Response = Reply, Error = E> + Send + 'static,
        S::Future: Send,
    {
        let mut flights = self.flights.by_key();
        // Who wants a new answer may have one that is on its way, but not one that is older than the wish.
        let joined = flights.get(&ask.key).filter(|_| !ask.control.no_cache);
        if let Some(listener) = joined.and_then(|flight| flight.join()) {
            return (Part::Join(listener), Some((inner, call)));
        }
        note(&call, Cached::Miss, status::miss(ask));
        let record = Arc::clone(&call.record);
        let on_whole = self.keeps(&call, ask);
        let flights_again = Arc::downgrade(&self.flights);
        let key = ask.key;
        let asking = Box::pin(inner.oneshot(call));
        let bound = usize::try_from(self.params.cache.bounds().entry).unwrap_or(usize::MAX);
        let number = fastrand::u64(..);
        let on_over = Box::new(move || {
            if let Some(flights) = flights_again.upgrade() {
                flights.forget(&key, number);
            }
        });
        let (flight, leader) = Flight::begin(asking, bound, number, on_whole, on_over);
        record.share(leader.sharing());
        flights.insert(ask.key, flight);
        (Part::Lead(leader), None)
    }

    /// Returns what keeps the answer to a call when it is whole.
    fn keeps(self: &Arc<Self>, call: &Call, ask: &Ask) -> OnWhole {
        let desk = Arc::downgrade(self);
        let ask = *ask;
        let seen = call.again();
        Box::new(move |head, whole| {
            let Some(desk) = desk.upgrade() else {
                return;
            };
            desk.keep(&seen, &ask, head, whole);
        })
    }

    fn keep(&self, call: &Call, ask: &Ask, head: &Head, whole: Whole) {
        let answered = {
            let facts = call.record.facts();
            if facts.degraded {
                return;
            }
            let mut tries = facts.attempts.iter().rev();
            tries
                .find(|attempt| attempt.result == crate::call::Try::ANSWERED)
                .map(|attempt| (Arc::clone(&attempt.upstream), attempt.model.clone()))
        };
        let Some((upstream, served_model)) = answered else {
            return;
        };
        let is_primary = self
            .ways
            .is_primary(call, &upstream, served_model.as_deref());
        let body = match whole {
            Whole::Text(text) => Stored::Whole(text),
            Whole::Events(blocks) => Stored::Events(blocks.into()),
        };
        let (true, Some(usage)) = (is_primary, is_whole(&body, &call.endpoint)) else {
            return;
        };
        let (Some(model), Some((bytes, _))) = (&call.model, call.json()) else {
            return;
        };
        self.params.cache.put(
            ask.key,
            Entry {
                headers: kept(&head.headers),
                body,
                usage,
                served_model,
                tags: Tags {
                    key: Arc::clone(&call.caller.key),
                    team: call.caller.team.clone(),
                    model: Arc::clone(model),
                    endpoint: call.endpoint.label(),
                },
                shape: Shape::of(call, bytes, ask.scope, &*self.ways),
                stored: Instant::now(),
                ttl: ask.ttl,
            },
        );
    }
}

impl<E> Flights<E> {
    fn by_key(&self) -> MutexGuard<'_, FxHashMap<Key, Arc<Flight<E>>>> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, key: &Key, number: u64) {
        let mut flights = self.by_key();
        let is_it = flights
            .get(key)
            .is_some_and(|flight| flight.number() == number);
        let gone = is_it.then(|| flights.remove(key));
        drop(flights);
        // Whatever it still holds is dropped where nothing is locked.
        drop(gone);
    }
}

fn kept(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::with_capacity(KEPT_HEADERS.len() + 1);
    for name in KEPT_HEADERS {
        if let Some(value) = headers.get(&name) {
            kept.insert(name, value.clone());
        }
    }
    kept
}

/// Builds the reply of somebody who listens.
async fn read<E: Send + 'static>(
    mut listener: Listener<E>,
    headers: HeaderMap,
    head: &Head,
) -> Reply {
    if head.is_events {
        return Reply::events(StatusCode::OK, headers, Box::pin(listener));
    }
    // It is there already: the head of a text is known when all of it is.
    let text = std::future::poll_fn(|cx| listener.poll_text(cx)).await;
    Reply::full(StatusCode::OK, headers, text)
}

/// Builds the reply that an entry is.
fn replay(entry: &Entry) -> Reply {
    let mut headers = entry.headers.clone();
    headers.insert(header::AGE, HeaderValue::from(entry.age().as_secs()));
    match &entry.body {
        Stored::Whole(bytes) => Reply::full(StatusCode::OK, headers, bytes.clone()),
        Stored::Events(blocks) => {
            let body: BoxBody = Box::pin(Replay {
                blocks: Arc::clone(blocks),
                next: 0,
            });
            Reply::events(StatusCode::OK, headers, body)
        }
    }
}

/// A stream that was kept, as fast as it is read: many of its blocks at a time.
struct Replay {
    blocks: Arc<[Bytes]>,
    next: usize,
}

impl Body for Replay {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let rest = self.blocks.get(self.next..).unwrap_or_default();
        let mut size = 0;
        let fitting = rest.iter().take_while(|block| {
            size += block.len();
            size <= AT_ONCE
        });
        let count = fitting.count().max(1).min(rest.len());
        let joined = match &rest[..count] {
            [] => return Poll::Ready(None),
            [one] => one.clone(),
            several => {
                let size = several.iter().map(Bytes::len).sum();
                let mut joined = BytesMut::with_capacity(size);
                for block in several {
                    joined.extend_from_slice(block);
                }
                joined.freeze()
            }
        };
        self.next += count;
        Poll::Ready(Some(Ok(Frame::data(joined))))
    }

    fn is_end_stream(&self) -> bool {
        self.next >= self.blocks.len()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.blocks.get(self.next..).unwrap_or_default();
        SizeHint::with_exact(rest.iter().map(|block| block.len() as u64).sum())
    }
}
