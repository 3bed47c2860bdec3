//! How a plan looks at the places of its route, and picks one of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::candidates::{self, Kind, Past, Spot};
use super::super::route::Candidate;
use super::super::verdict::{Class, Verdict};
use super::{Place, Plan, State, Tried};
use crate::upstream::member::health::Standing;
use crate::upstream::member::{Endpoint, Trial};

/// A place, and its trial with whether the call does not pay for it.
type Picked = (Spot, Option<(Trial, bool)>);

impl Plan {
    /// Picks the place of a route that has only one, where it is well: the way of most calls.
    pub(super) fn go_to_the_only_place(&self, state: &mut State, now: Instant) -> bool {
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
                free: false,
            });
        }
        is_well
    }

    /// Goes on to the first of these priorities that has a place of this kind.
    pub(super) fn go(
        &self,
        state: &mut State,
        spots: &[Spot],
        kind: Kind,
        priorities: &[u32],
        at: Instant,
    ) -> bool {
        let now = Instant::now();
        for priority in priorities {
            let of = |spot: &&Spot| spot.priority == *priority && self.is(spot, kind, now);
            let open: Vec<Spot> = spots.iter().filter(of).copied().collect();
            let claimed = match kind {
                Kind::Tried => None,
                Kind::Fresh | Kind::Limited | Kind::LastResort => self.claim(state, &open, now),
            };
            let chosen = claimed.or_else(|| Some((self.choose(state, open, kind, now)?, None)));
            let Some((spot, trial)) = chosen else {
                continue;
            };
            let free = trial.as_ref().is_some_and(|(_, free)| *free);
            if *priority != state.priority {
                state.priority = *priority;
                state.tries = 0;
            }
            state.tries += u32::from(!free);
            state.resorts += u32::from(kind == Kind::LastResort);
            state.next = Some(self.place(spot, trial, at));
            return true;
        }
        false
    }

    /// Takes the trial of an endpoint that is due, where the call can bear its failure: beside a place that is well,
    /// once and for nothing, or where there is nothing better.
    fn claim(&self, state: &State, open: &[Spot], now: Instant) -> Option<Picked> {
        let is_beside = open.iter().any(|spot| spot.standing == Standing::Well);
        let free = is_beside && self.replayable;
        if free && state.tried.iter().any(|tried| tried.free) {
            return None;
        }
        let mut due = open.iter().filter(|spot| spot.standing == Standing::Due);
        due.find_map(|spot| {
            let trial = self.endpoint(spot).claim_trial(now)?;
            let is_paid = free || self.pays(state, spot.target);
            is_paid.then_some((*spot, Some((trial, free))))
        })
    }

    /// Picks one of several places that can be paid for.
    fn choose(&self, state: &State, mut open: Vec<Spot>, kind: Kind, now: Instant) -> Option<Spot> {
        open.retain(|spot| match kind {
            Kind::Fresh | Kind::Limited => spot.standing == Standing::Well,
            Kind::LastResort => {
                spot.kept || (spot.aside.is_some() && spot.standing == Standing::Well)
            }
            Kind::Tried => true,
        });
        loop {
            let picked = self.pick(&open, now)?;
            if self.pays(state, picked.target) {
                return Some(picked);
            }
            open.retain(|spot| !self.is_same_member(spot.target, picked.target));
        }
    }

    /// Takes what a try costs from the budget of its upstream's retries: nothing, if the call has not asked there yet.
    fn pays(&self, state: &State, target: usize) -> bool {
        let mut paid = state.tried.iter().filter(|tried| !tried.free);
        let is_retry = paid.any(|tried| self.is_same_member(tried.target, target));
        let is_paid = !is_retry || self.route.budget(target).withdraw();
        if !is_paid {
            let member = &self.target(target).member;
            if let Some(endpoint) = member.endpoints.first() {
                endpoint.metrics.retry_budget_exhausted(&member.name);
            }
        }
        is_paid
    }

    pub(super) fn pick(&self, spots: &[Spot], now: Instant) -> Option<Spot> {
        let candidates = self.candidates(spots);
        let picked = self.route.pick(&candidates, self.affinity, now)?;
        let is_picked =
            |spot: &&Spot| (spot.target, spot.endpoint) == (picked.target, picked.endpoint);
        spots.iter().find(is_picked).copied()
    }

    pub(super) fn candidates(&self, spots: &[Spot]) -> Vec<Candidate<'_>> {
        let candidate = |spot: &Spot| Candidate {
            target: spot.target,
            endpoint: spot.endpoint,
            weight: self.target(spot.target).weight,
            at: self.endpoint(spot),
        };
        spots.iter().map(candidate).collect()
    }

    pub(super) fn place(&self, spot: Spot, trial: Option<(Trial, bool)>, at: Instant) -> Place {
        let (trial, free) = trial.map_or((None, false), |(trial, free)| (Some(trial), free));
        Place {
            target: spot.target,
            endpoint: spot.endpoint,
            credential: self.target(spot.target).member.credentials.first(at),
            trial,
            free,
        }
    }

    pub(super) fn is(&self, spot: &Spot, kind: Kind, now: Instant) -> bool {
        let is_due = spot.standing == Standing::Due;
        let bears_trials =
            self.replayable || (is_due && self.endpoint(spot).health.is_overdue(now));
        spot.is(kind, bears_trials)
    }

    /// Looks at all places.
    pub(super) fn survey(&self, state: &State, now: Instant) -> Vec<Spot> {
        let mut spots = Vec::new();
        for (index, target) in self.route.targets.iter().enumerate() {
            let endpoints = target.member.endpoints.iter();
            let standings: Vec<Standing> = endpoints.map(|at| at.health.standing(now)).collect();
            let kept = candidates::kept(&standings, target.member.floor);
            let aside = target.member.credentials.aside(now);
            for (endpoint, (standing, kept)) in standings.into_iter().zip(kept).enumerate() {
                spots.push(Spot {
                    target: index,
                    endpoint,
                    priority: target.priority,
                    standing,
                    kept,
                    aside,
                    past: self.past(state, index, endpoint, now),
                });
            }
        }
        spots
    }

    /// Returns what the call has heard at a place, that of its credentials included.
    fn past(&self, state: &State, target: usize, endpoint: usize, now: Instant) -> Past {
        if state.spent.contains(&target) {
            return Past::Closed;
        }
        let credentials = &self.target(target).member.credentials;
        let here = |tried: &&Tried| (tried.target, tried.endpoint) == (target, endpoint);
        let of_member = |tried: &&Tried| self.is_same_member(tried.target, target);
        let left = |tried: &Tried| tried.wait(now);
        // A limit is the credential's, and holds at all of its upstream's endpoints.
        let limited = state
            .tried
            .iter()
            .filter(of_member)
            .filter(|t| t.is_limited());
        let of_credentials = match credentials.is_any_free(now) {
            true => None,
            false => limited.map(left).min(),
        };
        let mut tries = state.tried.iter().filter(here).peekable();
        if tries.peek().is_none() {
            return of_credentials.map_or(Past::Fresh, Past::Tried);
        }
        if tries.clone().any(|tried| tried.is_hopeless()) {
            return Past::Closed;
        }
        let own = tries.filter(|tried| !tried.is_limited()).map(left).max();
        Past::Tried(own.max(of_credentials).unwrap_or_default())
    }

    pub(super) fn endpoint(&self, spot: &Spot) -> &Arc<Endpoint> {
        &self.target(spot.target).member.endpoints[spot.endpoint]
    }

    pub(super) fn is_same_member(&self, one: usize, other: usize) -> bool {
        Arc::ptr_eq(&self.target(one).member, &self.target(other).member)
    }
}

impl Tried {
    /// Returns whether the credential had asked too often.
    fn is_limited(&self) -> bool {
        let limited = |(verdict, _): (Verdict, Instant)| verdict.class == Class::Limited;
        self.credential.is_some() && self.said.is_some_and(limited)
    }

    /// Returns whether the place has said that another try there will not do better.
    fn is_hopeless(&self) -> bool {
        self.said.is_some_and(|(verdict, _)| {
            matches!(verdict.class, Class::Elsewhere | Class::Unable)
                || verdict.advice.should_retry == Some(false)
        })
    }

    /// Returns how long it still asks to be left alone.
    fn wait(&self, now: Instant) -> Duration {
        let until = self
            .said
            .map(|(verdict, at)| at + verdict.advice.wait.unwrap_or_default());
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }
}
