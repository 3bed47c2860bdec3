//! The forward pass over a packed batch: rows of many sequences go through the linear layers together, attention runs
//! for each row over its own sequence's cache.
//!
//! Products pick their kernels at run time. What is written out here is plain code over slices in a shape that the
//! compiler turns into vector instructions; attention, where most of the time goes, is compiled for several processors
//! and dispatched.

use pulp::Arch;

use super::config::{Config, Pairing};
use super::kv::{Cache, LayerCache};
use super::weights::{Layer, Weights};

/// One token to compute.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) token: u32,
    /// Its place in its sequence. Rows of a sequence come in order.
    pub(super) position: usize,
    /// The index of its sequence's cache.
    pub(super) cache: usize,
    /// Whether its logits are wanted.
    pub(super) wanted: bool,
}

/// Runs `rows` through the model, adds them to the caches, and returns the logits of the rows that want theirs, in
/// order.
pub(super) fn forward(
    weights: &Weights,
    rows: &[Row],
    caches: &mut [&mut Cache],
) -> candle_core::Result<Vec<f32>> {
    let config = &weights.config;
    let count = rows.len();
    let tokens: Vec<u32> = rows.iter().map(|row| row.token).collect();
    let mut states = weights.embed(&tokens)?;
    let angles = Angles::new(&weights.frequencies, rows);
    for (index, layer) in weights.layers.iter().enumerate() {
        let normed = rms_norm(&states, &layer.attention_norm, config.norm_eps);
        let attended = attention(config, layer, index, &normed, rows, caches, &angles)?;
        add(&mut states, &layer.output.forward(&attended, count)?);

        let normed = rms_norm(&states, &layer.feed_forward_norm, config.norm_eps);
        let gated = swiglu(&layer.gate_up.forward(&normed, count)?, config.feed_forward);
        add(&mut states, &layer.down.forward(&gated, count)?);
    }
    let mut wanted = Vec::new();
    for (row, state) in rows.iter().zip(states.chunks_exact(config.hidden)) {
        if row.wanted {
            wanted.extend_from_slice(state);
        }
    }
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    weights.logits(&rms_norm(&wanted, &weights.norm, config.norm_eps))
}

fn attention(
    config: &Config,
    layer: &Layer,
    index: usize,
    normed: &[f32],
    rows: &[Row],
    caches: &mut [&mut Cache],
    angles: &Angles,
) -> candle_core::Result<Vec<f32>> {
    let query_width = config.heads * config.head_dim;
    let key_width = config.kv_heads * config.head_dim;
    let mut projected = layer.qkv.forward(normed, rows.len())?;
    let mut output = vec![0.0; rows.len() * query_width];
    let mut scores = Vec::new();
    let arch = Arch::new();
    let each = projected
        .chunks_exact_mut(query_width + 2 * key_width)
        .zip(output.chunks_exact_mut(query_width));
    for (i, (row, (qkv, output))) in rows.iter().zip(each).enumerate() {
        let (query, key_value) = qkv.split_at_mut(query_width);
        let (key, value) = key_value.split_at_mut(key_width);
        for head in query.chunks_exact_mut(config.head_dim) {
            angles.rotate(i, head, config.rope.pairing);
        }
        for head in key.chunks_exact_mut(config.head_dim) {
            angles.rotate(i, head, config.rope.pairing);
        }
        let cache = &mut caches[row.cache].layers[index];
        cache.keys.extend_from_slice(key);
        cache.values.extend_from_slice(value);
        arch.dispatch(
            #[inline(always)]
            || attend(config, cache, query, output, &mut scores),
        );
    }
    Ok(output)
}

