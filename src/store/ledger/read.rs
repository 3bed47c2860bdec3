//! Reading, which never holds up writing: each read has a connection of its own and sees one state of the file.

use std::path::Path;
use std::sync::{Arc, LazyLock, Weak, mpsc};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::look::open_anyhow;
use super::queue::{Op, Queue};
use super::schema::{open_to_read, real};

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
            path: real(path).into(),
            queue: None,
        }
    }

    /// Runs `read` on a thread where it may block, for as long as it is waited for.
    ///
    /// # Errors
    /// What `read` fails with; SQLite's `Interrupt` when it takes too long.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, ReadError> {
        let place = READS.acquire().await.map_err(|_| ReadError::BrokeOff)?;
        let this = self.clone();
        let asker = CancellationToken::new();
        let is_gone = asker.clone();
        // Who leaves gives the place back, too: the read breaks off.
        let _asks = asker.drop_guard();
        let reading = tokio::task::spawn_blocking(move || {
            let _place = place;
            this.read_unless(move || is_gone.is_cancelled(), read)
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
        self.read_unless(|| false, read)
    }

    fn read_unless<T>(
        &self,
        is_gone: impl Fn() -> bool + Send + 'static,
        read: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, ReadError> {
        self.wait_for_the_writer();
        let mut connection = self.open()?;
        let began = Instant::now();
        let must_end = move || began.elapsed() > TIMEOUT || is_gone();
        connection.progress_handler(10_000, Some(must_end))?;
        // One transaction: whatever is read sees the same state.
        let transaction = connection.transaction()?;
        Ok(read(&transaction)?)
    }

    /// Runs `read` as [`Reader::read_now`] does, however long it takes: for what nothing goes on without.
    ///
    /// # Errors
    /// What `read` fails with.
    pub fn read_to_the_end<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, ReadError> {
        self.wait_for_the_writer();
        let mut connection = self.open()?;
        let transaction = connection.transaction()?;
        Ok(read(&transaction)?)
    }

    fn open(&self) -> Result<Connection, rusqlite::Error> {
        match self.queue {
            Some(_) => open_to_read(&self.path),
            // It may lie where nothing can be written.
            None => Ok(open_anyhow(&self.path)?.0),
        }
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

#[cfg(test)]
mod tests {
    use super::super::{Ledger, Params, Sync};
    use super::*;

    #[tokio::test]
    async fn a_read_that_nobody_waits_for_gives_its_place_back() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&Params {
            path: folder.path().join("weir.db"),
            sync: Sync::EverySecond,
            max_open: 1,
            retention: Default::default(),
        })
        .unwrap();
        let reader = ledger.reader();
        let (begun, mut reads) = tokio::sync::mpsc::unbounded_channel();
        let endless = || {
            let begun = begun.clone();
            reader.read(move |file| {
                let _ = begun.send(());
                let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";
                file.query_row(sql, [], |row| row.get::<_, i64>(0))
            })
        };
        let started = Instant::now();
        for _ in 0..4 {
            tokio::select! {
                _ = endless() => unreachable!("it ends by being left alone"),
                _ = reads.recv() => {}
            }
        }
        let one = |file: &Connection| file.query_row("SELECT 1", [], |row| row.get::<_, i64>(0));
        assert_eq!(reader.read(one).await.unwrap(), 1);
        assert!(started.elapsed() < TIMEOUT, "all places were taken");
        ledger.close();
    }
}
