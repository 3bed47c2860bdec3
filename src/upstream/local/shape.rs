//! The answers' shapes on the wire.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;

use crate::upstream::transformer::{Finish, TokenLogprob};

/// Which weights and code answered: clients compare it to know whether a seed still means the same.
const FINGERPRINT: &str = concat!("fp_weir_", env!("CARGO_PKG_VERSION"));

/// The least logarithm that is reported; JSON has no infinity, and this is what the OpenAI API writes.
const LEAST: f32 = -9999.0;

/// What all parts of an answer have in common.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Head {
    pub(super) id: String,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: String,
    system_fingerprint: &'static str,
}

/// An answer, or a chunk of one.
#[derive(Serialize)]
pub(super) struct Answer<'a, C> {
    #[serde(flatten)]
    pub(super) head: &'a Head,
    pub(super) choices: &'a [C],
    /// `Some(None)` is null, `None` is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Option<Usage>>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
}

#[derive(Serialize)]
pub(super) struct CompletionChoice {
    pub(super) text: String,
    pub(super) index: usize,
    pub(super) logprobs: Option<CompletionLogprobs>,
    pub(super) finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
pub(super) struct ChatChoice {
    pub(super) index: usize,
    pub(super) message: ChatMessage,
    pub(super) logprobs: Option<ChatLogprobs>,
    pub(super) finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
pub(super) struct ChatMessage {
    pub(super) role: &'static str,
    pub(super) content: String,
    pub(super) refusal: Option<()>,
}

#[derive(Serialize)]
pub(super) struct ChatChunkChoice {
    pub(super) index: usize,
    pub(super) delta: Delta,
    pub(super) logprobs: Option<ChatLogprobs>,
    pub(super) finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
pub(super) struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refusal: Option<Option<()>>,
}

#[derive(Default, Serialize)]
pub(super) struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Option<Vec<Option<BTreeMap<String, f32>>>>,
    text_offset: Vec<usize>,
}

#[derive(Serialize)]
pub(super) struct ChatLogprobs {
    content: Vec<ChatToken>,
    refusal: Option<()>,
}

#[derive(Serialize)]
struct ChatToken {
    #[serde(flatten)]
    token: RankedToken,
    top_logprobs: Vec<RankedToken>,
}

#[derive(Serialize)]
struct RankedToken {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl Head {
    pub(super) fn new(id: String, object: &'static str, model: &str) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            id,
            object,
            created: now.unwrap_or_default().as_secs(),
            model: model.to_owned(),
            system_fingerprint: FINGERPRINT,
        }
    }
}

impl Usage {
    /// Counts an answer. The token that ends it is not among the generated ones.
    pub(super) fn new(prompt_tokens: usize, completion_tokens: usize) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
        }
    }
}

impl CompletionLogprobs {
    /// Lists tokens whose text begins `shift` characters into the choice's text.
    pub(super) fn new(tokens: &[TokenLogprob], shift: usize) -> Self {
        let mut list = Self::default();
        let mut ranked = Vec::new();
        for token in tokens {
            list.tokens.push(legacy_text(&token.bytes));
            list.token_logprobs
                .push(token.logprob.map(|l| l.max(LEAST)));
            list.text_offset.push(token.offset + shift);
            ranked.push(token.logprob.map(|logprob| {
                let mut top: BTreeMap<String, f32> = token
                    .top
                    .iter()
                    .map(|(bytes, logprob)| (legacy_text(bytes), logprob.max(LEAST)))
                    .collect();
                // The token that was chosen is always among them.
                if !top.is_empty() {
                    top.insert(legacy_text(&token.bytes), logprob.max(LEAST));
                }
                top
            }));
        }
        let any = ranked.iter().flatten().any(|top| !top.is_empty());
        list.top_logprobs = any.then_some(ranked);
        list
    }
}

impl ChatLogprobs {
    pub(super) fn new(tokens: Vec<TokenLogprob>) -> Self {
        let content = tokens.into_iter().map(|token| ChatToken {
            token: RankedToken::new(token.bytes, token.logprob.unwrap_or(LEAST)),
            top_logprobs: token
                .top
                .into_iter()
                .map(|(bytes, logprob)| RankedToken::new(bytes, logprob))
                .collect(),
        });
        Self {
            content: content.collect(),
            refusal: None,
        }
    }
}

impl RankedToken {
    fn new(bytes: Vec<u8>, logprob: f32) -> Self {
        Self {
            token: String::from_utf8_lossy(&bytes).into_owned(),
            logprob: logprob.max(LEAST),
            bytes,
        }
    }
}

/// A token's text as the completions API spells it: parts of characters are written as `bytes:\xe6\x98`.
fn legacy_text(bytes: &[u8]) -> String {
    match String::from_utf8_lossy(bytes) {
        Cow::Borrowed(text) => text.to_owned(),
        Cow::Owned(_) => {
            let escaped = bytes.iter().map(|byte| format!("\\x{byte:02x}"));
            format!("bytes:{}", escaped.collect::<String>())
        }
    }
}

/// The API's word for why a choice ended.
pub(super) fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

/// Lays out the prompt's tokens: where the text of each begins.
pub(super) fn place(tokens: &mut [TokenLogprob]) {
    let mut offset = 0;
    for token in tokens {
        token.offset = offset;
        // Every character has one byte that does not continue another.
        offset += token
            .bytes
            .iter()
            .filter(|byte| **byte & 0xc0 != 0x80)
            .count();
    }
}
