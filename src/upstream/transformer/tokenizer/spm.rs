//! The SentencePiece way: characters are merged while the vocabulary has their union, the best score first; what
//! remains unknown falls back to bytes.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::controls::Control;
use super::{Controls, Kind, Pieces, Tokenizer, byte_token};
use crate::upstream::transformer::error::LoadError;
use crate::upstream::transformer::gguf::Header;

/// How these vocabularies write the space.
const SPACE: char = '\u{2581}';

const NORMAL: i64 = 1;
const USER_DEFINED: i64 = 4;
const BYTE: i64 = 6;

pub(super) struct Spm {
    /// Tokens that stand for text. Control and byte tokens are not among them: text must not turn into them by merging.
    ids: HashMap<Box<str>, u32>,
    scores: Vec<f32>,
    bytes: [Option<u32>; 256],
    unknown: Option<u32>,
    /// Whether text begins with a space that is not there.
    space_prefix: bool,
    /// Whether any token has more than one character; without, there is nothing to merge.
    merges: bool,
}

/// A character, or characters merged so far: a node of a linked list over the text.
struct Symbol {
    start: usize,
    length: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

/// Two neighbours that could be merged.
struct Merge {
    score: f32,
    left: usize,
    right: usize,
    length: usize,
}

pub(super) fn from_gguf(
    header: &Header,
    tokens: &[String],
    types: Option<&[i64]>,
    unknown: Option<u32>,
) -> Result<Tokenizer, LoadError> {
    let scores = header
        .floats("tokenizer.ggml.scores")?
        .ok_or_else(|| LoadError::Missing("tokenizer.ggml.scores".into()))?;
    if scores.len() != tokens.len() {
        return Err(LoadError::Tokenizer("not every token has a score".into()));
    }
    let types = types.ok_or_else(|| LoadError::Missing("tokenizer.ggml.token_type".into()))?;
    let mut spm = Spm {
        ids: HashMap::new(),
        scores: scores.to_vec(),
        bytes: [None; 256],
        unknown,
        space_prefix: header
            .bool("tokenizer.ggml.add_space_prefix")?
            .unwrap_or(true),
        merges: false,
    };
    let mut pieces = Pieces::new();
    let mut controls = Vec::new();
    for (id, (token, kind)) in (0_u32..).zip(tokens.iter().zip(types)) {
        match *kind {
            NORMAL | USER_DEFINED => {
                spm.merges |= token.chars().nth(1).is_some();
                spm.ids.entry(token.as_str().into()).or_insert(id);
                pieces.push(token.replace(SPACE, " ").as_bytes());
            }
            BYTE => {
                let byte = byte_token(token)
                    .ok_or_else(|| LoadError::Tokenizer(format!("{token:?} is no byte")))?;
                spm.bytes[usize::from(byte)] = Some(id);
                pieces.push(&[byte]);
            }
            _ => {
                pieces.push_silent(token);
                controls.push(Control {
                    text: token.clone(),
                    id,
                    strips_left: false,
                    strips_right: false,
                });
            }
        }
    }
    if spm.unknown.is_none() && spm.bytes.contains(&None) {
        return Err(LoadError::Tokenizer(
            "it has neither all byte tokens nor an unknown token".into(),
        ));
    }
    Ok(Tokenizer {
        kind: Kind::Spm(Box::new(spm)),
        pieces,
        controls: Controls::new(controls),
        bos: None,
        eos: None,
        add_bos: true,
        add_bos_to_chat: true,
    })
}

// === impl Spm ===

impl Spm {
    /// Tokenizes a text. `first` says whether it stands at the beginning or behind a control token.
    pub(super) fn encode(&self, text: &str, first: bool) -> Vec<u32> {
        if text.is_empty() {
            return Vec::new();
        }
        let mut escaped = String::with_capacity(text.len() + 3);
        if first && self.space_prefix {
            escaped.push(SPACE);
        }
        escaped.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
        let mut ids = Vec::new();
        if self.merges {
            for range in self.merge(&escaped) {
                self.push(&escaped[range], &mut ids);
            }
        } else {
            let mut buffer = [0; 4];
            for c in escaped.chars() {
                self.push(c.encode_utf8(&mut buffer), &mut ids);
            }
        }
        ids
    }

