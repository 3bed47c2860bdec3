//! Telling those who wait what has come of it, and keeping what is owed to those who do not.

use std::sync::atomic::Ordering;

use super::Writer;
use crate::store::ledger::LedgerError;
use crate::store::ledger::queue::Op;

impl Writer {
    /// Tells of each thing that was asked for in a commit whether it was done.
    pub(super) fn tell_all(&mut self, ops: Vec<Op>, done: Vec<bool>) {
        for (op, is_done) in ops.into_iter().zip(done) {
            self.tell(op, is_done);
        }
    }

    /// Tells of all that was asked for that it was not committed, and keeps the rows that were promised.
    pub(super) fn refuse_all(&mut self, ops: Vec<Op>) {
        // What is owed first: whoever is told of the failure sees it.
        let is_row = |op: &Op| matches!(op, Op::Open { .. } | Op::Settle { .. });
        let (rows, others): (Vec<_>, Vec<_>) = ops.into_iter().partition(is_row);
        rows.into_iter().for_each(|op| self.refuse(op));
        let owed = self.owed.len() as u64;
        self.shared.owed.store(owed, Ordering::Relaxed);
        others.into_iter().for_each(|op| self.refuse(op));
    }

    /// Tells whoever waits that it is committed, or that it never can be.
    fn tell(&mut self, op: Op, is_done: bool) {
        let told = match is_done {
            true => Ok(()),
            false => Err(LedgerError::Unwritable),
        };
        match op {
            Op::Open { done, .. } => {
                if let Some(done) = done {
                    let _ = done.send(told);
                }
            }
            Op::Settle { settled, done } => {
                match is_done {
                    true => self.shared.rows.fetch_add(1, Ordering::Relaxed),
                    false => self.shared.given_up.fetch_add(1, Ordering::Relaxed),
                };
                self.open.remove(&settled.serial);
                drop(settled);
                if let Some(done) = done {
                    let _ = done.send(told);
                }
            }
            Op::Change(change) => change.tell(Ok(())),
            Op::Note { .. } => {}
            Op::Committed { done, .. } => drop(done.send(Ok(()))),
            Op::Barrier(call) => call(),
        }
    }

    /// Tells whoever waits that nothing was written, and keeps what was promised.
    fn refuse(&mut self, op: Op) {
        let error = LedgerError::Unwritable;
        match op {
            // Whoever waits is told, and opens nothing.
            Op::Open {
                done: Some(done), ..
            } => drop(done.send(Err(error))),
            promised @ Op::Open { done: None, .. } => self.owed.push(promised),
            Op::Settle { mut settled, done } => {
                if done.is_some_and(|done| done.send(Err(error)).is_ok()) {
                    settled.entry.tell_unrecorded();
                }
                self.owed.push(Op::Settle {
                    settled,
                    done: None,
                });
            }
            Op::Change(change) => change.tell(Err(error)),
            Op::Note { .. } => {
                self.shared.left_out.fetch_add(1, Ordering::Relaxed);
            }
            Op::Committed { done, settles } => {
                let owed = self.owed.iter_mut().find_map(|owed| match owed {
                    Op::Settle { settled, .. } if Some(settled.serial) == settles => Some(settled),
                    _ => None,
                });
                match (settles, owed) {
                    // Its row came with a commit before this one, and stands.
                    (Some(_), None) => drop(done.send(Ok(()))),
                    (_, owed) => {
                        if done.send(Err(error)).is_ok()
                            && let Some(settled) = owed
                        {
                            settled.entry.tell_unrecorded();
                        }
                    }
                }
            }
            Op::Barrier(call) => call(),
        }
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;
    use tokio::sync::oneshot;

    use super::super::by_hand::writer;
    use super::*;

    #[test]
    fn a_row_that_stands_is_not_told_to_be_missing_when_a_later_commit_fails() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weir.db");
        let (mut writer, queue, _) = writer(&path);
        let other = Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let (done, mut told) = oneshot::channel();
        let settles = Some(7);
        queue.ask(Op::Committed { done, settles }).unwrap();
        writer.round();
        assert_eq!(told.try_recv(), Ok(Ok(())));
        // What nobody knows of is not promised.
        let (done, mut told) = oneshot::channel();
        let settles = None;
        queue.ask(Op::Committed { done, settles }).unwrap();
        writer.round();
        assert_eq!(told.try_recv(), Ok(Err(LedgerError::Unwritable)));
    }
}
