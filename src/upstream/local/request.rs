//! Reads completions and chat requests, and turns them into requests of the engine.

use std::sync::Arc;

use serde_json::Value;

use super::fields::{Fields, invalid_type, invalid_value, unsupported};
use crate::upstream::UpstreamError;
use crate::upstream::transformer::{Engine, Message, PromptError, Request, Sampling, derive_seed};

/// What the OpenAI API answers with when nobody says how much.
const COMPLETION_TOKENS: usize = 16;
const MAX_CHOICES: i64 = 128;
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

struct Prompt {
    ids: Vec<u32>,
    echo: String,
    hides_first: bool,
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

fn sampling(fields: &Fields, engine: &Engine) -> Result<Sampling, UpstreamError> {
    let defaults = engine.defaults();
    let temperature = fields.number("temperature", 0.0..=2.0)?;
    let top_p = fields.number("top_p", 0.0..=1.0)?;
    let seed = match fields.integer("seed", i64::MIN..=i64::MAX)? {
        Some(seed) => seed.cast_unsigned(),
        None => random_seed(),
    };
    Ok(Sampling {
        temperature: temperature.or(defaults.temperature).unwrap_or(1.0),
        top_p: top_p.or(defaults.top_p).unwrap_or(1.0),
        top_k: defaults.top_k.unwrap_or(0),
        seed,
        bias: bias(fields, engine.vocab())?,
        presence_penalty: fields
            .number("presence_penalty", -2.0..=2.0)?
            .unwrap_or(0.0),
        frequency_penalty: fields
            .number("frequency_penalty", -2.0..=2.0)?
            .unwrap_or(0.0),
    })
}

fn random_seed() -> u64 {
    let mut bytes = [0; 8];
    // A seed needs to be unlikely to repeat, not secret.
    if getrandom::fill(&mut bytes).is_err() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        return now.unwrap_or_default().as_nanos() as u64;
    }
    u64::from_le_bytes(bytes)
}

fn bias(fields: &Fields, vocab: usize) -> Result<Vec<(u32, f32)>, UpstreamError> {
    let Some(value) = fields.get("logit_bias") else {
        return Ok(Vec::new());
    };
    let wrong = || invalid_type("logit_bias", "an object of token ids and numbers");
    let mut bias = Vec::new();
    for (token, value) in value.as_object().ok_or_else(wrong)? {
        let token: u32 = token.parse().map_err(|_| wrong())?;
        let value = value.as_f64().ok_or_else(wrong)?;
        if token as usize >= vocab {
            return Err(invalid_value(
                "logit_bias",
                format!("this model's tokens are 0 to {}", vocab - 1),
            ));
        }
        if !(-100.0..=100.0).contains(&value) {
            return Err(invalid_value(
                "logit_bias",
                "each bias must be from -100 to 100",
            ));
        }
        bias.push((token, value as f32));
    }
    Ok(bias)
}

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

