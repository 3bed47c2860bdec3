//! Who is next: callers take turns, and each caller's own requests come in the order of their arrival.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// A queue in which nobody can push others back by asking more often.
#[derive(Debug)]
pub(super) struct FairQueue<T> {
    /// Callers with something waiting, each once; the first is next.
    turns: VecDeque<Arc<str>>,
    waiting: HashMap<Arc<str>, VecDeque<T>>,
    length: usize,
}

impl<T> FairQueue<T> {
    pub(super) fn new() -> Self {
        Self {
            turns: VecDeque::new(),
            waiting: HashMap::new(),
            length: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn push(&mut self, caller: Arc<str>, item: T) {
        let own = self.waiting.entry(Arc::clone(&caller)).or_default();
        if own.is_empty() {
            self.turns.push_back(caller);
        }
        own.push_back(item);
        self.length += 1;
    }

    /// Returns what [`pop`](Self::pop) would.
    pub(super) fn peek(&self) -> Option<&T> {
        self.waiting.get(self.turns.front()?)?.front()
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let caller = self.turns.pop_front()?;
        let own = self.waiting.get_mut(&caller)?;
        let item = own.pop_front();
        if own.is_empty() {
            self.waiting.remove(&caller);
        } else {
            self.turns.push_back(caller);
        }
        self.length -= usize::from(item.is_some());
        item
    }

    /// Drops what is not wanted any more.
    pub(super) fn retain(&mut self, wanted: impl Fn(&T) -> bool) {
        self.waiting.retain(|_, own| {
            own.retain(&wanted);
            !own.is_empty()
        });
        self.turns
            .retain(|caller| self.waiting.contains_key(caller));
        self.length = self.waiting.values().map(VecDeque::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_take_turns() {
        let mut queue = FairQueue::new();
        for item in ["a1", "a2", "a3", "b1", "c1", "b2"] {
            queue.push(item[..1].into(), item);
        }
        assert_eq!(queue.len(), 6);
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, ["a1", "b1", "c1", "a2", "b2", "a3"]);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn what_is_dropped_does_not_take_a_turn() {
        let mut queue = FairQueue::new();
        for item in ["a1", "b1", "b2"] {
            queue.push(item[..1].into(), item);
        }
        queue.retain(|item| *item != "a1");
        assert_eq!((queue.len(), queue.peek()), (2, Some(&"b1")));
        queue.push("a".into(), "a2");
        assert_eq!(
            [queue.pop(), queue.pop(), queue.pop()],
            [Some("b1"), Some("a2"), Some("b2")]
        );
    }
}
