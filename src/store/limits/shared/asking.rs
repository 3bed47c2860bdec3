//! One question to Redis, and what it says.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::Cmd;
use tokio::time::{Instant, timeout};

use super::budgets::{self, are_lost, key, tell};
use super::hold::{Part, Taken};
use super::{LEASE, Shared, millis};
use crate::pattern::Pattern;
use crate::store::budgets::{Answer, Report};
use crate::store::limits::account::Account;
use crate::store::limits::cell::{Cell, SLOT_WAIT, Terms};
use crate::store::limits::dimension::{Amount, Dimension};
use crate::store::limits::headroom::Headroom;
use crate::store::limits::refusal::Refusal;
use crate::store::limits::time::wait;
use crate::store::limits::{Limits, Who};
use crate::store::redis::Away;

/// What the functions say of a cell that has room, and of one that never has for so many.
const HAS_ROOM: i64 = -2;
const NEVER: i64 = -1;

/// A cell that a call counts towards.
#[derive(Clone)]
pub(super) struct Wanted {
    pub(super) account: Arc<Account>,
    pub(super) cell: u64,
    pub(super) dimension: Dimension,
    size: NonZeroU32,
    models: Arc<[Pattern]>,
    pub(super) terms: Arc<Terms>,
    pub(super) n: u64,
}

/// What the functions say of a cell.
struct Found {
    wait: i64,
    left: u32,
    reset: Duration,
    mark: u64,
}

/// What is asked of the cells.
#[derive(Clone, Copy)]
enum How {
    Take,
    More,
    Look,
}

/// What Redis says of a call.
pub(super) struct Reply {
    /// Its number.
    pub(super) call: u64,
    has_room: bool,
    found: Vec<Found>,
    /// What it says of each budget.
    pub(super) budgets: Vec<Answer>,
}

impl Shared {
    /// Takes of all cells and budgets or of none.
    pub(super) async fn take(
        self: &Arc<Self>,
        wanted: &[Wanted],
        reports: &mut [Report],
    ) -> Result<Reply, Away> {
        let since = Instant::now();
        let reply = self.take_once(wanted, reports).await?;
        if !are_lost(&reply.budgets) {
            return Ok(reply);
        }
        let again = async {
            self.restore(reports, &reply.budgets).await?;
            self.take_once(wanted, reports).await
        };
        self.in_time_left(since, again).await
    }

    /// Waits for what follows a first question whose budgets Redis had lost: no longer, with that, than one question may take.
    async fn in_time_left(
        &self,
        since: Instant,
        again: impl Future<Output = Result<Reply, Away>>,
    ) -> Result<Reply, Away> {
        let left = self.redis.timeout().saturating_sub(since.elapsed());
        let reply = timeout(left, again).await.map_err(|_| Away)??;
        (!are_lost(&reply.budgets)).then_some(reply).ok_or(Away)
    }

