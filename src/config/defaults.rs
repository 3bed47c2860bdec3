//! The default of every field, with its reason. What a field means stands with the types.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU32;
use std::time::Duration;

use http::HeaderMap;

use super::types::{
    ApiConfig, CacheConfig, CacheReplayConfig, CacheRetriesConfig, CacheScopeConfig, CacheTerms,
    CacheWhenConfig, ClientTlsConfig, EjectConfig, EndpointConfig, ProxyConfig, RemoteConfig,
    RetryConfig, TimeoutsConfig,
};

/// Loopback, so that a first try opens nothing to the network; 8080 since it needs no privilege.
pub const LISTEN: SocketAddr = loopback(8080);
/// As many as come in a few seconds of a busy gateway; a thousand of them take about a megabyte.
pub const LOG_QUEUE: usize = 16_384;
/// Beside the data plane; 9090 would be Prometheus's own.
pub const ADMIN_LISTEN: SocketAddr = loopback(8081);
/// One per core: the work between two awaits is short, and more threads would only trade places.
pub const WORKERS: usize = 0;
/// At the documented bounds of a connection this stays well within a common machine's memory and descriptors.
pub const MAX_CONNECTIONS: usize = 10_000;
/// Room for a full context window and a few inline images.
pub const MAX_BODY: u64 = 25 << 20;
/// The largest file that the OpenAI API takes in one piece is half of it.
pub const MAX_UPLOAD: u64 = 1 << 30;
/// Several thousand embeddings of the largest size.
pub const MAX_ANSWER: u64 = 64 << 20;
/// Room for long tokens and tracing baggage; the same as HTTP/2's header list.
pub const MAX_HEAD: usize = 64 << 10;
/// Four times what the SDKs and two proxies send.
pub const MAX_HEADERS: usize = 100;
/// What other servers take; no path of the API comes near.
pub const MAX_URI: usize = 8 << 10;
/// Deeper than any tool schema, and far from the end of a stack.
pub const MAX_JSON_DEPTH: usize = 128;
/// A head is one packet or a few; who needs longer holds a slot hostage.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Outlives a few lost packets.
pub const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// A full `max_body` at 7 Mbit/s.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// A client that takes nothing for so long will not come back.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longer than the 60 s after which load balancers close, so that they close first.
pub const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// What Kubernetes waits between SIGTERM and SIGKILL.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Three handshakes across the world and a lost packet.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The same: two more round trips, and a signature.
pub const TLS_TIMEOUT: Duration = Duration::from_secs(5);
/// A long prompt on a busy server; plain answers of slow models need it whole.
pub const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(60);
/// A model that reasons in silence before it speaks.
pub const FIRST_CONTENT_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest pause that models make between tokens, with room.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The SDKs' own.
pub const TOTAL_TIMEOUT: Duration = Duration::from_secs(600);
/// A minute or so of short answers; who is behind them has a client that gave up.
pub const LOCAL_QUEUE: usize = 64;

/// One may be the rest of a deploy, five are none.
pub const EJECT_FAILURES: u32 = 5;
/// Ten times what a healthy service fails by itself.
pub const EJECT_SHARE: f64 = 0.1;
/// Of fewer requests, two failures would be the share already.
pub const EJECT_MIN_REQUESTS: u32 = 20;
/// Long enough to hold `EJECT_MIN_REQUESTS` of a quiet service, short enough to forget.
pub const EJECT_WINDOW: Duration = Duration::from_secs(60);
/// A restart takes about as long.
pub const EJECT_BASE: Duration = Duration::from_secs(5);
/// Nobody waits much longer for a mended server to be used again.
pub const EJECT_MAX: Duration = Duration::from_secs(300);
/// An endpoint that fails may still answer; none never does.
pub const EJECT_FLOOR: usize = 1;
/// Every compatible server has it, and it costs no tokens.
pub const HEALTH_PATH: &str = "/models";
/// Six questions a minute disturb nobody.
pub const HEALTH_INTERVAL: Duration = Duration::from_secs(10);
/// A list of models takes milliseconds.
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// The SDKs' own.
pub const RETRY_ATTEMPTS: u32 = 2;
/// The SDKs' own.
pub const BACKOFF_BASE: Duration = Duration::from_millis(500);
/// The SDKs' own.
pub const BACKOFF_MAX: Duration = Duration::from_secs(8);
/// An outage is amplified by a fifth at most.
pub const RETRY_BUDGET: f64 = 0.2;
/// Half of what load balancers give a silent request.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);
/// Nobody sees it before the first word, and a server that fails at once has failed by then.
pub const HOLD: Duration = Duration::from_millis(100);
/// What the 95th percentile leaves over.
pub const HEDGE_BUDGET: f64 = 0.05;

/// A working session.
pub const CACHE_TTL: Duration = Duration::from_secs(3600);
/// A client does not keep alive for weeks what the operator gave an hour.
pub const CACHE_MAX_TTL: Duration = Duration::from_secs(86_400);
/// Some hundred thousand answers of ordinary length.
pub const CACHE_BYTES: u64 = 256 << 20;
/// A book, or embeddings of several hundred texts.
pub const CACHE_ENTRY: u64 = 4 << 20;

/// The last try of an SDK that gives each one a minute.
pub const CACHE_RETRY_WINDOW: Duration = Duration::from_secs(60);
/// The SDKs ask again after half a second, and then after one; a client that leaves for good stops its upstream in two.
pub const CACHE_RETRY_LINGER: Duration = Duration::from_millis(1500);
/// A quarter of what is kept for others: it is there for a minute.
pub const CACHE_RETRY_BYTES: u64 = 64 << 20;
/// More than a busy minute has.
pub const CACHE_RETRY_ENTRIES: u64 = 10_000;
/// Most answers that are not streamed are whole by then, and a stream by itself would have begun.
pub const CACHE_REDIS_WAIT: Duration = Duration::from_secs(5);
/// A second of a hundred large answers.
pub const CACHE_REDIS_QUEUE: u64 = 16 << 20;

