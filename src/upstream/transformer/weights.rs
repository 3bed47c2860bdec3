//! The weights, as the forward pass wants them.

use std::borrow::Cow;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};

use super::config::{Config, Scaling};
use super::error::LoadError;
#[cfg(target_arch = "x86_64")]
use super::int8::Int8;
use super::tensors::Tensors;

/// A model, loaded.
pub(super) struct Weights {
    pub(super) config: Config,
    embedding: Matrix,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: Vec<f32>,
    /// `None`: the embedding is the output head as well.
    head: Option<Matrix>,
    /// How far each pair of a head turns from one position to the next.
    pub(super) frequencies: Vec<f32>,
}

pub(super) struct Layer {
    pub(super) attention_norm: Vec<f32>,
    /// Query, key and value side by side.
    pub(super) qkv: Linear,
    pub(super) output: Linear,
    pub(super) feed_forward_norm: Vec<f32>,
    /// Gate and up side by side.
    pub(super) gate_up: Linear,
    pub(super) down: Linear,
}

/// One or more matrices that read the same input; their outputs stand side by side.
pub(super) struct Linear {
    /// Matrices of the same type are stacked into one, because each product has a fixed cost.
    parts: Vec<Matrix>,
}

/// A matrix, in the form that multiplies fastest here.
enum Matrix {
    Candle(QTensor),
    #[cfg(target_arch = "x86_64")]
    Int8(Int8),
}

// === impl Weights ===

impl Weights {
    /// Reads all weights. `abandoned` is asked between the layers.
    pub(super) fn load(
        config: &Config,
        tensors: &Tensors,
        abandoned: &dyn Fn() -> bool,
    ) -> Result<Self, LoadError> {
        let mut layers = Vec::with_capacity(config.layers);
        for i in 0..config.layers {
            if abandoned() {
                return Err(LoadError::Abandoned);
            }
            let name = |part: &str| format!("blk.{i}.{part}.weight");
            let linear = |parts: &[&str]| {
                let names: Vec<String> = parts.iter().map(|part| name(part)).collect();
                Linear::load(tensors, &names)
            };
            layers.push(Layer {
                attention_norm: vector(tensors, &name("attn_norm"))?,
                qkv: linear(&["attn_q", "attn_k", "attn_v"])?,
                output: linear(&["attn_output"])?,
                feed_forward_norm: vector(tensors, &name("ffn_norm"))?,
                gate_up: linear(&["ffn_gate", "ffn_up"])?,
                down: linear(&["ffn_down"])?,
            });
        }
        let divisors = match config.rope.scaling {
            Scaling::Tensor => Some(vector(tensors, "rope_freqs.weight")?),
            _ => None,
        };
        Ok(Self {
            embedding: matrix(tensors, &["token_embd.weight".to_owned()])?,
            layers,
            norm: vector(tensors, "output_norm.weight")?,
            head: match config.tied {
                true => None,
                false => Some(matrix(tensors, &["output.weight".to_owned()])?),
            },
            frequencies: config
                .rope
                .frequencies(config.head_dim, divisors.as_deref()),
            config: config.clone(),
        })
    }

    /// Computes the logits of some rows.
    pub(super) fn logits(&self, rows: &[f32]) -> candle_core::Result<Vec<f32>> {
        self.head.as_ref().unwrap_or(&self.embedding).product(rows)
    }

    /// Looks up tokens in the embedding.
    pub(super) fn embed(&self, tokens: &[u32]) -> candle_core::Result<Vec<f32>> {
        self.embedding.rows(tokens)
    }
}

// === impl Linear ===

impl Linear {
    fn load(tensors: &Tensors, names: &[String]) -> Result<Self, LoadError> {
        let first = tensors.get(&names[0])?.dtype;
        let mut same = true;
        for name in names {
            same &= tensors.get(name)?.dtype == first;
        }
        let parts = if same {
            vec![matrix(tensors, names)?]
        } else {
            let each = names
                .iter()
                .map(|name| matrix(tensors, std::slice::from_ref(name)));
            each.collect::<Result<_, _>>()?
        };
        Ok(Self { parts })
    }

    /// Multiplies each row of `input` with the matrices.
    pub(super) fn forward(&self, input: &[f32], rows: usize) -> candle_core::Result<Vec<f32>> {
        if let [only] = self.parts.as_slice() {
            return only.product(input);
        }
        let parts = self.parts.iter().map(|part| part.product(input));
        let parts: Vec<Vec<f32>> = parts.collect::<candle_core::Result<_>>()?;
        let mut output = Vec::with_capacity(parts.iter().map(Vec::len).sum());
        for row in 0..rows {
            for part in &parts {
                let width = part.len() / rows;
                output.extend_from_slice(&part[row * width..(row + 1) * width]);
            }
        }
        Ok(output)
    }
}

// === impl Matrix ===

