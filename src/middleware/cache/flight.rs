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

mod listener;
mod state;
mod wakers;

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;

pub(super) use self::listener::Listener;
use self::state::{Aftermath, LEADER, Stage, State};
use self::wakers::Wakers;
use crate::call::{Record, Reply, Sharing, StreamError};
use crate::store::cache::Room;

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
    /// As long as the books read on: they want to know what it used.
    Books,
    /// To its end.
    Ever,
}

/// One call at an upstream.
pub(super) struct Flight<E> {
    state: Mutex<State<E>>,
    wakers: Arc<Wakers>,
    /// How many bytes are held at most.
    bound: usize,
    /// The room of all flights together, also of those that began before a reload.
    room: Arc<Room>,
    /// What is known of the leader's call.
    record: Arc<Record>,
    /// Which one it is of those with its key.
    number: u64,
    /// Runs when nobody can join any more.
    on_over: Box<dyn Fn() + Send + Sync>,
}

/// What a call begins with.
pub(super) struct Plan<E> {
    /// What asks the upstream.
    pub(super) asking: Asking<E>,
    /// How long it goes on for nobody.
    pub(super) patience: Patience,
    /// How many bytes are held at most.
    pub(super) bound: usize,
    /// The room of all flights together.
    pub(super) room: Arc<Room>,
    /// What is known of the leader's call.
    pub(super) record: Arc<Record>,
    /// Which one it is of those with its key.
    pub(super) number: u64,
    /// Keeps its answer.
    pub(super) on_whole: OnWhole,
    /// Runs when nobody can join any more.
    pub(super) on_over: Box<dyn Fn() + Send + Sync>,
}

/// How much a flight holds where all of them hold too much.
const LITTLE: usize = 16 << 10;

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
    /// Begins a call, which nobody asks anything of yet, and returns its leader.
    pub(super) fn begin(plan: Plan<E>) -> Listener<E> {
        plan.room.enter();
        let flight = Self {
            state: Mutex::new(State::new(plan.asking, plan.patience, plan.on_whole)),
            wakers: Arc::default(),
            bound: plan.bound,
            room: plan.room,
            record: plan.record,
            number: plan.number,
            on_over: plan.on_over,
        };
        Listener {
            flight: Arc::new(flight),
            id: LEADER,
            is_leader: true,
            has_ended: false,
            alarm: None,
        }
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
        self.room.leave(bytes);
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
                    state.patience = Patience::Books;
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

    fn ends_without_leader(&self) -> bool {
        let mut state = self.state();
        let is_wanted = state.others() > 0 || state.patience == Patience::Ever;
        let ends = state.is_under_way() && !is_wanted;
        state.is_closed |= ends;
        ends
    }

    fn closes(&self) -> bool {
        let mut state = self.state();
        let is_alone = state.others() == 0;
        state.is_closed |= is_alone;
        is_alone
    }
}

/// Calls something in any case.
struct OnDrop<'a>(&'a (dyn Fn() + Send + Sync));

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        (self.0)();
    }
}
