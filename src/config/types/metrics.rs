//! `[metrics]`, as the rest of Weir gets it.

/// `[metrics]`: what is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Series of each metric; what finds no place is counted under `other`. Default: 5000.
    pub max_series: usize,
}
