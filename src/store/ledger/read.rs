//! Reading, which never holds up writing: each read has a connection of its own and sees one state of the file.

use std::path::Path;
use std::sync::{Arc, LazyLock, Weak, mpsc};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::Semaphore;

use super::queue::{Op, Queue};
use super::schema::open_to_read;

/// Reads at once; more wait. A report looks at many rows, and the cores are there for requests.
static READS: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(2));

/// How long one read may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why nothing could be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// SQLite's own reason.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// The read did not come to its end.
    #[error("the read broke off")]
    BrokeOff,
}

impl ReadError {
    /// Returns whether the read took too long.
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::Sqlite(error) => {
                error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted)
            }
            Self::BrokeOff => false,
        }
    }
}

/// A way to read the ledger.
#[derive(Clone, Debug)]
pub struct Reader {
    path: Arc<Path>,
    /// What this process has still to commit; `None`: another one writes.
    queue: Option<Weak<Queue>>,
}

impl Reader {
    pub(super) fn new(path: &Arc<Path>, queue: &Arc<Queue>) -> Self {
        Self {
            path: Arc::clone(path),
            queue: Some(Arc::downgrade(queue)),
        }
    }

    /// Returns a way to read a file that this process does not write, and that is not checked here to be a ledger.
    pub fn of_file(path: &Path) -> Self {
        Self {
            path: path.into(),
            queue: None,
        }
    }

    /// Runs `read` on a thread where it may block.
    ///
    /// # Errors
    /// What `read` fails with; SQLite's `Interrupt` when it takes too long.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, ReadError> {
        let place = READS.acquire().await.map_err(|_| ReadError::BrokeOff)?;
        let this = self.clone();
        let reading = tokio::task::spawn_blocking(move || {
            // Held to the end, also when nobody waits for it any more.
            let _place = place;
            this.read_now(read)
        });
        reading.await.map_err(|_| ReadError::BrokeOff)?
    }

    /// Runs `read` on this thread, when all that this process was asked to write before is committed.
    ///
    /// # Errors
    /// What `read` fails with; SQLite's `Interrupt` when it takes too long.
    pub fn read_now<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, ReadError> {
        self.wait_for_the_writer();
        let mut connection = open_to_read(&self.path)?;
        let began = Instant::now();
        connection.progress_handler(10_000, Some(move || began.elapsed() > TIMEOUT))?;
        // One transaction: whatever is read sees the same state.
        let transaction = connection.transaction()?;
        Ok(read(&transaction)?)
    }

    fn wait_for_the_writer(&self) {
        let Some(queue) = self.queue.as_ref().and_then(Weak::upgrade) else {
            return;
        };
        let (done, committed) = mpsc::channel();
        let barrier = Op::Barrier(Box::new(move || {
            let _ = done.send(());
        }));
        // A closed ledger has written what it could.
        if queue.ask(barrier).is_ok() {
            let _ = committed.recv_timeout(TIMEOUT);
        }
    }
}
