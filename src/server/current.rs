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
struct Kept<S: Send + 'static> {
    service: S,
    // Dropped behind the other, so that it is the last of the two.
    _last: Last<S>,
}

/// The clone of a service that outlives the others.
struct Last<S: Send + 'static>(Option<S>);

impl<S: Clone + Send + 'static> Kept<S> {
    fn new(service: S) -> Self {
        Self {
            _last: Last(Some(service.clone())),
            service,
        }
    }
}

impl<S: Send + 'static> Drop for Last<S> {
    /// The end of a service may be slow: a model's thread is waited for, gigabytes are given back. Whoever happens to be
    /// the last is a request, which must not hold up the others.
    fn drop(&mut self) {
        if let (Ok(runtime), Some(last)) = (Handle::try_current(), self.0.take()) {
            runtime.spawn_blocking(move || drop(last));
        }
    }
}

// === impl Current ===

impl<S: HttpService + Sync> Current<S> {
    /// Begins with this service.
    pub fn new(service: S) -> Self {
        Self {
            slot: Arc::new(ArcSwap::from_pointee(Kept::new(service))),
        }
    }

    /// Gives every request from now on to another service.
    pub fn replace(&self, service: S) {
        self.slot.store(Arc::new(Kept::new(service)));
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
            inner: kept.service.clone().oneshot(request),
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};
    use std::thread::{self, ThreadId};
    use std::time::{Duration, Instant};

    use super::*;

    /// Tells the thread on which it ended.
    struct Slow(Sender<ThreadId>);

    impl Drop for Slow {
        fn drop(&mut self) {
            let _ = self.0.send(thread::current().id());
        }
    }

    /// A service that lets all its clones end before it, if they do so in time.
    #[derive(Clone)]
    struct Polite(Arc<Slow>);

    impl Drop for Polite {
        fn drop(&mut self) {
            let deadline = Instant::now() + Duration::from_millis(50);
            while Arc::strong_count(&self.0) > 1 && Instant::now() < deadline {
                thread::yield_now();
            }
        }
    }

    #[tokio::test]
    async fn a_service_never_ends_on_the_thread_of_a_request() {
        let (sender, ended) = channel();
        drop(Kept::new(Polite(Arc::new(Slow(sender)))));
        let thread = tokio::task::spawn_blocking(move || ended.recv())
            .await
            .unwrap();
        assert_ne!(thread.unwrap(), thread::current().id());
    }
}
