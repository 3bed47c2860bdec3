//! Who is woken when something new has come.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Wake, Waker};

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

    /// Asks the upstream, where that may have something new. Whoever is told that it has nothing is woken with
    /// all others: with a thousand listeners it is asked once for each thing that comes.
    pub(super) fn ask<T>(&self, poll: impl FnOnce() -> Poll<T>) -> Poll<T> {
        if self.is_still.swap(true, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let mut asked = Asked {
            wakers: self,
            is_in_vain: false,
        };
        let polled = poll();
        asked.is_in_vain = polled.is_pending();
        polled
    }

    fn stir(&self) {
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

/// A question to the upstream. Unless it was in vain there may be more, and somebody else is to ask.
struct Asked<'a> {
    wakers: &'a Wakers,
    is_in_vain: bool,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.is_in_vain {
            self.wakers.stir();
        }
        if std::thread::panicking() {
            // Nobody else wakes those who wait, and they are to fail, too.
            self.wakers.wake_all();
        }
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
