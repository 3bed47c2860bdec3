//! `POST /admin/v1/reload`: the configuration is read anew.

use std::pin::Pin;

use http::StatusCode;
use serde::Serialize;

use super::answer::{Answer, text};
use crate::openai::envelope::ErrorBody;

/// What the admin plane can have done.
pub trait Control: Send + Sync {
    /// Reads the configuration anew and serves it. It is done also when nobody waits for the answer.
    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<Reloaded, Refused>> + Send>>;
}

/// A reload that took place.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Reloaded {
    /// What is served otherwise than before.
    pub changed: Vec<String>,
    /// The fields that stay as they were until the next start.
    pub restart_needed: Vec<String>,
    /// What is perhaps not as meant.
    pub warnings: Vec<String>,
}

/// Why the old configuration goes on.
#[derive(Clone, Debug, Default)]
pub struct Refused {
    /// What `weir check` would print.
    pub report: String,
    /// The same, one by one.
    pub problems: Vec<ReloadProblem>,
}

/// One problem of a configuration.
#[derive(Clone, Debug, Serialize)]
pub struct ReloadProblem {
    /// `error` or `warning`.
    pub severity: &'static str,
    /// The field.
    pub path: String,
    /// The line, from 1.
    pub line: Option<usize>,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl Refused {
    /// A refusal for one reason that stands in no file.
    pub fn because(reason: &str) -> Self {
        Self {
            report: reason.to_owned(),
            problems: Vec::new(),
        }
    }
}

#[derive(Serialize)]
struct Success<'a> {
    reloaded: bool,
    #[serde(flatten)]
    report: &'a Reloaded,
}

#[derive(Serialize)]
struct Failure<'a> {
    reloaded: bool,
    error: ErrorBody<'a>,
    problems: &'a [ReloadProblem],
}

/// Answers with what came of a reload.
pub(super) fn answer(outcome: &Result<Reloaded, Refused>) -> Answer {
    let (status, body) = match outcome {
        Ok(report) => {
            let success = Success {
                reloaded: true,
                report,
            };
            (StatusCode::OK, serde_json::to_vec(&success))
        }
        Err(refused) => {
            let failure = Failure {
                reloaded: false,
                error: ErrorBody {
                    message: &refused.report,
                    kind: "invalid_request_error",
                    param: None,
                    code: "invalid_configuration",
                },
                problems: &refused.problems,
            };
            (StatusCode::BAD_REQUEST, serde_json::to_vec(&failure))
        }
    };
    // Strings and lists of them always serialize.
    text(status, "application/json", body.unwrap_or_default().into())
}
