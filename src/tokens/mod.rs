//! Counts tokens where an upstream does not tell its usage: the prompt of a request, a whole answer, what a stream
//! brought before it was cut.
//!
//! A known tokenizer counts exactly, an unknown one is estimated from bytes. Nothing here fails: a body that is odd
//! is estimated, and work is bounded, because all of it is done on behalf of strangers.
//!
//! The vocabularies are those that the crate `tiktoken` carries; splitting and merging are our own. All of these agree
//! on the counts of 44,000 samples, so speed, size and what hostile text does to them decide. Measured for 10,000
//! tokens of `o200k_base`, and for the slowest of a set of hostile texts of 1 MiB:
//!
//! | | English | Chinese | code | hostile | binary | memory |
//! |---|---|---|---|---|---|---|
//! | bpe-openai 0.3.2 (MIT) | 2.2 ms | 2.8 ms | 1.7 ms | 0.2 s | +49 MB | 97 MB |
//! | tiktoken-rs 0.12.1 (MIT) | 2.8 ms | 5.4 ms | 2.5 ms | panics | +7.5 MB | 71 MB |
//! | tiktoken 4.1.2 (MIT or Apache-2.0) | 0.3 ms | 1.6 ms | 0.3 ms | 10 s | +3.2 MB | 32 MB |
//! | its vocabularies, counted here | 0.7 ms | 1.9 ms | 0.6 ms | 0.3 s | +3.3 MB | 44 MB |
//!
//! Text made of every script by turns defeats the expression with which `tiktoken` splits what its fast paths do not
//! know, and a MiB of spaces the one of `tiktoken-rs`. `benches/tokens.rs` measures ours.

mod answer;
mod bpe;
mod encodings;
mod estimate;
mod generated;
mod meter;
mod prompt;
mod split;

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

pub use self::answer::answer;
use self::bpe::Bpe;
pub use self::encodings::Encodings;
pub use self::estimate::estimate;
pub use self::generated::GeneratedText;
pub use self::meter::EXACT_LIMIT;
pub use self::prompt::prompt;

/// A tokenizer of OpenAI's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `o200k_base`, of GPT-4o and what came after it.
    O200k,
    /// `cl100k_base`, of GPT-4, GPT-3.5 and the embedding models.
    Cl100k,
}

static O200K: LazyLock<Option<Bpe>> = LazyLock::new(|| Bpe::load(Encoding::O200k));
static CL100K: LazyLock<Option<Bpe>> = LazyLock::new(|| Bpe::load(Encoding::Cl100k));

static IS_WARM: AtomicBool = AtomicBool::new(false);

// === impl Encoding ===

impl Encoding {
    /// Reads an encoding's name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::O200k, Self::Cl100k]
            .into_iter()
            .find(|encoding| encoding.name() == name)
    }

    /// Returns the name that OpenAI gave it.
    pub fn name(self) -> &'static str {
        match self {
            Self::O200k => "o200k_base",
            Self::Cl100k => "cl100k_base",
        }
    }
}

/// Counts the tokens of a text. What looks like a special token, `<|endoftext|>` say, is ordinary text.
///
/// Takes about 1 ms for 10,000 tokens, and a third of a second for a hostile MiB. The first call for an
/// encoding loads it, see [`warm`].
pub fn count(encoding: Encoding, text: &str) -> u64 {
    let bpe = match encoding {
        Encoding::O200k => &*O200K,
        Encoding::Cl100k => &*CL100K,
    };
    match bpe {
        Some(bpe) => bpe.count(text),
        // Does not happen: the vocabularies are part of the binary.
        None => estimate(text.as_bytes()),
    }
}

/// Loads all encodings, which takes some tenths of a second: to be called on a thread that may block, before the
/// first request needs one.
pub fn warm() {
    LazyLock::force(&O200K);
    LazyLock::force(&CL100K);
    IS_WARM.store(true, Ordering::Release);
}

/// Returns whether [`warm`] has loaded all encodings: until then whoever counts may wait for that.
pub fn is_warm() -> bool {
    IS_WARM.load(Ordering::Acquire)
}

#[cfg(test)]
mod tests;
