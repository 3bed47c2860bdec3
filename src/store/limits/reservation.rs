//! What a call has taken, and what becomes of it.

use super::account::{Account, Cells, OfCall};
use super::cell::Cell;
use super::dimension::{Amount, Measure};
use super::gcra::Mark;
use super::headroom::{Headroom, headroom};
use super::time::Time;

/// What a call has taken of every limit that it counts towards.
///
/// It ends in one of three ways. [`Reservation::settle`]: its tokens are known, and the difference is given back or
/// owed. [`Reservation::keep`]: they are not, and nothing is given back. Dropped: before [`Reservation::sent`] nobody
/// has done anything for it, so that everything is given back, the request too; behind it, as with `keep`. Its places
/// among the concurrent ones are free afterwards, however it ends.
#[derive(Debug)]
#[must_use = "what is dropped is given back at once"]
pub struct Reservation {
    accounts: OfCall,
    parts: Vec<Part>,
    sent: bool,
}

/// What was taken of one cell.
#[derive(Debug)]
pub(super) struct Part {
    /// Which of the accounts.
    pub(super) account: usize,
    /// Which of its cells.
    pub(super) cell: u64,
    pub(super) measure: Measure,
    pub(super) n: u64,
    pub(super) mark: Mark,
    /// What of it was taken last, while the answer went on. What was taken before has been used by then.
    pub(super) last: Option<(u64, Mark)>,
}

impl Reservation {
    pub(super) fn new(accounts: OfCall, parts: Vec<Part>) -> Self {
        Self {
            accounts,
            parts,
            sent: false,
        }
    }

    /// Notes that the call has gone to an upstream: from here on it counts, whatever comes of it.
    pub fn sent(&mut self) {
        self.sent = true;
    }

    /// Ends it with what was really used. What was taken too much is given back, as far as time has not done that
    /// already; what was taken too little is owed, whether it is there or not.
    pub fn settle(mut self, used: Amount, now: Time) {
        self.end(|cells, part| {
            let Some(cell) = cells.find(part.cell) else {
                return;
            };
            match part.measure {
                Measure::Requests => part.give_back(cell, 0),
                Measure::Concurrent => part.give_back(cell, 1),
                Measure::Tokens | Measure::InputTokens | Measure::OutputTokens => {
                    let used = part.measure.of(&used);
                    part.give_back(cell, part.n.saturating_sub(used));
                    if used > part.n {
                        cell.owe(used - part.n, now);
                    }
                }
            }
        });
    }

    /// Ends it without knowing what was used: it stays as it was estimated.
    pub fn keep(mut self) {
        self.sent = true;
    }

    /// Takes `n` more tokens of the answer, from every limit or from none, and returns whether they were there. For
    /// answers that grow beyond what was reserved.
    pub fn take_more(&mut self, n: u32, now: Time) -> bool {
        let n = u64::from(n);
        let Self {
            accounts, parts, ..
        } = self;
        let mut locked = accounts
            .each_ref()
            .map(|account| account.as_deref().map(Account::lock));
        let mut trials = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            if !matches!(part.measure, Measure::Tokens | Measure::OutputTokens) {
                continue;
            }
            let cells = locked.get_mut(part.account).and_then(Option::as_mut);
            let Some(cell) = cells.and_then(|cells| cells.find(part.cell)) else {
                continue;
            };
            match cell.attempt(n, now) {
                Ok(trial) => trials.push((index, trial)),
                Err(_) if cell.subject.shadow => {}
                Err(_) => return false,
            }
        }
        for (index, trial) in trials {
            let Some(part) = parts.get_mut(index) else {
                continue;
            };
            let cells = locked.get_mut(part.account).and_then(Option::as_mut);
            if let Some(cell) = cells.and_then(|cells| cells.find(part.cell)) {
                let last = part.last.replace((n, cell.take(trial)));
                if let Some((_, used)) = last {
                    cell.give_back(0, used);
                }
                part.n = part.n.saturating_add(n);
            }
        }
        true
    }

    /// Returns what is left of each limit that it counts towards, the call itself taken.
    pub fn headroom(&self, model: Option<&str>, now: Time) -> Vec<Headroom> {
        headroom(&self.accounts, model, now)
    }

    /// Does the same to each part, once.
    fn end(&mut self, mut each: impl FnMut(&mut Cells, &Part)) {
        let mut parts = std::mem::take(&mut self.parts).into_iter().peekable();
        // They are in the order of their accounts, each of which is locked once and alone.
        for (index, account) in self.accounts.iter().enumerate() {
            let Some(account) = account.as_ref().filter(|_| parts.peek().is_some()) else {
                continue;
            };
            let mut cells = account.lock();
            while let Some(part) = parts.next_if(|part| part.account == index) {
                each(&mut cells, &part);
            }
        }
    }
}

impl Part {
    /// Gives back so many, and ends it. What was taken last goes first: time has restored none of it.
    fn give_back(&self, cell: &mut Cell, n: u64) {
        let mut rest = n;
        if let Some((last, mark)) = self.last {
            cell.give_back(n.min(last), mark);
            rest -= n.min(last);
        }
        cell.give_back(rest, self.mark);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let sent = self.sent;
        self.end(|cells, part| {
            let n = if sent { 0 } else { part.n };
            if let Some(cell) = cells.find(part.cell) {
                part.give_back(cell, n);
            }
        });
    }
}
