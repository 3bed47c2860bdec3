//! Who gets which answer: one that is kept, one that another call gets, or one of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use rustc_hash::FxHashMap;
use tower::{Service, ServiceExt};

use super::flight::{Begun, Flight, Head, Listener, OnWhole, Room, Whole};
use super::judge::{Ask, Verdict, is_whole};
use super::replay::replay;
use super::shape::Shape;
use super::shared::Share;
use super::{CacheError, Params, Shared, Ways, status};
use crate::call::{Cached, Call, Caller, Facts, Record, Reply, Try};
use crate::openai::endpoint::Endpoint;
use crate::store::cache::{Entry, Key, Stored, Tags};

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

/// What the calls of one stack have in common.
pub(super) struct Desk<E> {
    pub(super) params: Params,
    pub(super) ways: Arc<dyn Ways>,
    flights: Arc<Flights<E>>,
}

/// The calls that can be joined, by their keys: as many as there are calls under way.
struct Flights<E> {
    by_key: Mutex<FxHashMap<Key, Aloft<E>>>,
    next: AtomicU64,
    room: Arc<Room>,
}

/// A call under way.
struct Aloft<E> {
    flight: Arc<Flight<E>>,
    /// How often answers had been purged when it began: who asks after the next purge does not join it.
    purges: u64,
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

/// Notes how a call is answered.
fn note(call: &Call, cached: Cached, status: HeaderValue) {
    let mut facts = call.record.facts();
    facts.cached = cached;
    facts.cache_status = Some(status);
}

// === impl Desk ===

impl<E> Desk<E> {
    pub(super) fn new(params: Params, ways: Arc<dyn Ways>) -> Self {
        // What is under way and what is kept have as much room as each other.
        let room = usize::try_from(params.cache.bounds().bytes).unwrap_or(usize::MAX);
        let flights = Flights {
            by_key: Mutex::default(),
            next: AtomicU64::new(0),
            room: Arc::new(Room::new(room)),
        };
        Self {
            params,
            ways,
            flights: Arc::new(flights),
        }
    }

    /// Says what is done about a call.
    pub(super) fn judge(&self, call: &Call) -> Verdict {
        let most = self.params.cache.bounds().entry;
        self.params.rules.judge(call, most, &*self.ways)
    }
}

impl<E: From<CacheError> + Send + 'static> Desk<E> {
    /// Answers a call as was judged.
    pub(super) async fn answer<S>(
        self: &Arc<Self>,
        inner: S,
        call: Call,
        verdict: Verdict,
    ) -> Result<Reply, E>
    where
        S: Service<Call, Response = Reply, Error = E> + Send + 'static,
        S::Future: Send,
    {
        match verdict {
            Verdict::Bypass(why) => {
                note(&call, Cached::Bypass, status::bypass(why));
                inner.oneshot(call).await
            }
            Verdict::Look(ask) => self.look(inner, call, ask).await,
        }
    }

