//! Connections to an upstream: looked up, opened, secured, pooled, kept warm.

#[cfg(test)]
mod silence;
mod tls;
mod way;

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response, Uri, header};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tower::Service;

pub use self::tls::RemoteError;
use self::way::{Stream, Way};
use super::body::{Clock, Received, RequestBody};
use super::{Params, UpstreamError};
use crate::metrics::ConnectionMeter;
use crate::upstream::Phase;

/// Idle connections kept for the next requests. Services close theirs after a minute or more; one that closes in
/// between is noticed, and the request that had not begun is sent on another.
const IDLE: Duration = Duration::from_secs(60);

/// How many of them, per upstream.
const MAX_IDLE: usize = 1024;

/// How often a silent HTTP/2 peer is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Bytes read from an upstream's connection at once. An answer's head must fit.
const READ_BUFFER: usize = 64 << 10;

/// The same, of HTTP/2's headers: names, values, and 32 bytes for each of them (RFC 9113, section 6.5.2).
const MAX_HEADERS: usize = 64 << 10;

/// What is read of them. More ends the connection, and with it whatever else goes on there, so that an answer which is
/// only too large for us should stay below.
const MAX_HEADER_LIST: u32 = 256 << 10;

/// HTTP/2 flow control towards us, per stream and connection. What a client does not read stays within the first.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 16 << 20;

type Pool = Client<Connector, RequestBody>;

/// The pools of one endpoint.
pub(super) struct Clients {
    /// HTTP/1.1, or HTTP/2 where TLS negotiates it.
    pool: Pool,
    /// HTTP/1.1 alone: WebSockets need it.
    http1: Pool,
    /// What a proxy is shown that passes on plain requests.
    proxy_authorization: Option<HeaderValue>,
}

impl Clients {
    pub(super) fn new(params: &Params) -> Result<Self, RemoteError> {
        let tls = tls::config(params)?;
        let (way, proxy_authorization) = Way::to(params)?;
        let to_switch = way.for_upgrades(proxy_authorization.as_ref());
        let pool = |way: Way, protocols: &[&[u8]]| {
            let mut tls = tls.clone();
            tls.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            pool(Connector {
                way,
                tls: Arc::new(tls),
                connect: params.connect,
                handshake: params.handshake,
                meter: params.meter.clone(),
            })
        };
        Ok(Self {
            pool: pool(way, &[b"h2", b"http/1.1"]),
            http1: pool(to_switch, &[b"http/1.1"]),
            proxy_authorization,
        })
    }

    /// Sends a request and waits for the answer's head.
    pub(super) async fn send(
        &self,
        mut request: Request<RequestBody>,
        clock: &Clock,
    ) -> Result<Response<Received>, UpstreamError> {
        if let Some(value) = &self.proxy_authorization {
            let headers = request.headers_mut();
            headers.insert(header::PROXY_AUTHORIZATION, value.clone());
        }
        exchange(&self.pool, request, clock).await
    }

    /// The same, on a connection that can be switched to another protocol.
    pub(super) async fn upgrade(
        &self,
        request: Request<RequestBody>,
        clock: &Clock,
    ) -> Result<Response<Received>, UpstreamError> {
        exchange(&self.http1, request, clock).await
    }
}

fn pool(connector: Connector) -> Pool {
    // A request that meets a pooled connection just as its peer closes it is sent once more by hyper, on another one,
    // but only if no byte of it had been written: that is no second try.
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(MAX_IDLE)
        .http1_max_buf_size(READ_BUFFER)
        .http2_max_header_list_size(MAX_HEADER_LIST)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .build(connector)
}

async fn exchange(
    pool: &Pool,
    request: Request<RequestBody>,
    clock: &Clock,
) -> Result<Response<Received>, UpstreamError> {
    let upload = request.body().watch();
    let first_byte = clock.timeouts.first_byte;
    let timeout = async {
        if let Some(upload) = &upload {
            // The upstream's time begins when it has all of the request.
            tokio::select! {
                () = upload.sent.cancelled() => {}
                () = tokio::time::sleep_until(clock.deadline) => {}
            }
        }
        tokio::time::sleep_until(clock.deadline.min(Instant::now() + first_byte)).await;
    };
    tokio::select! {
        biased;
        response = pool.request(request) => match response {
            Ok(response) if size(response.headers()) > MAX_HEADERS => {
                Err(UpstreamError::Invalid("its headers are too large"))
            }
            Ok(response) => Ok(Received::of(response)),
            Err(error) => {
                let fault = upload.as_ref().and_then(|upload| upload.fault.get());
                Err(fault.map_or_else(|| classify(error), |fault| UpstreamError::Upload(*fault)))
            }
        },
        () = timeout => Err(match Instant::now() >= clock.deadline {
            true => UpstreamError::Timeout { phase: Phase::Total, limit: clock.timeouts.total },
            false => UpstreamError::Timeout { phase: Phase::FirstByte, limit: first_byte },
        }),
    }
}