/// A client that is told why its answer ends can say so; one that is cut off cannot.
pub const STOP_STREAM: bool = true;
/// A sentence or two: few enough to owe, and enough that limits are not asked at each word.
pub const STOP_OVERSHOOT: u32 = 64;

/// Three round trips in a bad network; a model's first word takes ten times as long.
pub const REDIS_TIMEOUT: Duration = Duration::from_millis(50);
/// Exact to the last request; who has no time for round trips says so.
pub const REDIS_SLICE: NonZeroU32 = NonZeroU32::MIN;
/// Who has one gateway loses nothing.
pub const LOCAL_SHARE: f64 = 1.0;

/// In the data directory, where other programs find it by its end.
pub const LEDGER_PATH: &str = "weir.db";
/// A year, and time to close its books.
pub const RETENTION: Duration = Duration::from_secs(400 * 86_400);
/// Five years: who gave access to whom is asked for long after the rows are.
pub const AUDIT_RETENTION: Duration = Duration::from_secs(5 * 366 * 86_400);
/// Who shortens a book wants the disk back.
pub const VACUUM: bool = true;
/// A long answer; what a client that left would have cost anyway.
pub const DRAIN_TOKENS: u64 = 4096;
/// Many times what `MAX_CONNECTIONS` of HTTP/1.1 have in flight, in some tens of megabytes.
pub const MAX_OPEN: usize = 65_536;
/// Time to ask for more before the rest is spent.
pub const WARN_AT: f64 = 0.8;

/// What OpenTelemetry's own exporters wait, queue, and send at once and how often.
pub const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// See [`EXPORT_TIMEOUT`].
pub const EXPORT_QUEUE: usize = 2048;
/// See [`EXPORT_TIMEOUT`].
pub const EXPORT_BATCH: usize = 512;
/// See [`EXPORT_TIMEOUT`].
pub const EXPORT_INTERVAL: Duration = Duration::from_secs(5);
/// Who has a collector for few traces says so.
pub const SAMPLE: f64 = 1.0;
/// By which its traces are found.
pub const SERVICE_NAME: &str = "weir";
/// Some pages of text; all that may wait is a few tens of megabytes.
pub const CONTENT_MAX: u64 = 8 << 10;

/// `timeouts` of an upstream that says nothing of them.
pub const TIMEOUTS: TimeoutsConfig = TimeoutsConfig {
    connect: CONNECT_TIMEOUT,
    tls: TLS_TIMEOUT,
    first_byte: FIRST_BYTE_TIMEOUT,
    first_content: FIRST_CONTENT_TIMEOUT,
    idle: IDLE_TIMEOUT,
    total: TOTAL_TIMEOUT,
};
/// `eject` of an upstream that says nothing of it.
pub const EJECT: EjectConfig = EjectConfig {
    failures: EJECT_FAILURES,
    share: EJECT_SHARE,
    min_requests: EJECT_MIN_REQUESTS,
    window: EJECT_WINDOW,
    base: EJECT_BASE,
    max: EJECT_MAX,
    floor: EJECT_FLOOR,
};
/// `[cache]` where there is none.
pub const CACHE: CacheConfig = CacheConfig {
    terms: CacheTerms {
        enabled: false,
        when: CacheWhenConfig::Deterministic,
        scope: CacheScopeConfig::Team,
        ttl: CACHE_TTL,
        tools: true,
        stale_if_error: Duration::ZERO,
        replay: CacheReplayConfig::AtOnce,
        finish: false,
    },
    max_bytes: CACHE_BYTES,
    max_entry: CACHE_ENTRY,
    max_ttl: CACHE_MAX_TTL,
    counts_saved: false,
    retries: CacheRetriesConfig {
        enabled: false,
        window: CACHE_RETRY_WINDOW,
        linger: CACHE_RETRY_LINGER,
        max_bytes: CACHE_RETRY_BYTES,
        max_entries: CACHE_RETRY_ENTRIES,
    },
    redis: false,
    redis_wait: CACHE_REDIS_WAIT,
    redis_queue: CACHE_REDIS_QUEUE,
};
/// `[retry]` where there is none.
pub const RETRY: RetryConfig = RetryConfig {
    attempts: RETRY_ATTEMPTS,
    backoff_base: BACKOFF_BASE,
    backoff_max: BACKOFF_MAX,
    budget: RETRY_BUDGET,
    max_retry_after: MAX_RETRY_AFTER,
    hold: HOLD,
};

/// The model that is part of the program.
pub const BUNDLED_MODEL: &str = "poet";
/// Names that old examples use; with no config they lead to the bundled model.
pub const BUNDLED_ALIASES: [&str; 2] = ["text-davinci-003", "gpt-3.5-turbo-instruct"];
/// Where OPENAI_API_KEY is good for.
pub const OPENAI_BASE_URL: &str = "https://api.openai.com/v1";

/// Returns a remote upstream of which nothing is known but its endpoints: no credential, no paths, every default.
pub fn remote(api: ApiConfig, endpoints: Vec<EndpointConfig>) -> RemoteConfig {
    RemoteConfig {
        api,
        endpoints,
        api_keys: Vec::new(),
        paths: Vec::new(),
        headers: HeaderMap::new(),
        timeouts: TIMEOUTS,
        max_concurrent: None,
        queue: 0,
        eject: EJECT,
        health: None,
        proxy: ProxyConfig::Environment,
        tls: ClientTlsConfig::default(),
    }
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}
