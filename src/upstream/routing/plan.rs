//! One call's way through its route: which place is asked next, and when it is over.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::decide::{self, Situation, Step};
use super::route::{Candidate, Route, Target};
use super::verdict::{Class, Verdict};
use crate::upstream::member::health::Standing;
use crate::upstream::member::{Endpoint, Trial};

/// The plan of one call, shared by its tries.
pub(super) struct Plan {
    route: Arc<Route>,
    /// When an answer must have begun: all tries end here, and waits for them.
    deadline: Instant,
    /// When it must have ended.
    overdue: Instant,
    /// Whether the request can be sent more than once.
    replayable: bool,
    affinity: Option<u64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where the next try goes.
    next: Option<Place>,
    tried: Vec<Tried>,
    /// Targets that cannot help any more: each of their credentials was refused.
    spent: Vec<usize>,
    priority: u32,
    /// Tries at this priority, with another credential at the same place not counted.
    tries: u32,
    pauses: u32,
    /// How the try that counts has ended, and which of `tried` it was.
    verdict: Option<(Verdict, usize)>,
}

/// Where a try goes.
pub(super) struct Place {
    /// The index of the target.
    pub(super) target: usize,
    /// The index of its upstream's endpoint.
    pub(super) endpoint: usize,
    /// The index of its upstream's credential.
    pub(super) credential: Option<usize>,
    /// Whether the endpoint's return hangs on it.
    pub(super) trial: Option<Trial>,
}

/// One of a plan's tries, for the plan to know it again.
#[derive(Clone, Copy, Debug)]
pub(super) struct TryId(usize);

#[derive(Clone, Copy)]
struct Tried {
    target: usize,
    endpoint: usize,
    credential: Option<usize>,
}

/// What comes after a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another one, after a wait.
    Try(Duration),
    /// The answer.
    Stop {
        /// Whether we have done what a client's own retries would do.
        spent: bool,
    },
}

/// All places are left out, for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NothingWell(pub(super) Duration);

/// Which places count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Well or due for a trial, and not tried by this call.
    Fresh,
    /// Tried by this call, and well or kept in use.
    Tried,
    /// Left out, but kept in use for want of a better one; not tried by this call.
    LastResort,
}

impl Plan {
    /// Makes the plan of a call and picks its first place. Of the two times an answer must have begun by the first, and
    /// ended by the second.
    pub(super) fn begin(
        route: Arc<Route>,
        (deadline, overdue): (Instant, Instant),
        replayable: bool,
        affinity: Option<u64>,
    ) -> Result<Self, NothingWell> {
        let plan = Self {
            route,
            deadline,
            overdue,
            replayable,
            affinity,
            state: Mutex::default(),
        };
        let now = Instant::now();
        {
            let mut state = plan.state();
            let is_there = plan.go_to_the_only_place(&mut state, now)
                || plan.go(&mut state, Kind::Fresh, None, now)
                || plan.go(&mut state, Kind::LastResort, None, now);
            if !is_there {
                return Err(NothingWell(plan.shortest_ejection(now)));
            }
        }
        let first = plan.state().next.as_ref().map_or(0, |place| place.target);
        plan.route.budget(first).deposit();
        Ok(plan)
    }

    /// Returns the route.
    pub(super) fn route(&self) -> &Route {
        &self.route
    }

    /// Returns when an answer must have begun.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Returns when an answer must have ended.
    pub(super) fn overdue(&self) -> Instant {
        self.overdue
    }

    /// Returns one of the route's targets.
    pub(super) fn target(&self, index: usize) -> &Target {
        &self.route.targets[index]
    }

    /// Takes the place of the next try.
    pub(super) fn take(&self) -> Option<(Place, TryId)> {
        let mut state = self.state();
        let place = state.next.take()?;
        Some((place.noted(&mut state), TryId(state.tried.len() - 1)))
    }

    /// Takes another place for a second try beside the first: a fresh one of the same priority, or a lower one's.
    pub(super) fn take_beside(&self) -> Option<(Place, TryId)> {
        self.go(&mut self.state(), Kind::Fresh, None, Instant::now());
        self.take()
    }

