//! Choosing the next token.

use std::collections::HashMap;

/// How tokens are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 always takes the most probable token.
    pub temperature: f32,
    /// Only the most probable tokens that together reach this probability are drawn from.
    pub top_p: f32,
    /// Only so many of the most probable tokens are drawn from; 0 means all.
    pub top_k: usize,
    /// Makes the draw repeatable. The same seed draws the same tokens, whatever else is being computed.
    pub seed: u64,
    /// What is added to the logits of some tokens.
    pub bias: Vec<(u32, f32)>,
    /// What is taken off the logits of tokens that the answer already has.
    pub presence_penalty: f32,
    /// What is taken off for each time that the answer has them.
    pub frequency_penalty: f32,
}

/// The state of one sequence's draws.
#[derive(Debug)]
pub(super) struct Sampler {
    sampling: Sampling,
    random: SplitMix,
    counts: HashMap<u32, u32>,
    /// Kept between draws, so that each needs no memory of its own.
    candidates: Vec<(f32, u32)>,
}

/// SplitMix64: small, fast, and the same in every version of every library, so that a seed keeps its meaning.
#[derive(Debug)]
struct SplitMix(u64);

impl Default for Sampling {
    /// What the OpenAI API does when nothing is asked for.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            seed: 0,
            bias: Vec::new(),
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
        }
    }
}

impl Sampler {
    pub(super) fn new(sampling: Sampling) -> Self {
        let random = SplitMix(sampling.seed);
        Self {
            sampling,
            random,
            counts: HashMap::new(),
            candidates: Vec::new(),
        }
    }

    /// Draws a token. `logits` are changed by bias and penalties.
    pub(super) fn draw(&mut self, logits: &mut [f32]) -> u32 {
        for (token, bias) in &self.sampling.bias {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
        let penalizes =
            self.sampling.presence_penalty != 0.0 || self.sampling.frequency_penalty != 0.0;
        if penalizes {
            for (token, count) in &self.counts {
                logits[*token as usize] -= self.sampling.presence_penalty
                    + self.sampling.frequency_penalty * *count as f32;
            }
        }
        let token = if self.sampling.temperature <= 0.0 {
            most_probable(logits)
        } else {
            self.draw_among(logits)
        };
        if penalizes {
            *self.counts.entry(token).or_insert(0) += 1;
        }
        token
    }

    fn draw_among(&mut self, logits: &mut [f32]) -> u32 {
        let best = most_probable(logits);
        let most = logits[best as usize];
        if !most.is_finite() {
            return best;
        }
        let scale = 1.0 / self.sampling.temperature;
        let mut sum = 0.0;
        for logit in logits.iter_mut() {
            *logit = ((*logit - most) * scale).exp();
            // What is not a number is never drawn.
            if logit.is_nan() {
                *logit = 0.0;
            }
            sum += *logit;
        }
        let draw = self.random.unit();
        let (top_p, top_k) = (self.sampling.top_p, self.sampling.top_k);
        if top_p >= 1.0 && (top_k == 0 || top_k >= logits.len()) {
            let all = logits.iter().copied().zip(0..);
            return pick(all, draw * sum).unwrap_or(best);
        }
        // All tokens below this bound together cannot have what the nucleus leaves over, so none of them is in it, and
        // only few are left to be sorted.
        let bound = (1.0 - top_p).max(0.0) * sum / logits.len() as f32;
        self.candidates.clear();
        let likely = logits
            .iter()
            .copied()
            .zip(0..)
            .filter(|(weight, _)| *weight >= bound);
        self.candidates.extend(likely);
        self.candidates
            .sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        if top_k > 0 {
            self.candidates.truncate(top_k);
            sum = self.candidates.iter().map(|c| c.0).sum();
        }
        let mut nucleus = 0.0;
        let mut count = 0;
        for (weight, _) in &self.candidates {
            nucleus += weight;
            count += 1;
            if nucleus >= top_p * sum {
                break;
            }
        }
        pick(self.candidates[..count].iter().copied(), draw * nucleus).unwrap_or(best)
    }
}

/// Walks along the weights until they reach `target`.
fn pick(weights: impl Iterator<Item = (f32, u32)>, target: f32) -> Option<u32> {
    let mut reached = 0.0;
    let mut last = None;
    for (weight, token) in weights {
        if weight > 0.0 {
            reached += weight;
            last = Some(token);
            if reached > target {
                break;
            }
        }
    }
    last
}

/// Returns the most probable token, the first among equals.
pub(super) fn most_probable(logits: &[f32]) -> u32 {
    let mut best = 0;
    let mut most = f32::NEG_INFINITY;
    for (token, logit) in (0..).zip(logits) {
        if *logit > most {
            (best, most) = (token, *logit);
        }
    }
    best
}

/// Returns the logarithm of the sum that turns logits into probabilities.
pub(super) fn log_sum(logits: &[f32]) -> f32 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    most + logits.iter().map(|l| (l - most).exp()).sum::<f32>().ln()
}

