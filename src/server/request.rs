//! The service of one connection: passes requests on, and keeps account of what is under way.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tower::util::Oneshot;
use tower::{Service, ServiceExt};

use super::Drain;
use super::guard::{Activity, LINGER};

/// The client's address, in a request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddr(pub SocketAddr);

/// What a listener can serve.
pub trait HttpService:
    Service<
        Request<RequestBody>,
        Response = Response<Self::Body>,
        Error = Infallible,
        Future: Future<Output = Result<Response<Self::Body>, Infallible>> + Send,
    > + Clone
    + Send
    + 'static
{
    /// The body of the answers.
    type Body: Body<Data = Bytes, Error = Self::BodyError> + Send + 'static;
    /// How it can break.
    type BodyError: Into<Box<dyn std::error::Error + Send + Sync>> + 'static;
}

impl<S, B> HttpService for S
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    type Body = B;
    type BodyError = B::Error;
}

/// The service that hyper calls.
#[derive(Clone)]
pub(super) struct Tracked<S> {
    pub(super) inner: S,
    pub(super) peer: PeerAddr,
    pub(super) activity: Arc<Activity>,
    pub(super) drain: Drain,
}

impl<S: HttpService> hyper::service::Service<Request<Incoming>> for Tracked<S> {
    type Response = Response<TrackedBody<S::Body>>;
    type Error = Infallible;
    type Future = TrackedFuture<Oneshot<S, Request<RequestBody>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let http1 = request.version() < Version::HTTP_2;
        let under_way = UnderWay::new(&self.activity);
        if http1
            && request.headers().contains_key(header::UPGRADE)
            && let Some(upgrade) = request.extensions().get::<OnUpgrade>()
        {
            self.activity.upgrade_asked(upgrade.clone());
        }
        let body_under_way = UnderWay::new(&self.activity);
        let mut request = request.map(|inner| RequestBody {
            inner: Some(inner),
            ended: false,
            http1,
            under_way: body_under_way,
            drain: self.drain.clone(),
        });
        request.extensions_mut().insert(self.peer);
        TrackedFuture {
            inner: self.inner.clone().oneshot(request),
            under_way: Some(under_way),
            drain: self.drain.clone(),
            http1,
        }
    }
}

pin_project! {
    /// The future of [`Tracked`].
    pub(super) struct TrackedFuture<F> {
        #[pin]
        inner: F,
        under_way: Option<UnderWay>,
        drain: Drain,
        http1: bool,
    }
}

impl<F, B> Future for TrackedFuture<F>
where
    F: Future<Output = Result<Response<B>, Infallible>>,
{
    type Output = Result<Response<TrackedBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(mut response) = ready!(this.inner.poll(cx));
        let under_way = this.under_way.take();
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(under_way) = &under_way
        {
            under_way.0.switched();
        }
        // A refused request whose body nobody reads, and a connection that will not be kept: the client shall know.
        let unread = under_way
            .as_ref()
            .is_some_and(|under_way| under_way.0.has_unread());
        if !*this.http1 {
            response.headers_mut().remove(header::CONNECTION);
        } else if unread
            || (this.drain.has_begun() && response.status() != StatusCode::SWITCHING_PROTOCOLS)
        {
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let waiting = under_way
            .as_ref()
            .filter(|_| !*this.http1)
            .map(|under_way| under_way.1);
        Poll::Ready(Ok(response.map(|inner| TrackedBody {
            inner,
            waiting,
            under_way,
        })))
    }
}

/// Counts a request as long as it, or the body of its answer, lives.
struct UnderWay(Arc<Activity>, u64);

impl UnderWay {
    fn new(activity: &Arc<Activity>) -> Self {
        let number = activity.request_began();
        Self(Arc::clone(activity), number)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.request_ended();
    }
}

pin_project! {
    /// The body of an answer.
    pub(super) struct TrackedBody<B> {
        #[pin]
        inner: B,
        // HTTP/2 alone: the number under which it waits for its client.
        waiting: Option<u64>,
        under_way: Option<UnderWay>,
    }

    impl<B> PinnedDrop for TrackedBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let (Some(id), Some(under_way)) = (*this.waiting, this.under_way) {
                under_way.0.answer_waits(id, false);
            }
        }
    }
}

impl<B: Body> Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = this.inner.poll_frame(cx);
        if let (Some(id), Some(under_way)) = (*this.waiting, this.under_way) {
            // hyper asks for the next frame when this one has found room at the client.
            under_way
                .0
                .answer_waits(id, matches!(frame, Poll::Ready(Some(Ok(_)))));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The body of a request. Dropped before its end it tells the connection, which cannot be used for another request then.
pub struct RequestBody {
    /// Taken when it is dropped.
    inner: Option<Incoming>,
    ended: bool,
    http1: bool,
    under_way: UnderWay,
    drain: Drain,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(inner).poll_frame(cx));
        self.ended |= frame.is_none();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if self.ended || self.is_end_stream() {
            return;
        }
        if self.http1 {
            self.under_way.0.body_left_unread();
        } else if let (Some(body), Ok(runtime)) = (self.inner.take(), Handle::try_current()) {
            // A stream that is reset while the client still sends takes the answer with it, for many clients. What
            // they send is thrown away for a while instead.
            let discard = async move {
                let _ = tokio::time::timeout(LINGER, discard(body)).await;
            };
            self.drain.tasks().spawn_on(discard, &runtime);
        }
    }
}

async fn discard(mut body: Incoming) {
    while let Some(Ok(_)) = body.frame().await {}
}
