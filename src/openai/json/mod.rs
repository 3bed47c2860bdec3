//! Raw JSON: finds the few members that Weir understands without building a document, and edits them on the bytes so
//! that every other byte stays as the client wrote it.

mod answer;
mod canonical;
mod edit;
mod scan;
#[cfg(test)]
mod tests;
mod walk;

use std::borrow::Cow;
use std::ops::Range;

pub use self::answer::{Answer, AnswerError, preferred_member, top_level_member, validate_object};
pub(in crate::openai) use self::answer::{is_whole, members};
pub use self::canonical::{CanonicalError, canonical};
pub use self::edit::{Edit, apply, last_member};
use self::scan::{Member, ScanError, Scanner, unescape};
pub(in crate::openai) use self::scan::{spells, spells_in_other_case};
pub use self::walk::{each_element, each_member, every_member, text};

/// Where the members that Weir understands stand in a body. Ranges cover the value, without surrounding white space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// The offset behind the opening brace.
    pub open: usize,
    /// Whether the object has no members.
    pub is_empty: bool,
    /// The value of `model`.
    pub model: Option<Range<usize>>,
    /// The value of `stream`.
    pub stream: Option<Range<usize>>,
    /// The value of `stream_options`.
    pub stream_options: Option<Range<usize>>,
    /// The values of `max_tokens`, `max_completion_tokens` and `max_output_tokens`.
    pub max_tokens: [Option<Range<usize>>; 3],
    /// The value of `n`.
    pub n: Option<Range<usize>>,
    /// The first ones, whatever they are called: who looks for others need not read a long body once more.
    noted: Vec<Member>,
    /// Whether there are more than those.
    has_more: bool,
}

/// How many members are noted: more than any API has.
const NOTED: usize = 64;

/// The bounds of what is generated, in the order in which they came into the API.
const MAX_TOKENS: [&str; 3] = ["max_tokens", "max_completion_tokens", "max_output_tokens"];

/// Why a body cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON.
    #[error("the request body is not valid JSON (at byte {offset})")]
    Syntax {
        /// Where reading stopped.
        offset: usize,
    },
    /// JSON, but not an object.
    #[error("the request body must be a JSON object")]
    NotAnObject,
    /// Nested deeper than allowed.
    #[error("the request body is nested deeper than {limit} levels")]
    TooDeep {
        /// The bound.
        limit: usize,
    },
    /// A member that decides where the call goes stands there twice.
    #[error("`{0}` is given twice")]
    Duplicate(&'static str),
    /// A member has the wrong type.
    #[error("`{member}` must be {expected}")]
    Type {
        /// The member at fault.
        member: &'static str,
        /// What it must be, with its article: `a string`.
        expected: &'static str,
    },
}

/// Reads a request body once: it must be one JSON object, valid UTF-8, nested at most `max_depth` levels, of which the
/// object is the first.
///
/// The three members count under any spelling of their key (`"mod\u0065l"`). What the grammar of RFC 8259 leaves
/// open is left to the upstream: lone surrogates, numbers that no float holds, other keys given twice.
///
/// # Errors
/// [`JsonError`] for everything else, and for a `model`, `stream` or `stream_options` that is given twice.
pub fn inspect(bytes: &[u8], max_depth: usize) -> Result<Members, JsonError> {
    std::str::from_utf8(bytes).map_err(|e| JsonError::Syntax {
        offset: e.valid_up_to(),
    })?;
    let refuse = |error| match error {
        ScanError::Syntax(offset) => JsonError::Syntax { offset },
        ScanError::TooDeep => JsonError::TooDeep { limit: max_depth },
    };
    let mut scanner = Scanner::new(bytes);
    if scanner.peek() != Some(b'{') {
        scanner.value(max_depth).map_err(refuse)?;
        scanner.end().map_err(refuse)?;
        return Err(JsonError::NotAnObject);
    }

    let mut object = scanner.object(max_depth).map_err(refuse)?;
    let mut members = Members {
        open: object.offset(),
        is_empty: true,
        ..Members::default()
    };
    members.noted.reserve(8);
    while let Some(member) = object.next_member().map_err(refuse)? {
        members.is_empty = false;
        match members.noted.len() < NOTED {
            true => members.noted.push(member.clone()),
            false => members.has_more = true,
        }
        let key = &bytes[member.key];
        let (name, place) = if spells(key, "model") {
            ("model", &mut members.model)
        } else if spells(key, "stream") {
            ("stream", &mut members.stream)
        } else if spells(key, "stream_options") {
            ("stream_options", &mut members.stream_options)
        } else if spells(key, "n") {
            // What is wrong with these is for the upstream to say: nothing is decided by them.
            members.n = Some(member.value);
            continue;
        } else if let Some(index) = MAX_TOKENS.iter().position(|name| spells(key, name)) {
            members.max_tokens[index] = Some(member.value);
            continue;
        } else if spells_in_other_case(key, "model") {
            // Servers written in Go would take it for the model, behind the back of whoever judged the other one.
            return Err(JsonError::Type {
                member: "model",
                expected: "spelled in lower case",
            });
        } else {
            continue;
        };
        if place.replace(member.value).is_some() {
            return Err(JsonError::Duplicate(name));
        }
    }
    object.leave().end().map_err(refuse)?;
    Ok(members)
}

