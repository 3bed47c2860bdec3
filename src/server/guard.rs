//! The bytes of an HTTP/1 connection, guarded: the timers that hyper does not have, an envelope where hyper would close
//! without a word or with an empty answer, and a close that lets the last answer arrive.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::StatusCode;
use hyper::upgrade::OnUpgrade;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::listener::Place;
use super::{Observer, Params, Rejection};

/// How long a closed connection is still read, so that what the client had under way does not destroy the answer that
/// it has not read yet (RFC 9112, section 9.6).
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// How much is read and thrown away meanwhile, in bytes.
const LINGER_BYTES: usize = 1 << 20;

/// What a connection's requests and answers tell those who watch over its bytes and its time.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Requests whose bodies, and answers, that have not ended.
    requests: AtomicUsize,
    /// Requests there have been.
    count: AtomicU64,
    /// An answer is on its way into the buffers, or still in them.
    unflushed: AtomicBool,
    /// The client may be sending bytes that nobody will read.
    unread: AtomicBool,
    /// HTTP/2 alone: answers that have given a frame and not been asked for the next, and since when.
    waiting: Mutex<HashMap<u64, Instant>>,
    upgrade: Mutex<Option<OnUpgrade>>,
}

impl Activity {
    /// Counts a request, or its body, in, and returns its number.
    pub(super) fn request_began(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.unflushed.store(true, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn request_ended(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }

    /// The connection carries another protocol from now on, which is silent as long as it likes.
    pub(super) fn switched(&self) {
        self.request_began();
        drop(self.take_upgrade());
    }

    pub(super) fn body_left_unread(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }

    /// Returns how many requests there have been.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Notes that an answer gave a frame, or that it was asked for the next one. A client that takes no bytes lets the
    /// time between the two grow.
    pub(super) fn answer_waits(&self, id: u64, waits: bool) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waits {
            waiting.insert(id, Instant::now());
        } else {
            waiting.remove(&id);
        }
    }

    /// Returns how long the answer has waited that waits longest for its client.
    pub(super) fn longest_wait(&self) -> Duration {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting
            .values()
            .map(Instant::elapsed)
            .max()
            .unwrap_or_default()
    }

    /// Keeps the upgrade that a request asks for. hyper lets go of the connection for it when the connection ends, even
    /// if the request was refused.
    pub(super) fn upgrade_asked(&self, upgrade: OnUpgrade) {
        *self.upgrade.lock().unwrap_or_else(PoisonError::into_inner) = Some(upgrade);
    }

    /// Takes that upgrade back, unless the connection has switched.
    pub(super) fn take_upgrade(&self) -> Option<OnUpgrade> {
        self.upgrade
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    pub(super) fn has_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }
}

/// A guarded connection.
pub(super) struct Guard<T> {
    inner: T,
    activity: Arc<Activity>,
    head: HeadTimer,
    write: WriteTimer,
    rejection: Rejection,
    observer: Arc<dyn Observer>,
    /// What is left of an answer that stands in for hyper's.
    substitute: Bytes,
    linger: Option<Linger>,
    /// The connection's place, which a switched connection takes along.
    _place: Arc<Place>,
}

/// What the connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// An answer is under way: other timers run.
    Answer,
    /// The first byte of the next head.
    Head,
    /// The rest of a head.
    Rest,
}

struct HeadTimer {
    waiting: Waiting,
    /// Whether the request line is through.
    line_ended: bool,
    sleep: Pin<Box<Sleep>>,
    header_timeout: Duration,
    keep_alive: Duration,
}

struct WriteTimer {
    sleep: Option<Pin<Box<Sleep>>>,
    stalled: bool,
    limit: Duration,
}

struct Linger {
    until: Pin<Box<Sleep>>,
    left: usize,
}

impl<T> Guard<T> {
    /// Takes over a connection on which a head has begun. Its time runs since `since`.
    pub(super) fn new(
        inner: T,
        since: Instant,
        activity: Arc<Activity>,
        params: &Params,
        place: Arc<Place>,
    ) -> Self {
        Self {
            inner,
            activity,
            head: HeadTimer {
                waiting: Waiting::Rest,
                line_ended: false,
                sleep: Box::pin(tokio::time::sleep_until(since + params.header_timeout)),
                header_timeout: params.header_timeout,
                keep_alive: params.keep_alive,
            },
            write: WriteTimer {
                sleep: None,
                stalled: false,
                limit: params.write_timeout,
            },
            rejection: Arc::clone(&params.rejection),
            observer: Arc::clone(&params.observer),
            substitute: Bytes::new(),
            linger: None,
            _place: place,
        }
    }
}

