//! Which process wrote what: each one holds a lock for as long as it lives, and whoever finds a lock free knows that its
//! owner has died.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rusqlite::{Connection, Transaction, params};

use super::journal::{self, Journal};
use super::left::interrupt;
use super::presence::Presence;

/// This process, as the ledger knows it.
pub(super) struct Run {
    pub(super) id: i64,
    path: PathBuf,
    /// Held for as long as the process lives. What it has promised stands in the same file.
    lock: File,
    /// Where its files lie.
    presence: Vec<Presence>,
    has_journal: bool,
}

/// A lock and a journal on their way to where those of the process belong. Where they do not come to it, nothing is left.
pub(super) struct Renewal {
    lock: File,
    path: PathBuf,
}

/// What the journal of a run is called, beside the ledger: `weir.db-run-…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) run: i64,
    /// Whether it is one that was made anew, and did not come to its place before its process died.
    is_new: bool,
    /// `None`: from before ledgers had ids, with tables older than version 4.
    ledger: Option<String>,
}

/// What stands behind the name of a journal that is made anew.
const NEW: &str = "-new";

// === impl Name ===

impl Name {
    pub(super) fn of(ledger_id: &str, run: i64) -> Self {
        Self {
            run,
            is_new: false,
            ledger: Some(ledger_id.to_owned()),
        }
    }

    pub(super) fn unmarked(run: i64) -> Self {
        Self {
            run,
            is_new: false,
            ledger: None,
        }
    }

    /// Returns what it is called until it comes to its place.
    pub(super) fn made_anew(self) -> Self {
        Self {
            is_new: true,
            ..self
        }
    }

    pub(super) fn is_unmarked(&self) -> bool {
        self.ledger.is_none()
    }

    pub(super) fn is_of(&self, ledger_id: &str) -> bool {
        self.ledger.as_deref() == Some(ledger_id)
    }

    /// Returns where the first of its files lies.
    pub(super) fn path(&self, ledger: &Path) -> PathBuf {
        let mut path = ledger.as_os_str().to_owned();
        path.push(self.suffix());
        path.into()
    }

    /// Returns what it says behind the ledger's own name.
    pub(super) fn suffix(&self) -> String {
        let new = if self.is_new { NEW } else { "" };
        match &self.ledger {
            Some(ledger) => format!("-run-{ledger}-{}{new}", self.run),
            None => format!("-run-{}{new}", self.run),
        }
    }

    /// Reads what is behind `-run-`, of either file.
    fn parse(text: &str) -> Option<Self> {
        let (ledger, run) = match text.split_once('-') {
            Some((ledger, run)) if is_ledger_id(ledger) => (Some(ledger), run),
            _ => (None, text),
        };
        let run = run.strip_suffix("-2").unwrap_or(run);
        let (run, is_new) = match run.strip_suffix(NEW) {
            Some(run) => (run, true),
            None => (run, false),
        };
        Some(Self {
            is_new,
            run: run.parse().ok().filter(|run| *run > 0)?,
            ledger: ledger.map(str::to_owned),
        })
    }

    /// Returns all that lie beside a ledger.
    pub(super) fn beside(ledger: &Path) -> io::Result<BTreeSet<Self>> {
        let folder = match ledger.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let Some(stem) = ledger.file_name().and_then(|name| name.to_str()) else {
            return Ok(BTreeSet::new());
        };
        let mut names = BTreeSet::new();
        for file in fs::read_dir(folder)? {
            let file = file?.file_name();
            let behind = file.to_str().and_then(|name| name.strip_prefix(stem));
            let name = behind.and_then(|behind| behind.strip_prefix("-run-"));
            names.extend(name.and_then(Self::parse));
        }
        Ok(names)
    }
}

fn is_ledger_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

// === impl Run ===

