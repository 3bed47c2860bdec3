//! The journal of a process: what it has promised to write, until that is committed.
//!
//! A commit of the database costs more than a request should, so commits are made for many at once, and what waits for
//! one stands in a file of the process's own meanwhile. A record is in the hands of the system as soon as it is appended:
//! a process that dies loses nothing, and whoever finds the file behind a dead process writes what is in it.
//!
//! There are two files, so that one can be emptied while records go to the other: whenever the writer takes what waits,
//! it turns to the other file, and empties this one when all of it is committed.
//!
//! # What a file looks like
//! One record behind the other, each as [`MARK`], the length of what follows, its CRC-32 (both 32 bits, little-endian), and
//! the record as postcard encodes it. One that was torn by the end of its process had been promised to nobody, and is
//! passed over, as is whatever else does not match its checksum. Weir 0.1 with tables of version 2 wrote lines of JSON,
//! which are read still. The encoding names no fields: where a record's change, the mark must.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use memchr::memmem;
use serde::{Deserialize, Serialize};

use super::entry::{Entry, Intent};

/// What each record begins with. The last byte is the version of the records' shape.
const MARK: [u8; 4] = *b"\0wj1";

/// The mark, the length, the checksum.
const HEAD: usize = MARK.len() + 8;

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
    /// Returns the record as it stands in a file.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, postcard::Error> {
        let mut bytes = Vec::with_capacity(512);
        bytes.extend_from_slice(&MARK);
        bytes.resize(HEAD, 0);
        let mut bytes = postcard::to_extend(self, bytes)?;
        let record = &bytes[HEAD..];
        let length = u32::try_from(record.len()).map_err(|_| postcard::Error::SerializeBufferFull)?;
        let checksum = crc32fast::hash(record);
        bytes[MARK.len()..MARK.len() + 4].copy_from_slice(&length.to_le_bytes());
        bytes[MARK.len() + 4..HEAD].copy_from_slice(&checksum.to_le_bytes());
        Ok(bytes)
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
    pub(super) fn append(&mut self, record: &[u8]) -> io::Result<()> {
        self.dirty[self.active] = true;
        self.files[self.active].write_all(record)
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
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        match bytes.first() {
            Some(b'\n') => read_lines(&bytes, &mut records),
            _ => read_frames(&bytes, &mut records),
        }
    }
    Ok(records)
}

fn read_frames(mut bytes: &[u8], records: &mut Vec<Record<'static>>) {
    while !bytes.is_empty() {
        if let Some((record, rest)) = read_frame(bytes) {
            records.push(record);
            bytes = rest;
            continue;
        }
        // Behind what was torn others may follow.
        let next = memmem::find(&bytes[1..], &MARK).map_or(bytes.len(), |at| at + 1);
        passed_over(next);
        bytes = &bytes[next..];
    }
}

fn read_frame(bytes: &[u8]) -> Option<(Record<'static>, &[u8])> {
    let behind = bytes.strip_prefix(&MARK)?;
    let (length, behind) = behind.split_first_chunk()?;
    let (checksum, behind) = behind.split_first_chunk()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (record, rest) = behind.split_at_checked(length)?;
    if crc32fast::hash(record) != u32::from_le_bytes(*checksum) {
        return None;
    }
    Some((postcard::from_bytes(record).ok()?, rest))
}

fn read_lines(text: &[u8], records: &mut Vec<Record<'static>>) {
    let lines = text.split(|byte| *byte == b'\n');
    for line in lines.filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(record) => records.push(record),
            Err(_) => passed_over(line.len()),
        }
    }
}

fn passed_over(bytes: usize) {
    tracing::warn!(
        bytes,
        "a record that a process was killed at is passed over"
    );
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
