//! Answers on their way to Redis, off the path of those who got them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::super::record::{Stamp, encode};
use super::super::{Entry, Key};
use super::library::answer;
use super::{Lease, SharedCache};

/// How long Redis may take for one answer; no client waits for that.
const TIMEOUT: Duration = Duration::from_secs(1);
/// What is larger is packed where that holds up no requests.
const LARGE: usize = 32 << 10;
/// By which the room is counted: no answer takes less.
const UNIT: u64 = 1 << 10;

/// Answers that wait until Redis has them, bounded in the bytes that they take in memory.
pub(super) struct Queue {
    jobs: mpsc::UnboundedSender<Message>,
    room: Arc<Semaphore>,
    /// Answers for which there was no room.
    dropped: AtomicU64,
}

/// An answer that Redis is to have.
pub(super) struct Job {
    pub(super) key: Key,
    pub(super) entry: Arc<Entry>,
    pub(super) stamp: Stamp,
    /// Given back when Redis has it, and not before.
    pub(super) lease: Option<Lease>,
}

/// What the writer is told. All of them are bounded by the room, but for flushes, of which there is one.
pub(super) enum Message {
    Write(Job, OwnedSemaphorePermit),
    Flush(oneshot::Sender<()>),
}

impl Queue {
    /// Makes one with room for so many bytes, or for one answer of `largest`.
    pub(super) fn new(bytes: u64, largest: u64) -> (Self, mpsc::UnboundedReceiver<Message>) {
        let (jobs, writing) = mpsc::unbounded_channel();
        let units = usize::try_from(units(bytes.max(largest))).unwrap_or(usize::MAX);
        let queue = Self {
            jobs,
            room: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))),
            dropped: AtomicU64::new(0),
        };
        (queue, writing)
    }

    pub(super) fn put(&self, job: Job) {
        let units = u32::try_from(units(job.entry.size() as u64)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(units);
        let sent = room.map(|room| self.jobs.send(Message::Write(job, room)));
        if !matches!(sent, Ok(Ok(()))) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all that waits now was written, or could not be.
    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.jobs.send(Message::Flush(done)).is_ok() {
            let _ = flushed.await;
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Writes what comes, until nobody keeps answers any more.
pub(super) async fn write_all(
    shared: Weak<SharedCache>,
    mut writing: mpsc::UnboundedReceiver<Message>,
) {
    while let Some(message) = writing.recv().await {
        match message {
            Message::Flush(done) => {
                let _ = done.send(());
            }
            Message::Write(job, _room) => {
                let Some(shared) = shared.upgrade() else {
                    return;
                };
                shared.write(job).await;
            }
        }
    }
}

impl SharedCache {
    async fn write(&self, job: Job) {
        let Job {
            key,
            entry,
            stamp,
            lease,
        } = job;
        // What nobody would be served need not go there.
        if self.marks.known().takes(stamp, &entry.tags) {
            return;
        }
        let packing = Arc::clone(&entry);
        let pack = move || encode(&key, &packing, stamp);
        let packed = match entry.size() > LARGE {
            true => tokio::task::spawn_blocking(pack).await,
            false => Ok(pack()),
        };
        let (Ok(Ok(packed)), Some(left)) = (packed, entry.fresh_for()) else {
            return;
        };
        let mut set = redis::cmd("SET");
        set.arg(answer(&key)).arg(packed);
        set.arg("PX").arg(left.as_millis().max(1) as u64);
        let set = self.redis.call_aside::<()>(&set, TIMEOUT).await;
        let count = match set {
            Ok(()) => &self.counts.stored,
            Err(_) => &self.counts.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
        drop(lease);
    }
}

fn units(bytes: u64) -> u64 {
    bytes.div_ceil(UNIT).max(1)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use bytes::Bytes;
    use http::HeaderMap;

    use super::super::super::{Shape, Stored, Tags};
    use super::*;

    fn job(bytes: usize) -> Job {
        Job {
            key: Key([0; 32]),
            entry: Arc::new(Entry {
                headers: HeaderMap::new(),
                body: Stored::Whole(Bytes::from(vec![b'x'; bytes])),
                usage: None,
                served_model: None,
                tags: Tags {
                    key: "alice".into(),
                    team: None,
                    model: "m".into(),
                    endpoint: "/v1/embeddings",
                },
                shape: Shape::default(),
                stored: Instant::now(),
                ttl: Duration::from_secs(60),
                stale: Duration::ZERO,
                pace: Arc::default(),
            }),
            stamp: Stamp {
                epoch: 1,
                purges: 0,
            },
            lease: None,
        }
    }

    #[test]
    fn what_waits_is_bounded_in_bytes() {
        let (queue, mut writing) = Queue::new(64 << 10, 0);
        for _ in 0..10 {
            queue.put(job(15 << 10));
        }
        // Each takes its body and what is beside it.
        assert_eq!(queue.dropped(), 6);
        for _ in 0..4 {
            assert!(matches!(writing.try_recv(), Ok(Message::Write(..))));
        }
        assert!(writing.try_recv().is_err());
        queue.put(job(15 << 10));
        assert_eq!(queue.dropped(), 6, "there is room again");
    }

    #[test]
    fn the_largest_answer_has_room_in_any_case() {
        let (queue, _writing) = Queue::new(1 << 10, 1 << 20);
        queue.put(job((1 << 20) - 1024));
        assert_eq!(queue.dropped(), 0);
    }
}
