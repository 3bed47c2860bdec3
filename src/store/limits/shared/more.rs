//! More room for an answer that goes on, asked for while it does.

use std::sync::{Arc, Mutex, PoisonError};

use super::Shared;
use crate::store::limits::cell::Terms;

/// More that is asked for, and goes out before the reply is here. One question at a time: before it is answered, no more
/// goes out than was asked for.
#[derive(Default)]
pub(super) struct More(Option<Asking>);

struct Asking {
    n: u32,
    state: Arc<Mutex<State>>,
}

enum State {
    Open,
    /// Answered: whether they were there.
    Answered(bool),
    /// The call has ended before; this is done once it is known how many were given.
    Ended(Box<dyn FnOnce(u32) + Send>),
}

impl More {
    /// Asks for so many more of each cell, and returns whether they may go out until that is known.
    pub(super) fn ask(&mut self, shared: &Arc<Shared>, cells: Vec<Arc<Terms>>, n: u32) -> bool {
        if cells.is_empty() {
            return true;
        }
        if self.0.is_some() {
            return false;
        }
        let state = Arc::new(Mutex::new(State::Open));
        self.0 = Some(Asking {
            n,
            state: Arc::clone(&state),
        });
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            let is_given = shared.more(&cells, n).await;
            let before = replace(&state, State::Answered(is_given));
            if let State::Ended(end) = before {
                end(if is_given { n } else { 0 });
            }
        });
        true
    }

    /// Returns how many were asked for and whether they were there, once that is known.
    pub(super) fn answer(&mut self) -> Option<(u32, bool)> {
        let asking = self.0.as_ref()?;
        let answer = match *asking.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Answered(is_given) => (asking.n, is_given),
            State::Open | State::Ended(_) => return None,
        };
        self.0 = None;
        Some(answer)
    }

    /// Ends it: `then` is told how many were given of those that were asked for last, as soon as that is known.
    pub(super) fn end(self, then: impl FnOnce(u32) + Send + 'static) {
        let Some(Asking { n, state }) = self.0 else {
            return then(0);
        };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let State::Answered(is_given) = *state else {
            *state = State::Ended(Box::new(then));
            return;
        };
        drop(state);
        then(if is_given { n } else { 0 });
    }

    #[cfg(test)]
    pub(super) fn is_asking(&self) -> bool {
        let asking = self.0.as_ref();
        asking.is_some_and(|asking| matches!(*asking.state.lock().unwrap(), State::Open))
    }
}

fn replace(state: &Mutex<State>, new: State) -> State {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::replace(&mut *state, new)
}
