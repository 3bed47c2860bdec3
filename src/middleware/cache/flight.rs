//! One call at an upstream, and all who listen to its answer.
//!
//! Nobody flies it: whoever wants more and finds nothing new in the log asks the upstream for it, and wakes the others when it
//! has come. So the fastest listener sets the pace, a slow one delays nobody, and with the last one the upstream goes. The
//! log is bounded: beyond that, those who are too far behind are told so, and nobody joins any more.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use slab::Slab;

use crate::call::{Reply, ReplyBody, Sharing, StreamError};

/// A call at an upstream that has not begun to answer.
pub(super) type Asking<E> = Pin<Box<dyn Future<Output = Result<Reply, E>> + Send>>;

/// Runs once, with what came, when an answer has come to its end in order and was small enough to be held whole.
pub(super) type OnWhole = Box<dyn FnOnce(&Head, Whole) + Send>;

/// One call at an upstream.
pub(super) struct Flight<E> {
    state: Mutex<State<E>>,
    wakers: Arc<Wakers>,
    /// How many bytes are held at most.
    bound: usize,
    /// Which one it is of those with its key.
    number: u64,
    /// Runs when nobody can join any more.
    on_over: Box<dyn Fn() + Send + Sync>,
}

/// Somebody who waits for an answer, or reads it.
pub(super) struct Listener<E> {
    flight: Arc<Flight<E>>,
    id: usize,
    is_leader: bool,
    has_ended: bool,
}

/// The head of an answer that can be shared.
#[derive(Clone)]
pub(super) struct Head {
    pub(super) headers: HeaderMap,
    /// Whether events follow, or one text.
    pub(super) is_events: bool,
}

/// A body, all of it.
pub(super) enum Whole {
    Text(Bytes),
    Events(Vec<Bytes>),
}

/// How an answer begins.
pub(super) enum Begun<E> {
    /// With a head that all share; what follows is read from the listener.
    Shared(Head),
    /// With an answer that only the leader gets: an error, or what cannot be held.
    Alone(Box<Reply>),
    /// Not at all; only the leader is told why.
    Failed(E),
    /// For this listener not: it is to ask by itself.
    Elsewhere,
}

struct State<E> {
    stage: Stage<E>,
    head: Option<Head>,
    /// What has come, and is not forgotten.
    log: VecDeque<Bytes>,
    /// How many blocks are forgotten.
    forgotten: usize,
    bytes: usize,
    /// How far each listener has read.
    listeners: Slab<usize>,
    /// Whether the leader's client has gone, while others listen: it reads on for the books alone.
    is_orphan: bool,
    on_whole: Option<OnWhole>,
}

enum Stage<E> {
    Asking(Asking<E>),
    Answering(Box<ReplyBody>),
    /// Over before there was anything to share.
    Failed(Option<Begun<E>>),
    Over(Result<(), StreamError>),
}

/// What is to be done when the lock is open again.
struct Aftermath<E> {
    /// Dropped there: what is in it may lock others.
    _stage: Option<Stage<E>>,
    whole: Option<(OnWhole, Head, Whole)>,
    is_over: bool,
}

impl<E> Flight<E> {
    /// Begins a call, which nobody asks anything of yet, and returns it with its leader.
    pub(super) fn begin(
        asking: Asking<E>,
        bound: usize,
        number: u64,
        on_whole: OnWhole,
        on_over: Box<dyn Fn() + Send + Sync>,
    ) -> (Arc<Self>, Listener<E>) {
        let mut listeners = Slab::new();
        let id = listeners.insert(0);
        let flight = Arc::new(Self {
            state: Mutex::new(State {
                stage: Stage::Asking(asking),
                head: None,
                log: VecDeque::new(),
                forgotten: 0,
                bytes: 0,
                listeners,
                is_orphan: false,
                on_whole: Some(on_whole),
            }),
            wakers: Arc::default(),
            bound,
            number,
            on_over,
        });
        let leader = Listener {
            flight: Arc::clone(&flight),
            id,
            is_leader: true,
            has_ended: false,
        };
        (flight, leader)
    }

    /// Listens from the beginning, where that is still there.
    pub(super) fn join(self: &Arc<Self>) -> Option<Listener<E>> {
        let mut state = self.state();
        let can_be_joined = match state.stage {
            Stage::Asking(_) | Stage::Answering(_) => state.forgotten == 0,
            Stage::Over(result) => state.forgotten == 0 && result.is_ok(),
            Stage::Failed(_) => false,
        };
        let id = can_be_joined.then(|| state.listeners.insert(0))?;
        drop(state);
        Some(Listener {
            flight: Arc::clone(self),
            id,
            is_leader: false,
            has_ended: false,
        })
    }

