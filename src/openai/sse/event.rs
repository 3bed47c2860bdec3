//! Events as they stand in a block of bytes.

use std::borrow::Cow;
use std::ops::Range;

/// One event, or what stands between two blank lines and is none: comments, say.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    raw: &'a [u8],
    start: usize,
    name: Option<Range<usize>>,
    /// The value of the first `data` field.
    data: Option<Range<usize>>,
    /// Whether more `data` fields follow the first.
    is_multi_line: bool,
    is_comment_only: bool,
}

/// The events of a block, as a [`Framer`](super::Framer) hands it out. What follows the last blank line is an event too.
#[derive(Clone, Debug)]
pub struct Events<'a> {
    block: &'a [u8],
    at: usize,
}

/// The lines of an event, ends left out.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

// === impl Event ===

impl<'a> Event<'a> {
    /// Reads one event, with its blank line or without.
    pub fn parse(raw: &'a [u8]) -> Self {
        let mut events = Events::new(raw);
        events.read().unwrap_or(Self::at(0))
    }

    fn at(start: usize) -> Self {
        Self {
            raw: &[],
            start,
            name: None,
            data: None,
            is_multi_line: false,
            is_comment_only: true,
        }
    }

    /// Returns the event's own bytes, with the blank line behind it.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// Returns where those bytes stand in the block.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.raw.len()
    }

    /// Returns the event's name, if it has one.
    pub fn name(&self) -> Option<&'a [u8]> {
        self.raw.get(self.name.clone()?)
    }

    /// Returns the event's data: several `data` fields are joined by line feeds. An event without any is dispatched
    /// to nobody.
    pub fn data(&self) -> Option<Cow<'a, [u8]>> {
        let first = self.raw.get(self.data.clone()?)?;
        if !self.is_multi_line {
            return Some(Cow::Borrowed(first));
        }
        let mut joined = Vec::with_capacity(self.raw.len());
        for range in self.data_ranges() {
            joined.extend_from_slice(self.raw.get(range).unwrap_or_default());
            joined.push(b'\n');
        }
        joined.pop();
        Some(Cow::Owned(joined))
    }

    /// Returns where in [`raw`](Self::raw) the values of the `data` fields stand.
    pub(super) fn data_ranges(&self) -> impl Iterator<Item = Range<usize>> + use<'a> {
        let raw = self.raw;
        Lines { bytes: raw, at: 0 }.filter_map(move |line| match field(raw, &line) {
            (b"data", value) => Some(value),
            _ => None,
        })
    }

    /// Returns whether nothing but comments and blank lines stands here.
    pub fn is_comment_only(&self) -> bool {
        self.is_comment_only
    }

    /// Returns whether this is the `[DONE]` that ends a stream of completions.
    pub fn is_done(&self) -> bool {
        let data = self.data.clone().and_then(|range| self.raw.get(range));
        !self.is_multi_line && data.is_some_and(|data| data.trim_ascii() == b"[DONE]")
    }

    fn read_line(&mut self, block: &'a [u8], line: &Range<usize>) {
        if block.get(line.start) == Some(&b':') {
            return;
        }
        self.is_comment_only = false;
        let relative = |range: Range<usize>| range.start - self.start..range.end - self.start;
        match field(block, line) {
            (b"data", value) if self.data.is_none() => self.data = Some(relative(value)),
            (b"data", _) => self.is_multi_line = true,
            (b"event", value) => self.name = Some(relative(value)),
            _ => {}
        }
    }
}

/// Splits a line into its field's name and where the value stands, the one space behind the colon left out. A
/// comment's name is empty.
fn field<'a>(bytes: &'a [u8], line: &Range<usize>) -> (&'a [u8], Range<usize>) {
    let text = bytes.get(line.clone()).unwrap_or_default();
    let Some(colon) = memchr::memchr(b':', text) else {
        return (text, line.end..line.end);
    };
    let space = usize::from(text.get(colon + 1) == Some(&b' '));
    (&text[..colon], line.start + colon + 1 + space..line.end)
}

// === impl Events ===

impl<'a> Events<'a> {
    /// Reads the events of a block.
    pub fn new(block: &'a [u8]) -> Self {
        Self { block, at: 0 }
    }

    /// Reads up to the next blank line, or to the end.
    fn read(&mut self) -> Option<Event<'a>> {
        if self.at >= self.block.len() {
            return None;
        }
        let mut event = Event::at(self.at);
        let mut lines = Lines {
            bytes: self.block,
            at: self.at,
        };
        for line in &mut lines {
            if line.is_empty() {
                break;
            }
            event.read_line(self.block, &line);
        }
        self.at = lines.at;
        event.raw = &self.block[event.start..self.at];
        Some(event)
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Event<'a>;

    fn next(&mut self) -> Option<Event<'a>> {
        self.read()
    }
}

// === impl Lines ===

impl Iterator for Lines<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let start = self.at;
        let rest = self.bytes.get(start..).filter(|rest| !rest.is_empty())?;
        let Some(length) = memchr::memchr2(b'\n', b'\r', rest) else {
            self.at = self.bytes.len();
            return Some(start..self.at);
        };
        let ending = match rest[length..] {
            [b'\r', b'\n', ..] => 2,
            _ => 1,
        };
        self.at = start + length + ending;
        Some(start..start + length)
    }
}
