//! Writes down who was refused, and why: a call of a known key that was turned away before it came as far as accounting
//! (by a limit, a budget, an allow-list, or for what is wrong with it) is one row of the ledger, too.
//!
//! Nothing was spent, so nothing waits for such a row, and none is worth much: a client that is refused a thousand times in
//! a second has the first of them written down, and the rest counted. Whoever shows no key has no rows at all.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::explain::Explain;
use crate::call::{Record, Routed};
use crate::openai::endpoint::Endpoint;
use crate::store::ledger::{Entry, Intent, Ledger, Status};

/// How many refusals of a key are written down in a [`WINDOW`].
const WRITTEN: u32 = 60;
/// How long one of the windows is.
const WINDOW: Duration = Duration::from_secs(60);
/// Keys whose windows are remembered. There are seldom more.
const REMEMBERED: usize = 65_536;

/// Builds [`Refusals`].
#[derive(Clone, Debug)]
pub struct RefusalsLayer {
    clerk: Arc<Clerk>,
}

/// The service of this layer.
#[derive(Clone, Debug)]
pub struct Refusals<S> {
    inner: S,
    clerk: Arc<Clerk>,
}

#[derive(Debug)]
struct Clerk {
    ledger: Ledger,
    windows: Mutex<HashMap<Arc<str>, Window>>,
}

/// How many refusals of a key were written down since when.
#[derive(Clone, Copy, Debug)]
struct Window {
    began: Instant,
    written: u32,
}

// === impl RefusalsLayer ===

impl RefusalsLayer {
    /// Writes to this ledger.
    pub fn new(ledger: Ledger) -> Self {
        Self {
            clerk: Arc::new(Clerk {
                ledger,
                windows: Mutex::default(),
            }),
        }
    }
}

impl<S> Layer<S> for RefusalsLayer {
    type Service = Refusals<S>;

    fn layer(&self, inner: S) -> Refusals<S> {
        Refusals {
            inner,
            clerk: Arc::clone(&self.clerk),
        }
    }
}

impl<S, B> Service<Routed<B>> for Refusals<S>
where
    S: Service<Routed<B>>,
    S::Error: Explain,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Routed<B>) -> Self::Future {
        let endpoint = request.target.endpoint.clone();
        let asked = Asked {
            record: Arc::clone(&request.record),
            path: match endpoint {
                Endpoint::PassThrough => request.parts.uri.path_and_query().cloned(),
                _ => None,
            },
            endpoint,
        };
        ResponseFuture {
            inner: self.inner.call(request),
            asked,
            clerk: Arc::clone(&self.clerk),
        }
    }
}

pin_project! {
    /// The future of [`Refusals`].
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        asked: Asked,
        clerk: Arc<Clerk>,
    }
}

impl<F, T, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Explain,
{
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        if let Err(error) = &result {
            this.clerk.note(this.asked, error);
        }
        Poll::Ready(result)
    }
}

/// What was asked for.
struct Asked {
    record: Arc<Record>,
    endpoint: Endpoint,
    /// Where it passes through.
    path: Option<PathAndQuery>,
}

impl Clerk {
    fn note(&self, asked: &Asked, error: &impl Explain) {
        let record = &asked.record;
        let (key, team, model, stream, received) = {
            let facts = record.facts();
            let Some(key) = facts.key.clone().filter(|_| !facts.booked) else {
                return;
            };
            let (team, model) = (facts.team.clone(), facts.model.clone());
            (key, team, model, facts.stream, facts.received)
        };
        // A ledger that cannot be written is no reason to write to it.
        if !self.ledger.is_ready() {
            return;
        }
        if !self.has_room(&key, Instant::now()) {
            self.ledger.leave_out();
            return;
        }
        let explanation = error.explain();
        let age = record.received.elapsed();
        let path = asked.path.as_ref().map(PathAndQuery::path);
        let intent = Intent {
            team,
            model,
            stream,
            ..Intent::new(record.id.as_str(), age, key, asked.endpoint.written(path))
        };
        let entry = Entry {
            http_status: Some(explanation.status.as_u16()),
            received_bytes: received,
            ..Entry::unanswered(Status::Refused, explanation.cause, age)
        };
        self.ledger.note_refusal(intent, entry);
    }

    /// Returns whether a refusal of this key is written down.
    fn has_room(&self, key: &Arc<str>, now: Instant) -> bool {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() >= REMEMBERED && !windows.contains_key(key) {
            windows.clear();
        }
        let fresh = Window {
            began: now,
            written: 0,
        };
        let window = windows.entry(Arc::clone(key)).or_insert(fresh);
        if now.saturating_duration_since(window.began) >= WINDOW {
            *window = fresh;
        }
        let has_room = window.written < WRITTEN;
        window.written += u32::from(has_room);
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ledger::{Params, Sync};

    #[test]
    fn a_key_has_so_many_rows_in_a_minute() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&Params {
            path: folder.path().join("weir.db"),
            sync: Sync::Never,
            max_open: 1,
            retention: Default::default(),
        })
        .unwrap();
        let layer = RefusalsLayer::new(ledger.clone());
        let written = |key: &str, now| {
            let key = key.into();
            (0..1000)
                .filter(|_| layer.clerk.has_room(&key, now))
                .count()
        };
        let now = Instant::now();
        assert_eq!(written("alice", now), WRITTEN as usize);
        assert_eq!(written("bob", now + WINDOW / 2), WRITTEN as usize);
        assert_eq!(written("alice", now + WINDOW / 2), 0);
        assert_eq!(written("alice", now + WINDOW), WRITTEN as usize);
        ledger.close();
    }
}
