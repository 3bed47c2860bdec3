//! Calls that go their way, and those that come along: how their answers begin.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use tower::Service;

use super::CacheError;
use super::desk::{Desk, Quest};
use super::flight::{Begun, Flight, Head, Listener, Patience, Plan};
use super::keeping::{Prepared, answered, kept};
use super::shared::{Share, Shared};
use crate::call::{Cached, Call, Record, Reply};
use crate::middleware::explain::Explain;

/// What a call begins with that leads.
#[derive(Clone)]
pub(super) struct Start {
    pub(super) quest: Quest,
    /// Which one it is of those with its keys.
    pub(super) number: u64,
    /// How often answers had been purged: what was asked for before the next time stays purged.
    pub(super) purges: u64,
    /// What it has from gateways that share.
    pub(super) share: Option<Share>,
    /// Whether its answer is kept anywhere, once it has ended.
    pub(super) has_answer: Arc<AtomicBool>,
}

impl<E: From<CacheError> + Explain + Send + 'static> Desk<E> {
    /// Begins to lead. Nothing is asked of the upstream before somebody listens. All calls wait for it meanwhile: what takes
    /// long is `prepared`.
    pub(super) fn begin<S>(
        self: &Arc<Self>,
        inner: S,
        call: Call,
        quest: &Quest,
        prepared: Prepared,
        purges: u64,
    ) -> Listener<E>
    where
        S: Service<Call, Response = Reply, Error = E> + Send + 'static,
        S::Future: Send,
    {
        quest.note(&call.record);
        let mut call = call;
        if let (Some(deadline), Some(linger)) = (&mut call.deadline, self.linger(quest)) {
            // Its client leaves then, and may come back for the answer.
            *deadline = deadline.checked_add(linger).unwrap_or(*deadline);
        }
        let record = Arc::clone(&call.record);
        let share = quest.ask.and(self.params().shared.as_ref());
        let start = Start {
            quest: *quest,
            number: self.flights().number(),
            purges,
            share: share.map(Shared::share),
            has_answer: Arc::default(),
        };
        let bound = self.params().cache.bounds().entry;
        let leader = Flight::begin(Plan {
            number: start.number,
            record: Arc::clone(&record),
            patience: self.patience(quest),
            bound: usize::try_from(bound).unwrap_or(usize::MAX),
            room: Arc::clone(self.params().cache.room()),
            on_whole: self.keeps(&call, &start, prepared),
            asking: self.asking(inner, call, quest, start.share.clone()),
            on_over: self.forgets(start),
        });
        record.share(leader.sharing());
        leader
    }

    /// Returns what forgets a call that nobody can join any more.
    fn forgets(&self, start: Start) -> Box<dyn Fn() + Send + Sync> {
        // Until then they hold the call, and it them.
        let flights = Arc::clone(self.flights());
        let retries = self.params().retries.clone();
        let Start {
            quest,
            number,
            share,
            has_answer,
            ..
        } = start;
        Box::new(move || {
            flights.forget(&quest.keys(), number, |[is_own, _]| {
                // Once another one has its place the name is that one's.
                if let (Some(identity), Some(retries), true) = (&quest.identity, &retries, is_own)
                    && let Some(name) = &identity.name
                {
                    let has_answer = has_answer.load(Ordering::Acquire);
                    let keep = has_answer.then_some(retries.window);
                    retries.store.ended(name, identity.call, keep);
                }
            });
            if let Some(share) = &share {
                share.end();
            }
        })
    }

    fn patience(&self, quest: &Quest) -> Patience {
        if quest.ask.is_some_and(|ask| ask.finish) {
            return Patience::Ever;
        }
        self.linger(quest).map_or(Patience::None, Patience::For)
    }

    /// Returns how long a call goes on when its client has left, where that is one which may ask again.
    fn linger(&self, quest: &Quest) -> Option<Duration> {
        let _ = quest.identity.filter(|identity| identity.may_ask_again)?;
        let linger = self.params().retries.as_ref()?.linger;
        (!linger.is_zero()).then_some(linger)
    }
}

/// Returns the answer that another call gets, where it begins.
pub(super) async fn joined<E: Send + 'static>(
    mut listener: Listener<E>,
    record: &Record,
) -> Option<Reply> {
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
    Some(read(listener, headers, &head).await)
}

/// Returns the leader's answer. `None`: all others have left, and so has the leader's client.
pub(super) async fn lead<E: Send + 'static>(mut listener: Listener<E>) -> Option<Result<Reply, E>> {
    match std::future::poll_fn(|cx| listener.poll_begun(cx)).await {
        Begun::Shared(head) => Some(Ok(read(listener, head.headers.clone(), &head).await)),
        Begun::Alone(reply) => Some(Ok(*reply)),
        Begun::Failed(error) => Some(Err(error)),
        Begun::Elsewhere => None,
    }
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
