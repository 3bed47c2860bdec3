//! What is wrong with a configuration: all of it, each with its place.

use std::fmt;

use super::stamp::ReadFile;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It works, though perhaps not as meant.
    Warning,
}

/// One problem. No text in it holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Line and column, both from 1 and the column in characters; none for what stands in no file.
    pub position: Option<(usize, usize)>,
    /// The field, from the file's top: `upstream[openai].timeouts.idle`. Empty where the file as a whole is at fault.
    pub path: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// The problems of one configuration, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The file as the user named it.
    pub file: String,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
    /// Every file that it was made of, or would be once it is there: the configuration itself first, then secrets,
    /// certificates, keys and authorities. Who watches them sees every change. Empty without a configuration file.
    pub files: Vec<ReadFile>,
}

/// The place of a value: its path and the offset of its first byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct At {
    pub(super) path: String,
    pub(super) offset: Option<usize>,
}

/// A problem before its line has been counted.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) severity: Severity,
    pub(super) at: At,
    pub(super) message: String,
}

impl Report {
    /// Returns whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// Returns how many of the problems are errors.
    pub fn errors(&self) -> usize {
        let is_error = |problem: &&Problem| problem.severity == Severity::Error;
        self.problems.iter().filter(is_error).count()
    }

    /// Sorts what was found by place, and counts lines.
    pub(super) fn new(file: String, text: &str, mut found: Vec<Found>) -> Self {
        found.sort_by_key(|found| found.at.offset);
        let mut problems = Vec::with_capacity(found.len());
        let (mut offset, mut line, mut column) = (0, 1, 1);
        for Found {
            severity,
            at,
            message,
        } in found
        {
            let target = at.offset.map(|target| target.min(text.len()));
            for c in text
                .get(offset..target.unwrap_or(offset))
                .unwrap_or("")
                .chars()
            {
                (line, column) = match c {
                    '\n' => (line + 1, 1),
                    _ => (line, column + 1),
                };
            }
            offset = target.unwrap_or(offset);
            problems.push(Problem {
                severity,
                position: target.map(|_| (line, column)),
                path: at.path,
                message,
            });
        }
        Self {
            file,
            problems,
            files: Vec::new(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&self.file)?;
            if let Some((line, column)) = problem.position {
                write!(f, ":{line}:{column}")?;
            }
            f.write_str(": ")?;
            if problem.severity == Severity::Warning {
                f.write_str("warning: ")?;
            }
            if !problem.path.is_empty() {
                write!(f, "{}: ", problem.path)?;
            }
            f.write_str(&problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_stand_in_the_order_of_the_file() {
        let found = |offset, path: &str| Found {
            severity: Severity::Error,
            at: At {
                path: path.into(),
                offset,
            },
            message: "wrong; right".into(),
        };
        let text = "a = 1\nü = 2\n";
        let all = vec![
            found(Some(9), "late"),
            found(Some(0), "early"),
            found(None, ""),
            found(Some(99), "behind"),
        ];
        let report = Report::new("f.toml".into(), text, all);
        assert_eq!(
            report.to_string(),
            "f.toml: wrong; right\nf.toml:1:1: early: wrong; right\n\
             f.toml:2:3: late: wrong; right\nf.toml:3:1: behind: wrong; right"
        );
    }
}