/// Returns the `n` most probable tokens, the best first.
pub(super) fn top(logits: &[f32], n: usize) -> Vec<(u32, f32)> {
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(n + 1);
    for (token, logit) in (0..).zip(logits.iter().copied()) {
        if best.len() < n || best.last().is_some_and(|last| logit > last.1) {
            let at = best.partition_point(|b| b.1 >= logit);
            best.insert(at, (token, logit));
            best.truncate(n);
        }
    }
    best
}

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number from 0 to 1, without 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1_u64 << 24) as f32
    }
}

/// Returns the seed of the `index`th answer to a request.
pub(super) fn derive_seed(seed: u64, index: u64) -> u64 {
    match index {
        0 => seed,
        _ => SplitMix(seed ^ index.wrapping_mul(0xd6e8_feb8_6659_fd93)).next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(sampling: Sampling, logits: &[f32], n: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling);
        (0..n).map(|_| sampler.draw(&mut logits.to_vec())).collect()
    }

    #[test]
    fn temperature_zero_takes_the_best() {
        let sampling = Sampling {
            temperature: 0.0,
            ..Sampling::default()
        };
        assert_eq!(draws(sampling, &[0.0, 2.0, 2.0, 1.0], 3), [1, 1, 1]);
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let logits = [0.0, 1.0, 2.0].map(|p: f32| p);
        let n = 20_000;
        let drawn = draws(Sampling::default(), &logits, n);
        let total: f32 = logits.iter().map(|l| l.exp()).sum();
        for (token, logit) in (0..).zip(logits) {
            let share = drawn.iter().filter(|t| **t == token).count() as f32 / n as f32;
            assert!(
                (share - logit.exp() / total).abs() < 0.01,
                "{token}: {share}"
            );
        }
    }

    #[test]
    fn the_nucleus_is_as_small_as_it_can_be() {
        let logits = [0.5_f32, 0.3, 0.15, 0.05].map(f32::ln);
        let nucleus = |top_p| {
            let mut drawn = draws(
                Sampling {
                    top_p,
                    ..Sampling::default()
                },
                &logits,
                2_000,
            );
            drawn.sort_unstable();
            drawn.dedup();
            drawn
        };
        assert_eq!(nucleus(0.0), [0]);
        assert_eq!(nucleus(0.45), [0]);
        assert_eq!(nucleus(0.75), [0, 1]);
        assert_eq!(nucleus(0.9), [0, 1, 2]);
        assert_eq!(nucleus(1.0), [0, 1, 2, 3]);
    }

    #[test]
    fn top_k_bounds_the_choice() {
        let drawn = draws(
            Sampling {
                top_k: 1,
                ..Sampling::default()
            },
            &[0.0, 0.1],
            100,
        );
        assert!(drawn.iter().all(|t| *t == 1));
    }

    #[test]
    fn seeds_repeat_and_differ() {
        let sampling = |seed| Sampling {
            seed,
            ..Sampling::default()
        };
        let logits = [0.0; 100];
        assert_eq!(
            draws(sampling(7), &logits, 20),
            draws(sampling(7), &logits, 20)
        );
        assert_ne!(
            draws(sampling(7), &logits, 20),
            draws(sampling(8), &logits, 20)
        );
        assert_ne!(derive_seed(7, 1), derive_seed(7, 2));
    }

    #[test]
    fn bias_and_penalties_move_the_choice() {
        let greedy = Sampling {
            temperature: 0.0,
            ..Sampling::default()
        };
        let biased = Sampling {
            bias: vec![(0, 100.0), (1, -100.0), (9, 1.0)],
            ..greedy.clone()
        };
        assert_eq!(draws(biased, &[0.0, 1.0], 1), [0]);
        let penalized = Sampling {
            frequency_penalty: 0.6,
            ..greedy
        };
        assert_eq!(draws(penalized, &[0.0, 1.0], 4), [1, 1, 0, 1]);
    }

    #[test]
    fn broken_logits_do_not_panic() {
        for logits in [[f32::NAN; 3], [f32::INFINITY; 3], [f32::NEG_INFINITY; 3]] {
            assert!(
                draws(
                    Sampling {
                        top_p: 0.9,
                        ..Sampling::default()
                    },
                    &logits,
                    1
                )[0] < 3
            );
        }
    }

    #[test]
    fn the_most_probable_come_in_order() {
        assert_eq!(
            top(&[1.0, 3.0, 2.0, 3.0], 3),
            [(1, 3.0), (3, 3.0), (2, 2.0)]
        );
        assert_eq!(top(&[1.0], 3).len(), 1);
    }
}
