//! Whether the file is still where it was. One that is open can be deleted, moved or replaced; SQLite goes on to write to
//! it all the same, where nobody will ever read it.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::schema::log_of;

/// Where a file is, and which one it is.
#[derive(Clone, Debug)]
pub(super) struct Presence {
    path: PathBuf,
    identity: (u64, u64),
}

/// Why what is written there would be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Lost {
    #[error(
        "its file was deleted or moved away; put it back, or restart Weir to begin a new one, which is given what is owed"
    )]
    Gone,
    #[error(
        "another file lies in its place; put it back, or restart Weir to go on with the other, while what is owed waits for this one"
    )]
    Replaced,
    #[error(
        "its write-ahead log (-wal) was deleted, moved away or replaced; put it back, or restart Weir, which writes what is owed"
    )]
    Log,
}

impl Presence {
    /// Remembers the file that lies there now.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            identity: identity(&fs::metadata(path)?),
        })
    }

    /// Remembers the log that lies beside it now.
    pub(super) fn of_log(&self) -> Option<Self> {
        Self::of(&log_of(&self.path)).ok()
    }

    /// Returns whether nothing stands in what lies there now, should anything.
    pub(super) fn is_empty(&self) -> bool {
        fs::metadata(&self.path).map_or(true, |found| found.len() == 0)
    }

    /// Looks whether it still does. Where that cannot be seen, it does.
    pub(super) fn check(&self) -> Result<(), Lost> {
        match fs::metadata(&self.path) {
            Ok(found) if identity(&found) == self.identity => Ok(()),
            Ok(_) => Err(Lost::Replaced),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Lost::Gone),
            Err(_) => Ok(()),
        }
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}
