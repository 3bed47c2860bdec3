//! What calls have used in the end, told to Redis off their path: many calls in one batch, one batch after the other.
//!
//! Each batch has a number, and Redis remembers the last one of each gateway: a batch whose reply was lost is sent again,
//! and counts once. While Redis is away batches wait; what calls use meanwhile is summed up by limit.
//!
//! Of budgets is told what this gateway has in all, whenever that has changed, and now and then.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use redis::Cmd;
use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::hold::Part;
use super::{LEASE, Shared, millis};
use crate::store::budgets::Budgets;
use crate::store::limits::cell::Terms;
use crate::store::limits::time::Time;
use crate::store::redis::{Away, Redis};

/// How much is settled at once: some fifty microseconds' work for Redis, in which it does nothing else.
const BATCH: usize = 64;
/// How long a batch may take. Nobody waits for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// What the task is told.
pub(super) enum Message {
    Ended(Ended),
    /// To say when all that came before is settled.
    Flush(oneshot::Sender<()>),
}

/// A call that has ended.
pub(super) struct Ended {
    pub(super) call: u64,
    /// What becomes of what it had taken in Redis.
    pub(super) settled: Vec<Settled>,
    /// What it used while Redis was away.
    pub(super) owed: Vec<Owed>,
    /// Whether it was let in while Redis was away.
    pub(super) alone: bool,
}

/// What becomes of what was taken of one cell.
pub(super) struct Settled {
    terms: Arc<Terms>,
    what: What,
}

enum What {
    /// So many of what was taken by the take of that number are given back, and no more will be.
    Back { n: u64, mark: u64 },
    /// So many are given back, and more may be.
    Some { n: u64, mark: u64 },
    /// So many more were used than had been taken.
    Owe { n: u64 },
    /// The call's place is free.
    Free,
}

/// What was used of one cell while Redis was away.
pub(super) struct Owed {
    pub(super) part: Part,
    pub(super) n: u64,
}

impl Ended {
    pub(super) fn of_rates(settled: impl Iterator<Item = Settled>) -> Self {
        Self {
            call: 0,
            settled: settled.collect(),
            owed: Vec::new(),
            alone: false,
        }
    }

    /// Returns whether it had places among concurrent requests.
    pub(super) fn frees_places(&self) -> bool {
        let mut settled = self.settled.iter();
        settled.any(|settled| matches!(settled.what, What::Free))
    }
}

impl Settled {
    pub(super) fn back(part: &Part, n: u64) -> Self {
        let mark = part.mark;
        Self {
            terms: Arc::clone(part.terms()),
            what: What::Back { n, mark },
        }
    }

    pub(super) fn some(part: &Part, n: u64) -> Self {
        let mark = part.mark;
        Self {
            terms: Arc::clone(part.terms()),
            what: What::Some { n, mark },
        }
    }

    pub(super) fn owe(terms: &Arc<Terms>, n: u64) -> Self {
        Self {
            terms: Arc::clone(terms),
            what: What::Owe { n },
        }
    }

    pub(super) fn free(terms: &Arc<Terms>) -> Self {
        Self {
            terms: Arc::clone(terms),
            what: What::Free,
        }
    }
}

/// Settles what has ended and renews what is held, until nobody can end anything any more.
pub(super) async fn settle_all(
    shared: Weak<Shared>,
    redis: Redis,
    budgets: Arc<Budgets>,
    mut messages: mpsc::Receiver<Message>,
) {
    let mut up = redis.up();
    let mut renewal = tokio::time::interval(LEASE / 3);
    renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut slicing = tokio::time::interval(Duration::from_secs(1));
    slicing.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut telling = tokio::time::interval(LEASE);
    telling.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut settler = Settler::default();
    let mut received = Vec::new();
    let mut flushed = Vec::new();
    let mut is_up = *up.borrow_and_update();
    loop {
        let (mut renews, mut tells_all) = (false, false);
        tokio::select! {
            // What is rare goes first. Whatever changes of budgets is told with the messages, too.
            biased;
            _ = telling.tick() => tells_all = true,
            _ = renewal.tick() => renews = true,
            _ = slicing.tick() => {
                // What this ends comes back as messages.
                if let Some(shared) = shared.upgrade() {
                    shared.slices.purge(Time::now());
                }
                continue;
            }
            changed = up.changed() => if changed.is_err() {
                return;
            },
            count = messages.recv_many(&mut received, BATCH) => {
                if count == 0 {
                    return;
                }
            }
            () = budgets.changed() => {}
        }
        let was_up = is_up;
        is_up = *up.borrow_and_update();
        for message in received.drain(..) {
            match message {
                Message::Ended(ended) => settler.note(ended, is_up),
                Message::Flush(done) => flushed.push(done),
            }
        }
        let Some(shared) = shared.upgrade() else {
            return;
        };
        if is_up {
            // Leases before all else: after an outage they may be over, or forgotten.
            if renews || !was_up {
                let _ = renew(&shared).await;
            }
            // What is left over when Redis goes away waits until it is back.
            let _ = settler.settle(&shared).await;
            let _ = tell(&shared, tells_all || !was_up).await;
        }
        for done in flushed.drain(..) {
            let _ = done.send(());
        }
    }
}

