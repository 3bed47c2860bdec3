//! Budgets: how much a key or a team may use in a day, a month or in all, in money or in tokens.
//!
//! A call is reserved at an estimate before it goes anywhere, at every budget that it counts towards or at none, and
//! settled at what it really used. So what is spent and what is under way never exceed a budget together by more than
//! the estimates were too low. The counters live in memory; the ledger fills them at the start.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::tz::Offset;
use rusqlite::{Connection, params};

use crate::money::Nanos;

/// What may be used in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// How much.
    pub limit: Limit,
    /// In what time.
    pub per: Period,
    /// Where that time begins.
    pub window: Window,
    /// From how many thousandths of it on clients are warned.
    pub warn_at_thousandths: u32,
}

/// How much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// US dollars, as far as prices are known.
    Money(Nanos),
    /// Tokens of every class.
    Tokens(u64),
}

/// In what time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Period {
    /// A day, or 24 hours.
    Day,
    /// A month, or 30 days.
    Month,
    /// For ever.
    Total,
}

/// Where the time begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Window {
    /// At midnight, UTC, of the day or of the month's first day.
    Calendar,
    /// So long ago.
    Rolling,
}

/// Whose budget it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// A key's, by its name.
    Key(Arc<str>),
    /// A team's, by its name.
    Team(Arc<str>),
}

/// What a call may use, or has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Tokens of every class.
    pub tokens: u64,
    /// What they cost; nothing where the price is not known.
    pub cost: Nanos,
}

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

/// All budgets.
#[derive(Debug, Default)]
pub struct Budgets {
    accounts: ArcSwap<HashMap<Holder, Arc<Account>>>,
}

#[derive(Debug)]
struct Account {
    holder: Holder,
    counters: Mutex<Vec<Counter>>,
}

/// One budget and what has been used of it.
#[derive(Clone, Debug)]
struct Counter {
    budget: Budget,
    reserved: u64,
    /// What was used, by the time at which a bucket begins (seconds since 1970), the oldest first.
    used: VecDeque<(i64, u64)>,
}

/// Room that is kept for a call. Dropped without being settled, it is given back.
#[derive(Debug)]
pub struct Reservation {
    accounts: Vec<Arc<Account>>,
    amount: Amount,
    at: Timestamp,
    /// The fullest budget that clients are to be warned of.
    warning: Option<Balance>,
}

// === impl Budget ===

impl Budget {
    fn size(&self) -> u64 {
        match self.limit {
            Limit::Money(amount) => amount.get(),
            Limit::Tokens(tokens) => tokens,
        }
    }

    fn of(&self, amount: &Amount) -> u64 {
        match self.limit {
            Limit::Money(_) => amount.cost.get(),
            Limit::Tokens(_) => amount.tokens,
        }
    }

    /// Returns the start of the period that `now` is in, and of the next one.
    fn calendar(&self, now: Timestamp) -> Option<(Timestamp, Timestamp)> {
        if self.window == Window::Rolling {
            return None;
        }
        let today = Offset::UTC.to_datetime(now).date();
        let midnight = |date: Date| {
            let midnight = date.to_datetime(Time::midnight());
            Offset::UTC.to_timestamp(midnight).ok()
        };
        match self.per {
            Period::Day => Some((midnight(today)?, midnight(today.tomorrow().ok()?)?)),
            Period::Month => Some((
                midnight(today.first_of_month())?,
                midnight(today.last_of_month().tomorrow().ok()?)?,
            )),
            Period::Total => None,
        }
    }

    fn length(&self) -> Option<Duration> {
        match self.per {
            Period::Day => Some(Duration::from_secs(24 * 3600)),
            Period::Month => Some(Duration::from_secs(30 * 24 * 3600)),
            Period::Total => None,
        }
    }

    /// Returns from when on use counts.
    fn since(&self, now: Timestamp) -> Timestamp {
        let rolling = || now.checked_sub(self.length()?).ok();
        let calendar = self.calendar(now).map(|(start, _)| start);
        calendar.or_else(rolling).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// Returns the bucket that a time falls into. Rolling windows forget a bucket at a time: a quarter of an hour of a
    /// day, six hours of a month.
    fn bucket(&self, time: Timestamp) -> i64 {
        let seconds = time.as_second();
        match (self.window, self.per) {
            (Window::Rolling, Period::Day) => seconds - seconds.rem_euclid(900),
            (Window::Rolling, Period::Month) => seconds - seconds.rem_euclid(6 * 3600),
            _ => self.since(time).as_second(),
        }
    }

    /// Returns whether two budgets count the same, whatever their limits are.
    fn counts_as(&self, other: &Self) -> bool {
        let unit = |budget: &Self| matches!(budget.limit, Limit::Money(_));
        self.per == other.per && self.window == other.window && unit(self) == unit(other)
    }
}

/// `50.00 USD a month`, `5000000 tokens a day`.
impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.limit {
            Limit::Money(amount) => write!(f, "{amount} USD")?,
            Limit::Tokens(tokens) => write!(f, "{tokens} tokens")?,
        }
        f.write_str(match (self.per, self.window) {
            (Period::Day, Window::Calendar) => " a day",
            (Period::Day, Window::Rolling) => " in 24 hours",
            (Period::Month, Window::Calendar) => " a month",
            (Period::Month, Window::Rolling) => " in 30 days",
            (Period::Total, _) => " in total",
        })
    }
}

