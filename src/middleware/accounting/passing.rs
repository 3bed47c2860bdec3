//! A body that passes through. Where it is JSON or events, the usage object in it is looked for on the way.

use std::sync::LazyLock;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, header};
use http_body::{Body, SizeHint};
use memchr::memmem::Finder;

use super::booking::{Booking, End, Used};
use super::books::OnFailure;
use super::settling::{Accounted, Polled};
use crate::call::{BoxBody, StreamError};
use crate::openai::usage::Usage;
use crate::store::ledger::{Provenance, Receipt, Status};

/// The most bytes that a usage object can have.
const MAX_USAGE: usize = 4 << 10;

/// In JSON a quoted key can stand inside a string only with its quotes escaped: this never hits content.
static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"usage\""));

/// A body that passes through.
pub(super) struct Passing {
    inner: BoxBody,
    /// `None` once it is closed.
    booking: Option<Box<Booking>>,
    on_failure: OnFailure,
    search: Option<UsageSearch>,
}

/// Looks for a usage object in pieces of a text, and remembers the last one.
#[derive(Debug, Default)]
struct UsageSearch {
    found: Option<Usage>,
    /// What may be the beginning of the key, or of the object behind it.
    carried: Vec<u8>,
}

impl Passing {
    pub(super) fn new(inner: BoxBody, booking: Box<Booking>, reads_usage: bool) -> Self {
        Self {
            inner,
            on_failure: booking.books.on_failure,
            booking: Some(booking),
            search: reads_usage.then(UsageSearch::default),
        }
    }

    /// Returns whether an answer of this kind can hold a usage object of its own: JSON or events, not compressed. A file
    /// that is downloaded may hold those of others; such answers name the file.
    pub(super) fn reads_usage(headers: &HeaderMap) -> bool {
        let kind = headers.get(header::CONTENT_TYPE);
        let kind = kind.map_or(&b""[..], |kind| kind.as_bytes());
        (kind.starts_with(b"application/json") || kind.starts_with(b"text/event-stream"))
            && !headers.contains_key(header::CONTENT_ENCODING)
            && !headers.contains_key(header::CONTENT_DISPOSITION)
    }

    fn used(&self) -> Used {
        let found = self.search.as_ref().and_then(|search| search.found);
        match found {
            Some(usage) => Used::Known(usage, Provenance::Upstream),
            None => Used::Nothing,
        }
    }

    fn close(&mut self, broken: Option<StreamError>) -> Option<Receipt> {
        let mut booking = self.booking.take()?;
        Some(booking.close(End {
            status: match broken {
                Some(_) => Status::Failed,
                None => Status::Complete,
            },
            http_status: None,
            error: broken.map(StreamError::cause),
            used: self.used(),
        }))
    }
}

impl Accounted for Passing {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<(Polled, Option<Receipt>)> {
        let frame = ready!(self.inner.as_mut().poll_frame(cx));
        let receipt = match &frame {
            Some(Ok(frame)) => {
                let data = frame.data_ref().map_or(&[][..], |data| data);
                if let Some(search) = &mut self.search {
                    search.read(data);
                }
                if let Some(booking) = &mut self.booking {
                    booking.sent += data.len() as u64;
                }
                match self.inner.is_end_stream() {
                    true => self.close(None),
                    false => None,
                }
            }
            Some(Err(error)) => self.close(Some(*error)),
            None => self.close(None),
        };
        Poll::Ready((frame, receipt))
    }

    fn on_failure(&self) -> OnFailure {
        self.on_failure
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        if let Some(mut booking) = self.booking.take() {
            let used = self.used();
            booking.leave(used);
        }
    }
}

impl UsageSearch {
    fn read(&mut self, piece: &[u8]) {
        if self.carried.is_empty() {
            // Nearly all pieces are read where they lie.
            let kept = self.look(piece);
            self.carried.extend_from_slice(kept);
        } else {
            let mut joined = std::mem::take(&mut self.carried);
            joined.extend_from_slice(piece);
            let kept = self.look(&joined);
            self.carried.extend_from_slice(kept);
        }
    }