    async fn take_once(
        self: &Arc<Self>,
        wanted: &[Wanted],
        reports: &[Report],
    ) -> Result<Reply, Away> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let command = self.ask(How::Take, cells(wanted), reports, call);
        let late = {
            let (shared, wanted) = (Arc::clone(self), wanted.to_vec());
            // Nobody has waited for it: whatever it has taken is given back. What it says of budgets will be said again.
            move |reply: Vec<i64>| {
                let reply = read(call, &reply, wanted.len()).filter(|reply| reply.has_room);
                let parts = reply.map(|reply| reply.parts(&wanted));
                drop(Taken::new(shared, call, parts.unwrap_or_default()));
            }
        };
        let reply = self.redis.call_or_late(command, late).await?;
        let reply = read(call, &reply, wanted.len());
        let reply = reply.filter(|reply| reply.budgets.len() == reports.len());
        reply.ok_or(Away)
    }

    /// Takes more for a call that was let in, of all cells or of none, and returns what: `None` where they have no room. While
    /// Redis is away nobody can say, and nothing is taken.
    pub(super) async fn more(&self, wanted: Vec<Wanted>) -> Option<Vec<Part>> {
        let command = self.ask(How::More, cells(&wanted), &[], 0);
        let reply = self.redis.call::<Vec<i64>>(&command).await;
        let Some(reply) = reply.ok().and_then(|reply| read(0, &reply, wanted.len())) else {
            return Some(Vec::new());
        };
        reply.has_room.then(|| reply.parts(&wanted))
    }

    /// Looks at the cells and budgets, and takes nothing.
    pub(super) async fn look(
        &self,
        wanted: &[Wanted],
        reports: &mut [Report],
    ) -> Result<Reply, Away> {
        let since = Instant::now();
        let reply = self.look_once(wanted, reports).await?;
        if !are_lost(&reply.budgets) {
            return Ok(reply);
        }
        let again = async {
            self.restore(reports, &reply.budgets).await?;
            self.look_once(wanted, reports).await
        };
        self.in_time_left(since, again).await
    }

    async fn look_once(&self, wanted: &[Wanted], reports: &[Report]) -> Result<Reply, Away> {
        let command = self.ask(How::Look, cells(wanted), reports, 0);
        let reply: Vec<i64> = self.redis.call(&command).await?;
        let reply = read(0, &reply, wanted.len());
        let reply = reply.filter(|reply| reply.budgets.len() == reports.len());
        let mut reply = reply.ok_or(Away)?;
        for answer in &mut reply.budgets {
            answer.is_noted = false;
        }
        Ok(reply)
    }

    fn ask<'a>(
        &self,
        how: How,
        cells: impl Iterator<Item = (&'a Terms, u64)> + Clone,
        reports: &[Report],
        call: u64,
    ) -> Cmd {
        let mut command = self.function("admit");
        let count = cells.clone().count();
        command.arg(count + reports.len());
        for (terms, _) in cells.clone() {
            command.arg(&*terms.key);
        }
        for report in reports {
            command.arg(key(report));
        }
        let how = match how {
            How::Take => "take",
            How::More => "more",
            How::Look => "look",
        };
        command.arg(self.now()).arg(how).arg(self.member(call));
        command.arg(millis(LEASE));
        command.arg(self.budgets.ledger().unwrap_or_default());
        command.arg(count);
        for (terms, n) in cells {
            let kind = if terms.is_rate() { "rate" } else { "slots" };
            command.arg(kind).arg(terms.interval).arg(terms.burst.get());
            command.arg(n).arg(u8::from(terms.shadow));
        }
        for report in reports {
            tell(&mut command, report);
        }
        command
    }
}

impl Reply {
    /// Returns what is left of each cell.
    pub(super) fn headroom(&self, wanted: &[Wanted]) -> Vec<Headroom> {
        let both = wanted.iter().zip(&self.found);
        both.map(|(wanted, found)| wanted.headroom(found)).collect()
    }

    /// Returns why the call is refused; of several reasons the one that is waited for longest.
    pub(super) fn refusal(&self, wanted: &[Wanted]) -> Option<Refusal> {
        if self.has_room {
            return None;
        }
        let lacking = self.lacking(wanted, false);
        lacking.reduce(|told, other| match other.outlasts(&told) {
            true => other,
            false => told,
        })
    }

    /// Returns what would refuse the call if it did more than report.
    pub(super) fn shadow(&self, wanted: &[Wanted]) -> Vec<Refusal> {
        self.lacking(wanted, true).collect()
    }

    /// Returns what was taken.
    pub(super) fn parts(&self, wanted: &[Wanted]) -> Vec<Part> {
        let both = wanted.iter().zip(&self.found);
        let taken = both.filter(|(_, found)| found.wait == HAS_ROOM);
        taken
            .map(|(wanted, found)| Part::new(wanted.clone(), found.mark))
            .collect()
    }

