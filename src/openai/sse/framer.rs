//! Cuts a stream of bytes, split anywhere, into blocks of whole events.

use bytes::{Bytes, BytesMut};

use super::event::Event;
use crate::openai::json;

/// The largest event that is taken, unless told otherwise.
pub const MAX_EVENT: usize = 4 << 20;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// An event of the upstream is larger than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is larger than {limit} bytes")]
pub struct EventTooLarge {
    /// The bound.
    pub limit: usize,
}

/// What a stream leaves behind at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing that a client would miss.
    Nothing,
    /// A last event that lacks nothing but its blank line, with it. Stock clients would lose it silently.
    Complete(Bytes),
    /// The beginning of an event: the stream was cut.
    Truncated,
}

/// Cuts a stream into blocks of whole events, each with the upstream's own framing, and holds back only what an
/// unfinished event has so far: at most the bound, and the spare room of a growing buffer.
///
/// An event ends with the first byte that completes its blank line. A line feed that follows a carriage return
/// belongs to it, but is not waited for: if it comes in the next chunk, it leads the next block.
#[derive(Debug)]
pub struct Framer {
    limit: usize,
    held: BytesMut,
    /// How many bytes of a byte order mark have been seen; `None` once the stream has begun.
    mark: Option<usize>,
    /// Whether the line being read is blank so far.
    is_line_blank: bool,
    after: After,
    is_broken: bool,
}

/// What was read last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// Anything but a carriage return.
    Other,
    /// A carriage return that ended a line.
    Return,
    /// A carriage return that ended an event.
    EventReturn,
}

// === impl Framer ===

impl Default for Framer {
    fn default() -> Self {
        Self::new(MAX_EVENT)
    }
}

impl Framer {
    /// Builds a framer that takes events of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            held: BytesMut::new(),
            mark: Some(0),
            is_line_blank: true,
            after: After::Other,
            is_broken: false,
        }
    }

    /// Takes what has arrived and returns the events that are whole by now, in one piece, which is empty if there are
    /// none. It is a slice of the chunk, unless the chunk completes an event that was held back.
    ///
    /// # Errors
    /// [`EventTooLarge`], from then on for ever.
    pub fn push(&mut self, chunk: Bytes) -> Result<Bytes, EventTooLarge> {
        let chunk = self.skip_mark(chunk);
        let end = self.scan(&chunk)?;

        if end == 0 {
            self.held.extend_from_slice(&chunk);
            return Ok(Bytes::new());
        }
        let ready = if self.held.is_empty() {
            chunk.slice(..end)
        } else {
            self.held.extend_from_slice(&chunk[..end]);
            self.held.split().freeze()
        };
        self.held.extend_from_slice(&chunk[end..]);
        Ok(ready)
    }

    /// Returns how many bytes are held back.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Ends the stream, which the upstream has ended in good order, and returns what is left of it.
    pub fn finish(&mut self) -> Tail {
        let held = self.held.split().freeze();
        if self.is_broken || matches!(self.mark, Some(1..)) {
            return Tail::Truncated;
        }
        let event = Event::parse(&held);
        if event.is_comment_only() {
            return Tail::Nothing;
        }
        let is_whole = event.is_done() || event.data().is_some_and(|data| json::is_whole(&data));
        if !is_whole || !ends_in_data(&held) {
            return Tail::Truncated;
        }
        let missing: &[u8] = if held.ends_with(b"\n") {
            b"\n"
        } else {
            b"\n\n"
        };
        Tail::Complete([&held, missing].concat().into())
    }

    /// Returns the offset behind the last whole event in the chunk.
    fn scan(&mut self, chunk: &[u8]) -> Result<usize, EventTooLarge> {
        if self.is_broken {
            return Err(EventTooLarge { limit: self.limit });
        }
        // Where the first event would begin if what is held stood before the chunk: sizes are counted from there.
        let held = self.held.len();
        let mut event_start = 0;
        let mut line_start = 0;
        let mut largest = 0;
        for at in memchr::memchr2_iter(b'\n', b'\r', chunk) {
            let is_line_blank = self.is_line_blank && at == line_start;
            let is_second_half = chunk[at] == b'\n' && is_line_blank && self.after != After::Other;
            line_start = at + 1;
            self.is_line_blank = true;
            if is_second_half {
                if self.after == After::EventReturn {
                    event_start = held + at + 1;
                }
                self.after = After::Other;
                continue;
            }
            if is_line_blank {
                largest = largest.max(held + at + 1 - event_start);
                event_start = held + at + 1;
            }
            self.after = match (chunk[at], is_line_blank) {
                (b'\r', true) => After::EventReturn,
                (b'\r', false) => After::Return,
                _ => After::Other,
            };
        }
        if line_start < chunk.len() {
            self.is_line_blank = false;
            self.after = After::Other;
        }
        largest = largest.max(held + chunk.len() - event_start);
        if largest > self.limit {
            self.is_broken = true;
            self.held = BytesMut::new();
            return Err(EventTooLarge { limit: self.limit });
        }
        Ok(event_start.saturating_sub(held))
    }

    /// Drops a byte order mark at the beginning of the stream, split or not.
    fn skip_mark(&mut self, mut chunk: Bytes) -> Bytes {
        while let (Some(seen), Some(&byte)) = (self.mark, chunk.first()) {
            if BYTE_ORDER_MARK.get(seen) == Some(&byte) {
                chunk = chunk.slice(1..);
                self.mark = Some(seen + 1).filter(|&seen| seen < BYTE_ORDER_MARK.len());
            } else {
                // No mark after all: what was taken for it is the beginning of a line.
                self.held.extend_from_slice(&BYTE_ORDER_MARK[..seen]);
                self.is_line_blank = seen == 0;
                self.mark = None;
            }
        }
        chunk
    }
}

/// Returns whether an unfinished event ends in a whole line, or in one that its data shows to be whole.
fn ends_in_data(held: &[u8]) -> bool {
    if held.ends_with(b"\n") || held.ends_with(b"\r") {
        return true;
    }
    let last = memchr::memrchr2(b'\n', b'\r', held).map_or(held, |at| &held[at + 1..]);
    last.starts_with(b"data:") || last.starts_with(b":")
}
