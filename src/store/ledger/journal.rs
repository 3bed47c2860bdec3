//! The journal of a process: what it has promised to write, until that is committed.
//!
//! A commit of the database costs more than a request should, so commits are made for many at once, and what waits for
//! one stands in a file of the process's own meanwhile. A record is in the hands of the system as soon as it is appended:
//! a process that dies loses nothing, and whoever finds the file behind a dead process writes what is in it.
//!
//! There are two files, so that one can be emptied while records go to the other: whenever the writer takes what waits,
//! it turns to the other file, and empties this one when all of it is committed. A record is a line of JSON. One that was
//! torn by the end of its process had been promised to nobody, and is passed over.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::entry::{Entry, Intent};

/// A promise.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Record<'a> {
    /// A row that is open.
    Open {
        /// The request's number in the run.
        serial: u64,
        intent: Shared<'a, Intent>,
    },
    /// A row that is settled; it holds all of it, so that it need not be known whether the open one was committed.
    Settled {
        serial: u64,
        intent: Shared<'a, Intent>,
        entry: Shared<'a, Entry>,
    },
}

/// Borrowed where it is written, owned where it is read.
#[derive(Debug, Deserialize)]
#[serde(from = "T", bound(deserialize = "T: Deserialize<'de>"))]
pub(super) enum Shared<'a, T> {
    Borrowed(&'a T),
    Owned(Box<T>),
}

/// The two files.
pub(super) struct Journal {
    files: [File; 2],
    /// Whether there is anything in each.
    dirty: [bool; 2],
    active: usize,
}

impl<T> From<T> for Shared<'_, T> {
    fn from(value: T) -> Self {
        Self::Owned(Box::new(value))
    }
}

impl<T: Serialize> Serialize for Shared<'_, T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.get().serialize(serializer)
    }
}

impl<T> Shared<'_, T> {
    pub(super) fn get(&self) -> &T {
        match self {
            Self::Borrowed(value) => value,
            Self::Owned(value) => value,
        }
    }
}

impl Record<'_> {
    /// Returns the record as a line. It begins with a line's end: what may have been torn before it must not swallow it.
    pub(super) fn to_line(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut line = Vec::with_capacity(1024);
        line.push(b'\n');
        serde_json::to_writer(&mut line, self)?;
        line.push(b'\n');
        Ok(line)
    }
}

impl Journal {
    /// Begins with the file that the process has a lock on, and one beside it.
    pub(super) fn begin(lock: &File, path: &Path) -> io::Result<Self> {
        let second = OpenOptions::new()
            .create(true)
            .append(true)
            .open(second(path))?;
        Ok(Self {
            files: [lock.try_clone()?, second],
            dirty: [false; 2],
            active: 0,
        })
    }

    /// Appends a record.
    pub(super) fn append(&mut self, line: &[u8]) -> io::Result<()> {
        self.dirty[self.active] = true;
        self.files[self.active].write_all(line)
    }

    /// Turns to the other file if that is empty.
    pub(super) fn turn(&mut self) {
        let other = 1 - self.active;
        if !self.dirty[other] {
            self.active = other;
        }
    }

    /// Empties the file that is not written to now: all that was taken is committed.
    pub(super) fn empty(&mut self) -> io::Result<()> {
        let other = 1 - self.active;
        if self.dirty[other] {
            self.files[other].set_len(0)?;
            self.dirty[other] = false;
        }
        Ok(())
    }

    /// Returns the files, to make the disk keep them.
    pub(super) fn files(&self) -> io::Result<[File; 2]> {
        Ok([self.files[0].try_clone()?, self.files[1].try_clone()?])
    }
}

/// Reads what a process has left.
pub(super) fn read(path: &Path) -> io::Result<Vec<Record<'static>>> {
    let mut records = Vec::new();
    for path in [path.to_owned(), second(path)] {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for line in text.split(|byte| *byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            match serde_json::from_slice(line) {
                Ok(record) => records.push(record),
                Err(_) => tracing::warn!(
                    bytes = line.len(),
                    "a record that a process was killed at is passed over"
                ),
            }
        }
    }
    Ok(records)
}

/// Removes the files of a process.
pub(super) fn remove(path: &Path) {
    // The one without the lock first: a process whose lock is gone is not looked for again.
    let _ = fs::remove_file(second(path));
    let _ = fs::remove_file(path);
}

fn second(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-2");
    name.into()
}
