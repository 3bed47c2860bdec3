//! A single pass over JSON text (RFC 8259) that checks the grammar and notes ranges, and builds nothing.
//!
//! No recursion: what is open is kept in a stack of bits, one for each level, so that depth costs neither stack nor
//! time. Strings, where nearly all the bytes of a prompt are, are skipped many bytes at a time. In `benches/wire.rs`
//! this is as fast as `serde_json` skipping raw values, or faster, and bounds depth, for which that would need a pass more.

#[cfg(test)]
mod tests;

use std::ops::Range;

/// Why scanning stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::openai) enum ScanError {
    /// The grammar is broken at this offset.
    Syntax(usize),
    /// Nested deeper than allowed.
    TooDeep,
}

/// A place in JSON text. The text must be valid UTF-8 for the verdict to be right; nothing panics if it is not.
#[derive(Clone, Debug)]
pub(in crate::openai) struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// One member of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::openai) struct Member {
    /// What stands between the key's quotes.
    pub key: Range<usize>,
    /// The value, without surrounding white space.
    pub value: Range<usize>,
}

/// An object whose members are read one by one.
#[derive(Clone, Debug)]
pub(in crate::openai) struct Object<'a> {
    scanner: Scanner<'a>,
    max_depth: usize,
    is_first: bool,
}

/// An array whose elements are read one by one.
#[derive(Clone, Debug)]
pub(in crate::openai) struct Array<'a> {
    scanner: Scanner<'a>,
    is_first: bool,
}

/// What is open: a set bit for an object, a clear one for an array.
#[derive(Default)]
struct Stack {
    top: u64,
    depth: usize,
    full: Vec<u64>,
}

// === impl Scanner ===

impl<'a> Scanner<'a> {
    /// Starts at the first byte that is not white space.
    pub fn new(bytes: &'a [u8]) -> Self {
        let mut scanner = Self { bytes, at: 0 };
        scanner.skip_space();
        scanner
    }

