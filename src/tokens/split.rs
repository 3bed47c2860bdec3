//! Splits text into the pieces that are merged each for itself, as the patterns of OpenAI's `tiktoken` do.
//!
//! Their look-ahead, `\s+(?!\S)`, is the only thing in them that needs a backtracking engine. Instead of it `\s+\s`
//! matches one character too many, which is given back: then every match is linear in its piece. Matching is always
//! anchored; a search would look for the beginning backwards as well, which takes a hundred times longer where text is
//! made of every script by turns.

use regex_automata::meta::Regex;
use regex_automata::{Anchored, Input};

use super::Encoding;

/// The expression that splits for one encoding.
#[derive(Debug)]
pub(super) struct Splitter(Regex);

/// The pieces of a text, which together are the text.
pub(super) struct Pieces<'a> {
    splitter: &'a Splitter,
    rest: &'a str,
}

const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+$";
const O200K: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+$",
);

/// Which of the patterns gives its last character back.
const LOOKS_AHEAD: usize = 1;

// === impl Splitter ===

impl Splitter {
    pub fn new(encoding: Encoding) -> Option<Self> {
        let pattern = match encoding {
            Encoding::O200k => O200K,
            Encoding::Cl100k => CL100K,
        };
        Regex::new_many(&[pattern, r"\s+\s", r"\s+"]).ok().map(Self)
    }

    pub fn pieces<'a>(&'a self, text: &'a str) -> Pieces<'a> {
        Pieces {
            splitter: self,
            rest: text,
        }
    }
}

// === impl Pieces ===

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let first = self.rest.chars().next()?;
        let length = ascii_word(self.rest.as_bytes()).unwrap_or_else(|| {
            let input = Input::new(self.rest).anchored(Anchored::Yes);
            // Every character belongs to one of the patterns.
            let Some(found) = self.splitter.0.find(input) else {
                return first.len_utf8();
            };
            if found.pattern().as_usize() != LOOKS_AHEAD {
                return found.end();
            }
            let last = self.rest[..found.end()].chars().next_back();
            found.end() - last.map_or(0, char::len_utf8)
        });
        let (piece, rest) = self.rest.split_at(length.max(first.len_utf8()));
        self.rest = rest;
        Some(piece)
    }
}

/// Returns the length of the ASCII word that begins here, where it is plain which piece it makes: most pieces of English
/// prose and of code. One character that is no letter may stand before it, and its first letter may be a capital.
fn ascii_word(text: &[u8]) -> Option<usize> {
    let lead = match text.first()? {
        // A quote may begin a contraction.
        b'\r' | b'\n' | b'\'' | b'0'..=b'9' | 0x80.. => return None,
        first => usize::from(!first.is_ascii_alphabetic()),
    };
    let word = text.get(lead..)?;
    let capital = usize::from(word.first()?.is_ascii_uppercase());
    let small = word.get(capital..)?;
    let count = small.iter().take_while(|b| b.is_ascii_lowercase()).count();
    let is_plain = count > 0
        && match small.get(count) {
            Some(next) => next.is_ascii() && !next.is_ascii_alphabetic() && *next != b'\'',
            None => true,
        };
    is_plain.then_some(lead + capital + count)
}
