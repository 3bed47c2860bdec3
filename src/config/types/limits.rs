//! `[limits]`, as the rest of Weir gets it.

use crate::store::limits::Entry;

/// `[limits]`: what keys without limits of their own may use, and all of them together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// What each key may use that has no `limits`. Default: no bound.
    pub keys: Vec<Entry>,
    /// What all calls may use together; no two overlap. Default: no bound.
    pub gateway: Vec<Entry>,
    /// Whether a stream is finished properly when a limit runs out in its middle. Default: true.
    pub stop_stream: bool,
    /// How many generated tokens a stream may go over a limit before it is finished, at least 1. Default: 64.
    pub stop_overshoot: u32,
}
