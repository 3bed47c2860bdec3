//! Who gets which answer: one that is kept, one that another call gets, or one of its own.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::time::timeout_at;
use tower::{Service, ServiceExt};

use super::control::Control;
use super::flight::{Flight, Listener};
use super::flights::{Aloft, Flights, Keys};
use super::identity::{Identity, asks_again};
use super::judge::{Ask, Verdict};
use super::leading::{joined, lead};
use super::lookup::{Found, LookedUp};
use super::replay::{replay, replay_stale};
use super::{CacheError, Params, Ways, status};
use crate::call::{Cached, Call, Record, Reply};
use crate::middleware::explain::Explain;
use crate::store::cache::Entry;

/// How often a call that joins another one in vain does so: then it goes alone.
const ROUNDS: usize = 2;

/// What the calls of one stack have in common.
pub(super) struct Desk<E> {
    params: Params,
    ways: Arc<dyn Ways>,
    flights: Arc<Flights<E>>,
}

/// What a call looks for, that has no answer yet.
#[derive(Clone, Copy)]
pub(super) struct Quest {
    /// What is looked up for it; `None`: its answer is nobody else's.
    pub(super) ask: Option<Ask>,
    /// Why it is not.
    pub(super) why: &'static str,
    /// Which call it is, should its client have made it before, or make it again.
    pub(super) identity: Option<Identity>,
    /// Whether it wants an answer that is there already, or none.
    pub(super) only_if_cached: bool,
}

/// What becomes of a call.
enum Part<S, E> {
    /// An answer is kept.
    Kept(Found, Call),
    /// None is, and no other one is wanted.
    Nothing(Call),
    /// It goes its way, and others may come along.
    Lead(Listener<E>),
    /// It comes along, and is made by itself should that come to nothing.
    Join(Listener<E>, HeaderValue, (S, Call)),
}

/// Notes how a call is answered.
fn note(record: &Record, cached: Cached, status: HeaderValue) {
    let mut facts = record.facts();
    facts.cached = cached;
    facts.cache_status = Some(status);
}

// === impl Quest ===

impl Quest {
    /// Notes that it goes its way.
    pub(super) fn note(&self, record: &Record) {
        match &self.ask {
            Some(ask) => note(record, Cached::Miss, status::miss(ask)),
            None => note(record, Cached::Bypass, status::bypass(self.why)),
        }
    }

    /// Returns which call its client says to have made before.
    fn again(&self) -> Option<&Identity> {
        self.identity
            .as_ref()
            .filter(|identity| identity.asks_again)
    }

    /// Returns what it may join: who wants a new answer does not get one that was asked for before, unless it was its own.
    fn joins(&self) -> Keys {
        let shared = self.ask.filter(|ask| !ask.control.no_cache);
        [
            self.again().map(|identity| identity.call),
            shared.map(|ask| ask.key),
        ]
    }

    /// Returns what it is found by.
    pub(super) fn keys(&self) -> Keys {
        [
            self.identity.map(|identity| identity.call),
            self.ask.map(|ask| ask.key),
        ]
    }
}

// === impl Desk ===

impl<E> Desk<E> {
    pub(super) fn new(params: Params, ways: Arc<dyn Ways>) -> Self {
        Self {
            params,
            ways,
            flights: Arc::new(Flights::new()),
        }
    }

    pub(super) fn params(&self) -> &Params {
        &self.params
    }

    pub(super) fn ways(&self) -> &dyn Ways {
        &*self.ways
    }

    pub(super) fn flights(&self) -> &Arc<Flights<E>> {
        &self.flights
    }

    /// Returns whether what is answered here counts as tokens all the same.
    pub(super) fn counts_saved(&self) -> bool {
        self.params.counts_saved
    }

    /// Says what is done about a call, and finds its answer where that is there already.
    ///
    /// # Errors
    /// [`CacheError::KeyReused`], [`CacheError::KeyAmbiguous`]
    pub(super) fn look_up(&self, call: &Call) -> Result<LookedUp, CacheError> {
        let most = self.params.cache.bounds().entry;
        let (ask, why) = match self.params.rules.judge(call, most, &*self.ways) {
            Verdict::Look(ask) => (Some(ask), ""),
            Verdict::Bypass(why) => (None, why),
        };
        let mut quest = Quest {
            ask,
            why,
            identity: None,
            only_if_cached: Control::of(&call.head.headers).only_if_cached,
        };
        // Which call it is, is only asked where it may have been made before, or will be made now.
        let asks_again = asks_again(&call.head.headers);
        if asks_again {
            quest.identity = self.checked_identity(call)?;
        }
        let found = self.find(&quest);
        if found.is_none() && !asks_again {
            quest.identity = self.checked_identity(call)?;
        }
        Ok(LookedUp { quest, found })
    }

