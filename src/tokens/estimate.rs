//! Tokens of an unknown tokenizer, from bytes alone.

/// Estimates the tokens of a text in UTF-8: four ASCII characters are a token, and so are two and a half of a script
/// with two bytes each (Cyrillic, Arabic, Greek), one and a quarter with three (Chinese, Japanese, Korean), two thirds
/// of an emoji. At least 1 where there is any text.
///
/// Against `o200k_base` it is right within a third on prose and code in the languages of the tests. Tokenizers with a
/// smaller vocabulary need more tokens.
pub fn estimate(text: &[u8]) -> u64 {
    (twentieths(text) / 20).max(u64::from(!text.is_empty()))
}

/// Returns the same in twentieths of a token.
fn twentieths(text: &[u8]) -> u64 {
    // In twentieths of a token, by the first byte of a character; the bytes behind it count nothing.
    let weight = |byte: u8| match byte {
        0..0x80 => 5_u64,
        0x80..0xc0 => 0,
        0xc0..0xe0 => 8,
        0xe0..0xf0 => 16,
        0xf0.. => 30,
    };
    text.iter().map(|&byte| weight(byte)).sum()
}

/// Adds up the tokens of a text that comes in pieces, rather too high than too low: whoever would do something about it counts
/// first. What [`estimate`] takes for prose is dense here: a sign is a token, and so are three digits of a number, and whatever
/// stands behind one.
#[derive(Clone, Debug, Default)]
pub(super) struct HighGuess {
    twentieths: u64,
    /// Which digit of three was the last byte; 0: it was none.
    digit: u8,
}

impl HighGuess {
    pub(super) fn push(&mut self, text: &[u8]) {
        let mut sum = 0_u64;
        for byte in text {
            let digit = match byte {
                b'0'..=b'9' => self.digit % 3 + 1,
                _ => 0,
            };
            sum += match byte {
                b'0'..=b'9' if digit == 1 => 20,
                b'0'..=b'9' => 0,
                b'a'..=b'z' | b'A'..=b'Z' if self.digit == 0 => 5,
                b' ' | b'\t' | b'\n' | b'\r' if self.digit == 0 => 5,
                0..0x80 => 20,
                0x80..0xc0 => 0,
                0xc0..0xe0 => 9,
                0xe0..0xf0 => 20,
                0xf0.. => 40,
            };
            self.digit = digit;
        }
        self.twentieths = self.twentieths.saturating_add(sum);
    }

    pub(super) fn tokens(&self) -> u64 {
        self.twentieths / 20
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::{Encoding, count};

    #[test]
    fn a_high_guess_is_hardly_ever_too_low() {
        let dense = [
            "7 1 9 4 2 8 0 3 5 6 1 1 7 9 2 ",
            "w277-1110 w278-1111 x9-20455 ",
            "春风吹春风吹春风吹",
            "3f9a0c77b1e24d5aa8 9c01d4e6f2 ",
            "{\"a\":[1,2,3],\"b\":{\"c\":-4.5e6}},",
            "|---|:-:|---|\n| 1 | 2 | 3 |\n",
            "😀🎉🚀🔥✨",
            "wonderful wonderful wonderful ",
        ];
        let mut wrong = Vec::new();
        for text in crate::tokens::tests::SAMPLES.iter().chain(&dense) {
            let text = text.repeat(8);
            let mut guess = HighGuess::default();
            let bytes = text.as_bytes();
            bytes.chunks(3).for_each(|piece| guess.push(piece));
            let exact = count(Encoding::O200k, &text) as f64;
            let ratio = guess.tokens() as f64 / exact;
            if !(0.95..2.5).contains(&ratio) {
                wrong.push(format!("{ratio:.2} for {text:.30}"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn nothing_is_nothing_and_anything_is_something() {
        assert_eq!(estimate(b""), 0);
        assert_eq!(estimate(b"a"), 1);
        assert_eq!(estimate(b"\x80"), 1, "no UTF-8");
    }

    #[test]
    fn is_right_within_a_third_against_o200k() {
        for text in crate::tokens::tests::SAMPLES {
            let exact = count(Encoding::O200k, text) as f64;
            let ratio = estimate(text.as_bytes()) as f64 / exact;
            assert!((0.66..1.5).contains(&ratio), "{ratio:.2} for {text}");
        }
    }
}
