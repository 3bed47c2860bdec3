//! A service that can be replaced while listeners serve it.
//!
//! Every request takes the service that is current when it arrives, also on a connection that was open before, and
//! keeps it until the last byte of its answer: what it began with, it ends with. An idle connection keeps nothing, so a
//! service that was replaced is gone with the last of its requests.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arc_swap::ArcSwap;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tower::util::Oneshot;
use tower::{Service, ServiceExt};

use super::{HttpService, RequestBody};

/// The service that is current. All clones share it.
pub struct Current<S: Clone + Send + 'static> {
    // Read without a lock: a reload must not make requests queue, and most of the time there is none.
    slot: Arc<ArcSwap<Kept<S>>>,
}

/// A service as long as anything needs it.
struct Kept<S: Clone + Send + 'static>(S);

impl<S: Clone + Send + 'static> Drop for Kept<S> {
    /// The end of a service may be slow: a model's thread is waited for, gigabytes are given back. Whoever happens to be
    /// the last is a request, which must not hold up the others.
    fn drop(&mut self) {
        if let Ok(runtime) = Handle::try_current() {
            let last = self.0.clone();
            runtime.spawn_blocking(move || drop(last));
        }
    }
}

// === impl Current ===

impl<S: HttpService + Sync> Current<S> {
    /// Begins with this service.
    pub fn new(service: S) -> Self {
        Self {
            slot: Arc::new(ArcSwap::from_pointee(Kept(service))),
        }
    }

    /// Gives every request from now on to another service.
    pub fn replace(&self, service: S) {
        self.slot.store(Arc::new(Kept(service)));
    }
}

impl<S: Clone + Send + 'static> Clone for Current<S> {
    fn clone(&self) -> Self {
        Self {
            slot: Arc::clone(&self.slot),
        }
    }
}

impl<S: HttpService + Sync> Service<Request<RequestBody>> for Current<S> {
    type Response = Response<KeptBody<S>>;
    type Error = Infallible;
    type Future = KeptFuture<S>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Which service it will be is only known with the request; its readiness is waited for then.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let kept = self.slot.load_full();
        KeptFuture {
            inner: kept.0.clone().oneshot(request),
            kept: Some(kept),
        }
    }
}

pin_project! {
    /// The future of [`Current`].
    pub struct KeptFuture<S: HttpService> {
        #[pin]
        inner: Oneshot<S, Request<RequestBody>>,
        kept: Option<Arc<Kept<S>>>,
    }
}

impl<S: HttpService> Future for KeptFuture<S> {
    type Output = Result<Response<KeptBody<S>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(response) = ready!(this.inner.poll(cx));
        let kept = this.kept.take();
        Poll::Ready(Ok(response.map(|inner| KeptBody { inner, _kept: kept })))
    }
}

pin_project! {
    /// The body of an answer, and the service that it comes from.
    pub struct KeptBody<S: HttpService> {
        #[pin]
        inner: S::Body,
        _kept: Option<Arc<Kept<S>>>,
    }
}

impl<S: HttpService> Body for KeptBody<S> {
    type Data = bytes::Bytes;
    type Error = S::BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
