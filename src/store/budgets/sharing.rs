//! Budgets that several gateways share: what each tells of its own, and what it knows of the others.
//!
//! A gateway tells what it has used and reserved in all, never by how much that has changed. Each report has a number, and
//! one that is older than what is known says nothing: reports may be lost, late or repeated. Numbers begin at the time at
//! which the process does, in microseconds, and grow by one: those of a later run on the same ledger are greater.
//!
//! What each of the others was last heard to have is remembered, and brought back where it got lost: see [`Known`]. What all
//! of them together have used is heard more often than that: where it was more than is brought back, it is the least that they
//! count as having used until they tell as much again, see [`Floor`].

mod report;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;

use super::budget::{Amount, Holder};
use super::counter::{Counter, Spent};
use super::{Account, Budgets, Reservation};

pub use self::report::{Answer, Known, Report, Taken};

/// What a call is charged to, and how much of it.
#[derive(Clone, Copy, Debug)]
pub struct Charge<'a> {
    /// The key's name.
    pub key: &'a Arc<str>,
    /// The name of its team.
    pub team: Option<&'a Arc<str>>,
    /// What is reserved.
    pub amount: Amount,
    /// When.
    pub at: Timestamp,
}

/// What all others together were last heard to have.
#[derive(Clone, Debug)]
pub(super) struct Others {
    taken: Taken,
    /// The number of the report that this was the answer to.
    number: u64,
    /// When the calendar's period began that it is of, in seconds since 1970; 0 where there is none.
    period: i64,
    /// When it stops counting; `None`: with the period.
    until: Option<Timestamp>,
    /// In which epoch it was heard; empty: that was not known.
    epoch: Arc<str>,
}

/// The least that all others together count as having used: as much as they were heard to have, before that was lost where
/// reports come together. It is gone once they are heard to have used as much again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Floor {
    /// In the budget's own unit.
    used: u64,
    /// When the calendar's period began that it is of, in seconds since 1970; 0 where there is none.
    period: i64,
    /// When it stops counting; `None`: with the period.
    until: Option<Timestamp>,
}

/// What makes budgets shared ones.
#[derive(Debug)]
pub(super) struct Sharing {
    /// The id of this gateway's ledger.
    ledger: Arc<str>,
    /// The number of the next report.
    number: AtomicU64,
    /// Whose budgets others are to hear of: as many as there are holders of budgets.
    dirty: Mutex<HashSet<Holder>>,
    /// Woken when another is to be heard of.
    changed: Notify,
}

/// How long is kept what has no end: longer than any gateway that is used is not heard of.
const LONG: Duration = Duration::from_secs(400 * 24 * 3600);
/// How long a report is kept beyond the time that it is for: clocks may differ.
const GRACE: Duration = Duration::from_secs(24 * 3600);
/// How long a floor counts in a window that rolls: by then each of the others has told anew what it has,
/// and perhaps less.
const CATCH_UP: Duration = Duration::from_secs(30);
/// More is told as so much. Whoever adds up reports does so in doubles: sums of more than 2^53 (nine million dollars in
/// nano-dollars) may be off by a rounding.
const MOST: u64 = 1 << 62;

impl Sharing {
    /// Returns the number of the next report.
    fn next(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    fn dirty(&self) -> MutexGuard<'_, HashSet<Holder>> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has others hear of a holder's budgets, should they not know already.
    pub(super) fn note(&self, holder: &Holder) {
        if self.dirty().insert(holder.clone()) {
            self.changed.notify_one();
        }
    }
}

// === impl Budgets ===

impl Budgets {
    /// Returns budgets that several gateways share, each by the id of its own ledger.
    pub fn shared_by(ledger: Arc<str>, began: Timestamp) -> Self {
        let began = u64::try_from(began.as_microsecond()).unwrap_or(0);
        Self {
            sharing: Some(Arc::new(Sharing {
                ledger,
                number: AtomicU64::new(began.max(1)),
                dirty: Mutex::default(),
                changed: Notify::new(),
            })),
            ..Self::default()
        }
    }

    /// Keeps room for what is charged, as [`Budgets::reserve`] does, where anything is.
    ///
    /// # Errors
    /// The first budget that has no room.
    pub fn charge(&self, charge: Option<Charge<'_>>) -> Result<Option<Reservation>, Box<Spent>> {
        let Some(charge) = charge else {
            return Ok(None);
        };
        let Charge { key, team, .. } = charge;
        self.reserve(key, team, charge.amount, charge.at).map(Some)
    }

