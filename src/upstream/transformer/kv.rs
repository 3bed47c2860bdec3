//! What attention remembers of one sequence.

use super::config::Config;

/// Keys and values of every position so far, per layer.
#[derive(Clone)]
pub(super) struct Cache {
    pub(super) layers: Vec<LayerCache>,
}

/// Keys and values of one layer, position after position, all key-value heads of a position side by side.
#[derive(Clone, Default)]
pub(super) struct LayerCache {
    pub(super) keys: Vec<f32>,
    pub(super) values: Vec<f32>,
}

impl Cache {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            layers: vec![LayerCache::default(); config.layers],
        }
    }

    /// Returns how many bytes one position takes.
    pub(super) fn bytes_per_token(config: &Config) -> u64 {
        (config.layers * config.kv_heads * config.head_dim * 2 * size_of::<f32>()) as u64
    }
}
