//! Calls that go their way, and those that come along: how their answers begin.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderMap, StatusCode};
use tower::{Service, ServiceExt};

use super::CacheError;
use super::desk::{Desk, Quest};
use super::flight::{Begun, Flight, Head, Listener, Patience};
use super::keeping::{answered, kept};
use crate::call::{Call, Record, Reply};
use crate::middleware::explain::Explain;

impl<E: From<CacheError> + Explain + Send + 'static> Desk<E> {
    /// Begins to lead. Nothing is asked of the upstream before somebody listens.
    pub(super) fn begin<S>(
        self: &Arc<Self>,
        inner: S,
        call: Call,
        quest: &Quest,
    ) -> (Arc<Flight<E>>, Listener<E>)
    where
        S: Service<Call, Response = Reply, Error = E> + Send + 'static,
        S::Future: Send,
    {
        quest.note(&call.record);
        let record = Arc::clone(&call.record);
        let number = self.flights().number();
        let has_answer = Arc::new(AtomicBool::new(false));
        let on_whole = self.keeps(&call, quest, number, Arc::clone(&has_answer));
        let bound = usize::try_from(self.params().cache.bounds().entry).unwrap_or(usize::MAX);
        let (flight, leader) = Flight::begin(
            (Box::pin(inner.oneshot(call)), self.patience(quest)),
            (bound, &self.flights().room),
            (number, &record),
            on_whole,
            self.forgets(*quest, number, has_answer),
        );
        record.share(leader.sharing());
        (flight, leader)
    }

    /// Returns what forgets a call that nobody can join any more.
    fn forgets(
        &self,
        quest: Quest,
        number: u64,
        has_answer: Arc<AtomicBool>,
    ) -> Box<dyn Fn() + Send + Sync> {
        let flights = Arc::downgrade(self.flights());
        let retries = self.params().retries.clone();
        Box::new(move || {
            if let Some(flights) = flights.upgrade() {
                flights.forget(&quest.keys(), number);
            }
            if let (Some(identity), Some(retries)) = (&quest.identity, &retries)
                && let Some(name) = &identity.name
            {
                let has_answer = has_answer.load(Ordering::Acquire);
                let keep = has_answer.then_some(retries.window);
                retries.store.ended(name, identity.call, keep);
            }
        })
    }

    fn patience(&self, quest: &Quest) -> Patience {
        if quest.ask.is_some_and(|ask| ask.finish) {
            return Patience::Ever;
        }
        let asks_again = quest.identity.filter(|identity| identity.may_ask_again);
        match asks_again.zip(self.params().retries.as_ref()) {
            Some((_, retries)) if !retries.linger.is_zero() => Patience::For(retries.linger),
            _ => Patience::None,
        }
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
    let headers = kept(&head.headers);
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
