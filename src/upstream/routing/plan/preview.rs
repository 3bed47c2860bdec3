//! The places of a route in the order in which a call would ask them, for a call that is not made: no trial is claimed,
//! no turn of a credential taken, and nothing withdrawn from a budget.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::candidates::{Kind, Spot};
use super::super::route::Route;
use super::{Plan, State};
use crate::upstream::member::health::Standing;

/// The places of a route, as one call would see them.
pub(in super::super) struct Ranking {
    /// The places that would be asked, one after the other as long as each of them fails.
    pub(in super::super) asked: Vec<Ranked>,
    /// Those that are left out.
    pub(in super::super) left_out: Vec<Spot>,
    /// When the first of those that are left out is tried again.
    pub(in super::super) shortest_ejection: Duration,
}

/// A place that would be asked.
pub(in super::super) struct Ranked {
    pub(in super::super) spot: Spot,
    pub(in super::super) kind: Kind,
    /// How likely it is to be the first, from 0 to 1.
    pub(in super::super) chance: f64,
}

impl Ranking {
    /// Ranks the places of a route for a call that has asked nobody yet.
    pub(in super::super) fn of(
        route: &Arc<Route>,
        replayable: bool,
        affinity: Option<u64>,
        now: Instant,
    ) -> Self {
        let plan = Plan {
            route: Arc::clone(route),
            deadline: now,
            overdue: now,
            patience: None,
            replayable,
            affinity,
            state: Default::default(),
        };
        let mut left_out = plan.survey(&State::default(), now);
        let well = |priority| [(priority, Kind::Fresh), (priority, Kind::Limited)];
        let in_turn = plan.priorities().flat_map(well);
        let resorts = plan
            .priorities()
            .map(|priority| (priority, Kind::LastResort));
        let mut asked: Vec<Ranked> = Vec::new();
        for (priority, kind) in in_turn.chain(resorts) {
            let is_meant = |spot: &Spot| spot.priority == priority && plan.is(spot, kind, now);
            let (meant, others) = left_out.into_iter().partition(is_meant);
            left_out = others;
            let is_first = asked.is_empty();
            asked.extend(plan.rank(meant, kind, is_first, now));
        }
        Self {
            asked,
            left_out,
            shortest_ejection: plan.shortest_ejection(now),
        }
    }
}

impl Plan {
    /// Puts places that are asked as the same into the order that is likeliest.
    fn rank(&self, mut open: Vec<Spot>, kind: Kind, is_first: bool, now: Instant) -> Vec<Ranked> {
        let mut ranked: Vec<Ranked> = Vec::with_capacity(open.len());
        let mut chances = match is_first {
            true => self.chances(&open, now),
            false => vec![0.0; open.len()],
        };
        while !open.is_empty() {
            let next = likeliest(&self.chances(&open, now));
            ranked.push(Ranked {
                spot: open.remove(next),
                kind,
                chance: chances.remove(next),
            });
        }
        ranked
    }

    /// Returns how likely each place is to be the next. A trial that is due goes before all that are well.
    fn chances(&self, open: &[Spot], now: Instant) -> Vec<f64> {
        let due = open.iter().position(|spot| spot.standing == Standing::Due);
        match due {
            Some(due) => (0..open.len())
                .map(|index| f64::from(u8::from(index == due)))
                .collect(),
            None => self
                .route
                .chances(&self.candidates(open), self.affinity, now),
        }
    }
}

/// Returns the place of the largest number, of equal ones the first.
fn likeliest(chances: &[f64]) -> usize {
    let mut chances = chances.iter().enumerate();
    let largest = chances.next().map(|(index, chance)| (index, *chance));
    let largest = chances.fold(
        largest.unwrap_or_default(),
        |best, (index, chance)| match *chance > best.1 {
            true => (index, *chance),
            false => best,
        },
    );
    largest.0
}
