//! The log: lines on standard error, for people or for machines.
//!
//! A thread of its own writes them. When nobody reads, its queue fills and lines are dropped and counted, but no request
//! waits; lines that whoever read has gone before are counted with them. Files, and when to begin new ones, are the
//! platform's business.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use tracing::Level;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Counts the lines that were dropped because the queue was full.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();
/// Counts the lines that could not be written.
static UNWRITTEN: AtomicU64 = AtomicU64::new(0);

/// What lines are written to. It counts those that fail: the thread that writes goes on with the next, and says nothing.
struct Counting<W> {
    inner: W,
    failed: &'static AtomicU64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.inner.write(part)
    }

    /// Writes a line: each comes whole.
    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        self.inner.write_all(line).inspect_err(|_| {
            self.failed.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Returns how many lines were lost since the start, because nobody read them fast enough, or at all.
pub fn dropped_lines() -> u64 {
    let dropped = DROPPED.get().map_or(0, ErrorCounter::dropped_lines) as u64;
    dropped + UNWRITTEN.load(Ordering::Relaxed)
}

/// How long the last lines are waited for. Whoever reads the log may have stopped to.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Writes the lines that still wait when it is dropped, as far as somebody reads them within a second.
pub struct Guard(Option<WorkerGuard>);

impl Drop for Guard {
    fn drop(&mut self) {
        let (done, ended) = mpsc::channel();
        let worker = self.0.take();
        // The worker's own end waits for a second and more, and then complains on standard output for as long as nobody reads that.
        let ending = thread::Builder::new().name("log-end".to_owned());
        let ending = ending.spawn(move || {
            drop(worker);
            let _ = done.send(());
        });
        if ending.is_ok() {
            let _ = ended.recv_timeout(LAST_LINES);
        }
    }
}

/// Starts the log. Up to `queue` lines wait to be written.
pub fn start(format: Format, level: Level, queue: usize) -> Guard {
    let terminal = io::stderr().is_terminal();
    let json = match format {
        Format::Auto => !terminal,
        Format::Text => false,
        Format::Json => true,
    };
    // What libraries say below a warning is about connections and bytes, and could hold content.
    let filter = Targets::new()
        .with_target("weir", level)
        .with_default(level.min(Level::WARN));
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(queue)
        .lossy(true)
        .finish(Counting {
            inner: io::stderr(),
            failed: &UNWRITTEN,
        });
    let _ = DROPPED.set(writer.error_counter());
    let layer = fmt::layer().with_writer(writer).with_target(false);
    let layer = if json {
        layer
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .boxed()
    } else {
        layer.with_ansi(terminal).boxed()
    };
    // Only fails where a log was started before.
    let _ = tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init();
    std::panic::set_hook(Box::new(|panic| {
        // The message could hold a request's content; the place is what is needed to find the bug.
        let location = panic.location().map(ToString::to_string);
        tracing::error!(location, "panic");
    }));
    Guard(Some(guard))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_nobody_reads_any_more_is_counted_once() {
        static FAILED: AtomicU64 = AtomicU64::new(0);
        let (reader, inner) = io::pipe().unwrap();
        let mut log = Counting {
            inner,
            failed: &FAILED,
        };
        log.write_all(b"heard\n").unwrap();
        assert_eq!(FAILED.load(Ordering::Relaxed), 0);
        drop(reader);
        for lost in 1..=3 {
            assert!(log.write_all(b"lost\n").is_err());
            assert_eq!(FAILED.load(Ordering::Relaxed), lost);
        }
    }
}
