//! Position encoding relative to landmarks (KP-RPE, Kim et al., 2024).
//!
//! How strongly a token looks at another gets a bias that depends on where the other lies relative to the token, in 49
//! coarse steps (rows times columns: iRPE's product method, Wu et al., 2021), and on where the five landmarks lie
//! relative to the token. A layer of its own computes the biases of all heads and blocks from the ten differences
//! between token and landmarks; the rest is a lookup.

use candle_core::{Device, Module, Result, Tensor};
use candle_nn::{Linear, VarBuilder};

use super::table::{BLOCKS, BUCKETS, GRID, HEADS, TOKENS};
use crate::align::{REFERENCE, SIZE};

/// Steps along one axis, -3 to 3.
const REACH: i64 = 3;

/// A distance along one axis in coarse steps: exact up to one, logarithmic beyond, at most three.
fn step(distance: i64) -> i64 {
    const ALPHA: f64 = 1.9;
    const BETA: f64 = 2.0 * ALPHA;
    const GAMMA: f64 = 8.0 * ALPHA;
    let length = distance.abs() as f64;
    if length <= ALPHA {
        return distance;
    }
    let bent = ALPHA + (length / ALPHA).ln() / (GAMMA / ALPHA).ln() * (BETA - ALPHA);
    distance.signum() * bent.round().min(BETA).trunc() as i64
}

/// The step of token `j` as seen from token `i`, for each pair: i * 196 + j.
pub(super) fn buckets() -> Vec<u32> {
    let grid = GRID as i64;
    let tokens = 0..TOKENS as i64;
    let bucket = |i: i64, j: i64| {
        let rows = step(i / grid - j / grid) + REACH;
        let columns = step(i % grid - j % grid) + REACH;
        (rows * (2 * REACH + 1) + columns) as u32
    };
    tokens.clone().flat_map(|i| tokens.clone().map(move |j| bucket(i, j))).collect()
}

/// Centre of each token minus each landmark: (N, 5, 2) in 0..1 -> (N, 196, 10), x before y.
pub(super) fn differences(landmarks: &Tensor) -> Result<Tensor> {
    let images = landmarks.dim(0)?;
    let centre = |at: usize| (at as f32 + 0.5) / GRID as f32;
    let centres: Vec<f32> = (0..TOKENS).flat_map(|token| [centre(token % GRID), centre(token / GRID)]).collect();
    let centres = Tensor::from_vec(centres, (1, TOKENS, 1, 2), landmarks.device())?;
    centres.broadcast_sub(&landmarks.reshape((images, 1, 5, 2))?)?.reshape((images, TOKENS, 10))
}

/// Landmarks of a batch in 0..1 (N, 5, 2): those given in pixels, or those of a crop aligned without error.
pub(super) fn landmarks(given: Option<&Tensor>, images: usize, device: &Device) -> Result<Tensor> {
    let pixels = match given {
        Some(pixels) if pixels.dims() == [images, 5, 2] => pixels.clone(),
        Some(pixels) => candle_core::bail!("{images} crops, but landmarks {:?}", pixels.dims()),
        None => Tensor::new(&REFERENCE, device)?.unsqueeze(0)?.repeat((images, 1, 1))?,
    };
    pixels.affine(1.0 / f64::from(SIZE), 0.0)
}

/// The layer with its weights.
#[derive(Debug)]
pub(super) struct Keypoints {
    /// One a block: 10 -> heads * 49.
    blocks: Vec<Linear>,
    /// For each pair of tokens i, j where the bias is found among those of token i: i * 49 + bucket.
    places: Tensor,
}

impl Keypoints {
    pub(super) fn load(vb: &VarBuilder) -> Result<Self> {
        let vb = vb.pp("keypoint_linear");
        let weight = vb.get((BLOCKS * HEADS * BUCKETS, 10), "weight")?;
        let bias = vb.get(BLOCKS * HEADS * BUCKETS, "bias")?;
        let part = HEADS * BUCKETS;
        let block = |block: usize| {
            let weight = weight.narrow(0, block * part, part)?.contiguous()?;
            Ok(Linear::new(weight, Some(bias.narrow(0, block * part, part)?.contiguous()?)))
        };
        let places = buckets().into_iter().enumerate();
        let places: Vec<u32> = places.map(|(pair, bucket)| (pair / TOKENS * BUCKETS) as u32 + bucket).collect();
        let places = Tensor::from_vec(places, TOKENS * TOKENS, vb.device())?;
        Ok(Self { blocks: (0..BLOCKS).map(block).collect::<Result<_>>()?, places })
    }

    /// What a block adds to its attention before the softmax: (N, 196, 10) -> (N, heads, 196, 196).
    pub(super) fn bias(&self, block: usize, differences: &Tensor) -> Result<Tensor> {
        let images = differences.dim(0)?;
        let all = self.blocks[block].forward(differences)?.reshape((images, TOKENS, HEADS, BUCKETS))?;
        let all = all.transpose(1, 2)?.contiguous()?.reshape((images * HEADS, TOKENS * BUCKETS))?;
        all.index_select(&self.places, 1)?.reshape((images, HEADS, TOKENS, TOKENS))
    }
}