impl Run {
    /// Enters this process. The transaction keeps others from taking it for dead before it has its lock.
    ///
    /// # Errors
    /// SQLite's own, or those of the lock beside the file.
    pub(super) fn begin(
        transaction: &Transaction<'_>,
        ledger: &Path,
        ledger_id: &str,
        beside: &BTreeSet<Name>,
    ) -> Result<io::Result<Self>, rusqlite::Error> {
        // A number comes again where the file was put back from a copy. One whose journal lies here is not ours.
        let ours = beside.iter();
        let ours = ours.filter(|name| name.is_of(ledger_id) || name.is_unmarked());
        let taken = ours.map(|name| name.run).max().unwrap_or(0);
        transaction.execute(
            "INSERT INTO run (id, began) SELECT max(coalesce(max(id), 0), ?) + 1, ? FROM run",
            params![taken, now()],
        )?;
        let id = transaction.last_insert_rowid();
        let path = Name::of(ledger_id, id).path(ledger);
        let begin = || {
            let lock = lock(&path)?;
            let presence = vec![Presence::of(&path)?];
            Ok(Self {
                id,
                path,
                lock,
                presence,
                has_journal: false,
            })
        };
        Ok(begin())
    }

    /// Begins the journal of this process.
    pub(super) fn journal(&mut self) -> io::Result<Journal> {
        let journal = Journal::begin(&self.path)?;
        let files = journal::files(&self.path);
        self.presence = files
            .iter()
            .map(|file| Presence::of(file))
            .collect::<Result<_, _>>()?;
        self.has_journal = true;
        Ok(journal)
    }

    /// Returns whether it keeps a journal.
    pub(super) fn has_journal(&self) -> bool {
        self.has_journal
    }

    /// Returns whether its lock and its journal are where they were. Without them others take this process for dead.
    pub(super) fn is_there(&self) -> bool {
        self.presence.iter().all(|file| file.check().is_ok())
    }

    /// Makes lock and journal anew, beside what may still lie there: who looks meanwhile finds the old lock held, and
    /// what stands in the old journal is lost to nobody before it stands in the new one.
    pub(super) fn renew(&self) -> io::Result<Renewal> {
        let mut path = self.path.as_os_str().to_owned();
        path.push(NEW);
        let path = PathBuf::from(path);
        // Left by a try that the process was killed in.
        journal::remove(&path);
        let lock = lock(&path)?;
        Ok(Renewal { lock, path })
    }

    /// Puts what was made anew in its place.
    pub(super) fn install(&mut self, renewal: Renewal) -> io::Result<()> {
        let (new, old) = (journal::files(&renewal.path), journal::files(&self.path));
        let count = if self.has_journal { 2 } else { 1 };
        let lock = renewal.lock.try_clone()?;
        // The first goes first: the lock is on it, and all that is promised stands in it.
        fs::rename(&new[0], &old[0])?;
        self.lock = lock;
        if self.has_journal {
            fs::rename(&new[1], &old[1])?;
        }
        let presence = old.iter().take(count).map(|file| Presence::of(file));
        self.presence = presence.collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Notes that it lives, should another process have taken it for dead.
    pub(super) fn enter(&self, transaction: &Transaction<'_>) -> Result<(), rusqlite::Error> {
        transaction.execute("UPDATE run SET ended = NULL WHERE id = ?", [self.id])?;
        Ok(())
    }

    /// Notes the end, and settles what is open even now: whoever holds it will not be heard any more. Where not all of
    /// the journal is written, the next start does it.
    pub(super) fn finish(self, connection: &mut Connection, is_all: bool) {
        if !is_all {
            return;
        }
        let mut finish = || {
            let transaction = connection.transaction()?;
            interrupt(&transaction, self.id)?;
            end(&transaction, self.id)?;
            transaction.commit()
        };
        // Should it fail, the next start finds the lock free and does it.
        if finish().is_ok() {
            journal::remove(&self.path);
        }
    }
}

// === impl Renewal ===

impl Renewal {
    /// Begins the journal.
    pub(super) fn journal(&self) -> io::Result<Journal> {
        Journal::begin(&self.path)
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        journal::remove(&self.path);
    }
}

fn lock(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new();
    let file = file.create(true).append(true).mode(0o600).open(path)?;
    file.try_lock().map_err(io::Error::from)?;
    Ok(file)
}

pub(super) fn end(connection: &Connection, run: i64) -> Result<(), rusqlite::Error> {
    connection.execute("UPDATE run SET ended = ? WHERE id = ?", params![now(), run])?;
    Ok(())
}

pub(super) fn now() -> i64 {
    micros(SystemTime::now())
}

/// Microseconds since 1970.
pub(super) fn micros(time: SystemTime) -> i64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
