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

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use percent_encoding::utf8_percent_encode;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::body::{Clock, Received, RequestBody};
use self::connect::Clients;
pub use self::connect::RemoteError;
use super::{Attempt, Credential, Timeouts, Upstream, UpstreamError, UpstreamFuture};
use crate::call::Reply;
use crate::metrics::ConnectionMeter;
use crate::openai::models::{List, Model};
use crate::secret::Secret;

/// What is known of a remote endpoint.
#[derive(Clone)]
pub struct Params {
    /// Where it is.
    pub address: Address,
    /// Which API it speaks.
    pub api: Api,
    /// Set on every request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The time for a TCP connection, the lookup of its name included.
    pub connect: Duration,
    /// The time for a TLS handshake.
    pub handshake: Duration,
    /// How TLS is spoken.
    pub tls: Tls,
    /// The way there.
    pub proxy: Proxy,
    /// Bytes of a plain answer, held until it is whole.
    pub max_answer: u64,
    /// Who waits for the tunnels of upgraded connections, and when they are to end.
    pub tunnels: (TaskTracker, CancellationToken),
    /// Where connections are counted, if anywhere.
    pub meter: Option<ConnectionMeter>,
}

#[cfg(test)]
impl Params {
    /// What there is at an address, and nothing more.
    fn of(address: Uri) -> Self {
        Self {
            address: Address::Http(address),
            api: Api::OpenAi,
            headers: Vec::new(),
            connect: Duration::from_secs(1),
            handshake: Duration::from_secs(1),
            tls: Tls::default(),
            proxy: Proxy::Direct,
            max_answer: 1,
            tunnels: Default::default(),
            meter: None,
        }
    }
}

/// Where a remote endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Scheme, authority and the path before the API's own, such as `https://api.openai.com/v1`.
    Http(Uri),
    /// A server on this machine.
    Unix {
        /// Its socket.
        socket: PathBuf,
        /// The path before the API's own, such as `/v1`.
        prefix: String,
    },
}

/// The APIs of remote endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Api {
    /// OpenAI's, or any that is compatible.
    OpenAi,
    /// Azure OpenAI.
    Azure {
        /// The dated version by which paths name deployments; `None`: the v1 API.
        version: Option<String>,
    },
}

/// How TLS is spoken with an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// A PEM file of the authorities that are trusted instead of the system's.
    pub ca: Option<PathBuf>,
    /// The PEM files of the certificate that is shown, and of its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// The way to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// What `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say.
    Environment,
    /// Straight there.
    Direct,
    /// Through this HTTP proxy.
    Http(Secret),
}

/// The times that the gateway itself gives an upstream, for what no client waits for with a deadline.
const OWN: Timeouts = Timeouts {
    first_byte: Duration::from_secs(30),
    first_content: Duration::from_secs(30),
    idle: Duration::from_secs(30),
    total: Duration::from_secs(30),
};

impl Credential {
    /// Builds the header that an API asks for. `None` where the key cannot stand in a header.
    pub fn new(api: &Api, key: &Secret) -> Option<Self> {
        let (name, mut value) = match api {
            Api::OpenAi => (
                header::AUTHORIZATION,
                HeaderValue::try_from(format!("Bearer {}", key.expose())).ok()?,
            ),
            Api::Azure { .. } => (request::API_KEY, HeaderValue::from_str(key.expose()).ok()?),
        };
        value.set_sensitive(true);
        Some(Self { name, value })
    }
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
    /// [`RemoteError`], when TLS cannot be spoken as configured.
    pub fn new(params: Params) -> Result<Self, RemoteError> {
        let clients = Clients::new(&params)?;
        Ok(Self {
            inner: Arc::new(Inner { params, clients }),
        })
    }
}

