//! CSV as RFC 4180 has it, for spreadsheets that take a field which begins like a formula for one.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::{Usage, plain};

const HEAD: &str = "requests,prompt_tokens,completion_tokens,cached_tokens,reasoning_tokens,cost,unpriced_requests,cache_hits,saved_tokens";

/// Writes each group as a line; sums are for the reader to make. A cost of which nothing is known is empty.
pub fn to_csv(usage: &Usage) -> String {
    let mut csv = format!("{},{HEAD}\r\n", usage.group_by);
    for group in &usage.data {
        let figures = &group.figures;
        let name = group.key.as_deref().map(field).unwrap_or_default();
        let _ = write!(
            csv,
            "{name},{},{},{},{},{},{},{},{},{}\r\n",
            figures.requests,
            figures.prompt_tokens,
            figures.completion_tokens,
            figures.cached_tokens,
            figures.reasoning_tokens,
            figures.known_cost().map(field).unwrap_or_default(),
            figures.unpriced_requests,
            figures.cache_hits,
            figures.saved_tokens
        );
    }
    csv
}

/// Writes a field. What a spreadsheet could run gets an apostrophe before it, which makes it a text there.
fn field(text: &str) -> Cow<'_, str> {
    let text = plain(text);
    let is_formula = text.starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠']);
    if !is_formula && !text.contains([',', '"', '\'', ';']) {
        return text;
    }
    let apostrophe = if is_formula { "'" } else { "" };
    Cow::Owned(format!("\"{apostrophe}{}\"", text.replace('"', "\"\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        for (text, expected) in [
            ("alice", "alice"),
            ("a b", "a b"),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("=HYPERLINK(\"x\")", "\"'=HYPERLINK(\"\"x\"\")\""),
            ("+1", "\"'+1\""),
            ("-1", "\"'-1\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
            ("two\r\nlines", "two\\r\\nlines"),
            ("\t=1", "\\t=1"),
        ] {
            assert_eq!(field(text), expected);
        }
    }
}
