//! How much models generate for whom, learnt as answers end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The mean number of tokens that a model generates for a key, learnt as answers end.
#[derive(Debug, Default)]
pub struct Means {
    means: Mutex<HashMap<Pair, f64>>,
}

/// A key and a model.
type Pair = (Arc<str>, Arc<str>);

/// How much of the mean the newest answer is.
const SHARE_OF_THE_NEWEST: f64 = 0.1;
/// What is expected of a model that nothing is known of, at most.
pub const FIRST_MEAN: u64 = 1024;
/// Pairs of key and model that are remembered; models are named by clients.
const REMEMBERED: usize = 4096;

impl Means {
    /// Returns how many tokens are expected, where that is known.
    pub fn learnt(&self, key: &Arc<str>, model: &Arc<str>) -> Option<u64> {
        let means = self.means.lock().unwrap_or_else(PoisonError::into_inner);
        let mean = means.get(&(Arc::clone(key), Arc::clone(model)));
        mean.map(|mean| mean.ceil() as u64)
    }

    /// Learns from an answer.
    pub fn learn(&self, key: &Arc<str>, model: &Arc<str>, tokens: u64) {
        let mut means = self.means.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = (Arc::clone(key), Arc::clone(model));
        if means.len() >= REMEMBERED && !means.contains_key(&pair) {
            // Whoever still calls is soon known again.
            means.clear();
        }
        let mean = means.entry(pair).or_insert(tokens as f64);
        *mean += (tokens as f64 - *mean) * SHARE_OF_THE_NEWEST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_learnt_and_bounded() {
        let means = Means::default();
        let (key, model): (Arc<str>, Arc<str>) = ("alice".into(), "gpt".into());
        assert_eq!(means.learnt(&key, &model), None);
        means.learn(&key, &model, 100);
        assert_eq!(means.learnt(&key, &model), Some(100));
        means.learn(&key, &model, 200);
        assert_eq!(means.learnt(&key, &model), Some(110));
        for number in 0..2 * REMEMBERED {
            means.learn(&key, &format!("model-{number}").into(), 1);
        }
        assert!(means.means.lock().unwrap().len() <= REMEMBERED);
    }
}