    /// Returns which one it is of those with its key.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    fn state(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clear_up(&self, aftermath: Aftermath<E>) {
        if let Some((on_whole, head, whole)) = aftermath.whole {
            on_whole(&head, whole);
        }
        // Only now: who comes a moment later finds what was kept.
        if aftermath.is_over {
            (self.on_over)();
        }
    }
}

impl<E> State<E> {
    fn over(&mut self, result: Result<(), StreamError>) -> Aftermath<E> {
        let stage = std::mem::replace(&mut self.stage, Stage::Over(result));
        let on_whole = self.on_whole.take().filter(|_| result.is_ok());
        let whole = on_whole
            .zip(self.head.clone())
            .filter(|_| self.forgotten == 0);
        Aftermath {
            _stage: Some(stage),
            whole: whole.map(|(on_whole, head)| {
                let whole = match head.is_events {
                    true => Whole::Events(self.log.iter().cloned().collect()),
                    false => Whole::Text(self.log.front().cloned().unwrap_or_default()),
                };
                (on_whole, head, whole)
            }),
            is_over: true,
        }
    }

    /// Takes in what an upstream has answered.
    fn begun(&mut self, result: Result<Reply, E>) -> Aftermath<E> {
        let mut reply = match result {
            Ok(reply) => reply,
            Err(error) => return self.alone(Begun::Failed(error)),
        };
        let is_events = reply.body.is_events();
        let is_text = reply.body.as_full().is_some();
        if !reply.status.is_success() || !(is_events || is_text) {
            return self.alone(Begun::Alone(Box::new(reply)));
        }
        self.head = Some(Head {
            headers: std::mem::take(&mut reply.headers),
            is_events,
        });
        if is_events {
            let stage = Stage::Answering(Box::new(reply.body));
            return Aftermath {
                _stage: Some(std::mem::replace(&mut self.stage, stage)),
                whole: None,
                is_over: false,
            };
        }
        let text = reply.body.take_full().unwrap_or_default();
        self.bytes = text.len();
        self.log.push_back(text);
        self.over(Ok(()))
    }

    fn alone(&mut self, begun: Begun<E>) -> Aftermath<E> {
        self.on_whole = None;
        let stage = std::mem::replace(&mut self.stage, Stage::Failed(Some(begun)));
        Aftermath {
            _stage: Some(stage),
            whole: None,
            is_over: true,
        }
    }

    /// Forgets the oldest where there is too much, whoever has not read it yet; and once that has begun, so that nobody can
    /// join, all that everybody has read. Returns whether it began just now.
    fn bound(&mut self, bound: usize) -> bool {
        let had_all = self.forgotten == 0;
        let slowest = self.listeners.iter().map(|(_, at)| *at).min();
        let slowest = slowest.unwrap_or_default();
        while self.log.len() > 1
            && (self.bytes > bound || (self.forgotten > 0 && self.forgotten < slowest))
        {
            let Some(block) = self.log.pop_front() else {
                break;
            };
            self.bytes -= block.len();
            self.forgotten += 1;
        }
        had_all && self.forgotten > 0
    }
}

