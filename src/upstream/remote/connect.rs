//! Connections to an upstream: looked up, opened, secured, pooled, kept warm.

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::Instant;
use tower::Service;

use super::body::{Clock, RequestBody};
use super::{Params, UpstreamError};

/// Idle connections kept for the next requests. Services close theirs after a minute or more; one that closes in
/// between is noticed, and the request that had not begun is sent on another.
const IDLE: Duration = Duration::from_secs(60);

/// How many of them, per upstream.
const MAX_IDLE: usize = 1024;

/// How long a silent peer takes to be found dead.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Bytes read from an upstream's connection at once. An answer's head must fit.
const READ_BUFFER: usize = 64 << 10;

/// HTTP/2 flow control towards us, per stream and connection. What a client does not read stays within the first.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 16 << 20;

type Pool = Client<Connector, RequestBody>;

/// The pools of one upstream.
pub(super) struct Clients {
    /// HTTP/1.1, or HTTP/2 where TLS negotiates it.
    pool: Pool,
    /// HTTP/1.1 alone: WebSockets need it.
    http1: Pool,
}

impl Clients {
    pub(super) fn new(params: &Params) -> Result<Self, rustls::Error> {
        let tls = tls_config(params)?;
        Ok(Self {
            pool: pool(params, tls.clone(), true),
            http1: pool(params, tls, false),
        })
    }

    /// Sends a request and waits for the answer's head.
    pub(super) async fn send(
        &self,
        request: Request<RequestBody>,
        clock: &Clock,
    ) -> Result<Response<Incoming>, UpstreamError> {
        exchange(&self.pool, request, clock).await
    }

    /// The same, on a connection that can be switched to another protocol.
    pub(super) async fn upgrade(
        &self,
        request: Request<RequestBody>,
        clock: &Clock,
    ) -> Result<Response<Incoming>, UpstreamError> {
        exchange(&self.http1, request, clock).await
    }
}

fn pool(params: &Params, tls: ClientConfig, http2: bool) -> Pool {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEP_ALIVE));
    // Shared among the addresses that a name has; the whole is bounded by `Connector`.
    tcp.set_connect_timeout(Some(params.timeouts.connect));
    let tls = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http();
    let https = if http2 {
        tls.enable_all_versions().wrap_connector(tcp)
    } else {
        tls.enable_http1().wrap_connector(tcp)
    };
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(MAX_IDLE)
        .http1_max_buf_size(READ_BUFFER)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .build(Connector {
            inner: https,
            limit: params.timeouts.connect,
        })
}

async fn exchange(
    pool: &Pool,
    request: Request<RequestBody>,
    clock: &Clock,
) -> Result<Response<Incoming>, UpstreamError> {
    let upload = request.body().watch();
    let first_byte = clock.timeouts.first_byte;
    let timeout = async {
        if let Some(upload) = &upload {
            // The upstream's time begins when it has all of the request.
            tokio::select! {
                () = upload.sent.cancelled() => {}
                () = tokio::time::sleep_until(clock.overdue) => {}
            }
        }
        tokio::time::sleep_until(clock.overdue.min(Instant::now() + first_byte)).await;
    };
    tokio::select! {
        biased;
        response = pool.request(request) => response.map_err(|error| {
            let fault = upload.as_ref().and_then(|upload| upload.fault.get());
            fault.map_or_else(|| classify(error, clock), |fault| UpstreamError::Upload(*fault))
        }),
        () = timeout => Err(match Instant::now() >= clock.overdue {
            true => UpstreamError::Timeout { phase: "total", limit: clock.timeouts.total },
            false => UpstreamError::Timeout { phase: "first_byte", limit: first_byte },
        }),
    }
}

fn classify(error: hyper_util::client::legacy::Error, clock: &Clock) -> UpstreamError {
    if find::<Slow>(&error).is_some() {
        return UpstreamError::Timeout {
            phase: "connect",
            limit: clock.timeouts.connect,
        };
    }
    if error.is_connect() {
        return UpstreamError::Connect(Box::new(error));
    }
    if find::<hyper::Error>(&error).is_some_and(hyper::Error::is_parse) {
        return UpstreamError::Invalid("not HTTP");
    }
    UpstreamError::Broken(Box::new(error))
}

/// Looks for an error among another one's causes.
fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// The system's roots, or the bundled ones where the system has none; read once, when the first upstream needs them.
fn tls_config(params: &Params) -> Result<ClientConfig, rustls::Error> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = if params.base_url.scheme_str() == Some("https") {
        Arc::clone(ROOTS.get_or_init(|| Arc::new(load_roots())))
    } else {
        Arc::new(RootCertStore::empty())
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn load_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        tracing::debug!(%error, "cannot read a root certificate of the system");
    }
    let (added, _) = roots.add_parsable_certificates(loaded.certs);
    if added == 0 {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// Opens connections within the upstream's connect timeout, TLS included.
#[derive(Clone)]
struct Connector {
    inner: HttpsConnector<HttpConnector>,
    limit: Duration,
}

/// A connection took too long to stand.
#[derive(Debug, thiserror::Error)]
#[error("no connection in time")]
struct Slow;

type Connection = <HttpsConnector<HttpConnector> as Service<Uri>>::Response;
type BoxError = Box<dyn StdError + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = Connection;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Connection, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = tokio::time::timeout(self.limit, self.inner.call(uri));
        Box::pin(async move { connecting.await.unwrap_or_else(|_| Err(Box::new(Slow))) })
    }
}