/// Attention of one row over all positions of its cache.
#[inline(always)]
fn attend(
    config: &Config,
    cache: &LayerCache,
    query: &[f32],
    output: &mut [f32],
    scores: &mut Vec<f32>,
) {
    let dim = config.head_dim;
    let group = config.heads / config.kv_heads;
    let width = config.kv_heads * dim;
    let scale = 1.0 / (dim as f32).sqrt();
    let heads = query.chunks_exact(dim).zip(output.chunks_exact_mut(dim));
    for (head, (query, output)) in heads.enumerate() {
        let start = head / group * dim;
        scores.clear();
        for key in cache.keys.chunks_exact(width) {
            scores.push(dot(query, &key[start..start + dim]) * scale);
        }
        softmax(scores);
        for (weight, value) in scores.iter().zip(cache.values.chunks_exact(width)) {
            for (out, v) in output.iter_mut().zip(&value[start..start + dim]) {
                *out += weight * v;
            }
        }
    }
}

/// Sines and cosines of the rows' positions, once for all layers.
struct Angles {
    half: usize,
    sin: Vec<f32>,
    cos: Vec<f32>,
}

impl Angles {
    fn new(frequencies: &[f32], rows: &[Row]) -> Self {
        let mut sin = Vec::with_capacity(rows.len() * frequencies.len());
        let mut cos = Vec::with_capacity(rows.len() * frequencies.len());
        for row in rows {
            for frequency in frequencies {
                let (s, c) = (row.position as f32 * frequency).sin_cos();
                sin.push(s);
                cos.push(c);
            }
        }
        Self {
            half: frequencies.len(),
            sin,
            cos,
        }
    }

    fn rotate(&self, row: usize, head: &mut [f32], pairing: Pairing) {
        let range = row * self.half..(row + 1) * self.half;
        let angles = self.sin[range.clone()].iter().zip(&self.cos[range]);
        match pairing {
            Pairing::Interleaved => {
                for ((sin, cos), pair) in angles.zip(head.chunks_exact_mut(2)) {
                    let (a, b) = (pair[0], pair[1]);
                    pair[0] = a * cos - b * sin;
                    pair[1] = a * sin + b * cos;
                }
            }
            Pairing::Halves => {
                let (first, second) = head.split_at_mut(self.half);
                for ((sin, cos), (x, y)) in angles.zip(first.iter_mut().zip(second)) {
                    let (a, b) = (*x, *y);
                    *x = a * cos - b * sin;
                    *y = a * sin + b * cos;
                }
            }
        }
    }
}

fn rms_norm(states: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut output = Vec::with_capacity(states.len());
    for state in states.chunks_exact(weight.len()) {
        let scale = 1.0 / (dot(state, state) / state.len() as f32 + eps).sqrt();
        output.extend(state.iter().zip(weight).map(|(x, w)| x * scale * w));
    }
    output
}

/// The gate's SiLU times the up projection, which stand side by side.
fn swiglu(gate_up: &[f32], width: usize) -> Vec<f32> {
    let mut output = Vec::with_capacity(gate_up.len() / 2);
    for row in gate_up.chunks_exact(2 * width) {
        let (gate, up) = row.split_at(width);
        output.extend(gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u));
    }
    output
}

fn add(states: &mut [f32], delta: &[f32]) {
    for (state, delta) in states.iter_mut().zip(delta) {
        *state += delta;
    }
}

/// A dot product in sixteen lanes, which the compiler may then keep in vector registers: it must not reorder a plain sum.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [0.0_f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_chunks
        .remainder()
        .iter()
        .zip(b_chunks.remainder())
        .map(|(x, y)| x * y)
        .sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    // In pairs rather than one after the other: each addition waits for the one before.
    let eights: [f32; 8] = std::array::from_fn(|i| lanes[i] + lanes[i + 8]);
    let fours: [f32; 4] = std::array::from_fn(|i| eights[i] + eights[i + 4]);
    (fours[0] + fours[2]) + (fours[1] + fours[3]) + rest
}

/// Turns scores into weights that add up to one.
#[inline(always)]
fn softmax(scores: &mut [f32]) {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - most).exp();
        sum += *score;
    }
    for score in scores.iter_mut() {
        *score /= sum;
    }
}
