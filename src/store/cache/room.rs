//! The room of answers that are under way: what is held of them for those who listen, and for those who may yet join.

use std::sync::atomic::{AtomicUsize, Ordering};

/// What all answers under way hold together. Answers that are kept have as much room as that, apart.
#[derive(Debug)]
pub struct Room {
    calls: AtomicUsize,
    bytes: AtomicUsize,
    most: usize,
}

/// What answers under way hold at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnderWay {
    /// Calls whose answers have not ended, or are still read by somebody.
    pub calls: usize,
    /// Bytes that are held of those which are streams.
    pub bytes: usize,
    /// Beyond so many bytes each of them holds but little, and nobody joins it any more.
    pub max_bytes: usize,
}

impl Room {
    /// Makes room for so many bytes.
    pub fn new(most: usize) -> Self {
        Self {
            calls: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            most,
        }
    }

    /// Notes a call that begins, and holds nothing yet.
    pub fn enter(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a call holds `now` bytes instead of `before`, and returns whether all of them hold too much.
    pub fn note(&self, before: usize, now: usize) -> bool {
        let held = match now >= before {
            true => self.bytes.fetch_add(now - before, Ordering::Relaxed) + (now - before),
            false => self.bytes.fetch_sub(before - now, Ordering::Relaxed) - (before - now),
        };
        held > self.most
    }

    /// Notes that a call has gone, with the bytes that it held.
    pub fn leave(&self, held: usize) {
        self.note(held, 0);
        self.calls.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns what they hold.
    pub fn under_way(&self) -> UnderWay {
        UnderWay {
            calls: self.calls.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            max_bytes: self.most,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_gone_holds_nothing() {
        let room = Room::new(10);
        let under_way = |calls, bytes| UnderWay {
            calls,
            bytes,
            max_bytes: 10,
        };
        room.enter();
        room.enter();
        assert!(!room.note(0, 10));
        assert!(room.note(0, 1));
        assert!(room.note(1, 4));
        assert_eq!(room.under_way(), under_way(2, 14));
        room.leave(10);
        assert!(!room.note(4, 3));
        assert_eq!(room.under_way(), under_way(1, 3));
        room.leave(3);
        assert_eq!(room.under_way(), under_way(0, 0));
    }
}
