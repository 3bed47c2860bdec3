//! A [`Reply`] is a response whose end somebody waits for.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

use super::cause::Cause;

/// A body of unknown kind that can fail as an upstream fails.
pub type BoxBody = Pin<Box<dyn Body<Data = Bytes, Error = StreamError> + Send>>;

/// How an answer can break after its status has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The upstream's connection broke, or its framing did.
    #[error("the upstream ended its answer too early")]
    Broken,
    /// Nothing came from the upstream for longer than its idle timeout.
    #[error("the upstream stopped sending")]
    Idle,
    /// The answer took longer than the upstream's total timeout.
    #[error("the answer took longer than the total timeout")]
    Overdue,
    /// One event, or the decoded answer, grew beyond its bound.
    #[error("the upstream's answer is too large")]
    TooLarge,
    /// Weir is shutting down and its drain timeout is over.
    #[error("the gateway is shutting down")]
    Drained,
    /// The local model failed.
    #[error("the local model failed")]
    Engine,
    /// The answer is read by others too, and went on without this client, which was too slow.
    #[error("the client read too slowly an answer that others read, too")]
    Behind,
    /// Nobody wants the rest any more. Told to the books alone.
    #[error("nobody reads the answer any more")]
    Abandoned,
    /// The ledger could not be written.
    #[error("the answer cannot be accounted for")]
    Unrecorded,
}

impl StreamError {
    /// Returns why the answer broke: a word of the closed vocabulary `upstream_*`, `gateway_*`.
    pub fn cause(self) -> Cause {
        match self {
            Self::Broken => Cause::UpstreamBroken,
            Self::Idle | Self::Overdue => Cause::UpstreamTimeout,
            Self::TooLarge => Cause::UpstreamTooLarge,
            Self::Drained => Cause::GatewayDrained,
            Self::Engine => Cause::GatewayEngine,
            Self::Behind => Cause::ClientSlow,
            Self::Abandoned => Cause::ClientGone,
            Self::Unrecorded => Cause::GatewayLedger,
        }
    }

    /// Returns whether the upstream is to blame.
    pub fn is_upstreams(self) -> bool {
        match self {
            Self::Broken | Self::Idle | Self::Engine => true,
            // A long answer, or a long event, may be what was asked for.
            Self::Overdue
            | Self::TooLarge
            | Self::Drained
            | Self::Unrecorded
            | Self::Behind
            | Self::Abandoned => false,
        }
    }
}

/// How an answer ended, as seen by whoever registered with [`Reply::on_end`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every byte was handed to the client's connection.
    Complete,
    /// It broke on the way.
    Failed(StreamError),
    /// The client went away first.
    ClientGone,
}

/// The answer to a [`Call`](super::Call).
pub struct Reply {
    /// The status for the client.
    pub status: StatusCode,
    /// End-to-end headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: ReplyBody,
}

type OnEnd = Box<dyn FnOnce(Outcome) + Send>;

/// A body that tells once, and exactly once, how it ended.
pub struct ReplyBody {
    kind: Kind,
    on_end: Vec<OnEnd>,
    tunnel: Option<Tunnel>,
}

/// What goes on when the body of its reply has ended: two connections that are joined.
pub struct Tunnel {
    traffic: Arc<Traffic>,
    kept: Vec<Box<dyn Send>>,
    /// `None` once it was handed over.
    hold: Option<oneshot::Sender<Vec<Box<dyn Send>>>>,
}

/// Holds what a tunnel takes up, for as long as it lasts.
pub struct TunnelEnd {
    _kept: oneshot::Receiver<Vec<Box<dyn Send>>>,
}

/// Bytes that have gone through a tunnel so far.
#[derive(Debug, Default)]
pub struct Traffic {
    /// From the client.
    pub received: AtomicU64,
    /// To the client.
    pub sent: AtomicU64,
}

enum Kind {
    Full(Option<Bytes>),
    Stream(BoxBody),
    Events(BoxBody),
}

// === impl Reply ===

