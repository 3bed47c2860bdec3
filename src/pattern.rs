//! Patterns of names: `*` stands for any run of characters, everything else for itself. Allow-lists and routes are
//! written in them.

mod map;

use std::fmt;

use memchr::memmem;

pub use self::map::PatternMap;

/// The longest pattern, in bytes: longer than any model's name, and a bound on the work of a match.
pub const MAX_LENGTH: usize = 512;

/// A pattern of names, such as `gpt-4o`, `gpt-*` or `*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    text: Box<str>,
    /// Where its first star is and its last one: many patterns are held against each request's model.
    stars: Option<(usize, usize)>,
}

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing to match.
    #[error("is empty")]
    Empty,
    /// No name is so long.
    #[error("is longer than {MAX_LENGTH} bytes")]
    TooLong,
    /// Holds a line break or another control character, which no name has.
    #[error("holds a control character")]
    Control,
    /// Starts or ends with white space: a slip, since no name does.
    #[error("starts or ends with white space")]
    Space,
}

/// How closely a pattern describes a name. The greater is the more specific: an exact name before every pattern,
/// then the one with more characters of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Specificity {
    exact: bool,
    literals: usize,
}

impl Pattern {
    /// Reads a pattern. Stars in a row are one.
    ///
    /// # Errors
    /// [`PatternError`] for what cannot be the name of anything.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > MAX_LENGTH {
            return Err(PatternError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(PatternError::Control);
        }
        if text.trim() != text {
            return Err(PatternError::Space);
        }
        let mut pattern = String::with_capacity(text.len());
        for c in text.chars() {
            if !(c == '*' && pattern.ends_with('*')) {
                pattern.push(c);
            }
        }
        Ok(Self::of(&pattern))
    }

    fn of(text: &str) -> Self {
        Self {
            text: text.into(),
            stars: text.find('*').zip(text.rfind('*')),
        }
    }

    /// Returns the pattern that every name matches.
    pub fn any() -> Self {
        Self::of("*")
    }

    /// Returns whether a name matches, letter case and all, in time linear in the name.
    pub fn matches(&self, name: &str) -> bool {
        let Some((first, last)) = self.stars else {
            return *self.text == *name;
        };
        // The names of a family begin alike, and differ where the beginnings of their patterns end.
        let differs = |at: usize| name.as_bytes().get(at) != self.text.as_bytes().get(at);
        if first.checked_sub(1).is_some_and(differs) {
            return false;
        }
        let (prefix, suffix) = (&self.text[..first], &self.text[last + 1..]);
        let name = name.strip_prefix(prefix);
        let Some(name) = name.and_then(|name| name.strip_suffix(suffix)) else {
            return false;
        };
        if first == last {
            return true;
        }
        let middle = &self.text[first + 1..last];
        // The leftmost place of each part leaves the most room for the others, so no choice is ever taken back.
        let mut name = name.as_bytes();
        for part in middle.split('*') {
            match memmem::find(name, part.as_bytes()) {
                Some(at) => name = &name[at + part.len()..],
                None => return false,
            }
        }
        true
    }

    /// Returns whether this is one name rather than a pattern of many.
    pub fn is_exact(&self) -> bool {
        self.stars.is_none()
    }

    /// Returns how closely this pattern describes what it matches.
    pub fn specificity(&self) -> Specificity {
        Specificity {
            exact: self.is_exact(),
            literals: self.text.chars().filter(|c| *c != '*').count(),
        }
    }

    /// Returns whether every name that `other` matches is matched by this pattern too.
    pub fn covers(&self, other: &Self) -> bool {
        // A star of `other` can only be swallowed by a star here, and then so can whatever it stands for.
        self.matches(&other.text)
    }

    /// Returns whether there is a name that both match, in time linear in the product of their lengths.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.text.as_bytes(), other.text.as_bytes());
        // Whether a name that is left can match what is left of both, by how much of `theirs` has been matched. A star may
        // stand for nothing, or swallow whatever the other has next.
        let mut reached = vec![false; theirs.len() + 1];
        reached[0] = true;
        let skip_stars = |reached: &mut [bool]| {
            for (at, byte) in theirs.iter().enumerate() {
                reached[at + 1] |= reached[at] && *byte == b'*';
            }
        };
        skip_stars(&mut reached);
        for byte in ours {
            let before = reached.clone();
            if *byte == b'*' {
                for at in 0..theirs.len() {
                    reached[at + 1] |= reached[at];
                }
                continue;
            }
            for at in 0..=theirs.len() {
                // A star of theirs swallows the byte and stays; their own byte must be the same.
                let swallowed = before[at] && theirs.get(at) == Some(&b'*');
                let matched = at > 0 && before[at - 1] && theirs[at - 1] == *byte;
                reached[at] = swallowed || matched;
            }
            skip_stars(&mut reached);
        }
        reached[theirs.len()]
    }

    /// Returns the pattern as written, with stars in a row made one.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Returns the value of the most specific pattern that matches; among equals the first.
