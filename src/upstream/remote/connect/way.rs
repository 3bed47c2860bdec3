//! The way to an endpoint: straight over TCP, through an HTTP proxy, or to a socket of this machine.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::Authority;
use http::{HeaderValue, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::dns::GaiResolver;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tower::{Service, ServiceExt};

use super::super::{Address, Params, Proxy};
use super::{BoxError, RemoteError};
use crate::metrics::OpenConnection;
use crate::proxies;

/// How long a silent peer takes to be found dead.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// How long the first of a name's addresses has before the next is tried beside it (RFC 8305, section 5).
const HAPPY_EYEBALLS: Duration = Duration::from_millis(250);

/// Opens connections that speak nothing yet.
#[derive(Clone)]
pub(super) enum Way {
    Tcp(HttpConnector),
    /// A tunnel through a proxy, for TLS.
    Tunnel(Box<Tunnel<HttpConnector>>),
    /// A proxy that is told whole URLs, for plain HTTP.
    Forward {
        tcp: HttpConnector,
        proxy: Uri,
    },
    Unix(Arc<PathBuf>),
}

/// A connection that speaks nothing yet.
pub(super) struct Stream {
    transport: Transport,
    /// Counts it for as long as it lives.
    pub(super) counted: Option<OpenConnection>,
}

enum Transport {
    Tcp(TokioIo<TcpStream>),
    /// To a proxy that is told whole URLs.
    Forward(TokioIo<TcpStream>),
    Unix(TokioIo<UnixStream>),
}

impl Way {
    /// Returns the way to an endpoint, and what a proxy must be shown with each request.
    pub(super) fn to(params: &Params) -> Result<(Self, Option<HeaderValue>), RemoteError> {
        let uri = match &params.address {
            Address::Unix { socket, .. } => {
                return Ok((Self::Unix(Arc::new(socket.clone())), None));
            }
            Address::Http(uri) => uri,
        };
        let tcp = tcp(GaiResolver::new(), params.connect);
        let Some(proxy) = intercept(&params.proxy, uri)? else {
            return Ok((Self::Tcp(tcp), None));
        };
        let destination = proxy.uri().clone();
        if !proxies::is_proxy(&destination) {
            if params.proxy == Proxy::Environment {
                // It may be meant for others, and is no reason not to start. The check of the configuration warns of it.
                return Ok((Self::Tcp(tcp), None));
            }
            return Err(RemoteError::Proxy);
        }
        let authorization = proxy.basic_auth().cloned().map(|mut value| {
            value.set_sensitive(true);
            value
        });
        if uri.scheme_str() != Some("https") {
            let way = Self::Forward {
                tcp,
                proxy: destination,
            };
            return Ok((way, authorization));
        }
        let mut tunnel = Tunnel::new(destination, tcp);
        if let Some(value) = authorization {
            tunnel = tunnel.with_auth(value);
        }
        Ok((Self::Tunnel(Box::new(tunnel)), None))
    }

    /// Returns the way for connections that are to be switched to another protocol: a proxy that passes on requests
    /// would not switch, so it is asked for a tunnel.
    pub(super) fn for_upgrades(&self, authorization: Option<&HeaderValue>) -> Self {
        let Self::Forward { tcp, proxy } = self else {
            return self.clone();
        };
        let mut tunnel = Tunnel::new(proxy.clone(), tcp.clone());
        if let Some(value) = authorization {
            tunnel = tunnel.with_auth(value.clone());
        }
        Self::Tunnel(Box::new(tunnel))
    }

    /// Opens a connection towards `uri`.
    pub(super) async fn open(self, uri: Uri) -> Result<Stream, BoxError> {
        match self {
            Self::Tcp(tcp) => Ok(Transport::Tcp(tcp.oneshot(uri).await?).into()),
            Self::Tunnel(mut tunnel) => {
                std::future::poll_fn(|cx| tunnel.poll_ready(cx)).await?;
                Ok(Transport::Tcp(tunnel.call(with_port(uri)).await?).into())
            }
            Self::Forward { tcp, proxy } => {
                Ok(Transport::Forward(tcp.oneshot(proxy).await?).into())
            }
            Self::Unix(path) => {
                let stream = UnixStream::connect(&*path).await?;
                Ok(Transport::Unix(TokioIo::new(stream)).into())
            }
        }
    }
}

/// Spells out the port of an `http` URL: a tunnel takes a missing one for 443.
fn with_port(uri: Uri) -> Uri {
    if uri.port().is_some() || uri.scheme_str() != Some("http") {
        return uri;
    }
    let mut parts = uri.clone().into_parts();
    let host = uri.host().unwrap_or_default();
    parts.authority = Authority::try_from(format!("{host}:80")).ok();
    Uri::from_parts(parts).unwrap_or(uri)
}

/// Connects to what a name stands for now: it is looked up for each connection.
fn tcp<R>(resolver: R, timeout: Duration) -> HttpConnector<R> {
    let mut tcp = HttpConnector::new_with_resolver(resolver);
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEP_ALIVE));
    tcp.set_happy_eyeballs_timeout(Some(HAPPY_EYEBALLS));
    // Shared among the addresses that a name has.
    tcp.set_connect_timeout(Some(timeout));
    tcp
}