impl Period {
    /// Returns the word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
            Self::Total => "total",
        }
    }
}

impl Holder {
    /// Returns `key` or `team`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Team(_) => "team",
        }
    }

    /// Returns its name.
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Key(name) | Self::Team(name) => name,
        }
    }
}

// === impl Balance ===

impl Balance {
    /// Returns how much of it is used, in percent.
    pub fn percent(&self) -> u64 {
        self.thousandths() / 10
    }

    fn thousandths(&self) -> u64 {
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
    fn new(budget: Budget) -> Self {
        Self {
            budget,
            reserved: 0,
            used: VecDeque::new(),
        }
    }

    fn used(&mut self, now: Timestamp) -> u64 {
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

    fn add(&mut self, at: Timestamp, amount: u64) {
        let bucket = self.budget.bucket(at);
        match self.used.binary_search_by_key(&bucket, |(start, _)| *start) {
            Ok(index) => self.used[index].1 = self.used[index].1.saturating_add(amount),
            Err(index) => self.used.insert(index, (bucket, amount)),
        }
    }

    fn balance(&mut self, holder: &Holder, now: Timestamp) -> Balance {
        Balance {
            holder: holder.clone(),
            budget: self.budget,
            used: self.used(now),
            reserved: self.reserved,
            renewed: self.budget.calendar(now).map(|(_, next)| next),
        }
    }

    /// Says why a call does not fit.
    fn refuse(&mut self, holder: &Holder, amount: &Amount, now: Timestamp) -> Option<Spent> {
        let balance = self.balance(holder, now);
        let size = self.budget.size();
        let taken = balance.used.saturating_add(self.reserved);
        let fits = taken < size && taken.saturating_add(self.budget.of(amount)) <= size;
        (!fits).then(|| Spent {
            holder: holder.clone(),
            budget: self.budget,
            used: balance.used,
            is_used_up: balance.used >= size,
            renewed: balance.renewed,
        })
    }
}

// === impl Account ===

impl Account {
    fn counters(&self) -> MutexGuard<'_, Vec<Counter>> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Budgets ===

impl Budgets {
    /// Makes these all the budgets there are. What a budget that counts the same had used stays; what a new one's holder
    /// has used before is read from the ledger, calls under way at their estimates.
    ///
    /// # Errors
    /// SQLite's own; then nothing has changed.
    pub fn replace(
        &self,
        budgets: Vec<(Holder, Vec<Budget>)>,
        ledger: &Connection,
        now: Timestamp,
    ) -> Result<(), rusqlite::Error> {
        let old = self.accounts.load_full();
        let mut accounts = HashMap::new();
        for (holder, budgets) in budgets {
            if budgets.is_empty() {
                continue;
            }
            let account = old.get(&holder).cloned();
            let known: Vec<Budget> = account.as_ref().map_or_else(Vec::new, |account| {
                let counters = account.counters();
                counters.iter().map(|counter| counter.budget).collect()
            });
            let mut counters = Vec::with_capacity(budgets.len());
            for budget in budgets {
                let mut counter = Counter::new(budget);
                if !known.iter().any(|known| known.counts_as(&budget)) {
                    seed(&mut counter, &holder, ledger, now)?;
                }
                counters.push(counter);
            }
            // Calls under way hold the account: it stays the same one.
            let account = account.unwrap_or_else(|| {
                Arc::new(Account {
                    holder: holder.clone(),
                    counters: Mutex::default(),
                })
            });
            accounts.insert(holder, (account, counters));
        }
        let accounts = accounts
            .into_iter()
            .map(|(holder, (account, mut counters))| {
                let mut kept = account.counters();
                for counter in &mut counters {
                    // Taken only now: while others were read from the ledger, calls have gone on.
                    let known = kept
                        .iter()
                        .find(|known| known.budget.counts_as(&counter.budget));
                    if let Some(known) = known {
                        *counter = Counter {
                            budget: counter.budget,
                            ..known.clone()
                        };
                    }
                }
                *kept = counters;
                drop(kept);
                (holder, account)
            });
        self.accounts.store(Arc::new(accounts.collect()));
        Ok(())
    }

    /// Keeps room for a call at every budget that it counts towards, or at none.
    ///
    /// # Errors
    /// The first budget that has no room.
    pub fn reserve(
        &self,
        key: &Arc<str>,
        team: Option<&Arc<str>>,
        amount: Amount,
        now: Timestamp,
    ) -> Result<Reservation, Box<Spent>> {
        let all = self.accounts.load();
        let holders = [
            Some(Holder::Key(Arc::clone(key))),
            team.map(|team| Holder::Team(Arc::clone(team))),
        ];
        let accounts: Vec<_> = match all.is_empty() {
            true => Vec::new(),
            false => holders
                .iter()
                .flatten()
                .filter_map(|holder| all.get(holder).cloned())
                .collect(),
        };
        // Always the key's before the team's, so that two calls never wait for each other.
        let mut locked: Vec<_> = accounts
            .iter()
            .map(|account| (&account.holder, account.counters()))
            .collect();
        for (holder, counters) in &mut locked {
            let refused = counters
                .iter_mut()
                .find_map(|counter| counter.refuse(holder, &amount, now));
            if let Some(spent) = refused {
                return Err(Box::new(spent));
            }
        }
        let mut warning: Option<Balance> = None;
        for (holder, counters) in &mut locked {
            for counter in counters.iter_mut() {
                counter.reserved = counter.reserved.saturating_add(counter.budget.of(&amount));
                let balance = counter.balance(holder, now);
                let is_near =
                    balance.thousandths() >= u64::from(counter.budget.warn_at_thousandths);
                let is_nearer = |other: &Balance| balance.thousandths() > other.thousandths();
                if is_near && warning.as_ref().is_none_or(is_nearer) {
                    warning = Some(balance);
                }
            }
        }
        drop(locked);
        Ok(Reservation {
            accounts,
            amount,
            at: now,
            warning,
        })
    }

    /// Returns the state of each budget.
    pub fn balances(&self, now: Timestamp) -> Vec<Balance> {
        let accounts = self.accounts.load();
        let of = |account: &Arc<Account>| {
            let mut counters = account.counters();
            let balances = counters.iter_mut();
            balances
                .map(|counter| counter.balance(&account.holder, now))
                .collect::<Vec<_>>()
        };
        accounts.values().flat_map(of).collect()
    }

    /// Returns the state of the budgets that the calls of a key count towards.
    pub fn balances_of(&self, key: &str, team: Option<&str>, now: Timestamp) -> Vec<Balance> {
        let mut balances = self.balances(now);
        balances.retain(|balance| match &balance.holder {
            Holder::Key(name) => **name == *key,
            Holder::Team(name) => Some(&**name) == team,
        });
        balances
    }
}

// === impl Reservation ===

impl Reservation {
    /// Returns the fullest budget that its clients are to be warned of.
    pub fn warning(&self) -> Option<&Balance> {
        self.warning.as_ref()
    }

    /// Books what was really used, in the period in which it was reserved.
    pub fn settle(mut self, used: Amount) {
        self.end(Some(used));
    }

    fn end(&mut self, used: Option<Amount>) {
        for account in self.accounts.drain(..) {
            for counter in account.counters().iter_mut() {
                let reserved = counter.budget.of(&self.amount);
                counter.reserved = counter.reserved.saturating_sub(reserved);
                if let Some(used) = &used {
                    let used = counter.budget.of(used);
                    counter.add(self.at, used);
                }
            }
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.end(None);
    }
}

/// Fills a counter with what its holder has used before.
fn seed(
    counter: &mut Counter,
    holder: &Holder,
    ledger: &Connection,
    now: Timestamp,
) -> Result<(), rusqlite::Error> {
    let budget = counter.budget;
    let column = match holder {
        Holder::Key(_) => "key",
        Holder::Team(_) => "team",
    };
    let name = &**holder.name();
    let tokens = "input_tokens + cached_input_tokens + cache_write_tokens + input_audio_tokens + output_tokens
        + reasoning_tokens + output_audio_tokens";
    let (of_row, of_forgotten) = match budget.limit {
        Limit::Money(_) => ("coalesce(cost, 0)", "cost"),
        Limit::Tokens(_) => (tokens, "tokens"),
    };
    // A quarter of an hour divides every bucket.
    let sql = format!(
        "SELECT id / 900000000 * 900, sum({of_row}) FROM request WHERE id >= ? AND {column} = ? GROUP BY 1"
    );
    let since = budget.since(now).as_microsecond();
    let mut select = ledger.prepare(&sql)?;
    let mut rows = select.query(params![since, name])?;
    while let Some(row) = rows.next()? {
        let (at, used): (i64, i64) = (row.get(0)?, row.get(1)?);
        // The first quarter may have begun before the window.
        let at = at.max(since.div_euclid(1_000_000));
        let at = Timestamp::from_second(at).unwrap_or(now);
        counter.add(at, used.max(0).cast_unsigned());
    }
    if budget.per == Period::Total {
        let sql =
            format!("SELECT coalesce(sum({of_forgotten}), 0) FROM forgotten WHERE {column} = ?");
        let forgotten: i64 = ledger.query_row(&sql, [name], |row| row.get(0))?;
        counter.add(Timestamp::UNIX_EPOCH, forgotten.max(0).cast_unsigned());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
