//! What the ledger says of a request.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::call::Cause;
use crate::money::Nanos;
use crate::openai::usage::Usage;

/// What is known of a request before it goes anywhere.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Intent {
    /// Its id: the client's, or ours. Clients may send one twice.
    pub request_id: Arc<str>,
    /// When its head had arrived.
    pub received: SystemTime,
    /// The name of the gateway key.
    pub key: Arc<str>,
    /// The key's team.
    pub team: Option<Arc<str>>,
    /// What was asked for: [`Endpoint::label`](crate::openai::endpoint::Endpoint::label), or the path passed through.
    pub endpoint: Arc<str>,
    /// The model asked for.
    pub model: Option<Arc<str>>,
    /// Whether the answer was asked for as a stream.
    pub stream: bool,
    /// What it is booked at when the process dies.
    pub estimate: Option<Counts>,
    /// The upstream that it goes to, where there is but one.
    pub upstream: Option<Arc<str>>,
}

/// Counted tokens, and what they cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// The tokens.
    pub usage: Usage,
    /// How they are known.
    pub provenance: Provenance,
    /// What they cost; `None`: the model's price is not known.
    pub cost: Option<Nanos>,
}

/// How counts are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Provenance {
    /// The upstream's own usage object.
    Upstream,
    /// Our tokenizer, over what was really sent.
    Counted,
    /// A guess: no tokenizer of the model is known, or the process died.
    Estimated,
    /// The upstream's own usage object, read to the end after the client had gone.
    Drained,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// With an answer, whole; a refusal by the upstream is one, too.
    Complete,
    /// Without an answer, or with one that broke off.
    Failed,
    /// Its client left first.
    ClientGone,
    /// The process died.
    Interrupted,
    /// Turned away before anything was done for it.
    Refused,
}

/// Where an answer came from. Journals number them in this order: what is new stands at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServedFrom {
    /// An attempt of its own.
    Upstream,
    /// The store of answers.
    Cache,
    /// The attempt of an identical request.
    Joined,
    /// As `Cache`, and its tokens count towards limits and budgets all the same.
    CountedCache,
    /// As `Joined`, and so do its tokens.
    CountedJoined,
}

/// How a request ended and what it used.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// How it ended.
    pub status: Status,
    /// The HTTP status that was sent; `None` when its client left before there was one.
    pub http_status: Option<u16>,
    /// Why it failed: a word of the closed vocabulary of causes.
    pub error: Option<Cow<'static, str>>,
    /// The name by which the upstream was asked for the model.
    pub served_model: Option<Arc<str>>,
    /// The upstream that answered last.
    pub upstream: Option<Arc<str>>,
    /// The tokens of the answer, where it has any; the cost is that of all attempts together.
    pub counts: Option<Counts>,
    /// Whether an upstream may charge for it though nothing could be counted: what that costs is not known.
    #[serde(default)]
    pub uncounted: bool,
    /// Where the answer came from; `None`: from the gateway itself.
    pub served_from: Option<ServedFrom>,
    /// What the cache did.
    pub cache: Cow<'static, str>,
    /// Whether the local model answered in the place of others.
    pub degraded: bool,
    /// Bytes of the request's body, as far as they are known.
    pub received_bytes: u64,
    /// Bytes of the answer's body that left for the client.
    pub sent_bytes: u64,
    /// How long it took.
    pub times: Times,
    /// The tries, in the order in which they began.
    pub attempts: Vec<Attempt>,
    /// What the client is told instead, should it not be safe in time. What stands in a journal was.
    #[serde(skip)]
    pub unrecorded: Option<Unrecorded>,
}

/// What a client is told whose row is not safe when its answer ends, where nothing is let through that is not written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unrecorded {
    /// The HTTP status that it sees.
    pub http_status: Option<u16>,
    /// Why.
    pub cause: Cause,
}

