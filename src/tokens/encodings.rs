//! Which model counts with which encoding.

use std::sync::LazyLock;

use super::Encoding;
use crate::pattern::{Pattern, PatternMap};

/// What OpenAI says of its models; see `model.py` of its `tiktoken`.
const BUILT_IN: [(&str, Encoding); 19] = [
    ("gpt-4o*", Encoding::O200k),
    ("gpt-4.1*", Encoding::O200k),
    ("gpt-4.5*", Encoding::O200k),
    ("gpt-5*", Encoding::O200k),
    ("gpt-oss-*", Encoding::O200k),
    ("chatgpt-*", Encoding::O200k),
    ("codex-*", Encoding::O200k),
    ("o1*", Encoding::O200k),
    ("o3*", Encoding::O200k),
    ("o4*", Encoding::O200k),
    ("gpt-4", Encoding::Cl100k),
    ("gpt-4-*", Encoding::Cl100k),
    ("gpt-3.5*", Encoding::Cl100k),
    // Azure does not allow the dot in a name.
    ("gpt-35-*", Encoding::Cl100k),
    ("text-embedding-3*", Encoding::Cl100k),
    ("text-embedding-ada-002*", Encoding::Cl100k),
    ("davinci-002", Encoding::Cl100k),
    ("babbage-002", Encoding::Cl100k),
    ("gpt-4*", Encoding::Cl100k),
];

static DEFAULTS: LazyLock<PatternMap<Encoding>> = LazyLock::new(|| {
    let patterns = BUILT_IN.into_iter();
    patterns
        .filter_map(|(text, encoding)| Some((Pattern::parse(text).ok()?, encoding)))
        .collect()
});

/// The table from models to encodings: the operator's own entries, and behind them what is known of OpenAI's models.
#[derive(Clone, Debug, Default)]
pub struct Encodings {
    own: PatternMap<Encoding>,
}

impl Encodings {
    /// Builds a table with entries of the operator's own, which go before the built-in ones however specific those are.
    pub fn new(own: Vec<(Pattern, Encoding)>) -> Self {
        Self {
            own: own.into_iter().collect(),
        }
    }

    /// Returns the encoding of a model, if it is known. Among entries that match, the most specific counts.
    ///
    /// The name may stand behind that of a provider (`openai/gpt-4o`), and be that of a fine-tuned model
    /// (`ft:gpt-4o-mini:org::id`).
    pub fn of(&self, model: &str) -> Option<Encoding> {
        let look_up = |table: &PatternMap<Encoding>| {
            let find = |name: &str| table.get(name).copied();
            let name = model.rsplit('/').next().unwrap_or(model);
            find(model)
                .or_else(|| find(name))
                .or_else(|| find(name.strip_prefix("ft:")?.split(':').next()?))
        };
        look_up(&self.own).or_else(|| look_up(&DEFAULTS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn known_models() {
        let table = Encodings::default();
        for (text, _) in BUILT_IN {
            assert!(Pattern::parse(text).is_ok(), "{text}");
        }
        for (model, expected) in [
            ("gpt-4o", Some(Encoding::O200k)),
            ("gpt-4o-mini-2024-07-18", Some(Encoding::O200k)),
            ("gpt-4.1-nano", Some(Encoding::O200k)),
            ("gpt-5", Some(Encoding::O200k)),
            ("o1", Some(Encoding::O200k)),
            ("o3-mini", Some(Encoding::O200k)),
            ("openai/gpt-oss-120b", Some(Encoding::O200k)),
            ("azure/eu/gpt-35-turbo", Some(Encoding::Cl100k)),
            ("gpt-4", Some(Encoding::Cl100k)),
            ("gpt-4-turbo", Some(Encoding::Cl100k)),
            ("ft:gpt-4o-mini:org::id", Some(Encoding::O200k)),
            ("openai/ft:gpt-3.5-turbo:org::id", Some(Encoding::Cl100k)),
            ("text-embedding-3-small", Some(Encoding::Cl100k)),
            ("text-davinci-003", None),
            ("llama-3.1-70b", None),
            ("ft:", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(table.of(model), expected, "{model}");
        }
    }

    #[test]
    fn the_operators_own_go_first() {
        let table = Encodings::new(vec![
            (pattern("*"), Encoding::Cl100k),
            (pattern("my-*"), Encoding::O200k),
        ]);
        assert_eq!(table.of("gpt-4o"), Some(Encoding::Cl100k));
        assert_eq!(table.of("my-model"), Some(Encoding::O200k));
        let table = Encodings::new(vec![(pattern("qwen*"), Encoding::Cl100k)]);
        assert_eq!(table.of("Alibaba/qwen3"), Some(Encoding::Cl100k));
        assert_eq!(table.of("gpt-4o"), Some(Encoding::O200k));
    }

    #[test]
    fn names_are_read_back() {
        for encoding in [Encoding::O200k, Encoding::Cl100k] {
            assert_eq!(Encoding::parse(encoding.name()), Some(encoding));
        }
        assert_eq!(Encoding::parse("p50k_base"), None);
    }
}
