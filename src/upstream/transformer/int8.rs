//! Products with Q8_0 matrices on x86-64 processors that have AVX2 but no VNNI, or for shapes that candle's tiled
//! kernels do not take: its general kernel widens each block's scale through a function call, which costs more than the
//! block itself.

use std::sync::{Mutex, PoisonError};

use pulp::x86::V3;

/// Numbers that share a scale.
const BLOCK: usize = 32;
/// A block as the file has it: the scale in half precision, then the numbers.
const BLOCK_BYTES: usize = 2 + BLOCK;
/// Rows that a thread takes at a time.
const CHUNK: usize = 32;

/// The largest activation of a block. Four products with a weight add up to less than 2^24, which a float holds exactly.
const MOST: f32 = 16383.0;

/// A Q8_0 matrix, its scales widened.
pub(super) struct Int8 {
    simd: V3,
    columns: usize,
    quants: Vec<[i8; BLOCK]>,
    scales: Vec<f32>,
}

/// Rows of activations, in blocks like the weights but with sixteen bits: for as many instructions as with eight they
/// add next to nothing to the weights' own rounding.
struct Activations {
    quants: Vec<[i16; BLOCK]>,
    scales: Vec<f32>,
}

impl Int8 {
    /// Takes the bytes of a matrix, if this processor is better served here than by candle.
    pub(super) fn new(bytes: &[u8], rows: usize, columns: usize) -> Option<Self> {
        let has_vnni = (is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vnni"))
            || is_x86_feature_detected!("avxvnni");
        if has_vnni && rows.is_multiple_of(16) && columns.is_multiple_of(256) {
            return None;
        }
        let simd = V3::try_new()?;
        let blocks = bytes.chunks_exact(BLOCK_BYTES);
        let scales = blocks
            .clone()
            .map(|b| super::weights::half_to_float(u16::from_le_bytes([b[0], b[1]])));
        Some(Self {
            simd,
            columns,
            scales: scales.collect(),
            quants: blocks
                .map(|block| std::array::from_fn(|i| block[2 + i].cast_signed()))
                .collect(),
        })
    }

    /// Multiplies each row of `input` with the matrix.
    pub(super) fn product(&self, input: &[f32]) -> Vec<f32> {
        let count = input.len() / self.columns;
        let per_row = self.columns / BLOCK;
        let rows = self.scales.len() / per_row;
        let activations = self.simd.vectorize(
            #[inline(always)]
            || Activations::quantize(input),
        );
        // Row by row of the matrix, so that each thread has a piece of its own to write to.
        let mut turned = vec![0.0; rows * count];
        let pieces: Vec<_> = turned.chunks_mut(CHUNK * count).map(Mutex::new).collect();
        candle_core::utils::barrier_pool().execute_chunked(pieces.len(), |range| {
            for piece in range {
                let mut output = pieces[piece].lock().unwrap_or_else(PoisonError::into_inner);
                self.simd.vectorize(
                    #[inline(always)]
                    || self.fill(piece * CHUNK, &activations, count, &mut output),
                );
            }
        });
        drop(pieces);
        if count == 1 {
            return turned;
        }
        let mut output = vec![0.0; rows * count];
        for (row, values) in turned.chunks_exact(count).enumerate() {
            for (i, value) in values.iter().enumerate() {
                output[i * rows + row] = *value;
            }
        }
        output
    }

    #[inline(always)]
    fn fill(&self, first: usize, activations: &Activations, count: usize, output: &mut [f32]) {
        let mut groups = output.chunks_exact_mut(4 * count);
        let mut row = first;
        for group in &mut groups {
            for i in 0..count {
                let dots = self.dots::<4>(row, activations, i);
                for (n, dot) in dots.into_iter().enumerate() {
                    group[n * count + i] = dot;
                }
            }
            row += 4;
        }
        for rest in groups.into_remainder().chunks_exact_mut(count) {
            for (i, output) in rest.iter_mut().enumerate() {
                [*output] = self.dots::<1>(row, activations, i);
            }
            row += 1;
        }
    }

    /// The products of one row of activations with `N` neighbouring rows of the matrix.
    #[inline(always)]
    fn dots<const N: usize>(&self, row: usize, activations: &Activations, i: usize) -> [f32; N] {
        let V3 { avx, avx2, fma, .. } = self.simd;
        let per_row = self.columns / BLOCK;
        let input = i * per_row..(i + 1) * per_row;
        let inputs = &activations.quants[input.clone()];
        let scales = &activations.scales[input][..inputs.len()];
        let rows: [_; N] = std::array::from_fn(|n| {
            let weights = (row + n) * per_row..(row + n + 1) * per_row;
            let quants = &self.quants[weights.clone()][..inputs.len()];
            (quants, &self.scales[weights][..inputs.len()])
        });
        let mut sums = [avx._mm256_setzero_ps(); N];
        for block in 0..inputs.len() {
            let [low, high]: [[i16; 16]; 2] = pulp::cast(inputs[block]);
            let (low, high) = (pulp::cast(low), pulp::cast(high));
            let scale = avx._mm256_set1_ps(scales[block]);
            for (sum, (quants, weight_scales)) in sums.iter_mut().zip(&rows) {
                let [first, second]: [[i8; 16]; 2] = pulp::cast(quants[block]);
                let first = avx2._mm256_cvtepi8_epi16(pulp::cast(first));
                let second = avx2._mm256_cvtepi8_epi16(pulp::cast(second));
                let pairs = avx2._mm256_add_epi32(
                    avx2._mm256_madd_epi16(first, low),
                    avx2._mm256_madd_epi16(second, high),
                );
                let scale = avx._mm256_mul_ps(avx._mm256_set1_ps(weight_scales[block]), scale);
                *sum = fma._mm256_fmadd_ps(avx._mm256_cvtepi32_ps(pairs), scale, *sum);
            }
        }
        sums.map(|sum| {
            let lanes: [f32; 8] = pulp::cast(sum);
            let fours: [f32; 4] = std::array::from_fn(|lane| lanes[lane] + lanes[lane + 4]);
            (fours[0] + fours[2]) + (fours[1] + fours[3])
        })
    }

    /// Appends a row of the matrix.
    pub(super) fn row(&self, row: usize, output: &mut Vec<f32>) {
        let per_row = self.columns / BLOCK;
        let blocks = row * per_row..(row + 1) * per_row;
        for (quants, scale) in self.quants[blocks.clone()].iter().zip(&self.scales[blocks]) {
            output.extend(quants.iter().map(|q| f32::from(*q) * scale));
        }
    }
}

impl Activations {
    #[inline(always)]
    fn quantize(input: &[f32]) -> Self {
        let blocks = input.len() / BLOCK;
        let mut activations = Self {
            quants: Vec::with_capacity(blocks),
            scales: Vec::with_capacity(blocks),
        };
        for block in input.chunks_exact(BLOCK) {
            let most = block.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            let inverse = if most > 0.0 { MOST / most } else { 0.0 };
            let mut quants = [0_i16; BLOCK];
            for (quant, x) in quants.iter_mut().zip(block) {
                *quant = (x * inverse).round_ties_even() as i16;
            }
            activations.scales.push(most / MOST);
            activations.quants.push(quants);
        }
        activations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_of_the_numbers() {
        let (rows, columns, count) = (70, 64, 3);
        let mut bytes = Vec::new();
        let mut weights = Vec::new();
        for i in 0..rows * columns / BLOCK {
            // A half of 0.5 is 0x3800.
            bytes.extend_from_slice(&0x3800_u16.to_le_bytes());
            for j in 0..BLOCK {
                let quant = ((i * 31 + j * 17) % 255) as i16 - 127;
                bytes.push((quant as i8).cast_unsigned());
                weights.push(f32::from(quant) * 0.5);
            }
        }
        let Some(matrix) = Int8::new(&bytes, rows, columns) else {
            return;
        };
        let input: Vec<f32> = (0..count * columns)
            .map(|i| (i as f32 * 0.7).sin())
            .collect();
        let output = matrix.product(&input);
        for i in 0..count {
            for row in 0..rows {
                let weights = &weights[row * columns..(row + 1) * columns];
                let input = &input[i * columns..(i + 1) * columns];
                let exact: f32 = weights.iter().zip(input).map(|(w, x)| w * x).sum();
                let got = output[i * rows + row];
                assert!((got - exact).abs() < 0.05, "{got} for {exact}");
            }
        }
        let mut last = Vec::new();
        matrix.row(rows - 1, &mut last);
        assert_eq!(last, weights[(rows - 1) * columns..]);
    }
}
