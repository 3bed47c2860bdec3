//! How much models generate for whom, learnt as answers end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The mean number of tokens that a model generates for a key, learnt as answers end.
///
/// It is what calls are reserved and interrupted rows are booked at, so no single answer may move it far: a usage object
/// that claims a thousand million tokens is charged as it stands, but counts here for four times what was expected
/// until then. Answers that really grow are followed all the same, by a third with each.
#[derive(Debug, Default)]
pub struct Means {
    means: Mutex<HashMap<Pair, f64>>,
}

/// A key and a model.
type Pair = (Arc<str>, Arc<str>);

/// How much of the mean the newest answer is.
const SHARE_OF_THE_NEWEST: f64 = 0.1;
/// How many times the mean, or [`FIRST_MEAN`] where that is more, an answer counts at most.
const TRUSTED: f64 = 4.0;
/// The most that is ever expected of an answer: no model is known to generate more.
const MOST: f64 = 1_048_576.0;
/// What is expected of a model that nothing is known of, at most.
pub const FIRST_MEAN: u64 = 1024;
/// Pairs of key and model that are remembered; models are named by clients.
const REMEMBERED: usize = 4096;
/// How many bytes of a model's name are remembered at most: there are no models with longer ones.
const LONGEST_NAME: usize = 256;

impl Means {
    /// Returns how many tokens are expected, where that is known.
    pub fn learnt(&self, key: &Arc<str>, model: &Arc<str>) -> Option<u64> {
        let means = self.means.lock().unwrap_or_else(PoisonError::into_inner);
        let mean = means.get(&(Arc::clone(key), Arc::clone(model)));
        mean.map(|mean| mean.ceil() as u64)
    }

    /// Learns from an answer.
    pub fn learn(&self, key: &Arc<str>, model: &Arc<str>, tokens: u64) {
        if model.len() > LONGEST_NAME {
            return;
        }
        let mut means = self.means.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = (Arc::clone(key), Arc::clone(model));
        let known = means.get_mut(&pair);
        let expected = known.as_deref().copied().unwrap_or(0.0);
        let trusted = TRUSTED * expected.max(FIRST_MEAN as f64);
        let tokens = (tokens as f64).min(trusted).min(MOST);
        if let Some(mean) = known {
            *mean += (tokens - *mean) * SHARE_OF_THE_NEWEST;
            return;
        }
        if means.len() >= REMEMBERED {
            // Whoever still calls is soon known again.
            means.clear();
        }
        means.insert(pair, tokens);
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

    #[test]
    fn names_that_no_model_has_are_not_remembered() {
        let means = Means::default();
        let key: Arc<str> = "alice".into();
        let [longest, longer] = [LONGEST_NAME, LONGEST_NAME + 1].map(|length| "m".repeat(length));
        let (longest, longer) = (longest.into(), longer.into());
        means.learn(&key, &longest, 100);
        means.learn(&key, &longer, 100);
        assert_eq!(means.learnt(&key, &longest), Some(100));
        assert_eq!(means.learnt(&key, &longer), None);
    }

    #[test]
    fn one_absurd_answer_is_soon_forgotten() {
        let means = Means::default();
        let (key, model): (Arc<str>, Arc<str>) = ("alice".into(), "gpt".into());
        let learn = |tokens| {
            means.learn(&key, &model, tokens);
            means.learnt(&key, &model).unwrap()
        };
        assert_eq!(learn(1_000_000_000), 4 * FIRST_MEAN, "also the first one");
        for _ in 0..100 {
            learn(100);
        }
        assert_eq!(learn(100), 101);
        assert!(learn(1_000_000_000) <= 500);
        assert!((0..20).any(|_| learn(100) <= 150));
        assert!((0..1000).all(|_| learn(u64::MAX) <= 1_048_576));
    }

    #[test]
    fn answers_that_grow_are_followed() {
        let means = Means::default();
        let (key, model): (Arc<str>, Arc<str>) = ("alice".into(), "gpt".into());
        means.learn(&key, &model, 10);
        for _ in 0..40 {
            means.learn(&key, &model, 50_000);
        }
        assert!((40_000..=50_000).contains(&means.learnt(&key, &model).unwrap()));
    }
}
