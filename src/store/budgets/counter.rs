//! What has been used of one budget, and what is left of it.

use std::collections::VecDeque;

use jiff::Timestamp;
use rusqlite::{Connection, Error as SqlError, Row, params};

use super::budget::{Amount, Budget, Holder, Limit, Period};
use crate::store::ledger::{SUM_OF_COSTS, sum_of_costs};

/// A budget that has no room for a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Whose.
    pub holder: Holder,
    /// Which.
    pub budget: Budget,
    /// What has been used of it, in its own unit.
    pub used: u64,
    /// Whether it is used up; else only this call does not fit any more.
    pub is_used_up: bool,
    /// What the call wants of it, in its own unit.
    pub wanted: u64,
    /// Whether the call would not fit if nothing had been used.
    pub is_too_large: bool,
    /// When a period begins anew; `None`: it does not, or bit by bit.
    pub renewed: Option<Timestamp>,
}

/// The state of one budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    /// Whose.
    pub holder: Holder,
    /// Which.
    pub budget: Budget,
    /// What has been used of it, in its own unit.
    pub used: u64,
    /// What is reserved for calls under way.
    pub reserved: u64,
    /// When a period begins anew; `None`: it does not, or bit by bit.
    pub renewed: Option<Timestamp>,
}

/// One budget and what has been used of it.
#[derive(Clone, Debug)]
pub(super) struct Counter {
    /// When it came among its holder's counters: later ones have larger numbers.
    pub(super) number: u64,
    pub(super) budget: Budget,
    pub(super) reserved: u64,
    /// What was used, by the time at which a bucket begins (seconds since 1970), the oldest first.
    pub(super) used: VecDeque<(i64, u64)>,
}

// === impl Balance ===

impl Balance {
    /// Returns how much of it is used, in percent.
    pub fn percent(&self) -> u64 {
        self.thousandths() / 10
    }

    pub(super) fn thousandths(&self) -> u64 {
        let part = u128::from(self.used) * 1000 / u128::from(self.budget.size().max(1));
        u64::try_from(part).unwrap_or(u64::MAX)
    }

    /// Returns what is left, in its own unit.
    pub fn left(&self) -> u64 {
        self.budget.size().saturating_sub(self.used)
    }
}

// === impl Counter ===

impl Counter {
    pub(super) fn new(budget: Budget) -> Self {
        Self {
            number: 0,
            budget,
            reserved: 0,
            used: VecDeque::new(),
        }
    }

    pub(super) fn used(&mut self, now: Timestamp) -> u64 {
        let since = self.budget.since(now).as_second();
        // A bucket that is still partly in the window counts whole, so that no window holds more than the limit.
        let first = self.budget.bucket(self.budget.since(now));
        while self
            .used
            .front()
            .is_some_and(|(start, _)| *start < first.min(since))
        {
            self.used.pop_front();
        }
        let counted = self.used.iter().filter(|(start, _)| *start >= first);
        counted.fold(0, |sum, (_, used)| sum.saturating_add(*used))
    }

    pub(super) fn add(&mut self, at: Timestamp, amount: u64) {
        let bucket = self.budget.bucket(at);
        match self.used.binary_search_by_key(&bucket, |(start, _)| *start) {
            Ok(index) => self.used[index].1 = self.used[index].1.saturating_add(amount),
            Err(index) => self.used.insert(index, (bucket, amount)),
        }
    }

    pub(super) fn balance(&mut self, holder: &Holder, now: Timestamp) -> Balance {
        Balance {
            holder: holder.clone(),
            budget: self.budget,
            used: self.used(now),
            reserved: self.reserved,
            renewed: self.budget.calendar(now).map(|(_, next)| next),
        }
    }

    /// Returns whether a call that is under way may use more. Unlike a new call, it may take the very last.
    pub(super) fn has_room(&mut self, holder: &Holder, more: &Amount, now: Timestamp) -> bool {
        let used = self.balance(holder, now).used;
        let taken = used.saturating_add(self.reserved);
        taken.saturating_add(self.budget.of(more)) <= self.budget.size()
    }

    /// Says why a call does not fit.
    pub(super) fn refuse(
        &mut self,
        holder: &Holder,
        amount: &Amount,
        now: Timestamp,
    ) -> Option<Spent> {
        let balance = self.balance(holder, now);
        let size = self.budget.size();
        let taken = balance.used.saturating_add(self.reserved);
        let wanted = self.budget.of(amount);
        let fits = taken < size && taken.saturating_add(wanted) <= size;
        (!fits).then(|| Spent {
            holder: holder.clone(),
            budget: self.budget,
            used: balance.used,
            is_used_up: balance.used >= size,
            wanted,
            is_too_large: wanted > size,
            renewed: balance.renewed,
        })
    }
}

/// Fills a counter with what its holder has used before.
pub(super) fn seed(
    counter: &mut Counter,
    holder: &Holder,
    ledger: &Connection,
    now: Timestamp,
) -> Result<(), SqlError> {
    let budget = counter.budget;
    let column = match holder {
        Holder::Key(_) => "key",
        Holder::Team(_) => "team",
    };
    let name = &**holder.name();
    type Read = fn(&Row<'_>, usize) -> Result<u64, SqlError>;
    let (sum, read): (&str, Read) = match budget.limit {
        Limit::Money(_) => (SUM_OF_COSTS, |row, at| Ok(sum_of_costs(row, at)?.get())),
        Limit::Tokens(_) => ("coalesce(sum(tokens), 0)", |row, at| {
            Ok(row.get::<_, i64>(at)?.max(0).cast_unsigned())
        }),
    };
    // A quarter of an hour divides every bucket.
    let sql = format!(
        "SELECT id / 900000000 * 900, {sum} FROM request WHERE id >= ? AND {column} = ? GROUP BY 1"
    );
    let since = budget.since(now).as_microsecond();
    let mut select = ledger.prepare(&sql)?;
    let mut rows = select.query(params![since, name])?;
    while let Some(row) = rows.next()? {
        let (at, used): (i64, u64) = (row.get(0)?, read(row, 1)?);
        // The first quarter may have begun before the window.
        let at = at.max(since.div_euclid(1_000_000));
        let at = Timestamp::from_second(at).unwrap_or(now);
        counter.add(at, used);
    }
    // Rows may be kept for a shorter time than a month; what they had used is known by spans that are a rolling month's
    // buckets, and divide a calendar's. A day is never longer than rows are kept.
    if budget.per == Period::Month {
        let first = budget.bucket(budget.since(now)).saturating_mul(1_000_000);
        let sql = format!(
            "SELECT since / 1000000, {sum} FROM forgotten WHERE since >= ? AND {column} = ? GROUP BY since"
        );
        let mut select = ledger.prepare(&sql)?;
        let mut spans = select.query(params![first, name])?;
        while let Some(span) = spans.next()? {
            let at = Timestamp::from_second(span.get(0)?).unwrap_or(now);
            counter.add(at, read(span, 1)?);
        }
    }
    if budget.per == Period::Total {
        let sql = format!("SELECT {sum} FROM forgotten WHERE {column} = ?");
        let forgotten = ledger.query_row(&sql, [name], |row| read(row, 0))?;
        counter.add(Timestamp::UNIX_EPOCH, forgotten);
    }
    Ok(())
}