impl Matrix {
    /// Multiplies rows as wide as the matrix's own with each of those.
    ///
    /// Every row of the result depends on its own row of the input alone, down to the last bit: the kernels take each
    /// dot product in the same order however many rows there are. That is why float matrices go this way too, and not
    /// through the general matrix product, whose blocking depends on the number of rows: a request's answer must not
    /// depend on which others it shares a step with.
    fn product(&self, input: &[f32]) -> candle_core::Result<Vec<f32>> {
        match self {
            Self::Candle(matrix) => {
                let (_, width) = matrix.shape().dims2()?;
                let input = Tensor::from_slice(input, (input.len() / width, width), &Device::Cpu)?;
                input.apply_op1_no_bwd(matrix)?.flatten_all()?.to_vec1()
            }
            #[cfg(target_arch = "x86_64")]
            Self::Int8(matrix) => Ok(matrix.product(input)),
        }
    }

    /// Returns some of the rows, dequantized.
    fn rows(&self, indices: &[u32]) -> candle_core::Result<Vec<f32>> {
        match self {
            Self::Candle(matrix) => {
                let indices = Tensor::from_slice(indices, indices.len(), &Device::Cpu)?;
                matrix.embedding(&indices)?.flatten_all()?.to_vec1()
            }
            #[cfg(target_arch = "x86_64")]
            Self::Int8(matrix) => {
                let mut rows = Vec::new();
                for index in indices {
                    matrix.row(*index as usize, &mut rows);
                }
                Ok(rows)
            }
        }
    }
}

/// Reads matrices of one type and stacks them. Half-precision ones are widened, because the kernels for them round the
/// activations to half precision as well.
fn matrix(tensors: &Tensors, names: &[String]) -> Result<Matrix, LoadError> {
    let mut bytes = Vec::new();
    let mut rows = 0;
    for name in names {
        let entry = tensors.get(name)?;
        rows += entry.dims[0];
        let part = tensors.read(name)?;
        if bytes.is_empty() {
            bytes = part;
        } else {
            bytes.extend_from_slice(&part);
        }
    }
    let entry = tensors.get(&names[0])?;
    let columns = *entry.dims.last().unwrap_or(&0);
    #[cfg(target_arch = "x86_64")]
    if entry.dtype == GgmlDType::Q8_0
        && let Some(matrix) = Int8::new(&bytes, rows, columns)
    {
        return Ok(Matrix::Int8(matrix));
    }
    let (dtype, bytes) = match entry.dtype {
        GgmlDType::F16 | GgmlDType::BF16 => (GgmlDType::F32, widen(&bytes, entry.dtype)),
        dtype => (dtype, bytes),
    };
    let storage = QStorage::from_data(Cow::Owned(bytes), &Device::Cpu, dtype)?;
    Ok(Matrix::Candle(QTensor::new(storage, (rows, columns))?))
}

fn vector(tensors: &Tensors, name: &str) -> Result<Vec<f32>, LoadError> {
    let entry = tensors.get(name)?;
    let bytes = tensors.read(name)?;
    let bytes = match entry.dtype {
        GgmlDType::F32 => bytes,
        GgmlDType::F16 | GgmlDType::BF16 => widen(&bytes, entry.dtype),
        other => {
            let detail = format!("a vector stored as {other:?} is not supported");
            return Err(LoadError::tensor(name, detail));
        }
    };
    let values = bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    Ok(values.collect())
}

/// Turns 16-bit floats into the bytes of 32-bit ones.
fn widen(bytes: &[u8], dtype: GgmlDType) -> Vec<u8> {
    let mut wide = Vec::with_capacity(bytes.len() * 2);
    for pair in bytes.chunks_exact(2) {
        let bits = u16::from_le_bytes([pair[0], pair[1]]);
        let value = match dtype {
            GgmlDType::BF16 => f32::from_bits(u32::from(bits) << 16),
            _ => half_to_float(bits),
        };
        wide.extend_from_slice(&value.to_ne_bytes());
    }
    wide
}

/// IEEE 754 binary16 to binary32, exactly.
pub(super) fn half_to_float(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let fraction = f32::from(bits & 0x03ff);
    match (bits >> 10) & 0x1f {
        0 => sign * fraction * 2_f32.powi(-24),
        31 if fraction == 0.0 => sign * f32::INFINITY,
        31 => f32::NAN,
        exponent => sign * (1.0 + fraction / 1024.0) * 2_f32.powi(i32::from(exponent) - 15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_become_floats_exactly() {
        for (bits, value) in [
            (0x0000, 0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x3555, 0.333_251_95),
            (0x7bff, 65504.0),
            (0x0001, 5.960_464_5e-8),
            (0x7c00, f32::INFINITY),
        ] {
            assert_eq!(half_to_float(bits), value, "{bits:#x}");
        }
        assert!(half_to_float(0x7e00).is_nan());
    }
}
