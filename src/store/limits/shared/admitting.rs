//! What becomes of a call: let in by Redis, by a slice, or by this process alone; or not.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;

use super::asking::Wanted;
use super::hold::{Hold, Part, Taken};
use super::slice::{Found, Slice, Sliced};
use super::{OnOutage, Shared};
use crate::store::budgets::{Charge, Reservation, Spent};
use crate::store::limits::dimension::Amount;
use crate::store::limits::headroom::Headroom;
use crate::store::limits::refusal::Refusal;
use crate::store::limits::time::Time;
use crate::store::limits::{Denied, Who};
use crate::store::redis::Away;

/// A call that is let in by shared limits and budgets.
pub struct SharedAdmitted {
    /// What it has taken of limits.
    pub hold: Hold,
    /// What it has taken of budgets; `None` where it is charged to nobody.
    pub budgets: Option<Reservation>,
    /// The limits that would have refused it if they did more than report.
    pub shadow: Vec<Refusal>,
    /// What is left of each limit.
    pub left: Vec<Headroom>,
}

/// Why a call is not let in by shared limits and budgets.
#[derive(Debug)]
pub enum SharedDenied {
    /// A limit has no room, or a budget.
    Denied {
        /// Which.
        denied: Denied<Box<Spent>>,
        /// What is left of each limit.
        left: Vec<Headroom>,
    },
    /// Nobody can say: Redis is away, and without it nobody is let in.
    Away,
}

impl Shared {
    /// Takes what a call wants of every limit and budget that it counts towards, or of none.
    ///
    /// # Errors
    /// [`SharedDenied`]; then nothing was taken.
    pub async fn admit(
        self: &Arc<Self>,
        who: &Who<'_>,
        want: &Amount,
        charge: Option<Charge<'_>>,
    ) -> Result<SharedAdmitted, SharedDenied> {
        let wanted = self.limits.wanted(who, want);
        let kept = charge.map(|charge| self.budgets.reserve_alone(&charge));
        let budgets = match kept.transpose() {
            Ok(budgets) => budgets,
            Err(spent) => return self.spent(who, want, &wanted, spent).await,
        };
        let now = charge.map_or(Timestamp::UNIX_EPOCH, |charge| charge.at);
        let reports = budgets.as_ref().map(|budgets| budgets.reports(now));
        let mut reports = reports.unwrap_or_default();
        if wanted.is_empty() && reports.is_empty() {
            return self.alone(who, want, || Ok(budgets));
        }
        // What others have of a budget is to be known for each call: no slice tells.
        let slice = match reports.is_empty() {
            true => self.admit_by_slice(who, &wanted).await,
            false => Ok(None),
        };
        let reply = match slice {
            Ok(Some((hold, left))) => {
                return Ok(SharedAdmitted {
                    hold: Hold::Sliced(hold),
                    budgets,
                    shadow: Vec::new(),
                    left,
                });
            }
            Ok(None) => self.take(&wanted, &mut reports).await,
            Err(away) => Err(away),
        };
        let Ok(reply) = reply else {
            // Nobody knows the others' part of budgets: what they were last known to have counts.
            drop(budgets);
            let of_budgets = || self.budgets.charge(charge);
            return self.without_redis(|| self.alone(who, want, of_budgets));
        };
        self.budgets.answered(&reports, &reply.budgets, now);
        let left = reply.headroom(&wanted);
        let refusal = reply.refusal(&wanted).map(Box::new).map(Denied::Limit);
        let spent = || {
            let mut both = reports.iter().zip(&reply.budgets);
            let (report, answer) = both.find(|(_, answer)| answer.is_spent)?;
            Some(Denied::Other(report.spent(answer, now)))
        };
        if let Some(denied) = refusal.or_else(spent) {
            return Err(SharedDenied::Denied { denied, left });
        }
        let parts = reply.parts(&wanted);
        self.keep(reply.call, &parts);
        Ok(SharedAdmitted {
            hold: Hold::Shared(Taken::new(Arc::clone(self), reply.call, parts)),
            budgets,
            shadow: reply.shadow(&wanted),
            left,
        })
    }

