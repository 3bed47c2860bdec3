//! The configuration as the rest of Weir gets it: every default filled in, every text read, nothing left to check.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, Uri};

use crate::pattern::Pattern;
use crate::secret::Secret;

/// Everything that can be configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data plane's listener and its bounds.
    pub server: ServerConfig,
    /// The admin plane's listener.
    pub admin: AdminConfig,
    /// Where answers come from, in the order of the file: the first whose `models` match takes a call that no route
    /// names. Names are unique.
    pub upstreams: Vec<UpstreamConfig>,
    /// Which upstream a model goes to, in the order of the file; the most specific pattern wins, among equals the first.
    pub routes: Vec<RouteConfig>,
    /// The teams that keys belong to. Names are unique.
    pub teams: Vec<TeamConfig>,
    /// The gateway keys; with none, one is made at start. Names and digests are unique.
    pub keys: Vec<KeyConfig>,
    /// What is logged, and how.
    pub log: LogConfig,
}

/// `[server]`: the data plane.
#[derive(Clone, Debug)]
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
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// Where operators and Prometheus connect. Default: 127.0.0.1:8081; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What admin calls must present; without one a token is made at start.
    pub token: Option<Secret>,
}

/// `[[upstream]]`: something that answers calls.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// Its name in routes, metrics and logs.
    pub name: String,
    /// The models it serves when no route says otherwise. Default: all for a remote one, its own for a local one.
    pub models: Vec<Pattern>,
    /// What it is.
    pub kind: UpstreamKind,
}

/// The kinds of upstreams.
#[expect(clippy::large_enum_variant, reason = "a handful, made once at start")]
#[derive(Clone, Debug)]
pub enum UpstreamKind {
    /// A server that speaks the OpenAI API.
    Remote(RemoteConfig),
    /// A Transformer in this process.
    Local(LocalConfig),
}

/// An upstream of kind `openai`.
#[derive(Clone, Debug)]
pub struct RemoteConfig {
    /// What stands before `/chat/completions`: http or https, a host, a path without a slash at its end (`/` alone
    /// where there is none).
    pub base_url: Uri,
    /// The credential sent as a bearer token. Default: none, and no `Authorization` header.
    pub api_key: Option<Secret>,
    /// The pass-through paths that it takes; of several upstreams the one with the most specific pattern. Default: all for the first remote upstream, none for the others.
    pub paths: Vec<Pattern>,
    /// Headers added to every request; the values are marked sensitive.
    pub headers: HeaderMap,
    /// How long it may take.
    pub timeouts: TimeoutsConfig,
}

/// `timeouts` of a remote upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutsConfig {
    /// For a connection, TLS included. Default: 5 s.
    pub connect: Duration,
    /// Until the first byte of an answer. Default: 60 s.
    pub first_byte: Duration,
    /// Between two chunks of an answer. Default: 60 s.
    pub idle: Duration,
    /// For everything together. Default: 10 min.
    pub total: Duration,
}

/// An upstream of kind `local`.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// Where the model is.
    pub model: LocalModel,
    /// Calls that may wait for the model; more are refused. Default: 64.
    pub queue: usize,
}

/// Where a local model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalModel {
    /// Part of the program, by this name.
    Bundled(String),
    /// A folder in the layout of the Hugging Face hub.
    Folder(PathBuf),
    /// A GGUF file.
    Gguf(PathBuf),
}

/// `[[route]]`: which upstream a model goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteConfig {
    /// The names that clients ask for. No two routes have the same.
    pub model: Pattern,
    /// Where they go.
    pub target: TargetConfig,
}

/// The target of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetConfig {
    /// The name of an upstream that exists.
    pub upstream: String,
    /// The name that the upstream knows the model by. Default: the one that was asked for.
    pub model: Option<String>,
}

/// `[[team]]`: what several keys have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeamConfig {
    /// Its name in metrics and logs.
    pub name: String,
    /// The models that its keys may use, where the key allows them too. Default: all.
    pub models: Vec<Pattern>,
}

/// `[[key]]`: a gateway key.
#[derive(Clone, Debug)]
pub struct KeyConfig {
    /// Its name in metrics and logs.
    pub name: String,
    /// The name of a team that exists.
    pub team: Option<String>,
    /// The SHA-256 of the key; the key itself is kept nowhere.
    pub digest: [u8; 32],
    /// The models that it may use. Default: all.
    pub models: Vec<Pattern>,
    /// The paths that it may use. Default: all.
    pub paths: Vec<Pattern>,
    /// When it stops being valid. Default: never.
    pub expires: Option<jiff::Timestamp>,
}

/// `[log]`: what is logged to standard error, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The form of a line. Default: auto.
    pub format: LogFormat,
    /// The least severity that is logged. Default: info.
    pub level: tracing::Level,
    /// Whether each request is logged. Default: true.
    pub access: bool,
}

/// The forms of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// For machines.
    Json,
}
