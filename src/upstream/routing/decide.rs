//! What to do after a try: one pure decision.

use std::time::Duration;

use super::verdict::{Class, Verdict};
use crate::upstream::advice::Advice;

/// Everything that the decision depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation {
    /// How the last try ended.
    pub(super) verdict: Verdict,
    /// Another credential of the same upstream is free.
    pub(super) another_credential: bool,
    /// Another place of the same priority has not been tried.
    pub(super) neighbour: bool,
    /// Another try at this priority is allowed.
    pub(super) tries_left: bool,
    /// The wait that was asked for by the place of this priority that can be asked again first; `None`: there is none.
    pub(super) asked: Option<Duration>,
    /// The pause before that, drawn at random.
    pub(super) pause: Duration,
    /// The longest wait that an upstream may ask for.
    pub(super) max_retry_after: Duration,
    /// Until the call's deadline.
    pub(super) time_left: Duration,
    /// A place of a later priority has not been tried.
    pub(super) below: bool,
    /// A place that is left out could be asked for want of a better one.
    pub(super) last_resort: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask the same place with another credential.
    Rotate,
    /// Ask another place of the same priority.
    Neighbour,
    /// Ask a place of this priority once more, after a wait.
    Again(Duration),
    /// Ask a place of a later priority.
    Below,
    /// Ask a place that is left out.
    LastResort,
    /// Answer what there is.
    Stop {
        /// Whether a client's own retries could do no more than we have done.
        spent: bool,
    },
}

/// Decides. Whoever can answer at once goes before a wait, and a wait before what the operator likes less.
pub(super) fn decide(situation: &Situation) -> Step {
    let Situation { verdict, pause, .. } = *situation;
    let rotates = match verdict.class {
        Class::Final | Class::Unable => return Step::Stop { spent: false },
        Class::Limited | Class::Refused => true,
        Class::Again | Class::Elsewhere => false,
    };
    if situation.time_left.is_zero() {
        return Step::Stop { spent: false };
    }
    if rotates && situation.another_credential {
        return Step::Rotate;
    }
    if situation.neighbour {
        return Step::Neighbour;
    }
    let is_bearable = |asked: Duration| {
        asked <= situation.max_retry_after && asked.max(pause) < situation.time_left
    };
    if let Some(asked) = situation.asked
        && situation.tries_left
        && is_bearable(asked)
    {
        return Step::Again(asked.max(pause));
    }
    if situation.below {
        return Step::Below;
    }
    if situation.last_resort {
        return Step::LastResort;
    }
    // A client with more patience, or one that is told when to come back, may try itself. Nobody else has anything to
    // gain: what could be asked has been.
    let is_told = match verdict.advice {
        Advice {
            should_retry: Some(false),
            ..
        } => false,
        Advice { wait, .. } => {
            wait.is_some_and(|wait| verdict.class == Class::Elsewhere || !is_bearable(wait))
        }
    };
    Step::Stop {
        spent: !is_told && situation.asked.is_none_or(is_bearable),
    }
}

