//! The admin plane: metrics and health, on a listener of its own. Nothing of it can be reached through the data plane.
//!
//! From this machine metrics and health are free to read; everything else, and everyone else, needs the admin token.

mod health;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use subtle::ConstantTimeEq;
use tower::Service;

use crate::keys;
use crate::metrics::{self, Metrics};
use crate::openai::envelope::ErrorBody;
use crate::server::{Drain, PeerAddr, RequestBody};
use crate::upstream::Dispatch;

/// What the admin plane is built from.
#[derive(Clone)]
pub struct Params {
    /// SHA-256 of the admin token.
    pub token_digest: [u8; 32],
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// Whose readiness counts.
    pub dispatch: Dispatch,
    /// The data plane's stop.
    pub drain: Drain,
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
            let mut response = error(
                StatusCode::UNAUTHORIZED,
                "invalid_admin_token",
                "This needs the admin token as a bearer token.",
            );
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return response;
        }
        if is_public && !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = error(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "Only GET is allowed here.",
            );
            response
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path {
            "/metrics" => self.metrics(),
            "/healthz" => text(StatusCode::OK, "text/plain; charset=utf-8", "ok\n".into()),
            "/readyz" => health::ready(&self.params.dispatch, &self.params.drain),
            _ => error(
                StatusCode::NOT_FOUND,
                "unknown_url",
                "Unknown URL of the admin plane. It has /metrics, /healthz and /readyz.",
            ),
        }
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
            ..
        } = &*self.params;
        health::observe(metrics, dispatch, drain);
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
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        ready(Ok(self.answer(&request)))
    }
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
