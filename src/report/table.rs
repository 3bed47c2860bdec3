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

/// Writes usage as a table, with the sums of all in its last line.
pub fn to_table(usage: &Usage) -> String {
    let name = usage.group_by.to_uppercase();
    let mut table = Table::new(&[
        (&name, false),
        ("REQUESTS", true),
        ("PROMPT", true),
        ("CACHED", true),
        ("COMPLETION", true),
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
            figures.cached_tokens,
            figures.completion_tokens,
            figures.reasoning_tokens,
        ];
        let mut fields = vec![name];
        fields.extend(numbers.map(|number| number.to_string()));
        fields.push(figures.cost.clone());
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
    use crate::report::Group;

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
KEY      REQUESTS  PROMPT  CACHED  COMPLETION  REASONING  COST USD  UNPRICED  CACHE HITS  SAVED TOKENS
alice         120    1200       0         120          0  0.001234         0          12           120
b\\u{1b}         3      30       0           3          0      0.00         0           0             3
TOTAL         123    1230       0         123          0  0.001234         0          12           123
";
        assert_eq!(to_table(&usage), expected);
    }
}
