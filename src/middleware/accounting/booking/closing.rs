//! The end of a request: its row is settled, and with it the room that was kept.

use std::sync::Arc;

use http::StatusCode;

use super::counting::Bill;
use super::{Booking, End, Row};
use crate::call::{Cached, Priced, StreamError, Try};
use crate::middleware::accounting::books::OnFailure;
use crate::middleware::accounting::entries::written_model;
use crate::store::ledger::{Entry, Provenance, Receipt, ServedFrom, Status, Times, Unrecorded};

/// What was noted of a request on its way.
struct Noted {
    tries: Vec<Try>,
    /// The upstream that answered.
    upstream: Option<Arc<str>>,
    /// Whether the local model answered in the place of others.
    degraded: bool,
    cached: Cached,
    /// Whether what others have paid for counts as tokens of limits and budgets all the same.
    counts_saved: bool,
    /// The name by which the model is known that served it, where no try tells.
    known_as: Option<Arc<str>>,
    times: Times,
    /// Bytes of its body.
    received: u64,
    /// The status of its answer.
    http_status: Option<u16>,
}

impl Booking {
    /// Settles the row, the budgets and the record. It will be written, whether the receipt is waited for or not.
    pub(in super::super) fn close(&mut self, end: End) -> Receipt {
        let Noted {
            tries,
            upstream,
            degraded,
            cached,
            counts_saved,
            known_as,
            times,
            received,
            http_status,
        } = self.noted(&end);
        let bill = self.bill(end.used, tries, cached, known_as);
        self.note_use(cached, bill.answer.as_ref(), &bill.attempts);
        if !cached.is_free() {
            self.record.facts().usage = bill.answer.map(|counts| counts.usage);
        }
        self.settle_room(&bill, cached);
        let error = self.note_end(&end, bill.total.as_ref(), bill.served_model.as_ref());
        let entry = Entry {
            status: end.status,
            http_status,
            error: error.map(|cause| cause.as_str().into()),
            uncounted: bill.total.is_none() && self.may_be_charged && bill.was_answered,
            served_from: match (cached, counts_saved) {
                (Cached::Hit | Cached::Stale, false) => Some(ServedFrom::Cache),
                (Cached::Hit | Cached::Stale, true) => Some(ServedFrom::CountedCache),
                (Cached::Joined, false) => Some(ServedFrom::Joined),
                (Cached::Joined, true) => Some(ServedFrom::CountedJoined),
                (Cached::Bypass | Cached::Miss, _) => {
                    (!bill.attempts.is_empty()).then_some(ServedFrom::Upstream)
                }
            },
            served_model: bill.served_model.as_ref().map(written_model),
            upstream,
            counts: bill.total,
            cache: cached.as_str().into(),
            degraded,
            received_bytes: received,
            sent_bytes: self.sent,
            times,
            attempts: bill.attempts,
            unrecorded: self.unrecorded(end.status, http_status),
        };
        match std::mem::replace(&mut self.row, Row::Closed) {
            Row::Open(row) => row.settle(entry),
            Row::Unopened(intent) => self.books.ledger.note(*intent, entry),
            // Nothing is ever closed twice.
            Row::Closed => Receipt::written(),
        }
    }

    /// Returns what the layers further in have noted of it.
    fn noted(&self, end: &End) -> Noted {
        let facts = self.record.facts();
        // A head that went before anybody had answered is that of a stream.
        let early = facts.head_first.then_some(StatusCode::OK.as_u16());
        Noted {
            tries: facts.attempts.clone(),
            upstream: facts.upstream.clone(),
            degraded: facts.degraded,
            cached: facts.cached,
            counts_saved: facts.counts_saved,
            known_as: facts.served_model.clone(),
            times: Times {
                queue: facts.queue_time,
                upstream: facts.upstream_time,
                first_token: facts.first_token,
                total: self.record.received.elapsed(),
            },
            received: facts.received,
            http_status: self.http_status.or(early).or(end.http_status),
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

    /// Settles the room that was kept at what was used, and learns from that how long answers are.
    fn settle_room(&mut self, bill: &Bill, cached: Cached) {
        if let (Some(counts), Some(model), false) = (&bill.answer, &self.model, cached.is_free())
            && counts.provenance == Provenance::Upstream
            && !bill.attempts.is_empty()
            && self.endpoint.is_generation()
        {
            let means = &self.books.means;
            means.learn(&self.key, model, counts.usage.completion());
        }
        if let Some(room) = self.room.take() {
            let billed = bill.attempts.iter().filter_map(|attempt| attempt.counts);
            let saved = bill
                .answer
                .filter(|_| cached.is_free() && self.record.facts().counts_saved);
            let saved = saved.map(|counts| counts.usage).unwrap_or_default();
            let usage = billed.fold(saved, |sum, counts| sum.saturating_add(&counts.usage));
            let cost = bill.total.and_then(|counts| counts.cost);
            room.settle(&Priced { usage, cost }, bill.is_guess);
        }
    }
}
