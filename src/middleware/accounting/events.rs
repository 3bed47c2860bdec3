//! A stream of events, counted in passing.

use std::collections::BTreeSet;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::apart::counted;
use super::booking::{Booking, End, Used};
use super::books::{ClientGone, OnFailure};
use super::leaving;
use super::settling::{Accounted, Polled};
use crate::call::{BoxBody, Cause, StreamError};
use crate::openai::endpoint::Endpoint;
use crate::openai::sse::{StreamObserver, UsageRemover, ending};
use crate::openai::usage::Usage;
use crate::store::ledger::{Provenance, Receipt, Status};
use crate::tokens::GeneratedText;

/// The cause of an answer that ended in an error of the upstream's own.
const ERROR_EVENT: Cause = Cause::UpstreamStatus;
/// The cause of an answer that ends before its time for want of room.
const STOPPED: Cause = Cause::PolicyStopped;

/// A stream that is read in passing. Its frames hold whole events.
pub(super) struct Events {
    /// `None` once it was handed over to be read to its end.
    inner: Option<BoxBody>,
    /// `None` once it is closed.
    booking: Option<Box<Booking>>,
    on_failure: OnFailure,
    reader: Reader,
    /// Whether what is generated is taken of limits and budgets: not where another call pays for it.
    takes_room: bool,
    /// There when the client did not ask for usage.
    remover: Option<UsageRemover>,
    ended: bool,
    /// Whether it was finished here, for want of room.
    stopped: bool,
}

/// What is learnt of a stream.
pub(super) struct Reader {
    observer: StreamObserver,
    text: GeneratedText,
    /// By how much the rough count of what was generated was too high when it mattered.
    excess: u64,
}

impl Reader {
    pub(super) fn new(booking: &Booking) -> Self {
        Self {
            observer: StreamObserver::new(),
            text: GeneratedText::new(booking.endpoint.clone(), booking.encoding()),
            excess: 0,
        }
    }

    /// Returns whether there is room for what was generated until now. Counting is dear, and done only where a rough count
    /// says that there is none.
    fn has_room(&mut self, booking: &mut Booking) -> bool {
        let rough = self.text.roughly();
        if booking.holds(rough.saturating_sub(self.excess)) {
            return true;
        }
        let exact = self.tokens();
        self.excess = rough.saturating_sub(exact);
        exact < rough && booking.holds(exact)
    }

    /// Reads a block of whole events.
    pub(super) fn read(&mut self, events: &[u8], booking: &Booking) {
        let Self { observer, text, .. } = self;
        let endpoint = &booking.endpoint;
        observer.observe_with(events, endpoint, |data| text.push(data));
    }

    /// Returns how many events brought something generated.
    pub(super) fn deltas(&self) -> u64 {
        self.observer.observed().deltas
    }

    /// Returns whether the last event of the answer has passed.
    pub(super) fn has_ended(&self) -> bool {
        let seen = self.observer.observed();
        seen.done || seen.terminal || seen.error
    }

    /// Returns whether the answer has said that it is finished. Not every server sends `[DONE]`.
    fn is_whole(&self) -> bool {
        self.has_ended() || self.observer.observed().finish_reason
    }

    /// Returns whether more may be generated: not all choices have finished that have begun.
    fn goes_on(&self) -> bool {
        let has_finished = self.observer.observed().finish_reason;
        !self.has_ended() && (!has_finished || self.unfinished().next().is_some())
    }

    /// Returns the choices that have begun and not finished; one that did both ways of beginning comes twice.
    fn unfinished(&self) -> impl Iterator<Item = u64> + '_ {
        let begun = self.observer.begun().iter().copied();
        let begun = begun.chain(self.text.choices());
        begun.filter(|choice| !self.observer.finished().contains(choice))
    }

    /// Returns what the answer has used until now.
    pub(super) fn used(&self, booking: &Booking, provenance: Provenance) -> Used {
        match (self.observer.observed().usage, self.counted_here(booking)) {
            (Some(usage), _) => Used::Known(usage, provenance),
            (None, Some(usage)) => Used::Known(usage, Provenance::Counted),
            (None, None) => Used::Generated {
                tokens: self.tokens(),
                is_exact: self.text.is_exact(),
            },
        }
    }

    fn tokens(&self) -> u64 {
        counted(self.text.len(), || self.text.tokens())
    }

    fn counted_here(&self, booking: &Booking) -> Option<Usage> {
        booking.record.facts().counted()
    }
}

impl Events {
    pub(super) fn new(inner: BoxBody, booking: Box<Booking>, removes_usage: bool) -> Self {
        let is_free = booking.record.facts().cached.is_free();
        Self {
            inner: Some(inner),
            on_failure: booking.books.on_failure,
            reader: Reader::new(&booking),
            takes_room: !is_free,
            booking: Some(booking),
            remover: removes_usage.then(UsageRemover::new),
            ended: false,
            stopped: false,
        }
    }

