//! One call's way through its route: which place is asked next, and when it is over.

mod next;
mod pick;
mod preview;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub(super) use self::preview::Ranking;
use super::DispatchError;
use super::candidates::Kind;
use super::route::{Route, Target};
use super::verdict::Verdict;
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
