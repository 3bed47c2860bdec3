//! The files of a configuration, and how they were just before they were read: whoever watches them misses nothing that
//! was written since.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What tells one content of a file from another: device, inode, size and the time of its last change, seconds and
/// nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// A file that a configuration is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadFile {
    /// Where it is, or should be.
    pub path: PathBuf,
    /// How it was before it was read; `None`: it was not there.
    pub stamp: Option<Stamp>,
}

impl Stamp {
    /// Looks at a file, through all links; `None` while it is not there.
    pub fn of(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            changed: (found.mtime(), found.mtime_nsec()),
        })
    }
}

impl ReadFile {
    /// Looks at a file that is about to be read.
    pub(super) fn at(path: PathBuf) -> Self {
        Self {
            stamp: Stamp::of(&path),
            path,
        }
    }
}

#[cfg(test)]
impl Stamp {
    /// Returns the stamp of a file that needs not be there.
    pub(crate) fn fake(inode: u64) -> Self {
        Self {
            device: 1,
            inode,
            size: 1,
            changed: (1, 0),
        }
    }
}
