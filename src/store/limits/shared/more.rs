//! More room for an answer that goes on, asked for while it does.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use super::Shared;
use super::asking::Wanted;
use super::hold::Part;
use super::settling::{Ended, Settled};
use crate::store::limits::cell::Terms;

/// More that is asked for, and goes out before the reply is here. One question at a time: nothing more is read until it is
/// answered.
#[derive(Default)]
pub(super) struct More {
    asking: Option<Asking>,
    given: Given,
}

/// What was given of each cell in addition.
#[derive(Default)]
pub(super) struct Given {
    /// In all, by cell.
    sums: Vec<(Arc<Terms>, u64)>,
    /// The last time. What was given before has been used by then.
    last: Vec<Part>,
}

struct Asking {
    n: u32,
    state: Arc<Mutex<State>>,
}

/// What Redis has said: what it gave, or that it has none. Where nobody knows, nothing was given, and what is used is owed
/// in the end.
type Answer = Option<Vec<Part>>;

enum State {
    /// Whoever waits for the answer is woken by it.
    Open(Option<Waker>),
    Answered(Answer),
    /// The call has ended before; this is done once the answer is here.
    Ended(Box<dyn FnOnce(Answer) + Send>),
}

impl More {
    /// Asks for so many more of each cell, and returns whether they may go out until that is known.
    pub(super) fn ask(&mut self, shared: &Arc<Shared>, cells: Vec<Wanted>, n: u32) -> bool {
        if cells.is_empty() {
            return true;
        }
        if self.asking.is_some() {
            return false;
        }
        let state = Arc::new(Mutex::new(State::Open(None)));
        self.asking = Some(Asking {
            n,
            state: Arc::clone(&state),
        });
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            let answer = shared.more(cells).await;
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            match std::mem::replace(&mut *state, State::Open(None)) {
                State::Ended(end) => {
                    drop(state);
                    end(answer);
                }
                State::Open(waker) => {
                    *state = State::Answered(answer);
                    drop(state);
                    waker.into_iter().for_each(Waker::wake);
                }
                State::Answered(_) => {}
            }
        });
        true
    }

    /// Returns how many of those that were asked for were not there, once, as soon as that is known.
    pub(super) fn denied(&mut self, shared: &Shared) -> Option<u32> {
        let asking = self.asking.as_ref()?;
        let answer = {
            let mut state = asking.state.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *state {
                State::Answered(answer) => answer.take(),
                State::Open(_) | State::Ended(_) => return None,
            }
        };
        let n = asking.n;
        self.asking = None;
        match answer {
            None => Some(n),
            Some(parts) => {
                self.given.add(parts, shared);
                None
            }
        }
    }

    /// Is pending until the answer is here.
    pub(super) fn poll_known(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(asking) = &self.asking else {
            return Poll::Ready(());
        };
        let mut state = asking.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            State::Open(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Answered(_) | State::Ended(_) => Poll::Ready(()),
        }
    }

    /// Ends it: `then` is told what was given, as soon as that is known.
    pub(super) fn end(self, shared: &Arc<Shared>, then: impl FnOnce(Given) + Send + 'static) {
        let Self { asking, mut given } = self;
        let Some(Asking { state, .. }) = asking else {
            return then(given);
        };
        let shared = Arc::clone(shared);
        let finish = move |answer: Answer| {
            given.add(answer.unwrap_or_default(), &shared);
            then(given);
        };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let State::Answered(answer) = &mut *state else {
            *state = State::Ended(Box::new(finish));
            return;
        };
        let answer = answer.take();
        drop(state);
        finish(answer);
    }

    #[cfg(test)]
    pub(super) fn is_asking(&self) -> bool {
        let asking = self.asking.as_ref();
        asking.is_some_and(|asking| matches!(*asking.state.lock().unwrap(), State::Open(_)))
    }
}

impl Given {
    fn add(&mut self, parts: Vec<Part>, shared: &Shared) {
        if parts.is_empty() {
            return;
        }
        for part in &parts {
            let terms = part.terms();
            match self.sums.iter_mut().find(|(of, _)| Arc::ptr_eq(of, terms)) {
                Some((_, sum)) => *sum = sum.saturating_add(part.wanted.n),
                None => self.sums.push((Arc::clone(terms), part.wanted.n)),
            }
        }
        let used = std::mem::replace(&mut self.last, parts);
        if !used.is_empty() {
            shared.end(Ended::of_rates(
                used.iter().map(|part| Settled::back(part, 0)),
            ));
        }
    }

    /// Returns how much of a part's cell was given.
    pub(super) fn of(&self, part: &Part) -> u64 {
        let mut sums = self.sums.iter();
        let sum = sums.find(|(of, _)| Arc::ptr_eq(of, part.terms()));
        sum.map_or(0, |(_, sum)| *sum)
    }

    /// Gives back of a part's cell so many, of what was given last, and returns how many it was not.
    pub(super) fn give_back(&self, part: &Part, n: u64, settled: &mut Vec<Settled>) -> u64 {
        let is_same = |last: &&Part| Arc::ptr_eq(last.terms(), part.terms());
        let Some(last) = self.last.iter().find(is_same) else {
            return n;
        };
        let back = n.min(last.wanted.n);
        settled.push(Settled::back(last, back));
        n - back
    }
}
