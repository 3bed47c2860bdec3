//! What a passing stream generates, kept until it has to be counted.

use super::estimate::HighGuess;
use super::{Encoding, count, estimate};
use crate::openai::endpoint::Endpoint;
use crate::openai::json;
use crate::openai::sse::each_delta;

/// How much of one choice's text is kept, some 16,000 tokens. What comes then is estimated and let go: nearly all streams
/// end with a usage object, and none should be counted, or have a vocabulary loaded for it, in vain.
const KEPT: usize = 64 << 10;

/// How many choices are kept apart. Text of further ones is put together.
const MAX_CHOICES: usize = 16;

/// The text that a stream has generated so far, and its tokens.
///
/// To keep a piece costs a comparison of its event with the one before, or a walk over it, and a copy. Tokens are
/// counted over the text of each choice as a whole, not piece by piece: where an upstream cuts its pieces is its own
/// affair. Memory stays bounded however long the stream is; what was let go is estimated.
#[derive(Clone, Debug)]
pub struct GeneratedText {
    endpoint: Endpoint,
    encoding: Option<Encoding>,
    choices: Vec<Choice>,
    shape: Option<Shape>,
    /// The tokens of what was let go, by estimate.
    folded: u64,
    /// All of it, by a rough estimate.
    rough: HighGuess,
}

#[derive(Clone, Debug)]
struct Choice {
    index: u64,
    /// The inside of a JSON string.
    raw: Vec<u8>,
}

/// What stood around the only piece of an event. Most events of a stream differ in nothing but their piece.
#[derive(Clone, Debug)]
struct Shape {
    head: Vec<u8>,
    tail: Vec<u8>,
    index: u64,
}

// === impl GeneratedText ===

impl GeneratedText {
    /// Builds an empty one for a stream of this endpoint, to be counted by an encoding or, where that is not known,
    /// estimated.
    pub fn new(endpoint: Endpoint, encoding: Option<Encoding>) -> Self {
        Self {
            endpoint,
            encoding,
            choices: Vec::new(),
            shape: None,
            folded: 0,
            rough: HighGuess::default(),
        }
    }

    /// Keeps what an event's data brought.
    pub fn push(&mut self, data: &[u8]) {
        if let Some(shape) = &self.shape
            && let Some(raw) = shape.piece(data)
        {
            self.keep(shape.index, raw);
            return;
        }
        let endpoint = self.endpoint.clone();
        let mut only = None;
        let mut pieces = 0;
        each_delta(data, &endpoint, |index, raw| {
            self.keep(index, raw);
            only = Some((index, raw));
            pieces += 1;
        });
        self.shape = only
            .filter(|_| pieces == 1)
            .and_then(|(index, raw)| Shape::around(data, raw, index));
    }

    fn keep(&mut self, index: u64, raw: &[u8]) {
        self.rough.push(raw);
        let Some(choice) = self.choice(index) else {
            return;
        };
        if choice.raw.len() + raw.len() <= KEPT {
            choice.raw.extend_from_slice(raw);
        } else {
            let tokens = estimate(json::text(raw).as_bytes());
            self.folded = self.folded.saturating_add(tokens);
        }
    }

    /// Returns whether all of it can be counted: its tokenizer is known, and nothing was let go.
    pub fn is_exact(&self) -> bool {
        self.encoding.is_some() && self.folded == 0
    }

    /// Returns how many bytes are to be counted.
    pub fn len(&self) -> usize {
        self.choices.iter().map(|choice| choice.raw.len()).sum()
    }

    /// Returns whether anything was generated.
    pub fn is_empty(&self) -> bool {
        self.folded == 0 && self.choices.iter().all(|choice| choice.raw.is_empty())
    }

    /// Returns about how many tokens there are so far, rather too many than too few, without counting anything anew.
    pub fn roughly(&self) -> u64 {
        self.rough.tokens()
    }

    /// Returns the choices that anything was generated of.
    pub fn choices(&self) -> impl Iterator<Item = u64> + '_ {
        self.choices.iter().map(|choice| choice.index)
    }

    /// Returns the text of a choice so far; `None` where some of it was let go.
    pub fn text(&self, index: u64) -> Option<String> {
        let choice = self.choices.iter().find(|choice| choice.index == index);
        let raw = choice.map_or(&[][..], |choice| &choice.raw);
        let is_whole = self.folded == 0 && self.choices.len() < MAX_CHOICES;
        is_whole.then(|| json::text(raw).into_owned())
    }

    /// Returns the tokens of everything so far.
    pub fn tokens(&self) -> u64 {
        let kept = self.choices.iter().map(|choice| self.count(&choice.raw));
        kept.fold(self.folded, u64::saturating_add)
    }

    fn choice(&mut self, index: u64) -> Option<&mut Choice> {
        let place = self.choices.iter().position(|c| c.index == index);
        let place = place.unwrap_or_else(|| {
            if self.choices.len() < MAX_CHOICES {
                let raw = Vec::new();
                self.choices.push(Choice { index, raw });
            }
            self.choices.len() - 1
        });
        self.choices.get_mut(place)
    }

    fn count(&self, raw: &[u8]) -> u64 {
        let text = json::text(raw);
        match self.encoding {
            Some(encoding) => count(encoding, &text),
            None => estimate(text.as_bytes()),
        }
    }
}

