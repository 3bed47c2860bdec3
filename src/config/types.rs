//! The configuration as the rest of Weir gets it: every default filled in, every text read, nothing left to check.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, HeaderName, Uri};

mod cache;
mod ledger;
mod limits;
mod redis;
mod telemetry;

pub use self::cache::{
    CacheConfig, CacheReplayConfig, CacheRetriesConfig, CacheScopeConfig, CacheTerms,
    CacheWhenConfig,
};
pub use self::ledger::{
    BudgetConfig, BudgetLimit, ClientGoneConfig, EncodingConfig, LedgerConfig, LedgerFailureConfig,
    Period, SyncConfig, Window,
};
pub use self::limits::LimitsConfig;
pub use self::redis::{RedisConfig, RedisOutageConfig, SentinelConfig};
pub use self::telemetry::{ContentConfig, TelemetryConfig};
use crate::call::Keeps;
use crate::pattern::Pattern;
use crate::secret::Secret;
use crate::store::limits::Entry;

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq)]
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
    /// What is done about failures, unless a route says otherwise.
    pub retry: RetryConfig,
    /// The teams that keys belong to. Names are unique.
    pub teams: Vec<TeamConfig>,
    /// The gateway keys; with none, one is made at start. Names and digests are unique.
    pub keys: Vec<KeyConfig>,
    /// What keys without limits of their own may use, and all of them together.
    pub limits: LimitsConfig,
    /// What was used, and what it cost.
    pub ledger: LedgerConfig,
    /// What is kept for calls that are alike.
    pub cache: CacheConfig,
    /// What is shared with other gateways. Default: nothing.
    pub redis: Option<RedisConfig>,
    /// What is logged, and how.
    pub log: LogConfig,
    /// What is measured.
    pub metrics: MetricsConfig,
    /// Where traces of requests go. Default: none are made.
    pub telemetry: Option<TelemetryConfig>,
}

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

/// `[[upstream]]`: something that answers calls.
#[derive(Clone, Debug, PartialEq)]
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
#[derive(Clone, Debug, PartialEq)]
pub enum UpstreamKind {
    /// A server that speaks the OpenAI API.
    Remote(RemoteConfig),
    /// A Transformer in this process.
    Local(LocalConfig),
}

/// An upstream of kind `openai` or `azure`.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteConfig {
    /// Which API it speaks.
    pub api: ApiConfig,
    /// Where it is: `base_url`, or each of `base_urls`. At least one, all different.
    pub endpoints: Vec<EndpointConfig>,
    /// The credentials, taken in turn. Default: none, and no credential is sent.
    pub api_keys: Vec<Secret>,
    /// The pass-through paths that it takes; of several upstreams the one with the most specific pattern. Default: all for the first remote upstream, none for the others.
    pub paths: Vec<Pattern>,
    /// Headers added to every request; the values are marked sensitive.
    pub headers: HeaderMap,
    /// How long it may take.
    pub timeouts: TimeoutsConfig,
    /// Calls under way at once. Default: no bound.
    pub max_concurrent: Option<NonZeroUsize>,
    /// Calls that may wait for one of those places; more are refused. Default: 0.
    pub queue: usize,
    /// When an endpoint is left out because it fails.
    pub eject: EjectConfig,
    /// Active health checks. Default: none.
    pub health: Option<HealthConfig>,
    /// The way there. Default: what the environment says.
    pub proxy: ProxyConfig,
    /// How TLS is spoken with it.
    pub tls: ClientTlsConfig,
}

/// The APIs of remote upstreams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiConfig {
    /// OpenAI's, or any that is compatible.
    OpenAi,
    /// Azure OpenAI.
    Azure {
        /// The dated version, such as `2024-10-21`, by which paths name deployments. Default: none, which stands for
        /// the v1 API.
        version: Option<String>,
    },
}

