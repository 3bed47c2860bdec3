//! The few things that `weir chat` reads in an answer.

use serde::Deserialize;

/// A line of events is never longer; what is, is none.
const MAX_LINE: usize = 4 << 20;

/// A piece of a streamed answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Text, as it goes on.
    Content(String),
    /// The answer ends with this message.
    Error(String),
    /// The answer is whole.
    Done,
}

/// Reads events out of chunks cut anywhere.
#[derive(Default)]
pub(super) struct Events {
    line: Vec<u8>,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    error: Option<ErrorBody>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(alias = "message")]
    delta: Option<Delta>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
}

#[derive(Deserialize)]
struct ErrorBody {
    message: Option<String>,
}

impl Events {
    /// Takes bytes and returns the pieces that they complete; nothing for what is no stream of events.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Option<Vec<Piece>> {
        let mut pieces = Vec::new();
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.len() > MAX_LINE {
                return None;
            }
            if part.ends_with(b"\n") {
                // An event of the OpenAI API is one line of data.
                if let Some(data) = self.line.strip_prefix(b"data:") {
                    pieces.extend(read(data.trim_ascii())?);
                }
                self.line.clear();
            }
        }
        Some(pieces)
    }
}

fn read(data: &[u8]) -> Option<Option<Piece>> {
    if data == b"[DONE]" {
        return Some(Some(Piece::Done));
    }
    let chunk: Chunk = serde_json::from_slice(data).ok()?;
    if let Some(error) = chunk.error {
        return Some(Some(Piece::Error(
            error
                .message
                .unwrap_or_else(|| "the answer failed".to_owned()),
        )));
    }
    Some(content(chunk).map(Piece::Content))
}

/// Returns the text of an answer that is not streamed.
pub(super) fn plain_content(body: &[u8]) -> Option<String> {
    content(serde_json::from_slice(body).ok()?)
}

/// Returns the message of an error envelope.
pub(super) fn error_message(body: &[u8]) -> Option<String> {
    let chunk: Chunk = serde_json::from_slice(body).ok()?;
    chunk.error?.message
}

/// Returns the code of an error envelope.
pub(super) fn error_code(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Envelope {
        error: Code,
    }
    #[derive(serde::Deserialize)]
    struct Code {
        code: Option<String>,
    }
    let envelope: Envelope = serde_json::from_slice(body).ok()?;
    envelope.error.code
}

fn content(chunk: Chunk) -> Option<String> {
    let first = chunk.choices.into_iter().next()?;
    first.delta?.content.filter(|content| !content.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_yields_the_same_pieces() {
        let text = ": hello\r\n\r\ndata: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
                    data:{\"choices\":[{\"delta\":{\"content\":\"Ü\"}}]}\r\n\r\ndata: {\"choices\":[],\"usage\":{}}\n\n\
                    data: [DONE]\n\n"
            .as_bytes();
        for cut in 0..=text.len() {
            let mut events = Events::default();
            let mut pieces = events.feed(&text[..cut]).unwrap();
            pieces.extend(events.feed(&text[cut..]).unwrap());
            assert_eq!(
                pieces,
                [Piece::Content("Ü".into()), Piece::Done],
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn errors_are_told_and_garbage_is_refused() {
        let mut events = Events::default();
        let error = events
            .feed(b"data: {\"error\":{\"message\":\"too slow\",\"type\":\"timeout_error\"}}\n\n");
        assert_eq!(error, Some(vec![Piece::Error("too slow".into())]));
        assert_eq!(events.feed(b"data: <html>\n"), None);
        assert_eq!(Events::default().feed(&vec![b'x'; MAX_LINE + 1]), None);
    }

    #[test]
    fn plain_bodies() {
        let body = br#"{"choices":[{"message":{"role":"assistant","content":"Hi"}}]}"#;
        assert_eq!(plain_content(body).as_deref(), Some("Hi"));
        assert_eq!(
            error_message(br#"{"error":{"message":"no"}}"#).as_deref(),
            Some("no")
        );
        assert_eq!(error_message(b"<html>"), None);
    }
}
