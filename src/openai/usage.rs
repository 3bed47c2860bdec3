//! The `usage` object: counted tokens, in the spellings of chat, completions, embeddings and responses.

use serde::Deserialize;

/// Token counts of one answer. `cached_input` is a part of `input`, `reasoning` a part of `output`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens.
    pub input: u64,
    /// Prompt tokens that the upstream read from its own cache.
    pub cached_input: u64,
    /// Generated tokens.
    pub output: u64,
    /// Generated tokens that the client does not see.
    pub reasoning: u64,
}

/// The largest count that is believed: an upstream that claims more is wrong, and sums must not overflow.
const MAX_TOKENS: u64 = 1 << 40;

#[derive(Deserialize)]
struct Wire {
    #[serde(alias = "input_tokens")]
    prompt_tokens: Option<u64>,
    #[serde(alias = "output_tokens")]
    completion_tokens: Option<u64>,
    #[serde(alias = "input_tokens_details")]
    prompt_tokens_details: Option<InputDetails>,
    #[serde(alias = "output_tokens_details")]
    completion_tokens_details: Option<OutputDetails>,
}

#[derive(Deserialize)]
struct InputDetails {
    cached_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct OutputDetails {
    reasoning_tokens: Option<u64>,
}

impl Usage {
    /// Reads a usage object. Returns `None` when it counts nothing that we know, or claims the impossible.
    pub fn from_json(json: &[u8]) -> Option<Self> {
        let wire: Wire = serde_json::from_slice(json).ok()?;
        if wire.prompt_tokens.is_none() && wire.completion_tokens.is_none() {
            return None;
        }
        let usage = Self {
            input: wire.prompt_tokens.unwrap_or(0),
            cached_input: wire
                .prompt_tokens_details
                .and_then(|d| d.cached_tokens)
                .unwrap_or(0),
            output: wire.completion_tokens.unwrap_or(0),
            reasoning: wire
                .completion_tokens_details
                .and_then(|d| d.reasoning_tokens)
                .unwrap_or(0),
        };
        let believable = usage.input <= MAX_TOKENS
            && usage.output <= MAX_TOKENS
            && usage.cached_input <= usage.input
            && usage.reasoning <= usage.output;
        believable.then_some(usage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_spellings_of_chat_and_of_responses() {
        let chat = br#"{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12,
            "prompt_tokens_details":{"cached_tokens":3},"completion_tokens_details":{"reasoning_tokens":2}}"#;
        let responses = br#"{"input_tokens":7,"output_tokens":5,"total_tokens":12,
            "input_tokens_details":{"cached_tokens":3},"output_tokens_details":{"reasoning_tokens":2}}"#;
        let expected = Usage {
            input: 7,
            cached_input: 3,
            output: 5,
            reasoning: 2,
        };
        assert_eq!(Usage::from_json(chat), Some(expected));
        assert_eq!(Usage::from_json(responses), Some(expected));
    }

    #[test]
    fn embeddings_report_only_their_prompt() {
        let usage = Usage::from_json(br#"{"prompt_tokens":0,"total_tokens":0}"#);
        assert_eq!(usage, Some(Usage::default()), "zero is a value");
    }

    #[test]
    fn disbelieves_the_impossible() {
        for json in [
            &br#"{"prompt_tokens":-1,"completion_tokens":5}"#[..],
            br#"{"prompt_tokens":18446744073709551615}"#,
            br#"{"prompt_tokens":1,"prompt_tokens_details":{"cached_tokens":2}}"#,
            br#"{"total_tokens":3}"#,
            br#"null"#,
        ] {
            assert_eq!(
                Usage::from_json(json),
                None,
                "{}",
                String::from_utf8_lossy(json)
            );
        }
    }
}
