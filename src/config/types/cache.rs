//! `[cache]`, as the rest of Weir gets it.

use std::time::Duration;

/// `[cache]`: answers that are kept for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// What holds where a route says nothing else.
    pub terms: CacheTerms,
    /// Bytes of all answers in memory. Default: 256 MiB.
    pub max_bytes: u64,
    /// Bytes of one answer. Default: 4 MiB.
    pub max_entry: u64,
    /// The longest time that a request may have its answer kept for. Default: a day.
    pub max_ttl: Duration,
    /// Whether what is answered by another call's answer counts as the tokens that it saved, in limits and in budgets of
    /// tokens. Default: false, it counts as a request.
    pub counts_saved: bool,
    /// What clients get that ask again.
    pub retries: CacheRetriesConfig,
    /// Whether gateways share answers by `[redis]`. Default: true where there is one.
    pub redis: bool,
    /// How long a call waits for the answer that another gateway is getting; zero: not at all. Default: 5 s.
    pub redis_wait: Duration,
    /// Bytes of answers that may be on their way to Redis, and at least one answer. Default: 16 MiB.
    pub redis_queue: u64,
}

/// `[cache] retries`: what a client gets that makes the same call again, since it heard nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheRetriesConfig {
    /// Whether it gets the answer to the first one. Default: as `[cache] enabled`.
    pub enabled: bool,
    /// How long after its end that is there. Default: 60 s.
    pub window: Duration,
    /// How long a call goes on that had no answer when its client left, where that is one which asks again; zero: not at
    /// all. Default: 1.5 s.
    pub linger: Duration,
    /// Bytes of all such answers in memory. Default: 64 MiB.
    pub max_bytes: u64,
    /// Such answers in memory, and keys of clients. Default: 10 000.
    pub max_entries: u64,
}

/// What holds for a call: `[cache]`, or `cache` of its route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheTerms {
    /// Whether anything is looked up or kept. Default: true where there is a `[cache]`, else false.
    pub enabled: bool,
    /// Which calls are. Default: deterministic.
    pub when: CacheWhenConfig,
    /// Who shares answers. Default: team.
    pub scope: CacheScopeConfig,
    /// How long they are served. Default: an hour.
    pub ttl: Duration,
    /// Whether calls that give tools to the model, or the results of some, are among them. Default: true.
    pub tools: bool,
    /// How long after that they are served where the upstream fails. Default: not at all.
    pub stale_if_error: Duration,
    /// How fast a stream comes again. Default: at once.
    pub replay: CacheReplayConfig,
    /// Whether a call goes on to its end, to be kept, though all its clients have left. Default: false.
    pub finish: bool,
}

/// How fast a stream comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheReplayConfig {
    /// `"at-once"`: as fast as it is read.
    AtOnce,
    /// `"recorded"`: as fast as it came.
    Recorded,
}

/// Which calls are looked up and kept, besides those that ask for it themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheWhenConfig {
    /// `"deterministic"`: embeddings, and what is generated with temperature 0 or a seed.
    Deterministic,
    /// `"always"`: all.
    Always,
    /// `"on-request"`: none.
    OnRequest,
}

/// Who shares answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheScopeConfig {
    /// `"team"`: the keys of a team; a key without a team shares with none.
    Team,
    /// `"key"`: nobody.
    Key,
    /// `"global"`: all keys.
    Global,
}
