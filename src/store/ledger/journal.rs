//! The journal of a process: what it has promised to write, until that is committed.
//!
//! A commit of the database costs more than a request should, so commits are made for many at once, and what waits for
//! one stands in a file of the process's own meanwhile. A record is in the hands of the system as soon as it is written:
//! a process that dies loses nothing, and whoever finds the file behind a dead process writes what is in it.
//!
//! There are two files, so that one can be emptied while records go to the other: whenever the writer takes what waits,
//! it turns to the other file, and empties this one when all of it is committed. Emptied, a file keeps its size, since to
//! write over what is there costs a fraction of making a file grow: its *generation* is raised, and records of another one
//! than the file's are nothing. The first generation is random: what clients send stands in records, and who knew the next
//! generation could have a record of their own making found in what is left of the last one.
//!
//! # What a file looks like
//! [`MAGIC`], the version and the generation; then frames: [`MARK`], the generation, the length of the record, a checksum (CRC-32 of the
//! record, exclusive or the generation), and the record as postcard encodes it. Numbers are 32 bits, little-endian. A record
//! that was torn by the end of its process, or could not be written whole, had been promised to nobody, and is passed over.
//! The encoding names no fields: where those of a record change, the magic's number must. Before tables of version 3 there
//! were lines of JSON, which are read still. What is neither, or of another number, is left as it is: somebody was promised
//! what stands in it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use memchr::memmem;
use serde::{Deserialize, Serialize};

use super::entry::{Entry, Intent};

/// What a file begins with, before the version of the records' shape.
const MAGIC: [u8; 7] = *b"\0weir-j";
/// The version of the records' shape.
const VERSION: u8 = b'1';
/// The magic, the version and the generation.
const FILE_HEAD: usize = MAGIC.len() + 1 + 4;
/// What a frame begins with.
const MARK: [u8; 4] = *b"\0wjr";
/// The mark, the generation, the length, the checksum.
const FRAME_HEAD: usize = MARK.len() + 12;
/// The size that a file has from the beginning: what some hundred requests promise.
const SIZE: u64 = 256 << 10;
/// A file that has grown beyond this, while nothing could be committed, is made small again.
const LARGE: u64 = 16 << 20;

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
    /// Returns the record in a frame.
    pub(super) fn framed(&self) -> Result<Frame, postcard::Error> {
        let mut bytes = Vec::with_capacity(512);
        bytes.resize(FRAME_HEAD, 0);
        Frame::around(postcard::to_extend(self, bytes)?)
    }
}

/// Why what a process has promised cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it was written by another version of Weir (format {0}, this one knows {known})", known = char::from(VERSION))]
    Version(char),
    #[error("it is no journal of Weir's")]
    Foreign,
    #[error("a record in it that is whole cannot be understood")]
    Record(#[source] postcard::Error),
}

/// A record on its way to a file.
pub(super) struct Frame {
    bytes: Vec<u8>,
    checksum: u32,
}

impl Frame {
    /// Fills in the frame's head, which stands before the record.
    fn around(mut bytes: Vec<u8>) -> Result<Self, postcard::Error> {
        let record = &bytes[FRAME_HEAD..];
        let length = u32::try_from(record.len());
        let length = length.map_err(|_| postcard::Error::SerializeBufferFull)?;
        let checksum = crc32fast::hash(record);
        bytes[..4].copy_from_slice(&MARK);
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        Ok(Self { bytes, checksum })
    }

    /// Frames what may be no record.
    #[cfg(test)]
    pub(super) fn of(record: &[u8]) -> Self {
        Self::around([&[0; FRAME_HEAD], record].concat()).unwrap()
    }
}

/// The two files.
pub(super) struct Journal {
    halves: [Half; 2],
    active: usize,
}

struct Half {
    pen: Arc<Pen>,
    generation: u32,
    /// Where the next frame goes.
    end: u64,
}

/// A file, and how many are writing to it.
struct Pen {
    file: File,
    writers: AtomicUsize,
}

/// A place in a file that nobody else writes to. To write there needs no lock.
pub(super) struct Place {
    pen: Arc<Pen>,
    at: u64,
    generation: u32,
}

// === impl Place ===

impl Place {
    /// Writes the record. On failure nothing of it counts.
    pub(super) fn write(self, mut frame: Frame) -> io::Result<()> {
        let checksum = frame.checksum ^ self.generation;
        frame.bytes[4..8].copy_from_slice(&self.generation.to_le_bytes());
        frame.bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        self.pen.file.write_all_at(&frame.bytes, self.at)
    }

    /// Writes as much of it as a process may that is killed.
    #[cfg(test)]
    pub(super) fn tear(self, mut frame: Frame) {
        frame.bytes.truncate(frame.bytes.len() / 2);
        self.write(frame).unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pen.writers.fetch_sub(1, Ordering::Release);
    }
}

// === impl Half ===

