//! One connection: which protocol it speaks, and that protocol served.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::guard::{Activity, Guard};
use super::listener::Place;
use super::prefixed::Prefixed;
use super::request::Tracked;
use super::{Drain, HttpService, Params, PeerAddr};

/// How HTTP/2 begins (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes that lie unsent for a slow reader, per connection or HTTP/2 stream.
const SEND_BUFFER: usize = 64 << 10;

/// How many headers hyper takes unless told otherwise.
const FREE_HEADERS: usize = 100;

/// HTTP/2 flow control: enough for an upload at full speed over a long way, little enough for many connections.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// HTTP/2 bounds on one connection's share, and against clients that open and reset streams without end
/// (CVE-2023-44487).
const MAX_STREAMS: u32 = 100;
const MAX_PENDING_RESETS: usize = 20;
const MAX_LOCAL_RESETS: usize = 256;

/// How often a silent HTTP/2 client is asked whether it is still there, and how long it may take to say so.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a client that was told to go may stay without a request.
const FAREWELL: Duration = Duration::from_secs(5);

/// Serves one connection to its end.
pub(super) async fn serve<S: HttpService>(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    service: S,
    params: Params,
    drain: Drain,
    place: Arc<Place>,
) {
    let activity = Arc::new(Activity::default());
    let service = Tracked {
        inner: service,
        peer: PeerAddr(peer),
        activity,
        drain: drain.clone(),
    };
    let connection = Connection {
        service,
        params,
        drain,
        since: Instant::now(),
        place,
    };
    match tls {
        // Each way is boxed where it parts from the others: a connection holds the memory of its own alone.
        Some(tls) => Box::pin(connection.serve_tls(stream, tls)).await,
        None => connection.serve_either(stream, false).await,
    }
}

struct Connection<S> {
    service: Tracked<S>,
    params: Params,
    drain: Drain,
    /// When it was accepted.
    since: Instant,
    place: Arc<Place>,
}

impl<S: HttpService> Connection<S> {
    async fn serve_tls(self, stream: TcpStream, tls: TlsAcceptor) {
        let deadline = self.since + self.params.header_timeout;
        match tokio::time::timeout_at(deadline, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                self.serve_either(stream, http2).await;
            }
            Ok(Err(_)) | Err(_) => self.params.observer.refused("tls_handshake"),
        }
    }

    /// HTTP/1.1, or HTTP/2 by prior knowledge; HTTP/2 alone where that was agreed on.
    async fn serve_either<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        self,
        mut stream: T,
        http2: bool,
    ) {
        let mut prefix = BytesMut::with_capacity(PREFACE.len());
        let read = async {
            while prefix.len() < PREFACE.len() && PREFACE.starts_with(&prefix) {
                let room = (PREFACE.len() - prefix.len()) as u64;
                if !matches!(
                    (&mut stream).take(room).read_buf(&mut prefix).await,
                    Ok(1..)
                ) {
                    break;
                }
            }
        };
        let in_time = tokio::select! {
            read = tokio::time::timeout_at(self.since + self.params.header_timeout, read) => read.is_ok(),
            // Nothing was asked on this connection.
            () = self.drain.idle().cancelled() => return,
        };
        let prefix: Bytes = prefix.freeze();
        if prefix == PREFACE {
            Box::pin(self.serve_http2(Prefixed::new(prefix, stream))).await;
        } else if http2 || prefix.is_empty() || (!in_time && prefix.starts_with(b"PRI")) {
            // Silent, or no HTTP/2 after all: there is nobody to answer.
            if !in_time {
                self.params.observer.refused("silent");
            }
        } else {
            Box::pin(self.serve_http1(Prefixed::new(prefix, stream))).await;
        }
    }

    async fn serve_http1<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(self, stream: T) {
        let activity = Arc::clone(&self.service.activity);
        let params = &self.params;
        let guard = Guard::new(
            stream,
            self.since,
            Arc::clone(&activity),
            params,
            Arc::clone(&self.place),
        );
        let mut builder = http1::Builder::new();
        builder
            .max_buf_size(params.max_head.max(SEND_BUFFER))
            .timer(TokioTimer::new())
            // The guard's timers come first. hyper needs one of its own to read on after an answer, and so to poll the
            // guard's.
            .header_read_timeout(
                params.keep_alive + params.header_timeout + Duration::from_secs(1),
            );
        // Up to that many hyper needs no allocation, if it is not told a number.
        if params.max_headers > FREE_HEADERS {
            builder.max_headers(params.max_headers);
        }
        let connection = builder
            .serve_connection(TokioIo::new(guard), self.service)
            .with_upgrades();
        {
            let mut connection = pin!(connection);
            // How a connection ends is no news: requests under way have their own log lines.
            tokio::select! {
                _ = connection.as_mut() => {}
                () = self.drain.idle().cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
        }
        // A request that asked for another protocol and was refused leaves the connection in hyper's hands.
        if let Some(upgrade) = activity.take_upgrade()
            && let Ok(connection) = upgrade.await
        {
            let _ = TokioIo::new(connection).shutdown().await;
        }
    }

    async fn serve_http2<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(self, stream: T) {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            .max_local_error_reset_streams(MAX_LOCAL_RESETS)
            .max_header_list_size(u32::try_from(self.params.max_head).unwrap_or(u32::MAX))
            .max_send_buf_size(SEND_BUFFER)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        let activity = Arc::clone(&self.service.activity);
        let connection = builder.serve_connection(TokioIo::new(stream), self.service);
        let mut connection = pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => return,
            () = stalled_for(self.params.write_timeout, &activity) => return self.params.observer.refused("stalled"),
            () = idle_for(self.params.keep_alive, &activity) => connection.as_mut().graceful_shutdown(),
            () = self.drain.idle().cancelled() => connection.as_mut().graceful_shutdown(),
        }
        // Streams may go on; a client that has none and does not take its leave is left.
        tokio::select! {
            _ = connection => {}
            () = stalled_for(self.params.write_timeout, &activity) => self.params.observer.refused("stalled"),
            () = idle_for(FAREWELL, &activity) => {}
        }
    }
}

/// Waits until no request has been under way for `limit`.
async fn idle_for(limit: Duration, activity: &Activity) {
    loop {
        let count = activity.count();
        tokio::time::sleep(limit).await;
        if activity.is_idle() && activity.count() == count {
            return;
        }
    }
}

/// Waits until an answer has waited for its client for `limit`.
async fn stalled_for(limit: Duration, activity: &Activity) {
    loop {
        tokio::time::sleep((limit / 4).max(Duration::from_millis(10))).await;
        if activity.longest_wait() >= limit {
            return;
        }
    }
}
