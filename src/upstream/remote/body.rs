//! Bodies to and from an upstream, and the clock that both are held to.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::OWN;
use crate::call::{Record, StreamError, Upload, UploadBody, UploadError};
use crate::upstream::{Attempt, Timeouts};

/// How long the parts of an answer may take, and when it must have begun and ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) timeouts: Timeouts,
    /// When the head must be there.
    pub(super) deadline: Instant,
    /// When the last byte must be there.
    pub(super) overdue: Instant,
}

impl Clock {
    /// Starts with an attempt.
    pub(super) fn of(attempt: &Attempt) -> Self {
        Self {
            timeouts: attempt.timeouts,
            deadline: attempt.deadline,
            overdue: attempt.overdue,
        }
    }

    /// Starts with a request on the gateway's own account.
    pub(super) fn own() -> Self {
        let overdue = Instant::now() + OWN.total;
        Self {
            timeouts: OWN,
            deadline: overdue,
            overdue,
        }
    }

    /// The clock of an answer that is held until it is whole: its client waits for it as for a head.
    pub(super) fn held(self) -> Self {
        Self {
            overdue: self.deadline,
            ..self
        }
    }
}

/// The body of a request to an upstream.
pub(super) struct RequestBody {
    kind: Kind,
}

enum Kind {
    Full {
        bytes: Option<Bytes>,
        /// Where it is noted that they are on their way; `None` once it is.
        notice: Option<(Arc<Record>, usize)>,
    },
    Upload {
        upload: Upload,
        /// Taken from `upload` when the connection stands and asks for it.
        body: Option<UploadBody>,
        length: Option<u64>,
        /// Cancels `sent` when the upload has ended, by whatever way.
        done: Option<DropGuard>,
        watch: UploadWatch,
    },
}

/// What can be seen of an upload from outside.
#[derive(Clone)]
pub(super) struct UploadWatch {
    /// Cancelled when the upload has ended.
    pub(super) sent: CancellationToken,
    /// How it broke. HTTP/2 does not hand the error on.
    pub(super) fault: Arc<OnceLock<UploadError>>,
}

impl RequestBody {
    pub(super) fn empty() -> Self {
        Self {
            kind: Kind::Full {
                bytes: None,
                notice: None,
            },
        }
    }

    /// The whole body of a try, by its place among those of the record.
    pub(super) fn full(bytes: Bytes, record: Arc<Record>, number: usize) -> Self {
        Self {
            kind: Kind::Full {
                bytes: Some(bytes),
                notice: Some((record, number)),
            },
        }
    }

    pub(super) fn upload(upload: Upload, length: Option<u64>) -> Self {
        let sent = CancellationToken::new();
        let done = Some(sent.clone().drop_guard());
        let watch = UploadWatch {
            sent,
            fault: Arc::default(),
        };
        Self {
            kind: Kind::Upload {
                upload,
                body: None,
                length,
                done,
                watch,
            },
        }
    }

