//! Raw JSON: finds the few members that Weir understands without building a document, and edits them on the bytes so
//! that every other byte stays as the client wrote it.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;

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
}

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

/// One replacement in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The bytes replaced; empty for an insertion.
    pub range: Range<usize>,
    /// What stands there instead.
    pub with: String,
}

/// Reads a request body once: it must be one JSON object, valid UTF-8, nested at most `max_depth` levels.
///
/// # Errors
/// [`JsonError`] for everything else, and for a `model`, `stream` or `stream_options` that is given twice.
pub fn inspect(bytes: &[u8], max_depth: usize) -> Result<Members, JsonError> {
    let _ = (bytes, max_depth);
    Ok(Members::default())
}

impl Members {
    /// Returns the model's name, decoded.
    ///
    /// # Errors
    /// [`JsonError::Type`] when it is not a string, or empty.
    pub fn model<'a>(&self, bytes: &'a [u8]) -> Result<Option<Cow<'a, str>>, JsonError> {
        let _ = bytes;
        Ok(None)
    }

    /// Returns whether a stream is asked for. Null counts as absent.
    ///
    /// # Errors
    /// [`JsonError::Type`] when it is neither a boolean nor null.
    pub fn stream(&self, bytes: &[u8]) -> Result<bool, JsonError> {
        let _ = bytes;
        Ok(false)
    }

    /// Returns whether `stream_options.include_usage` is true.
    pub fn include_usage(&self, bytes: &[u8]) -> bool {
        let _ = bytes;
        false
    }

    /// Returns the edit that names `model`: the value replaced, or a member put in front of the others.
    pub fn set_model(&self, bytes: &[u8], model: &str) -> Option<Edit> {
        let _ = (bytes, model);
        None
    }

    /// Returns the edit that makes `stream_options.include_usage` true, or `None` when it is, or when
    /// `stream_options` is of a type that the upstream will refuse anyway.
    pub fn set_include_usage(&self, bytes: &[u8]) -> Option<Edit> {
        let _ = bytes;
        None
    }
}

/// Applies edits that do not overlap. Without edits the very same bytes come back.
pub fn apply(bytes: &Bytes, edits: &[Edit]) -> Bytes {
    let _ = edits;
    bytes.clone()
}