// === impl Shape ===

impl Shape {
    /// Notes what stands around a piece, which is a part of the data.
    fn around(data: &[u8], piece: &[u8], index: u64) -> Option<Self> {
        let start = (piece.as_ptr() as usize).checked_sub(data.as_ptr() as usize)?;
        Some(Self {
            head: data.get(..start)?.to_vec(),
            tail: data.get(start + piece.len()..)?.to_vec(),
            index,
        })
    }

    /// Returns the piece of an event of the same shape. With a quote or an escape in it, it might be of another.
    fn piece<'a>(&self, data: &'a [u8]) -> Option<&'a [u8]> {
        let piece = data.strip_prefix(&self.head[..])?;
        let piece = piece.strip_suffix(&self.tail[..])?;
        memchr::memchr2(b'"', b'\\', piece)
            .is_none()
            .then_some(piece)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tokens::tests::SAMPLES;

    const O200K: Option<Encoding> = Some(Encoding::O200k);

    fn event(index: usize, text: &str) -> String {
        let delta = serde_json::json!({"content": text});
        serde_json::json!({"choices": [{"index": index, "delta": delta}]}).to_string()
    }

    fn new(encoding: Option<Encoding>) -> GeneratedText {
        GeneratedText::new(Endpoint::ChatCompletions, encoding)
    }

    fn push(generated: &mut GeneratedText, data: &str) {
        generated.push(data.as_bytes());
    }

    #[test]
    fn choices_are_counted_apart() {
        let mut generated = new(O200K);
        assert!(generated.is_empty());
        for part in ["hel", "lo", " wor", "ld"] {
            for index in 0..2 {
                push(&mut generated, &event(index, part));
            }
        }
        assert_eq!(generated.tokens(), 4);
        assert!(!generated.is_empty());
    }

    #[test]
    fn a_character_cut_between_its_escapes_is_whole() {
        let mut generated = new(O200K);
        push(
            &mut generated,
            r#"{"choices":[{"delta":{"content":"\ud83d"}}]}"#,
        );
        push(
            &mut generated,
            r#"{"choices":[{"delta":{"content":"\ude00"}}]}"#,
        );
        assert_eq!(generated.tokens(), count(Encoding::O200k, "😀"));
    }

    #[test]
    fn memory_is_bounded_and_what_was_let_go_is_estimated() {
        let text = SAMPLES.join("\n").repeat(120);
        let mut generated = new(O200K);
        let chars: Vec<char> = text.chars().collect();
        for part in chars.chunks(7) {
            push(&mut generated, &event(0, &String::from_iter(part)));
            assert!(generated.choices[0].raw.len() <= KEPT);
        }
        assert!(text.len() > KEPT && !generated.is_exact());
        let (exact, tokens) = (count(Encoding::O200k, &text), generated.tokens());
        assert!(
            (exact / 2..exact * 2).contains(&tokens),
            "{tokens} of {exact}"
        );

        for index in 0..1000 {
            push(&mut generated, &event(index, "a"));
        }
        assert_eq!(generated.choices.len(), MAX_CHOICES);
    }

    #[test]
    fn an_unknown_tokenizer_is_estimated() {
        let mut generated = new(None);
        push(&mut generated, &event(0, "hello world"));
        assert_eq!(generated.tokens(), estimate(b"hello world"));
    }

    proptest! {
        #[test]
        fn where_a_text_is_cut_does_not_matter(text in ".{0,80}|[a-z' \\n\"]{0,80}", size in 1_usize..9) {
            let mut generated = new(O200K);
            let chars: Vec<char> = text.chars().collect();
            for part in chars.chunks(size) {
                push(&mut generated, &event(0, &String::from_iter(part)));
            }
            prop_assert_eq!(generated.tokens(), count(Encoding::O200k, &text));
        }

        #[test]
        fn garbage_never_panics(data in prop::collection::vec(any::<u8>(), 0..60), inside in r#"[\\u"a-f0-9\[\]{}: ,]{0,40}"#) {
            for endpoint in [Endpoint::ChatCompletions, Endpoint::Responses, Endpoint::Embeddings] {
                let mut generated = GeneratedText::new(endpoint, O200K);
                generated.push(&data);
                for _ in 0..2 {
                    generated.push(format!(r#"{{"choices":[{{"delta":{{"content":{inside}}}}}]}}"#).as_bytes());
                    generated.push(format!(r#"{{"type":"a.delta","delta":"{inside}"}}"#).as_bytes());
                }
                generated.tokens();
            }
        }

        #[test]
        fn events_of_the_same_shape_are_read_as_any(parts in prop::collection::vec((0_usize..2, "[a\"\\\\}]{0,3}|写"), 0..12)) {
            let (mut one_by_one, mut at_once) = (Vec::new(), new(None));
            for (index, part) in &parts {
                let data = event(*index, part);
                each_delta(data.as_bytes(), &Endpoint::ChatCompletions, |i, raw| one_by_one.push((i, raw.to_vec())));
                push(&mut at_once, &data);
            }
            for choice in &at_once.choices {
                let expected = one_by_one.iter().filter(|(index, _)| *index == choice.index);
                let expected: Vec<u8> = expected.flat_map(|(_, raw)| raw.clone()).collect();
                prop_assert_eq!(&choice.raw, &expected);
            }
        }
    }
}
