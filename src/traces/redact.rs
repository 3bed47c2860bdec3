//! Takes out of a text what nobody should read: credentials by their shapes, and what the operator's patterns match.

use regex_automata::meta::{BuildError, Config, Regex};

/// How many patterns an operator may have.
pub const MAX_PATTERNS: usize = 64;
/// How long each may be, in bytes.
pub const MAX_PATTERN: usize = 1024;

/// The memory that all patterns together may take when they are compiled.
const MAX_COMPILED: usize = 4 << 20;

/// What stands in the place of what was taken out.
const REDACTED: &str = "[redacted]";

/// The shapes of credentials. Whoever prefers one that is not here adds a pattern.
const CREDENTIALS: [&str; 7] = [
    // Those of OpenAI and of those who do as it does, Stripe's, and our own.
    r"\b(?:sk|rk|pk|wr|wk)-[A-Za-z0-9_\-]{8,}",
    r"(?i:\bbearer\s+)[A-Za-z0-9._~+/=\-]{8,}",
    r"\beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{4,}(?:\.[A-Za-z0-9_\-]*)?",
    r"\b(?:gh[a-z]_|github_pat_|glpat-|xox[a-z]-|hf_)[A-Za-z0-9_\-]{10,}",
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    r"\bAIza[A-Za-z0-9_\-]{30,}",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\z)",
];

/// Why a pattern cannot be used: what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(String);

/// Takes out what it knows.
#[derive(Clone, Debug)]
pub struct Redactor {
    regex: Regex,
}

impl Redactor {
    /// Knows the shapes of credentials, and what these regular expressions match besides (the `regex` crate's syntax).
    ///
    /// # Errors
    /// [`PatternError`] where one of them is none, or all together are too large. Matching takes linear time whatever they
    /// are.
    pub fn new(patterns: &[String]) -> Result<Self, PatternError> {
        let all = CREDENTIALS
            .into_iter()
            .chain(patterns.iter().map(String::as_str));
        let all: Vec<&str> = all.collect();
        let config = Config::new().nfa_size_limit(Some(MAX_COMPILED));
        let regex = Regex::builder().configure(config).build_many(&all);
        regex.map(|regex| Self { regex }).map_err(worded)
    }

    /// Appends to `out` what stands in the first `max` bytes of a text, redacted. The text may be longer, so that what is
    /// cut there is still known.
    pub fn redact(&self, text: &str, max: usize, out: &mut String) {
        let end = floor(text, max);
        let mut at = 0;
        for found in self.regex.find_iter(text) {
            if found.start() >= end {
                break;
            }
            // What matches nothing takes nothing out.
            if found.is_empty() {
                continue;
            }
            out.push_str(text.get(at..found.start()).unwrap_or_default());
            out.push_str(REDACTED);
            at = found.end();
        }
        out.push_str(text.get(at..end).unwrap_or_default());
    }
}

/// Returns where a text of at most `max` bytes ends between two characters.
fn floor(text: &str, max: usize) -> usize {
    let mut ends = (0..=max.min(text.len())).rev();
    ends.find(|end| text.is_char_boundary(*end)).unwrap_or(0)
}

fn worded(error: BuildError) -> PatternError {
    if error.size_limit().is_some() {
        return PatternError("is too large when it is compiled".to_owned());
    }
    match error.syntax_error() {
        // The last line says what; those before it draw where.
        Some(syntax) => {
            let text = syntax.to_string();
            let last = text.lines().last().unwrap_or_default();
            let what = last.strip_prefix("error: ").unwrap_or(last);
            PatternError(format!("is no regular expression: {what}"))
        }
        None => PatternError("cannot be compiled".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn redact(patterns: &[&str], text: &str, max: usize) -> String {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        let mut out = String::new();
        Redactor::new(&patterns)
            .unwrap()
            .redact(text, max, &mut out);
        out
    }

    #[test]
    fn credentials_are_known_by_their_shape() {
        for secret in [
            "sk-proj-abcDEF123456",
            "wr-0123456789abcdef",
            "Bearer abcdef.123456~",
            "bearer  0123456789",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
            "ghp_0123456789abcdefghij",
            "AKIAIOSFODNN7EXAMPLE",
            "AIzaSyA0123456789abcdefghijklmnopqrstu",
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\nMIIE and the end is missing",
        ] {
            assert_eq!(
                redact(&[], &format!("it is {secret}"), 1000),
                "it is [redacted]"
            );
        }
        let plain = "A task-list, bearer of news, risk-averse sk-1: 写一首诗";
        assert_eq!(redact(&[], plain, 1000), plain);
    }

    #[test]
    fn the_operators_patterns_count_too() {
        let patterns = [r"\d{3}-\d{2}-\d{4}", "x*"];
        assert_eq!(
            redact(&patterns, "123-45-6789 é xx sk-12345678", 1000),
            "[redacted] é [redacted] [redacted]"
        );
        for bad in ["(", "a{1000}{1000}{1000}", "(?<n"] {
            assert!(Redactor::new(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_secret_on_the_edge_is_taken_out_whole() {
        let text = format!("{}sk-abcdefghijklmnop", "a ".repeat(5));
        for max in 11..40 {
            let out = redact(&[], &text, max);
            assert_eq!(out, "a a a a a [redacted]", "{max}");
        }
        assert_eq!(redact(&[], &text, 10), "a a a a a ");
        assert_eq!(redact(&[], "写写", 4), "写");
    }

    proptest! {
        #[test]
        fn nothing_panics_and_no_secret_stays(before in ".{0,20}", max in 0..60_usize) {
            let text = format!("{before} sk-0123456789abcdef0123");
            let out = redact(&[], &text, max);
            prop_assert!(!out.contains("sk-0"), "{out}");
        }
    }
}
