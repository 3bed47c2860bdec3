//! What comes after a try: which ways are open, and the place of the one that is taken.

use std::time::Duration;

use tokio::time::Instant;

use super::super::candidates::{self, Kind, Spot};
use super::super::decide::{self, Situation, Step};
use super::super::verdict::{Class, Verdict};
use super::{Next, Place, Plan, State, Tried};

impl State {
    /// Returns whether another target has failed: it could have served the call, for all that is known.
    fn failed_elsewhere(&self, target: usize) -> bool {
        let mut others = self.tried.iter().filter(|tried| tried.target != target);
        others.any(|tried| {
            tried.said.is_some_and(|(verdict, _)| match verdict.class {
                Class::Again | Class::Limited | Class::Refused | Class::Elsewhere => true,
                Class::Final | Class::Unable => false,
            })
        })
    }
}

impl Plan {
    /// Decides what comes after the try that has ended.
    pub(in super::super) fn next(&self, now: Instant) -> Next {
        let mut state = self.state();
        let counts = state.counts.take();
        let last = counts.and_then(|index| state.tried.get(index).copied());
        let Some((last, (mut verdict, _))) = last.and_then(|last| Some((last, last.said?))) else {
            return Next::Stop { spent: false };
        };
        state.unable = verdict.class == Class::Unable && state.failed_elsewhere(last.target);
        if !self.replayable && verdict.sent {
            return Next::Stop { spent: false };
        }
        match verdict.class {
            Class::Unable if state.unable => verdict.class = Class::Elsewhere,
            Class::Final | Class::Unable => return Next::Stop { spent: false },
            Class::Again | Class::Limited | Class::Refused | Class::Elsewhere => {}
        }
        // Looked for only when it is needed: the credentials take turns.
        let another = matches!(verdict.class, Class::Limited | Class::Refused)
            .then(|| self.another_credential(&state, last, now))
            .flatten();
        if verdict.class == Class::Refused && another.is_none() {
            state.spent.push(last.target);
        }
        let spots = self.survey(&state, now);
        let retry = &self.route.retry;
        let pause = decide::pause(state.pauses, retry.base, retry.max, fastrand::f64());
        let again = candidates::again(&spots, state.priority, pause, (last.target, last.endpoint));
        let (asked, again) = again.unzip();
        let mut situation = Situation {
            verdict,
            another_credential: another.is_some(),
            asked,
            pause,
            ..self.situation(&state, &spots, now)
        };
        // Whatever turns out to be taken by other calls, or not to be paid for, is no way.
        loop {
            let step = decide::decide(&situation);
            let same = [state.priority];
            let (went, wait) = match step {
                Step::Stop { spent } => {
                    let retries = retry.attempts > 0 || state.tried.len() > 1;
                    return Next::Stop {
                        spent: spent && retries,
                    };
                }
                Step::Rotate => {
                    // Not a try of ours: the credential was at fault.
                    state.next = Some(Place {
                        target: last.target,
                        endpoint: last.endpoint,
                        credential: another,
                        trial: None,
                        free: last.free,
                    });
                    (true, Duration::ZERO)
                }
                Step::Neighbour => {
                    situation.neighbour = false;
                    let went = self.go(&mut state, &spots, Kind::Fresh, &same, now);
                    (went, Duration::ZERO)
                }
                Step::Again(wait) => {
                    situation.tries_left = false;
                    let spots = again.as_deref().unwrap_or_default();
                    (
                        self.go(&mut state, spots, Kind::Tried, &same, now + wait),
                        wait,
                    )
                }
                Step::Below => {
                    situation.below = false;
                    let below: Vec<u32> = self.priorities_after(state.priority).collect();
                    let went = self.go(&mut state, &spots, Kind::Fresh, &below, now);
                    (went, Duration::ZERO)
                }
                Step::LastResort => {
                    situation.last_resort = false;
                    let all: Vec<u32> = self.priorities().collect();
                    let went = self.go(&mut state, &spots, Kind::LastResort, &all, now);
                    (went, Duration::ZERO)
                }
            };
            if went {
                state.pauses += u32::from(matches!(step, Step::Again(_)));
                return Next::Try(wait);
            }
        }
    }

    /// Returns which ways are open.
    fn situation(&self, state: &State, spots: &[Spot], now: Instant) -> Situation {
        let retry = &self.route.retry;
        let targets = self.route.targets.iter();
        let equals = targets.filter(|target| target.priority == state.priority);
        let allowed = retry.attempts.saturating_add(1);
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let equals = count(equals.count());
        let mut fresh = spots.iter().filter(|spot| self.is(spot, Kind::Fresh, now));
        let mut of_same = fresh.clone();
        let mut all = spots.iter();
        Situation {
            verdict: Verdict::of_failure(),
            another_credential: false,
            // Every target is asked once, however few retries there are.
            neighbour: state.tries < allowed.max(equals)
                && of_same.any(|spot| spot.priority == state.priority),
            tries_left: state.tries < allowed,
            asked: None,
            pause: Duration::ZERO,
            max_retry_after: retry.max_retry_after,
            time_left: self.deadline.saturating_duration_since(now),
            below: fresh.any(|spot| spot.priority > state.priority),
            last_resort: state.resorts < allowed.max(count(self.route.targets.len()))
                && all.any(|spot| self.is(spot, Kind::LastResort, now)),
        }
    }

    fn another_credential(&self, state: &State, last: Tried, now: Instant) -> Option<usize> {
        let of_target = state
            .tried
            .iter()
            .filter(|tried| tried.target == last.target);
        let used: Vec<usize> = of_target.filter_map(|tried| tried.credential).collect();
        self.target(last.target)
            .member
            .credentials
            .fresh(&used, now)
    }
}
