//! What a request says of its prompts.

use serde_json::Value;

use super::length::check_length;
use crate::upstream::UpstreamError;
use crate::upstream::local::fields::{Fields, invalid_type, invalid_value, unsupported};
use crate::upstream::transformer::{Engine, Message, PromptError};

/// What a choice goes on from.
pub(super) struct Prompt {
    /// Its tokens.
    pub(super) ids: Vec<u32>,
    /// Its text, if it is to be echoed.
    pub(super) echo: String,
    /// Whether it begins with a token that the client did not write.
    pub(super) hides_first: bool,
}

/// Reads the prompts of a completion: one, or a list; texts, or tokens.
pub(super) fn completion_prompts(
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

/// Reads the messages of a chat, as the model's template writes them.
pub(super) fn chat_prompt(fields: &mut Fields, engine: &Engine) -> Result<Prompt, UpstreamError> {
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