impl<E> Listener<E> {
    /// Waits for the beginning of the answer.
    pub(super) fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<Begun<E>> {
        let flight = Arc::clone(&self.flight);
        loop {
            let mut state = flight.state();
            if let Some(head) = &state.head {
                return Poll::Ready(Begun::Shared(head.clone()));
            }
            let polled = match &mut state.stage {
                Stage::Asking(asking) => {
                    let waker = flight.wakers.with(self.id, cx.waker());
                    asking.as_mut().poll(&mut Context::from_waker(&waker))
                }
                Stage::Failed(begun) => {
                    let told = if self.is_leader { begun.take() } else { None };
                    return Poll::Ready(told.unwrap_or(Begun::Elsewhere));
                }
                Stage::Answering(_) | Stage::Over(_) => {
                    return Poll::Ready(Begun::Elsewhere);
                }
            };
            match polled {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(result) => {
                    flight.wakers.forget(self.id);
                    let aftermath = state.begun(result);
                    drop(state);
                    flight.clear_up(aftermath);
                    flight.wakers.wake_all();
                }
            }
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamError>>> {
        let flight = Arc::clone(&self.flight);
        loop {
            let mut state = flight.state();
            let at = state.listeners.get(self.id).copied().unwrap_or_default();
            let Some(place) = at.checked_sub(state.forgotten) else {
                return Poll::Ready(Some(Err(StreamError::Behind)));
            };
            if let Some(block) = state.log.get(place).cloned() {
                if let Some(at) = state.listeners.get_mut(self.id) {
                    *at += 1;
                }
                return Poll::Ready(Some(Ok(block)));
            }
            let polled = match &mut state.stage {
                Stage::Answering(body) => {
                    let waker = flight.wakers.with(self.id, cx.waker());
                    Pin::new(body).poll_frame(&mut Context::from_waker(&waker))
                }
                Stage::Over(result) => return Poll::Ready(result.err().map(Err)),
                Stage::Asking(_) | Stage::Failed(_) => return Poll::Ready(None),
            };
            if polled.is_pending() {
                return Poll::Pending;
            }
            flight.wakers.forget(self.id);
            let aftermath = match polled {
                Poll::Ready(Some(Ok(frame))) => {
                    let block = frame.into_data().unwrap_or_default();
                    if block.is_empty() {
                        continue;
                    }
                    state.bytes += block.len();
                    state.log.push_back(block);
                    state.bound(flight.bound).then(|| Aftermath {
                        _stage: None,
                        whole: None,
                        is_over: true,
                    })
                }
                Poll::Ready(Some(Err(error))) => Some(state.over(Err(error))),
                Poll::Ready(None) | Poll::Pending => Some(state.over(Ok(()))),
            };
            drop(state);
            if let Some(aftermath) = aftermath {
                flight.clear_up(aftermath);
            }
            flight.wakers.wake_all();
        }
    }

    /// Waits for all of an answer that is one text.
    pub(super) fn poll_text(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        let text = std::task::ready!(self.poll_next(cx));
        Poll::Ready(text.and_then(Result::ok).unwrap_or_default())
    }

    /// Returns what tells the leader's books whether the answer goes on without its client.
    pub(super) fn sharing(&self) -> Weak<dyn Sharing>
    where
        E: Send + 'static,
    {
        let flight: Weak<Flight<E>> = Arc::downgrade(&self.flight);
        flight
    }
}

impl<E: Send> Sharing for Flight<E> {
    fn goes_on_without_leader(&self) -> bool {
        let mut state = self.state();
        let under_way = matches!(state.stage, Stage::Asking(_) | Stage::Answering(_));
        // The leader is among them.
        state.is_orphan |= under_way && state.listeners.len() > 1;
        state.is_orphan
    }

    fn has_others(&self) -> bool {
        self.state().listeners.len() > 1
    }
}

impl<E> Drop for Listener<E> {
    fn drop(&mut self) {
        let flight = &self.flight;
        flight.wakers.forget(self.id);
        let mut state = flight.state();
        state.listeners.try_remove(self.id);
        if self.is_leader {
            state.is_orphan = false;
        }
        let others = state.listeners.len() - usize::from(state.is_orphan);
        let under_way = matches!(state.stage, Stage::Asking(_) | Stage::Answering(_));
        if under_way && others == 0 {
            // Whoever still reads for the books is told that no more comes.
            let aftermath = state.over(Err(StreamError::Abandoned));
            drop(state);
            flight.clear_up(aftermath);
            flight.wakers.wake_all();
        }
    }
}

impl<E> Body for Listener<E> {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let polled = std::task::ready!(self.poll_next(cx));
        self.has_ended = !matches!(polled, Some(Ok(_)));
        Poll::Ready(polled.map(|block| block.map(Frame::data)))
    }
}

/// Everybody who waits for something new, by the number of the listener.
#[derive(Default)]
struct Wakers(Mutex<Vec<Option<Waker>>>);

impl Wakers {
    /// Adds one, and returns what wakes all: before anything is asked for, or what comes in between would wake nobody.
    fn with(self: &Arc<Self>, id: usize, waker: &Waker) -> Waker {
        let mut wakers = self.wakers();
        if wakers.len() <= id {
            wakers.resize(id + 1, None);
        }
        match &mut wakers[id] {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        drop(wakers);
        Waker::from(Arc::clone(self))
    }

    fn forget(&self, id: usize) {
        if let Some(waker) = self.wakers().get_mut(id) {
            *waker = None;
        }
    }

    fn wake_all(&self) {
        let mut woken = std::mem::take(&mut *self.wakers());
        for waker in &mut woken {
            if let Some(waker) = waker.take() {
                waker.wake();
            }
        }
        // Its room serves again.
        let mut wakers = self.wakers();
        if wakers.is_empty() {
            *wakers = woken;
        }
    }

    fn wakers(&self) -> MutexGuard<'_, Vec<Option<Waker>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_all();
    }
}