#[derive(Default)]
struct Settler {
    /// What waits for its batch, by call.
    waiting: VecDeque<(u64, Settled)>,
    /// What was used while Redis was away, by the key of its cell: as many as there are cells.
    owed: FxHashMap<Arc<str>, Owed>,
    /// What was sent, and perhaps not received.
    batch: Vec<(u64, Settled)>,
    /// The number of the last batch.
    serial: u64,
}

impl Settler {
    fn note(&mut self, ended: Ended, is_up: bool) {
        let Ended {
            call,
            settled,
            owed,
            alone,
        } = ended;
        // Redis has never heard of a place that came and went while it was away.
        let settled = settled
            .into_iter()
            .filter(|settled| is_up || !alone || !matches!(settled.what, What::Free));
        self.waiting.extend(settled.map(|settled| (call, settled)));
        for owed in owed {
            match self.owed.get_mut(&owed.part.terms().key) {
                Some(sum) => sum.n = sum.n.saturating_add(owed.n),
                None => {
                    self.owed.insert(Arc::clone(&owed.part.terms().key), owed);
                }
            }
        }
    }

    async fn settle(&mut self, shared: &Shared) -> Result<(), Away> {
        let now = Time::now();
        for (_, Owed { part, n }) in self.owed.drain() {
            // What time has restored here, it has restored there.
            let mut cells = part.wanted.account.lock();
            let taken = cells.find(part.wanted.cell).map(|cell| cell.taken(now));
            let n = taken.map_or(n, |taken| n.min(taken));
            drop(cells);
            if n > 0 {
                self.waiting.push_back((0, Settled::owe(part.terms(), n)));
            }
        }
        loop {
            if self.batch.is_empty() {
                let count = self.waiting.len().min(BATCH);
                if count == 0 {
                    return Ok(());
                }
                self.batch.extend(self.waiting.drain(..count));
                self.serial += 1;
            }
            let command = self.command(shared);
            let redis = &shared.redis;
            redis.call_within::<i64>(&command, PATIENCE).await?;
            self.batch.clear();
        }
    }

    fn command(&self, shared: &Shared) -> Cmd {
        let mut command = shared.function("settle");
        command.arg(self.batch.len() + 1);
        command.arg(format!("weir:{{limits}}:1:replica:{}", shared.replica));
        for (_, settled) in &self.batch {
            command.arg(&*settled.terms.key);
        }
        command.arg(shared.now()).arg(self.serial);
        for (call, Settled { terms, what }) in &self.batch {
            let Terms {
                interval, burst, ..
            } = &**terms;
            let (word, n) = match what {
                What::Back { n, .. } => ("back", *n),
                What::Some { n, .. } => ("some", *n),
                What::Owe { n } => ("owe", *n),
                What::Free => ("free", 0),
            };
            command.arg(word).arg(*interval).arg(burst.get()).arg(n);
            match what {
                What::Back { mark, .. } | What::Some { mark, .. } => command.arg(*mark),
                What::Owe { .. } => command.arg(0),
                What::Free => command.arg(shared.member(*call)),
            };
        }
        command
    }
}

/// Tells what this gateway has of budgets: of all of them, since time passes and Redis may have been emptied, or of those
/// where that has changed.
pub(super) async fn tell(shared: &Shared, all: bool) -> Result<(), Away> {
    let now = shared.date();
    for reports in shared.budgets.reports(all, now).chunks_mut(BATCH) {
        let answers = shared.report(reports).await?;
        for (report, answer) in reports.iter().zip(&answers) {
            report.answered(answer, now);
        }
    }
    Ok(())
}

/// Goes on holding the places of calls under way.
pub(super) async fn renew(shared: &Shared) -> Result<(), Away> {
    let held: Vec<(u64, Arc<Terms>)> = {
        let held = shared.held();
        let calls = held.iter().flat_map(|(call, places)| {
            let places = places.iter();
            places.map(|terms| (*call, Arc::clone(terms)))
        });
        calls.collect()
    };
    for places in held.chunks(BATCH) {
        let mut command = shared.function("renew");
        command.arg(places.len());
        for (_, terms) in places {
            command.arg(&*terms.key);
        }
        command.arg(shared.now()).arg(millis(LEASE));
        for (call, _) in places {
            command.arg(shared.member(*call));
        }
        shared.redis.call_within::<i64>(&command, PATIENCE).await?;
    }
    Ok(())
}
