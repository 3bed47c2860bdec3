//! How many tokens a prompt and its answer may have.

use super::Kind;
use crate::upstream::UpstreamError;
use crate::upstream::local::fields::Fields;
use crate::upstream::transformer::Engine;

/// What the OpenAI API answers with when nobody says how much.
const COMPLETION_TOKENS: usize = 16;

/// Returns how many tokens were asked for at most, by whichever name.
pub(super) fn max_tokens(kind: Kind, fields: &Fields) -> Result<Option<usize>, UpstreamError> {
    let least = match kind {
        Kind::Completion => 0,
        Kind::Chat => 1,
    };
    let new = fields.integer("max_completion_tokens", least..=i64::MAX)?;
    let old = fields.integer("max_tokens", least..=i64::MAX)?;
    Ok(new
        .or(old)
        .map(|n| usize::try_from(n).unwrap_or(usize::MAX)))
}

/// Returns how many tokens an answer may have: what was asked for, as far as the context reaches.
pub(super) fn fit(
    kind: Kind,
    prompt: &[u32],
    asked: Option<usize>,
    engine: &Engine,
) -> Result<usize, UpstreamError> {
    let context = engine.context();
    let param = match kind {
        Kind::Completion => "prompt",
        Kind::Chat => "messages",
    };
    let least = asked.unwrap_or(1).min(1);
    if prompt.len() + least > context {
        return Err(too_long(param, context, &prompt.len().to_string()));
    }
    let room = context - prompt.len();
    let usual = engine.defaults().max_tokens.unwrap_or(match kind {
        Kind::Completion => COMPLETION_TOKENS,
        Kind::Chat => room,
    });
    Ok(asked.unwrap_or(usual).min(room))
}

fn too_long(param: &'static str, context: usize, tokens: &str) -> UpstreamError {
    UpstreamError::BadRequest {
        message: format!(
            "This model's maximum context length is {context} tokens, but your {param} has {tokens} of them already. Please shorten it."
        ),
        param: Some(param),
        code: "context_length_exceeded",
    }
}

/// Refuses a text that cannot fit before time is spent on tokenizing it.
pub(super) fn check_length(
    param: &'static str,
    bytes: usize,
    engine: &Engine,
) -> Result<(), UpstreamError> {
    let least = engine.least_tokens(bytes);
    if least > engine.context() {
        return Err(too_long(
            param,
            engine.context(),
            &format!("at least {least}"),
        ));
    }
    Ok(())
}
