//! A remote service that speaks the OpenAI API, reached over pooled connections.
//!
//! Answers of understood endpoints are judged before the client hears of them: a plain one must be whole, an event
//! stream is cut into whole events. Everything else passes through as it comes.

mod answer;
mod body;
mod connect;
mod events;
mod request;
mod tunnel;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::body::{Clock, RequestBody};
use self::connect::Clients;
use super::{Upstream, UpstreamError, UpstreamFuture};
use crate::call::{Call, Reply};
use crate::openai::models::{List, Model};

/// What a path segment spells out: all but the unreserved characters of RFC 3986.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// What is known of a remote upstream.
#[derive(Clone)]
pub struct Params {
    /// Scheme, authority and the path before the API's own, such as `https://api.openai.com/v1`.
    pub base_url: Uri,
    /// The whole `Authorization` header, marked sensitive; `None` for services that ask for none.
    pub authorization: Option<HeaderValue>,
    /// Set on every request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// Bytes of a plain answer, held until it is whole.
    pub max_answer: u64,
    /// Who waits for the tunnels of upgraded connections, and when they are to end.
    pub tunnels: (TaskTracker, CancellationToken),
}

/// The timeouts of an upstream.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Until a connection stands, its TLS included.
    pub connect: Duration,
    /// From the request's last byte to the answer's head.
    pub first_byte: Duration,
    /// Between two pieces of the answer.
    pub idle: Duration,
    /// From the beginning to the answer's last byte.
    pub total: Duration,
}

/// A remote upstream.
#[derive(Clone)]
pub struct RemoteUpstream {
    inner: Arc<Inner>,
}

struct Inner {
    params: Params,
    clients: Clients,
}

impl RemoteUpstream {
    /// Builds the upstream; connections come with the first call.
    ///
    /// # Errors
    /// rustls', when no TLS can be spoken at all.
    pub fn new(params: Params) -> Result<Self, rustls::Error> {
        let clients = Clients::new(&params)?;
        Ok(Self {
            inner: Arc::new(Inner { params, clients }),
        })
    }
}

impl Upstream for RemoteUpstream {
    fn call(&self, call: Call, model: Option<&str>) -> UpstreamFuture<Reply> {
        let inner = Arc::clone(&self.inner);
        let model = model.map(str::to_owned);
        Box::pin(async move {
            if call.upgrade.is_some() {
                inner.upgrade(call).await
            } else {
                inner.ask(call, model.as_deref()).await
            }
        })
    }

    fn models(&self) -> UpstreamFuture<Vec<Model>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move { inner.list_models().await })
    }

    fn model(&self, name: &str) -> UpstreamFuture<Option<Model>> {
        let inner = Arc::clone(&self.inner);
        let name = name.to_owned();
        Box::pin(async move { inner.find_model(&name).await })
    }

    fn is_ready(&self) -> bool {
        true
    }
}

impl Inner {
    async fn ask(&self, call: Call, model: Option<&str>) -> Result<Reply, UpstreamError> {
        let clock = Clock::start(self.params.timeouts);
        let judged = call.endpoint.is_generation();
        let wants_events = call.stream;
        let head_only = call.head.method == Method::HEAD;
        let endpoint = call.endpoint.clone();
        let request = request::build(call, model, &self.params)?;
        let response = self.send(request, &clock).await?;
        if !judged {
            return answer::pass_through(response, clock, head_only);
        }
        answer::check_status(response.status())?;
        let response = answer::decode(response).await?;
        if wants_events
            && response.status() == StatusCode::OK
            && events::is_stream(response.headers())
        {
            return Ok(events::reply(response, clock));
        }
        answer::plain(response, clock, &endpoint, self.params.max_answer).await
    }

    async fn upgrade(&self, call: Call) -> Result<Reply, UpstreamError> {
        let clock = Clock::start(self.params.timeouts);
        let (request, client) = tunnel::request(call, &self.params)?;
        let response = self.clients.upgrade(request, &clock).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return answer::pass_through(response, clock, false);
        }
        Ok(tunnel::open(response, client, &self.params.tunnels))
    }

    async fn list_models(&self) -> Result<Vec<Model>, UpstreamError> {
        let list: Option<List<Model>> = self.get("/models").await?;
        list.map(|list| list.data)
            .ok_or(UpstreamError::Status(StatusCode::NOT_FOUND))
    }

    async fn find_model(&self, name: &str) -> Result<Option<Model>, UpstreamError> {
        let path = format!("/models/{}", utf8_percent_encode(name, SEGMENT));
        match self.get(&path).await {
            Ok(Some(model)) => return Ok(Some(model)),
            // Not every server has the path, reads a name with a slash there, or answers it in good form.
            Ok(None) | Err(UpstreamError::Invalid(_) | UpstreamError::Status(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(self
            .list_models()
            .await?
            .into_iter()
            .find(|model| model.id == name))
    }

    /// Asks for an object on the gateway's own account. `None`: there is no such path.
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, UpstreamError> {
        let clock = Clock::start(self.params.timeouts);
        let uri = request::uri(&self.params.base_url, path, None)?;
        let mut request = Request::new(RequestBody::empty());
        *request.uri_mut() = uri;
        request::authorize(request.headers_mut(), &self.params);
        let response = self.send(request, &clock).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => return Ok(None),
            status => return Err(answer::status_error(status)),
        }
        let response = answer::decode(response).await?;
        let body = answer::collect(response.into_body(), clock, self.params.max_answer).await?;
        serde_json::from_slice(&body)
            .map(Some)
            .map_err(|_| UpstreamError::Invalid("not a model, nor a list of them"))
    }

    async fn send(
        &self,
        request: Request<RequestBody>,
        clock: &Clock,
    ) -> Result<Response<Incoming>, UpstreamError> {
        self.clients.send(request, clock).await
    }
}
