//! The calls that can be joined, by their keys: as many as there are calls under way.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;

use super::flight::Flight;
use crate::store::cache::Key;

/// What a call can be found by while it is under way: by all who may share its answer, and by the client that has made it.
pub(super) type Keys = [Option<Key>; 2];

/// A call under way.
pub(super) struct Aloft<E> {
    pub(super) flight: Arc<Flight<E>>,
    /// How often answers had been purged when it began.
    pub(super) purges: u64,
}

/// The calls under way.
pub(super) struct Flights<E> {
    by_key: Mutex<FxHashMap<Key, Aloft<E>>>,
    next: AtomicU64,
}

/// All of them, where nobody else changes anything.
pub(super) struct Locked<'a, E>(MutexGuard<'a, FxHashMap<Key, Aloft<E>>>);

impl<E> Clone for Aloft<E> {
    fn clone(&self) -> Self {
        Self {
            flight: Arc::clone(&self.flight),
            purges: self.purges,
        }
    }
}

impl<E> Flights<E> {
    /// Begins with none.
    pub(super) fn new() -> Self {
        Self {
            by_key: Mutex::default(),
            next: AtomicU64::new(0),
        }
    }

    /// Returns a number that no other call has.
    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn lock(&self) -> Locked<'_, E> {
        Locked(self.by_key.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn get(&self, key: Option<&Key>) -> Option<Aloft<E>> {
        self.lock().0.get(key?).cloned()
    }

    /// Returns whether no call has begun since that would be found by the same key.
    pub(super) fn is_current(&self, key: &Key, number: u64) -> bool {
        self.lock().number(Some(key)) == Some(number)
    }

    /// Forgets a call that nobody can join any more. `ended` hears under which of its keys it was found until now, while none
    /// can begin.
    pub(super) fn forget(&self, keys: &Keys, number: u64, ended: impl FnOnce([bool; 2])) {
        let mut flights = self.lock();
        let gone = keys.each_ref().map(|key| {
            let key = key.as_ref()?;
            let is_it = flights.number(Some(key)) == Some(number);
            is_it.then(|| flights.0.remove(key))?
        });
        ended(gone.each_ref().map(Option::is_some));
        drop(flights);
        // Whatever they still hold is dropped where nothing is locked.
        drop(gone);
    }
}

impl<E> Locked<'_, E> {
    /// Returns the number of the call that is found by a key.
    pub(super) fn number(&self, key: Option<&Key>) -> Option<u64> {
        self.0.get(key?).map(|aloft| aloft.flight.number())
    }

    /// Lets a call be found. Those whose places it takes are dropped where nothing is locked.
    pub(super) fn insert(mut self, keys: &Keys, aloft: &Aloft<E>) {
        let places = keys.iter().flatten();
        let gone: Vec<_> = places
            .map(|key| self.0.insert(*key, aloft.clone()))
            .collect();
        drop(self);
        drop(gone);
    }
}
