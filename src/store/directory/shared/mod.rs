//! Keys and teams that several gateways share by Redis, each with a ledger of its own.
//!
//! Each gateway's ledger holds all of them, and is what it starts from and goes on with while Redis is away. A change is
//! made there first. Then, and whenever Redis is reached, both are joined (`keys::Record`): what Redis has and the ledger has
//! not is taken over, audited as another replica's, and the other way round. Every second a gateway looks whether anybody
//! has changed something. All of that is off the path of requests.
//!
//! What lies in Redis is digests, names and bounds, and no secret. What cannot be read there is left alone and counts as
//! nothing, but that a key is revoked counts. A Redis that was emptied, or has lost a part, is filled again by the next gateway that looks.

mod adopting;
mod exchange;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

pub use self::exchange::library;
use self::exchange::{ENOUGH_BYTES, Exchange, MOST_BYTES, PAGE, Reply, Seen};
use super::{Directory, DirectoryError};
use crate::store::keys::{Adopted, Head, Record, RuntimeKey};
use crate::store::redis::{Away, Redis};

/// How often is looked whether others have changed something.
const PERIOD: Duration = Duration::from_secs(1);
/// How often all is compared, whatever the numbers of changes say: a Redis that took the place of another one may have lost
/// some, and given their numbers to others.
const SWEEP: Duration = Duration::from_secs(300);
/// How long a start waits until it knows what others have revoked meanwhile.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it waits before it tries again to know that.
const PAUSE: Duration = Duration::from_millis(50);
/// How long an end waits until others know what was changed here.
const END_TIMEOUT: Duration = Duration::from_secs(1);
/// So many records of others are taken over, and no more: they are held in memory.
const MOST_RECORDS: usize = 100_000;
/// How often others may be faster with the same records.
const MOST_VAIN: u32 = 16;
/// How many records that cannot be used are told of.
const MOST_TOLD: usize = 100;

/// Shares the keys and teams of a directory.
pub struct Sharing {
    directory: Arc<Directory>,
    exchange: Exchange,
    up: watch::Receiver<bool>,
    changes: watch::Receiver<u64>,
    /// What Redis has.
    theirs: HashMap<String, Theirs>,
    /// How many of them there may be, besides those of this gateway's own.
    most: usize,
    /// Whether there are more.
    is_full: bool,
    /// How much of it was seen; `None`: it is to be read from its beginning.
    seen: Option<Seen>,
    swept: Instant,
    /// What was seen, and is still to be taken over.
    pending: Vec<Record>,
    /// The records that cannot be used, as far as they were told of.
    told: HashSet<String>,
    failing: bool,
    /// Whether the last look did not come to its end.
    is_owing: bool,
}

/// A record in Redis.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are of the larger kind"
)]
enum Theirs {
    Record(Record),
    Unreadable(Head),
}

/// Why keys could not be shared.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Away(#[from] Away),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("what Redis answers cannot be read: another library has the name of Weir's")]
    Strange,
    #[error("Redis does not keep what it is told")]
    Unkept,
}

impl Sharing {
    /// Shares these keys and teams by a Redis that has the [`library`].
    pub fn new(directory: Arc<Directory>, redis: Redis) -> Self {
        let (up, changes) = (redis.up(), directory.changes());
        Self {
            directory,
            exchange: Exchange::new(redis),
            up,
            changes,
            theirs: HashMap::new(),
            most: MOST_RECORDS,
            is_full: false,
            seen: None,
            swept: Instant::now(),
            pending: Vec::new(),
            told: HashSet::new(),
            failing: false,
            is_owing: false,
        }
    }

    /// Learns what others have done while this gateway was away, as long as that does not hold up its start.
    pub async fn begin(&mut self) {
        let joining = async {
            while !self.look().await {
                sleep(PAUSE).await;
            }
            // Keys with budgets open nothing before; what fails is logged, and tried again.
            let _ = self.directory.count_owed().await;
        };
        if timeout(START_TIMEOUT, joining).await.is_err() {
            // Nobody knows where it broke off.
            self.seen = None;
            tracing::warn!("keys of other gateways are not all known yet");
        }
    }

    /// Goes on sharing until that time, and looks once more then, as long as that does not hold up the end.
    pub async fn run(mut self, until: impl Future<Output = ()>) {
        tokio::select! {
            () = until => {}
            never = self.go_on() => match never {},
        }
        // Nobody knows where it broke off.
        self.seen = None;
        let _ = timeout(END_TIMEOUT, self.look()).await;
    }

