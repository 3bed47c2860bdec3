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
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use rustc_hash::FxHashMap;
use tower::{Layer, Service, ServiceExt};

use self::flight::{Begun, Flight, Head, Listener, OnWhole, Room, Whole};
use self::judge::{Ask, Verdict, is_whole};
pub use self::judge::{Rules, Scope, Terms, Ways, When};
pub use self::preview::{Preview, preview};
use self::shape::Shape;
use crate::call::{BoxBody, Cached, Call, Caller, Facts, Record, Reply, StreamError, Try};
use crate::openai::endpoint::Endpoint;
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

/// Tells that an answer is less than was wished for: those who join one are told, too.
const DEGRADED: HeaderName = HeaderName::from_static("x-weir-degraded");

/// How often a call that joins another one in vain does so: then it goes alone.
const ROUNDS: usize = 2;

/// Of larger bodies it is not kept what is in them, for comparisons: that would take long.
const MOST_SHAPED: usize = 64 << 10;

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
    next: AtomicU64,
    room: Arc<Room>,
}

/// What becomes of a call.
enum Part<S, E> {
    /// An answer is kept.
    Kept(Arc<Entry>, Call),
    /// None is, and no other one is wanted.
    Nothing(Call),
    /// It goes its way, and others may come along.
    Lead(Listener<E>),
    /// It comes along, and is made by itself should that come to nothing.
    Join(Listener<E>, (S, Call)),
}

// === impl CacheLayer ===