    async fn look<S>(self: &Arc<Self>, inner: S, call: Call, ask: Ask) -> Result<Reply, E>
    where
        S: Service<Call, Response = Reply, Error = E> + Send + 'static,
        S::Future: Send,
    {
        let (mut inner, mut call) = (inner, call);
        for _ in 0..ROUNDS {
            let listener = match self.enter(inner, call, &ask) {
                Part::Kept(entry, call) => return Ok(self.hit(&entry, &call)),
                Part::Nothing(call) => {
                    if let Some(shared) = &self.params.shared
                        && !ask.control.no_cache
                        && let Some(entry) = shared.find(&ask).await
                    {
                        return Ok(self.shared_hit(shared, &entry, &call));
                    }
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
        self.params.cache.note_hit();
        self.note_hit(call, entry, status::hit(entry.fresh_for()));
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
            let purges = self.params.cache.purges();
            let known = self.flights.known(&ask.key);
            // Who wants a new answer does not get one that was asked for before; nor does anybody one that was purged.
            let joined = known
                .as_ref()
                .filter(|known| !ask.control.no_cache && known.purges == purges);
            if let Some(listener) = joined.and_then(|known| known.flight.join()) {
                return Part::Join(listener, (inner, call));
            }
            let known = known.map(|known| known.flight.number());
            let mut flights = self.flights.by_key();
            // Somebody may have begun, or even ended, in between.
            let current = flights.get(&ask.key).map(|known| known.flight.number());
            let has_passed = current != known || self.find(ask).is_some();
            if has_passed && !ask.control.no_cache {
                continue;
            }
            let (flight, leader) = self.begin(inner, call, ask, purges);
            let gone = flights.insert(ask.key, Aloft { flight, purges });
            drop(flights);
            drop(gone);
            return Part::Lead(leader);
        }
    }

    /// Begins to lead. Nothing is asked of the upstream before somebody listens.
    fn begin<S>(
        self: &Arc<Self>,
        inner: S,
        call: Call,
        ask: &Ask,
        purges: u64,
    ) -> (Arc<Flight<E>>, Listener<E>)
    where
        S: Service<Call, Response = Reply, Error = E> + Send + 'static,
        S::Future: Send,
    {
        note(&call, Cached::Miss, status::miss(ask));
        let record = Arc::clone(&call.record);
        let (key, number) = (ask.key, self.flights.number());
        let share = self.params.shared.as_ref().map(Shared::share);
        let on_whole = self.keeps(&call, ask, (number, purges), share.clone());
        let flights = Arc::downgrade(&self.flights);
        let ended = share.clone();
        let on_over = Box::new(move || {
            if let Some(flights) = flights.upgrade() {
                flights.forget(&key, number);
            }
            if let Some(share) = &ended {
                share.end();
            }
        });
        let bound = usize::try_from(self.params.cache.bounds().entry).unwrap_or(usize::MAX);
        let (flight, leader) = Flight::begin(
            self.asking(inner, call, ask, share),
            (bound, &self.flights.room),
            (number, &record),
            on_whole,
            on_over,
        );
        record.share(leader.sharing());
        (flight, leader)
    }

    /// Returns what keeps the answer to a call when it is whole.
    fn keeps(
        self: &Arc<Self>,
        call: &Call,
        ask: &Ask,
        (number, purges): (u64, u64),
        share: Option<Share>,
    ) -> OnWhole {
        let desk = Arc::downgrade(self);
        let small = call.json().filter(|(bytes, _)| bytes.len() <= MOST_SHAPED);
        let shape = small.map(|(bytes, _)| Shape::of(call, bytes, ask.scope, &*self.ways));
        let seen = Seen {
            ask: *ask,
            number,
            purges,
            share,
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
        // What was asked for before another one like it is older than that one's.
        let is_current = self.flights.is_current(&seen.ask.key, seen.number);
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
        let (key, entry) = (seen.ask.key, Arc::new(entry));
        let cache = &self.params.cache;
        let is_kept = cache.put_unless_purged(key, Arc::clone(&entry), seen.purges);
        if let Some(share) = seen.share.filter(|_| is_kept) {
            share.put(key, entry);
        }
    }
}

/// What was known of a call when it began.
struct Seen {
    ask: Ask,
    number: u64,
    /// How often answers had been purged: what was asked for before the next time stays purged.
    purges: u64,
    share: Option<Share>,
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
    let (degraded, served_model, hit) = {
        let facts = listener.record().facts();
        let answered = answered(&facts).and_then(|(_, model)| model);
        // The leader has found it with other gateways, and so have all who have joined.
        let hit = facts.cache_status.clone();
        let hit = hit.filter(|_| facts.cached == Cached::Hit);
        let known_as = facts.served_model.clone().filter(|_| hit.is_some());
        (facts.degraded, answered.or(known_as), hit)
    };
    let mut headers = kept(&head.headers);
    {
        let mut facts = record.facts();
        facts.degraded = degraded;
        facts.served_model = served_model;
        if hit.is_some() {
            facts.cached = Cached::Hit;
            facts.cache_status = hit;
            let age = head.headers.get(header::AGE);
            headers.extend(age.map(|age| (header::AGE, age.clone())));
        }
    }
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

    fn known(&self, key: &Key) -> Option<Aloft<E>> {
        let flights = self.by_key();
        flights.get(key).map(|known| Aloft {
            flight: Arc::clone(&known.flight),
            purges: known.purges,
        })
    }

    fn is_current(&self, key: &Key, number: u64) -> bool {
        let flights = self.by_key();
        flights
            .get(key)
            .is_some_and(|known| known.flight.number() == number)
    }

    fn by_key(&self) -> MutexGuard<'_, FxHashMap<Key, Aloft<E>>> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, key: &Key, number: u64) {
        let mut flights = self.by_key();
        let is_it = flights
            .get(key)
            .is_some_and(|known| known.flight.number() == number);
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