impl Half {
    fn open(path: &Path, generation: u32) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        file.set_len(SIZE)?;
        let mut half = Self {
            pen: Arc::new(Pen {
                file,
                writers: AtomicUsize::new(0),
            }),
            generation,
            end: 0,
        };
        half.begin(generation)?;
        Ok(half)
    }

    fn is_empty(&self) -> bool {
        self.end == FILE_HEAD as u64
    }

    fn empty(&mut self) -> io::Result<()> {
        self.begin(self.generation.wrapping_add(1))
    }

    fn begin(&mut self, generation: u32) -> io::Result<()> {
        let mut head = [0; FILE_HEAD];
        head[..MAGIC.len()].copy_from_slice(&MAGIC);
        head[MAGIC.len()] = VERSION;
        head[MAGIC.len() + 1..].copy_from_slice(&generation.to_le_bytes());
        self.pen.file.write_all_at(&head, 0)?;
        if self.end > LARGE {
            // What is left of it does no harm.
            let _ = self.pen.file.set_len(SIZE);
        }
        self.generation = generation;
        self.end = FILE_HEAD as u64;
        Ok(())
    }
}

// === impl Journal ===

impl Journal {
    /// Begins with the file that the process has a lock on, and one beside it.
    pub(super) fn begin(path: &Path) -> io::Result<Self> {
        Self::begin_at(path, getrandom::u32()?)
    }

    /// Begins with a generation that is known.
    pub(super) fn begin_at(path: &Path, generation: u32) -> io::Result<Self> {
        Ok(Self {
            halves: [
                Half::open(path, generation)?,
                Half::open(&second(path), generation)?,
            ],
            active: 0,
        })
    }

    /// Returns the place of a new record.
    pub(super) fn place(&mut self, frame: &Frame) -> Place {
        let half = &mut self.halves[self.active];
        let at = half.end;
        half.end += frame.bytes.len() as u64;
        half.pen.writers.fetch_add(1, Ordering::Relaxed);
        Place {
            pen: Arc::clone(&half.pen),
            at,
            generation: half.generation,
        }
    }

    /// Turns to the other file if that is empty. Whoever had a place in it before must have written there: it would be
    /// that of another by now.
    pub(super) fn turn(&mut self) {
        let other = &self.halves[1 - self.active];
        if other.is_empty() && other.pen.writers.load(Ordering::Acquire) == 0 {
            self.active = 1 - self.active;
        }
    }

    /// Empties the file that is not written to now: all that was taken is committed.
    pub(super) fn empty(&mut self) -> io::Result<()> {
        let other = &mut self.halves[1 - self.active];
        match other.is_empty() {
            true => Ok(()),
            false => other.empty(),
        }
    }

    /// Returns the files, to make the disk keep them.
    pub(super) fn files(&self) -> io::Result<[File; 2]> {
        let [first, second] = &self.halves;
        Ok([first.pen.file.try_clone()?, second.pen.file.try_clone()?])
    }
}

/// Reads what a process has left.
///
/// # Errors
/// [`Unreadable`] where not all of it can be read: then the files must stay.
pub(super) fn read(path: &Path) -> Result<Vec<Record<'static>>, Unreadable> {
    let mut records = Vec::new();
    for path in files(path) {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        if let Some(behind) = bytes.strip_prefix(&MAGIC) {
            match behind.split_first() {
                Some((&VERSION, behind)) => {
                    if let Some((generation, frames)) = number(behind) {
                        read_frames(frames, generation, &mut records)?;
                    }
                }
                Some((&found, _)) => return Err(Unreadable::Version(found.into())),
                None => return Err(Unreadable::Foreign),
            }
        } else if matches!(bytes.first(), Some(b'\n' | b'{')) {
            read_lines(&bytes, &mut records);
        } else if bytes.iter().any(|byte| *byte != 0) {
            return Err(Unreadable::Foreign);
        }
        // Nothing but zeros: its process died before it had begun.
    }
    Ok(records)
}

fn read_frames(
    mut bytes: &[u8],
    generation: u32,
    records: &mut Vec<Record<'static>>,
) -> Result<(), Unreadable> {
    while let Some(at) = memmem::find(bytes, &MARK) {
        bytes = &bytes[at..];
        match whole_frame(bytes) {
            Some((found, record, rest)) => {
                // What stands within one of another generation may look like a frame, and is none.
                if found == generation {
                    let record = postcard::from_bytes(record);
                    records.push(record.map_err(Unreadable::Record)?);
                }
                bytes = rest;
            }
            // Torn; behind it others may follow.
            None => bytes = &bytes[MARK.len()..],
        }
    }
    Ok(())
}

/// Returns the generation of the frame that the bytes begin with, the record in it, and what is behind it.
fn whole_frame(bytes: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let (generation, behind) = number(bytes.strip_prefix(&MARK)?)?;
    let (length, behind) = number(behind)?;
    let (checksum, behind) = number(behind)?;
    let (record, rest) = behind.split_at_checked(usize::try_from(length).ok()?)?;
    let is_whole = crc32fast::hash(record) ^ generation == checksum;
    is_whole.then_some((generation, record, rest))
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u32::from_le_bytes(*number), rest))
}

fn read_lines(text: &[u8], records: &mut Vec<Record<'static>>) {
    let lines = text.split(|byte| *byte == b'\n');
    for line in lines.filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(record) => records.push(record),
            Err(_) => tracing::warn!(
                bytes = line.len(),
                "a record that a process was killed at is passed over"
            ),
        }
    }
}

/// Returns the two files of a process.
pub(super) fn files(path: &Path) -> [PathBuf; 2] {
    [path.to_owned(), second(path)]
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
