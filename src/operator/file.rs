//! The ledger's file itself.

use std::path::Path;
use std::sync::Arc;

use super::Failure;
use crate::store::budgets::Budgets;
use crate::store::directory::{CLI, Configured, Directory, DirectoryError, Listed, Made};
use crate::store::ledger::{self, Ledger, OpenError, ReadError, Reader, Seen, Sync};

/// A ledger that is open for changes.
pub(super) struct Open {
    pub(super) directory: Arc<Directory>,
}

impl Open {
    /// Opens a file that is there: a path with a slip in it must not become a new ledger.
    pub(super) fn new(path: &Path, configured: Configured) -> Result<Self, Failure> {
        exists(path)?;
        let ledger = Ledger::open(&ledger::Params {
            path: path.to_owned(),
            // Few changes, and each of them somebody waits for.
            sync: Sync::Always,
            max_open: 1,
            retention: Default::default(),
        })?;
        // Nobody calls here: a large ledger need not be read for what budgets have left.
        let budgets = Arc::new(Budgets::of_nobody());
        let directory = Directory::open(&ledger, &budgets, Arc::default(), configured, CLI)?;
        Ok(Self { directory })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.directory.ledger().close();
    }
}

/// Returns a way to read a file that is there, and a ledger; and what is to be said of how much of it can be read.
pub(super) fn reader(path: &Path) -> Result<(Reader, Option<String>), Failure> {
    exists(path)?;
    let note = match ledger::check_file(path)? {
        Seen::All => None,
        Seen::WithoutLog => Some(format!(
            "{path}-wal cannot be read along with the ledger, since nothing can be written beside it: what was written last is missing",
            path = path.display()
        )),
    };
    Ok((Reader::of_file(path), note))
}

/// Lists the keys and teams of a file that cannot be written.
pub(super) fn listed(
    path: &Path,
    configured: Configured,
) -> Result<(Listed, Option<String>), Failure> {
    let (reader, note) = reader(path)?;
    let made = reader.read_now(Made::read)?;
    Ok((Listed::of(configured, made), note))
}

fn exists(path: &Path) -> Result<(), Failure> {
    match path.try_exists() {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::mistake(format!(
            "there is no ledger at {}",
            path.display()
        ))),
        Err(error) => Err(Failure::mistake(format!(
            "cannot look for {}: {error}",
            path.display()
        ))),
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Self::mistake(error.to_string())
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error.is_timeout() {
            true => {
                Self::mistake("adding up took too long; ask for a shorter time, by --from and --to")
            }
            false => Self::internal(format!("the ledger cannot be read: {error}")),
        }
    }
}

impl From<DirectoryError> for Failure {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::Refused(refusal) => Self::mistake(refusal.to_string()),
            error => Self::internal(error.to_string()),
        }
    }
}
