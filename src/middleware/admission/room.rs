//! The room of a call, at limits and budgets together.

use crate::call::{Priced, Room};
use crate::store::{budgets, limits};

/// The room of a call.
pub(super) struct Kept {
    pub(super) limits: limits::Reservation,
    /// `None` where a call is charged to nobody.
    pub(super) budgets: Option<budgets::Reservation>,
    pub(super) reserved: limits::Amount,
}

impl Room for Kept {
    fn sent(&mut self) {
        self.limits.sent();
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
