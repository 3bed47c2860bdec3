//! The room of a call, at limits and budgets together.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::desk::{Desk, Now};
use crate::call::{Priced, Room};
use crate::openai::usage::Usage;
use crate::store::{budgets, limits};

/// The room of a call.
pub(super) struct Kept {
    pub(super) desk: Arc<Desk>,
    pub(super) model: Option<Arc<str>>,
    pub(super) limits: limits::Hold,
    /// `None` where a call is charged to nobody.
    pub(super) budgets: Option<budgets::Reservation>,
    /// What the ledger says of the call as long as it is under way.
    pub(super) entered: budgets::Amount,
    pub(super) reserved: limits::Amount,
    /// Whether limits that are counted elsewhere had no more when they were asked.
    pub(super) is_spent: bool,
}

impl Kept {
    /// Takes room for more generated tokens, from every limit and budget.
    fn take(&mut self, tokens: u32) -> bool {
        let now = Now::read();
        let more = Usage {
            output: u64::from(tokens),
            ..Usage::default()
        };
        let (desk, model) = (&self.desk, self.model.as_deref());
        let budgets = self.budgets.as_mut();
        let has_room = budgets.is_none_or(|budgets| {
            let more = of_budgets(&desk.priced(model, more));
            budgets.take_more(more, now.date)
        });
        // What a budget gives stays taken until the end, also where a limit has no more.
        let has_room = has_room && self.limits.take_more(tokens, now.time);
        if has_room {
            self.reserved.output = self.reserved.output.saturating_add(u64::from(tokens));
        }
        has_room
    }
}

impl Room for Kept {
    fn sent(&mut self) {
        self.limits.sent();
        if let Some(reservation) = &mut self.budgets {
            reservation.entered(self.entered);
        }
    }

    fn holds(&mut self, generated: u64) -> bool {
        let Some(slice) = self.desk.rules.stop.map(NonZeroU32::get) else {
            return true;
        };
        // What went out before anybody could say that it was not there. Once there is none, nobody is asked again.
        if let Some(denied) = self.limits.denied() {
            self.reserved.output = self.reserved.output.saturating_sub(u64::from(denied));
            self.is_spent = true;
        }
        if self.is_spent {
            return generated <= self.reserved.output;
        }
        while generated > self.reserved.output {
            let lacking = generated - self.reserved.output;
            let lacking = u32::try_from(lacking).unwrap_or(u32::MAX);
            // The last slice of a limit is a smaller one.
            if !self.take(slice.max(lacking)) && !self.take(lacking) {
                return false;
            }
        }
        true
    }

    fn poll_known(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.limits.poll_known(cx)
    }

    fn settle(self: Box<Self>, used: &Priced, is_guess: bool) {
        if let Some(budgets) = self.budgets {
            budgets.settle(of_budgets(used));
        }
        let mut used = of_limits(used);
        if is_guess {
            used.input = used.input.max(self.reserved.input);
            used.output = used.output.max(self.reserved.output);
        }
        self.limits.settle(used, limits::Time::now());
    }
}

/// Returns what a budget counts.
pub(super) fn of_budgets(priced: &Priced) -> budgets::Amount {
    budgets::Amount {
        tokens: priced.usage.total(),
        cost: priced.cost.unwrap_or_default(),
    }
}

/// Returns what a limit counts.
pub(super) fn of_limits(priced: &Priced) -> limits::Amount {
    limits::Amount {
        input: priced.usage.prompt(),
        output: priced.usage.completion(),
    }
}