    /// Returns the byte that comes next.
    #[inline]
    pub fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Enters the object that begins here.
    pub fn object(mut self, max_depth: usize) -> Result<Object<'a>, ScanError> {
        self.expect(b'{')?;
        // The object itself is a level.
        let max_depth = max_depth.checked_sub(1).ok_or(ScanError::TooDeep)?;
        Ok(Object {
            scanner: self,
            max_depth,
            is_first: true,
        })
    }

    /// Enters the array that begins here.
    pub fn array(mut self) -> Result<Array<'a>, ScanError> {
        self.expect(b'[')?;
        Ok(Array {
            scanner: self,
            is_first: true,
        })
    }

    /// Checks that nothing but white space is left.
    pub fn end(mut self) -> Result<(), ScanError> {
        self.skip_space();
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.error()),
        }
    }

    /// Skips the value that begins here, nested at most `max_depth` levels, and returns its range.
    pub fn value(&mut self, max_depth: usize) -> Result<Range<usize>, ScanError> {
        let start = self.at;
        let mut open = Stack::default();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.string()?;
                }
                Some(bracket @ (b'{' | b'[')) => {
                    if open.depth == max_depth {
                        return Err(ScanError::TooDeep);
                    }
                    self.at += 1;
                    self.skip_space();
                    // In ASCII a closing bracket stands two behind its opening one.
                    if self.peek() == Some(bracket + 2) {
                        self.at += 1;
                    } else {
                        open.push(bracket == b'{');
                        if bracket == b'{' {
                            self.key()?;
                        }
                        continue;
                    }
                }
                Some(b'-' | b'0'..=b'9') => self.number()?,
                _ => {
                    self.literal_range()?;
                }
            }
            loop {
                let Some(is_object) = open.last() else {
                    return Ok(start..self.at);
                };
                self.skip_space();
                match (self.peek(), is_object) {
                    (Some(b','), _) => {
                        self.at += 1;
                        self.skip_space();
                        if is_object {
                            self.key()?;
                        }
                        break;
                    }
                    (Some(b'}'), true) | (Some(b']'), false) => {
                        self.at += 1;
                        open.pop();
                    }
                    _ => return Err(self.error()),
                }
            }
        }
    }

    /// Skips a key and its colon, up to the value. Returns what stands between the quotes.
    #[inline]
    fn key(&mut self) -> Result<Range<usize>, ScanError> {
        let key = self.string()?;
        self.skip_space();
        self.expect(b':')?;
        self.skip_space();
        Ok(key)
    }

    /// Skips a string. Returns what stands between the quotes.
    #[inline]
    pub(super) fn string(&mut self) -> Result<Range<usize>, ScanError> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            self.at = find_special(self.bytes, self.at);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(start..self.at - 1);
                }
                Some(b'\\') => self.escape()?,
                _ => return Err(self.error()),
            }
        }
    }

    /// Skips one escape. A lone surrogate is grammatical, and none of our business.
    fn escape(&mut self) -> Result<(), ScanError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        match rest {
            [
                _,
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't',
                ..,
            ] => self.at += 2,
            [_, b'u', hex @ ..] if hex.len() >= 4 && hex[..4].iter().all(u8::is_ascii_hexdigit) => {
                self.at += 6;
            }
            _ => return Err(self.error()),
        }
        Ok(())
    }

    #[inline]
    fn number(&mut self) -> Result<(), ScanError> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            // A zero stands alone: the digit behind it is an error wherever a comma or bracket is expected.
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// Skips one digit or more.
    #[inline]
    fn digits(&mut self) -> Result<(), ScanError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let count = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        self.at += count;
        if count == 0 {
            return Err(self.error());
        }
        Ok(())
    }

    fn literal(&mut self, literal: &[u8]) -> Result<(), ScanError> {
        match self.bytes.get(self.at..) {
            Some(rest) if rest.starts_with(literal) => {
                self.at += literal.len();
                Ok(())
            }
            _ => Err(self.error()),
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), ScanError> {
        if self.peek() != Some(byte) {
            return Err(self.error());
        }
        self.at += 1;
        Ok(())
    }

    /// Skips the number that begins here.
    pub(super) fn number_range(&mut self) -> Result<Range<usize>, ScanError> {
        let start = self.at;
        self.number()?;
        Ok(start..self.at)
    }

    /// Skips the `true`, `false` or `null` that begins here.
    pub(super) fn literal_range(&mut self) -> Result<Range<usize>, ScanError> {
        let start = self.at;
        match self.peek() {
            Some(b't') => self.literal(b"true")?,
            Some(b'f') => self.literal(b"false")?,
            Some(b'n') => self.literal(b"null")?,
            _ => return Err(self.error()),
        }
        Ok(start..self.at)
    }

    /// Returns what stands in a range that was read.
    pub(super) fn text(&self, range: Range<usize>) -> &'a [u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    /// Goes on by a byte that was peeked.
    pub(super) fn step(&mut self) {
        self.at += 1;
    }

    #[inline]
    pub(super) fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn error(&self) -> ScanError {
        ScanError::Syntax(self.at)
    }
}

// === impl Object ===

impl<'a> Object<'a> {
    /// Returns the offset behind the opening brace or the member read last.
    pub fn offset(&self) -> usize {
        self.scanner.at
    }

    /// Reads the next member, or the closing brace.
    pub fn next_member(&mut self) -> Result<Option<Member>, ScanError> {
        let scanner = &mut self.scanner;
        scanner.skip_space();
        match scanner.peek() {
            Some(b'}') => {
                scanner.at += 1;
                return Ok(None);
            }
            Some(b',') if !self.is_first => {
                scanner.at += 1;
                scanner.skip_space();
            }
            _ if self.is_first => {}
            _ => return Err(scanner.error()),
        }
        self.is_first = false;
        let key = scanner.key()?;
        let value = scanner.value(self.max_depth)?;
        Ok(Some(Member { key, value }))
    }

    /// Returns the scanner behind the object, once [`next_member`](Self::next_member) has returned its end.
    pub fn leave(self) -> Scanner<'a> {
        self.scanner
    }
}

// === impl Array ===