    fn push(&self, symbol: &str, ids: &mut Vec<u32>) {
        if let Some(id) = self.ids.get(symbol) {
            ids.push(*id);
            return;
        }
        let bytes = symbol
            .bytes()
            .map(|b| self.bytes[usize::from(b)].or(self.unknown));
        ids.extend(bytes.flatten());
    }

    fn merge(&self, text: &str) -> Vec<std::ops::Range<usize>> {
        let count = text.chars().count();
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(i, (start, c))| Symbol {
                start,
                length: c.len_utf8(),
                previous: i.checked_sub(1),
                next: (i + 1 < count).then_some(i + 1),
            })
            .collect();
        let mut queue = BinaryHeap::new();
        for left in 0..count.saturating_sub(1) {
            queue.extend(self.candidate(text, &symbols, left, left + 1));
        }
        while let Some(merge) = queue.pop() {
            let (left, right) = (&symbols[merge.left], &symbols[merge.right]);
            // One of the two has been merged with somebody else meanwhile.
            if left.length == 0 || right.length == 0 || left.length + right.length != merge.length {
                continue;
            }
            let next = right.next;
            symbols[merge.right].length = 0;
            symbols[merge.left].length = merge.length;
            symbols[merge.left].next = next;
            if let Some(next) = next {
                symbols[next].previous = Some(merge.left);
                queue.extend(self.candidate(text, &symbols, merge.left, next));
            }
            if let Some(previous) = symbols[merge.left].previous {
                queue.extend(self.candidate(text, &symbols, previous, merge.left));
            }
        }
        let alive = symbols.iter().filter(|s| s.length > 0);
        alive.map(|s| s.start..s.start + s.length).collect()
    }

    fn candidate(
        &self,
        text: &str,
        symbols: &[Symbol],
        left: usize,
        right: usize,
    ) -> Option<Merge> {
        let length = symbols[left].length + symbols[right].length;
        let start = symbols[left].start;
        let id = self.ids.get(&text[start..start + length])?;
        Some(Merge {
            score: self.scores[*id as usize],
            left,
            right,
            length,
        })
    }
}

// === impl Merge ===

impl Ord for Merge {
    /// The best score first, then the leftmost.
    fn cmp(&self, other: &Self) -> Ordering {
        let by_score = self.score.total_cmp(&other.score);
        by_score.then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Merge {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Merge {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Merge {}

#[cfg(test)]
mod tests {
    use super::*;

    fn spm(tokens: &[(&str, f32)]) -> Spm {
        Spm {
            ids: (0..).zip(tokens).map(|(i, t)| (t.0.into(), i)).collect(),
            scores: tokens.iter().map(|t| t.1).collect(),
            bytes: [None; 256],
            unknown: Some(99),
            space_prefix: false,
            merges: true,
        }
    }

    #[test]
    fn merges_the_best_score_first() {
        let spm = spm(&[
            ("a", 0.0),
            ("b", 0.0),
            ("c", 0.0),
            ("ab", -2.0),
            ("bc", -1.0),
            ("abc", -3.0),
        ]);
        assert_eq!(spm.encode("abc", false), [5], "a + bc");
        assert_eq!(spm.encode("ab", false), [3]);
        assert_eq!(spm.encode("abbc", false), [3, 4]);
        assert_eq!(spm.encode("ax", false), [0, 99]);
    }

    #[test]
    fn equal_scores_merge_from_the_left() {
        let spm = spm(&[("a", 0.0), ("aa", -1.0)]);
        assert_eq!(spm.encode("aaa", false), [1, 0]);
    }
}
