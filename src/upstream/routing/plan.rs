//! One call's way through its route: which place is asked next, and when it is over.

mod pick;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::DispatchError;
use super::candidates::{self, Kind, Spot};
use super::decide::{self, Situation, Step};
use super::route::{Route, Target};
use super::verdict::{Class, Verdict};
use crate::call::Reply;
use crate::upstream::member::health::Standing;
use crate::upstream::member::{Endpoint, Trial};
use crate::upstream::{Phase, UpstreamError};

/// The plan of one call, shared by its tries.
pub(super) struct Plan {
    route: Arc<Route>,
    /// When an answer must have begun: all tries end here, and waits for them.
    deadline: Instant,
    /// When it must have ended.
    overdue: Instant,
    /// How long the client waits for the beginning of an answer, where it says so and that is what counts.
    patience: Option<Duration>,
    /// Whether the request can be sent more than once. Where it cannot, another try is made only if nothing was sent.
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
    /// Tries at this priority, with another credential at the same place not counted, nor a trial beside a place that is
    /// well: an endpoint's return is not paid for by the call.
    tries: u32,
    /// Tries for want of a better place.
    resorts: u32,
    pauses: u32,
    /// Which of `tried` counts.
    counts: Option<usize>,
    /// The last failure, for the case that those who are asked after it cannot serve the call at all.
    failure: Option<Failure>,
    /// Whether the last one could not.
    unable: bool,
}

/// How a try ended that was no answer.
pub(super) type Failure = Result<Reply, DispatchError>;

/// When the parts of a call must be there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// When an answer must have begun.
    pub(super) deadline: Instant,
    /// When it must have ended.
    pub(super) overdue: Instant,
    /// The client's own time, where the deadline is the client's.
    pub(super) patience: Option<Duration>,
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
    /// Whether it is a trial that the call does not pay for.
    free: bool,
}

/// One of a plan's tries, for the plan to know it again.
#[derive(Clone, Copy, Debug)]
pub(super) struct TryId(usize);

#[derive(Clone, Copy)]
struct Tried {
    target: usize,
    endpoint: usize,
    credential: Option<usize>,
    free: bool,
    /// How it ended, and when.
    said: Option<(Verdict, Instant)>,
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
    /// Makes the plan of a call and picks its first place.
    pub(super) fn begin(
        route: Arc<Route>,
        times: Times,
        replayable: bool,
        affinity: Option<u64>,
    ) -> Result<Self, NothingWell> {
        let Times {
            deadline,
            overdue,
            patience,
        } = times;
        let plan = Self {
            route,
            deadline,
            overdue,
            patience,
            replayable,
            affinity,
            state: Mutex::default(),
        };
        let now = Instant::now();
        {
            let mut state = plan.state();
            let is_there = plan.go_to_the_only_place(&mut state, now) || {
                let spots = plan.survey(&state, now);
                let all: Vec<u32> = plan.priorities().collect();
                // A limit that will be over soon is no reason to ask whom the operator likes less.
                let by_priority = all.iter().any(|priority| {
                    let kinds = [Kind::Fresh, Kind::Limited];
                    let mut kinds = kinds.into_iter();
                    kinds.any(|kind| plan.go(&mut state, &spots, kind, &[*priority], now))
                });
                by_priority || plan.go(&mut state, &spots, Kind::LastResort, &all, now)
            };
            if !is_there {
                return Err(NothingWell(plan.shortest_ejection(now)));
            }
        }
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

    /// Tells whose time it was that is over.
    pub(super) fn attribute(&self, error: UpstreamError) -> UpstreamError {
        let UpstreamError::Timeout {
            phase: Phase::Total,
            limit,
        } = error
        else {
            return error;
        };
        let (phase, limit) = match self.patience {
            _ if Instant::now() < self.deadline => (Phase::Target, limit),
            Some(patience) => (Phase::Client, patience),
            None => (Phase::Total, limit),
        };
        UpstreamError::Timeout { phase, limit }
    }

    /// Keeps how the last try failed, unless it is that its place cannot serve the call.
    pub(super) fn keep(&self, result: &mut Failure) {
        let mut state = self.state();
        if state.unable {
            return;
        }
        state.failure = match result {
            // Whatever hangs on its end must not wait for the end of the call.
            Ok(reply) => reply.body.take_full().map(|body| {
                let headers = std::mem::take(&mut reply.headers);
                Ok(Reply::full(reply.status, headers, body))
            }),
            Err(error) => Some(Err(std::mem::replace(
                error,
                DispatchError::NothingWell {
                    retry_after: Duration::ZERO,
                },
            ))),
        };
    }

    /// Returns the failure that is the answer where nobody asked after it could serve the call.
    pub(super) fn failure(&self) -> Option<Failure> {
        let mut state = self.state();
        match state.unable {
            true => state.failure.take(),
            false => None,
        }
    }

    /// Returns one of the route's targets.
    pub(super) fn target(&self, index: usize) -> &Target {
        &self.route.targets[index]
    }

    /// Takes the place of the next try.
    pub(super) fn take(&self) -> Option<(Place, TryId)> {
        let mut state = self.state();
        let place = state.next.take()?;
        let which = self.note(&mut state, &place);
        Some((place, which))
    }

    /// Takes another place for a second try beside the first: a fresh one of the same priority that is as good as the
    /// operator wishes. `may` is asked once there is one.
    pub(super) fn take_beside(&self, may: impl FnOnce() -> bool) -> Option<(Place, TryId)> {
        let now = Instant::now();
        let mut state = self.state();
        let beside = self.survey(&state, now).into_iter().filter(|spot| {
            spot.priority == state.priority
                && spot.standing == Standing::Well
                && spot.is(Kind::Fresh, false)
                && !self.target(spot.target).degraded
        });
        let picked = self.pick(&beside.collect::<Vec<_>>(), now)?;
        if !may() {
            return None;
        }
        let place = self.place(picked, None, now);
        let which = self.note(&mut state, &place);
        Some((place, which))
    }

    /// Notes a try: with the first at an upstream the call counts for the budget of that upstream's retries.
    fn note(&self, state: &mut State, place: &Place) -> TryId {
        let budget = self.route.budget(place.target);
        let mut before = state.tried.iter();
        if !before.any(|tried| std::ptr::eq(self.route.budget(tried.target), budget)) {
            budget.deposit();
        }
        state.tried.push(Tried {
            target: place.target,
            endpoint: place.endpoint,
            credential: place.credential,
            free: place.free,
            said: None,
        });
        TryId(state.tried.len() - 1)
    }

    /// Notes what a place said.
    pub(super) fn heard(&self, verdict: Verdict, TryId(index): TryId) {
        if let Some(tried) = self.state().tried.get_mut(index) {
            tried.said = Some((verdict, Instant::now()));
        }
    }

    /// Notes which try counts: the next step hangs on how it ended.
    pub(super) fn counts(&self, TryId(index): TryId) {
        self.state().counts = Some(index);
    }

    /// Returns whether no try has been made before this one.
    pub(super) fn is_first(&self, TryId(index): TryId) -> bool {
        index == 0
    }

    /// Decides what comes after the try that has ended.
    pub(super) fn next(&self, now: Instant) -> Next {
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
