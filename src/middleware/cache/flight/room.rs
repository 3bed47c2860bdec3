//! The room that all flights have together.

use std::sync::atomic::{AtomicUsize, Ordering};

/// What all flights hold together.
#[derive(Debug)]
pub(in super::super) struct Room {
    held: AtomicUsize,
    most: usize,
}

impl Room {
    /// Makes room for so many bytes.
    pub(in super::super) fn new(most: usize) -> Self {
        Self {
            held: AtomicUsize::new(0),
            most,
        }
    }

    /// Notes that a flight holds `now` instead of `before`, and returns whether all of them hold too much.
    pub(super) fn note(&self, before: usize, now: usize) -> bool {
        let held = match now >= before {
            true => self.held.fetch_add(now - before, Ordering::Relaxed) + (now - before),
            false => self.held.fetch_sub(before - now, Ordering::Relaxed) - (before - now),
        };
        held > self.most
    }
}
