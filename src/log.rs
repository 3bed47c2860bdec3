//! The log: lines on standard error, for people or for machines.
//!
//! A thread of its own writes them. When nobody reads, its queue fills and lines are dropped and counted, but no request
//! waits. Files, and when to begin new ones, are the platform's business.

use std::io::IsTerminal;
use std::sync::OnceLock;

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

/// Counts the lines that were dropped.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Returns how many lines were dropped since the start, because nobody read them fast enough.
pub fn dropped_lines() -> u64 {
    DROPPED
        .get()
        .map_or(0, |lines| lines.dropped_lines() as u64)
}

/// Starts the log. Up to `queue` lines wait to be written. Dropping what it returns writes those that still do, as long as
/// somebody reads them.
pub fn start(format: Format, level: Level, queue: usize) -> WorkerGuard {
    let terminal = std::io::stderr().is_terminal();
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
        .finish(std::io::stderr());
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
    guard
}
