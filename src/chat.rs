//! `weir chat`: a small client to try a gateway from a terminal. It speaks to the data plane like any other client and
//! knows nothing of the gateway's inside.

mod answer;

use std::io::{self, BufRead, Read as _, Write};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::Serialize;

use self::answer::{Events, Piece};
use crate::client::{Client, ClientError, causes};
use crate::secret::Secret;

/// Where a gateway with default settings listens.
pub const DEFAULT_URL: &str = "http://127.0.0.1:8080/v1";
/// The bundled model.
pub const DEFAULT_MODEL: &str = "poet";

/// The error code of a conversation that is longer than the model can take.
const CONTEXT_LENGTH: &str = "context_length_exceeded";

/// The most that is read of a prompt or of an answer that is not streamed, in bytes.
const MAX_TEXT: usize = 16 << 20;

/// Whom to talk to, and about what.
#[derive(Clone, Debug)]
pub struct Options {
    /// The gateway's base URL.
    pub url: String,
    /// The gateway key.
    pub key: Option<Secret>,
    /// The model.
    pub model: String,
    /// What to say; without it the console is asked.
    pub prompt: Option<String>,
}

/// Where prompts come from and answers go.
pub struct Console<'a> {
    /// Standard input.
    pub input: &'a mut dyn BufRead,
    /// Standard output.
    pub output: &'a mut dyn Write,
    /// Standard error.
    pub errors: &'a mut dyn Write,
    /// Whether somebody sits at the input, so that a conversation can go on.
    pub interactive: bool,
}

/// Why there is no answer, or no whole one.
#[derive(Debug, thiserror::Error)]
enum ChatError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the key holds characters that no header can carry")]
    Key,
    #[error("{message} ({status})")]
    Status {
        status: StatusCode,
        message: String,
        code: String,
    },
    #[error("{0}")]
    Stream(String),
    #[error("the answer was cut off")]
    CutOff,
    #[error("the answer is not one of the OpenAI API")]
    Invalid,
    #[error("cannot read or write: {0}")]
    Console(#[from] io::Error),
}

#[derive(Clone, Serialize)]
struct Message {
    role: &'static str,
    content: String,
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    messages: &'a [Message],
    stream: bool,
}

/// Says the prompt, or holds a conversation, and returns the exit code: 0, or 1 where an answer failed.
pub async fn run(options: &Options, console: &mut Console<'_>) -> u8 {
    let done = match (&options.prompt, console.interactive) {
        (None, true) => converse(options, console).await,
        (Some(prompt), _) => once(options, prompt.clone(), console).await,
        (None, false) => match read_prompt(console) {
            Ok(prompt) => once(options, prompt, console).await,
            Err(error) => Err(error),
        },
    };
    match done {
        Ok(()) => 0,
        Err(error) => {
            tell(&error, console);
            1
        }
    }
}

fn read_prompt(console: &mut Console<'_>) -> Result<String, ChatError> {
    let mut prompt = String::new();
    let limit = u64::try_from(MAX_TEXT).unwrap_or(u64::MAX);
    console.input.take(limit).read_to_string(&mut prompt)?;
    let prompt = prompt.trim_end();
    if prompt.is_empty() {
        let message = "there is no prompt; write one behind the model, or on standard input";
        return Err(ChatError::Stream(message.to_owned()));
    }
    Ok(prompt.to_owned())
}

async fn once(
    options: &Options,
    prompt: String,
    console: &mut Console<'_>,
) -> Result<(), ChatError> {
    let client = Client::new();
    let messages = [user(prompt)];
    ask(&client, options, &messages, console).await.map(drop)
}

async fn converse(options: &Options, console: &mut Console<'_>) -> Result<(), ChatError> {
    let client = Client::new();
    let mut messages = Vec::new();
    writeln!(
        console.output,
        "{} at {}; Ctrl-D ends",
        options.model, options.url
    )?;
    loop {
        write!(console.output, "> ")?;
        console.output.flush()?;
        let mut line = String::new();
        if console.input.read_line(&mut line)? == 0 {
            writeln!(console.output)?;
            return Ok(());
        }
        if line.trim().is_empty() {
            continue;
        }
        messages.push(user(line.trim_end().to_owned()));
        let mut answer = ask(&client, options, &messages, console).await;
        // A small model remembers little: what was said first is forgotten first.
        while messages.len() > 2
            && matches!(&answer, Err(ChatError::Status { code, .. }) if code == CONTEXT_LENGTH)
        {
            messages.drain(..2);
            answer = ask(&client, options, &messages, console).await;
        }
        match answer {
            Ok(content) => messages.push(Message {
                role: "assistant",
                content,
            }),
            Err(
                error @ (ChatError::Client(ClientError::Url(_))
                | ChatError::Key
                | ChatError::Console(_)),
            ) => {
                return Err(error);
            }
            Err(error) => {
                // The conversation goes on as if this had not been said.
                messages.pop();
                tell(&error, console);
            }
        }
    }
}

