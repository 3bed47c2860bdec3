//! What processes that have died left beside the ledger: the journals of what they had promised, and in it the rows that
//! they had open.
//!
//! Each journal's name says of which ledger and which run it is, so that none is ever taken for another's. What belongs to a
//! run of this ledger is written into that. A run that the ledger does not know was begun after the copy that lies here was
//! made, and is entered under its number; where the ledger is new, what lies there was promised to one that is gone, and becomes
//! a run of its own, which is noted with the journal's name. Each is known again should its journal come back. All else belongs to another ledger, and waits until that is put back.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::{OptionalExtension as _, Transaction, params};

use super::journal::{self, Record, Unreadable};
use super::rows::Rows;
use super::run::{Name, end, micros, now};

/// What was settled at the start.
#[derive(Debug, Default)]
pub(super) struct Settlement {
    /// How many rows were open.
    pub(super) interrupted: u64,
    /// Journals that are needed no more once it is committed.
    pub(super) done: Vec<PathBuf>,
}

/// Settles what the dead have left.
pub(super) struct Executor<'t> {
    pub(super) transaction: &'t Transaction<'t>,
    pub(super) ledger: &'t Path,
    pub(super) ledger_id: &'t str,
    /// Whether the ledger was made just now.
    pub(super) is_new: bool,
    /// The run that is alive for certain.
    pub(super) own: i64,
}

/// What is to be done with a journal that no run left which is known to be open.
enum Stray {
    /// It is empty.
    Done,
    /// This run, which is its own or was made of it, has ended, and whoever noted that did not remove it, or took a process
    /// for dead that was not, or it was put back from a copy: what is not committed is written.
    Ended(i64),
    /// Its rows become a run that the ledger did not know.
    Adopted,
    /// It is another ledger's.
    Kept,
}

// === impl Settlement ===

impl Settlement {
    /// Removes the journals, once all of it is committed. One that somebody holds again stays: its process was taken for
    /// dead too soon.
    pub(super) fn remove_done(&self) {
        let dead = self.done.iter().filter(|journal| !is_held(journal));
        dead.for_each(|journal| journal::remove(journal));
    }
}

// === impl Executor ===

