//! `[server]` and `[admin]`, as the rest of Weir gets them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::secret::Secret;

/// `[server]`: the data plane.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerConfig {
    /// Where clients connect. Default: 127.0.0.1:8080; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Certificate and key; both were read and fit together when the configuration was checked. Default: no TLS.
    pub tls: Option<TlsConfig>,
    /// Worker threads; 0 is one per core. Default: 0.
    pub workers: usize,
    /// Connections open at once. Default: 10 000.
    pub max_connections: usize,
    /// Bytes of a JSON body. Default: 25 MiB.
    pub max_body: u64,
    /// Bytes of a pass-through body. Default: 1 GiB.
    pub max_upload: u64,
    /// Bytes of a plain answer of an understood endpoint. Default: 64 MiB.
    pub max_answer: u64,
    /// Bytes of a request head, at least 8 KiB. Default: 64 KiB.
    pub max_head: usize,
    /// Header lines of a request. Default: 100.
    pub max_headers: usize,
    /// Bytes of a request's URI, at most `max_head`. Default: 8 KiB.
    pub max_uri: usize,
    /// Levels of nesting in a JSON body. Default: 128.
    pub max_json_depth: usize,
    /// Time for a request head to be whole. Default: 5 s.
    pub header_timeout: Duration,
    /// Longest silence in the middle of a body. Default: 10 s.
    pub body_idle_timeout: Duration,
    /// Time for a whole JSON body. Default: 30 s.
    pub body_timeout: Duration,
    /// Longest time that a client takes no bytes of its answer. Default: 60 s.
    pub write_timeout: Duration,
    /// How long a connection without a request stays open. Default: 75 s.
    pub keep_alive: Duration,
    /// How often a stream that has no content yet shows by a comment that it is alive, for load balancers that cut idle
    /// connections. Default: never.
    pub stream_ping: Option<Duration>,
    /// How long a stop waits for requests in flight; zero: not at all. Default: 30 s.
    pub drain_timeout: Duration,
}

/// A certificate chain and its private key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The chain, the server's own certificate first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// `[admin]`: the admin plane.
#[derive(Clone, Debug, PartialEq)]
pub struct AdminConfig {
    /// Where operators and Prometheus connect. Default: 127.0.0.1:8081; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What admin calls must present; without one a token is made at start.
    pub token: Option<Secret>,
}
