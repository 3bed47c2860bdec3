//! The facts of one request, gathered by whichever layer learns them and reported by the outermost one.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use http::HeaderValue;

use super::cached::{Cached, Sharing};
use super::cause::Cause;
use super::content::Content;
use super::reply::Outcome;
use super::trace::Trace;
use crate::money::Nanos;
use crate::openai::usage::Usage;

/// The id of a request: printable ASCII without spaces, at most 128 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(Arc<str>);

/// What is known of a request so far.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// [`Endpoint::label`](crate::openai::endpoint::Endpoint::label)
    pub endpoint: Option<&'static str>,
    /// The name of the gateway key.
    pub key: Option<Arc<str>>,
    /// The key's team.
    pub team: Option<Arc<str>>,
    /// The model asked for, as far as names are written down.
    pub model: Option<Arc<str>>,
    /// Whether there is a row in the ledger, or will be.
    pub booked: bool,
    /// The configured pattern that the asked model matched: a closed set, unlike the name that was asked for.
    pub route: Option<Arc<str>>,
    /// The upstream that answered.
    pub upstream: Option<Arc<str>>,
    /// What the client may still do.
    pub allowances: Allowances,
    /// Whether the head of the answer had to go before it was known who answers.
    pub head_first: bool,
    /// Whether it has waited for the answer that another call or another gateway was getting.
    pub waited_for_others: bool,
    /// Bytes of the JSON body that the client sent.
    pub received: u64,
    /// Tries at upstreams, in the order in which they began.
    pub attempts: Vec<Try>,
    /// Whether the local model answered in the place of others.
    pub degraded: bool,
    /// What the cache did.
    pub cached: Cached,
    /// Whether what it saved counts as tokens of limits and budgets all the same.
    pub counts_saved: bool,
    /// What the call had used whose answer was kept for this one, where its upstream said so. See
    /// [`usage_of_kept`](Self::usage_of_kept).
    pub kept_usage: Option<Usage>,
    /// What the client is told of the cache; `None`: nobody has looked.
    pub cache_status: Option<HeaderValue>,
    /// The name by which the upstream knows the model that answered, or the one that another call's answer came from.
    pub served_model: Option<Arc<str>>,
    /// Whether the client asked for a stream.
    pub stream: bool,
    /// Time spent waiting for a place at an upstream.
    pub queue_time: Duration,
    /// Time spent waiting for the upstream before the answer's head could be sent.
    pub upstream_time: Option<Duration>,
    /// When the first content left for the client, counted from the request's arrival.
    pub first_token: Option<Duration>,
    /// Counted tokens.
    pub usage: Option<Usage>,
    /// What it cost, where that is known.
    pub cost: Option<Nanos>,
    /// Time that the client took to send the body.
    pub upload_time: Option<Duration>,
    /// How the answer ended; `None` for answers of the gateway itself.
    pub outcome: Option<Outcome>,
    /// Why the request failed.
    pub cause: Option<Cause>,
    /// Details for the log, never for the client.
    pub detail: Option<String>,
    /// The upstream's own request id.
    pub upstream_request_id: Option<String>,
    /// What is said, as far as it is kept for the request's span; `None` unless that is wanted.
    pub content: Option<Box<Content>>,
}

/// What the client of a request may still do, by the tightest of the limits that it counts towards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowances {
    /// Requests; `None`: there is no limit.
    pub requests: Option<Allowance>,
    /// Tokens; `None`: there is no limit.
    pub tokens: Option<Allowance>,
}

/// What is left of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// How many there are in its time.
    pub limit: u32,
    /// How many are left.
    pub remaining: u32,
    /// When all of them will be, if nobody takes any.
    pub reset: Duration,
}

/// One try at an upstream.
#[derive(Clone, Debug)]
pub struct Try {
    /// The upstream.
    pub upstream: Arc<str>,
    /// Its endpoint.
    pub endpoint: Arc<str>,
    /// The name by which it was asked for the model.
    pub model: Option<Arc<str>>,
    /// When it began, counted from the request's arrival.
    pub began: Duration,
    /// How long it took to begin an answer, or to fail; `None` while it does neither.
    pub time: Option<Duration>,
    /// How it ended: `answered`, `abandoned` (its client left, or another try was faster), or the cause of its failure.
    pub result: &'static str,
    /// The status that the upstream answered, where there was one.
    pub status: Option<u16>,
    /// Whether the upstream has begun to be sent the request's body.
    pub sent: bool,
    /// What an upstream in this process has counted so far.
    pub counted: Option<Usage>,
}

/// The shared notebook of one request.
pub struct Record {
    /// The request's id, ours or the client's.
    pub id: RequestId,
    /// When the request head had arrived.
    pub received: Instant,
    /// The trace that it belongs to; `None`: none is known.
    pub trace: Option<Trace>,
    facts: Mutex<Facts>,
    sharing: OnceLock<Weak<dyn Sharing>>,
}

/// How many bytes of a model's name are written down. Clients may send longer ones; there are none.
const WRITTEN_NAME: usize = 256;

/// Returns a model's name as far as it is written down.
pub fn written_name(name: &str) -> &str {
    let mut ends = (0..=WRITTEN_NAME.min(name.len())).rev();
    let end = ends.find(|end| name.is_char_boundary(*end));
    &name[..end.unwrap_or(0)]
}

// === impl RequestId ===