    /// Says which call it is.
    ///
    /// # Errors
    /// [`CacheError::KeyReused`], [`CacheError::KeyAmbiguous`]
    fn checked_identity(&self, call: &Call) -> Result<Option<Identity>, CacheError> {
        let identity = self.params.identify(call, &*self.ways)?;
        if let Some((identity, retries)) = identity.as_ref().zip(self.params.retries.as_ref())
            && let Some(name) = &identity.name
        {
            retries.store.check(name, &identity.call)?;
        }
        Ok(identity)
    }

    /// Returns what is kept for a call and young enough for it.
    fn find(&self, quest: &Quest) -> Option<Found> {
        let retries = self.params.retries.as_ref();
        let own = quest.again().zip(retries);
        if let Some(entry) = own.and_then(|(identity, retries)| retries.store.get(&identity.call)) {
            return Some(Found {
                entry,
                is_its_own: true,
                paced: false,
            });
        }
        let ask = quest.ask.as_ref().filter(|ask| !ask.control.no_cache)?;
        let entry = self.params.cache.get(&ask.key)?;
        ask.takes(&entry).then_some(Found {
            entry,
            is_its_own: false,
            paced: ask.paced,
        })
    }

    /// Returns what is kept for a call though its time is over, and for how long it is.
    fn find_stale(&self, ask: &Ask) -> Option<(Arc<Entry>, Duration)> {
        let entry = self.params.cache.get_even_stale(&ask.key)?;
        let since = entry.age().saturating_sub(entry.ttl.min(ask.oldest));
        (since <= ask.stale).then_some((entry, since))
    }
}

