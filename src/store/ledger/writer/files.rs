//! The files of a process that writes: the ledger and its log; its lock, by which others know that it lives; and its journal,
//! in which it promises. Somebody may delete them while it runs.

use std::io;

use super::Writer;
use crate::store::ledger::presence::{Lost, Presence};
use crate::store::ledger::queue::Op;

/// How it stands with the lock and the journal of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entered {
    /// They are there.
    Yes,
    /// They were gone for a moment, in which others may have taken it for dead.
    Anew,
    /// They are gone, and cannot be made.
    No,
}

impl Writer {
    /// Copies what is committed into the file, out of a log that nobody else finds any more: a process that is killed would
    /// lose it. Where another log has begun in its place, that is the file's, and nothing is copied.
    pub(super) fn save_log(&self) {
        if self.log.as_ref().is_some_and(Presence::is_empty) {
            let checkpoint = "PRAGMA wal_checkpoint(FULL)";
            // Should it fail, it is tried again with the next commit.
            let _ = self.connection.query_row(checkpoint, [], |_| Ok(()));
        }
    }

    /// Looks whether others still know that this process lives, and what it has promised: `waiting` is not committed.
    pub(super) fn look(&mut self, waiting: &[Op]) {
        if self.entered != Entered::No && self.run.is_there() {
            return;
        }
        match self.renew(waiting) {
            Ok(()) => {
                self.entered = Entered::Anew;
                tracing::warn!("the journal of this process was deleted, and is made anew");
            }
            Err(error) if self.entered != Entered::No => {
                self.entered = Entered::No;
                self.queue.lose_journal();
                tracing::error!(%error, "the journal of this process was deleted, and cannot be made anew");
            }
            Err(_) => {}
        }
    }

    /// Makes lock and journal anew.
    fn renew(&mut self, waiting: &[Op]) -> io::Result<()> {
        let renewal = self.run.renew()?;
        if !self.run.has_journal() {
            return self.run.install(renewal);
        }
        let journal = renewal.journal()?;
        let install = || self.run.install(renewal);
        self.queue.renew(journal, waiting, install)
    }
}

/// Looks whether the file and its log are where they were.
pub(super) fn check(file: &Presence, log: Option<&Presence>) -> Result<(), Lost> {
    file.check()?;
    log.map_or(Ok(()), |log| log.check().map_err(|_| Lost::Log))
}
