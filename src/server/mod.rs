//! Listeners that serve any tower service over HTTP/1.1 and HTTP/2. Nothing here knows what is served.
//!
//! What HTTP libraries leave open is decided here: how long a head may take, when an idle connection is closed, what is
//! answered to bytes that are no request, how a connection is closed so that its last answer arrives, and how all of
//! it ends in good order.

mod connection;
mod current;
mod drain;
mod guard;
mod listener;
mod prefixed;
mod request;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

pub use current::Current;
pub use drain::Drain;
pub use listener::{Bound, Listener, Terms};
pub use request::{HttpService, PeerAddr, RequestBody};
pub use tls::{Tls, TlsError};

/// How connections are held.
#[derive(Clone)]
pub struct Params {
    /// The listener's name in logs.
    pub name: &'static str,
    /// The time for a request's head, a TLS handshake included.
    pub header_timeout: Duration,
    /// How long a connection may lie idle between requests.
    pub keep_alive: Duration,
    /// How long a client may refuse to take bytes.
    pub write_timeout: Duration,
    /// The size of a request's head in bytes. The stack turns larger ones away with an envelope; here lies the bound
    /// of memory, some way above.
    pub max_head: usize,
    /// The number of headers; as above.
    pub max_headers: usize,
    /// Connections held at once.
    pub max_connections: usize,
    /// The whole answer to bytes that are no request, by status: 400, 408, 414 or 431.
    pub rejection: Rejection,
    /// Told of connections.
    pub observer: Arc<dyn Observer>,
}

/// Makes the whole bytes of an HTTP/1.1 answer.
pub type Rejection = Arc<dyn Fn(StatusCode) -> Bytes + Send + Sync>;

/// Hears of connections.
pub trait Observer: Send + Sync {
    /// One was accepted.
    fn opened(&self);
    /// One is gone.
    fn closed(&self);
    /// One was closed before a request could be read.
    fn refused(&self, reason: &'static str);
}