impl Upstream for RemoteUpstream {
    fn call(&self, attempt: Attempt) -> UpstreamFuture<Reply> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            if attempt.call.upgrade.is_some() {
                Box::pin(inner.upgrade(attempt)).await
            } else {
                inner.ask(attempt).await
            }
        })
    }

    fn models(&self, credential: Option<Credential>) -> UpstreamFuture<Vec<Model>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move { inner.list_models(credential.as_ref()).await })
    }

    fn model(&self, name: &str, credential: Option<Credential>) -> UpstreamFuture<Option<Model>> {
        let inner = Arc::clone(&self.inner);
        let name = name.to_owned();
        Box::pin(async move { inner.find_model(&name, credential.as_ref()).await })
    }

    fn probe(&self, path: &str, credential: Option<Credential>) -> UpstreamFuture<()> {
        let inner = Arc::clone(&self.inner);
        let path = path.to_owned();
        Box::pin(async move {
            let clock = Clock::own();
            let response = inner.send_get(&path, credential.as_ref(), &clock).await?;
            match response.status() {
                status if status.is_server_error() => {
                    Err(answer::status_error(status, response.headers()))
                }
                _ => Ok(()),
            }
        })
    }

    fn is_ready(&self) -> bool {
        true
    }
}

impl Inner {
    async fn ask(&self, attempt: Attempt) -> Result<Reply, UpstreamError> {
        let clock = Clock::of(&attempt);
        let Attempt {
            call,
            model,
            credential,
            number,
            ..
        } = attempt;
        let judged = call.endpoint.is_generation();
        let wants_events = call.stream;
        let head_only = call.head.method == Method::HEAD;
        let endpoint = call.endpoint.clone();
        let request = request::build(
            call,
            number,
            model.as_deref(),
            credential.as_ref(),
            &self.params,
        )?;
        let response = self.send(request, &clock).await?;
        if !judged {
            return answer::pass_through(response, clock, head_only);
        }
        answer::check_status(response.status(), response.headers())?;
        let response = answer::decode(response).await?;
        if wants_events
            && response.status() == StatusCode::OK
            && events::is_stream(response.headers())
        {
            return Ok(events::reply(response, clock));
        }
        answer::plain(response, clock, &endpoint, self.params.max_answer).await
    }

    async fn upgrade(&self, attempt: Attempt) -> Result<Reply, UpstreamError> {
        let clock = Clock::of(&attempt);
        let Attempt {
            call,
            credential,
            number,
            ..
        } = attempt;
        let (request, client) = tunnel::request(call, number, credential.as_ref(), &self.params)?;
        let response = self.clients.upgrade(request, &clock).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return answer::pass_through(response, clock, false);
        }
        Ok(tunnel::open(response, client, &self.params.tunnels))
    }

    async fn list_models(
        &self,
        credential: Option<&Credential>,
    ) -> Result<Vec<Model>, UpstreamError> {
        let list: Option<List<Model>> = self.get("/models", credential).await?;
        list.map(|list| list.data)
            .ok_or(UpstreamError::Invalid("it has no list of models"))
    }

    async fn find_model(
        &self,
        name: &str,
        credential: Option<&Credential>,
    ) -> Result<Option<Model>, UpstreamError> {
        let path = format!("/models/{}", utf8_percent_encode(name, request::SEGMENT));
        let told = match request::is_dots(name) {
            true => Ok(None),
            false => self.get(&path, credential).await,
        };
        match told {
            Ok(Some(model)) => return Ok(Some(model)),
            // Not every server has the path, reads a name with a slash there, or answers it in good form.
            Ok(None) | Err(UpstreamError::Invalid(_) | UpstreamError::Status { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(self
            .list_models(credential)
            .await?
            .into_iter()
            .find(|model| model.id == name))
    }

    /// Asks for an object on the gateway's own account. `None`: there is no such path.
    async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        credential: Option<&Credential>,
    ) -> Result<Option<T>, UpstreamError> {
        let clock = Clock::own();
        let response = self.send_get(path, credential, &clock).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => return Ok(None),
            status => return Err(answer::status_error(status, response.headers())),
        }
        let response = answer::decode(response).await?;
        let body = answer::collect(response.into_body(), clock, self.params.max_answer).await?;
        serde_json::from_slice(&body)
            .map(Some)
            .map_err(|_| UpstreamError::Invalid("not a model, nor a list of them"))
    }

    async fn send_get(
        &self,
        path: &str,
        credential: Option<&Credential>,
        clock: &Clock,
    ) -> Result<Response<Received>, UpstreamError> {
        let mut request = Request::new(RequestBody::empty());
        *request.uri_mut() = request::get(path, &self.params)?;
        request::authorize(request.headers_mut(), credential, &self.params);
        self.send(request, clock).await
    }

    async fn send(
        &self,
        request: Request<RequestBody>,
        clock: &Clock,
    ) -> Result<Response<Received>, UpstreamError> {
        self.clients.send(request, clock).await
    }
}
