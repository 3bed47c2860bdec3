//! Tables of plain text, for terminals.

use super::{Figures, Usage, plain};

/// Columns of text, each as wide as its widest field.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
    numeric: Vec<bool>,
}

impl Table {
    /// Begins with the names of the columns; those that are true stand at the right edge of theirs.
    pub fn new(columns: &[(&str, bool)]) -> Self {
        Self {
            rows: vec![columns.iter().map(|(name, _)| (*name).to_owned()).collect()],
            numeric: columns.iter().map(|(_, numeric)| *numeric).collect(),
        }
    }

    /// Adds a line. Whatever could move the cursor is escaped.
    pub fn row(&mut self, fields: impl IntoIterator<Item = String>) {
        let fields = fields.into_iter().map(|field| plain(&field).into_owned());
        self.rows.push(fields.collect());
    }

    /// Writes it, without spaces at the ends of lines.
    pub fn write(&self) -> String {
        let width = |column: usize| {
            let fields = self.rows.iter().filter_map(|row| row.get(column));
            fields.map(|field| field.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.numeric.len()).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((field, width), numeric) in row.iter().zip(&widths).zip(&self.numeric) {
                line.push_str(&match numeric {
                    true => format!("{field:>width$}  "),
                    false => format!("{field:<width$}  "),
                });
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Writes usage as a table, with the sums of all in its last line. Where some requests are unpriced and the others cost
/// nothing, the cost is a dash.
pub fn to_table(usage: &Usage) -> String {
    let name = usage.group_by.to_uppercase();
    let mut table = Table::new(&[
        (&name, false),
        ("REQUESTS", true),
        ("PROMPT", true),
        ("COMPLETION", true),
        ("CACHED", true),
        ("REASONING", true),
        ("COST USD", true),
        ("UNPRICED", true),
        ("CACHE HITS", true),
        ("SAVED TOKENS", true),
    ]);
    let line = |name: String, figures: &Figures| {
        let numbers = [
            figures.requests,
            figures.prompt_tokens,
            figures.completion_tokens,
            figures.cached_tokens,
            figures.reasoning_tokens,
        ];
        let mut fields = vec![name];
        fields.extend(numbers.map(|number| number.to_string()));
        fields.push(figures.known_cost().unwrap_or("-").to_owned());
        let numbers = [
            figures.unpriced_requests,
            figures.cache_hits,
            figures.saved_tokens,
        ];
        fields.extend(numbers.map(|number| number.to_string()));
        fields
    };
    for group in &usage.data {
        let name = group.key.clone().unwrap_or_else(|| "-".to_owned());
        table.row(line(name, &group.figures));
    }
    table.row(line("TOTAL".to_owned(), &usage.total));
    table.write()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Group, to_csv};

    #[test]
    fn columns_are_aligned_and_summed_up() {
        let figures = |requests, cost: &str| Figures {
            requests,
            prompt_tokens: 10 * requests,
            completion_tokens: requests,
            cached_tokens: 0,
            reasoning_tokens: 0,
            cost: cost.into(),
            unpriced_requests: 0,
            cache_hits: requests / 10,
            saved_tokens: requests,
        };
        let group = |key: &str, requests, cost| Group {
            key: Some(key.into()),
            figures: figures(requests, cost),
        };
        let usage = Usage {
            data: vec![group("alice", 120, "0.001234"), group("b\x1b", 3, "0.00")],
            total: figures(123, "0.001234"),
            from: None,
            to: None,
            group_by: "key".into(),
        };
        let expected = "\
KEY      REQUESTS  PROMPT  COMPLETION  CACHED  REASONING  COST USD  UNPRICED  CACHE HITS  SAVED TOKENS
alice         120    1200         120       0          0  0.001234         0          12           120
b\\u{1b}         3      30           3       0          0      0.00         0           0             3
TOTAL         123    1230         123       0          0  0.001234         0          12           123
";
        assert_eq!(to_table(&usage), expected);
    }

    #[test]
    fn a_cost_of_which_nothing_is_known_is_not_0() {
        let group = |key: &str, cost: &str, unpriced| Group {
            key: Some(key.into()),
            figures: Figures {
                requests: 2,
                prompt_tokens: 3,
                completion_tokens: 4,
                cached_tokens: 5,
                reasoning_tokens: 6,
                cost: cost.into(),
                unpriced_requests: unpriced,
                cache_hits: 0,
                saved_tokens: 0,
            },
        };
        let usage = Usage {
            data: vec![
                group("unknown", "0.00", 2),
                group("part", "1.50", 1),
                group("free", "0.00", 0),
            ],
            total: group("", "1.50", 3).figures,
            from: None,
            to: None,
            group_by: "key".into(),
        };
        let table = to_table(&usage);
        let lines = table.lines().map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            words.join(" ")
        });
        let expected = [
            "KEY REQUESTS PROMPT COMPLETION CACHED REASONING COST USD UNPRICED CACHE HITS SAVED TOKENS",
            "unknown 2 3 4 5 6 - 2 0 0",
            "part 2 3 4 5 6 1.50 1 0 0",
            "free 2 3 4 5 6 0.00 0 0 0",
            "TOTAL 2 3 4 5 6 1.50 3 0 0",
        ];
        assert!(lines.eq(expected), "{table}");
        // In CSV they stand in the same order.
        let csv = to_csv(&usage);
        let expected = [
            "key,requests,prompt_tokens,completion_tokens,cached_tokens,reasoning_tokens,cost,unpriced_requests,cache_hits,saved_tokens",
            "unknown,2,3,4,5,6,,2,0,0",
            "part,2,3,4,5,6,1.50,1,0,0",
            "free,2,3,4,5,6,0.00,0,0,0",
        ];
        assert!(csv.lines().eq(expected), "{csv}");
    }
}
