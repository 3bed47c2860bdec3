//! Changes of what stands beside the rows, on their way to the one thread that writes.

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::asked::is_the_files;
use super::queue::Op;
use super::{ChangeError, LedgerError};

/// A change of its own making.
pub(super) trait Change: Send {
    /// Makes the change and keeps its result; an error undoes it.
    fn make(&mut self, connection: &Connection) -> Result<(), rusqlite::Error>;
    /// Tells how it went.
    fn tell(self: Box<Self>, written: Result<(), LedgerError>);
}

struct Made<F, T, E> {
    change: Option<F>,
    result: Option<Result<T, ChangeError<E>>>,
    done: oneshot::Sender<Result<T, ChangeError<E>>>,
}

/// Wraps a change and whoever waits for it.
pub(super) fn change_op<T, E>(
    change: impl FnOnce(&Connection) -> Result<Result<T, E>, rusqlite::Error> + Send + 'static,
    done: oneshot::Sender<Result<T, ChangeError<E>>>,
) -> Op
where
    T: Send + 'static,
    E: Send + 'static,
{
    Op::Change(Box::new(Made {
        change: Some(change),
        result: None,
        done,
    }))
}

impl<F, T, E> Change for Made<F, T, E>
where
    F: FnOnce(&Connection) -> Result<Result<T, E>, rusqlite::Error> + Send,
    T: Send,
    E: Send,
{
    fn make(&mut self, connection: &Connection) -> Result<(), rusqlite::Error> {
        let Some(change) = self.change.take() else {
            return Ok(());
        };
        // Undoes what it had done before it was refused, or failed at what is in a row.
        let undo = || Err(rusqlite::Error::QueryReturnedNoRows);
        match change(connection) {
            Ok(Ok(made)) => {
                self.result = Some(Ok(made));
                Ok(())
            }
            Ok(Err(refusal)) => {
                self.result = Some(Err(ChangeError::Refused(refusal)));
                undo()
            }
            Err(error) if !is_the_files(&error) => {
                self.result = Some(Err(ChangeError::Row(error)));
                undo()
            }
            Err(error) => Err(error),
        }
    }

    fn tell(self: Box<Self>, written: Result<(), LedgerError>) {
        let answer = match (written, self.result) {
            (Ok(()), Some(result)) => result,
            (Ok(()), None) => Err(LedgerError::Unwritable.into()),
            (Err(error), _) => Err(error.into()),
        };
        let _ = self.done.send(answer);
    }
}
