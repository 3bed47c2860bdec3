//! What must be done from time to time, off the way of requests: make the disk keep what was written, copy the
//! write-ahead log back into the file, let old rows go.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, params};
use tokio::sync::oneshot;

use super::change::change_op;
use super::presence::Presence;
use super::queue::Queue;
use super::run::micros;
use super::schema::{BUSY_TIMEOUT, log_of};
use super::shared::Shared;
use super::{ChangeError, Params, Retention, Sync};

const ROUND: Duration = Duration::from_secs(1);
/// From this size on the log is copied back.
const LARGE_LOG: u64 = 4 << 20;
/// A log to which nothing was added for so long is copied back whatever its size: then the file has all of it by itself,
/// should somebody copy it alone, or delete the log of a process that was killed.
const QUIET: Duration = Duration::from_secs(5);
/// From this size on the writer is made to wait for a moment, so that the log can begin anew.
const HUGE_LOG: u64 = 256 << 20;
/// How often old rows are looked for.
const RETENTION_ROUND: Duration = Duration::from_secs(600);
/// Old rows that go in one commit: few enough for a request not to notice.
const FORGOTTEN_AT_ONCE: i64 = 256;
/// Such commits in one round: what else a round is for must not wait long.
const BATCHES_A_ROUND: u32 = 20;
/// Where the sum of what was forgotten ends, in dollars: an integer of SQLite's holds it, and the nano-dollars beside it.
const MOST_DOLLARS: i64 = 9_000_000_000;
/// How long a time the sum of what was forgotten is for, in microseconds: the buckets of budgets are never shorter than
/// that where they look back further than rows are kept at least.
const SPAN: i64 = 6 * 3600 * 1_000_000;
/// What no budget with a period looks back further than, in microseconds: a month of 31 days and a bucket.
const LONGEST_PERIOD: i64 = 32 * 24 * 3600 * 1_000_000;
/// Pages that are given back in one commit.
const PAGES_AT_ONCE: i64 = 256;

pub(super) struct Keeper {
    path: PathBuf,
    log: PathBuf,
    sync: Sync,
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    presence: Presence,
    connection: Option<Connection>,
    /// Whether the disk did not keep the log, or the log could not be copied back, the last time.
    sync_fails: bool,
    copy_fails: bool,
    /// How the log was last seen, and since when it has been so; how it was when all of it was copied back.
    seen: Option<(LogState, Instant)>,
    copied: Option<LogState>,
    last_retention: Option<Instant>,
}

/// By what is noticed that something was added to the log, by whoever it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LogState {
    size: u64,
    modified: Option<SystemTime>,
    commits: u64,
}

impl Keeper {
    pub(super) fn new(
        params: &Params,
        shared: &Arc<Shared>,
        queue: Arc<Queue>,
        presence: Presence,
    ) -> Self {
        shared.set_retention(params.retention);
        Self {
            path: params.path.clone(),
            log: log_of(&params.path),
            sync: params.sync,
            shared: Arc::clone(shared),
            queue,
            presence,
            connection: None,
            sync_fails: false,
            copy_fails: false,
            seen: None,
            copied: None,
            last_retention: None,
        }
    }

    /// Keeps until the ledger is closed.
    pub(super) fn run(mut self) {
        while let Some(retention) = self.shared.next_round(ROUND) {
            let is_there = self.presence.check().is_ok();
            if self.sync == Sync::EverySecond {
                self.sync_journal();
                if is_there {
                    self.sync_log();
                }
            }
            match is_there {
                true => self.copy_back(Instant::now()),
                // What lies in its place is nothing to copy a log into.
                false => self.connection = None,
            }
            if !is_there || self.shared.failing.load(Ordering::Relaxed) {
                self.try_to_write();
            }
            let keeps_all = retention.rows.is_none() && retention.audit.is_none();
            let is_due = self
                .last_retention
                .is_none_or(|at| at.elapsed() >= RETENTION_ROUND);
            if is_due && !keeps_all {
                self.forget(retention);
            }
        }
        if self.sync == Sync::EverySecond {
            self.sync_log();
        }
    }

    /// While commits fail, what was promised is in the journal for longer than a moment.
    fn sync_journal(&self) {
        if self.shared.owed.load(Ordering::Relaxed) == 0 {
            return;
        }
        for file in self.queue.journal_files().into_iter().flatten() {
            let _ = file.sync_data();
        }
    }

