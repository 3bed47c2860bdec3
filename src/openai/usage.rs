//! The `usage` object: counted tokens, in every spelling that upstreams have for them.
//!
//! | who | the whole | its parts |
//! | --- | --- | --- |
//! | chat, completions, embeddings | `prompt_tokens`, `completion_tokens` | `prompt_tokens_details`: `cached_tokens`, `cache_write_tokens` or `cache_creation_tokens`, `audio_tokens`; `completion_tokens_details`: `reasoning_tokens`, `audio_tokens` |
//! | responses, images | `input_tokens`, `output_tokens` | the same in `input_tokens_details`, `output_tokens_details` |
//! | transcriptions | `input_tokens`, `output_tokens` | the same in `input_token_details` |
//! | DeepSeek, Moonshot | as chat | `prompt_cache_hit_tokens`, `cached_tokens`, beside the whole and contained in it |
//! | xAI, Gemini | as chat, but what was reasoned is in `total_tokens` alone | `completion_tokens_details` or nothing |
//! | Anthropic and what imitates it | `input_tokens`, `output_tokens` | `cache_read_input_tokens`, `cache_creation_input_tokens`, beside the whole and not contained in it |
//!
//! Rejected predictions are contained in `completion_tokens` and cost the same as what was accepted; tokens of images
//! are input like text. A transcription that is charged by its duration counts no tokens, so there is nothing to read.
//!
//! # What is believed
//! - Zero is a value, and null is none. A whole number written with a fraction of zeros (`7.0`) is a count; `7.5`, `-1`,
//!   `"7"` and more than [`MAX_TOKENS`] are not.
//! - A whole that is no count spoils the object: whoever asked counts for themselves, rather than to charge half of an
//!   answer. So does one that is absent where the endpoint generates text; elsewhere it is 0.
//! - A part never does: the wholes are what is charged for at least. One that is no count, or larger than its whole, is
//!   dropped, and its tokens stay in the plain class, which is never the cheaper one. One that fits its whole but not
//!   beside the parts before it (audio that was read from the cache is told twice) is cut to what is left.
//! - `total_tokens` is never a count of its own. What it has beyond the wholes was generated out of sight, if it is what
//!   `reasoning_tokens` tells, or if that tells nothing; any other difference is an error of the upstream, and ignored.
//! - Of a key that comes twice the last one counts, as in nearly every reader of JSON; of the same whole in two spellings
//!   the larger one.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::endpoint::Endpoint;

/// Token counts of one answer, in disjoint classes: each token is in one, and the sum is all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Prompt tokens that are in no other class: text and images, read anew.
    pub input: u64,
    /// Prompt tokens that the upstream read from its own cache.
    pub cached_input: u64,
    /// Prompt tokens that the upstream wrote to its own cache.
    pub cache_write: u64,
    /// Prompt tokens of audio.
    pub input_audio: u64,
    /// Generated tokens that are in no other class: what the client sees, or was predicted in vain.
    pub output: u64,
    /// Generated tokens that the client does not see.
    pub reasoning: u64,
    /// Generated tokens of audio.
    pub output_audio: u64,
}

/// Why a usage object counts nothing that could be charged for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// It is no JSON object.
    #[error("is no object")]
    NotAnObject,
    /// It has no count of prompt tokens and none of generated ones.
    #[error("counts no tokens")]
    Nothing,
    /// It has a count of prompt tokens or of generated ones, and of the other there is none.
    #[error("counts half of an answer")]
    Half,
    /// A whole is negative, has a fraction, is no number, or is larger than anything that was ever generated.
    #[error("holds an impossible count")]
    Impossible,
}

/// The largest count that is believed: an upstream that claims more is wrong, and sums must not overflow. Far below
/// 2^53, from where on other readers of JSON would not see the same number.
pub const MAX_TOKENS: u64 = 1 << 32;

// === impl Usage ===

impl Usage {
    /// Reads a usage object.
    ///
    /// # Errors
    /// When there is no count in it, or none to be believed.
    pub fn from_json(json: &[u8]) -> Result<Self, UsageError> {
        let wire = Wire::read(json).ok_or(UsageError::NotAnObject)?;
        wire.usage()
    }

    /// Reads the usage object of an answer of this endpoint: where text is generated, both wholes must be there.
    ///
    /// # Errors
    /// When there is no count in it, or none to be believed.
    pub fn of_answer(json: &[u8], endpoint: &Endpoint) -> Result<Self, UsageError> {
        let wire = Wire::read(json).ok_or(UsageError::NotAnObject)?;
        let usage = wire.usage()?;
        match endpoint {
            Endpoint::ChatCompletions | Endpoint::Completions | Endpoint::Responses
                if !wire.has_both() =>
            {
                Err(UsageError::Half)
            }
            _ => Ok(usage),
        }
    }

