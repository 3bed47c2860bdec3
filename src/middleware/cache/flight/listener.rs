//! Somebody who waits for an answer, or reads it: the leader, or one who has joined.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Sleep, sleep_until};

use super::state::{Aftermath, Stage, State};
use super::{Begun, Flight, LITTLE};
use crate::call::{Record, Sharing, StreamError};
use crate::middleware::cache::judge::is_ending;

/// Somebody who waits for an answer, or reads it.
pub(in super::super) struct Listener<E> {
    pub(super) flight: Arc<Flight<E>>,
    pub(super) id: usize,
    pub(super) is_leader: bool,
    pub(super) has_ended: bool,
    /// Ends the patience of an orphan that is alone.
    pub(super) alarm: Option<Pin<Box<Sleep>>>,
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

impl<E> Listener<E> {
    /// Waits for the beginning of the answer.
    pub(in super::super) fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<Begun<E>> {
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
                Stage::Asking(asking) => {
                    let mut cx = Context::from_waker(&waker);
                    flight.wakers.ask(|| asking.as_mut().poll(&mut cx))
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
                Stage::Answering(body) => {
                    let mut cx = Context::from_waker(&waker);
                    flight.wakers.ask(|| Pin::new(body).poll_frame(&mut cx))
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
    pub(in super::super) fn poll_text(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        let text = std::task::ready!(self.poll_next(cx));
        Poll::Ready(text.and_then(Result::ok).unwrap_or_default())
    }

    /// Returns the call that it listens to.
    pub(in super::super) fn flight(&self) -> &Arc<Flight<E>> {
        &self.flight
    }

    /// Returns the leader's record, which says who answered.
    pub(in super::super) fn record(&self) -> &Record {
        &self.flight.record
    }

    /// Returns what tells the leader's books whether the answer goes on without its client.
    pub(in super::super) fn sharing(&self) -> Weak<dyn Sharing>
    where
        E: Send + 'static,
    {
        let flight: Weak<Flight<E>> = Arc::downgrade(&self.flight);
        flight
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