pub fn most_specific<'a, T>(
    patterns: impl IntoIterator<Item = (&'a Pattern, T)>,
    name: &str,
) -> Option<T> {
    let mut best: Option<(Specificity, T)> = None;
    for (pattern, value) in patterns {
        if !pattern.matches(name) {
            continue;
        }
        let specificity = pattern.specificity();
        if best.as_ref().is_none_or(|(best, _)| specificity > *best) {
            best = Some((specificity, value));
        }
    }
    best.map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn matches_table() {
        for (text, name, expected) in [
            ("gpt-4o", "gpt-4o", true),
            ("gpt-4o", "gpt-4o-mini", false),
            ("gpt-4o", "GPT-4o", false),
            ("gpt-*", "gpt-", true),
            ("gpt-*", "gpt", false),
            ("*", "", true),
            ("*-mini", "gpt-4o-mini", true),
            ("*4o*", "4o", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*ab*b", "abb", true),
            ("*ab*b", "ab", false),
            ("a**b", "ab", true),
            ("/v1/*", "/v1/files/a", true),
            ("ü*ß", "ü…ß", true),
        ] {
            assert_eq!(pattern(text).matches(name), expected, "{text} {name}");
        }
    }

    #[test]
    fn the_most_specific_wins_then_the_first() {
        let patterns = ["*", "gpt-*", "gpt-4*", "gpt-4o", "*pt-4*"].map(pattern);
        let choose = |name| {
            most_specific(patterns.iter().enumerate().map(|(i, p)| (p, i)), name)
                .map(|i| patterns[i].as_str())
        };
        assert_eq!(choose("gpt-4o"), Some("gpt-4o"));
        assert_eq!(choose("gpt-4.1"), Some("gpt-4*"));
        assert_eq!(choose("gpt-3"), Some("gpt-*"));
        assert_eq!(choose("poet"), Some("*"));
        assert_eq!(most_specific([(&pattern("a"), ())], "b"), None);
        let equal = [pattern("ab*"), pattern("a*b")];
        assert_eq!(
            most_specific(equal.iter().enumerate().map(|(i, p)| (p, i)), "abb"),
            Some(0)
        );
    }

    #[test]
    fn what_is_no_pattern() {
        assert_eq!(Pattern::parse(""), Err(PatternError::Empty));
        assert_eq!(Pattern::parse("a\nb"), Err(PatternError::Control));
        assert_eq!(Pattern::parse(" a"), Err(PatternError::Space));
        assert_eq!(Pattern::parse(&"a".repeat(513)), Err(PatternError::TooLong));
    }

    #[test]
    fn a_hostile_pattern_takes_linear_time() {
        let pattern = pattern(&"a*".repeat(MAX_LENGTH / 2));
        let name = "a".repeat(MAX_LENGTH / 2 - 1) + &"b".repeat(1 << 20);
        let began = std::time::Instant::now();
        assert!(!pattern.matches(&name));
        assert!(began.elapsed() < std::time::Duration::from_secs(2));
    }

    /// The definition, without a thought for time.
    fn naive(pattern: &[char], name: &[char]) -> bool {
        match pattern {
            [] => name.is_empty(),
            ['*', rest @ ..] => (0..=name.len()).any(|n| naive(rest, &name[n..])),
            [c, rest @ ..] => name.first() == Some(c) && naive(rest, &name[1..]),
        }
    }

    #[test]
    fn overlaps_table() {
        for (one, two, expected) in [
            ("ab*", "a*b", true),
            ("ab*", "*cd", true),
            ("gpt-*", "*-mini", true),
            ("gpt-*", "o1-*", false),
            ("*-mini", "*-nano", false),
            ("a*c", "ab*", true),
            ("a*", "a", true),
            ("a", "b", false),
            ("*a*", "*b*", true),
            ("x*a*y", "xb*y", true),
            ("x*a", "x*b", false),
        ] {
            let (a, b) = (pattern(one), pattern(two));
            assert_eq!(a.overlaps(&b), expected, "{one} {two}");
            assert_eq!(b.overlaps(&a), expected, "{two} {one}");
        }
    }

    proptest! {
        #[test]
        fn what_both_match_overlaps(a in "[ab*]{1,6}", b in "[ab*]{1,6}", name in "[ab]{0,8}") {
            let (a, b) = (pattern(&a), pattern(&b));
            if a.matches(&name) && b.matches(&name) {
                prop_assert!(a.overlaps(&b));
            }
            prop_assert_eq!(a.overlaps(&b), b.overlaps(&a));
            if a.is_exact() {
                prop_assert_eq!(a.overlaps(&b), b.matches(a.as_str()));
            }
        }

        #[test]
        fn agrees_with_the_definition(text in "[ab*]{1,8}", name in "[abc]{0,10}") {
            let chars = |s: &str| s.chars().collect::<Vec<_>>();
            prop_assert_eq!(pattern(&text).matches(&name), naive(&chars(&text), &chars(&name)));
        }

        #[test]
        fn what_is_covered_is_matched(a in "[ab*]{1,6}", b in "[ab*]{1,6}", name in "[abc]{0,8}") {
            let (a, b) = (pattern(&a), pattern(&b));
            if a.covers(&b) && b.matches(&name) {
                prop_assert!(a.matches(&name));
            }
            if a.covers(&b) && !a.is_exact() && !b.is_exact() {
                prop_assert!(a.specificity() <= b.specificity());
            }
        }
    }
}
