//! `[telemetry]`, as the rest of Weir gets it.

use std::time::Duration;

use http::{HeaderMap, Uri};

/// `[telemetry]`: where traces of requests go.
#[derive(Clone, Debug, PartialEq)]
pub struct TelemetryConfig {
    /// Where batches of spans are posted to, `/v1/traces` included: http or https.
    pub endpoint: Uri,
    /// Headers added to each post; the values are marked sensitive. Default: none.
    pub headers: HeaderMap,
    /// How long a post may take. Default: 10 s.
    pub timeout: Duration,
    /// Requests that have ended and whose spans may wait; those of more are dropped. Default: 2048.
    pub queue: usize,
    /// Spans of a batch. Default: 512.
    pub batch: usize,
    /// How long a batch that is not full waits for more. Default: 5 s.
    pub interval: Duration,
    /// The share of the traces that begin here which is recorded, from 0 to 1; what a client says of its own stands.
    /// Default: 1.
    pub sample: f64,
    /// What describes this process, `service.name` and `service.version` among it: names and values, each name once.
    pub resource: Vec<(String, String)>,
    /// Set where prompts and answers are told. Default: they are not.
    pub content: Option<ContentConfig>,
}

/// How prompts and answers are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentConfig {
    /// Bytes of a request's prompts, and as many of its answer. Default: 8 KiB.
    pub max: usize,
    /// Regular expressions of what is taken out besides credentials; they can be compiled. Default: none.
    pub redact: Vec<String>,
}