    /// Adds another answer's tokens, class by class.
    #[must_use]
    pub fn saturating_add(&self, other: &Self) -> Self {
        Self {
            input: self.input.saturating_add(other.input),
            cached_input: self.cached_input.saturating_add(other.cached_input),
            cache_write: self.cache_write.saturating_add(other.cache_write),
            input_audio: self.input_audio.saturating_add(other.input_audio),
            output: self.output.saturating_add(other.output),
            reasoning: self.reasoning.saturating_add(other.reasoning),
            output_audio: self.output_audio.saturating_add(other.output_audio),
        }
    }

    /// Returns the tokens of the prompt, however they were read.
    pub fn prompt(&self) -> u64 {
        self.input
            .saturating_add(self.cached_input)
            .saturating_add(self.cache_write)
            .saturating_add(self.input_audio)
    }

    /// Returns the tokens that were generated, whether they are seen or not.
    pub fn completion(&self) -> u64 {
        self.output
            .saturating_add(self.reasoning)
            .saturating_add(self.output_audio)
    }

    /// Returns all tokens.
    pub fn total(&self) -> u64 {
        self.prompt().saturating_add(self.completion())
    }

    /// Returns every class with its name, as metrics and the ledger call it.
    pub fn classes(&self) -> [(&'static str, u64); 7] {
        [
            ("input", self.input),
            ("cached_input", self.cached_input),
            ("cache_write", self.cache_write),
            ("input_audio", self.input_audio),
            ("output", self.output),
            ("reasoning", self.reasoning),
            ("output_audio", self.output_audio),
        ]
    }
}

// === impl UsageError ===

impl UsageError {
    /// Returns the error's label: a word of a closed set.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotAnObject => "not_an_object",
            Self::Nothing => "nothing",
            Self::Half => "half",
            Self::Impossible => "impossible",
        }
    }
}

/// A number in the object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Count {
    #[default]
    Absent,
    Known(u64),
    Impossible,
}

/// What the object says, in whatever spelling.
#[derive(Default)]
struct Wire {
    prompt: Count,
    input: Count,
    completion: Count,
    output: Count,
    total: Count,
    prompt_details: Details,
    completion_details: Details,
    /// Beside the whole, contained in it.
    cache_hit: Count,
    /// Beside the whole; contained in `prompt_tokens`, not in `input_tokens`.
    cache_read: Count,
    cache_creation: Count,
}

/// The parts of a whole.
#[derive(Clone, Copy, Default)]
struct Details {
    cached: Count,
    cache_write: Count,
    reasoning: Count,
    audio: Count,
}

/// The members that are read, of the object and of its details.
#[derive(Clone, Copy, Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Name {
    PromptTokens,
    InputTokens,
    CompletionTokens,
    OutputTokens,
    TotalTokens,
    #[serde(alias = "input_tokens_details", alias = "input_token_details")]
    PromptTokensDetails,
    #[serde(alias = "output_tokens_details", alias = "output_token_details")]
    CompletionTokensDetails,
    PromptCacheHitTokens,
    CacheReadInputTokens,
    CacheCreationInputTokens,
    CachedTokens,
    #[serde(alias = "cache_creation_tokens")]
    CacheWriteTokens,
    ReasoningTokens,
    AudioTokens,
    #[serde(other)]
    Other,
}

// === impl Count ===

impl Count {
    /// Reads a count as it is spelt, without a detour over a float that would round it.
    fn read(raw: &RawValue) -> Self {
        let text = raw.get();
        let whole = match text.split_once('.') {
            Some((whole, zeros)) if zeros.bytes().all(|b| b == b'0') => whole,
            _ => text,
        };
        match whole.parse() {
            Ok(count) if count <= MAX_TOKENS => Self::Known(count),
            _ if text == "null" => Self::Absent,
            _ => Self::Impossible,
        }
    }

    fn known(self) -> Option<u64> {
        match self {
            Self::Known(count) => Some(count),
            Self::Absent | Self::Impossible => None,
        }
    }

    /// Returns this count, or the other where this one tells nothing.
    fn or(self, other: Self) -> Self {
        match self {
            Self::Known(_) => self,
            Self::Absent | Self::Impossible => other,
        }
    }

    /// Returns the count of a whole in two spellings.
    fn whole(self, other: Self) -> Result<Option<u64>, UsageError> {
        match (self, other) {
            (Self::Impossible, _) | (_, Self::Impossible) => Err(UsageError::Impossible),
            _ => Ok(self.known().max(other.known())),
        }
    }

    /// Takes this part out of what is left of a whole.
    fn take(self, whole: u64, left: &mut u64) -> u64 {
        let part = self.known().filter(|part| *part <= whole).unwrap_or(0);
        let part = part.min(*left);
        *left -= part;
        part
    }
}

// === impl Wire ===