fn max_tokens(kind: Kind, fields: &Fields) -> Result<Option<usize>, UpstreamError> {
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
fn fit(
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
fn check_length(param: &'static str, bytes: usize, engine: &Engine) -> Result<(), UpstreamError> {
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

fn completion_prompts(
    fields: &mut Fields,
    engine: &Engine,
    echo: bool,
) -> Result<Vec<Prompt>, UpstreamError> {
    let wrong = || {
        invalid_type(
            "prompt",
            "a string, a list of strings, a list of token ids or a list of such lists",
        )
    };
    let text = |text: String| {
        check_length("prompt", text.len(), engine)?;
        let mut ids = engine
            .encode_prompt(&text)
            .map_err(|e| prompt_error("prompt", e))?;
        if ids.is_empty() {
            ids.extend(engine.first_token());
        }
        Ok(Prompt {
            hides_first: ids.first().copied() == engine.first_token(),
            echo: if echo { text } else { String::new() },
            ids,
        })
    };
    let tokens = |list: &[Value]| {
        let ids: Vec<u32> = list
            .iter()
            .map(|id| match id.as_u64().map(u32::try_from) {
                Some(Ok(id)) if (id as usize) < engine.vocab() => Ok(id),
                Some(_) => Err(invalid_value(
                    "prompt",
                    format!("this model's tokens are 0 to {}", engine.vocab() - 1),
                )),
                None => Err(wrong()),
            })
            .collect::<Result<_, _>>()?;
        Ok(Prompt {
            hides_first: false,
            echo: if echo {
                engine.decode(&ids)
            } else {
                String::new()
            },
            ids,
        })
    };
    let prompts = match fields.take("prompt") {
        // As the API has it: a new document.
        None => vec![text(String::new())?],
        Some(Value::String(prompt)) => vec![text(prompt)?],
        Some(Value::Array(list)) => match list.first() {
            Some(Value::Number(_)) => vec![tokens(&list)?],
            _ => list
                .into_iter()
                .map(|item| match item {
                    Value::String(prompt) => text(prompt),
                    Value::Array(ids) => tokens(&ids),
                    _ => Err(wrong()),
                })
                .collect::<Result<_, _>>()?,
        },
        Some(_) => return Err(wrong()),
    };
    if prompts.is_empty() || prompts.iter().any(|prompt| prompt.ids.is_empty()) {
        return Err(invalid_value("prompt", "it must not be empty"));
    }
    Ok(prompts)
}

fn chat_prompt(fields: &mut Fields, engine: &Engine) -> Result<Prompt, UpstreamError> {
    let Some(Value::Array(list)) = fields.take("messages") else {
        return Err(invalid_type("messages", "a list of messages"));
    };
    if list.is_empty() {
        return Err(invalid_value("messages", "there must be at least one"));
    }
    let messages: Vec<Message> = list.into_iter().map(message).collect::<Result<_, _>>()?;
    let bytes = messages.iter().map(|m| m.content.len()).sum();
    check_length("messages", bytes, engine)?;
    let ids = engine
        .encode_chat(&messages)
        .map_err(|e| prompt_error("messages", e))?;
    if ids.is_empty() {
        return Err(invalid_value("messages", "they say nothing"));
    }
    Ok(Prompt {
        ids,
        echo: String::new(),
        hides_first: false,
    })
}

fn message(value: Value) -> Result<Message, UpstreamError> {
    let Value::Object(mut message) = value else {
        return Err(invalid_type("messages", "a list of objects"));
    };
    let role = match message.get("role").and_then(Value::as_str) {
        // The newer name for the same; templates know the older.
        Some("developer") => "system",
        Some(role @ ("system" | "user" | "assistant" | "tool")) => role,
        Some(_) => {
            return Err(invalid_value(
                "messages",
                "a role must be 'system', 'developer', 'user', 'assistant' or 'tool'",
            ));
        }
        None => {
            return Err(invalid_type(
                "messages",
                "a list of objects, each with a 'role'",
            ));
        }
    };
    let role = role.to_owned();
    if message
        .get("tool_calls")
        .and_then(Value::as_array)
        .is_some_and(|calls| !calls.is_empty())
    {
        return Err(unsupported(
            "messages",
            "this model cannot call functions, nor read calls of them",
        ));
    }
    let content = match message.remove("content") {
        None | Some(Value::Null) if role == "assistant" => String::new(),
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => parts.iter().map(part).collect::<Result<String, _>>()?,
        _ => {
            return Err(invalid_type(
                "messages",
                "a list of objects, each with a 'content' that is text",
            ));
        }
    };
    Ok(Message { role, content })
}

fn part(part: &Value) -> Result<&str, UpstreamError> {
    match part["type"].as_str() {
        Some("text") => part["text"]
            .as_str()
            .ok_or_else(|| invalid_type("messages", "made of parts with a 'text'")),
        Some(_) => Err(unsupported(
            "messages",
            "this model reads parts of the type 'text' only",
        )),
        None => Err(invalid_type("messages", "made of parts with a 'type'")),
    }
}

fn prompt_error(param: &'static str, error: PromptError) -> UpstreamError {
    match error {
        PromptError::NoTemplate => unsupported(param, &error.to_string()),
        PromptError::Refused(_) | PromptError::Failed(_) => invalid_value(param, error),
    }
}
