//! What a try says of the next one.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

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
}

/// The kinds of ends of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The client's answer, good or bad: nobody else would answer otherwise.
    Final,
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
        }
    }

    /// Judges an answer.
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
        }
    }

    /// Judges a stream whose first event is an error.
    pub fn of_failed_start() -> Self {
        Self::new(Class::Again)
    }

    /// Judges a failure.
    pub fn of_error(error: &UpstreamError) -> Self {
        let class = match error {
            UpstreamError::Connect(_) | UpstreamError::Broken(_) => Class::Again,
            UpstreamError::Timeout { phase, .. } => match phase {
                // No time is left for anybody.
                Phase::Total => Class::Final,
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
                    class,
                    advice: *advice,
                };
            }
            UpstreamError::Refused(_) => Class::Refused,
            UpstreamError::Overloaded { retry_after } => {
                return Self {
                    class: Class::Elsewhere,
                    advice: Advice {
                        wait: Some(*retry_after),
                        should_retry: None,
                    },
                };
            }
            // The model is on its way: a client may well try again.
            UpstreamError::NotLoaded => {
                return Self {
                    class: Class::Elsewhere,
                    advice: Advice {
                        wait: Some(Duration::from_secs(1)),
                        should_retry: None,
                    },
                };
            }
            UpstreamError::Invalid(_)
            | UpstreamError::TooLarge { .. }
            | UpstreamError::Engine(_) => Class::Elsewhere,
            UpstreamError::Upload(_) | UpstreamError::BadRequest { .. } => Class::Final,
        };
        Self::new(class)
    }

    /// Returns what a failure says of the endpoint's health; `None`: nothing. What a credential may not do, or not so
    /// often, is not its failure, nor is what the client asked for, nor what it does not offer.
    pub fn seen(error: &UpstreamError) -> Option<Seen> {
        match error {
            UpstreamError::Connect(_)
            | UpstreamError::Broken(_)
            | UpstreamError::Invalid(_)
            | UpstreamError::NotLoaded
            | UpstreamError::Engine(_) => Some(Seen::Failed),
            UpstreamError::Timeout { phase, .. } => match phase {
                // The whole time of a call may be its client's own, and as short as that likes.
                Phase::Total => None,
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
            UpstreamError::Upload(_) | UpstreamError::Overloaded { .. } => None,
        }
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
}