impl HeadTimer {
    fn wait(&mut self, waiting: Waiting) {
        if self.waiting == waiting {
            return;
        }
        self.waiting = waiting;
        let time = match waiting {
            Waiting::Answer => return,
            Waiting::Head => {
                self.line_ended = false;
                self.keep_alive
            }
            Waiting::Rest => self.header_timeout,
        };
        self.sleep.as_mut().reset(Instant::now() + time);
    }
}

impl WriteTimer {
    /// Lets the client take its time, but not longer than the limit at a stretch.
    fn poll_in_time<R>(
        &mut self,
        cx: &mut Context<'_>,
        progress: Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        if progress.is_pending() {
            return self.poll_stalled(cx).map(Err);
        }
        self.stalled = false;
        progress
    }

    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let limit = self.limit;
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if !self.stalled {
            sleep.as_mut().reset(Instant::now() + limit);
            self.stalled = true;
        }
        sleep
            .as_mut()
            .poll(cx)
            .map(|()| io::Error::new(io::ErrorKind::TimedOut, "the client takes no bytes"))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Guard<T> {
    /// The head did not come in time. A client that has begun one is told.
    fn head_overdue(&mut self, cx: &mut Context<'_>) {
        if self.head.waiting == Waiting::Rest {
            self.observer.refused("head_timeout");
            self.activity.body_left_unread();
            let answer = (self.rejection)(StatusCode::REQUEST_TIMEOUT);
            // Everything before it was flushed, so the socket takes the little that this is, or the client is past
            // caring.
            let _ = Pin::new(&mut self.inner).poll_write(cx, &answer);
        }
    }

    /// hyper answers bytes that are no request by itself, with an empty body. That is the only thing it writes while
    /// no request is under way and everything before is flushed.
    fn choose_substitute(&mut self, buf: &[u8]) {
        let clean = self.activity.is_idle() && !self.activity.unflushed.load(Ordering::Relaxed);
        if clean && (buf.starts_with(b"HTTP/1.1 4") || buf.starts_with(b"HTTP/1.0 4")) {
            let status = buf
                .get(9..12)
                .and_then(|code| StatusCode::from_bytes(code).ok());
            let status = match status.unwrap_or(StatusCode::BAD_REQUEST) {
                // hyper cannot tell a head that is too large from a URI that never ends.
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE if !self.head.line_ended => {
                    StatusCode::URI_TOO_LONG
                }
                status => status,
            };
            self.substitute = (self.rejection)(status);
            self.activity.body_left_unread();
            self.observer.refused("bad_head");
        }
    }

    fn poll_substitute(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.substitute.is_empty() {
            let n = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.substitute))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.substitute.advance(n);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        first: &[u8],
        write: impl FnOnce(Pin<&mut T>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.substitute.is_empty() {
            self.choose_substitute(first);
        }
        let written = if self.substitute.is_empty() {
            write(Pin::new(&mut self.inner), cx)
        } else {
            self.poll_substitute(cx).map_ok(|()| first.len())
        };
        self.write.poll_in_time(cx, written)
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let linger = self.linger.get_or_insert_with(|| Linger {
            until: Box::pin(tokio::time::sleep(LINGER)),
            left: LINGER_BYTES,
        });
        let mut scratch = [0; 4096];
        loop {
            if linger.left == 0 || linger.until.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut buf = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {
                    linger.left = linger.left.saturating_sub(buf.filled().len())
                }
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        match (this.activity.is_idle(), this.head.waiting) {
            (false, _) => this.head.wait(Waiting::Answer),
            (true, Waiting::Answer) => this.head.wait(Waiting::Head),
            (true, _) => {}
        }
        let before = buf.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut this.inner).poll_read(cx, buf) {
            let read = buf.filled().get(before..).unwrap_or_default();
            if this.head.waiting == Waiting::Head && !read.is_empty() {
                this.head.wait(Waiting::Rest);
            }
            if this.head.waiting == Waiting::Rest && !this.head.line_ended {
                this.head.line_ended = memchr::memchr(b'\n', read).is_some();
            }
            return Poll::Ready(result);
        }
        if this.head.waiting == Waiting::Answer {
            return Poll::Pending;
        }
        ready!(this.head.sleep.as_mut().poll(cx));
        this.head_overdue(cx);
        // The end of the input makes hyper close the connection.
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, buf, |inner, cx| inner.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bufs
            .iter()
            .find(|buf| !buf.is_empty())
            .map_or(&[][..], |buf| buf);
        self.poll_write_with(cx, first, |inner, cx| inner.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS keeps bytes of its own, so that this can wait for the client as well.
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        ready!(self.write.poll_in_time(cx, flushed))?;
        if self.activity.is_idle() {
            self.activity.unflushed.store(false, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            let shut = Pin::new(&mut this.inner).poll_shutdown(cx);
            ready!(this.write.poll_in_time(cx, shut))?;
        }
        if this.activity.unread.load(Ordering::Relaxed) {
            ready!(this.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}
