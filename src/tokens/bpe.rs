//! Byte pair encoding: in a piece of text the neighbours whose union ranks lowest in the vocabulary become one token,
//! until no two neighbours have a union.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use super::Encoding;
use super::split::Splitter;

/// The longest piece that is merged in one go. Natural text has none that long. Where a longer one is cut the count may
/// be off by one token; without the cut, a MiB of one letter takes three times as long.
const MAX_PIECE: usize = 4096;

/// Up to this length looking through all neighbours for the lowest is faster than keeping them in a heap.
const SHORT: usize = 48;

/// No union.
const NONE: u32 = u32::MAX;

/// One encoding, ready to count.
#[derive(Debug)]
pub(super) struct Bpe {
    splitter: Splitter,
    /// Tokens of up to seven bytes, which stand in their key.
    short: FxHashMap<u64, u32>,
    long: FxHashMap<Box<[u8]>, u32>,
    /// The ranks of unions of two bytes, found without hashing: every merge begins with them.
    pairs: Box<[u32]>,
    longest: usize,
}

// === impl Bpe ===

impl Bpe {
    pub fn load(encoding: Encoding) -> Option<Self> {
        let splitter = Splitter::new(encoding)?;
        let vocabulary = tiktoken::get_encoding(encoding.name())?;
        let (mut short, mut long) = (FxHashMap::default(), FxHashMap::default());
        let mut pairs = vec![NONE; 1 << 16];
        let mut longest = 0;
        for rank in 0..u32::try_from(vocabulary.vocab_size()).ok()? {
            let token = vocabulary.decode(&[rank]);
            longest = longest.max(token.len());
            if let [a, b] = token[..] {
                pairs[pair_index(a, b)] = rank;
            }
            match short_key(&token) {
                Some(key) => short.insert(key, rank),
                None => long.insert(token.into_boxed_slice(), rank),
            };
        }
        Some(Self {
            splitter,
            short,
            long,
            pairs: pairs.into(),
            longest,
        })
    }

    pub fn count(&self, text: &str) -> u64 {
        let pieces = self.splitter.pieces(text);
        pieces.map(|piece| self.count_piece(piece.as_bytes())).sum()
    }

    fn count_piece(&self, piece: &[u8]) -> u64 {
        if self.rank(piece) != NONE {
            return 1;
        }
        let parts = piece.chunks(MAX_PIECE).map(|part| {
            if part.len() <= SHORT {
                self.merge_short(part)
            } else {
                self.merge_long(part)
            }
        });
        parts.sum::<usize>() as u64
    }

    fn rank(&self, token: &[u8]) -> u32 {
        if let [a, b] = *token {
            return self.pairs[pair_index(a, b)];
        }
        let rank = match short_key(token) {
            Some(key) => self.short.get(&key),
            None if token.len() > self.longest => None,
            None => self.long.get(token),
        };
        rank.copied().unwrap_or(NONE)
    }

    /// Merges by looking for the lowest union again and again, and returns the number of tokens.
    fn merge_short(&self, piece: &[u8]) -> usize {
        // Token `i` begins at `starts[i]`; `unions[i]` is the rank of its union with the next one.
        let mut starts = [0_u8; SHORT + 1];
        let mut unions = [NONE; SHORT];
        for (start, at) in starts.iter_mut().zip(0..) {
            *start = at;
        }
        for (union, pair) in unions.iter_mut().zip(piece.windows(2)) {
            *union = self.rank(pair);
        }
        let mut count = piece.len();
        loop {
            let known = unions[..count.saturating_sub(1)].iter().enumerate();
            let Some((at, &lowest)) = known.min_by_key(|(_, rank)| **rank) else {
                return count;
            };
            if lowest == NONE {
                return count;
            }
            starts.copy_within(at + 2..=count, at + 1);
            unions.copy_within(at + 1..count, at);
            count -= 1;
            let union = |at: usize| match starts[..=count].get(at + 2) {
                Some(&end) => self.rank(&piece[starts[at].into()..end.into()]),
                None => NONE,
            };
            unions[at] = union(at);
            if at > 0 {
                unions[at - 1] = union(at - 1);
            }
        }
    }

    /// Merges with a heap of unions, in time `n log n`, and returns the number of tokens.
    fn merge_long(&self, piece: &[u8]) -> usize {
        let length = piece.len();
        // Where the token that begins here ends, where the one before it begins, and the rank of its union with the
        // next. Entries for places where no token begins any more hold no union.
        let mut ends: Vec<usize> = (1..=length).collect();
        let mut previous: Vec<usize> = (0..length).map(|at| at.saturating_sub(1)).collect();
        let mut unions: Vec<u32> = piece.windows(2).map(|pair| self.rank(pair)).collect();
        unions.push(NONE);
        let known = unions.iter().enumerate().filter(|(_, rank)| **rank != NONE);
        let mut heap: BinaryHeap<_> = known.map(|(at, &rank)| Reverse((rank, at))).collect();
        let mut count = length;
        while let Some(Reverse((rank, at))) = heap.pop() {
            // One of the two has been merged with another since.
            if unions[at] != rank {
                continue;
            }
            let middle = ends[at];
            let end = ends[middle];
            ends[at] = end;
            unions[middle] = NONE;
            if end < length {
                previous[end] = at;
            }
            count -= 1;
            let before = (at > 0).then(|| previous[at]);
            for start in before.into_iter().chain([at]) {
                let next = ends[start];
                unions[start] = match ends.get(next) {
                    Some(&end) => self.rank(&piece[start..end]),
                    None => NONE,
                };
                if unions[start] != NONE {
                    heap.push(Reverse((unions[start], start)));
                }
            }
        }
        count
    }
}

/// Packs up to seven bytes and their number.
fn short_key(token: &[u8]) -> Option<u64> {
    if token.len() > 7 {
        return None;
    }
    let bytes = token.iter();
    Some(bytes.fold(token.len() as u64, |key, &byte| key << 8 | u64::from(byte)))
}

fn pair_index(a: u8, b: u8) -> usize {
    usize::from(a) << 8 | usize::from(b)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tokens::{O200K, count};

    proptest! {
        #[test]
        fn both_ways_of_merging_agree(piece in "[ab \u{e9}写😀]{1,12}|[a-z]{2,48}") {
            let bpe = O200K.as_ref().unwrap();
            let piece = piece.as_bytes();
            if piece.len() <= SHORT {
                prop_assert_eq!(bpe.merge_short(piece), bpe.merge_long(piece));
            }
        }

        #[test]
        fn agrees_with_another_implementation(text in any_text()) {
            for encoding in [Encoding::O200k, Encoding::Cl100k] {
                let reference = tiktoken::get_encoding(encoding.name()).unwrap();
                prop_assert_eq!(count(encoding, &text), reference.count(&text) as u64);
            }
        }
    }

    fn any_text() -> impl Strategy<Value = String> {
        prop_oneof![
            ".{0,60}",
            "[ -~\\t\\r\\n]{0,120}",
            "[aA'sST \\n\\r\\t1\u{e9}\u{301}写。!/<|>😀ǅʰ\u{a0}\u{2028}]{0,60}",
            "([A-Za-z]{1,12}('s|'LL)?[ .,\\n]{1,2}){0,20}",
            "[写一首关于春天的诗，。]{0,100}",
            "[а-яё ]{0,60}|[a-z]{100,400}",
        ]
    }
}
