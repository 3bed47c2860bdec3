//! What a try says of the next one.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use crate::call::Reply;
use crate::upstream::advice::Advice;
use crate::upstream::member::health::Seen;
use crate::upstream::{Phase, UpstreamError};

/// What a try says of the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What kind of end it was.
    pub class: Class,
    /// What the upstream said about coming back.
    pub advice: Advice,
    /// Whether the upstream can have heard of the call.
    pub sent: bool,
}

/// The kinds of ends of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The client's answer, good or bad: nobody else would answer otherwise.
    Final,
    /// This place cannot serve what is asked, be it the model, the size or a feature: the client's answer too, unless
    /// another place has failed that could have.
    Unable,
    /// The same upstream may do better: it failed, or never heard of it.
    Again,
    /// The credential's limit is spent, another one's perhaps not.
    Limited,
    /// The credential was refused.
    Refused,
    /// This place will not do better, another one may.
    Elsewhere,
}

/// The statuses of an upstream's own failure that pass.
const PASSING: [u16; 6] = [408, 500, 502, 503, 504, 529];

impl Verdict {
    fn new(class: Class) -> Self {
        Self {
            class,
            advice: Advice::default(),
            sent: true,
        }
    }

    /// Judges an answer by all that it says.
    pub fn of_reply(reply: &Reply) -> Self {
        match is_unable(reply) {
            true => Self::new(Class::Unable),
            false => Self::of_answer(reply.status, &reply.headers),
        }
    }

    /// Judges an answer by its head.
    pub fn of_answer(status: StatusCode, headers: &HeaderMap) -> Self {
        let class = match status.as_u16() {
            409 => Class::Again,
            429 => Class::Limited,
            // Only pass-through answers come with these.
            status if PASSING.contains(&status) => Class::Again,
            _ => return Self::new(Class::Final),
        };
        Self {
            class,
            advice: Advice::read(headers, std::time::SystemTime::now()),
            sent: true,
        }
    }

    /// Returns the verdict of a failure that may pass.
    pub fn of_failure() -> Self {
        Self::new(Class::Again)
    }

    /// Judges a failure.
    pub fn of_error(error: &UpstreamError) -> Self {
        Self {
            sent: !is_unsent(error),
            ..Self::of_failed(error)
        }
    }

    fn of_failed(error: &UpstreamError) -> Self {
        let class = match error {
            UpstreamError::Connect(_)
            | UpstreamError::Broken(_)
            | UpstreamError::ErrorEvent { .. } => Class::Again,
            UpstreamError::Timeout { phase, .. } => match phase {
                // No time is left for anybody.
                Phase::Total | Phase::Client => Class::Final,
                // There is some, but not here.
                Phase::Target => Class::Elsewhere,
                Phase::Connect
                | Phase::Tls
                | Phase::FirstByte
                | Phase::FirstContent
                | Phase::Idle => Class::Again,
            },
            UpstreamError::Status { status, advice } => {
                let class = match PASSING.contains(&status.as_u16()) {
                    true => Class::Again,
                    false => Class::Elsewhere,
                };
                return Self {
                    advice: *advice,
                    ..Self::new(class)
                };
            }
            UpstreamError::Refused(_) => Class::Refused,
            UpstreamError::Overloaded { retry_after } | UpstreamError::NoPlace { retry_after } => {
                return Self {
                    advice: Advice {
                        wait: Some(*retry_after),
                        should_retry: None,
                    },
                    ..Self::new(Class::Elsewhere)
                };
            }
            // The model is on its way: a client may well try again.
            UpstreamError::NotLoaded => {
                return Self {
                    advice: Advice {
                        wait: Some(Duration::from_secs(1)),
                        should_retry: None,
                    },
                    ..Self::new(Class::Elsewhere)
                };
            }
            UpstreamError::Invalid(_)
            | UpstreamError::Unexpected(_)
            | UpstreamError::TooLarge { .. }
            | UpstreamError::Engine(_) => Class::Elsewhere,
            UpstreamError::BadRequest { .. } => Class::Unable,
            UpstreamError::Upload(_) => Class::Final,
        };
        Self::new(class)
    }

    /// Returns what a failure says of the endpoint's health; `None`: nothing. What a credential may not do, or not so
    /// often, is not its failure, nor is what the client asked for, nor what it does not offer.
    pub fn seen(error: &UpstreamError) -> Option<Seen> {
        match error {
            UpstreamError::Connect(_)
            | UpstreamError::Broken(_)
            | UpstreamError::ErrorEvent { .. }
            | UpstreamError::Invalid(_)
            | UpstreamError::Unexpected(_)
            | UpstreamError::NotLoaded
            | UpstreamError::Engine(_) => Some(Seen::Failed),
            UpstreamError::Timeout { phase, .. } => match phase {
                // A client's time is as short as it likes, and a long answer may be what was asked for.
                Phase::Total | Phase::Target | Phase::Client => None,
                Phase::Connect
                | Phase::Tls
                | Phase::FirstByte
                | Phase::FirstContent
                | Phase::Idle => Some(Seen::Failed),
            },
            UpstreamError::Status { status, .. } => match status.as_u16() {
                501 | 505 => Some(Seen::Well),
                500.. => Some(Seen::Failed),
                _ => Some(Seen::Well),
            },
            UpstreamError::Refused(_)
            | UpstreamError::TooLarge { .. }
            | UpstreamError::BadRequest { .. } => Some(Seen::Well),
            UpstreamError::Upload(_)
            | UpstreamError::Overloaded { .. }
            | UpstreamError::NoPlace { .. } => None,
        }
    }
}

