//! Reads completions and chat requests, and turns them into requests of the engine.
//!
//! Here is the request as a whole; its prompts are read in `prompt`, how tokens are drawn in `sampling`, and how many there
//! may be in `length`.

mod length;
mod prompt;
mod sampling;

use std::sync::Arc;

use serde_json::Value;

use self::length::{fit, max_tokens};
use self::prompt::{chat_prompt, completion_prompts};
use self::sampling::sampling;
use super::fields::{Fields, invalid_type, invalid_value, unsupported};
use crate::upstream::UpstreamError;
use crate::upstream::transformer::{Engine, Request, Sampling, derive_seed};

/// The most answers to one prompt.
const MAX_CHOICES: i64 = 128;
/// The most texts at which an answer ends, and bytes of each.
const MAX_STOPS: usize = 4;
const MAX_STOP_BYTES: usize = 1024;

/// The two APIs of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Completion,
    Chat,
}

/// A request, understood.
pub(super) struct Plan {
    pub(super) kind: Kind,
    /// One per choice, in their order.
    pub(super) requests: Vec<Request>,
    /// What stands in front of each choice's text: the prompt, if it is to be echoed.
    pub(super) echoes: Vec<String>,
    /// Whether each choice's prompt begins with a token that the client did not write.
    pub(super) hides_first: Vec<bool>,
    pub(super) prompt_tokens: usize,
    pub(super) logprobs: bool,
    pub(super) include_usage: bool,
}

/// Reads a request. This tokenizes, so it takes its time for a long prompt.
pub(super) fn plan(
    kind: Kind,
    body: &[u8],
    caller: &Arc<str>,
    engine: &Engine,
) -> Result<Plan, UpstreamError> {
    let mut fields = Fields::parse(body)?;
    refuse_unsupported(kind, &fields)?;
    let echo = kind == Kind::Completion && fields.bool("echo")?;
    let logprobs = logprobs(kind, &fields)?;
    let n = fields.integer("n", 1..=MAX_CHOICES)?.unwrap_or(1);
    if let Some(best_of) = fields.integer("best_of", 1..=MAX_CHOICES)?
        && best_of != n
    {
        return Err(unsupported(
            "best_of",
            "this model answers with all choices that it makes",
        ));
    }
    let sampling = sampling(&fields, engine)?;
    let stop = stop(&fields)?;
    let asked = max_tokens(kind, &fields)?;
    let include_usage = match fields.get("stream_options") {
        None => false,
        Some(Value::Object(options)) => options.get("include_usage") == Some(&Value::Bool(true)),
        Some(_) => return Err(invalid_type("stream_options", "an object")),
    };
    let prompts = match kind {
        Kind::Completion => completion_prompts(&mut fields, engine, echo)?,
        Kind::Chat => vec![chat_prompt(&mut fields, engine)?],
    };
    let choices = usize::try_from(n).unwrap_or(1);
    if prompts.len().saturating_mul(choices) > engine.capacity() {
        let wanted = format!(
            "this model takes at most {} choices at a time, over all prompts",
            engine.capacity()
        );
        return Err(invalid_value("n", wanted));
    }
    let prompt_tokens = prompts.iter().map(|prompt| prompt.ids.len()).sum();
    let mut requests = Vec::new();
    let mut echoes = Vec::new();
    let mut hides_first = Vec::new();
    for prompt in prompts {
        let max_tokens = fit(kind, &prompt.ids, asked, engine)?;
        for _ in 0..choices {
            let index = requests.len() as u64;
            requests.push(Request {
                max_tokens,
                sampling: Sampling {
                    seed: derive_seed(sampling.seed, index),
                    ..sampling.clone()
                },
                stop: stop.clone(),
                logprobs,
                prompt_logprobs: echo && logprobs.is_some(),
                ..Request::new(Arc::clone(caller), prompt.ids.clone())
            });
            echoes.push(prompt.echo.clone());
            hides_first.push(prompt.hides_first);
        }
    }
    Ok(Plan {
        kind,
        requests,
        echoes,
        hides_first,
        prompt_tokens,
        logprobs: logprobs.is_some(),
        include_usage,
    })
}

/// Refuses what would change the answer's meaning if it were ignored.
fn refuse_unsupported(kind: Kind, fields: &Fields) -> Result<(), UpstreamError> {
    let is_filled = |name: &str| match fields.get(name) {
        None => false,
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::String(text)) => !text.is_empty(),
        Some(_) => true,
    };
    if kind == Kind::Completion {
        return match is_filled("suffix") {
            true => Err(unsupported("suffix", "this model cannot fill in between")),
            false => Ok(()),
        };
    }
    for name in ["tools", "functions"] {
        if is_filled(name) {
            return Err(unsupported(name, "this model cannot call functions"));
        }
    }
    for name in ["audio", "web_search_options"] {
        if is_filled(name) {
            return Err(unsupported(name, "this model reads and writes text only"));
        }
    }
    if let Some(Value::Array(modalities)) = fields.get("modalities")
        && modalities.iter().any(|m| m != "text")
    {
        return Err(unsupported(
            "modalities",
            "this model reads and writes text only",
        ));
    }
    match fields.get("response_format") {
        None => Ok(()),
        Some(Value::Object(format)) => match format.get("type").and_then(Value::as_str) {
            Some("text") => Ok(()),
            _ => Err(unsupported(
                "response_format",
                "this model cannot be held to a format other than text",
            )),
        },
        Some(_) => Err(invalid_type("response_format", "an object")),
    }
}

/// Returns how many alternatives of each token are asked for; `None`: not even its own probability.
fn logprobs(kind: Kind, fields: &Fields) -> Result<Option<usize>, UpstreamError> {
    let count = |n: Option<i64>| n.map(|n| usize::try_from(n).unwrap_or(0));
    if kind == Kind::Completion {
        return Ok(count(fields.integer("logprobs", 0..=5)?));
    }
    let top = count(fields.integer("top_logprobs", 0..=20)?);
    match fields.bool("logprobs")? {
        true => Ok(Some(top.unwrap_or(0))),
        false if top.is_some_and(|n| n > 0) => Err(invalid_value(
            "top_logprobs",
            "it needs 'logprobs' to be true",
        )),
        false => Ok(None),
    }
}

/// Returns the texts at which an answer ends.
fn stop(fields: &Fields) -> Result<Vec<String>, UpstreamError> {
    let wrong = || invalid_type("stop", "a string or a list of strings");
    let list = match fields.get("stop") {
        None => return Ok(Vec::new()),
        Some(Value::String(stop)) => vec![stop.clone()],
        Some(Value::Array(list)) => list
            .iter()
            .map(|stop| stop.as_str().map(str::to_owned).ok_or_else(wrong))
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(wrong()),
    };
    if list.len() > MAX_STOPS {
        return Err(invalid_value(
            "stop",
            format!("there can be at most {MAX_STOPS}"),
        ));
    }
    if list.iter().any(|stop| stop.len() > MAX_STOP_BYTES) {
        return Err(invalid_value(
            "stop",
            format!("each can have at most {MAX_STOP_BYTES} bytes"),
        ));
    }
    Ok(list.into_iter().filter(|stop| !stop.is_empty()).collect())
}
