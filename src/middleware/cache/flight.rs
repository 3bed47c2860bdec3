//! One call at an upstream, and all who listen to its answer.
//!
//! Nobody flies it: whoever wants more and finds nothing new in the log asks the upstream for it, and wakes the others when it
//! has come. So the fastest listener sets the pace, a slow one delays nobody, and with the last one the upstream goes. The
//! log is bounded: beyond that, those who are too far behind are told so, and nobody joins any more.
//!
//! The leader is the one whose call it is, and who pays. When its client leaves while others listen it becomes an orphan: its
//! books read on for what the answer uses, at the pace of the others, and without a say in it. Whether others listen is asked
//! and decided in one step, so that there is never an answer under way that nobody pays for. An answer that goes on though
//! nobody listens, for a while or to its end, is one that its orphan asks for.

mod room;
mod state;
mod wakers;

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::time::{Sleep, sleep_until};

pub(super) use self::room::Room;
use self::state::{Aftermath, LEADER, Stage, State};
use self::wakers::Wakers;
use super::judge::is_ending;
use crate::call::{Record, Reply, Sharing, StreamError};

/// A call at an upstream that has not begun to answer.
pub(super) type Asking<E> = Pin<Box<dyn Future<Output = Result<Reply, E>> + Send>>;

/// Runs once, with what came, when an answer has come to its end in order and was small enough to be held whole.
pub(super) type OnWhole = Box<dyn FnOnce(&Head, Whole) + Send>;

/// How long an answer goes on that nobody waits for any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// Not at all.
    None,
    /// So long, if it had not begun: whoever asked for it may ask again.
    For(Duration),
    /// To its end.
    Ever,
}

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

/// How much a flight holds where all of them hold too much.
const LITTLE: usize = 16 << 10;

/// Somebody who waits for an answer, or reads it.
pub(super) struct Listener<E> {
    flight: Arc<Flight<E>>,
    id: usize,
    is_leader: bool,
    has_ended: bool,
    /// Ends the patience of an orphan that is alone.
    alarm: Option<Pin<Box<Sleep>>>,
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
    /// Blocks of events, and after how many milliseconds each came.
    Events(Vec<Bytes>, Vec<u32>),
}

/// What a listener does that finds nothing new.
enum Turn {
    /// It asks the upstream.
    Asks,
    /// It leaves that to others.
    Waits,
    /// It ends the call.
    GivesUp,
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

impl<E> Flight<E> {
    /// Begins a call, which nobody asks anything of yet, and returns it with its leader.
    pub(super) fn begin(
        (asking, patience): (Asking<E>, Patience),
        (bound, room): (usize, &Arc<Room>),
        (number, record): (u64, &Arc<Record>),
        on_whole: OnWhole,
        on_over: Box<dyn Fn() + Send + Sync>,
    ) -> (Arc<Self>, Listener<E>) {
        let flight = Arc::new(Self {
            state: Mutex::new(State::new(asking, patience, on_whole)),
            wakers: Arc::default(),
            bound,
            room: Arc::clone(room),
            record: Arc::clone(record),
            number,
            on_over,
        });
        let leader = Listener {
            flight: Arc::clone(&flight),
            id: LEADER,
            is_leader: true,
            has_ended: false,
            alarm: None,
        };
        (flight, leader)
    }

    /// Listens from the beginning, where that is still there.
    pub(super) fn join(this: &Arc<Self>) -> Option<Listener<E>> {
        let mut state = this.state();
        let can_be_joined = match state.stage {
            Stage::Asking(_) | Stage::Answering(_) => state.forgotten == 0,
            Stage::Over(result) => state.forgotten == 0 && result.is_ok(),
            Stage::Failed(_) => false,
        };
        let id = (can_be_joined && !state.is_closed).then(|| state.listeners.insert(0))?;
        drop(state);
        Some(Listener {
            flight: Arc::clone(this),
            id,
            is_leader: false,
            has_ended: false,
            alarm: None,
        })
    }

