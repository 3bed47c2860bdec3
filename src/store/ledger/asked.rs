//! Doing one of the things that were asked for, in the transaction of all: what is wrong with it must not undo the others.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::{ErrorCode, Transaction};

use super::change::Change;
use super::queue::Settled;
use super::rows::Rows;

/// Settles the row of a request that is under way, or writes all of it at once.
pub(super) fn settle(
    rows: &mut Rows<'_>,
    row: Option<i64>,
    settled: &Settled,
) -> Result<i64, rusqlite::Error> {
    let Settled {
        serial,
        intent,
        entry,
        ..
    } = settled;
    match row {
        Some(row) => rows.update(row, entry),
        None => rows.insert(*serial, intent, entry),
    }
}

/// Makes a change; what it breaks must not undo the rows beside it.
pub(super) fn make(
    transaction: &Transaction<'_>,
    change: &mut dyn Change,
) -> Result<(), rusqlite::Error> {
    transaction.execute_batch("SAVEPOINT change")?;
    match catch_unwind(AssertUnwindSafe(|| change.make(transaction))) {
        Ok(Ok(())) => transaction.execute_batch("RELEASE change"),
        Ok(Err(error)) if is_the_files(&error) => Err(error),
        Ok(Err(_)) | Err(_) => transaction.execute_batch("ROLLBACK TO change; RELEASE change"),
    }
}

/// A row that the file refuses for what is in it would be refused each time, and all others with it: it is given up.
/// What stands of it already stays.
pub(super) fn unless_refused(
    written: Result<i64, rusqlite::Error>,
) -> Result<Option<i64>, rusqlite::Error> {
    match written {
        Err(error) if !is_the_files(&error) => {
            tracing::error!(%error, "a row cannot be written, and is given up");
            Ok(None)
        }
        written => written.map(Some),
    }
}

/// Returns whether an error is the file's, and not the statement's.
pub(super) fn is_the_files(error: &rusqlite::Error) -> bool {
    !matches!(
        error.sqlite_error_code(),
        None | Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
    )
}
