//! The admin plane: the console, metrics, health and the admin API, on a listener of its own. Nothing of it can be reached
//! through the data plane.
//!
//! The console's page is for everyone, and tells nothing. From this machine metrics and health are free to read; everything
//! else, and everyone else, needs the admin token.

mod answer;
mod audit;
mod body;
mod books;
mod cache;
mod console;
mod explain;
mod guesses;
mod health;
mod keys;
mod object;
mod playground;
mod query;
mod reload;
mod requests;
mod routes;
mod scrape;
mod teams;
#[cfg(test)]
mod tests;
mod usage;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::Either;
use subtle::ConstantTimeEq;
use tokio::sync::Mutex;
use tower::Service;

use self::answer::{Answer, error, not_allowed, not_found, text, unauthorized};
pub use self::explain::Question;
use self::guesses::Guesses;
pub use self::playground::{AdminBody, DataBody, DataPlane, Streamed, data_plane};
pub use self::reload::{Cause, Control, Refused, ReloadProblem, Reloaded};
use crate::keys as secrets;
use crate::metrics::Metrics;
use crate::server::{Drain, PeerAddr};
use crate::store::cache::Cache;
use crate::store::cache::shared::SharedCache;
use crate::store::directory::Directory;
use crate::store::limits::Shared;
use crate::store::retries::Retries;
use crate::upstream::Dispatch;

/// Where a browser says from which site a page asks.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Where the admin API begins.
const PREFIX: &str = "/admin/v1/";

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
    /// The keys and teams, the ledger that they stand in, and what may be used.
    pub directory: Arc<Directory>,
    /// The limits that are counted together with other gateways.
    pub shared: Option<Arc<Shared>>,
    /// The answers that are kept.
    pub cache: Arc<Cache>,
    /// Those that are kept for clients that ask again.
    pub retries: Arc<Retries>,
    /// Those that are kept together with other gateways.
    pub shared_cache: Option<Arc<SharedCache>>,
    /// The data plane's stop.
    pub drain: Drain,
}

/// The admin plane's service, for requests with bodies of one type.
pub struct Admin<B> {
    params: Arc<Params>,
    /// Held by who reads the metrics: one at a time.
    scraping: Arc<Mutex<scrape::Together>>,
    guesses: Arc<Guesses>,
    data: DataPlane<B>,
}

impl<B> Clone for Admin<B> {
    fn clone(&self) -> Self {
        Self {
            params: Arc::clone(&self.params),
            scraping: Arc::clone(&self.scraping),
            guesses: Arc::clone(&self.guesses),
            data: self.data.clone(),
        }
    }
}

impl<B> Admin<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Builds the service. The console's playground calls `data`.
    pub fn new(params: Params, data: DataPlane<B>) -> Self {
        Self {
            params: Arc::new(params),
            scraping: Arc::default(),
            guesses: Arc::default(),
            data,
        }
    }

    async fn answer(&self, request: Request<B>) -> Response<AdminBody> {
        if let Some(answer) = self.refuse(&request) {
            return answer.map(Either::Left);
        }
        if request.uri().path().starts_with(playground::PREFIX) {
            return playground::answer(&self.data, &self.params.drain, request).await;
        }
        let answer = match request.uri().path().starts_with(PREFIX) {
            true => routes::answer(&self.params, request).await,
            false => self.public(request).await,
        };
        answer.map(Either::Left)
    }

    /// Returns what is said to those who may not ask.
    fn refuse(&self, request: &Request<B>) -> Option<Answer> {
        let path = request.uri().path();
        if console::has(path) {
            return None;
        }
        let peer = request.extensions().get::<PeerAddr>().map(|peer| peer.0);
        let is_free = is_public(path) && peer.is_some_and(is_local) && !is_rebound(request);
        if !is_free && !self.has_token(request.headers()) {
            if request.headers().contains_key(header::AUTHORIZATION) {
                self.params.metrics.admin_refused();
                self.guesses.note(peer);
            }
            return Some(unauthorized());
        }
        (path.starts_with(PREFIX) && is_cross_site(request)).then(cross_site)
    }

    /// Answers for what is not of the admin API.
    async fn public(&self, request: Request<B>) -> Answer {
        if let Some(answer) = console::answer(&request) {
            return answer;
        }
        let (head, _) = request.into_parts();
        let path = head.uri.path();
        let is_read = matches!(head.method, Method::GET | Method::HEAD);
        if is_public(path) && !is_read {
            return not_allowed("GET, HEAD");
        }
        match path {
            "/metrics" => scrape::answer(&self.params, &self.scraping).await,
            "/healthz" => text(StatusCode::OK, "text/plain; charset=utf-8", "ok\n".into()),
            "/readyz" => {
                let Params {
                    dispatch,
                    drain,
                    directory,
                    ..
                } = &*self.params;
                health::ready(&dispatch.load(), drain, directory.ledger())
            }
            _ => not_found(),
        }
    }

    fn has_token(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return false;
        };
        secrets::bearer(value.as_bytes()).is_some_and(|token| {
            bool::from(secrets::digest(token).ct_eq(&self.params.token_digest))
        })
    }
}

impl<B> Service<Request<B>> for Admin<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<AdminBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(this.answer(request).await) })
    }
}

/// Returns whether it may be read from this machine without a token.
fn is_public(path: &str) -> bool {
    matches!(path, "/metrics" | "/healthz" | "/readyz")
}

/// Returns whether a browser says that a page of another origin asks. Such a page cannot know the token; should it
/// ever come by it, this is the second lock.
fn is_cross_site<B>(request: &Request<B>) -> bool {
    let site = request.headers().get(SEC_FETCH_SITE);
    if site.is_some_and(|site| site != "same-origin" && site != "none") {
        return true;
    }
    let Some(origin) = request.headers().get(header::ORIGIN) else {
        return false;
    };
    let own = host(request);
    let origin = origin.as_bytes();
    let asking = origin
        .strip_prefix(b"http://")
        .or_else(|| origin.strip_prefix(b"https://"));
    asking.is_none() || asking != own
}

/// Returns whether the request names a host that this machine cannot be sure to be: a page of that name could have had
/// it point here, and would read what is free to read on this machine. Addresses, and names without a dot, which nobody
/// outside can give, are sure.
fn is_rebound<B>(request: &Request<B>) -> bool {
    let Some(host) = host(request) else {
        return false;
    };
    let Ok(host) = std::str::from_utf8(host) else {
        return true;
    };
    let Ok(authority) = host.parse::<Authority>() else {
        return true;
    };
    let name = authority.host();
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let bare = bare.strip_suffix('.').unwrap_or(bare);
    let is_own = bare.to_ascii_lowercase().ends_with(".localhost") || !bare.contains('.');
    bare.parse::<IpAddr>().is_err() && !is_own
}

/// Returns the host that a request is for, port and all.
fn host<B>(request: &Request<B>) -> Option<&[u8]> {
    let header = request.headers().get(header::HOST);
    let authority = request.uri().authority();
    header
        .map(HeaderValue::as_bytes)
        .or(authority.map(|host| host.as_str().as_bytes()))
}

fn cross_site() -> Answer {
    error(
        StatusCode::FORBIDDEN,
        "cross_site",
        "This was asked for by the page of another site.",
    )
}

fn is_local(peer: SocketAddr) -> bool {
    peer.ip().to_canonical().is_loopback()
}
