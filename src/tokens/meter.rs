//! Counts the texts that are found in one body, one after the other.

use super::{Encoding, count, estimate};
use crate::openai::json;

/// How many bytes of text in one body are counted by the tokenizer. What goes beyond is estimated from its bytes,
/// because counting holds the thread: 1 MiB takes about 30 ms, and a third of a second where it is made to be slow.
pub const EXACT_LIMIT: usize = 1 << 20;

/// A sum of tokens.
#[derive(Debug)]
pub(super) struct Meter {
    encoding: Option<Encoding>,
    /// How many bytes may still be counted exactly.
    exact: usize,
    tokens: u64,
}

// === impl Meter ===

impl Meter {
    pub fn new(encoding: Option<Encoding>) -> Self {
        Self {
            encoding,
            exact: EXACT_LIMIT,
            tokens: 0,
        }
    }

    /// Adds tokens that are no text.
    pub fn add(&mut self, tokens: u64) {
        self.tokens = self.tokens.saturating_add(tokens);
    }

    /// Adds a text.
    pub fn text(&mut self, text: &str) {
        let tokens = match self.encoding {
            Some(encoding) if text.len() <= self.exact => {
                self.exact -= text.len();
                count(encoding, text)
            }
            _ => estimate(text.as_bytes()),
        };
        self.add(tokens);
    }

    /// Adds a JSON string. Returns whether the value is one.
    pub fn string(&mut self, value: &[u8]) -> bool {
        let inside = value
            .strip_prefix(b"\"")
            .and_then(|rest| rest.strip_suffix(b"\""));
        if let Some(inside) = inside {
            self.text(&json::text(inside));
        }
        inside.is_some()
    }

    /// Adds JSON as it is written, for what the model is shown in a spelling that only its maker knows.
    pub fn json(&mut self, value: &[u8]) {
        if value != b"null" {
            self.text(&String::from_utf8_lossy(value));
        }
    }

    pub fn tokens(&self) -> u64 {
        self.tokens
    }
}