fn user(content: String) -> Message {
    Message {
        role: "user",
        content,
    }
}

fn tell(error: &ChatError, console: &mut Console<'_>) {
    let text: String = error
        .to_string()
        .chars()
        .filter(|c| !c.is_control())
        .collect();
    let _ = writeln!(console.errors, "weir chat: {text}");
    if let ChatError::Status { status, .. } = error
        && *status == StatusCode::UNAUTHORIZED
    {
        let _ = writeln!(
            console.errors,
            "Set WEIR_KEY to the gateway key; a gateway without keys prints one at its start."
        );
    }
}

/// Asks once, prints the answer as it comes, and returns it.
async fn ask(
    client: &Client,
    options: &Options,
    messages: &[Message],
    console: &mut Console<'_>,
) -> Result<String, ChatError> {
    let response = client
        .send(request(options, messages)?, &options.url)
        .await?;
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        let bytes = whole(body).await?;
        let reason = head.status.canonical_reason().unwrap_or("refused");
        return Err(ChatError::Status {
            status: head.status,
            message: answer::error_message(&bytes).unwrap_or_else(|| reason.to_owned()),
            code: answer::error_code(&bytes).unwrap_or_default(),
        });
    }
    let content_type = head.headers.get(header::CONTENT_TYPE);
    let is_stream =
        content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    let mut printed = String::new();
    let ended = if is_stream {
        stream(body, &mut printed, console).await
    } else {
        let content = answer::plain_content(&whole(body).await?).ok_or(ChatError::Invalid)?;
        print(&content, &mut printed, console).map_err(ChatError::from)
    };
    if !printed.ends_with('\n') {
        writeln!(console.output)?;
    }
    ended.map(|()| printed)
}

fn request(options: &Options, messages: &[Message]) -> Result<Request<Full<Bytes>>, ChatError> {
    let body = Body {
        model: &options.model,
        messages,
        stream: true,
    };
    let body = serde_json::to_vec(&body).map_err(|_| ChatError::Invalid)?;
    let uri = format!("{}/chat/completions", options.url.trim_end_matches('/'));
    let mut request = Request::post(uri)
        .header(header::CONTENT_TYPE, "application/json")
        .header(
            header::USER_AGENT,
            concat!("weir-chat/", env!("CARGO_PKG_VERSION")),
        )
        .body(Full::new(Bytes::from(body)))
        .map_err(|_| ClientError::Url(options.url.clone()))?;
    if let Some(key) = &options.key {
        let value = format!("Bearer {}", key.expose());
        let mut value = http::HeaderValue::try_from(value).map_err(|_| ChatError::Key)?;
        value.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    Ok(request)
}

async fn stream(
    mut body: Incoming,
    printed: &mut String,
    console: &mut Console<'_>,
) -> Result<(), ChatError> {
    let mut events = Events::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ClientError::Broken(causes(&error)))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        for piece in events.feed(&data).ok_or(ChatError::Invalid)? {
            match piece {
                Piece::Content(content) => print(&content, printed, console)?,
                Piece::Error(message) => return Err(ChatError::Stream(message)),
                Piece::Done => return Ok(()),
            }
        }
        console.output.flush()?;
    }
    Err(ChatError::CutOff)
}

/// Prints a piece of an answer. A model's text must not move the cursor or rename the window.
fn print(content: &str, printed: &mut String, console: &mut Console<'_>) -> io::Result<()> {
    let is_plain = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
    let content: String = content.chars().filter(is_plain).collect();
    printed.push_str(&content);
    console.output.write_all(content.as_bytes())?;
    console.output.flush()
}

async fn whole(body: Incoming) -> Result<Bytes, ChatError> {
    let collected = Limited::new(body, MAX_TEXT).collect().await;
    let collected = collected.map_err(|error| ClientError::Broken(causes(&*error)))?;
    Ok(collected.to_bytes())
}

#[cfg(test)]
mod tests;
