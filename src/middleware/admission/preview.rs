//! What admission would say of a call that is not made: the same estimate, held against the same limits and budgets, and
//! nothing kept or counted.

use std::sync::Arc;

use jiff::Timestamp;

use super::desk::{Desk, Forecast, Now, Whose, of_limits_or_unknown};
use super::room::of_budgets;
use super::{AdmissionError, Rules, Ways};
use crate::call::{Call, Caller};
use crate::store::limits::{Amount, Headroom, Time};
use crate::store::{budgets, limits};

/// What admission would say of a call.
#[derive(Debug)]
pub struct Preview {
    /// What the call is expected to use; `None` where nobody can tell, or nothing is.
    pub forecast: Option<Forecast>,
    /// Each limit that it would count towards: the key's first, then the team's, the route's, the gateway's.
    pub limits: Vec<limits::Preview>,
    /// Each budget that it would count towards: the key's first, then the team's.
    pub budgets: Vec<budgets::Preview>,
    /// Why it would be turned away.
    pub refused: Option<AdmissionError>,
}

/// What is left of each limit that a call would count towards. `None`: nobody can say, and nobody is let in then.
pub type Rooms = Option<Vec<Headroom>>;

/// Looks at the limits that a call would count towards, wherever those are counted, and at what others have of its budgets.
pub async fn rooms(rules: &Rules, whose: Whose) -> Rooms {
    let who = whose.who();
    let here = || rules.limits.headroom(&who, Time::now());
    let Some(shared) = &rules.shared else {
        return Some(here());
    };
    let charged = whose.is_charged.then(Timestamp::now);
    let there = shared.headroom(&who, charged).await;
    there.or_else(|| shared.goes_on_alone().then(here))
}

/// Tells what would become of a call, by what is left of its limits. Nothing is taken for it.
/// `is_answered`: its answer is there already.
pub fn preview(
    rules: Arc<Rules>,
    ways: Arc<dyn Ways>,
    call: &Call,
    is_answered: bool,
    rooms: Rooms,
) -> Preview {
    let desk = Desk { rules, ways };
    desk.preview(call, is_answered, rooms, Now::read())
}

impl Desk {
    pub(super) fn preview(
        &self,
        call: &Call,
        is_answered: bool,
        rooms: Rooms,
        now: Now,
    ) -> Preview {
        let whose = Whose::of(call, &*self.ways);
        let who = whose.who();
        let uses_nothing = is_answered || call.endpoint.is_listing();
        let forecast = match uses_nothing {
            true => None,
            false => self.forecast(call, &who, now.time),
        };
        let reserved = forecast.as_ref().map(|cast| &cast.estimate.reserved);
        let amount = match uses_nothing {
            true => Amount::default(),
            false => of_limits_or_unknown(call, reserved),
        };
        let is_away = rooms.is_none();
        let limits: Vec<_> = rooms
            .into_iter()
            .flatten()
            .map(|room| limits::Preview::of(room, &amount))
            .collect();
        let Caller { key, team, .. } = &*call.caller;
        let of_budgets = reserved.map(of_budgets).unwrap_or_default();
        let budgets = match uses_nothing {
            true => Vec::new(),
            false => self
                .rules
                .budgets
                .preview(key, team.as_ref(), &of_budgets, now.date),
        };
        let limited = limits::told(&limits).cloned();
        let limited = limited.map(|refusal| AdmissionError::Limited(Box::new(refusal)));
        let spent = || {
            let spent = budgets.iter().find_map(|preview| preview.spent.clone())?;
            Some(AdmissionError::Spent(Box::new(spent)))
        };
        // What this gateway has used up by itself it knows without others; only of limits nobody can say then.
        let away = is_away.then(|| {
            let is_limited = !self.rules.limits.headroom(&who, now.time).is_empty();
            let mut spent = budgets.iter().filter_map(|it| it.spent_alone.clone());
            match spent.next().filter(|_| !is_limited) {
                Some(spent) => AdmissionError::Spent(Box::new(spent)),
                None => AdmissionError::Away,
            }
        });
        Preview {
            forecast,
            refused: away.or(limited).or_else(spent),
            limits,
            budgets,
        }
    }
}