    /// Refuses a call that a budget has no room for, or a limit: that one is told first.
    async fn spent(
        self: &Arc<Self>,
        who: &Who<'_>,
        want: &Amount,
        wanted: &[Wanted],
        spent: Box<Spent>,
    ) -> Result<SharedAdmitted, SharedDenied> {
        if wanted.is_empty() {
            return self.alone(who, want, || Err(spent));
        }
        let Ok(reply) = self.look(wanted, &mut []).await else {
            return self.without_redis(|| self.alone(who, want, || Err(spent)));
        };
        let refusal = reply.refusal(wanted).map(Box::new).map(Denied::Limit);
        Err(SharedDenied::Denied {
            denied: refusal.unwrap_or(Denied::Other(spent)),
            left: reply.headroom(wanted),
        })
    }

    /// Does what is to be done while Redis is away.
    fn without_redis(
        &self,
        alone: impl FnOnce() -> Result<SharedAdmitted, SharedDenied>,
    ) -> Result<SharedAdmitted, SharedDenied> {
        self.alone.fetch_add(1, Ordering::Relaxed);
        match self.on_outage {
            OnOutage::Local => alone(),
            OnOutage::Reject => Err(SharedDenied::Away),
        }
    }

    /// Lets a call in by what was taken beforehand for calls like it, where that is done.
    async fn admit_by_slice(
        self: &Arc<Self>,
        who: &Who<'_>,
        wanted: &[Wanted],
    ) -> Result<Option<(Sliced, Vec<Headroom>)>, Away> {
        let Some(times) = self.slices.times(wanted) else {
            return Ok(None);
        };
        let now = Time::now();
        match self.slices.find(who, wanted, now) {
            Found::Part(hold, left) => Ok(Some((hold, left))),
            Found::Dry => Ok(None),
            // While this one asks, and near a limit's end, each call asks for itself.
            Found::Nothing if !self.slices.dry(who, now) => Ok(None),
            Found::Nothing => {
                let many: Vec<_> = wanted.iter().map(|wanted| wanted.times(times)).collect();
                let reply = self.take(&many, &mut []).await?;
                if reply.refusal(&many).is_some() {
                    return Ok(None);
                }
                let left = reply.headroom(&many);
                let slice = Slice::new(Arc::clone(self), reply.parts(&many), left);
                // A shadow tells of each call: then what was taken is given back.
                let is_whole = reply.shadow(&many).is_empty();
                let part = is_whole.then(|| self.slices.put(who, slice, wanted, now));
                Ok(part.flatten())
            }
        }
    }

    /// Lets a call in by what this process counts alone.
    fn alone(
        self: &Arc<Self>,
        who: &Who<'_>,
        want: &Amount,
        of_budgets: impl FnOnce() -> Result<Option<Reservation>, Box<Spent>>,
    ) -> Result<SharedAdmitted, SharedDenied> {
        let now = Time::now();
        match self.limits.admit(who, want, now, of_budgets) {
            Ok(admitted) => {
                let call = self.calls.fetch_add(1, Ordering::Relaxed);
                let wanted = self.limits.wanted(who, want).into_iter();
                let parts: Vec<_> = wanted.map(|wanted| Part::new(wanted, 0)).collect();
                // Once Redis is back, its places are places there.
                self.keep(call, &parts);
                let left = admitted.reservation.headroom(who.model, now);
                let hold = Hold::alone(Arc::clone(self), call, parts, admitted.reservation);
                Ok(SharedAdmitted {
                    hold,
                    budgets: admitted.also,
                    shadow: admitted.shadow,
                    left,
                })
            }
            Err(denied) => Err(SharedDenied::Denied {
                denied,
                left: self.limits.headroom(who, now),
            }),
        }
    }
}
