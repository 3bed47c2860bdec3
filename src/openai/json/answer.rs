//! What is looked up in an upstream's answer, whole or in events.

use std::ops::Range;

use super::scan::{Object, ScanError, Scanner, spells};

/// Where the members that Weir understands stand in a plain answer. Of one that is given twice the last counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The value of `usage`.
    pub usage: Option<Range<usize>>,
    /// The value of `error`, also where it is null.
    pub error: Option<Range<usize>>,
    /// The value of `choices`.
    pub choices: Option<Range<usize>>,
    /// The value of `data`.
    pub data: Option<Range<usize>>,
    /// The value of `output`.
    pub output: Option<Range<usize>>,
}

/// Why a plain answer is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Not JSON, or cut short.
    #[error("the answer is not valid JSON (at byte {offset})")]
    Syntax {
        /// Where reading stopped.
        offset: usize,
    },
    /// JSON, but not an object.
    #[error("the answer is not a JSON object")]
    NotAnObject,
}

/// Checks that a plain answer is one whole JSON object, of any depth, and tells where its `usage` and `error` stand.
///
/// # Errors
/// [`AnswerError`] for everything else.
pub fn validate_object(bytes: &[u8]) -> Result<Answer, AnswerError> {
    std::str::from_utf8(bytes).map_err(|e| AnswerError::Syntax {
        offset: e.valid_up_to(),
    })?;
    let refuse = |error| match error {
        ScanError::Syntax(offset) => AnswerError::Syntax { offset },
        // Does not happen: there is no bound. One byte is one level at most, so nothing grows beyond the answer.
        ScanError::TooDeep => AnswerError::NotAnObject,
    };
    let mut scanner = Scanner::new(bytes);
    if scanner.peek() != Some(b'{') {
        scanner.value(usize::MAX).map_err(refuse)?;
        scanner.end().map_err(refuse)?;
        return Err(AnswerError::NotAnObject);
    }

    let mut object = scanner.object(usize::MAX).map_err(refuse)?;
    let mut answer = Answer::default();
    while let Some(member) = object.next_member().map_err(refuse)? {
        let key = &bytes[member.key];
        if spells(key, "usage") {
            answer.usage = Some(member.value);
        } else if spells(key, "error") {
            answer.error = Some(member.value);
        } else if spells(key, "choices") {
            answer.choices = Some(member.value);
        } else if spells(key, "data") {
            answer.data = Some(member.value);
        } else if spells(key, "output") {
            answer.output = Some(member.value);
        }
    }
    object.leave().end().map_err(refuse)?;
    Ok(answer)
}

/// Returns the value of an object's member, looking no further than to where it stands: what comes behind it is not
/// checked.
pub fn top_level_member(object: &[u8], name: &str) -> Option<Range<usize>> {
    preferred_member(object, &[name])
}

/// Returns the value of the member whose name comes first in `names`, wherever it stands: one reading finds it, and goes
/// no further than to the first name of all.
pub fn preferred_member(object: &[u8], names: &[&str]) -> Option<Range<usize>> {
    let mut members = members(object)?;
    let mut found = None;
    // Names that count more than what has been found.
    let mut better = names;
    while !better.is_empty()
        && let Ok(Some(member)) = members.next_member()
    {
        let key = object.get(member.key)?;
        if let Some(rank) = better.iter().position(|name| spells(key, name)) {
            better = &better[..rank];
            found = Some(member.value);
        }
    }
    found
}

/// Returns whether the bytes are one whole JSON value of a kind that shows its own end: an object, array or string. A
/// number cut short is a number still.
pub(in crate::openai) fn is_whole(bytes: &[u8]) -> bool {
    let mut scanner = Scanner::new(bytes);
    matches!(scanner.peek(), Some(b'{' | b'[' | b'"'))
        && std::str::from_utf8(bytes).is_ok()
        && scanner.value(usize::MAX).is_ok()
        && scanner.end().is_ok()
}

/// Returns the members of an object, to be read one by one.
pub(in crate::openai) fn members(object: &[u8]) -> Option<Object<'_>> {
    Scanner::new(object).object(usize::MAX).ok()
}