impl Reply {
    /// Builds a reply from a whole body.
    pub fn full(status: StatusCode, headers: HeaderMap, body: Bytes) -> Self {
        Self {
            status,
            headers,
            body: ReplyBody {
                kind: Kind::Full(Some(body)),
                on_end: Vec::new(),
                tunnel: None,
            },
        }
    }

    /// Builds a reply whose body is still to come.
    pub fn stream(status: StatusCode, headers: HeaderMap, body: BoxBody) -> Self {
        Self {
            status,
            headers,
            body: ReplyBody {
                kind: Kind::Stream(body),
                on_end: Vec::new(),
                tunnel: None,
            },
        }
    }

    /// Builds a reply of server-sent events. Each frame holds whole events, so that an error can be told as one more.
    pub fn events(status: StatusCode, headers: HeaderMap, body: BoxBody) -> Self {
        Self {
            status,
            headers,
            body: ReplyBody {
                kind: Kind::Events(body),
                on_end: Vec::new(),
                tunnel: None,
            },
        }
    }

    /// Says that the connection goes on as a tunnel.
    #[must_use]
    pub fn switched(mut self, tunnel: Tunnel) -> Self {
        self.body.tunnel = Some(tunnel);
        self
    }

    /// Returns the tunnel that the connection goes on as.
    pub fn tunnel_mut(&mut self) -> Option<&mut Tunnel> {
        self.body.tunnel.as_mut()
    }

    /// Runs `f` once when the answer has ended, whatever way it does, also by being dropped. What
    /// registers first runs first: inner layers settle, then outer ones see it settled.
    #[must_use]
    pub fn on_end(mut self, f: impl FnOnce(Outcome) + Send + 'static) -> Self {
        self.body.on_end.push(Box::new(f));
        self
    }
}

// === impl Tunnel ===

impl Tunnel {
    /// Makes a tunnel, and what its task holds until its end.
    pub fn new() -> (Self, TunnelEnd) {
        let (hold, receiver) = oneshot::channel();
        let tunnel = Self {
            traffic: Arc::default(),
            kept: Vec::new(),
            hold: Some(hold),
        };
        (tunnel, TunnelEnd { _kept: receiver })
    }

    /// Keeps something until the tunnel has ended.
    pub fn keep(&mut self, value: impl Send + 'static) {
        self.kept.push(Box::new(value));
    }

    /// Returns what goes through it.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if let Some(hold) = self.hold.take() {
            // A tunnel that has ended already gives it back, to be dropped.
            let _ = hold.send(std::mem::take(&mut self.kept));
        }
    }
}

// === impl ReplyBody ===

impl ReplyBody {
    /// Returns the bytes of a body that is already whole.
    pub fn as_full(&self) -> Option<&Bytes> {
        match &self.kind {
            Kind::Full(bytes) => bytes.as_ref(),
            Kind::Stream(_) | Kind::Events(_) => None,
        }
    }

    /// Takes the bytes of a body that is already whole, to hand them on in another form: with that it has ended.
    pub fn take_full(&mut self) -> Option<Bytes> {
        let Kind::Full(bytes) = &mut self.kind else {
            return None;
        };
        let bytes = bytes.take();
        self.end(Outcome::Complete);
        bytes
    }

    /// Returns whether the body is a stream of events, each frame holding whole ones.
    pub fn is_events(&self) -> bool {
        matches!(self.kind, Kind::Events(_))
    }

    /// Gives access to a stream of events, to read its beginning. Whoever takes frames must put them back by
    /// [`map_events`](Self::map_events).
    pub fn events_mut(&mut self) -> Option<&mut BoxBody> {
        match &mut self.kind {
            Kind::Events(body) => Some(body),
            Kind::Full(_) | Kind::Stream(_) => None,
        }
    }

    /// Wraps a stream of events; any other body stays as it is. What `f` returns holds whole events again.
    #[must_use]
    pub fn map_events(mut self, f: impl FnOnce(BoxBody) -> BoxBody) -> Self {
        self.kind = match std::mem::replace(&mut self.kind, Kind::Full(None)) {
            Kind::Events(body) => Kind::Events(f(body)),
            other => other,
        };
        self
    }

