//! Changes of what stands beside the rows, on their way to the one thread that writes.

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::LedgerError;
use super::queue::Op;

/// A change of its own making.
pub(super) trait Change: Send {
    /// Makes the change and keeps its result; an error undoes it.
    fn make(&mut self, connection: &Connection) -> Result<(), rusqlite::Error>;
    /// Tells how it went.
    fn tell(self: Box<Self>, written: Result<(), LedgerError>);
}

struct Made<F, T, E> {
    change: Option<F>,
    result: Option<Result<T, E>>,
    done: oneshot::Sender<Result<Result<T, E>, LedgerError>>,
}

/// Wraps a change and whoever waits for it.
pub(super) fn change_op<T, E>(
    change: impl FnOnce(&Connection) -> Result<Result<T, E>, rusqlite::Error> + Send + 'static,
    done: oneshot::Sender<Result<Result<T, E>, LedgerError>>,
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
        let result = change(connection)?;
        let refused = result.is_err();
        self.result = Some(result);
        if refused {
            // Undoes what it had done before it refused.
            return Err(rusqlite::Error::QueryReturnedNoRows);
        }
        Ok(())
    }

    fn tell(self: Box<Self>, written: Result<(), LedgerError>) {
        let answer = match (written, self.result) {
            (Ok(()), Some(result)) => Ok(result),
            (Ok(()), None) => Err(LedgerError::Unwritable),
            (Err(error), _) => Err(error),
        };
        let _ = self.done.send(answer);
    }
}
