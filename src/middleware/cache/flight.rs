//! One call at an upstream, and all who listen to its answer.
//!
//! Nobody flies it: whoever wants more and finds nothing new in the log asks the upstream for it, and wakes the others when it
//! has come. So the fastest listener sets the pace, a slow one delays nobody, and with the last one the upstream goes. The
//! log is bounded: beyond that, those who are too far behind are told so, and nobody joins any more.
//!
//! The leader is the one whose call it is, and who pays. When its client leaves while others listen it becomes an orphan: its
//! books read on for what the answer uses, at the pace of the others, and without a say in it. Whether others listen is asked
//! and decided in one step, so that there is never an answer under way that nobody pays for.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame};
use slab::Slab;

use super::judge::is_ending;
use crate::call::{Record, Reply, ReplyBody, Sharing, StreamError};

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
    /// The room of all flights together.
    room: Arc<Room>,
    /// What is known of the leader's call.
    record: Arc<Record>,
    /// Which one it is of those with its key.
    number: u64,
    /// Runs when nobody can join any more.
    on_over: Box<dyn Fn() + Send + Sync>,
}

/// What all flights hold together.
#[derive(Debug)]
pub(super) struct Room {
    held: AtomicUsize,
    most: usize,
}

/// The leader's place among the listeners, for as long as it is there.
const LEADER: usize = 0;
/// What a block takes besides its bytes.
const BLOCK: usize = 64;
/// How much room is taken at a time for what comes in small pieces.
const ARENA: usize = 4 << 10;
/// How much a flight holds where all of them hold too much.
const LITTLE: usize = 16 << 10;

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
    /// Room for what comes next: what came from a connection holds on to all the room that it was read into.
    arena: BytesMut,
    /// How many blocks are forgotten.
    forgotten: usize,
    bytes: usize,
    /// How far each listener has read.
    listeners: Slab<usize>,
    /// Whether the leader's client has gone, while others listen: it reads on for the books alone.
    is_orphan: bool,
    /// Whether nobody may join any more.
    is_closed: bool,
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
        (bound, room): (usize, &Arc<Room>),
        (number, record): (u64, &Arc<Record>),
        on_whole: OnWhole,
        on_over: Box<dyn Fn() + Send + Sync>,
    ) -> (Arc<Self>, Listener<E>) {
        let mut listeners = Slab::new();
        let id = listeners.insert(0);
        debug_assert_eq!(id, LEADER, "a slab begins at the beginning");
        let flight = Arc::new(Self {
            state: Mutex::new(State {
                stage: Stage::Asking(asking),
                head: None,
                log: VecDeque::new(),
                arena: BytesMut::new(),
                forgotten: 0,
                bytes: 0,
                listeners,
                is_orphan: false,
                is_closed: false,
                on_whole: Some(on_whole),
            }),
            wakers: Arc::default(),
            bound,
            room: Arc::clone(room),
            record: Arc::clone(record),
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
        let id = (can_be_joined && !state.is_closed).then(|| state.listeners.insert(0))?;
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
        // Only then, and whatever happens: who comes a moment later finds what was kept.
        let _over = aftermath.is_over.then(|| OnDrop(&*self.on_over));
        if let Some((on_whole, head, whole)) = aftermath.whole {
            on_whole(&head, whole);
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
        if reply.status != StatusCode::OK || !(is_events || is_text) {
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
        // It is held for a moment: what is kept of it is a copy.
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

    /// Takes in a block of events.
    fn add(&mut self, block: &[u8]) {
        if self.arena.capacity() < block.len() {
            self.arena.reserve(block.len().max(ARENA));
        }
        self.arena.extend_from_slice(block);
        self.bytes += block.len() + BLOCK;
        self.log.push_back(self.arena.split().freeze());
    }

    /// Forgets the oldest where there is too much, whoever has not read it yet; and once that has begun, so that nobody can
    /// join, all that everybody has read. Returns whether it began just now.
    fn bound(&mut self, bound: usize) -> bool {
        let had_all = self.forgotten == 0;
        if had_all && self.bytes <= bound {
            return false;
        }
        let orphan = self.is_orphan.then_some(LEADER);
        let readers = self.listeners.iter().filter(|(id, _)| Some(*id) != orphan);
        let slowest = readers.map(|(_, at)| *at).min().unwrap_or_default();
        while self.log.len() > 1
            && (self.bytes > bound || (self.forgotten > 0 && self.forgotten < slowest))
        {
            let Some(block) = self.log.pop_front() else {
                break;
            };
            self.bytes -= block.len() + BLOCK;
            self.forgotten += 1;
        }
        had_all && self.forgotten > 0
    }

    /// Returns how many listen for themselves besides the leader.
    fn others(&self) -> usize {
        self.listeners.len() - usize::from(self.listeners.contains(LEADER))
    }

    fn is_under_way(&self) -> bool {
        matches!(self.stage, Stage::Asking(_) | Stage::Answering(_))
    }
}

impl Room {
    /// Makes room for so many bytes.
    pub(super) fn new(most: usize) -> Self {
        Self {
            held: AtomicUsize::new(0),
            most,
        }
    }

    /// Notes that a flight holds `now` instead of `before`, and returns whether all of them hold too much.
    fn note(&self, before: usize, now: usize) -> bool {
        let held = match now >= before {
            true => self.held.fetch_add(now - before, Ordering::Relaxed) + (now - before),
            false => self.held.fetch_sub(before - now, Ordering::Relaxed) - (before - now),
        };
        held > self.most
    }
}

impl<E> Drop for Flight<E> {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let bytes = state.unwrap_or_else(PoisonError::into_inner).bytes;
        self.room.note(bytes, 0);
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
            if self.is_leader && state.is_orphan && state.is_under_way() {
                // Those who listen ask.
                flight.wakers.with(self.id, cx.waker());
                return Poll::Pending;
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
            let mut at = state.listeners.get(self.id).copied().unwrap_or_default();
            let is_orphan = self.is_leader && state.is_orphan;
            if is_orphan && at < state.forgotten {
                // What counts stands at the end.
                at = state.forgotten;
            }
            let Some(place) = at.checked_sub(state.forgotten) else {
                return Poll::Ready(Some(Err(StreamError::Behind)));
            };
            if let Some(block) = state.log.get(place).cloned() {
                if let Some(next) = state.listeners.get_mut(self.id) {
                    *next = at + 1;
                }
                return Poll::Ready(Some(Ok(block)));
            }
            if is_orphan && state.is_under_way() {
                flight.wakers.with(self.id, cx.waker());
                return Poll::Pending;
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
                    let before = state.bytes;
                    state.add(&block);
                    let is_much = flight.room.note(before, state.bytes);
                    let bound = if is_much { LITTLE } else { usize::MAX };
                    let before = state.bytes;
                    let has_begun = state.bound(flight.bound.min(bound));
                    flight.room.note(before, state.bytes);
                    has_begun.then(|| Aftermath {
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

    /// Returns the leader's record, which says who answered.
    pub(super) fn record(&self) -> &Record {
        &self.flight.record
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
        let read = state.listeners.get(LEADER).copied().unwrap_or_default();
        let has_more = read < state.forgotten + state.log.len();
        let goes_on = match &state.stage {
            Stage::Asking(_) | Stage::Answering(_) => state.others() > 0,
            // It has come to its end, and the books have not seen it.
            Stage::Over(result) => result.is_ok() && has_more,
            Stage::Failed(_) => false,
        };
        state.is_orphan |= goes_on;
        state.is_closed |= !goes_on;
        goes_on
    }

    fn closes(&self) -> bool {
        let mut state = self.state();
        let is_alone = state.others() == 0;
        state.is_closed |= is_alone;
        is_alone
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
        if state.is_under_way() && others == 0 {
            // Clients that close at the last event have got all there is.
            let has_all = state.log.iter().rev().take(2).any(|block| is_ending(block));
            // Whoever still reads for the books is told that no more comes.
            let aftermath = state.over(match has_all {
                true => Ok(()),
                false => Err(StreamError::Abandoned),
            });
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
        // The books of a leader that is behind read on.
        let goes_on = match &polled {
            Some(Ok(_)) => true,
            Some(Err(error)) => self.is_leader && *error == StreamError::Behind,
            None => false,
        };
        self.has_ended = !goes_on;
        Poll::Ready(polled.map(|block| block.map(Frame::data)))
    }
}

/// Calls something in any case.
struct OnDrop<'a>(&'a (dyn Fn() + Send + Sync));

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        (self.0)();
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