/// Returns the size of headers as HTTP/2 counts it.
fn size(headers: &HeaderMap) -> usize {
    let sizes = headers.iter();
    sizes
        .map(|(name, value)| name.as_str().len() + value.len() + 32)
        .sum()
}

fn classify(error: hyper_util::client::legacy::Error) -> UpstreamError {
    if let Some(Slow { phase, limit }) = find(&error) {
        return UpstreamError::Timeout {
            phase: *phase,
            limit: *limit,
        };
    }
    if error.is_connect() {
        return UpstreamError::Connect(Box::new(error));
    }
    if find::<hyper::Error>(&error).is_some_and(hyper::Error::is_parse) {
        return UpstreamError::Invalid("not HTTP");
    }
    // What ends a whole connection may be the fault of another answer there, and is no verdict on this one.
    if find::<h2::Error>(&error).is_some_and(|error| error.is_library() && error.is_reset()) {
        return UpstreamError::Invalid("not HTTP/2");
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

/// Opens connections, TLS included, each step within its time.
#[derive(Clone)]
struct Connector {
    way: Way,
    tls: Arc<ClientConfig>,
    connect: Duration,
    handshake: Duration,
    /// Where they are counted.
    meter: Option<ConnectionMeter>,
}

/// A connection took too long to stand.
#[derive(Debug, thiserror::Error)]
#[error("no connection in time")]
struct Slow {
    phase: Phase,
    limit: Duration,
}

type BoxError = Box<dyn StdError + Send + Sync>;

impl Connector {
    async fn open(self, uri: Uri) -> Result<MaybeHttpsStream<Stream>, BoxError> {
        let Self {
            way,
            tls,
            connect,
            handshake,
            meter,
        } = self;
        fn slow<E>(phase: Phase, limit: Duration) -> impl FnOnce(E) -> Slow {
            move |_| Slow { phase, limit }
        }
        let server = match uri.scheme_str() {
            Some("https") => {
                let host = uri.host().unwrap_or_default();
                let host = host.trim_start_matches('[').trim_end_matches(']');
                Some(ServerName::try_from(host)?.to_owned())
            }
            _ => None,
        };
        // The connection to a single address has a timer of the same length, which may be the first.
        let mut stream = timeout(connect, way.open(uri))
            .await
            .map_err(slow(Phase::Connect, connect))?
            .map_err(|error| match find::<io::Error>(&*error) {
                Some(cause) if cause.kind() == io::ErrorKind::TimedOut => {
                    slow(Phase::Connect, connect)(()).into()
                }
                _ => error,
            })?;
        stream.counted = meter.as_ref().map(ConnectionMeter::opened);
        let Some(server) = server else {
            return Ok(MaybeHttpsStream::Http(stream));
        };
        let shaking = TlsConnector::from(tls).connect(server, TokioIo::new(stream));
        let secured = timeout(handshake, shaking)
            .await
            .map_err(slow(Phase::Tls, handshake))??;
        Ok(MaybeHttpsStream::Https(TokioIo::new(secured)))
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<Stream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().open(uri))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::silence::silent;
    use super::*;

    const SHORT: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(60);

    /// Asks there, and returns why it fails.
    async fn failure(url: &str, connect: Duration, handshake: Duration) -> UpstreamError {
        let uri: Uri = url.parse().unwrap();
        let params = Params {
            connect,
            handshake,
            ..Params::of(uri.clone())
        };
        let mut request = Request::new(RequestBody::empty());
        *request.uri_mut() = uri;
        let clients = Clients::new(&params).unwrap();
        let answer = clients.send(request, &Clock::own()).await;
        answer.err().expect("nobody answers there")
    }

    #[tokio::test]
    async fn a_silent_address_takes_no_longer_than_the_connect_timeout() {
        let (_socket, address, _waiting) = silent("127.0.0.1:0");
        for scheme in ["http", "https"] {
            let error = failure(&format!("{scheme}://{address}"), SHORT, LONG).await;
            let is_late = matches!(
                error,
                UpstreamError::Timeout { phase: Phase::Connect, limit } if limit == SHORT
            );
            assert!(is_late, "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_server_that_does_not_shake_hands_takes_no_longer_than_the_tls_timeout() {
        // Its system accepts the connection, and nobody reads from it.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let error = failure(&url, LONG, SHORT).await;
        let is_late = matches!(
            error,
            UpstreamError::Timeout { phase: Phase::Tls, limit } if limit == SHORT
        );
        assert!(is_late, "{error:?}");
    }

    #[tokio::test]
    async fn what_is_no_tls_or_refused_is_no_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let babbling = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
        });
        for _ in ["babble", "nobody"] {
            let error = failure(&url, LONG, LONG).await;
            assert!(matches!(error, UpstreamError::Connect(_)), "{error:?}");
        }
        babbling.await.unwrap();
    }
}