    /// Reads the objects of a text, and returns what is left of it that more may come to.
    fn look<'a>(&mut self, mut text: &'a [u8]) -> &'a [u8] {
        let key = USAGE.needle().len();
        while let Some(at) = USAGE.find(text) {
            match object_behind(&text[at + key..]) {
                Behind::Object(object, rest) => {
                    self.found = Usage::from_json(object).ok().or(self.found);
                    text = rest;
                }
                Behind::Nothing(rest) => text = rest,
                Behind::Unfinished if text.len() - at > MAX_USAGE => text = &text[at + key..],
                Behind::Unfinished => return &text[at..],
            }
        }
        // The key itself may have been cut.
        &text[text.len().saturating_sub(key - 1)..]
    }
}

enum Behind<'a> {
    Object(&'a [u8], &'a [u8]),
    Nothing(&'a [u8]),
    Unfinished,
}

/// Returns the object behind a colon, if there is one.
fn object_behind(text: &[u8]) -> Behind<'_> {
    let behind = text.trim_ascii_start();
    let Some(value) = behind.strip_prefix(b":") else {
        return match behind.is_empty() {
            true => Behind::Unfinished,
            false => Behind::Nothing(behind),
        };
    };
    let value = value.trim_ascii_start();
    match value.first() {
        None => return Behind::Unfinished,
        Some(b'{') => {}
        Some(_) => return Behind::Nothing(value),
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (index, byte) in value.iter().enumerate() {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (true, b'"') => in_string = false,
            (true, _) => {}
            (false, b'"') => in_string = true,
            (false, b'{') => depth += 1,
            (false, b'}') => {
                depth -= 1;
                if depth == 0 {
                    let (object, rest) = value.split_at(index + 1);
                    return Behind::Object(object, rest);
                }
            }
            (false, _) => {}
        }
    }
    Behind::Unfinished
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn search(pieces: &[&[u8]]) -> UsageSearch {
        let mut search = UsageSearch::default();
        pieces.iter().for_each(|piece| search.read(piece));
        search
    }

    const ANSWER: &[u8] = br#"{"text":"say \"usage\": {\"input_tokens\": 9}","usage": {"type":"tokens","input_tokens":14,
        "input_token_details":{"text_tokens":10,"audio_tokens":4},"output_tokens":101,"total_tokens":115}}"#;

    #[test]
    fn content_is_not_mistaken_for_usage() {
        let usage = search(&[ANSWER]).found.unwrap();
        assert_eq!((usage.prompt(), usage.completion()), (14, 101));
    }

    #[test]
    fn the_last_usage_counts() {
        let usage = search(&[
            b"data: {\"usage\":null}\n\n",
            b"data: {\"usage\":{\"input_tokens\":1,\"output_tokens\":1}}\n\n",
            b"data: {\"usage\":{\"input_tokens\":2,\"output_tokens\":3}}\n\n",
        ]);
        assert_eq!(usage.found.unwrap().total(), 5);
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(cuts in prop::collection::vec(0..ANSWER.len(), 0..6)) {
            let mut cuts = cuts;
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&ANSWER[from..cut]);
                from = cut;
            }
            pieces.push(&ANSWER[from..]);
            prop_assert_eq!(search(&pieces).found.unwrap().total(), 115);
        }

        #[test]
        fn memory_is_bounded(garbage in prop::collection::vec(prop::sample::select(br#""usage{:}\ "#.to_vec()), 0..20_000)) {
            let mut search = UsageSearch::default();
            for piece in garbage.chunks(777) {
                search.read(piece);
                prop_assert!(search.carried.len() <= MAX_USAGE + 777 + 8);
            }
        }
    }
}