    /// Returns which one it is of those with its key.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    fn state(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends what nobody has come back for.
    fn give_up(&self, mut state: MutexGuard<'_, State<E>>) {
        let aftermath = state.over(Err(StreamError::Abandoned));
        drop(state);
        self.clear_up(aftermath);
        self.wakers.wake_all();
    }

    fn clear_up(&self, aftermath: Aftermath<E>) {
        // Only then, and whatever happens: who comes a moment later finds what was kept.
        let _over = aftermath.is_over.then(|| OnDrop(&*self.on_over));
        if let Some((on_whole, head, whole)) = aftermath.whole {
            on_whole(&head, whole);
        }
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
            let waker = flight.wakers.with(self.id, cx.waker());
            match self.turn(&mut state, cx) {
                Turn::Asks => {}
                Turn::Waits => return Poll::Pending,
                Turn::GivesUp => {
                    flight.give_up(state);
                    continue;
                }
            }
            let polled = match &mut state.stage {
                Stage::Asking(_) if !flight.wakers.has_stirred() => return Poll::Pending,
                Stage::Asking(asking) => asking.as_mut().poll(&mut Context::from_waker(&waker)),
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
                    flight.wakers.stir();
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
            if let Some((block, _)) = state.log.get(place).cloned() {
                if let Some(next) = state.listeners.get_mut(self.id) {
                    *next = at + 1;
                }
                return Poll::Ready(Some(Ok(block)));
            }
            let waker = flight.wakers.with(self.id, cx.waker());
            match self.turn(&mut state, cx) {
                Turn::Asks => {}
                Turn::Waits => return Poll::Pending,
                Turn::GivesUp => {
                    flight.give_up(state);
                    continue;
                }
            }
            let polled = match &mut state.stage {
                Stage::Answering(_) if !flight.wakers.has_stirred() => return Poll::Pending,
                Stage::Answering(body) => {
                    Pin::new(body).poll_frame(&mut Context::from_waker(&waker))
                }
                Stage::Over(result) => return Poll::Ready(result.err().map(Err)),
                Stage::Asking(_) | Stage::Failed(_) => return Poll::Ready(None),
            };
            if polled.is_pending() {
                return Poll::Pending;
            }
            flight.wakers.forget(self.id);
            flight.wakers.stir();
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

    /// Says who asks the upstream for more: whoever listens; an orphan only where nobody does, and as long as its patience
    /// lasts.
    fn turn(&mut self, state: &mut State<E>, cx: &mut Context<'_>) -> Turn {
        if !(self.is_leader && state.is_orphan && state.is_under_way()) {
            return Turn::Asks;
        }
        if state.others() > 0 {
            return Turn::Waits;
        }
        let Some(until) = state.until else {
            return Turn::Asks;
        };
        let alarm = self
            .alarm
            .get_or_insert_with(|| Box::pin(sleep_until(until)));
        if alarm.deadline() != until {
            alarm.as_mut().reset(until);
        }
        match alarm.as_mut().poll(cx) {
            Poll::Pending => Turn::Asks,
            Poll::Ready(()) => Turn::GivesUp,
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
    fn goes_on_without_leader(&self, reads_on: bool) -> bool {
        let mut state = self.state();
        let read = state.listeners.get(LEADER).copied().unwrap_or_default();
        let has_more = read < state.forgotten + state.log.len();
        let goes_on = match &state.stage {
            Stage::Asking(_) | Stage::Answering(_) => {
                if reads_on && matches!(state.patience, Patience::For(_)) {
                    // The books want its end in any case.
                    state.patience = Patience::Ever;
                }
                state.others() > 0 || state.lingers()
            }
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
        let is_left = state.is_under_way() && others == 0;
        if is_left && state.is_orphan && state.lingers() {
            // From now on it asks by itself.
            drop(state);
            flight.wakers.wake_all();
        } else if is_left {
            // Clients that close at the last event have got all there is.
            let mut last = state.log.iter().rev().take(2);
            let has_all = last.any(|(block, _)| is_ending(block));
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