// === impl Members ===

impl Members {
    /// Calls `see` with each member of the body whose key is one of `names`, as [`each_member`] does.
    pub fn each<'a>(&self, bytes: &'a [u8], names: &[&str], mut see: impl FnMut(usize, &'a [u8])) {
        if self.has_more {
            each_member(bytes, names, see);
            return;
        }
        for Member { key, value } in &self.noted {
            let (Some(key), Some(value)) = (bytes.get(key.clone()), bytes.get(value.clone()))
            else {
                continue;
            };
            if let Some(place) = names.iter().position(|name| spells(key, name)) {
                see(place, value);
            }
        }
    }

    /// Returns the model's name, decoded.
    ///
    /// # Errors
    /// [`JsonError::Type`] when it is not a string, or empty.
    pub fn model<'a>(&self, bytes: &'a [u8]) -> Result<Option<Cow<'a, str>>, JsonError> {
        let Some(raw) = value(bytes, &self.model) else {
            return Ok(None);
        };
        let refuse = |expected| JsonError::Type {
            member: "model",
            expected,
        };
        let name = decode_string(raw).ok_or_else(|| refuse("a string"))?;
        if name.is_empty() {
            return Err(refuse("a non-empty string"));
        }
        Ok(Some(name))
    }

    /// Returns whether a stream is asked for. Null counts as absent.
    ///
    /// # Errors
    /// [`JsonError::Type`] when it is neither a boolean nor null.
    pub fn stream(&self, bytes: &[u8]) -> Result<bool, JsonError> {
        match value(bytes, &self.stream) {
            Some(b"true") => Ok(true),
            Some(b"false" | b"null") | None => Ok(false),
            Some(_) => Err(JsonError::Type {
                member: "stream",
                expected: "a boolean",
            }),
        }
    }

    /// Returns how many tokens a choice may have, where the client says so: the most that any of the members says.
    pub fn max_tokens(&self, bytes: &[u8]) -> Option<u64> {
        let bounds = self.max_tokens.iter();
        bounds.filter_map(|range| whole_number(bytes, range)).max()
    }

    /// Returns how many choices are asked for: 1 where nothing, or nothing sensible, is said.
    pub fn choices(&self, bytes: &[u8]) -> u64 {
        whole_number(bytes, &self.n).map_or(1, |n| n.max(1))
    }

    /// Returns how many choices of completions are generated: for each prompt as many as are asked for, or as many as the
    /// best are picked from. An array of strings, or of arrays of tokens, is as many prompts.
    pub fn generated_choices(&self, bytes: &[u8]) -> u64 {
        let (mut prompts, mut choices) = (0, self.choices(bytes));
        self.each(bytes, &["prompt", "best_of"], |place, value| {
            if place == 1 {
                choices = choices.max(number(value).unwrap_or(0));
                return;
            }
            each_element(value, |element| {
                // Tokens by themselves are one prompt together.
                prompts += u64::from(element.starts_with(b"\"") || element.starts_with(b"["));
            });
        });
        choices.saturating_mul(prompts.max(1))
    }

    /// Returns whether `stream_options.include_usage` is true.
    pub fn include_usage(&self, bytes: &[u8]) -> bool {
        let Some(options) = value(bytes, &self.stream_options) else {
            return false;
        };
        let flag = edit::last_member(options, "include_usage");
        flag.is_some_and(|range| options.get(range) == Some(b"true"))
    }
}

fn whole_number(bytes: &[u8], range: &Option<Range<usize>>) -> Option<u64> {
    number(value(bytes, range)?)
}

fn number(raw: &[u8]) -> Option<u64> {
    std::str::from_utf8(raw).ok()?.parse().ok()
}

/// Returns a member's bytes.
fn value<'a>(bytes: &'a [u8], range: &Option<Range<usize>>) -> Option<&'a [u8]> {
    bytes.get(range.clone()?)
}

/// Decodes a JSON string, quotes included. A name without escapes, as nearly all are, is borrowed.
fn decode_string(raw: &[u8]) -> Option<Cow<'_, str>> {
    let inside = raw.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if inside.contains(&b'\\') {
        unescape(inside).map(Cow::Owned)
    } else {
        std::str::from_utf8(inside).ok().map(Cow::Borrowed)
    }
}