impl Wire {
    fn read(json: &[u8]) -> Option<Self> {
        let mut wire = Self::default();
        let object: &RawValue = serde_json::from_slice(json).ok()?;
        members(object, |name, value| match name {
            Name::PromptTokens => wire.prompt = Count::read(value),
            Name::InputTokens => wire.input = Count::read(value),
            Name::CompletionTokens => wire.completion = Count::read(value),
            Name::OutputTokens => wire.output = Count::read(value),
            Name::TotalTokens => wire.total = Count::read(value),
            Name::PromptTokensDetails => wire.prompt_details.read(value),
            Name::CompletionTokensDetails => wire.completion_details.read(value),
            Name::PromptCacheHitTokens | Name::CachedTokens => wire.cache_hit = Count::read(value),
            Name::CacheReadInputTokens => wire.cache_read = Count::read(value),
            Name::CacheCreationInputTokens => wire.cache_creation = Count::read(value),
            Name::CacheWriteTokens | Name::ReasoningTokens | Name::AudioTokens | Name::Other => {}
        })?;
        Some(wire)
    }

    fn usage(&self) -> Result<Usage, UsageError> {
        let prompt = self.prompt.whole(self.input)?;
        let completion = self.completion.whole(self.output)?;
        if prompt.is_none() && completion.is_none() {
            return Err(UsageError::Nothing);
        }
        let has_both = self.has_both();
        let (mut prompt, completion) = (prompt.unwrap_or(0), completion.unwrap_or(0));
        let details = &self.prompt_details;
        let cached = details.cached.or(self.cache_hit).or(self.cache_read);
        let written = details.cache_write.or(self.cache_creation);
        if self.is_cache_beside(prompt, completion) {
            prompt += cached.known().unwrap_or(0) + written.known().unwrap_or(0);
        }
        let hidden = match has_both {
            true => self.hidden(prompt, completion),
            false => 0,
        };
        let mut usage = Usage::default();
        let mut left = prompt;
        usage.cached_input = cached.take(prompt, &mut left);
        usage.cache_write = written.take(prompt, &mut left);
        usage.input_audio = details.audio.take(prompt, &mut left);
        usage.input = left;

        let details = &self.completion_details;
        let whole = completion + hidden;
        let mut left = whole;
        let reasoning = match hidden {
            0 => details.reasoning,
            _ => Count::Known(hidden),
        };
        usage.reasoning = reasoning.take(whole, &mut left);
        usage.output_audio = details.audio.take(whole, &mut left);
        usage.output = left;
        Ok(usage)
    }

    fn has_both(&self) -> bool {
        let is_told = |one: Count, other: Count| one.known().or(other.known()).is_some();
        is_told(self.prompt, self.input) && is_told(self.completion, self.output)
    }

    /// Returns whether the prompt's cached tokens stand beside it: where Anthropic's names are used and OpenAI's are not,
    /// unless the total says that they are contained after all.
    fn is_cache_beside(&self, prompt: u64, completion: u64) -> bool {
        let details = &self.prompt_details;
        self.prompt == Count::Absent
            && details.cached == Count::Absent
            && details.cache_write == Count::Absent
            && self.cache_hit == Count::Absent
            && self.total != Count::Known(prompt + completion)
    }

    /// Returns the generated tokens that only the total has.
    fn hidden(&self, prompt: u64, completion: u64) -> u64 {
        let total = self.total.known().unwrap_or(0);
        let hidden = total.saturating_sub(prompt + completion);
        match self.completion_details.reasoning.known().unwrap_or(0) {
            0 => hidden,
            reasoning if reasoning == hidden => hidden,
            _ => 0,
        }
    }
}

// === impl Details ===

impl Details {
    /// Reads what an object tells; the rest stays as another spelling told it. Anything else than an object tells
    /// nothing.
    fn read(&mut self, object: &RawValue) {
        let _ = members(object, |name, value| {
            let part = match name {
                Name::CachedTokens => &mut self.cached,
                Name::CacheWriteTokens => &mut self.cache_write,
                Name::ReasoningTokens => &mut self.reasoning,
                Name::AudioTokens => &mut self.audio,
                _ => return,
            };
            *part = Count::read(value).or(*part);
        });
    }
}

/// Shows every member of an object that has a name here. Returns `None` for anything else than an object.
fn members<'a>(object: &'a RawValue, mut see: impl FnMut(Name, &'a RawValue)) -> Option<()> {
    let mut deserializer = serde_json::Deserializer::from_str(object.get());
    serde::Deserializer::deserialize_map(&mut deserializer, Members(&mut see)).ok()
}

struct Members<'f, F>(&'f mut F);

impl<'de, F: FnMut(Name, &'de RawValue)> Visitor<'de> for Members<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key()? {
            match name {
                Name::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
                name => (self.0)(name, map.next_value()?),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