    fn lacking(&self, wanted: &[Wanted], shadow: bool) -> impl Iterator<Item = Refusal> {
        let both = wanted.iter().zip(&self.found);
        let lacking = both
            .filter(move |(wanted, found)| found.wait != HAS_ROOM && wanted.terms.shadow == shadow);
        lacking.map(|(wanted, found)| wanted.refusal(found))
    }
}

impl Wanted {
    fn of(account: &Arc<Account>, cell: &Cell, want: &Amount) -> Self {
        Self {
            account: Arc::clone(account),
            cell: cell.id,
            dimension: cell.subject.dimension,
            size: cell.size,
            models: Arc::clone(&cell.subject.models),
            n: cell.weight(want),
            terms: Arc::clone(&cell.terms),
        }
    }

    /// Returns the same so many times.
    pub(super) fn times(&self, times: u32) -> Self {
        Self {
            n: self.n.saturating_mul(u64::from(times)),
            ..self.clone()
        }
    }

    /// Returns the same cell, and another number.
    pub(super) fn instead(&self, n: u64) -> Self {
        Self { n, ..self.clone() }
    }

    /// Returns whether it is a place among concurrent requests.
    pub(super) fn is_place(&self) -> bool {
        !self.terms.is_rate()
    }

    fn headroom(&self, found: &Found) -> Headroom {
        Headroom {
            holder: self.account.holder.clone(),
            dimension: self.dimension,
            size: self.size,
            burst: self.terms.burst,
            models: Arc::clone(&self.models),
            shadow: self.terms.shadow,
            remaining: found.left,
            reset: found.reset,
        }
    }

    fn refusal(&self, found: &Found) -> Refusal {
        Refusal {
            holder: self.account.holder.clone(),
            dimension: self.dimension,
            size: self.size,
            models: Arc::clone(&self.models),
            wanted: self.n,
            left: found.left,
            retry_after: match found.wait {
                NEVER => None,
                _ if !self.terms.is_rate() => Some(SLOT_WAIT),
                nanos => Some(wait(u64::try_from(nanos).unwrap_or(0))),
            },
        }
    }
}

fn cells(wanted: &[Wanted]) -> impl Iterator<Item = (&Terms, u64)> + Clone {
    wanted.iter().map(|wanted| (&*wanted.terms, wanted.n))
}

/// Reads what the functions say of so many cells, and of budgets.
fn read(call: u64, reply: &[i64], cells: usize) -> Option<Reply> {
    let (has_room, rest) = reply.split_first()?;
    let has_room = *has_room == 1;
    let (found, budgets) = rest.split_at_checked(cells * 4)?;
    let found = found.chunks_exact(4).map(|numbers| {
        let [waits, left, reset, mark] = *numbers else {
            return None;
        };
        Some(Found {
            wait: waits,
            left: u32::try_from(left).unwrap_or(u32::MAX),
            reset: wait(u64::try_from(reset).ok()?),
            mark: u64::try_from(mark).ok()?,
        })
    });
    let found: Vec<_> = found.collect::<Option<_>>()?;
    Some(Reply {
        call,
        has_room,
        found,
        budgets: budgets::answers(budgets, has_room)?,
    })
}

impl Limits {
    /// Returns the cells that a call counts towards.
    pub(super) fn wanted(&self, who: &Who<'_>, want: &Amount) -> Vec<Wanted> {
        let accounts = self.accounts.load().of(who);
        let mut wanted = Vec::new();
        for account in accounts.iter().flatten() {
            for cell in account.lock().of(who.model) {
                wanted.push(Wanted::of(account, cell, want));
            }
        }
        wanted
    }

    /// Returns all cells there are; nothing is wanted of them.
    pub(super) fn all_cells(&self) -> Vec<Wanted> {
        let accounts = self.accounts.load();
        let mut wanted = Vec::new();
        for account in accounts.iter() {
            let cells = account.lock();
            let cells = cells.iter();
            wanted.extend(cells.map(|cell| Wanted::of(account, cell, &Amount::default())));
        }
        wanted
    }
}
