//! Where a call would go that is not made.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::candidates::{Kind, Spot};
use super::plan::Ranking;
use super::route::{Balance, Route};
use super::table::Choice;
use super::{Dispatch, DispatchError, affinity_key};
use crate::call::Call;
use crate::upstream::member::Aside;
use crate::upstream::member::health::Standing;

/// Where a call would go.
#[derive(Debug)]
pub struct Preview {
    /// The configured pattern that leads there; `none` for a path without a model.
    pub label: Arc<str>,
    /// How targets of one priority share the calls.
    pub balance: Balance,
    /// The places, in the order in which they would most likely be asked, those that are left out at the end.
    pub places: Vec<Prospect>,
    /// Why the call would go to none of them.
    pub refused: Option<DispatchError>,
}

/// One of the places.
#[derive(Clone, Debug, PartialEq)]
pub struct Prospect {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// Which of its endpoints.
    pub endpoint: Arc<str>,
    /// The name that it knows the model by; `None` where the path has no model.
    pub model: Option<Arc<str>>,
    /// Those of a higher number are asked when those of the lower ones fail.
    pub priority: u32,
    /// The share of the calls, where they are shared by weight.
    pub weight: u32,
    /// What it may be asked now.
    pub standing: Standing,
    /// Why none of its upstream's credentials is of use; `None`: one is, or none is needed.
    pub aside: Option<Aside>,
    /// Whether a call sent now could be answered: a model in this process may still be loading.
    pub is_loaded: bool,
    /// When it would be asked.
    pub turn: Turn,
    /// How likely it is to be the first, from 0 to 1.
    pub chance: f64,
}

/// When a place would be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// As those before it fail.
    InOrder,
    /// As all others fail, however badly it stands.
    LastResort,
    /// Never, as it stands now.
    LeftOut,
}

impl Dispatch {
    /// Returns where a call would go, and asks nobody.
    ///
    /// # Errors
    /// [`DispatchError`] where nothing takes it.
    pub fn preview(&self, call: &Call) -> Result<Preview, DispatchError> {
        let Choice { route, label } = self.table.choose(call)?;
        let affinity = route.affinity.as_ref();
        let affinity = affinity.and_then(|affinity| affinity_key(affinity, call));
        let now = Instant::now();
        let ranking = Ranking::of(route, call.is_replayable(), affinity, now);
        let prospect = |spot: &Spot, turn, chance| route.prospect(call, spot, turn, chance);
        let asked = ranking.asked.iter().map(|ranked| {
            let turn = match ranked.kind {
                Kind::LastResort => Turn::LastResort,
                Kind::Fresh | Kind::Limited | Kind::Tried => Turn::InOrder,
            };
            prospect(&ranked.spot, turn, ranked.chance)
        });
        let left_out = ranking.left_out.iter();
        let left_out = left_out.map(|spot| prospect(spot, Turn::LeftOut, 0.0));
        let retry_after: Duration = ranking.shortest_ejection;
        let refused = ranking.asked.is_empty();
        Ok(Preview {
            label: Arc::clone(label),
            balance: route.balance,
            places: asked.chain(left_out).collect(),
            refused: refused.then_some(DispatchError::NothingWell { retry_after }),
        })
    }
}

impl Route {
    fn prospect(&self, call: &Call, spot: &Spot, turn: Turn, chance: f64) -> Prospect {
        let target = &self.targets[spot.target];
        let endpoint = &target.member.endpoints[spot.endpoint];
        let renamed = call.model.as_ref().and(target.model.as_ref());
        Prospect {
            upstream: Arc::clone(&target.member.name),
            endpoint: Arc::clone(&endpoint.label),
            model: renamed.or(call.model.as_ref()).cloned(),
            priority: target.priority,
            weight: target.weight,
            standing: spot.standing,
            aside: spot.aside,
            is_loaded: endpoint.service.is_ready(),
            turn,
            chance,
        }
    }
}