    /// Notes how the try that counts has ended.
    pub(super) fn ended(&self, verdict: Verdict, TryId(index): TryId) {
        self.state().verdict = Some((verdict, index));
    }

    /// Decides what comes after the try that has ended.
    pub(super) fn next(&self, now: Instant) -> Next {
        let mut state = self.state();
        let Some((verdict, index)) = state.verdict.take() else {
            return Next::Stop { spent: false };
        };
        let Some(last) = state.tried.get(index).copied() else {
            return Next::Stop { spent: false };
        };
        if verdict.class == Class::Final {
            return Next::Stop { spent: false };
        }
        // Looked for only when it is needed: the credentials take turns.
        let another = matches!(verdict.class, Class::Limited | Class::Refused)
            .then(|| self.another_credential(&state, last, now))
            .flatten();
        if verdict.class == Class::Refused && another.is_none() {
            state.spent.push(last.target);
        }
        let mut situation = self.situation(&state, verdict, another, now);
        let mut step = decide::decide(&situation);
        if matches!(step, Step::Again(_)) && !self.route.budget(last.target).withdraw() {
            situation.tries_left = false;
            step = decide::decide(&situation);
        }
        let same = state.priority;
        let (went, wait) = match step {
            Step::Stop { spent } => {
                let retries = self.route.retry.attempts > 0 || state.tried.len() > 1;
                return Next::Stop {
                    spent: spent && retries,
                };
            }
            Step::Rotate => {
                state.next = Some(Place {
                    target: last.target,
                    endpoint: last.endpoint,
                    credential: another,
                    trial: None,
                });
                // Not a try of ours: the credential was at fault.
                return Next::Try(Duration::ZERO);
            }
            Step::Neighbour => (
                self.go(&mut state, Kind::Fresh, Some(same), now),
                Duration::ZERO,
            ),
            Step::Again(wait) => {
                state.pauses += 1;
                (self.go(&mut state, Kind::Tried, Some(same), now), wait)
            }
            Step::Below => (self.go(&mut state, Kind::Fresh, None, now), Duration::ZERO),
            Step::LastResort => (
                self.go(&mut state, Kind::LastResort, None, now),
                Duration::ZERO,
            ),
        };
        match went {
            true => Next::Try(wait),
            false => Next::Stop { spent: false },
        }
    }

    fn situation(
        &self,
        state: &State,
        verdict: Verdict,
        another: Option<usize>,
        now: Instant,
    ) -> Situation {
        let retry = &self.route.retry;
        let targets = self.route.targets.iter();
        let equals = targets.filter(|target| target.priority == state.priority);
        let allowed = retry.attempts.saturating_add(1);
        let equals = u32::try_from(equals.count()).unwrap_or(u32::MAX);
        let has = |kind, priority| !self.candidates(state, kind, priority, now).is_empty();
        let same = Some(state.priority);
        // Every target is asked once, however few retries there are.
        let neighbour = state.tries < allowed.max(equals) && has(Kind::Fresh, same);
        Situation {
            verdict,
            another_credential: another.is_some(),
            neighbour,
            tries_left: state.tries < allowed && has(Kind::Tried, same),
            pause: decide::pause(state.pauses, retry.base, retry.max, fastrand::f64()),
            max_retry_after: retry.max_retry_after,
            time_left: self.deadline.saturating_duration_since(now),
            below: self
                .priorities_after(state.priority)
                .any(|priority| has(Kind::Fresh, Some(priority))),
            last_resort: has(Kind::LastResort, None),
        }
    }

    /// Picks the place of a route that has only one, where it is well: the way of most calls.
    fn go_to_the_only_place(&self, state: &mut State, now: Instant) -> bool {
        let [target] = &self.route.targets[..] else {
            return false;
        };
        let [endpoint] = &target.member.endpoints[..] else {
            return false;
        };
        let is_well = endpoint.health.standing(now) == Standing::Well;
        if is_well {
            state.priority = target.priority;
            state.tries = 1;
            state.next = Some(Place {
                target: 0,
                endpoint: 0,
                credential: target.member.credentials.first(now),
                trial: None,
            });
        }
        is_well
    }

