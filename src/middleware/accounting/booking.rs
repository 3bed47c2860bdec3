//! One request on its way through the books: from its open row to the settled one, whatever way it ends.

mod noting;

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, StatusCode};

use super::apart::counted;
use super::books::{Books, ClientGone, OnFailure};
use super::entries::{intent, is_guess, ledger_attempt, total, written_model};
use crate::call::{
    Cached, Call, CallBody, Cause, Estimate, Priced, Record, Room, StreamError, Try,
};
use crate::money::Nanos;
use crate::openai::endpoint::Endpoint;
use crate::openai::usage::Usage;
use crate::store::ledger::{
    Attempt, Counts, Entry, Intent, LedgerError, OpenRow, Provenance, Receipt, ServedFrom, Status,
    Times, Unrecorded,
};
use crate::tokens;

/// Prompts that are kept until the answer's end, to be counted where the upstream does not: larger ones are estimated.
const KEPT_PROMPT: usize = 256 << 10;

/// A request that is being accounted for. Dropped before it is closed, its client has left.
pub(super) struct Booking {
    pub(super) books: Arc<Books>,
    pub(super) record: Arc<Record>,
    pub(super) endpoint: Endpoint,
    row: Row,
    room: Option<Box<dyn Room>>,
    estimate: Option<Estimate>,
    key: Arc<str>,
    model: Option<Arc<str>>,
    /// Whether it goes to no upstream that could charge for it.
    pub(super) is_free: bool,
    /// Empty where it is too large to be kept.
    prompt: Bytes,
    /// Whether an answer without usage may be charged for all the same, by what it made: an image, a file.
    may_be_charged: bool,
    /// The status that was sent, once it was.
    pub(super) http_status: Option<u16>,
    pub(super) sent: u64,
    /// Whether the answer's head waits for the row, and not its end alone.
    pub(super) holds_head: bool,
}

/// Where the row stands.
enum Row {
    /// Nothing was spent so far, and nothing will be: it is written in one step.
    Unopened(Box<Intent>),
    Open(OpenRow),
    Closed,
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) status: Status,
    /// The status that is sent now, unless one was before.
    pub(super) http_status: Option<u16>,
    pub(super) error: Option<Cause>,
    pub(super) used: Used,
}

/// What is known of what it used.
#[derive(Clone, Copy, Debug)]
pub(super) enum Used {
    /// Nothing.
    Nothing,
    /// This.
    Known(Usage, Provenance),
    /// The prompt, and so many generated tokens.
    Generated {
        /// How many.
        tokens: u64,
        /// Whether they were counted, not estimated.
        is_exact: bool,
    },
    /// The upstream was asked, and nobody knows what it did.
    Unknown,
}

impl Booking {
    /// Begins with a call, before anything is written.
    pub(super) fn new(books: Arc<Books>, call: &mut Call) -> Self {
        let prompt = match &call.body {
            CallBody::Json { bytes, .. } if bytes.len() <= KEPT_PROMPT => bytes.clone(),
            _ => Bytes::new(),
        };
        call.record.facts().booked = true;
        let intent = intent(call);
        Self {
            books,
            record: Arc::clone(&call.record),
            endpoint: call.endpoint.clone(),
            row: Row::Unopened(Box::new(intent)),
            room: call.room.take(),
            estimate: call.estimate,
            key: Arc::clone(&call.caller.key),
            model: call.model.clone(),
            is_free: call.endpoint.is_listing() || call.is_answered(),
            prompt,
            may_be_charged: call.endpoint == Endpoint::PassThrough
                && call.head.method == Method::POST,
            http_status: None,
            sent: 0,
            holds_head: false,
        }
    }

    /// Writes the open row, and waits until it is safe.
    pub(super) async fn open(&mut self) -> Result<(), LedgerError> {
        let Row::Unopened(intent) = std::mem::replace(&mut self.row, Row::Closed) else {
            return Ok(());
        };
        match self.books.ledger.begin(*intent).await {
            Ok(row) => {
                self.row = Row::Open(row);
                Ok(())
            }
            Err((error, row)) => {
                if let Some(row) = row {
                    self.row = Row::Open(row);
                }
                Err(error)
            }
        }
    }

    /// Notes that it goes to an upstream now.
    pub(super) fn goes(&mut self) {
        if let Some(room) = &mut self.room {
            room.sent();
        }
    }

    /// Returns whether there is room for so many generated tokens, all in all.
    pub(super) fn holds(&mut self, generated: u64) -> bool {
        self.room.as_mut().is_none_or(|room| room.holds(generated))
    }

