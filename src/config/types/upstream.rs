//! `[[upstream]]`, as the rest of Weir gets it.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, Uri};

use super::TlsConfig;
use crate::pattern::Pattern;
use crate::secret::Secret;

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