    async fn go_on(&mut self) -> Infallible {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                changed = self.changes.changed() => {
                    if changed.is_ok() {
                        // The look is to find it.
                        self.changes.mark_changed();
                    }
                }
            }
            self.look().await;
            if self.swept.elapsed() >= SWEEP {
                self.seen = None;
            }
        }
    }

    /// Joins what has changed here and there, and returns whether all is the same then.
    async fn look(&mut self) -> bool {
        if self.up.has_changed().unwrap_or(false) {
            self.seen = None;
        }
        if !*self.up.borrow_and_update() {
            self.changes.mark_unchanged();
            return false;
        }
        let joined = self.join().await;
        match &joined {
            Ok(()) => {}
            // Redis tells that itself.
            Err(Failure::Away(_)) => {}
            Err(error) => {
                if !self.failing {
                    tracing::error!(%error, "keys cannot be shared with other gateways");
                }
                self.seen = None;
            }
        }
        self.failing = !matches!(joined, Ok(()) | Err(Failure::Away(_)));
        self.is_owing = joined.is_err();
        if self.is_owing {
            // With the next tick, and not at once.
            self.changes.mark_unchanged();
        }
        joined.is_ok()
    }

    async fn join(&mut self) -> Result<(), Failure> {
        let mut own = Vec::new();
        match self.seen.clone() {
            None => self.swept = Instant::now(),
            Some(seen) => {
                if self.is_owing || self.changes.has_changed().unwrap_or(false) {
                    self.pending.extend(self.revoked_unread());
                    own = self.missing();
                }
                if own.is_empty()
                    && self.pending.is_empty()
                    && self.exchange.is_unchanged(&seen).await?
                {
                    return Ok(());
                }
            }
        }
        let mut told = Vec::new();
        let mut vain = 0;
        loop {
            let mut fields = HashSet::new();
            loop {
                let reply = self.exchange.exchange(self.seen.as_ref(), &own).await?;
                let reply = reply.ok_or(Failure::Strange)?;
                self.seen = Some(reply.seen());
                if !own.is_empty() {
                    told = std::mem::take(&mut own);
                }
                let has_more = reply.has_more;
                let told_of = reply.records.iter().map(|(field, _)| field.clone());
                fields.extend(told_of);
                self.read(reply);
                if !has_more {
                    break;
                }
            }
            self.pending.extend(self.revoked_unread());
            self.adopt().await?;
            own = self.missing();
            if own.is_empty() {
                return Ok(());
            }
            // Others may have been faster, but then theirs is known by now.
            vain = if own == told { vain + 1 } else { 0 };
            let was_faster = told.iter().any(|told| fields.contains(&told.field()));
            if vain > MOST_VAIN || vain > 0 && !was_faster {
                return Err(Failure::Unkept);
            }
        }
    }

    /// Reads what Redis has.
    fn read(&mut self, reply: Reply) {
        if reply.is_anew {
            self.theirs.clear();
            self.pending.clear();
        }
        for (field, text) in reply.records {
            if self.leaves_out(&field) {
                continue;
            }
            let theirs = match Record::read(&field, &text) {
                Ok(record) => {
                    self.pending.push(record.clone());
                    Theirs::Record(record)
                }
                Err(error) => {
                    self.tell(&field, &error.to_string());
                    Theirs::Unreadable(Head::read(&text))
                }
            };
            self.theirs.insert(field, theirs);
        }
    }

    /// Returns whether a record is one too many. What is known already, or is this gateway's own, never is.
    fn leaves_out(&mut self, field: &str) -> bool {
        if self.theirs.len() < self.most
            || self.theirs.contains_key(field)
            || self.directory.entries().made.has(field)
        {
            return false;
        }
        if !std::mem::replace(&mut self.is_full, true) {
            tracing::warn!(
                most = self.most,
                "other gateways have made more keys and teams than are taken over; the others open nothing here"
            );
        }
        true
    }

    /// Returns the ledger's own keys as revoked that a record revokes which cannot be read otherwise.
    fn revoked_unread(&self) -> Vec<Record> {
        let entries = self.directory.entries();
        let revoked = self.theirs.iter().filter_map(|(field, theirs)| {
            let Theirs::Unreadable(head) = theirs else {
                return None;
            };
            let revoked = head.revoked()?;
            let own = entries.made.keys.get(field.strip_prefix("key:")?)?;
            own.revoked.is_none().then(|| {
                Record::Key(RuntimeKey {
                    revoked: Some(revoked),
                    ..own.clone()
                })
            })
        });
        revoked.collect()
    }

    /// Takes over what was seen.
    async fn adopt(&mut self) -> Result<(), Failure> {
        let records = std::mem::take(&mut self.pending);
        for (field, adopted) in self.directory.adopt(records).await? {
            match adopted {
                Adopted::Known | Adopted::Changed => {}
                Adopted::LeftOut => self.tell(
                    &field,
                    "another key has its id or its secret, or the ledger's own row cannot be understood",
                ),
                Adopted::Replaced => tracing::warn!(
                    record = field,
                    "two gateways have made a key of one name; the older one stays, and the secret of the one made here opens nothing any more"
                ),
            }
        }
        Ok(())
    }

    /// Tells of a record that cannot be used, once.
    fn tell(&mut self, field: &str, reason: &str) {
        if self.told.len() < MOST_TOLD && self.told.insert(field.to_owned()) {
            let record: String = field.chars().take(128).collect();
            tracing::warn!(
                record,
                reason,
                "what is shared in Redis cannot be used, and is left alone"
            );
        }
    }

    /// Returns some of what Redis does not have, or not so.
    fn missing(&mut self) -> Vec<Record> {
        self.changes.mark_unchanged();
        let theirs = &self.theirs;
        let known = |field: &str| match theirs.get(field)? {
            Theirs::Record(record) => Some(record),
            Theirs::Unreadable(_) => None,
        };
        let lacks = |record: &Record| match theirs.get(&record.field()) {
            None => true,
            // What the ledger could not take over is not undone.
            Some(Theirs::Record(theirs)) => theirs.clone().join(record.clone()) == *record,
            Some(Theirs::Unreadable(head)) => record.adds_to(*head),
        };
        let entries = self.directory.entries();
        let mut bytes = 0;
        let fits = |record: &Record| {
            let length = record.text().len();
            let fits = length <= MOST_BYTES && bytes <= ENOUGH_BYTES;
            bytes += if fits { length } else { 0 };
            fits
        };
        let missing = entries.made.unlike(known).filter(lacks).filter(fits);
        missing.take(PAGE).collect()
    }
}
