//! `[[route]]` and `[retry]`, as the rest of Weir gets them.

use std::time::Duration;

use http::HeaderName;

use super::CacheTerms;
use crate::pattern::Pattern;
use crate::store::limits::Entry;

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

/// `timeouts` of a route: what is set here counts instead of the upstream's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeoutOverrides {
    /// [`TimeoutsConfig::first_byte`](super::TimeoutsConfig::first_byte)
    pub first_byte: Option<Duration>,
    /// [`TimeoutsConfig::first_content`](super::TimeoutsConfig::first_content)
    pub first_content: Option<Duration>,
    /// [`TimeoutsConfig::idle`](super::TimeoutsConfig::idle)
    pub idle: Option<Duration>,
    /// [`TimeoutsConfig::total`](super::TimeoutsConfig::total)
    pub total: Option<Duration>,
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