/// Returns whether a failure came before anything of the call was sent: no connection stands, or none was tried.
fn is_unsent(error: &UpstreamError) -> bool {
    match error {
        UpstreamError::Connect(_)
        | UpstreamError::Overloaded { .. }
        | UpstreamError::NoPlace { .. } => true,
        UpstreamError::Timeout { phase, .. } => matches!(phase, Phase::Connect | Phase::Tls),
        UpstreamError::Broken(_)
        | UpstreamError::Status { .. }
        | UpstreamError::Unexpected(_)
        | UpstreamError::ErrorEvent { .. }
        | UpstreamError::Refused(_)
        | UpstreamError::Invalid(_)
        | UpstreamError::TooLarge { .. }
        | UpstreamError::Upload(_)
        | UpstreamError::NotLoaded
        | UpstreamError::Engine(_)
        | UpstreamError::BadRequest { .. } => false,
    }
}

/// Returns whether an answer says that what is asked cannot be had here: no such model, too long for it, or nothing that
/// it can do.
fn is_unable(reply: &Reply) -> bool {
    #[derive(Deserialize)]
    struct Told {
        error: Error,
    }
    #[derive(Deserialize)]
    struct Error {
        code: Option<String>,
    }
    match reply.status.as_u16() {
        404 => true,
        400 | 413 | 422 => {
            let body = reply.body.as_full().map_or(&[][..], |body| body);
            let told = serde_json::from_slice::<Told>(body).ok();
            let code = told.and_then(|told| told.error.code).unwrap_or_default();
            matches!(&*code, "context_length_exceeded" | "model_not_found")
                || code.starts_with("unsupported")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_status(status: u16) -> Class {
        let status = StatusCode::from_u16(status).unwrap();
        let advice = Advice::default();
        Verdict::of_error(&UpstreamError::Status { status, advice }).class
    }

    #[test]
    fn statuses_of_failures() {
        for status in [408, 500, 502, 503, 504, 529] {
            assert_eq!(of_status(status), Class::Again, "{status}");
        }
        for status in [501, 505, 520] {
            assert_eq!(of_status(status), Class::Elsewhere, "{status}");
        }
    }

    #[test]
    fn statuses_of_answers() {
        for (status, class) in [
            (200, Class::Final),
            (400, Class::Final),
            (404, Class::Final),
            (409, Class::Again),
            (413, Class::Final),
            (422, Class::Final),
            (429, Class::Limited),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let verdict = Verdict::of_answer(status, &HeaderMap::new());
            assert_eq!(verdict.class, class, "{status}");
        }
    }

    #[test]
    fn answers_that_another_model_could_give() {
        for (status, code, expected) in [
            (404, "model_not_found", Class::Unable),
            (400, "context_length_exceeded", Class::Unable),
            (400, "unsupported_parameter", Class::Unable),
            (400, "invalid_json", Class::Final),
            (200, "unsupported_parameter", Class::Final),
        ] {
            let body = format!("{{\"error\":{{\"code\":\"{code}\"}}}}");
            let status = StatusCode::from_u16(status).unwrap();
            let reply = Reply::full(status, HeaderMap::new(), body.into());
            assert_eq!(Verdict::of_reply(&reply).class, expected, "{code}");
        }
    }

    #[test]
    fn errors() {
        let broken = || Box::new(std::io::Error::other("broken"));
        let limit = Duration::ZERO;
        for (error, class, seen) in [
            (
                UpstreamError::Connect(broken()),
                Class::Again,
                Some(Seen::Failed),
            ),
            (
                UpstreamError::Broken(broken()),
                Class::Again,
                Some(Seen::Failed),
            ),
            (
                UpstreamError::Timeout {
                    phase: Phase::FirstByte,
                    limit,
                },
                Class::Again,
                Some(Seen::Failed),
            ),
            (
                UpstreamError::Timeout {
                    phase: Phase::Total,
                    limit,
                },
                Class::Final,
                None,
            ),
            (
                UpstreamError::Refused(StatusCode::UNAUTHORIZED),
                Class::Refused,
                Some(Seen::Well),
            ),
            (
                UpstreamError::Invalid("not HTTP"),
                Class::Elsewhere,
                Some(Seen::Failed),
            ),
            (
                UpstreamError::Overloaded { retry_after: limit },
                Class::Elsewhere,
                None,
            ),
        ] {
            assert_eq!(Verdict::of_error(&error).class, class, "{error}");
            assert_eq!(Verdict::seen(&error), seen, "{error}");
        }
    }

    #[test]
    fn only_what_never_had_a_connection_was_not_sent() {
        let failed = || Box::new(std::io::Error::other("failed"));
        let limit = Duration::ZERO;
        let late = |phase| UpstreamError::Timeout { phase, limit };
        for (error, sent) in [
            (UpstreamError::Connect(failed()), false),
            (late(Phase::Connect), false),
            (late(Phase::Tls), false),
            (UpstreamError::Overloaded { retry_after: limit }, false),
            (UpstreamError::Broken(failed()), true),
            (late(Phase::FirstByte), true),
            (late(Phase::Target), true),
            (UpstreamError::Invalid("not HTTP"), true),
        ] {
            assert_eq!(Verdict::of_error(&error).sent, sent, "{error}");
        }
    }
}