/// Draws the pause before the `count`th retry: full jitter, so that clients of one failure do not come back together
/// (Brooker, "Exponential Backoff and Jitter", 2015).
pub(super) fn pause(count: u32, base: Duration, max: Duration, random: f64) -> Duration {
    let ceiling = base.saturating_mul(1 << count.min(20)).min(max);
    ceiling.mul_f64(random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn after(class: Class) -> Situation {
        Situation {
            verdict: Verdict {
                class,
                advice: Advice::default(),
                sent: true,
            },
            another_credential: true,
            neighbour: true,
            tries_left: true,
            asked: matches!(class, Class::Limited | Class::Again).then_some(Duration::ZERO),
            pause: SECOND,
            max_retry_after: 30 * SECOND,
            time_left: 600 * SECOND,
            below: true,
            last_resort: true,
        }
    }

    fn told(wait: Duration) -> Verdict {
        let wait = Some(wait);
        Verdict {
            class: Class::Limited,
            advice: Advice {
                wait,
                should_retry: None,
            },
            sent: true,
        }
    }

    #[test]
    fn each_class_has_its_order_of_steps() {
        use Class::{Again, Elsewhere, Final, Limited, Refused};
        for (class, steps) in [
            (Final, vec![Step::Stop { spent: false }]),
            (
                Limited,
                vec![
                    Step::Rotate,
                    Step::Neighbour,
                    Step::Again(SECOND),
                    Step::Below,
                    Step::LastResort,
                    Step::Stop { spent: true },
                ],
            ),
            (
                Refused,
                vec![
                    Step::Rotate,
                    Step::Neighbour,
                    Step::Below,
                    Step::LastResort,
                    Step::Stop { spent: true },
                ],
            ),
            (
                Again,
                vec![
                    Step::Neighbour,
                    Step::Again(SECOND),
                    Step::Below,
                    Step::LastResort,
                    Step::Stop { spent: true },
                ],
            ),
            (
                Elsewhere,
                vec![
                    Step::Neighbour,
                    Step::Below,
                    Step::LastResort,
                    Step::Stop { spent: true },
                ],
            ),
        ] {
            let mut situation = after(class);
            for expected in steps {
                let step = decide(&situation);
                assert_eq!(step, expected, "{class:?}");
                match step {
                    Step::Rotate => situation.another_credential = false,
                    Step::Neighbour => situation.neighbour = false,
                    Step::Again(_) => situation.tries_left = false,
                    Step::Below => situation.below = false,
                    Step::LastResort => situation.last_resort = false,
                    Step::Stop { .. } => {}
                }
            }
        }
    }

    fn alone(verdict: Verdict) -> Situation {
        Situation {
            verdict,
            another_credential: false,
            neighbour: false,
            below: false,
            last_resort: false,
            asked: verdict.advice.wait,
            ..after(verdict.class)
        }
    }

    #[test]
    fn what_the_upstream_asks_for_is_the_least_wait() {
        assert_eq!(decide(&alone(told(7 * SECOND))), Step::Again(7 * SECOND));
        assert_eq!(decide(&alone(told(Duration::ZERO))), Step::Again(SECOND));
    }

    #[test]
    fn waits_that_are_too_long_go_to_the_client() {
        let stop = Step::Stop { spent: false };
        assert_eq!(decide(&alone(told(31 * SECOND))), stop);
        let short = Situation {
            time_left: 5 * SECOND,
            ..alone(told(6 * SECOND))
        };
        assert_eq!(decide(&short), stop);
    }

    #[test]
    fn no_retry_where_the_upstream_says_that_none_helps() {
        let mut verdict = after(Class::Again).verdict;
        verdict.advice.should_retry = Some(false);
        assert_eq!(decide(&alone(verdict)), Step::Stop { spent: true });
    }

    #[test]
    fn nothing_begins_when_no_time_is_left() {
        for class in [
            Class::Limited,
            Class::Refused,
            Class::Again,
            Class::Elsewhere,
        ] {
            let late = Situation {
                time_left: Duration::ZERO,
                ..after(class)
            };
            assert_eq!(decide(&late), Step::Stop { spent: false }, "{class:?}");
        }
    }

    #[test]
    fn a_full_queue_tells_the_client_when_to_come_back() {
        let mut verdict = told(SECOND);
        verdict.class = Class::Elsewhere;
        let full = Situation {
            asked: None,
            ..alone(verdict)
        };
        assert_eq!(decide(&full), Step::Stop { spent: false });
    }

    #[test]
    fn a_wait_that_another_place_asks_for_holds_there() {
        let elsewhere = |wait| Situation {
            asked: Some(wait),
            ..alone(after(Class::Again).verdict)
        };
        assert_eq!(decide(&elsewhere(20 * SECOND)), Step::Again(20 * SECOND));
        assert_eq!(decide(&elsewhere(31 * SECOND)), Step::Stop { spent: false });
    }

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let ceiling = |count| pause(count, SECOND / 2, 8 * SECOND, 1.0);
        assert_eq!(ceiling(0), SECOND / 2);
        assert_eq!(ceiling(3), 4 * SECOND);
        assert_eq!(ceiling(4), 8 * SECOND);
        assert_eq!(ceiling(4000), 8 * SECOND);
        assert_eq!(pause(3, SECOND, SECOND, 0.0), Duration::ZERO);
    }
}
