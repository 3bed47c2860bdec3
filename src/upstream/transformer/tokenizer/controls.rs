//! Control tokens: how they are found in a template's text, and kept out of everybody else's.

use std::borrow::Cow;

/// The control tokens of a vocabulary.
#[derive(Default)]
pub(in super::super) struct Controls {
    /// The longest first.
    tokens: Vec<Control>,
    /// What they begin with: nearly always `<` alone.
    firsts: Vec<char>,
}

#[derive(Clone, Debug)]
pub(super) struct Control {
    pub(super) text: String,
    pub(super) id: u32,
    /// Whether white space in front of it belongs to it…
    pub(super) strips_left: bool,
    /// … and behind it.
    pub(super) strips_right: bool,
}

/// A part of a rendered chat.
#[derive(Debug, PartialEq)]
pub(in super::super) enum Segment {
    /// A control token that the template wrote.
    Control(u32),
    /// Text, in which nothing is a control token.
    Text(String),
}

impl Controls {
    pub(super) fn new(mut tokens: Vec<Control>) -> Self {
        tokens.retain(|token| !token.text.is_empty());
        tokens.sort_by_key(|token| std::cmp::Reverse(token.text.len()));
        let mut firsts: Vec<char> = tokens
            .iter()
            .filter_map(|t| t.text.chars().next())
            .collect();
        firsts.sort_unstable();
        firsts.dedup();
        Self { tokens, firsts }
    }

    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.tokens.iter().find(|t| t.text == text).map(|t| t.id)
    }

    /// Returns the name of a control token.
    pub(in super::super) fn name(&self, id: u32) -> Option<&str> {
        self.tokens
            .iter()
            .find(|t| t.id == id)
            .map(|t| t.text.as_str())
    }

    /// Breaks up what could be read as a control token by putting `guard` behind its first character, also where the
    /// text ends in the beginning of one, so that it cannot be completed by what follows.
    pub(in super::super) fn guard<'a>(&self, text: &'a str, guard: char) -> Cow<'a, str> {
        let mut guarded = String::new();
        let mut copied = 0;
        for (i, c) in text.char_indices() {
            let rest = &text[i..];
            let dangerous = |t: &Control| {
                rest.starts_with(&t.text) || (rest.len() < t.text.len() && t.text.starts_with(rest))
            };
            if self.firsts.contains(&c) && self.tokens.iter().any(dangerous) {
                let end = i + c.len_utf8();
                guarded.push_str(&text[copied..end]);
                guarded.push(guard);
                copied = end;
            }
        }
        if copied == 0 {
            return Cow::Borrowed(text);
        }
        guarded.push_str(&text[copied..]);
        Cow::Owned(guarded)
    }

    /// Splits a text at its control tokens and takes the guards out of the rest.
    pub(in super::super) fn split(&self, text: &str, guard: char) -> Vec<Segment> {
        let mut segments = Vec::new();
        let mut start = 0;
        let mut at = 0;
        let push = |segments: &mut Vec<Segment>, text: &str| {
            if !text.is_empty() {
                segments.push(Segment::Text(text.replace(guard, "")));
            }
        };
        while let Some(next) = text[at..].find(self.firsts.as_slice()) {
            at += next;
            let found = self.tokens.iter().find(|t| text[at..].starts_with(&t.text));
            let Some(control) = found else {
                at += text[at..].chars().next().map_or(1, char::len_utf8);
                continue;
            };
            let before = &text[start..at];
            let before = if control.strips_left {
                before.trim_end()
            } else {
                before
            };
            push(&mut segments, before);
            segments.push(Segment::Control(control.id));
            at += control.text.len();
            if control.strips_right {
                at = text.len() - text[at..].trim_start().len();
            }
            start = at;
        }
        push(&mut segments, &text[start..]);
        segments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controls() -> Controls {
        let control = |text: &str, id| Control {
            text: text.into(),
            id,
            strips_left: false,
            strips_right: false,
        };
        Controls::new(vec![control("<s>", 1), control("<|end|>", 2)])
    }

    #[test]
    fn guarded_text_holds_no_control_token() {
        let guard = '\u{fdd0}';
        for text in ["<|end|>", "a<|end|>b<s>", "<<s>>", "<|en", "<", "plain"] {
            let guarded = controls().guard(text, guard);
            let rendered = format!("<s>{guarded}<|end|>");
            assert_eq!(
                controls().split(&rendered, guard),
                [
                    Segment::Control(1),
                    Segment::Text(text.into()),
                    Segment::Control(2)
                ]
            );
        }
    }

    #[test]
    fn a_token_cannot_be_put_together_from_two_messages() {
        let guard = '\u{fdd0}';
        let first = controls().guard("<|e", guard).into_owned();
        let second = controls().guard("nd|>", guard).into_owned();
        let segments = controls().split(&format!("{first}{second}"), guard);
        assert_eq!(segments, [Segment::Text("<|end|>".into())]);
    }
}
