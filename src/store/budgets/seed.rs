//! What was used of budgets before they came, as the ledger has it.
//!
//! However many budgets are new, the rows are read once, those of the longest period that counts; the few rows of a few
//! keys are found by their index.

use jiff::Timestamp;
use rusqlite::{Connection, Error as SqlError, Params, params};
use rustc_hash::FxHashMap;

use super::budget::{Budget, Holder, Limit, Period};
use super::counter::Counter;

/// For how many keys their rows are looked up one by one: for more, all rows are read in their order on the disk.
const FEW: usize = 8;
/// A quarter of an hour divides every bucket.
const QUARTER: i64 = 900;

/// What the rows of a ledger say of one new budget.
#[derive(Debug)]
pub(super) struct Seed {
    pub(super) holder: Holder,
    pub(super) number: u64,
    /// Adds up.
    counter: Counter,
    /// The start of the first bucket that counts.
    first: i64,
    /// What was used in a quarter of an hour that may yet go on.
    quarter: i64,
    used: u64,
}

/// The new budgets of holders of one kind, by their names.
type ByName<'a> = FxHashMap<&'a str, Vec<usize>>;

impl Seed {
    pub(super) fn new(holder: Holder, number: u64, budget: Budget) -> Self {
        Self {
            holder,
            number,
            counter: Counter::new(number, budget),
            first: 0,
            quarter: 0,
            used: 0,
        }
    }

    /// Adds all that was read to the counter that has counted meanwhile.
    pub(super) fn fill(self, counter: &mut Counter) {
        for (at, used) in self.counter.used {
            counter.add(second(at), used);
        }
        counter.is_seeded = true;
    }

    fn add(&mut self, quarter: i64, tokens: u64, cost: u64) {
        if quarter < self.first {
            return;
        }
        if quarter != self.quarter {
            self.end_quarter();
            self.quarter = quarter;
        }
        self.used = self.used.saturating_add(self.of(tokens, cost));
    }

    fn end_quarter(&mut self) {
        let used = std::mem::take(&mut self.used);
        if used > 0 {
            self.counter.add(second(self.quarter), used);
        }
    }

    /// Adds what rows had used that were deleted for their age. Those may be kept for a shorter time than a month; what
    /// they had used is known by spans that are a rolling month's buckets, and divide a calendar's. A day is never longer
    /// than rows are kept.
    fn remember(&mut self, since: i64, tokens: u64, cost: u64) {
        let at = match self.counter.budget.per {
            Period::Day => return,
            Period::Month if since < self.first => return,
            Period::Month => second(since),
            Period::Total => Timestamp::UNIX_EPOCH,
        };
        let used = self.of(tokens, cost);
        self.counter.add(at, used);
    }

    fn of(&self, tokens: u64, cost: u64) -> u64 {
        match self.counter.budget.limit {
            Limit::Money(_) => cost,
            Limit::Tokens(_) => tokens,
        }
    }
}

/// Fills in what the ledger says.
pub(super) fn read(
    seeds: &mut [Seed],
    ledger: &Connection,
    now: Timestamp,
) -> Result<(), SqlError> {
    for seed in &mut *seeds {
        let budget = &seed.counter.budget;
        // The bucket that the window begins in counts whole, as it does for calls that were counted as they went.
        seed.first = budget.bucket(budget.since(now));
    }
    let names: Vec<_> = seeds.iter().map(|seed| seed.holder.clone()).collect();
    let (mut keys, mut teams) = (ByName::default(), ByName::default());
    for (index, holder) in names.iter().enumerate() {
        let (by_name, name) = match holder {
            Holder::Key(name) => (&mut keys, name),
            Holder::Team(name) => (&mut teams, name),
        };
        by_name.entry(name).or_default().push(index);
    }
    let none = ByName::default();
    let looked_up = if keys.len() <= FEW { &keys } else { &none };
    let scanned = if keys.len() <= FEW { &none } else { &keys };
    let first = |seeds: &[Seed], by_name: &ByName<'_>| {
        let indices = by_name.values().flatten();
        let firsts = indices.filter_map(|index| seeds.get(*index));
        firsts
            .map(|seed| seed.first.saturating_mul(1_000_000))
            .min()
    };
    const ROWS: &str = "SELECT id, key, team, tokens, cost FROM request";
    for (name, indices) in looked_up {
        let one = ByName::from_iter([(*name, indices.clone())]);
        let from = params![first(seeds, &one), name];
        let sql = format!("{ROWS} WHERE id >= ?1 AND key = ?2");
        each(
            ledger,
            &sql,
            from,
            &one,
            &none,
            &mut |index, at, tokens, cost| {
                add(seeds, index, at, tokens, cost);
            },
        )?;
    }
    let from = [first(seeds, scanned), first(seeds, &teams)];
    if let Some(from) = from.iter().flatten().min() {
        let sql = format!("{ROWS} WHERE id >= ?1");
        each(
            ledger,
            &sql,
            [from],
            scanned,
            &teams,
            &mut |index, at, tokens, cost| {
                add(seeds, index, at, tokens, cost);
            },
        )?;
    }
    seeds.iter_mut().for_each(Seed::end_quarter);
    let looks_further = |seed: &Seed| seed.counter.budget.per != Period::Day;
    if seeds.iter().any(looks_further) {
        let sql = "SELECT since, key, team, tokens, cost FROM forgotten";
        each(
            ledger,
            sql,
            [],
            &keys,
            &teams,
            &mut |index, since, tokens, cost| {
                if let Some(seed) = seeds.get_mut(index) {
                    seed.remember(since.div_euclid(1_000_000), tokens, cost);
                }
            },
        )?;
    }
    Ok(())
}

fn add(seeds: &mut [Seed], index: usize, at: i64, tokens: u64, cost: u64) {
    if let Some(seed) = seeds.get_mut(index) {
        let quarter = at.div_euclid(QUARTER * 1_000_000) * QUARTER;
        seed.add(quarter, tokens, cost);
    }
}

/// Shows the rows of these keys and teams: for which budget, when, how many tokens and what they cost.
fn each(
    ledger: &Connection,
    sql: &str,
    params: impl Params,
    keys: &ByName<'_>,
    teams: &ByName<'_>,
    see: &mut dyn FnMut(usize, i64, u64, u64),
) -> Result<(), SqlError> {
    let mut select = ledger.prepare(sql)?;
    let mut rows = select.query(params)?;
    while let Some(row) = rows.next()? {
        let of_key = row.get_ref(1)?.as_str().ok().and_then(|key| keys.get(key));
        let of_team = row.get_ref(2)?.as_str_or_null().ok().flatten();
        let of_team = of_team.and_then(|team| teams.get(team));
        if of_key.is_none() && of_team.is_none() {
            continue;
        }
        let at = row.get(0)?;
        let tokens = row.get::<_, i64>(3)?.max(0).cast_unsigned();
        let cost = row.get::<_, Option<i64>>(4)?.unwrap_or(0);
        let cost = cost.max(0).cast_unsigned();
        for index in of_key.into_iter().chain(of_team).flatten() {
            see(*index, at, tokens, cost);
        }
    }
    Ok(())
}

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH)
}