    /// Wraps a body that is neither whole nor a stream of events; any other one stays as it is.
    #[must_use]
    pub fn map_stream(mut self, f: impl FnOnce(BoxBody) -> BoxBody) -> Self {
        self.kind = match std::mem::replace(&mut self.kind, Kind::Full(None)) {
            Kind::Stream(body) => Kind::Stream(f(body)),
            other => other,
        };
        self
    }

    /// Ends the body from outside: it is read no further.
    pub fn fail(&mut self, error: StreamError) {
        self.kind = Kind::Full(None);
        self.end(Outcome::Failed(error));
    }

    fn end(&mut self, outcome: Outcome) {
        for f in std::mem::take(&mut self.on_end) {
            f(outcome);
        }
    }
}

impl From<Bytes> for ReplyBody {
    fn from(bytes: Bytes) -> Self {
        Self {
            kind: Kind::Full(Some(bytes)),
            on_end: Vec::new(),
            tunnel: None,
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let this = self.get_mut();
        match &mut this.kind {
            Kind::Full(bytes) => {
                let bytes = bytes.take().filter(|bytes| !bytes.is_empty());
                this.end(Outcome::Complete);
                Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
            }
            Kind::Stream(body) | Kind::Events(body) => {
                let frame = std::task::ready!(body.as_mut().poll_frame(cx));
                match &frame {
                    None => this.end(Outcome::Complete),
                    Some(Err(error)) => this.end(Outcome::Failed(*error)),
                    // hyper does not poll again once the announced length is through.
                    Some(Ok(_)) if body.is_end_stream() => this.end(Outcome::Complete),
                    Some(Ok(_)) => {}
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Kind::Stream(body) | Kind::Events(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Kind::Stream(body) | Kind::Events(body) => body.size_hint(),
        }
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        let outcome = if self.is_end_stream() {
            Outcome::Complete
        } else {
            Outcome::ClientGone
        };
        self.end(outcome);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use http_body_util::BodyExt;

    use super::*;

    struct Scripted(VecDeque<Result<Frame<Bytes>, StreamError>>);

    impl Body for Scripted {
        type Data = Bytes;
        type Error = StreamError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
            Poll::Ready(self.0.pop_front())
        }
    }

    fn watched(
        frames: Vec<Result<Frame<Bytes>, StreamError>>,
    ) -> (Reply, Arc<Mutex<Vec<Outcome>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let body = Box::pin(Scripted(frames.into()));
        let reply = Reply::stream(StatusCode::OK, HeaderMap::new(), body)
            .on_end(move |outcome| sink.lock().unwrap().push(outcome));
        (reply, seen)
    }

    #[tokio::test]
    async fn the_end_is_told_once() {
        let (reply, seen) = watched(vec![Ok(Frame::data(Bytes::from_static(b"a")))]);
        let bytes = reply.body.collect().await.unwrap().to_bytes();
        assert_eq!(bytes, "a");
        assert_eq!(*seen.lock().unwrap(), [Outcome::Complete]);
    }

    #[tokio::test]
    async fn a_broken_stream_is_told_with_its_cause() {
        let (reply, seen) = watched(vec![Err(StreamError::Idle)]);
        assert!(reply.body.collect().await.is_err());
        assert_eq!(*seen.lock().unwrap(), [Outcome::Failed(StreamError::Idle)]);
    }

    #[test]
    fn a_dropped_stream_means_that_the_client_has_gone() {
        let (reply, seen) = watched(vec![Ok(Frame::data(Bytes::from_static(b"a")))]);
        drop(reply);
        assert_eq!(*seen.lock().unwrap(), [Outcome::ClientGone]);
    }

    #[test]
    fn an_empty_body_is_complete_without_being_read() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        drop(
            Reply::full(StatusCode::NO_CONTENT, HeaderMap::new(), Bytes::new())
                .on_end(move |outcome| sink.lock().unwrap().push(outcome)),
        );
        assert_eq!(*seen.lock().unwrap(), [Outcome::Complete]);
    }
}