    /// Is pending while nobody knows whether there is room for what goes out.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let room = self.room.as_mut();
        room.map_or(Poll::Ready(()), |room| room.poll_known(cx))
    }

    /// Returns the tokens of prompt and answer.
    pub(super) fn usage(&self, used: Used) -> Option<Usage> {
        let served = self.served();
        Some(self.counts(used, served.as_ref())?.usage)
    }

    /// Forgets a request that was refused before anything was asked for it.
    pub(super) fn forget(mut self: Box<Self>) {
        self.room = None;
        self.record.facts().booked = false;
        if let Row::Open(row) = std::mem::replace(&mut self.row, Row::Closed) {
            row.forget();
        }
    }

    /// Settles the row, the budgets and the record. It will be written, whether the receipt is waited for or not.
    pub(super) fn close(&mut self, end: End) -> Receipt {
        let (tries, upstream, degraded, cached, known_as, times, received, http_status) = {
            let facts = self.record.facts();
            // A head that went before anybody had answered is that of a stream.
            let early = facts.head_first.then_some(StatusCode::OK.as_u16());
            let http_status = self.http_status.or(early).or(end.http_status);
            let times = Times {
                queue: facts.queue_time,
                upstream: facts.upstream_time,
                first_token: facts.first_token,
                total: self.record.received.elapsed(),
            };
            let upstream = facts.upstream.clone();
            let tries = facts.attempts.clone();
            let received = facts.received;
            (
                tries,
                upstream,
                facts.degraded,
                facts.cached,
                facts.served_model.clone(),
                times,
                received,
                http_status,
            )
        };
        let answering = tries
            .iter()
            .rposition(|attempt| attempt.result == Try::ANSWERED);
        // What others have paid for is none of the tries' that there were before.
        let last = answering.or(tries.len().checked_sub(1));
        let last = last.filter(|_| !cached.is_free());
        let served_model = last.and_then(|index| tries[index].model.clone());
        let served_model = served_model.or(known_as);
        let counts = match (end.used, answering) {
            // Nobody answered: each try is booked at what it may have used.
            (Used::Unknown, None) => None,
            (used, _) => self.counts(used, served_model.as_ref()),
        };
        let is_guess = is_guess(end.used, answering.is_some())
            || tries.iter().enumerate().any(|(index, attempt)| {
                let is_answer = Some(index) == last && counts.is_some();
                !is_answer && attempt.counted.is_none() && attempt.is_billed_in_vain()
            });
        let attempts: Vec<Attempt> = tries
            .into_iter()
            .enumerate()
            .map(|(index, attempt)| {
                let counts = match (Some(index) == last, counts) {
                    (true, Some(counts)) => Some(counts),
                    _ => self.in_vain(&attempt),
                };
                ledger_attempt(attempt, counts)
            })
            .collect();
        self.note_use(cached, counts.as_ref(), &attempts);
        let total = match cached.is_free() {
            // What it would have used, had another call not paid for it; and what tries cost that failed.
            true => {
                let in_vain = total(None, &attempts);
                let cost = in_vain.map_or(Some(Nanos::ZERO), |counts| counts.cost);
                counts.map(|counts| Counts { cost, ..counts }).or(in_vain)
            }
            false => total(counts, &attempts),
        };
        let is_answer = |attempt: &Attempt| attempt.http_status.is_none_or(|status| status < 400);
        let was_answered = answering.is_some_and(|index| is_answer(&attempts[index]));
        if !cached.is_free() {
            self.record.facts().usage = counts.map(|counts| counts.usage);
        }
        self.settle_room(total.as_ref(), counts.as_ref(), &attempts, is_guess, cached);
        let error = self.note_end(&end, total.as_ref(), served_model.as_ref());
        let entry = Entry {
            status: end.status,
            http_status,
            error: error.map(|cause| cause.as_str().into()),
            uncounted: total.is_none() && self.may_be_charged && was_answered,
            served_from: match cached {
                Cached::Hit | Cached::Stale => Some(ServedFrom::Cache),
                Cached::Joined => Some(ServedFrom::Joined),
                Cached::Bypass | Cached::Miss => {
                    (!attempts.is_empty()).then_some(ServedFrom::Upstream)
                }
            },
            served_model: served_model.as_ref().map(written_model),
            upstream,
            counts: total,
            cache: cached.as_str().into(),
            degraded,
            received_bytes: received,
            sent_bytes: self.sent,
            times,
            attempts,
            unrecorded: self.unrecorded(end.status, http_status),
        };
        match std::mem::replace(&mut self.row, Row::Closed) {
            Row::Open(row) => row.settle(entry),
            Row::Unopened(intent) => self.books.ledger.note(*intent, entry),
            // Nothing is ever closed twice.
            Row::Closed => Receipt::written(),
        }
    }

    /// Returns what the client of an answer is told that is not let through because its row is not safe.
    fn unrecorded(&self, status: Status, http_status: Option<u16>) -> Option<Unrecorded> {
        let is_told = status == Status::Complete && self.books.on_failure == OnFailure::Refuse;
        let is_head_gone = !self.holds_head || self.record.facts().head_first;
        is_told.then_some(Unrecorded {
            http_status: match is_head_gone {
                true => http_status,
                false => Some(StatusCode::SERVICE_UNAVAILABLE.as_u16()),
            },
            cause: StreamError::Unrecorded.cause(),
        })
    }

    /// Counts what a whole answer brought.
    pub(super) fn count_answer(&self, answer: &[u8]) -> Used {
        let encoding = self.encoding();
        Used::Generated {
            tokens: counted(answer.len(), || {
                tokens::answer(encoding, &self.endpoint, answer)
            }),
            is_exact: encoding.is_some(),
        }
    }

    /// Returns how the model that is asked now counts, where that is known.
    pub(super) fn encoding(&self) -> Option<tokens::Encoding> {
        self.books.encoding(self.served().as_ref())
    }

    /// Returns the name by which the upstream that is asked now knows the model, or else the one asked for.
    fn served(&self) -> Option<Arc<str>> {
        let facts = self.record.facts();
        let served = facts
            .attempts
            .last()
            .and_then(|attempt| attempt.model.clone());
        served.or_else(|| self.model.clone())
    }

    fn counts(&self, used: Used, served: Option<&Arc<str>>) -> Option<Counts> {
        let model = served.or(self.model.as_ref());
        let (usage, provenance) = match used {
            Used::Nothing => return None,
            Used::Known(usage, provenance) => (usage, provenance),
            Used::Generated { tokens, is_exact } => {
                let is_counted = is_exact && !self.prompt.is_empty();
                let usage = Usage {
                    input: self.prompt_tokens(model),
                    output: tokens,
                    ..Usage::default()
                };
                let provenance = match is_counted {
                    true => Provenance::Counted,
                    false => Provenance::Estimated,
                };
                (usage, provenance)
            }
            Used::Unknown => (self.estimate?.likely.usage, Provenance::Estimated),
        };
        Some(self.priced(served, usage, provenance))
    }

    /// Returns what a try used that brought no answer: nothing where the upstream was not sent the request, or has
    /// answered that it failed. Otherwise it may have generated, and will charge for that.
    fn in_vain(&self, attempt: &Try) -> Option<Counts> {
        let (usage, provenance) = match (attempt.counted, attempt.is_billed_in_vain()) {
            (Some(usage), _) => (usage, Provenance::Counted),
            (None, true) => (self.estimate?.likely.usage, Provenance::Estimated),
            (None, false) => return None,
        };
        Some(self.priced(attempt.model.as_ref(), usage, provenance))
    }

    fn priced(&self, served: Option<&Arc<str>>, usage: Usage, provenance: Provenance) -> Counts {
        Counts {
            usage,
            provenance,
            cost: self.books.cost([served, self.model.as_ref()], &usage),
        }
    }

    fn prompt_tokens(&self, model: Option<&Arc<str>>) -> u64 {
        match self.prompt.is_empty() {
            true => self
                .estimate
                .map_or(0, |estimate| estimate.likely.usage.input),
            false => self.books.prompt(model, &self.endpoint, &self.prompt),
        }
    }

    fn settle_room(
        &mut self,
        total: Option<&Counts>,
        answer: Option<&Counts>,
        attempts: &[Attempt],
        is_guess: bool,
        cached: Cached,
    ) {
        if let (Some(counts), Some(model), false) = (answer, &self.model, cached.is_free())
            && counts.provenance == Provenance::Upstream
            && !attempts.is_empty()
            && self.endpoint.is_generation()
        {
            let means = &self.books.means;
            means.learn(&self.key, model, counts.usage.completion());
        }
        if let Some(room) = self.room.take() {
            let billed = attempts.iter().filter_map(|attempt| attempt.counts);
            let saved = answer.filter(|_| cached.is_free() && self.record.facts().counts_saved);
            let saved = saved.map(|counts| counts.usage).unwrap_or_default();
            let usage = billed.fold(saved, |sum, counts| sum.saturating_add(&counts.usage));
            let cost = total.and_then(|counts| counts.cost);
            room.settle(&Priced { usage, cost }, is_guess);
        }
    }

    /// Returns what is done with the answer now that its client has left.
    pub(super) fn policy(&self) -> ClientGone {
        let cached = self.record.facts().cached;
        let own = self.books.policy();
        match cached {
            // Another call's books know what it used.
            Cached::Hit | Cached::Joined | Cached::Stale => ClientGone::Cancel,
            // It goes on for others, and this is the call that pays.
            Cached::Bypass | Cached::Miss
                if !self.books.deadline.is_cancelled()
                    && self
                        .record
                        .goes_on_without_client(own != ClientGone::Cancel) =>
            {
                match own {
                    // It ends with those who get it, or who may ask for it again.
                    ClientGone::Cancel => ClientGone::Drain { tokens: u64::MAX },
                    // Beyond that it is read for others alone.
                    ClientGone::Drain { .. } => own,
                }
            }
            Cached::Bypass | Cached::Miss => own,
        }
    }

    /// Closes the request of a client that has left, or whose answer a stop ends. Nobody waits for the row; it is
    /// written all the same.
    pub(super) fn leave(&mut self, used: Used) {
        let (status, error) = match self.books.deadline.is_cancelled() {
            true => (Status::Failed, StreamError::Drained.cause()),
            false => (Status::ClientGone, Cause::ClientGone),
        };
        drop(self.close(End {
            status,
            http_status: None,
            error: Some(error),
            used,
        }));
    }
}

impl Drop for Booking {
    fn drop(&mut self) {
        if !matches!(self.row, Row::Closed) {
            self.leave(Used::Unknown);
        }
    }
}