impl<E> CacheLayer<E> {
    /// Answers by these rules, and knows by `ways` where calls go.
    pub fn new(params: Params, ways: Arc<dyn Ways>) -> Self {
        // What is under way and what is kept have as much room as each other.
        let room = usize::try_from(params.cache.bounds().bytes).unwrap_or(usize::MAX);
        let flights = Flights {
            by_key: Mutex::default(),
            next: AtomicU64::new(0),
            room: Arc::new(Room::new(room)),
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
        let (mut inner, mut call) = (inner, call);
        for _ in 0..ROUNDS {
            let listener = match self.enter(inner, call, &ask) {
                Part::Kept(entry, call) => return Ok(self.hit(&entry, &call)),
                Part::Nothing(call) => {
                    note(&call, Cached::Miss, status::miss(&ask));
                    return Err(CacheError::NotKept.into());
                }
                Part::Lead(listener) => return lead(listener).await,
                Part::Join(listener, again) => {
                    (inner, call) = again;
                    listener
                }
            };
            // Whoever leaves now has joined, too.
            note(&call, Cached::Joined, status::joined());
            call.record.facts().route = self.ways.label(&call);
            let record = Arc::clone(&call.record);
            if let Some(reply) = joined(listener, &record).await {
                return Ok(reply);
            }
            // The leader is told why; the others ask for themselves, once more one for all.
            note(&call, Cached::Miss, status::miss(&ask));
        }
        inner.oneshot(call).await
    }

    fn hit(&self, entry: &Entry, call: &Call) -> Reply {
        note(call, Cached::Hit, status::hit(entry.fresh_for()));
        let mut facts = call.record.facts();
        facts.route = self.ways.label(call);
        facts.served_model.clone_from(&entry.served_model);
        drop(facts);
        replay(entry)
    }

    /// Returns what is kept for a call and young enough for it.
    fn find(&self, ask: &Ask) -> Option<Arc<Entry>> {
        if ask.control.no_cache {
            return None;
        }
        let entry = self.params.cache.get(&ask.key)?;
        (entry.age() <= ask.oldest).then_some(entry)
    }

    /// Finds what is kept, joins the call that is under way, or leads one.
    fn enter<S>(self: &Arc<Self>, inner: S, call: Call, ask: &Ask) -> Part<S, E>
    where
        S: Service<Call, Response = Reply, Error = E> + Send + 'static,
        S::Future: Send,
    {
        loop {
            if let Some(entry) = self.find(ask) {
                return Part::Kept(entry, call);
            }
            if ask.control.only_if_cached {
                return Part::Nothing(call);
            }
            let known = self.flights.by_key().get(&ask.key).cloned();
            // Who wants a new answer does not get one that was asked for before.
            let joined = known.as_ref().filter(|_| !ask.control.no_cache);
            if let Some(listener) = joined.and_then(|flight| flight.join()) {
                return Part::Join(listener, (inner, call));
            }
            let known = known.map(|flight| flight.number());
            let mut flights = self.flights.by_key();
            // Somebody may have begun, or even ended, in between.
            let current = flights.get(&ask.key).map(|flight| flight.number());
            let has_passed = current != known || self.find(ask).is_some();
            if has_passed && !ask.control.no_cache {
                continue;
            }
            let (flight, leader) = self.begin(inner, call, ask);
            let gone = flights.insert(ask.key, flight);
            drop(flights);
            drop(gone);
            return Part::Lead(leader);
        }
    }

    /// Begins to lead. Nothing is asked of the upstream before somebody listens.
    fn begin<S>(self: &Arc<Self>, inner: S, call: Call, ask: &Ask) -> (Arc<Flight<E>>, Listener<E>)
    where
        S: Service<Call, Response = Reply, Error = E> + Send + 'static,
        S::Future: Send,
    {
        note(&call, Cached::Miss, status::miss(ask));
        let record = Arc::clone(&call.record);
        let (key, number) = (ask.key, self.flights.number());
        let on_whole = self.keeps(&call, ask, number);
        let flights = Arc::downgrade(&self.flights);
        let on_over = Box::new(move || {
            if let Some(flights) = flights.upgrade() {
                flights.forget(&key, number);
            }
        });
        let bound = usize::try_from(self.params.cache.bounds().entry).unwrap_or(usize::MAX);
        let (flight, leader) = Flight::begin(
            Box::pin(inner.oneshot(call)),
            (bound, &self.flights.room),
            (number, &record),
            on_whole,
            on_over,
        );
        record.share(leader.sharing());
        (flight, leader)
    }

    /// Returns what keeps the answer to a call when it is whole.
    fn keeps(self: &Arc<Self>, call: &Call, ask: &Ask, number: u64) -> OnWhole {
        let desk = Arc::downgrade(self);
        let small = call.json().filter(|(bytes, _)| bytes.len() <= MOST_SHAPED);
        let shape = small.map(|(bytes, _)| Shape::of(call, bytes, ask.scope, &*self.ways));
        let seen = Seen {
            ask: *ask,
            number,
            purges: self.params.cache.purges(),
            primaries: self.ways.primaries(call),
            shape: shape.unwrap_or_default(),
            endpoint: call.endpoint.clone(),
            model: call.model.clone().unwrap_or_default(),
            caller: Arc::clone(&call.caller),
            record: Arc::clone(&call.record),
        };
        Box::new(move |head, whole| {
            if let Some(desk) = desk.upgrade() {
                desk.keep(seen, head, &whole);
            }
        })
    }

    fn keep(&self, seen: Seen, head: &Head, whole: &Whole) {
        let (degraded, answered) = {
            let facts = seen.record.facts();
            (facts.degraded, answered(&facts))
        };
        let Some((upstream, served_model)) = answered.filter(|_| !degraded) else {
            return;
        };
        let name = served_model.as_ref().unwrap_or(&seen.model);
        let mut primaries = seen.primaries.iter();
        let is_primary = primaries.any(|(other, model)| *other == upstream && model == name);
        // What was asked for before another one like it is older than that one's; what was purged stays purged.
        let is_current = self.flights.is_current(&seen.ask.key, seen.number)
            && self.params.cache.purges() == seen.purges;
        let (true, Some(usage)) = (is_primary && is_current, is_whole(whole, &seen.endpoint))
        else {
            return;
        };
        let entry = Entry {
            headers: kept(&head.headers),
            body: match whole {
                Whole::Text(text) => Stored::text(text),
                Whole::Events(blocks) => Stored::events(blocks),
            },
            usage,
            served_model,
            tags: Tags {
                key: Arc::clone(&seen.caller.key),
                team: seen.caller.team.clone(),
                model: seen.model,
                endpoint: seen.endpoint.label(),
            },
            shape: seen.shape,
            stored: Instant::now(),
            ttl: seen.ask.ttl,
        };
        self.params.cache.put(seen.ask.key, entry);
    }
}

/// What was known of a call when it began.
struct Seen {
    ask: Ask,
    number: u64,
    purges: u64,
    primaries: Vec<(Arc<str>, Arc<str>)>,
    shape: Shape,
    endpoint: Endpoint,
    model: Arc<str>,
    caller: Arc<Caller>,
    record: Arc<Record>,
}

/// Returns who has answered a call, and what it was asked for there.
fn answered(facts: &Facts) -> Option<(Arc<str>, Option<Arc<str>>)> {
    let mut tries = facts.attempts.iter().rev();
    let answered = tries.find(|attempt| attempt.result == Try::ANSWERED)?;
    Some((Arc::clone(&answered.upstream), answered.model.clone()))
}

/// Returns the answer that another call gets, where it begins.
async fn joined<E: Send + 'static>(mut listener: Listener<E>, record: &Record) -> Option<Reply> {
    let begun = std::future::poll_fn(|cx| listener.poll_begun(cx)).await;
    let Begun::Shared(head) = begun else {
        return None;
    };
    let (degraded, served_model) = {
        let facts = listener.record().facts();
        (
            facts.degraded,
            answered(&facts).and_then(|(_, model)| model),
        )
    };
    {
        let mut facts = record.facts();
        facts.degraded = degraded;
        facts.served_model = served_model;
    }
    let mut headers = kept(&head.headers);
    if let Some(value) = head.headers.get(&DEGRADED) {
        headers.insert(DEGRADED, value.clone());
    }
    Some(read(listener, headers, &head).await)
}

