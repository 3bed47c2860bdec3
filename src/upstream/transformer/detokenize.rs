//! From tokens to text as it may leave: whole characters only, and nothing that a stop string may still claim.

/// One token of an answer, and how probable it was.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token's bytes: part of a character, if need be; the name of a token that stands for no text.
    pub bytes: Vec<u8>,
    /// The natural logarithm of its probability; `None` for the first token of a prompt.
    pub logprob: Option<f32>,
    /// The most probable tokens at this place, the best first.
    pub top: Vec<(Vec<u8>, f32)>,
    /// Where its text begins, in characters from the beginning of the answer (or of the prompt).
    pub offset: usize,
}

/// Text on its way out.
#[derive(Debug, Default)]
pub(super) struct Detokenizer {
    stops: Vec<String>,
    /// Bytes of a character that is not whole yet.
    partial: Vec<u8>,
    /// Text that may be the beginning of a stop string.
    held: String,
    /// Characters released so far.
    released: usize,
    /// Tokens whose text is held back.
    tokens: Vec<TokenLogprob>,
}

/// What may leave.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Released {
    pub(super) text: String,
    pub(super) tokens: Vec<TokenLogprob>,
    /// Whether a stop string was met: nothing may follow.
    pub(super) stopped: bool,
}

impl Detokenizer {
    pub(super) fn new(stops: Vec<String>) -> Self {
        Self {
            stops,
            ..Self::default()
        }
    }

    /// Takes a token's bytes, and its probability if that is to be reported.
    pub(super) fn push(&mut self, bytes: &[u8], logprob: Option<TokenLogprob>) -> Released {
        if let Some(mut token) = logprob {
            token.offset = self.released + self.held.chars().count();
            self.tokens.push(token);
        }
        self.partial.extend_from_slice(bytes);
        self.decode();
        if let Some(at) = self.stops.iter().filter_map(|s| self.held.find(s)).min() {
            self.held.truncate(at);
            let mut released = self.release(at);
            // Tokens of the stop string itself are not part of the answer.
            self.tokens.clear();
            released.stopped = true;
            return released;
        }
        let safe = self.held.len() - self.claimed();
        self.release(safe)
    }

    /// Returns what is left when the model has ended.
    pub(super) fn finish(&mut self) -> Released {
        if !self.partial.is_empty() {
            self.partial.clear();
            self.held.push(char::REPLACEMENT_CHARACTER);
        }
        let mut released = self.release(self.held.len());
        released.tokens.append(&mut self.tokens);
        released
    }

    /// Moves whole characters from `partial` to `held`. Bytes that can never become one are replaced.
    fn decode(&mut self) {
        let mut rest = self.partial.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.held.push_str(text);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    self.held.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    let Some(bad) = error.error_len() else {
                        break;
                    };
                    self.held.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[bad..];
                }
            }
        }
        self.partial = rest.to_vec();
    }

    /// Returns how many bytes at the end of `held` may be the beginning of a stop string.
    fn claimed(&self) -> usize {
        let begins = |stop: &String| {
            let most = (stop.len() - 1).min(self.held.len());
            (1..=most)
                .rev()
                .find(|n| stop.is_char_boundary(*n) && self.held.ends_with(&stop[..*n]))
                .unwrap_or(0)
        };
        self.stops.iter().map(begins).max().unwrap_or(0)
    }

    fn release(&mut self, bytes: usize) -> Released {
        let rest = self.held.split_off(bytes);
        let text = std::mem::replace(&mut self.held, rest);
        self.released += text.chars().count();
        let count = self
            .tokens
            .iter()
            .take_while(|t| t.offset < self.released)
            .count();
        Released {
            text,
            tokens: self.tokens.drain(..count).collect(),
            stopped: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(stops: &[&str], tokens: &[&[u8]]) -> (Vec<String>, bool) {
        let mut detokenizer = Detokenizer::new(stops.iter().map(|s| (*s).to_owned()).collect());
        let mut texts = Vec::new();
        for token in tokens {
            let released = detokenizer.push(token, None);
            texts.push(released.text);
            if released.stopped {
                return (texts, true);
            }
        }
        texts.push(detokenizer.finish().text);
        (texts, false)
    }

    fn logprob(byte: u8) -> Option<TokenLogprob> {
        Some(TokenLogprob {
            bytes: vec![byte],
            logprob: Some(-0.5),
            top: Vec::new(),
            offset: 0,
        })
    }

    #[test]
    fn characters_leave_whole() {
        let tokens: Vec<&[u8]> = vec![b"\xf0", b"\x9f\x99", b"\x82", b"\xe6\x98", b"\xa5a"];
        assert_eq!(texts(&[], &tokens).0, ["", "", "🙂", "", "春a", ""]);
    }

    #[test]
    fn bytes_that_are_no_character_are_replaced() {
        assert_eq!(
            texts(&[], &[b"a\xff", b"b", b"\xe6\x98"]).0,
            ["a\u{fffd}", "b", "", "\u{fffd}"]
        );
    }

    #[test]
    fn a_stop_string_is_found_across_tokens_and_never_leaves() {
        let (texts, stopped) = texts(
            &["\n\n", "END"],
            &[b"one E", b"N", b"X\n", b"two E", b"ND more"],
        );
        assert_eq!(texts, ["one ", "", "ENX", "\ntwo ", ""]);
        assert!(stopped);
    }

    #[test]
    fn the_earliest_of_several_stop_strings_counts() {
        assert_eq!(texts(&["c", "b"], &[b"abc"]), (vec!["a".to_owned()], true));
    }

    #[test]
    fn text_held_for_a_stop_string_leaves_at_the_end() {
        assert_eq!(
            texts(&["。\n"], &["好。".as_bytes()]),
            (vec!["好".into(), "。".into()], false)
        );
    }

    #[test]
    fn tokens_leave_with_their_text() {
        let mut detokenizer = Detokenizer::new(vec!["stop".into()]);
        assert_eq!(detokenizer.push(b"a", logprob(b'a')).tokens.len(), 1);
        assert_eq!(detokenizer.push(b"s", logprob(b's')).tokens.len(), 0);
        let released = detokenizer.push(b"x", logprob(b'x'));
        assert_eq!(released.text, "sx");
        assert_eq!(
            released.tokens.iter().map(|t| t.offset).collect::<Vec<_>>(),
            [1, 2]
        );
        assert_eq!(detokenizer.push(b"stop", logprob(b'!')).tokens, []);
    }
}