impl<E: From<CacheError> + Explain + Send + 'static> Desk<E> {
    /// Answers a call for which nothing was found.
    pub(super) async fn answer<S>(
        self: &Arc<Self>,
        inner: S,
        call: Call,
        quest: Quest,
    ) -> Result<Reply, E>
    where
        S: Service<Call, Response = Reply, Error = E> + Send + 'static,
        S::Future: Send,
    {
        if quest.ask.is_none() && quest.identity.is_none() {
            quest.note(&call.record);
            return match quest.only_if_cached {
                true => Err(CacheError::NotKept.into()),
                false => inner.oneshot(call).await,
            };
        }
        self.look(inner, call, &quest).await
    }

    async fn look<S>(self: &Arc<Self>, inner: S, call: Call, quest: &Quest) -> Result<Reply, E>
    where
        S: Service<Call, Response = Reply, Error = E> + Send + 'static,
        S::Future: Send,
    {
        let (mut inner, mut call) = (inner, call);
        let record = Arc::clone(&call.record);
        let ask = quest.ask.filter(|ask| !ask.stale.is_zero());
        let fallback = ask.map(|ask| (ask, self.ways.label(&call)));
        for _ in 0..ROUNDS {
            let (listener, status) = match self.enter(inner, call, quest)? {
                Part::Kept(found, call) => return Ok(self.hit(&found, &call)),
                Part::Nothing(call) => {
                    if let Some((shared, entry)) = self.find_shared(quest).await {
                        return Ok(self.shared_hit(shared, &entry, &call, quest));
                    }
                    quest.note(&call.record);
                    return Err(CacheError::NotKept.into());
                }
                Part::Lead(listener) => {
                    return match lead(listener).await {
                        // Nobody hears of it.
                        None => Err(CacheError::NotKept.into()),
                        Some(result) => self.or_stale(result, fallback, &record),
                    };
                }
                Part::Join(listener, status, again) => {
                    (inner, call) = again;
                    (listener, status)
                }
            };
            // Whoever leaves now has joined, too.
            note(&record, Cached::Joined, status);
            let route = self.ways.label(&call);
            {
                let mut facts = record.facts();
                facts.route = route;
                facts.waited_for_others = true;
                facts.counts_saved = self.params.counts_saved;
            }
            let joined = joined(listener, &record);
            let joined = match call.deadline {
                Some(deadline) => timeout_at(deadline, joined).await,
                None => Ok(joined.await),
            };
            match joined {
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) => {}
                Err(_) => {
                    let late = Err(CacheError::TooLate.into());
                    return self.or_stale(late, fallback, &record);
                }
            }
            // The leader is told why; the others ask for themselves, once more one for all.
            quest.note(&record);
        }
        let result = inner.oneshot(call).await;
        self.or_stale(result, fallback, &record)
    }

    /// Notes the `Idempotency-Key` of a call that is answered by what others have paid for: it stands for this call from now on.
    ///
    /// # Errors
    /// [`CacheError::KeyReused`]
    pub(super) fn note_name(&self, quest: &Quest, found: &Found) -> Result<(), CacheError> {
        let known = quest.identity.zip(self.params.retries.as_ref());
        if let Some((identity, retries)) = known
            && let (Some(name), false) = (identity.name, found.is_its_own)
        {
            retries.store.claim(name, identity.call)?;
            let keep = Some(retries.window);
            retries.store.ended(&name, identity.call, keep);
        }
        Ok(())
    }

    /// Answers a call by what is kept for it.
    pub(super) fn hit(&self, found: &Found, call: &Call) -> Reply {
        let entry = &*found.entry;
        let left = entry.fresh_for();
        let status = match found.is_its_own {
            true => status::hit_again(left),
            false => {
                self.params.cache.note_hit();
                status::hit(left)
            }
        };
        self.note_kept(&call.record, Cached::Hit, status, entry);
        call.record.facts().route = self.ways.label(call);
        replay(entry, found.paced)
    }

    /// Returns what is kept in the place of a failure (RFC 5861, section 4), where its time is over for no longer than the
    /// call takes it.
    fn or_stale(
        &self,
        result: Result<Reply, E>,
        fallback: Option<(Ask, Option<Arc<str>>)>,
        record: &Record,
    ) -> Result<Reply, E> {
        let Some((ask, route)) = fallback else {
            return result;
        };
        let status = match &result {
            Ok(reply) => reply.status,
            Err(error) => error.explain().status,
        };
        if !matches!(status.as_u16(), 500 | 502 | 503 | 504) {
            return result;
        }
        let Some((entry, since)) = self.find_stale(&ask) else {
            return result;
        };
        self.note_kept(record, Cached::Stale, status::stale(since), &entry);
        record.facts().route = route;
        Ok(replay_stale(&entry, ask.paced))
    }

    pub(super) fn note_kept(
        &self,
        record: &Record,
        cached: Cached,
        status: HeaderValue,
        entry: &Entry,
    ) {
        let mut facts = record.facts();
        facts.cached = cached;
        facts.cache_status = Some(status);
        facts.counts_saved = self.params.counts_saved;
        facts.kept_usage = entry.usage;
        facts.served_model.clone_from(&entry.served_model);
    }

    /// Finds what is kept, joins the call that is under way, or leads one.
    fn enter<S>(
        self: &Arc<Self>,
        inner: S,
        call: Call,
        quest: &Quest,
    ) -> Result<Part<S, E>, CacheError>
    where
        S: Service<Call, Response = Reply, Error = E> + Send + 'static,
        S::Future: Send,
    {
        let joins = quest.joins();
        let mut prepared = None;
        loop {
            if let Some(found) = self.find(quest) {
                return Ok(Part::Kept(found, call));
            }
            let purges = self.params.cache.purges();
            let known = joins.each_ref().map(|key| self.flights.get(key.as_ref()));
            let [own, shared] = &known;
            // What was asked for before a purge nobody gets who asks after it.
            let join = |known: &Option<Aloft<E>>| {
                let aloft = known.as_ref().filter(|aloft| aloft.purges == purges)?;
                Flight::join(&aloft.flight)
            };
            if let Some(listener) = join(own) {
                let status = status::joined_again(quest.ask.as_ref());
                return Ok(Part::Join(listener, status, (inner, call)));
            }
            if quest.only_if_cached {
                return Ok(Part::Nothing(call));
            }
            if let Some(listener) = join(shared) {
                return Ok(Part::Join(listener, status::joined(), (inner, call)));
            }
            let known = known.map(|aloft| aloft.map(|aloft| aloft.flight.number()));
            // It is likely to lead. Nobody waits for what it needs for that.
            let ready = prepared
                .take()
                .unwrap_or_else(|| self.prepare(&call, quest));
            let flights = self.flights.lock();
            // Somebody may have begun, or even ended, in between.
            let current = joins.each_ref().map(|key| flights.number(key.as_ref()));
            let is_purged = self.params.cache.purges() != purges;
            if current != known || is_purged || self.find(quest).is_some() {
                prepared = Some(ready);
                continue;
            }
            if let Some((identity, retries)) = quest.identity.zip(self.params.retries.as_ref())
                && let Some(name) = identity.name
            {
                retries.store.claim(name, identity.call)?;
            }
            let leader = self.begin(inner, call, quest, ready, purges);
            let flight = Arc::clone(leader.flight());
            flights.insert(&quest.keys(), &Aloft { flight, purges });
            return Ok(Part::Lead(leader));
        }
    }
}