impl Executor<'_> {
    /// Writes what processes have promised that live no more, and settles what they left open. `beside` are the journals
    /// that lay there before this process began its own.
    pub(super) fn settle(&self, beside: &BTreeSet<Name>) -> Result<Settlement, rusqlite::Error> {
        let mut settlement = Settlement::default();
        let sql = "SELECT id FROM run WHERE ended IS NULL AND id <> ?";
        let mut others = self.transaction.prepare(sql)?;
        let others: BTreeSet<i64> = others
            .query_map([self.own], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for run in &others {
            self.settle_run(*run, &mut settlement)?;
        }
        for name in beside {
            if !(self.is_ours(name) && others.contains(&name.run)) {
                self.settle_stray(name, &mut settlement)?;
            }
        }
        Ok(settlement)
    }

    fn settle_run(&self, run: i64, settlement: &mut Settlement) -> Result<(), rusqlite::Error> {
        let own = Name::of(self.ledger_id, run);
        let names = [own.clone(), Name::unmarked(run), own.made_anew()];
        let journals = names.map(|name| name.path(self.ledger));
        if journals.iter().any(|journal| is_held(journal)) {
            return Ok(());
        }
        let mut records = Vec::new();
        for journal in &journals {
            match journal::read(journal) {
                Ok(read) => records.extend(read),
                Err(error) => {
                    tell_unreadable(journal, &error);
                    return Ok(());
                }
            }
        }
        settlement.interrupted += self.write(run, records)?;
        settlement.done.extend(journals);
        Ok(())
    }

    fn settle_stray(
        &self,
        name: &Name,
        settlement: &mut Settlement,
    ) -> Result<(), rusqlite::Error> {
        let journal = name.path(self.ledger);
        if is_held(&journal) {
            return Ok(());
        }
        let records = match journal::read(&journal) {
            Ok(records) => records,
            Err(error) => {
                tell_unreadable(&journal, &error);
                return Ok(());
            }
        };
        match self.judge(name, &records)? {
            Stray::Done => settlement.done.push(journal),
            Stray::Ended(run) => {
                settlement.interrupted += self.write(run, records)?;
                settlement.done.push(journal);
            }
            Stray::Adopted => {
                tracing::warn!(
                    journal = %journal.display(),
                    records = records.len(),
                    "what was promised to a ledger that is not here any more is written into this one"
                );
                let run = self.adopt(name)?;
                settlement.interrupted += self.write(run, records)?;
                settlement.done.push(journal);
            }
            Stray::Kept => tracing::warn!(
                journal = %journal.display(),
                records = records.len(),
                "a journal of another ledger lies here and is kept: put that ledger back to have it written there, or \
                 delete the journal"
            ),
        }
        Ok(())
    }

    fn judge(&self, name: &Name, records: &[Record<'_>]) -> Result<Stray, rusqlite::Error> {
        if records.is_empty() {
            return Ok(Stray::Done);
        }
        if name.is_of(self.ledger_id) {
            let sql = "SELECT 1 FROM run WHERE id = ?";
            let known = self.transaction.query_row(sql, [name.run], |_| Ok(()));
            return Ok(match known.optional()? {
                Some(()) => Stray::Ended(name.run),
                None => Stray::Adopted,
            });
        }
        let sql = "SELECT CAST(value AS INTEGER) FROM meta WHERE name = ?";
        let adopted = self
            .transaction
            .query_row(sql, [adopted(name)], |row| row.get(0));
        Ok(match adopted.optional()? {
            Some(run) => Stray::Ended(run),
            None if self.is_new => Stray::Adopted,
            None => Stray::Kept,
        })
    }

    /// Makes a run of what another one has left, so that it is known should its journal come back.
    fn adopt(&self, name: &Name) -> Result<i64, rusqlite::Error> {
        if name.is_of(self.ledger_id) {
            let run = "INSERT INTO run (id, began) VALUES (?, ?)";
            self.transaction.execute(run, params![name.run, now()])?;
            return Ok(name.run);
        }
        let run = "INSERT INTO run (began) VALUES (?)";
        self.transaction.execute(run, [now()])?;
        let run = self.transaction.last_insert_rowid();
        let note = "INSERT INTO meta VALUES (?, ?)";
        self.transaction
            .execute(note, params![adopted(name), run.to_string()])?;
        Ok(run)
    }

    /// Returns whether it may be the journal of a run of this ledger that has not ended.
    fn is_ours(&self, name: &Name) -> bool {
        name.is_unmarked() || name.is_of(self.ledger_id)
    }

    fn write(&self, run: i64, records: Vec<Record<'_>>) -> Result<u64, rusqlite::Error> {
        replay(self.transaction, run, records)?;
        let interrupted = interrupt(self.transaction, run)?;
        end(self.transaction, run)?;
        Ok(interrupted)
    }
}

/// Returns under which name it is noted which run was made of another ledger's journal.
fn adopted(name: &Name) -> String {
    format!("adopted{}", name.suffix())
}

/// What was promised stays where it is, and rows of its run stay open, until somebody has looked at it.
fn tell_unreadable(journal: &Path, error: &Unreadable) {
    tracing::error!(
        journal = %journal.display(),
        %error,
        "what a process that died had promised cannot be read, and is kept: mend the journal, or run the version that \
         wrote it; or delete it, and the next start settles what was open at its estimate"
    );
}

/// Writes what a process had promised and not committed.
fn replay(
    transaction: &Transaction<'_>,
    run: i64,
    records: Vec<Record<'_>>,
) -> Result<(), rusqlite::Error> {
    let arrivals = records.iter().map(|record| match record {
        Record::Open { intent, .. } | Record::Settled { intent, .. } => {
            micros(intent.get().received)
        }
    });
    let Some(first) = arrivals.min() else {
        return Ok(());
    };
    let mut known = HashMap::new();
    let mut select = transaction.prepare(
        "SELECT serial, id, status IN ('open', 'interrupted') FROM request WHERE run = ?1 AND id >= ?2 AND serial IS NOT NULL",
    )?;
    let mut rows = select.query(params![run, first])?;
    while let Some(row) = rows.next()? {
        let (serial, id, is_guess): (i64, i64, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
        known.insert(serial.cast_unsigned(), (id, is_guess));
    }
    let mut forget_attempts = transaction.prepare("DELETE FROM attempt WHERE request = ?")?;
    let mut writes = Rows::new(transaction, run)?;
    let (settled, open): (Vec<_>, Vec<_>) = records
        .into_iter()
        .partition(|record| matches!(record, Record::Settled { .. }));
    for record in settled.into_iter().chain(open) {
        match record {
            Record::Settled {
                serial,
                intent,
                entry,
            } => match known.get(&serial) {
                // Committed, and the process died before the journal could be emptied.
                Some((_, false)) => {}
                // What was promised is known better than what an open row was settled at by who took its process for dead.
                Some((id, true)) => {
                    forget_attempts.execute([id])?;
                    writes.update(*id, entry.get())?;
                    known.insert(serial, (*id, false));
                }
                None => {
                    let id = writes.insert(serial, intent.get(), entry.get())?;
                    known.insert(serial, (id, false));
                }
            },
            Record::Open { serial, intent } => {
                if let Entry::Vacant(unknown) = known.entry(serial) {
                    let id = writes.open(serial, intent.get())?;
                    unknown.insert((id, true));
                }
            }
        }
    }
    Ok(())
}

/// Settles the open rows of a run at their estimates, each with an attempt that says the same.
pub(super) fn interrupt(transaction: &Transaction<'_>, run: i64) -> Result<u64, rusqlite::Error> {
    transaction.execute(
        "INSERT OR REPLACE INTO attempt (request, number, upstream, endpoint, model, began, result, input_tokens,
            output_tokens, provenance, cost)
         SELECT id, 1, coalesce(upstream, ''), '', model, 0, 'interrupted', input_tokens, output_tokens, provenance, cost
         FROM request WHERE run = ? AND status = 'open' AND true",
        [run],
    )?;
    let settled = transaction.execute(
        "UPDATE request SET status = 'interrupted', error = 'gateway_interrupted', attempts = 1
         WHERE run = ? AND status = 'open'",
        [run],
    )?;
    Ok(settled as u64)
}

/// Returns whether somebody lives behind a lock. One that cannot be asked is taken for alive: a row too few settled is
/// found at the next start, one too many would be counted twice. A file that cannot be opened tells why when it is read.
fn is_held(lock: &Path) -> bool {
    File::open(lock).is_ok_and(|file| file.try_lock().is_err())
}
