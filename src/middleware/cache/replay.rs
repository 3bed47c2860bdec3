//! Answers that were kept, once more: at once, or at the pace at which they came.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::call::{BoxBody, Reply, StreamError};
use crate::store::cache::{Entry, Stored};

/// How many bytes of a stream that is replayed go out at a time.
const AT_ONCE: usize = 64 << 10;

/// No pause of an upstream is repeated for longer: what it was busy with then is done.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// RFC 7234, section 5.5.2. RFC 9111 no longer asks for it, and `age` and `cache-status` say as much; those who read neither
/// may read this.
const WARNING: HeaderValue = HeaderValue::from_static("111 weir \"Revalidation Failed\"");

/// Builds the reply that an entry is.
pub(super) fn replay(entry: &Entry, paced: bool) -> Reply {
    let mut headers = entry.headers.clone();
    headers.insert(header::AGE, HeaderValue::from(entry.age().as_secs()));
    match &entry.body {
        Stored::Whole(bytes) => Reply::full(StatusCode::OK, headers, bytes.clone()),
        Stored::Events(events, ends) => {
            let knows_pace = paced && entry.pace.len() == ends.len();
            let body: BoxBody = Box::pin(Replay {
                events: events.clone(),
                ends: Arc::clone(ends),
                next: 0,
                pace: knows_pace.then(|| Pace::new(Arc::clone(&entry.pace))),
            });
            Reply::events(StatusCode::OK, headers, body)
        }
    }
}

/// Builds the reply that an entry is whose time is over.
pub(super) fn replay_stale(entry: &Entry, paced: bool) -> Reply {
    let mut reply = replay(entry, paced);
    reply.headers.insert(header::WARNING, WARNING);
    reply
}

/// A stream that was kept, as fast as it is read, many of its blocks at a time; or as fast as it came.
struct Replay {
    /// What is left.
    events: Bytes,
    ends: Arc<[usize]>,
    /// The number of the next block.
    next: usize,
    /// `None`: at once.
    pace: Option<Pace>,
}

/// When the blocks are due.
struct Pace {
    /// After how many milliseconds each came.
    offsets: Arc<[u32]>,
    /// When the next one is due.
    due: Instant,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Body for Replay {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let this = &mut *self;
        let start = this.next.checked_sub(1).map_or(0, |last| this.ends[last]);
        let rest = this.ends.get(this.next..).unwrap_or_default();
        if rest.is_empty() {
            return Poll::Ready(None);
        }
        // The first one in any case.
        let fitting = rest.iter().take_while(|end| **end - start <= AT_ONCE);
        let fitting = fitting.count().max(1);
        let count = match &mut this.pace {
            None => fitting,
            Some(pace) => ready!(pace.poll_due(cx, this.next, fitting)),
        };
        let end = rest[count - 1];
        this.next += count;
        Poll::Ready(Some(Ok(Frame::data(this.events.split_to(end - start)))))
    }

    fn is_end_stream(&self) -> bool {
        self.next >= self.ends.len()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.events.len() as u64)
    }
}

impl Pace {
    fn new(offsets: Arc<[u32]>) -> Self {
        let mut pace = Self {
            offsets,
            due: Instant::now(),
            alarm: None,
        };
        pace.due += pace.pause(0);
        pace
    }

    /// Returns how long nothing comes before a block.
    fn pause(&self, number: usize) -> Duration {
        let at = |number: usize| self.offsets.get(number).copied();
        let before = number.checked_sub(1).and_then(at).unwrap_or(0);
        let pause = at(number).unwrap_or(before).saturating_sub(before);
        Duration::from_millis(pause.into()).min(LONGEST_PAUSE)
    }

    /// Waits until the next block is due; returns how many are, at most so many.
    fn poll_due(&mut self, cx: &mut Context<'_>, next: usize, most: usize) -> Poll<usize> {
        if Instant::now() < self.due {
            let due = self.due;
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if alarm.deadline() != due {
                alarm.as_mut().reset(due);
            }
            ready!(alarm.as_mut().poll(cx));
        }
        let now = Instant::now();
        let mut count = 0;
        while count < most && (count == 0 || self.due <= now) {
            count += 1;
            self.due += self.pause(next + count);
        }
        Poll::Ready(count)
    }
}