    fn read(&mut self, events: &Bytes) -> Bytes {
        let mut ending = None;
        if let Some(booking) = &mut self.booking {
            let before = self.reader.deltas();
            self.reader.read(events, booking);
            if before == 0 && self.reader.deltas() > 0 {
                booking.record.first_token_now();
            }
            // Only these end by an event that is ours to write.
            let endpoint = &booking.endpoint;
            let is_ours = endpoint.has_stream_options() || *endpoint == Endpoint::Responses;
            let goes_on = is_ours && self.reader.goes_on() && self.reader.deltas() > before;
            let is_out = self.takes_room && goes_on && !self.reader.has_room(booking);
            // What others get, too, goes on for them, and is owed: nobody asks again.
            self.takes_room &= !is_out;
            if is_out && booking.record.closes_to_others() {
                let asked = self.remover.is_none();
                ending = stopped(events, &self.reader, booking, asked);
            }
        }
        let mut events = match &mut self.remover {
            Some(remover) => remover.remove(events),
            None => events.clone(),
        };
        if let Some(ending) = ending {
            events = [events, ending].concat().into();
            self.stopped = true;
        }
        if let Some(booking) = &mut self.booking {
            booking.sent += events.len() as u64;
        }
        events
    }

    /// Hands an answer that goes on for others to the books, where its own client is too slow for it. Returns whether it does.
    fn is_read_on(&mut self) -> bool {
        let goes_on = |booking: &Booking| booking.record.goes_on_without_client(false);
        if !self.booking.as_deref().is_some_and(goes_on) {
            return false;
        }
        let (Some(inner), Some(booking)) = (self.inner.take(), self.booking.take()) else {
            return false;
        };
        let reader = std::mem::replace(&mut self.reader, Reader::new(&booking));
        leaving::drain(inner, booking, reader, u64::MAX);
        true
    }

    /// Settles the row, the first time.
    fn close(&mut self, broken: Option<StreamError>) -> Option<Receipt> {
        let mut booking = self.booking.take()?;
        let error = match broken {
            Some(error) => Some(error.cause()),
            None => self.reader.observer.observed().error.then_some(ERROR_EVENT),
        };
        if let Some(error) = error {
            booking.record.facts().cause.get_or_insert(error);
        }
        let used = self.reader.used(&booking, Provenance::Upstream);
        Some(booking.close(End {
            status: match error {
                Some(_) => Status::Failed,
                None => Status::Complete,
            },
            http_status: None,
            error,
            used,
        }))
    }
}

/// Finishes a stream whose limit or budget has run out as if it had come to its `max_tokens`: returns what its client gets
/// behind its last content. `None` where that cannot be told, and the stream goes on: what it uses is owed.
fn stopped(events: &[u8], reader: &Reader, booking: &Booking, asked: bool) -> Option<Bytes> {
    let used = reader.used(booking, Provenance::Upstream);
    let usage = booking.usage(used);
    let ending = match booking.endpoint {
        Endpoint::Responses => {
            let outline = reader.observer.outline();
            outline.ending(events, |item| reader.text.text(item), usage.as_ref())
        }
        _ => {
            let choices: BTreeSet<u64> = reader.unfinished().collect();
            let usage = usage.as_ref().filter(|_| asked);
            ending(events, &booking.endpoint, choices, usage)
        }
    }?;
    booking.record.facts().cause.get_or_insert(STOPPED);
    Some(ending)
}

impl Accounted for Events {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<(Polled, Option<Receipt>)> {
        loop {
            if let Some(booking) = &mut self.booking {
                ready!(booking.poll_room(cx));
            }
            let Some(inner) = self.inner.as_mut().filter(|_| !self.ended) else {
                return Poll::Ready((None, None));
            };
            match ready!(inner.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let events = frame.into_data().unwrap_or_default();
                    let events = self.read(&events);
                    // An upstream that has said that it failed has nothing to add.
                    self.ended = self.reader.observer.observed().error || self.stopped;
                    if self.stopped {
                        // The upstream is cancelled before the row says how it ended.
                        self.inner = None;
                    }
                    let receipt = match self.reader.has_ended() || self.stopped {
                        true => self.close(None),
                        false => None,
                    };
                    if !events.is_empty() || receipt.is_some() {
                        return Poll::Ready((Some(Ok(Frame::data(events))), receipt));
                    }
                }
                Some(Err(StreamError::Behind)) if self.is_read_on() => {
                    self.ended = true;
                    return Poll::Ready((Some(Err(StreamError::Behind)), None));
                }
                Some(Err(error)) => {
                    self.ended = true;
                    // The client has had its last event: what breaks behind it is no concern of its.
                    let polled = (!self.reader.has_ended()).then_some(Err(error));
                    return Poll::Ready((polled, self.close(Some(error))));
                }
                None => {
                    self.ended = true;
                    let broken = (!self.reader.is_whole()).then_some(StreamError::Broken);
                    return Poll::Ready((broken.map(Err), self.close(broken)));
                }
            }
        }
    }

    fn on_failure(&self) -> OnFailure {
        self.on_failure
    }

    fn is_end_stream(&self) -> bool {
        false
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let Some(mut booking) = self.booking.take() else {
            return;
        };
        let inner = self.inner.take();
        if let (ClientGone::Drain { tokens }, Some(inner)) = (booking.policy(), inner) {
            let reader = std::mem::replace(&mut self.reader, Reader::new(&booking));
            leaving::drain(inner, booking, reader, tokens);
        } else {
            let used = self.reader.used(&booking, Provenance::Upstream);
            booking.leave(used);
        }
    }
}