/// Where an endpoint of a remote upstream is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointConfig {
    /// http or https, a host, and what stands before `/chat/completions`, without a slash at its end (`/` alone where
    /// there is none).
    Http(Uri),
    /// A server on this machine, over HTTP/1.1: `unix:/run/llama.sock:/v1`.
    Unix {
        /// The socket.
        socket: PathBuf,
        /// What stands before `/chat/completions`, without a slash at its end; empty where there is nothing. Default:
        /// `/v1`.
        prefix: String,
    },
}

/// `timeouts` of a remote upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutsConfig {
    /// For a TCP connection, the lookup of its name included. Default: 5 s.
    pub connect: Duration,
    /// For a TLS handshake. Default: 5 s.
    pub tls: Duration,
    /// Until the first byte of an answer. Default: 60 s.
    pub first_byte: Duration,
    /// From the head of a streamed answer to its first content. Default: 60 s.
    pub first_content: Duration,
    /// Between two chunks of an answer. Default: 60 s.
    pub idle: Duration,
    /// For everything together, all attempts included. Default: 10 min.
    pub total: Duration,
}

/// `timeouts` of a route: what is set here counts instead of the upstream's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeoutOverrides {
    /// [`TimeoutsConfig::first_byte`]
    pub first_byte: Option<Duration>,
    /// [`TimeoutsConfig::first_content`]
    pub first_content: Option<Duration>,
    /// [`TimeoutsConfig::idle`]
    pub idle: Option<Duration>,
    /// [`TimeoutsConfig::total`]
    pub total: Option<Duration>,
}

/// `eject` of a remote upstream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EjectConfig {
    /// Failures in a row that eject an endpoint. Default: 5.
    pub failures: u32,
    /// The share of failures in `window` that ejects an endpoint, above 0 and at most 1. Default: 0.1.
    pub share: f64,
    /// Requests in `window` from which on the share counts. Default: 20.
    pub min_requests: u32,
    /// The window of the share. Default: 60 s.
    pub window: Duration,
    /// How long the first ejection lasts; each further one twice as long. Default: 5 s.
    pub base: Duration,
    /// The longest ejection. Default: 5 min.
    pub max: Duration,
    /// How many endpoints of the upstream are asked as a last resort, however they fail, when nothing better is left.
    /// Default: 1.
    pub floor: usize,
}

/// `health` of a remote upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// What is asked for with GET, below the base URL; any answer below 500 is health. Default: `/models`.
    pub path: String,
    /// The time between two checks. Default: 10 s.
    pub interval: Duration,
    /// How long one may take. Default: 2 s.
    pub timeout: Duration,
}

/// `proxy` of a remote upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyConfig {
    /// `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, also in lower case.
    Environment,
    /// `"none"`: straight there.
    Direct,
    /// An HTTP proxy: `http://[user:password@]host:port`.
    Http(Secret),
}

/// `tls` of a remote upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTlsConfig {
    /// A PEM file of the authorities that are trusted instead of the system's.
    pub ca: Option<PathBuf>,
    /// The certificate that Weir shows, and its key.
    pub identity: Option<TlsConfig>,
    /// SHA-256 of what these files hold: with another content it is another configuration.
    pub digest: [u8; 32],
}

/// An upstream of kind `local`.
#[derive(Clone, Debug, PartialEq)]
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

/// `[[route]]`: which upstreams a model goes to.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteConfig {
    /// The names that clients ask for. No two routes have the same.
    pub model: Pattern,
    /// Where they go, in the order of the file: at least one, no two alike.
    pub targets: Vec<TargetConfig>,
    /// How targets of one priority share the calls. Default: p2c.
    pub balance: BalanceConfig,
    /// What keeps calls that belong together at one endpoint. Default: nothing.
    pub affinity: Option<AffinityConfig>,
    /// Set where the route has a `retry` of its own; what it leaves out comes from `[retry]`.
    pub retry: Option<RetryConfig>,
    /// What counts instead of the upstreams' own.
    pub timeouts: TimeoutOverrides,
    /// A second attempt for slow answers. Default: none.
    pub hedge: Option<HedgeConfig>,
    /// How much the calls that it serves may use together, whoever makes them. Default: no bound.
    pub limits: Vec<Entry>,
    /// Set where the route has a `cache` of its own; what it leaves out comes from `[cache]`.
    pub cache: Option<CacheTerms>,
}