impl Array<'_> {
    /// Reads the next element, of any depth, or the closing bracket.
    pub fn next_element(&mut self) -> Result<Option<Range<usize>>, ScanError> {
        let scanner = &mut self.scanner;
        scanner.skip_space();
        match scanner.peek() {
            Some(b']') => {
                scanner.at += 1;
                return Ok(None);
            }
            Some(b',') if !self.is_first => {
                scanner.at += 1;
                scanner.skip_space();
            }
            _ if self.is_first => {}
            _ => return Err(scanner.error()),
        }
        self.is_first = false;
        scanner.value(usize::MAX).map(Some)
    }
}

// === impl Stack ===

impl Stack {
    fn push(&mut self, is_object: bool) {
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.full.push(self.top);
        }
        self.top = self.top << 1 | u64::from(is_object);
        self.depth += 1;
    }

    fn pop(&mut self) {
        self.top >>= 1;
        self.depth -= 1;
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.top = self.full.pop().unwrap_or_default();
        }
    }

    fn last(&self) -> Option<bool> {
        (self.depth > 0).then_some(self.top & 1 == 1)
    }
}

/// Returns whether a key, given as it stands between its quotes, spells `name`.
pub(in crate::openai) fn spells(key: &[u8], name: &str) -> bool {
    if key == name.as_bytes() {
        return true;
    }
    // The longest spelling of an ASCII letter is `\u0065`.
    key.len() <= name.len() * 6
        && key.contains(&b'\\')
        && unescape(key).is_some_and(|decoded| decoded == name)
}

/// Returns whether a key, as it stands between its quotes, is this name but for the case of its letters.
pub(in crate::openai) fn spells_in_other_case(key: &[u8], name: &str) -> bool {
    key.eq_ignore_ascii_case(name.as_bytes())
        || (key.len() <= name.len() * 6
            && key.contains(&b'\\')
            && unescape(key).is_some_and(|decoded| decoded.eq_ignore_ascii_case(name)))
}

/// Decodes what stands between a string's quotes. `None` for what no string of ours can hold, a lone surrogate.
pub(super) fn unescape(raw: &[u8]) -> Option<String> {
    let mut quoted = Vec::with_capacity(raw.len() + 2);
    quoted.push(b'"');
    quoted.extend_from_slice(raw);
    quoted.push(b'"');
    serde_json::from_slice(&quoted).ok()
}

/// Returns the offset, from `at` on, of the first byte that does not simply belong to a string: a quote, a backslash, a
/// control character. The length of `bytes` if there is none.
#[inline]
fn find_special(bytes: &[u8], mut at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    // Keys and most values end within the first two words.
    for word in rest.as_chunks::<8>().0.iter().take(2) {
        if let Some(found) = find_in_word(*word) {
            return at + found;
        }
        at += 8;
    }
    find_far(bytes, at)
}

/// Goes on where a string has turned out to be long.
fn find_far(bytes: &[u8], mut at: usize) -> usize {
    let is_special = |b: u8| (b == b'"') | (b == b'\\') | (b < 0x20);
    let rest = bytes.get(at..).unwrap_or_default();
    // Without a branch inside the block, so that the compiler makes vector instructions of it.
    let (blocks, _) = rest.as_chunks::<32>();
    let clean = blocks
        .iter()
        .take_while(|block| !block.iter().fold(false, |any, &b| any | is_special(b)));
    at += clean.count() * 32;

    let rest = bytes.get(at..).unwrap_or_default();
    let (words, _) = rest.as_chunks::<8>();
    for word in words {
        if let Some(found) = find_in_word(*word) {
            return at + found;
        }
        at += 8;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    let found = rest.iter().position(|&b| is_special(b));
    found.map_or(bytes.len(), |i| at + i)
}

/// Looks at eight bytes at once, after <https://graphics.stanford.edu/~seander/bithacks.html#ZeroInWord>. A borrow can
/// mark a byte too many, but only behind the first that is right.
#[inline]
fn find_in_word(word: [u8; 8]) -> Option<usize> {
    const LOW: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let word = u64::from_le_bytes(word);
    let quote = word ^ (LOW * b'"' as u64);
    let backslash = word ^ (LOW * b'\\' as u64);
    let marks = (quote.wrapping_sub(LOW) & !quote
        | backslash.wrapping_sub(LOW) & !backslash
        | word.wrapping_sub(LOW * 0x20) & !word)
        & HIGH;
    (marks != 0).then_some((marks.trailing_zeros() / 8) as usize)
}
