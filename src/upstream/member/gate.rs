//! How many calls an upstream gets at once, and how many may wait for a place.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// The bound of one upstream.
#[derive(Debug)]
pub struct Gate {
    places: Arc<Semaphore>,
    /// How many there are.
    count: usize,
    /// Calls that may wait.
    queue: usize,
    waiting: AtomicUsize,
}

/// A place at an upstream, given back by being dropped.
#[derive(Debug)]
pub struct Pass {
    _permit: OwnedSemaphorePermit,
}

/// There is no place, nor one to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The queue is full.
    Queue,
    /// No place came free in time.
    Waited,
}

impl Gate {
    /// Lets `places` calls in, and `queue` more wait.
    pub fn new(places: usize, queue: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))),
            count: places,
            queue,
            waiting: AtomicUsize::new(0),
        }
    }

    /// Takes a place, in the order of arrival, waiting until `deadline` at most.
    pub async fn enter(&self, deadline: Instant) -> Result<Pass, Full> {
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(Pass { _permit: permit });
        }
        let _waiting = Waiting::begin(self).ok_or(Full::Queue)?;
        let waited = tokio::time::timeout_at(deadline, Arc::clone(&self.places).acquire_owned());
        match waited.await {
            Ok(Ok(permit)) => Ok(Pass { _permit: permit }),
            // A gate is never closed.
            Ok(Err(_)) | Err(_) => Err(Full::Waited),
        }
    }

    /// Returns how many calls get in at once, and how many more may wait.
    pub fn bounds(&self) -> (usize, usize) {
        (self.count, self.queue)
    }

    /// Returns the calls that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// A place in the queue; a client that leaves gives it back.
struct Waiting<'a>(&'a Gate);

impl<'a> Waiting<'a> {
    fn begin(gate: &'a Gate) -> Option<Self> {
        let room = |waiting| (waiting < gate.queue).then_some(waiting + 1);
        gate.waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room)
            .ok()?;
        Some(Self(gate))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn in_a_second() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    #[tokio::test(start_paused = true)]
    async fn one_more_than_the_queue_is_turned_away() {
        let gate = Arc::new(Gate::new(1, 1));
        let pass = gate.enter(in_a_second()).await.unwrap();
        let waiter = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter(in_a_second()).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(gate.waiting(), 1);
        assert_eq!(gate.enter(in_a_second()).await.unwrap_err(), Full::Queue);
        drop(pass);
        assert!(waiter.await.unwrap().is_ok());
        assert_eq!(gate.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_the_deadline() {
        let gate = Gate::new(1, 5);
        let _pass = gate.enter(in_a_second()).await.unwrap();
        let began = Instant::now();
        assert_eq!(gate.enter(in_a_second()).await.unwrap_err(), Full::Waited);
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        assert_eq!(gate.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_leaves_leaves_the_queue() {
        let gate = Gate::new(1, 1);
        let _pass = gate.enter(in_a_second()).await.unwrap();
        let left = tokio::time::timeout(Duration::from_millis(1), gate.enter(in_a_second()));
        assert!(left.await.is_err());
        assert_eq!(gate.waiting(), 0);
    }
}