async fn lead<E: From<CacheError> + Send + 'static>(mut listener: Listener<E>) -> Result<Reply, E> {
    match std::future::poll_fn(|cx| listener.poll_begun(cx)).await {
        Begun::Shared(head) => Ok(read(listener, head.headers.clone(), &head).await),
        Begun::Alone(reply) => Ok(*reply),
        Begun::Failed(error) => Err(error),
        // All others have left, and so has the leader's client: nobody hears of it.
        Begun::Elsewhere => Err(CacheError::NotKept.into()),
    }
}

impl<E> Flights<E> {
    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn is_current(&self, key: &Key, number: u64) -> bool {
        let flights = self.by_key();
        flights
            .get(key)
            .is_some_and(|flight| flight.number() == number)
    }

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
            // A copy: the value holds on to the room that the head was read into.
            if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                kept.insert(name, value);
            }
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
        Stored::Events(events, ends) => {
            let body: BoxBody = Box::pin(Replay {
                events: events.clone(),
                ends: Arc::clone(ends),
                next: 0,
            });
            Reply::events(StatusCode::OK, headers, body)
        }
    }
}

/// A stream that was kept, as fast as it is read: many of its blocks at a time.
struct Replay {
    /// What is left.
    events: Bytes,
    ends: Arc<[usize]>,
    /// The number of the next block.
    next: usize,
}

impl Body for Replay {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let start = self.next.checked_sub(1).map_or(0, |last| self.ends[last]);
        let rest = self.ends.get(self.next..).unwrap_or_default();
        // The first one in any case.
        let fitting = rest.iter().take_while(|end| **end - start <= AT_ONCE);
        let count = fitting.count().max(1).min(rest.len());
        let Some(end) = count.checked_sub(1).map(|last| rest[last]) else {
            return Poll::Ready(None);
        };
        self.next += count;
        Poll::Ready(Some(Ok(Frame::data(self.events.split_to(end - start)))))
    }

    fn is_end_stream(&self) -> bool {
        self.next >= self.ends.len()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.events.len() as u64)
    }
}
