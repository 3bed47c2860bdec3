//! Calls that go their way, and those that come along: how their answers begin.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use tower::Service;

use super::CacheError;
use super::desk::{Desk, Quest};
use super::flight::{Begun, Flight, Head, Listener, Patience};
use super::keeping::{Prepared, answered, kept};
use super::shared::{Share, Shared};
use crate::call::{Cached, Call, Record, Reply};
use crate::middleware::explain::Explain;

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
    ) -> (Arc<Flight<E>>, Listener<E>)
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
        let number = self.flights().number();
        let has_answer = Arc::new(AtomicBool::new(false));
        let share = quest.ask.and(self.params().shared.as_ref());
        let share = share.map(Shared::share);
        let times = (number, purges);
        let on_whole = self.keeps(
            &call,
            quest,
            prepared,
            times,
            share.clone(),
            Arc::clone(&has_answer),
        );
        let over = self.forgets(*quest, number, share.clone(), has_answer);
        let bound = usize::try_from(self.params().cache.bounds().entry).unwrap_or(usize::MAX);
        let (flight, leader) = Flight::begin(
            (self.asking(inner, call, quest, share), self.patience(quest)),
            (bound, self.params().cache.room()),
            (number, &record),
            on_whole,
            over,
        );
        record.share(leader.sharing());
        (flight, leader)
    }

    /// Returns what forgets a call that nobody can join any more.
    fn forgets(
        &self,
        quest: Quest,
        number: u64,
        share: Option<Share>,
        has_answer: Arc<AtomicBool>,
    ) -> Box<dyn Fn() + Send + Sync> {
        // Until then they hold the call, and it them.
        let flights = Arc::clone(self.flights());
        let retries = self.params().retries.clone();
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