impl RequestId {
    /// Returns an id that no other request has: a number of this run, which is random, and one of the request.
    pub fn fresh() -> Self {
        static RUN: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(()));
        static NEXT: AtomicU64 = AtomicU64::new(0);
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut id = String::with_capacity(36);
        id.push_str("req_");
        // Each request has one, and written by hand it costs a tenth.
        for byte in RUN.to_be_bytes().into_iter().chain(number.to_be_bytes()) {
            for digit in [byte >> 4, byte & 15] {
                id.push(char::from(DIGITS[usize::from(digit)]));
            }
        }
        Self(id.into())
    }

    /// Takes a client's id when it is fit for a header and a log line.
    pub fn from_client(id: &[u8]) -> Option<Self> {
        let fit = (1..=128).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic);
        fit.then(|| Self(String::from_utf8_lossy(id).into()))
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Facts ===

impl Facts {
    /// Returns what had been used for the answer, where it is one that was kept: `None` where this call has one of its own.
    pub fn usage_of_kept(&self) -> Option<Usage> {
        self.kept_usage.filter(|_| self.cached.is_free())
    }

    /// Returns what the upstream that answers has counted so far, where it is in this process.
    pub fn counted(&self) -> Option<Usage> {
        let mut latest = self.attempts.iter().rev();
        latest
            .find(|attempt| attempt.result == Try::ANSWERED)?
            .counted
    }

    /// Returns how much of the time until the answer's head was the gateway's own: spent waiting neither for the
    /// client's body nor for the upstream. `None`: how long the upstream was waited for is not known yet, or only to the
    /// call whose answer this one gets, too.
    pub fn overhead(&self, age: Duration) -> Option<Duration> {
        if self.head_first || self.waited_for_others {
            return None;
        }
        let others = self.upload_time.unwrap_or_default() + self.upstream_time.unwrap_or_default();
        Some(age.saturating_sub(others))
    }
}

// === impl Try ===

impl Try {
    /// The result of a try that brought the answer.
    pub const ANSWERED: &str = "answered";
    /// The result of one that nobody waited for any more.
    pub const ABANDONED: &str = "abandoned";

    /// Returns whether an upstream may charge for this try, though it brought no answer: it was sent the request, and
    /// never said that it failed.
    pub fn is_billed_in_vain(&self) -> bool {
        let has_failed = self.status.is_some() || self.result == Cause::UpstreamStatus.as_str();
        self.sent && !has_failed && self.result != Self::ANSWERED
    }
}

// === impl Record ===

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record")
            .field("id", &self.id)
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

impl Record {
    /// Opens the record of a request that has just arrived.
    pub fn new(id: RequestId, received: Instant) -> Self {
        Self {
            id,
            received,
            trace: None,
            facts: Mutex::default(),
            sharing: OnceLock::new(),
        }
    }

    /// Says which trace it belongs to.
    #[must_use]
    pub fn traced(mut self, trace: Option<Trace>) -> Self {
        self.trace = trace;
        self
    }

    /// Gives access to the facts. Hold it for a few assignments, never across an await.
    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that others may get the answer, too. Once: a call leads at most one answer.
    pub fn share(&self, sharing: Weak<dyn Sharing>) {
        let _ = self.sharing.set(sharing);
    }

    /// Closes the answer to others, unless somebody gets it already, too; returns whether it is this client's alone.
    pub fn closes_to_others(&self) -> bool {
        let sharing = self.sharing.get().and_then(Weak::upgrade);
        sharing.is_none_or(|sharing| sharing.closes())
    }

    /// Says that the client has left, and returns whether its answer goes on, for others or for whoever asks for it again.
    /// `reads_on`: the books want its end in any case.
    pub fn goes_on_without_client(&self, reads_on: bool) -> bool {
        let sharing = self.sharing.get().and_then(Weak::upgrade);
        sharing.is_some_and(|sharing| sharing.goes_on_without_leader(reads_on))
    }

    /// Says that the books have read what they may since the client left, and returns whether the answer ends: nobody else gets
    /// it.
    pub fn ends_without_client(&self) -> bool {
        let sharing = self.sharing.get().and_then(Weak::upgrade);
        sharing.is_none_or(|sharing| sharing.ends_without_leader())
    }

    /// Notes more of a try, by its place among them.
    pub fn note_try(&self, number: usize, note: impl FnOnce(&mut Try)) {
        if let Some(noted) = self.facts().attempts.get_mut(number) {
            note(noted);
        }
    }

    /// Notes that the first content has left for the client, if nobody has before.
    pub fn first_token_now(&self) {
        let age = self.received.elapsed();
        self.facts().first_token.get_or_insert(age);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_ids_must_be_fit_for_a_header() {
        assert!(RequestId::from_client(b"abc-123").is_some());
        assert!(RequestId::from_client(b"").is_none());
        assert!(RequestId::from_client(b"two words").is_none());
        assert!(RequestId::from_client(&[b'a'; 129]).is_none());
        assert!(RequestId::from_client(b"line\nbreak").is_none());
    }

    #[test]
    fn fresh_ids_differ() {
        let ids = [RequestId::fresh(), RequestId::fresh()];
        let numbers = ids.each_ref().map(|id| {
            let digits = id.as_str().strip_prefix("req_").unwrap();
            assert_eq!(digits.len(), 32);
            u128::from_str_radix(digits, 16).unwrap()
        });
        assert!(numbers[0] < numbers[1], "{ids:?}");
    }
}