/// A target of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetConfig {
    /// The name of an upstream that exists.
    pub upstream: String,
    /// The name that the upstream knows the model by. Default: the one that was asked for.
    pub model: Option<String>,
    /// Targets of a higher number are asked when those of the lower ones fail. Default: 0.
    pub priority: u32,
    /// The share of the calls, with `balance = "weighted"`; at least 1. Default: 1.
    pub weight: u32,
}

/// How targets of one priority share the calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BalanceConfig {
    /// `"p2c"`: of two drawn at random the one with the lower latency and load.
    #[default]
    P2c,
    /// `"weighted"`: drawn at random by weight.
    Weighted,
    /// `"order"`: the first that is healthy, in the order of the file.
    Order,
}

/// What keeps calls that belong together at one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AffinityConfig {
    /// `{ header = "x-session-id" }`: the value of a header of the request.
    Header(HeaderName),
    /// `{ prompt_prefix = "1KiB" }`: the first bytes of the prompt.
    PromptPrefix(usize),
}

/// `[retry]`: what is done about failures before the client has heard anything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryConfig {
    /// Tries after the first, among the targets of one priority. Default: 2.
    pub attempts: u32,
    /// The upper end of the first pause; each further one is twice as long. Default: 500 ms.
    pub backoff_base: Duration,
    /// The longest pause. Default: 8 s.
    pub backoff_max: Duration,
    /// Retries as a share of requests, per upstream, from 0 to 1. Default: 0.2.
    pub budget: f64,
    /// The longest wait that an upstream may ask for and gets; longer ones go to the client. Default: 30 s.
    pub max_retry_after: Duration,
    /// How long events of a stream that are no content yet are held back. Default: 100 ms.
    pub hold: Duration,
}

/// `hedge` of a route.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HedgeConfig {
    /// Second attempts as a share of requests, above 0 and at most 1. Default: 0.05.
    pub budget: f64,
    /// When the second attempt starts. Default: at the 95th percentile of the route's own times to the first byte.
    pub after: Option<Duration>,
}

/// `[[team]]`: what several keys have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeamConfig {
    /// Its name in metrics and logs.
    pub name: String,
    /// The models that its keys may use, where the key allows them too. Default: all.
    pub models: Vec<Pattern>,
    /// What all its keys may use up together; no two alike. Default: no bound.
    pub budgets: Vec<BudgetConfig>,
    /// How fast all its keys may use it together; no two overlap. Default: no bound.
    pub limits: Vec<Entry>,
    /// Which answers are kept for its keys. Default: as where the call goes.
    pub cache: Option<Keeps>,
}

/// `[[key]]`: a gateway key.
#[derive(Clone, Debug, PartialEq)]
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
    /// What it may use up, within its team's budgets; no two alike. Default: no bound.
    pub budgets: Vec<BudgetConfig>,
    /// How fast it may use it, within its team's limits; no two overlap. Default: [`LimitsConfig::keys`].
    pub limits: Vec<Entry>,
    /// Which answers are kept for it; none where its team says so. Default: as its team, or else as where the call goes.
    pub cache: Option<Keeps>,
}

/// `[metrics]`: what is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Series of each metric; what finds no place is counted under `other`. Default: 5000.
    pub max_series: usize,
}

/// `[log]`: what is logged to standard error, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogConfig {
    /// The form of a line. Default: auto.
    pub format: LogFormat,
    /// The least severity that is logged. Default: info.
    pub level: tracing::Level,
    /// Whether requests are logged. Default: true.
    pub access: bool,
    /// The share of the requests without a fault that are logged, from 0 to 1. The others all are. Default: 1.
    pub sample: f64,
    /// Lines that wait to be written; where more come they are dropped. Default: 16384.
    pub queue: usize,
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