/// Returns the proxy that stands before an address. The environment is read when the upstream is built.
fn intercept(proxy: &Proxy, uri: &Uri) -> Result<Option<Intercept>, RemoteError> {
    match proxy {
        Proxy::Direct => Ok(None),
        Proxy::Environment if proxies::is_loopback(uri) => Ok(None),
        Proxy::Environment => Ok(Matcher::from_env().intercept(uri)),
        Proxy::Http(url) => {
            let matcher = Matcher::builder().all(url.expose()).build();
            matcher.intercept(uri).ok_or(RemoteError::Proxy).map(Some)
        }
    }
}

// === impl Stream ===

impl From<Transport> for Stream {
    fn from(transport: Transport) -> Self {
        Self {
            transport,
            counted: None,
        }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match &self.transport {
            Transport::Tcp(stream) => stream.inner().connected(),
            Transport::Forward(stream) => stream.inner().connected().proxy(true),
            Transport::Unix(_) => Connected::new(),
        }
    }
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(stream) | Transport::Forward(stream) => {
                Pin::new(stream).poll_read(cx, buf)
            }
            Transport::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl Write for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(stream) | Transport::Forward(stream) => {
                Pin::new(stream).poll_write(cx, buf)
            }
            Transport::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(stream) | Transport::Forward(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(stream) | Transport::Forward(stream) => {
                Pin::new(stream).poll_shutdown(cx)
            }
            Transport::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Tcp(stream) | Transport::Forward(stream) => stream.is_write_vectored(),
            Transport::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(stream) | Transport::Forward(stream) => {
                Pin::new(stream).poll_write_vectored(cx, bufs)
            }
            Transport::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use tokio::net::TcpListener;
    use tower::service_fn;

    use super::super::silence::silent;
    use super::*;
    use crate::secret::Secret;

    async fn listener(at: &str) -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// Connects to a name that stands for these addresses; returns which one it was, and after how long.
    async fn connect(addresses: Vec<SocketAddr>, timeout: Duration) -> (SocketAddr, Duration) {
        let resolver = service_fn(move |_| {
            let addresses = addresses.clone();
            async move { Ok::<_, io::Error>(addresses.into_iter()) }
        });
        let began = Instant::now();
        let connecting = tcp(resolver, timeout).oneshot(Uri::from_static("http://name.test"));
        let peer = connecting.await.unwrap().inner().peer_addr().unwrap();
        (peer, began.elapsed())
    }

    #[tokio::test]
    async fn a_name_is_reached_though_one_of_its_addresses_is_silent_and_one_refuses() {
        let (_socket, silent, _waiting) = silent("127.0.0.1:0");
        let (closed, refusing) = listener("127.0.0.1:0").await;
        drop(closed);
        let (_listener, good) = listener("127.0.0.1:0").await;
        let timeout = Duration::from_millis(1500);
        let (peer, time) = connect(vec![silent, refusing, good], timeout).await;
        assert_eq!(peer, good);
        assert!(time < timeout, "the silent one has its share: {time:?}");
    }

    #[tokio::test]
    async fn the_other_family_is_tried_beside_a_silent_one() {
        let (_socket, silent, _waiting) = silent("[::1]:0");
        let (_listener, good) = listener("127.0.0.1:0").await;
        let (peer, time) = connect(vec![silent, good], Duration::from_secs(60)).await;
        assert_eq!(peer, good);
        assert!(time >= HAPPY_EYEBALLS, "{time:?}");
        assert!(time < Duration::from_secs(10), "{time:?}");
    }

    #[tokio::test]
    async fn a_name_is_looked_up_for_each_connection() {
        let (_before, before) = listener("127.0.0.1:0").await;
        let (_after, after) = listener("127.0.0.1:0").await;
        let moved = Arc::new(AtomicBool::new(false));
        let now = Arc::clone(&moved);
        let resolver = service_fn(move |_| {
            let address = if now.load(Ordering::SeqCst) {
                after
            } else {
                before
            };
            async move { Ok::<_, io::Error>([address].into_iter()) }
        });
        let tcp = tcp(resolver, Duration::from_secs(5));
        for (is_moved, expected) in [(false, before), (true, after)] {
            moved.store(is_moved, Ordering::SeqCst);
            let stream = tcp.clone().oneshot(Uri::from_static("http://name.test"));
            let peer = stream.await.unwrap().inner().peer_addr().unwrap();
            assert_eq!(peer, expected);
        }
    }

    #[test]
    fn a_tunnel_is_told_the_port() {
        for (uri, told) in [
            ("http://host/v1", "http://host:80/v1"),
            ("http://[::1]/v1", "http://[::1]:80/v1"),
            ("http://host:8000/v1", "http://host:8000/v1"),
            ("https://host/v1", "https://host/v1"),
        ] {
            assert_eq!(with_port(Uri::from_static(uri)), told);
        }
    }

    #[test]
    fn a_proxy_of_another_kind_is_refused_and_its_password_not_shown() {
        for url in [
            "socks5://user:secret@127.0.0.1:1080",
            "https://user:secret@127.0.0.1:1080",
            "ftp://user:secret@127.0.0.1:1080",
        ] {
            let mut params = Params::of(Uri::from_static("https://api.openai.com/v1"));
            params.proxy = Proxy::Http(Secret::new(url));
            let Err(error) = Way::to(&params) else {
                panic!("{url} is taken");
            };
            assert!(matches!(error, RemoteError::Proxy), "{error:?}");
            assert!(!format!("{error} {error:?} {:?}", params.proxy).contains("secret"));
        }
    }
}