    fn sync_log(&mut self) {
        if !self.shared.dirty.swap(false, Ordering::AcqRel) {
            return;
        }
        let synced = File::open(&self.log).and_then(|log| log.sync_data());
        let failed = synced.is_err();
        if let Err(error) = synced {
            self.shared.dirty.store(true, Ordering::Release);
            if !self.sync_fails {
                tracing::warn!(%error, "the disk cannot be made to keep the ledger");
            }
        }
        self.sync_fails = failed;
    }

    /// Finds out whether the file can be written again, also when nobody asks because everybody is refused.
    fn try_to_write(&self) {
        self.change(|connection| {
            connection.execute(
                "UPDATE run SET began = began WHERE id = (SELECT max(id) FROM run)",
                [],
            )
        });
    }

    /// Copies the log into the file while the writer goes on: at the start, when it is large, and when nobody writes.
    pub(super) fn copy_back(&mut self, now: Instant) {
        let Ok(log) = std::fs::metadata(&self.log) else {
            return;
        };
        let state = LogState {
            size: log.len(),
            modified: log.modified().ok(),
            commits: self.shared.commits.load(Ordering::Relaxed),
        };
        let is_first = self.seen.is_none();
        let since = match self.seen {
            Some((seen, since)) if seen == state => since,
            _ => now,
        };
        self.seen = Some((state, since));
        let is_quiet = now.duration_since(since) >= QUIET;
        let is_due = is_first || is_quiet || state.size >= LARGE_LOG;
        if !is_due || state.size == 0 || self.copied == Some(state) {
            return;
        }
        let copied = self.checkpoint(state.size >= HUGE_LOG);
        let failed = copied.is_err();
        match copied {
            Ok(true) => self.copied = Some(state),
            // Somebody reads what was there before: it is tried again, while the log is small not every second.
            Ok(false) => self.seen = Some((state, now)),
            Err(error) => {
                self.seen = Some((state, now));
                if !self.copy_fails {
                    tracing::warn!(%error, "the ledger's log cannot be copied back");
                }
            }
        }
        self.copy_fails = failed;
    }

    /// Copies the log into the file, and returns whether that was all of it.
    pub(super) fn checkpoint(&mut self, huge: bool) -> Result<bool, rusqlite::Error> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => checkpointer(&self.path)?,
        };
        // By its name another file may have been opened.
        if self.presence.check().is_err() {
            let keep_log = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
            connection.set_db_config(keep_log, true)?;
            return Ok(false);
        }
        let copy = |mode: &str| {
            let sql = format!("PRAGMA wal_checkpoint({mode})");
            connection.query_row(&sql, [], |row| {
                // While another connection copies, this one does nothing, and knows of nothing.
                let is_busy = row.get::<_, i64>(0)? != 0;
                Ok(!is_busy && row.get::<_, i64>(1)? == row.get::<_, i64>(2)?)
            })
        };
        // Twice: what came while the first one copied is little, and lets the writer begin the log anew.
        copy("PASSIVE")?;
        let is_all = copy("PASSIVE")?;
        // While there is never a pause, a huge one is begun anew at the cost of a moment for the writer. A reader that
        // holds it is not waited for: then it grows, and nobody is refused for that.
        if huge && is_all {
            copy("RESTART")?;
        }
        self.connection = Some(connection);
        Ok(is_all)
    }

    /// Lets go what is older than it must be, rows a few at a time.
    fn forget(&mut self, retention: Retention) {
        let now = SystemTime::now();
        // Nothing is older than the time itself.
        let before = |kept: Option<Duration>| {
            let before = kept.and_then(|kept| now.checked_sub(kept));
            before.map_or(i64::MIN, micros)
        };
        let (before, audit_before) = (before(retention.rows), before(retention.audit));
        let now = micros(now);
        let mut forgotten = 0;
        for _ in 0..BATCHES_A_ROUND {
            let count = self.change(move |connection| forget_some(connection, before, now));
            let count = count.unwrap_or(0);
            forgotten += count;
            if count == 0 {
                // Nothing is left to do for a while.
                self.last_retention = Some(Instant::now());
                self.change(move |connection| forget_beside(connection, before, audit_before));
                break;
            }
        }
        self.change(move |connection| fold_forgotten(connection, now));
        if forgotten > 0 {
            tracing::info!(
                rows = forgotten,
                "rows past their retention have gone from the ledger"
            );
        }
        if retention.vacuum {
            for _ in 0..BATCHES_A_ROUND {
                if self.change(give_pages_back).is_none_or(|left| left == 0) {
                    break;
                }
            }
        }
    }

    /// Has the writer make a change; `None` when it could not, or is no more.
    fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Option<T> {
        let (done, receipt) = oneshot::channel::<Result<T, ChangeError<()>>>();
        let op = change_op(move |connection| change(connection).map(Ok), done);
        self.queue.ask(op).ok()?;
        receipt.blocking_recv().ok()?.ok()
    }
}

