//! Who is woken when something new has come.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

/// Everybody who waits for something new, by the number of the listener.
#[derive(Default)]
pub(super) struct Wakers {
    waiting: Mutex<Vec<Option<Waker>>>,
    /// Whether the upstream has not stirred since it was asked last: then nobody need ask it again.
    is_still: AtomicBool,
}

impl Wakers {
    /// Adds one, and returns what wakes all: before anything is asked for, or what comes in between would wake nobody.
    pub(super) fn with(self: &Arc<Self>, id: usize, waker: &Waker) -> Waker {
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

    /// Returns whether the upstream may have something new, and notes that it is asked now. Whoever is told that it has
    /// nothing is woken with all others: with a thousand listeners it is asked once for each thing that comes.
    pub(super) fn has_stirred(&self) -> bool {
        !self.is_still.swap(true, Ordering::AcqRel)
    }

    /// Notes that there may be more.
    pub(super) fn stir(&self) {
        self.is_still.store(false, Ordering::Release);
    }

    pub(super) fn forget(&self, id: usize) {
        if let Some(waker) = self.wakers().get_mut(id) {
            *waker = None;
        }
    }

    pub(super) fn wake_all(&self) {
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
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.stir();
        self.wake_all();
    }
}
