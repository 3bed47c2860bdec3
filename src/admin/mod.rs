//! The admin plane: metrics, health and the admin API, on a listener of its own. Nothing of it can be reached through the data plane.
//!
//! From this machine metrics and health are free to read; everything else, and everyone else, needs the admin token.

mod books;
mod health;
mod reload;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use subtle::ConstantTimeEq;
use tower::Service;

pub use self::reload::{Cause, Control, Refused, ReloadProblem, Reloaded};
use crate::keys;
use crate::metrics::{self, Metrics};
use crate::openai::envelope::ErrorBody;
use crate::server::{Drain, PeerAddr, RequestBody};
use crate::store::budgets::Budgets;
use crate::store::ledger::Ledger;
use crate::upstream::Dispatch;

/// What the admin plane is built from.
#[derive(Clone)]
pub struct Params {
    /// SHA-256 of the admin token.
    pub token_digest: [u8; 32],
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// Whose readiness counts: the upstreams that are current.
    pub dispatch: Arc<ArcSwap<Dispatch>>,
    /// What can be done.
    pub control: Arc<dyn Control>,
    /// The data plane's stop.
    pub drain: Drain,
    /// What was used.
    pub ledger: Ledger,
    /// What may be used.
    pub budgets: Arc<Budgets>,
}

/// The admin plane's service.
#[derive(Clone)]
pub struct Admin {
    params: Arc<Params>,
}

impl Admin {
    /// Builds the service.
    pub fn new(params: Params) -> Self {
        Self {
            params: Arc::new(params),
        }
    }

    fn answer(&self, request: &Request<RequestBody>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let is_public = matches!(path, "/metrics" | "/healthz" | "/readyz");
        let peer = request.extensions().get::<PeerAddr>().map(|peer| peer.0);
        let is_free = is_public && peer.is_some_and(is_local);
        if !is_free && !self.has_token(request.headers()) {
            return unauthorized();
        }
        if is_public && !matches!(*request.method(), Method::GET | Method::HEAD) {
            return not_allowed("GET, HEAD");
        }
        match path {
            "/metrics" => self.metrics(),
            "/healthz" => text(StatusCode::OK, "text/plain; charset=utf-8", "ok\n".into()),
            "/readyz" => {
                let Params {
                    dispatch,
                    drain,
                    ledger,
                    ..
                } = &*self.params;
                health::ready(&dispatch.load(), drain, ledger)
            }
            _ => error(
                StatusCode::NOT_FOUND,
                "unknown_url",
                "Unknown URL of the admin plane. It has /metrics, /healthz, /readyz and /admin/v1/reload.",
            ),
        }
    }

    /// Says why a request may not change anything; `None`: it may.
    fn refuse_change(&self, request: &Request<RequestBody>) -> Option<Response<Full<Bytes>>> {
        if !self.has_token(request.headers()) {
            return Some(unauthorized());
        }
        if is_cross_site(request) {
            return Some(error(
                StatusCode::FORBIDDEN,
                "cross_site",
                "This was asked for by the page of another site.",
            ));
        }
        (*request.method() != Method::POST).then(|| not_allowed("POST"))
    }

    fn has_token(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return false;
        };
        keys::bearer(value.as_bytes())
            .is_some_and(|token| bool::from(keys::digest(token).ct_eq(&self.params.token_digest)))
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let Params {
            metrics,
            dispatch,
            drain,
            ledger,
            budgets,
            ..
        } = &*self.params;
        health::observe(metrics, &dispatch.load(), drain, ledger);
        books::observe(metrics, ledger, budgets);
        match metrics.render() {
            Ok(body) => text(StatusCode::OK, metrics::CONTENT_TYPE, body.into()),
            Err(error_) => {
                tracing::error!(error = %error_, "cannot write the metrics");
                error(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "internal_error",
                    "The metrics cannot be written.",
                )
            }
        }
    }
}

impl Service<Request<RequestBody>> for Admin {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        if request.uri().path() != "/admin/v1/reload" {
            let answer = self.answer(&request);
            return Box::pin(async move { Ok(answer) });
        }
        if let Some(refusal) = self.refuse_change(&request) {
            return Box::pin(async move { Ok(refusal) });
        }
        let reloading = self.params.control.reload();
        Box::pin(async move { Ok(reload::answer(&reloading.await)) })
    }
}

/// Returns whether a browser says that a page of another origin asks. Such a page cannot know the token; should it
/// ever come by it, this is the second lock.
fn is_cross_site(request: &Request<RequestBody>) -> bool {
    let Some(origin) = request.headers().get(header::ORIGIN) else {
        return false;
    };
    let host = request
        .headers()
        .get(header::HOST)
        .map(HeaderValue::as_bytes);
    let own = host.or(request
        .uri()
        .authority()
        .map(|host| host.as_str().as_bytes()));
    let origin = origin.as_bytes();
    let asking = origin
        .strip_prefix(b"http://")
        .or_else(|| origin.strip_prefix(b"https://"));
    asking.is_none() || asking != own
}

fn unauthorized() -> Response<Full<Bytes>> {
    let mut response = error(
        StatusCode::UNAUTHORIZED,
        "invalid_admin_token",
        "This needs the admin token as a bearer token.",
    );
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn not_allowed(allow: &'static str) -> Response<Full<Bytes>> {
    let message = format!("Only {allow} is allowed here.");
    let mut response = error(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        &message,
    );
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

fn is_local(peer: SocketAddr) -> bool {
    peer.ip().to_canonical().is_loopback()
}

fn text(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    );
    response
}

fn error(status: StatusCode, code: &'static str, message: &str) -> Response<Full<Bytes>> {
    let body = ErrorBody {
        message,
        kind: "invalid_request_error",
        param: None,
        code,
    };
    text(status, "application/json", body.to_json())
}
