//! `POST /admin/v1/reload`: the configuration is read anew.

use std::pin::Pin;

use http::StatusCode;
use serde::Serialize;

use super::answer::{Answer, text};
use super::explain::Question;
use crate::openai::envelope::ErrorBody;
use crate::report::outlook::Outlook;

/// What the admin plane can have done.
pub trait Control: Send + Sync {
    /// Reads the configuration anew and serves it. It is done also when nobody waits for the answer.
    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<Reloaded, Refused>> + Send>>;

    /// Tells what would become of a call. None is made, and nothing is used.
    fn explain(&self, question: Question) -> Pin<Box<dyn Future<Output = Outlook> + Send>>;
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
    /// What is at fault.
    pub cause: Cause,
    /// What `weir check` would print.
    pub report: String,
    /// The same, one by one.
    pub problems: Vec<ReloadProblem>,
}

/// What is at fault when a reload is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cause {
    /// The new configuration.
    #[default]
    Configuration,
    /// Nothing: Weir is shutting down.
    Stopping,
    /// Weir itself.
    Bug,
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
            ..Self::default()
        }
    }

    /// The refusal of a gateway that is about to end.
    pub fn stopping() -> Self {
        Self {
            cause: Cause::Stopping,
            ..Self::because("Weir is shutting down.")
        }
    }

    /// The refusal that nobody but a developer can mend.
    pub fn bug(what: &str) -> Self {
        Self {
            cause: Cause::Bug,
            ..Self::because(&format!("{what} This is a bug."))
        }
    }
}

impl Cause {
    /// Returns the status, and the `type` and `code` of the envelope.
    fn shown(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Configuration => (
                StatusCode::BAD_REQUEST,
                "invalid_request_error",
                "invalid_configuration",
            ),
            Self::Stopping => (
                StatusCode::SERVICE_UNAVAILABLE,
                "server_error",
                "shutting_down",
            ),
            Self::Bug => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "server_error",
                "internal_error",
            ),
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
            let (status, kind, code) = refused.cause.shown();
            let failure = Failure {
                reloaded: false,
                error: ErrorBody {
                    message: &refused.report,
                    kind,
                    param: None,
                    code,
                },
                problems: &refused.problems,
            };
            (status, serde_json::to_vec(&failure))
        }
    };
    // Strings and lists of them always serialize.
    text(status, "application/json", body.unwrap_or_default().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_configuration_is_the_operators_fault() {
        let status = |refused: Refused| answer(&Err(refused)).status().as_u16();
        assert_eq!(status(Refused::because("No [[key]] is left.")), 400);
        assert_eq!(status(Refused::stopping()), 503);
        assert_eq!(status(Refused::bug("The reload failed.")), 500);
    }
}
