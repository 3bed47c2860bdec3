//! `[log]`, as the rest of Weir gets it.

/// `[log]`: what is logged to standard error, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogConfig {
    /// The form of a line. Default: auto.
    pub format: LogFormat,
    /// The least severity that is logged. Default: info.
    pub level: tracing::Level,
    /// Whether requests are logged. Default: true.
    pub access: bool,
    /// The share of the requests without a fault that are logged, from 0 to 1. The others all are. Default: 1.
    pub sample: f64,
    /// Lines that wait to be written; where more come they are dropped. Default: 16384.
    pub queue: usize,
}

/// The forms of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// For machines.
    Json,
}
