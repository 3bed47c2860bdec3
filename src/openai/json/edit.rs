//! Edits on the raw bytes of a body.

use std::ops::Range;

use bytes::Bytes;

use super::scan::{Scanner, spells};
use super::{Members, value};

/// One replacement in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The bytes replaced; empty for an insertion.
    pub range: Range<usize>,
    /// What stands there instead.
    pub with: String,
}

// === impl Members ===

impl Members {
    /// Returns the edit that names `model`: the value replaced, or a member put in front of the others. `None` when
    /// that name stands there already.
    pub fn set_model(&self, bytes: &[u8], model: &str) -> Option<Edit> {
        if matches!(self.model(bytes), Ok(Some(name)) if name == model) {
            return None;
        }
        // A string always serializes.
        let name = serde_json::to_string(model).ok()?;
        Some(match &self.model {
            Some(range) => Edit {
                range: range.clone(),
                with: name,
            },
            None => insertion(self.open, format!("\"model\":{name}"), self.is_empty),
        })
    }

    /// Returns the edit that makes `stream_options.include_usage` true, or `None` when it is, or when
    /// `stream_options` is of a type that the upstream will refuse anyway.
    ///
    /// Of an `include_usage` that is given twice the last one counts, as it does for most parsers.
    pub fn set_include_usage(&self, bytes: &[u8]) -> Option<Edit> {
        const MEMBER: &str = "\"include_usage\":true";
        let Some(range) = &self.stream_options else {
            let member = format!("\"stream_options\":{{{MEMBER}}}");
            return Some(insertion(self.open, member, self.is_empty));
        };
        let options = value(bytes, &self.stream_options)?;
        if options == b"null" {
            return Some(Edit {
                range: range.clone(),
                with: format!("{{{MEMBER}}}"),
            });
        }
        let mut object = Scanner::new(options).object(usize::MAX).ok()?;
        let open = range.start + object.offset();
        if let Some(flag) = last_member(options, "include_usage") {
            return (options.get(flag.clone())? != b"true").then(|| Edit {
                range: range.start + flag.start..range.start + flag.end,
                with: "true".into(),
            });
        }
        let is_empty = object.next_member().ok()?.is_none();
        Some(insertion(open, MEMBER.into(), is_empty))
    }

    /// Returns the body with `model` named in it, if one is given, and with `stream_options.include_usage` true, if that
    /// is asked for; the very same bytes when both hold already.
    pub fn rewrite(&self, bytes: &Bytes, model: Option<&str>, include_usage: bool) -> Bytes {
        let model = model.and_then(|model| self.set_model(bytes, model));
        let usage = include_usage
            .then(|| self.set_include_usage(bytes))
            .flatten();
        let mut edits: Vec<Edit> = model.into_iter().chain(usage).collect();
        // Two members put into an empty object: each was made to stand alone.
        if let [first, second] = edits.as_mut_slice()
            && self.is_empty
            && first.range == second.range
        {
            first.with.push(',');
        }
        apply(bytes, &edits)
    }
}

/// Applies edits that do not overlap; insertions at one place stay in their order. Without edits the very same bytes
/// come back.
pub fn apply(bytes: &Bytes, edits: &[Edit]) -> Bytes {
    if edits.is_empty() {
        return bytes.clone();
    }
    let mut edits: Vec<&Edit> = edits.iter().collect();
    edits.sort_by_key(|edit| (edit.range.start, edit.range.end));
    let added: usize = edits.iter().map(|edit| edit.with.len()).sum();
    let mut edited = Vec::with_capacity(bytes.len() + added);
    let mut from = 0;
    for edit in edits {
        let kept = bytes.get(from..edit.range.start);
        debug_assert!(kept.is_some(), "edits overlap or leave the body");
        edited.extend_from_slice(kept.unwrap_or_default());
        edited.extend_from_slice(edit.with.as_bytes());
        from = edit.range.end;
    }
    edited.extend_from_slice(bytes.get(from..).unwrap_or_default());
    edited.into()
}

/// Returns the value of the last member of an object under this name, which is the one that most readers of JSON see.
pub fn last_member(object: &[u8], name: &str) -> Option<Range<usize>> {
    let mut members = Scanner::new(object).object(usize::MAX).ok()?;
    let mut found = None;
    while let Some(member) = members.next_member().ok()? {
        if spells(object.get(member.key)?, name) {
            found = Some(member.value);
        }
    }
    found
}

/// Puts a member in front of an object's others.
fn insertion(open: usize, mut member: String, is_empty: bool) -> Edit {
    if !is_empty {
        member.push(',');
    }
    Edit {
        range: open..open,
        with: member,
    }
}