    /// Returns a view of the upload; `None` when the body is sent with the head.
    pub(super) fn watch(&self) -> Option<UploadWatch> {
        match &self.kind {
            Kind::Full { .. } => None,
            Kind::Upload { watch, .. } => Some(watch.clone()),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        match &mut self.kind {
            Kind::Full { bytes, notice } => {
                // A body is read only when there is a connection to write it to.
                if let Some((record, number)) = notice.take() {
                    record.note_try(number, |noted| noted.sent = true);
                }
                let bytes = bytes.take().filter(|bytes| !bytes.is_empty());
                Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
            }
            Kind::Upload {
                upload,
                body,
                done,
                watch,
                ..
            } => loop {
                if body.is_none() {
                    *body = upload.take();
                }
                let Some(body) = body else {
                    // What another try has begun to send must not end here as if it were whole.
                    return Poll::Ready(Some(Err(UploadError::Broken)));
                };
                let frame = ready!(body.as_mut().poll_frame(cx));
                if let Some(Err(fault)) = &frame {
                    let _ = watch.fault.set(*fault);
                }
                if frame.is_none() || body.is_end_stream() {
                    *done = None;
                }
                // Trailers belong to the hop's framing.
                if matches!(&frame, Some(Ok(frame)) if !frame.is_data()) {
                    continue;
                }
                return Poll::Ready(frame);
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full { bytes, .. } => bytes.as_ref().is_none_or(Bytes::is_empty),
            Kind::Upload { upload, body, .. } => match body {
                Some(body) => body.is_end_stream(),
                None => upload.is_empty(),
            },
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full { bytes, .. } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Kind::Upload {
                length: Some(length),
                ..
            } => SizeHint::with_exact(*length),
            Kind::Upload { length: None, .. } => SizeHint::default(),
        }
    }
}

/// An answer's body as it comes from the connection, which must say that it is whole.
pub(super) struct Received<B = Incoming> {
    inner: B,
    /// Whether a reset can look like the end: hyper takes one of HTTP/2 without an error for an early end (RFC 9113,
    /// section 8.1), however much is missing.
    doubtful: bool,
}

impl Received {
    pub(super) fn of(response: Response<Incoming>) -> Response<Self> {
        let doubtful = response.version() == Version::HTTP_2;
        response.map(|inner| Self { inner, doubtful })
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Received<B> {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        Poll::Ready(match frame {
            None if self.doubtful && !is_whole(&self.inner) => {
                self.doubtful = false;
                Some(Err(StreamError::Broken))
            }
            None => None,
            Some(frame) => Some(frame.map_err(|_| StreamError::Broken)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Returns whether the end was announced, or all that was announced has come.
fn is_whole(body: &impl Body) -> bool {
    body.is_end_stream() || body.size_hint().exact() == Some(0)
}

pin_project! {
    /// An answer that must keep coming. The idle time runs while we wait for the upstream, never while we wait for the
    /// client.
    pub(super) struct Timed<B> {
        #[pin]
        inner: B,
        clock: Clock,
        timer: Option<Pin<Box<Sleep>>>,
        waiting: bool,
    }
}

impl<B> Timed<B> {
    pub(super) fn new(inner: B, clock: Clock) -> Self {
        Self {
            inner,
            clock,
            timer: None,
            waiting: false,
        }
    }
}

impl<B: Body<Data = Bytes>> Body for Timed<B> {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let mut this = self.project();
        loop {
            match this.inner.as_mut().poll_frame(cx) {
                Poll::Ready(frame) => {
                    *this.waiting = false;
                    return Poll::Ready(match frame {
                        None => None,
                        // Trailers belong to the hop's framing.
                        Some(Ok(frame)) if !frame.is_data() => continue,
                        Some(Ok(_)) if Instant::now() >= this.clock.overdue => {
                            Some(Err(StreamError::Overdue))
                        }
                        Some(Ok(frame)) => Some(Ok(frame)),
                        Some(Err(_)) => Some(Err(StreamError::Broken)),
                    });
                }
                Poll::Pending => {
                    if !*this.waiting {
                        *this.waiting = true;
                        let until = this
                            .clock
                            .overdue
                            .min(Instant::now() + this.clock.timeouts.idle);
                        match this.timer {
                            Some(timer) => timer.as_mut().reset(until),
                            None => *this.timer = Some(Box::pin(tokio::time::sleep_until(until))),
                        }
                    }
                    if let Some(timer) = this.timer {
                        ready!(timer.as_mut().poll(cx));
                    }
                    let overdue = Instant::now() >= this.clock.overdue;
                    let error = if overdue {
                        StreamError::Overdue
                    } else {
                        StreamError::Idle
                    };
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        // HTTP/2 may say that it was the end in a frame of its own.
        is_whole(&self.inner)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A word in every second.
    fn slow() -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        let words = futures_util::stream::unfold((), |()| async {
            tokio::time::sleep(SECOND).await;
            Some((Ok(Frame::data(Bytes::from_static(b"word"))), ()))
        });
        StreamBody::new(Box::pin(words))
    }

    /// Reads until something is wrong, and returns after how long.
    async fn read(clock: Clock) -> (StreamError, Duration) {
        let began = Instant::now();
        let mut body = Timed::new(slow(), clock);
        loop {
            if let Err(error) = body.frame().await.expect("it has no end") {
                return (error, began.elapsed());
            }
        }
    }

    /// A body that has ended, as one of HTTP/2 that was reset has: without saying so.
    struct Ended {
        says_so: bool,
        left: Option<u64>,
    }

    impl Body for Ended {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(None)
        }

        fn is_end_stream(&self) -> bool {
            self.says_so
        }

        fn size_hint(&self) -> SizeHint {
            self.left
                .map_or_else(SizeHint::default, SizeHint::with_exact)
        }
    }

    #[tokio::test]
    async fn an_end_that_nothing_announced_is_none_where_it_can_be_a_reset() {
        for (doubtful, says_so, left, whole) in [
            (true, true, None, true),
            (true, false, Some(0), true),
            (true, false, Some(7), false),
            (true, false, None, false),
            (false, false, None, true),
        ] {
            let inner = Ended { says_so, left };
            let mut body = Received { inner, doubtful };
            let end = body.frame().await.map(|frame| frame.map(|_| ()));
            let expected = (!whole).then_some(Err(StreamError::Broken));
            assert_eq!(end, expected, "{doubtful} {says_so} {left:?}");
            assert!(body.frame().await.is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_streams_may_take_longer_than_the_client_waits_for_its_head() {
        let now = Instant::now();
        let clock = Clock {
            timeouts: OWN,
            deadline: now + 5 * SECOND,
            overdue: now + 60 * SECOND,
        };
        let overdue = |time| (StreamError::Overdue, time);
        assert_eq!(read(clock).await, overdue(60 * SECOND));
        let now = Instant::now();
        let clock = Clock {
            deadline: now + 5 * SECOND,
            overdue: now + 60 * SECOND,
            ..clock
        };
        assert_eq!(read(clock.held()).await, overdue(5 * SECOND));
    }
}