fn checkpointer(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT / 20)?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    Ok(connection)
}

/// Deletes some of the rows that arrived before, and adds what they had used to what budgets know that look back further.
fn forget_some(connection: &Connection, before: i64, now: i64) -> Result<u64, rusqlite::Error> {
    let last: Option<i64> = connection.query_row(
        "SELECT max(id) FROM (SELECT id FROM request WHERE id < ? AND status <> 'open' ORDER BY id LIMIT ?)",
        params![before, FORGOTTEN_AT_ONCE],
        |row| row.get(0),
    )?;
    let Some(last) = last else {
        return Ok(0);
    };
    connection.execute(
        "INSERT INTO forgotten (key, team, since, requests, tokens, cost)
         SELECT key, coalesce(team, ''), CASE WHEN id < ?3 THEN 0 ELSE id - id % ?4 END, sum(status <> 'refused'),
            sum(tokens),
            min(coalesce(sum(cost / 1000000000), 0), ?2) * 1000000000 + coalesce(sum(cost % 1000000000), 0)
         FROM request WHERE id <= ?1 AND status <> 'open' GROUP BY 1, 2, 3
         ON CONFLICT (key, team, since) DO UPDATE SET requests = requests + excluded.requests,
            tokens = tokens + excluded.tokens,
            cost = min(cost / 1000000000 + excluded.cost / 1000000000, ?2) * 1000000000
                + (cost % 1000000000 + excluded.cost % 1000000000)",
        params![last, MOST_DOLLARS, longest_ago(now), SPAN],
    )?;
    connection.execute("DELETE FROM attempt WHERE request <= ? AND request NOT IN (SELECT id FROM request WHERE status = 'open')", [last])?;
    let deleted = connection.execute(
        "DELETE FROM request WHERE id <= ? AND status <> 'open'",
        [last],
    )?;
    Ok(deleted as u64)
}

/// Deletes runs none of whose rows is left, and what stands in the audit for longer than it must. The last of each stays: the
/// next one's number is another.
fn forget_beside(
    connection: &Connection,
    before: i64,
    audit_before: i64,
) -> Result<(), rusqlite::Error> {
    connection.execute(
        "DELETE FROM run WHERE ended < ? AND id < (SELECT max(id) FROM run)",
        [before],
    )?;
    connection.execute(
        "DELETE FROM audit WHERE id < coalesce(
            (SELECT id FROM audit WHERE time >= ? ORDER BY id LIMIT 1), (SELECT max(id) FROM audit))",
        [audit_before],
    )?;
    Ok(())
}

/// Puts together what was used longer ago than the period of any budget.
fn fold_forgotten(connection: &Connection, now: i64) -> Result<(), rusqlite::Error> {
    connection.execute(
        "INSERT INTO forgotten (key, team, since, requests, tokens, cost)
         SELECT key, team, 0, sum(requests), sum(tokens),
            min(sum(cost / 1000000000), ?2) * 1000000000 + sum(cost % 1000000000)
         FROM forgotten WHERE since > 0 AND since < ?1 GROUP BY 1, 2
         ON CONFLICT (key, team, since) DO UPDATE SET requests = requests + excluded.requests,
            tokens = tokens + excluded.tokens,
            cost = min(cost / 1000000000 + excluded.cost / 1000000000, ?2) * 1000000000
                + (cost % 1000000000 + excluded.cost % 1000000000)",
        params![longest_ago(now), MOST_DOLLARS],
    )?;
    connection.execute(
        "DELETE FROM forgotten WHERE since > 0 AND since < ?",
        [longest_ago(now)],
    )?;
    Ok(())
}

/// Returns the time from which on the period of a budget may still count.
fn longest_ago(now: i64) -> i64 {
    now.saturating_sub(LONGEST_PERIOD)
}

/// Gives free pages back to the file system. Returns how many are left.
fn give_pages_back(connection: &Connection) -> Result<i64, rusqlite::Error> {
    let mut vacuum = connection.prepare(&format!("PRAGMA incremental_vacuum({PAGES_AT_ONCE})"))?;
    let mut rows = vacuum.query([])?;
    while rows.next()?.is_some() {}
    connection.pragma_query_value(None, "freelist_count", |row| row.get(0))
}
