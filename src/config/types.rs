//! The configuration as the rest of Weir gets it: every default filled in, every text read, nothing left to check. The
//! tables of the file have modules of their own; here is the whole.

mod cache;
mod key;
mod ledger;
mod limits;
mod log;
mod metrics;
mod redis;
mod route;
mod server;
mod telemetry;
mod upstream;

pub use self::cache::{
    CacheConfig, CacheReplayConfig, CacheRetriesConfig, CacheScopeConfig, CacheTerms,
    CacheWhenConfig,
};
pub use self::key::{KeyConfig, TeamConfig};
pub use self::ledger::{
    BudgetConfig, BudgetLimit, ClientGoneConfig, EncodingConfig, LedgerConfig, LedgerFailureConfig,
    Period, SyncConfig, Window,
};
pub use self::limits::LimitsConfig;
pub use self::log::{LogConfig, LogFormat};
pub use self::metrics::MetricsConfig;
pub use self::redis::{RedisConfig, RedisOutageConfig, SentinelConfig};
pub use self::route::{
    AffinityConfig, BalanceConfig, HedgeConfig, RetryConfig, RouteConfig, TargetConfig,
    TimeoutOverrides,
};
pub use self::server::{AdminConfig, ServerConfig, TlsConfig};
pub use self::telemetry::{ContentConfig, TelemetryConfig};
pub use self::upstream::{
    ApiConfig, ClientTlsConfig, EjectConfig, EndpointConfig, HealthConfig, LocalConfig, LocalModel,
    ProxyConfig, RemoteConfig, TimeoutsConfig, UpstreamConfig, UpstreamKind,
};

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