    /// Returns by which ledger they are shared.
    pub fn ledger(&self) -> Option<&str> {
        self.sharing.as_ref().map(|sharing| &*sharing.ledger)
    }

    /// Waits until others are to hear of something.
    pub async fn changed(&self) {
        match &self.sharing {
            Some(sharing) => sharing.changed.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Keeps room for a call as [`Budgets::reserve`] does, but asks only whether this gateway alone has left it. What all
    /// have left together others are to say: see [`Reservation::reports`].
    ///
    /// # Errors
    /// The first budget that has no room, whatever others have used.
    pub fn reserve_alone(&self, charge: &Charge<'_>) -> Result<Reservation, Box<Spent>> {
        self.keep(charge, |counter, holder| {
            counter.refuse_alone(holder, &charge.amount, charge.at)
        })
    }

    /// Returns what to ask others of the budgets of a key and its team. Nobody is told anything by it.
    pub fn questions(&self, key: &str, team: Option<&str>, now: Timestamp) -> Vec<Report> {
        let Some(sharing) = &self.sharing else {
            return Vec::new();
        };
        let accounts = self.accounts.load();
        let holders = [
            Some(Holder::Key(key.into())),
            team.map(|team| Holder::Team(team.into())),
        ];
        let mut reports = Vec::new();
        for account in holders.iter().flatten().filter_map(|it| accounts.get(it)) {
            for counter in account.counters().iter_mut().filter(|c| c.is_seeded) {
                reports.push(counter.report(account, sharing.next(), 0, now));
            }
        }
        reports
    }

    /// Takes over what others are said to have by whoever was asked for a call. Where it was never heard in what epoch that
    /// stands, it is asked for soon.
    pub fn answered(&self, reports: &[Report], answers: &[Answer], now: Timestamp) {
        for (report, answer) in reports.iter().zip(answers) {
            report.answered(answer, now);
            let Some(sharing) = &self.sharing else {
                continue;
            };
            let mut is_unheard = false;
            report.with_counter(|counter| is_unheard = counter.is_unheard(now));
            if is_unheard {
                sharing.note(&report.account.holder);
            }
        }
    }

    /// Returns what others are to hear: of all budgets, or of those of which they do not know yet.
    pub fn reports(&self, all: bool, now: Timestamp) -> Vec<Report> {
        let Some(sharing) = &self.sharing else {
            return Vec::new();
        };
        let dirty = std::mem::take(&mut *sharing.dirty());
        let accounts = self.accounts.load();
        let mut reports = Vec::new();
        let chosen = accounts
            .iter()
            .filter(|(holder, _)| all || dirty.contains(holder));
        for (_, account) in chosen {
            // Of those that are not filled yet nobody knows what they have.
            for counter in account.counters().iter_mut().filter(|c| c.is_seeded) {
                if all || counter.is_untold(now) {
                    counter.sent = sharing.next();
                    reports.push(counter.report(account, counter.sent, 0, now));
                }
            }
        }
        reports
    }
}

// === impl Reservation ===

impl Reservation {
    /// Returns what this gateway has of each budget that the call counts towards, the call among it.
    pub fn reports(&self, now: Timestamp) -> Vec<Report> {
        let Some(sharing) = &self.sharing else {
            return Vec::new();
        };
        let mut reports = Vec::new();
        for account in &self.accounts {
            let mut counters = account.counters();
            let counts = |c: &&mut Counter| c.number < self.first_unreserved && c.is_seeded;
            for counter in counters.iter_mut().filter(counts) {
                let want = counter.budget.of(&self.amount);
                counter.sent = sharing.next();
                reports.push(counter.report(account, counter.sent, want, now));
            }
        }
        reports
    }
}

// === impl Counter ===

impl Counter {
    /// Returns what all others together count as having: what was last heard of them, and no less used than the floor.
    pub(super) fn others(&self, now: Timestamp) -> Taken {
        let others = self.others.as_ref();
        let others = others.filter(|others| self.counts(others.period, others.until, now));
        let taken = others.map_or_else(Taken::default, |others| others.taken);
        Taken {
            used: taken.used.max(self.floor(now)),
            ..taken
        }
    }

    /// Returns the least that all others together count as having used, in the budget's own unit; 0 without a floor.
    fn floor(&self, now: Timestamp) -> u64 {
        let floor = self
            .floor
            .filter(|it| self.counts(it.period, it.until, now));
        floor.map_or(0, |floor| floor.used)
    }

    /// Returns whether what was heard in a period, and counts until then, still does.
    fn counts(&self, period: i64, until: Option<Timestamp>, now: Timestamp) -> bool {
        period == self.budget.period(now) && until.is_none_or(|until| now < until)
    }

    /// Makes what others count as having used now the floor, whatever they will be said to have used.
    fn raise_floor(&mut self, now: Timestamp) {
        let used = self.others(now).used;
        let rolls = self.budget.calendar(now).is_none() && self.budget.length().is_some();
        let caught_up = now.checked_add(CATCH_UP).ok().filter(|_| rolls);
        let over = self.others.as_ref().and_then(|others| others.until);
        self.floor = (used > 0).then(|| Floor {
            used,
            period: self.budget.period(now),
            until: caught_up.map(|time| over.map_or(time, |over| time.min(over))),
        });
    }

    /// Returns whether others are known to have used something, and not in what epoch that stands.
    fn is_unheard(&self, now: Timestamp) -> bool {
        let known = &self.known;
        let is_known = !known.epoch.is_empty() && known.period == self.budget.period(now);
        !is_known && self.others(now).used > 0
    }

    /// Returns what this gateway has, as it is told.
    fn own(&mut self, now: Timestamp) -> Taken {
        Taken {
            used: self.used(now).min(MOST),
            reserved: self.reserved.min(MOST),
        }
    }

    /// Returns whether others may know something else of this gateway than what is so.
    fn is_untold(&mut self, now: Timestamp) -> bool {
        let (number, told) = self.told;
        // What others have of a new one is not known, either.
        number == 0 || number != self.sent || told != self.own(now) || self.is_unheard(now)
    }

    /// Returns what this gateway has. The number is made under the same lock: what is told later has the greater one.
    fn report(&mut self, account: &Arc<Account>, number: u64, want: u64, now: Timestamp) -> Report {
        let budget = self.budget;
        let length = budget.length();
        let next = budget.calendar(now).map(|(_, next)| next);
        let rest = next.and_then(|next| Duration::try_from(next.duration_since(now)).ok());
        // Of another period, nothing is to be brought back.
        let known = match self.known.period == budget.period(now) {
            true => self.known.clone(),
            false => Known::default(),
        };
        let heard_in = self.others.as_ref().map(|others| &others.epoch);
        // Should that be lost, the epoch is another one.
        let is_in_epoch = !known.epoch.is_empty() && heard_in == Some(&known.epoch);
        let others_floor = match is_in_epoch {
            true => self.floor(now),
            false => self.others(now).used,
        };
        Report {
            account: Arc::clone(account),
            budget,
            name: budget.shared_name(&account.holder),
            number,
            own: self.own(now),
            want: want.min(MOST),
            size: budget.size().min(MOST),
            period: budget.period(now),
            counts_for: length.filter(|_| rest.is_none()),
            kept_for: rest.or(length).map_or(LONG, |time| time + GRACE),
            others_floor,
            known,
        }
    }

    /// Takes over what a report was answered, unless a later one was before it.
    fn learn(&mut self, report: &Report, answer: &Answer, now: Timestamp) {
        let heard = self.others.as_ref().map_or(0, |others| others.number);
        if report.number > heard {
            let epoch = match self.known.number == report.number {
                true => Arc::clone(&self.known.epoch),
                false => Arc::clone(&report.known.epoch),
            };
            let heard_in = self.others.as_ref().map(|others| &others.epoch);
            // In one epoch less is less: a window has rolled on, or somebody's ledger was emptied.
            let may_be_lost = epoch.is_empty() || heard_in.is_some_and(|it| *it != epoch);
            let used = answer.others.used;
            if may_be_lost && used < self.others(now).used {
                self.raise_floor(now);
            } else if self.floor.is_some_and(|floor| used >= floor.used) {
                self.floor = None;
            }
            self.others = Some(Others {
                taken: answer.others,
                number: report.number,
                period: report.period,
                until: report
                    .counts_for
                    .and_then(|time| now.checked_add(time).ok()),
                epoch,
            });
        }
        if answer.is_noted && report.number > self.told.0 {
            self.told = (report.number, report.own);
        } else if !answer.is_noted && self.sent == report.number {
            // As if it had not been sent.
            self.sent = self.told.0;
        }
    }
}

#[cfg(test)]
mod tests;