    /// Picks the next place: of one priority, or else of the first that has one, later ones after the current.
    fn go(&self, state: &mut State, kind: Kind, priority: Option<u32>, now: Instant) -> bool {
        let priorities: Vec<u32> = match (priority, kind, state.tried.is_empty()) {
            (Some(priority), ..) => vec![priority],
            (None, Kind::Fresh, false) => std::iter::once(state.priority)
                .chain(self.priorities_after(state.priority))
                .collect(),
            _ => self.priorities().collect(),
        };
        for priority in priorities {
            let mut candidates = self.candidates(state, kind, Some(priority), now);
            // Whoever has just failed is asked again only when nobody else is there.
            if let (Kind::Tried, Some(last), 2..) = (kind, state.tried.last(), candidates.len()) {
                candidates.retain(|c| (c.target, c.endpoint) != (last.target, last.endpoint));
            }
            // An endpoint that is due comes back by the first call that can bear its failure.
            let due = candidates.iter().find_map(|candidate| {
                let trial = candidate.at.claim_trial(now)?;
                Some((*candidate, Some(trial)))
            });
            let pick = || {
                let picked = self.route.pick(&candidates, self.affinity, now)?;
                Some((picked, None))
            };
            let Some((picked, trial)) = due.or_else(pick) else {
                continue;
            };
            if priority != state.priority {
                state.priority = priority;
                state.tries = 0;
            }
            let credential = self.target(picked.target).member.credentials.first(now);
            state.tries += 1;
            state.next = Some(Place {
                target: picked.target,
                endpoint: picked.endpoint,
                credential,
                trial,
            });
            return true;
        }
        false
    }

    fn candidates(
        &self,
        state: &State,
        kind: Kind,
        priority: Option<u32>,
        now: Instant,
    ) -> Vec<Candidate<'_>> {
        let mut found = Vec::new();
        for (index, target) in self.route.targets.iter().enumerate() {
            if priority.is_some_and(|priority| priority != target.priority)
                || state.spent.contains(&index)
            {
                continue;
            }
            let member = &target.member;
            let mut spare = member.floor;
            let standings = member.endpoints.iter().map(|at| at.health.standing(now));
            let standings: Vec<Standing> = standings.collect();
            spare =
                spare.saturating_sub(standings.iter().filter(|s| **s == Standing::Well).count());
            for (endpoint, (at, standing)) in member.endpoints.iter().zip(standings).enumerate() {
                let tried = state.has_tried(index, endpoint);
                let in_use = standing == Standing::Well;
                let counts = match kind {
                    Kind::Fresh => {
                        !tried && (in_use || (standing == Standing::Due && self.replayable))
                    }
                    Kind::Tried => tried && (in_use || spare > 0),
                    Kind::LastResort => !tried && !in_use && spare > 0,
                };
                if counts {
                    found.push(Candidate {
                        target: index,
                        endpoint,
                        weight: target.weight,
                        at,
                    });
                }
            }
        }
        found
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

    fn priorities(&self) -> impl Iterator<Item = u32> {
        let mut last = None;
        self.route.targets.iter().filter_map(move |target| {
            let is_new = last.replace(target.priority) != Some(target.priority);
            is_new.then_some(target.priority)
        })
    }

    fn priorities_after(&self, priority: u32) -> impl Iterator<Item = u32> {
        self.priorities().filter(move |other| *other > priority)
    }

    fn shortest_ejection(&self, now: Instant) -> Duration {
        let targets = self.route.targets.iter();
        let endpoints = targets.flat_map(|target| &target.member.endpoints);
        let left = endpoints.map(|at: &Arc<Endpoint>| match at.health.standing(now) {
            Standing::Ejected(left) => left,
            Standing::Well | Standing::Due => Duration::ZERO,
        });
        left.min().unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn noted(self, state: &mut State) -> Self {
        state.tried.push(Tried {
            target: self.target,
            endpoint: self.endpoint,
            credential: self.credential,
        });
        self
    }
}

impl State {
    fn has_tried(&self, target: usize, endpoint: usize) -> bool {
        let mut tried = self.tried.iter();
        tried.any(|tried| (tried.target, tried.endpoint) == (target, endpoint))
    }
}