/// How long the parts of a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// Waiting for a place at an upstream.
    pub queue: Duration,
    /// Waiting for the upstream's answer to begin.
    pub upstream: Option<Duration>,
    /// From the request's head to the first content that left for the client.
    pub first_token: Option<Duration>,
    /// From the request's head to the end of the answer.
    pub total: Duration,
}

/// One try at an upstream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attempt {
    /// The upstream.
    pub upstream: Arc<str>,
    /// Which of its endpoints.
    pub endpoint: Arc<str>,
    /// The name by which it was asked for the model.
    pub model: Option<Arc<str>>,
    /// When it began, counted from the request's head.
    pub began: Duration,
    /// How long it took to begin an answer, or to fail.
    pub time: Option<Duration>,
    /// `answered`, `abandoned`, or the cause of its failure.
    pub result: Cow<'static, str>,
    /// The HTTP status that the upstream answered.
    pub http_status: Option<u16>,
    /// What it used, where it was billed.
    pub counts: Option<Counts>,
}

impl Intent {
    /// Returns what is known of every request; its head had arrived so long ago.
    pub fn new(request_id: &str, age: Duration, key: Arc<str>, endpoint: Arc<str>) -> Self {
        let now = SystemTime::now();
        Self {
            request_id: request_id.into(),
            received: now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH),
            key,
            team: None,
            endpoint,
            model: None,
            stream: false,
            estimate: None,
            upstream: None,
        }
    }
}

impl Entry {
    /// Notes what the client was told: the row is written later.
    pub(super) fn tell_unrecorded(&mut self) {
        if let Some(Unrecorded { http_status, cause }) = self.unrecorded.take() {
            self.status = Status::Failed;
            self.http_status = http_status;
            self.error = Some(cause.as_str().into());
        }
    }

    /// Returns the end of a request of which nothing came.
    pub fn unanswered(status: Status, cause: Cause, total: Duration) -> Self {
        Self {
            status,
            http_status: None,
            error: Some(cause.as_str().into()),
            served_model: None,
            upstream: None,
            counts: None,
            uncounted: false,
            served_from: None,
            cache: "bypass".into(),
            degraded: false,
            received_bytes: 0,
            sent_bytes: 0,
            times: Times {
                total,
                ..Times::default()
            },
            attempts: Vec::new(),
            unrecorded: None,
        }
    }

    /// Returns what all attempts cost together; `None`: that is not known.
    pub fn cost(&self) -> Option<Nanos> {
        match self.counts {
            Some(counts) => counts.cost,
            None => (!self.uncounted).then_some(Nanos::ZERO),
        }
    }

    /// Returns the tokens of all attempts and classes, which is what budgets count.
    pub fn tokens(&self) -> u64 {
        let billed = self.attempts.iter().filter_map(|attempt| attempt.counts);
        let billed = billed.fold(0, |sum: u64, counts| {
            sum.saturating_add(counts.usage.total())
        });
        let answer = self.counts.map_or(0, |counts| counts.usage.total());
        match self.served_from {
            // Those of the answer were used once, and by another request. What failed before it is this one's.
            Some(ServedFrom::Cache | ServedFrom::Joined) => billed,
            Some(ServedFrom::CountedCache | ServedFrom::CountedJoined) => {
                billed.saturating_add(answer)
            }
            // A row that is settled at its estimate names no attempts.
            Some(ServedFrom::Upstream) | None if self.attempts.is_empty() => answer,
            Some(ServedFrom::Upstream) | None => billed,
        }
    }
}

impl Provenance {
    /// Returns the word that the ledger uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Counted => "counted",
            Self::Estimated => "estimated",
            Self::Drained => "drained",
        }
    }
}

impl Status {
    /// Returns the word that the ledger uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::ClientGone => "client_gone",
            Self::Interrupted => "interrupted",
            Self::Refused => "refused",
        }
    }
}

impl ServedFrom {
    /// Returns the word that the ledger uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Cache | Self::CountedCache => "cache",
            Self::Joined | Self::CountedJoined => "joined",
        }
    }
}
