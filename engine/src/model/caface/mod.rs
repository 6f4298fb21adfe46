//! Set fusion with a network (CAFace: Kim et al., "Cluster and Aggregate", 2022): many faces of one person to one vector.
//!
//! The network never looks at what a feature says, only at how it was made: the style of the face (statistics of inner
//! maps of the backbone, [`super::Backbone::forward_with_style`]) and its length. From these it assigns each face,
//! softly, to a few clusters (`cluster`), averages the directions in each, and weighs the averages channel by channel.
//!
//! ```text
//! style (384, 2) ─► compress (64) ─┐
//! length ─► sinusoids (64) ────────┴► attention among the faces ─► assignment to clusters ─► mean direction, mean style
//!                                                                  weight = mixer(mean style) ─► sum of weight · mean
//! ```
//!
//! More than [`MAX_BATCH`] faces are taken in several batches of nearly the same size; the means run on. Faces of one
//! batch see each other in the attention, so how faces are spread over batches changes the result a little. Within a
//! batch the order changes no more than rounding. Who wants the same bits every time brings faces in the same order.
//!
//! The weights belong to one backbone; the published ones to an IR-101.

mod cluster;
mod fusion;
mod parts;

use candle_core::{D, DType, Device, Module, ModuleT, Result, Tensor};
use candle_nn::{BatchNorm, BatchNormConfig, Linear, PReLU, VarBuilder};

use sha2::{Digest, Sha256};

use super::weights::{WeightsError, check};
use cluster::ClusterNetwork;

/// Most faces that see each other in one batch.
pub const MAX_BATCH: usize = 512;
/// Length of a feature.
const FEATURE: usize = 512;
/// Channels of the style of a face.
const STYLE: usize = 384;
/// Length of a compressed style, and of the code of a norm.
const COMPRESSED: usize = 64;
/// What the network sees of a face.
const INPUT: usize = 2 * COMPRESSED;
/// Norms are told apart in tenths of a standard deviation, up to three of them either way.
const NORM_STEPS: usize = 61;
/// Most clusters and blocks that a file may have.
const MOST_CLUSTERS: usize = 64;
const MOST_BLOCKS: usize = 16;

/// The network that fuses, with its weights.
#[derive(Debug)]
pub struct Aggregator {
    id: [u8; 8],
    device: Device,
    style: StyleCompressor,
    norm: NormCode,
    clusters: ClusterNetwork,
    confidence: parts::Confidence,
}

/// Sizes that differ between published configurations.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    blocks: usize,
    clusters: usize,
    /// Weights a cluster: one, or one a channel.
    confidence: usize,
}

impl Sizes {
    /// Those of a file, as far as its tensors tell. Wrong ones come to light when all shapes are checked.
    fn of(dims: &dyn Fn(&str) -> Option<Vec<usize>>) -> Self {
        let block = |index: &usize| dims(&format!("{}.norm1.weight", cluster::block_name(*index))).is_some();
        let blocks = (0..MOST_BLOCKS).take_while(block).count().max(1);
        let clusters = match dims(cluster::TOKENS).as_deref() {
            Some([1, clusters, INPUT]) if (1..=MOST_CLUSTERS).contains(clusters) => *clusters,
            _ => 4,
        };
        let confidence = match dims(&format!("{}.fc2.bias", parts::confidence_name(blocks))).as_deref() {
            Some([1]) => 1,
            _ => FEATURE,
        };
        Self { blocks, clusters, confidence }
    }

    fn tensors(self) -> Vec<(String, Vec<usize>)> {
        let mut tensors = Vec::new();
        StyleCompressor::tensors(&mut tensors);
        ClusterNetwork::tensors(self.blocks, self.clusters, &mut tensors);
        parts::Confidence::tensors(self, &mut tensors);
        NormCode::tensors(&mut tensors);
        tensors
    }
}

/// The two names under which the first tensor is published.
pub(super) const FIRST_NAMES: [&str; 2] = [StyleCompressor::WEIGHTS, StyleCompressor::OTHER_NAME];

/// Names and shapes of the tensors of a network, whose sizes follow from the shapes that `dims` tells.
pub(super) fn tensors(dims: &dyn Fn(&str) -> Option<Vec<usize>>) -> Vec<(String, Vec<usize>)> {
    Sizes::of(dims).tensors()
}

impl Aggregator {
    /// Reads a safetensors file with the names of the published state dictionary. The number of blocks and clusters is
    /// taken from the tensors. `num_batches_tracked` is ignored; `style_maker.cfc` and `style_maker.cfcs.0` are two
    /// names of one tensor, of which one is enough.
    pub fn load(bytes: &[u8], device: &Device) -> std::result::Result<Self, WeightsError> {
        let mut tensors =
            candle_core::safetensors::load_buffer(bytes, &Device::Cpu).map_err(WeightsError::Unreadable)?;
        tensors.retain(|name, _| !name.ends_with(".num_batches_tracked"));
        if let Some(tensor) = tensors.remove(StyleCompressor::OTHER_NAME) {
            tensors.entry(StyleCompressor::WEIGHTS.to_owned()).or_insert(tensor);
        }
        let sizes = Sizes::of(&|name| tensors.get(name).map(|tensor| tensor.dims().to_vec()));
        let tensors = check(tensors, &sizes.tensors(), device)?;
        let vb = VarBuilder::from_tensors(tensors, DType::F32, device);
        let mut id = [0; 8];
        id.copy_from_slice(&Sha256::digest(bytes)[..8]);
        Self::build(id, sizes, &vb).map_err(WeightsError::Unreadable)
    }

    fn build(id: [u8; 8], sizes: Sizes, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            id,
            device: vb.device().clone(),
            style: StyleCompressor::load(vb)?,
            norm: NormCode::load(vb)?,
            clusters: ClusterNetwork::load(sizes.blocks, sizes.clusters, vb)?,
            confidence: parts::Confidence::load(sizes, vb)?,
        })
    }

    /// The first eight bytes of the file's SHA-256, by which styles are told from those of other networks.
    pub fn id(&self) -> [u8; 8] {
        self.id
    }

    /// Style of faces (N, 384, 2) to what is kept of it (N, 64).
    pub fn compress(&self, style: &Tensor) -> Result<Tensor> {
        self.style.forward(&style.to_device(&self.device)?)
    }

    /// Fuses raw features (N, 512) and compressed styles (N, 64). See [`Aggregation::finish`] for the result.
    pub fn fuse(&self, features: &Tensor, styles: &Tensor) -> Result<Option<Aggregated>> {
        let mut aggregation = self.begin();
        aggregation.push(features, styles)?;
        aggregation.finish()
    }

    /// Begins to fuse faces that come bit by bit.
    pub fn begin(&self) -> Aggregation<'_> {
        Aggregation { aggregator: self, faces: 0, first: None, means: None }
    }
}

/// What became of fused faces.
#[derive(Debug, Clone, PartialEq)]
pub struct Aggregated {
    /// The fused direction (512), not normalised: it is at most about one long, and shorter the less the faces agree.
    pub vector: Vec<f32>,
    /// Each face's part: what stands before its direction in the sum, on average over the channels.
    pub parts: Vec<f32>,
}

/// Means of the clusters so far.
#[derive(Debug, Clone)]
struct Means {
    /// Share of the faces (K, 1): the sum of their assignments.
    shares: Tensor,
    /// Mean directions (K, 512).
    directions: Tensor,
    /// Mean inputs (K, 128).
    styles: Tensor,
    /// What stands before each direction in the means (K, N).
    parts: Tensor,
}

/// Faces fused so far.
#[derive(Debug)]
pub struct Aggregation<'a> {
    aggregator: &'a Aggregator,
    faces: usize,
    /// Direction of the first face.
    first: Option<Tensor>,
    means: Option<Means>,
}

impl Aggregation<'_> {
    /// Adds faces: raw features (N, 512) and compressed styles (N, 64), in batches of at most [`MAX_BATCH`] that differ
    /// by one face at most.
    pub fn push(&mut self, features: &Tensor, styles: &Tensor) -> Result<()> {
        let faces = features.dim(0)?;
        if features.dims() != [faces, FEATURE] || styles.dims() != [faces, COMPRESSED] {
            candle_core::bail!("features {:?} and styles {:?} do not fit", features.dims(), styles.dims());
        }
        let features = features.to_device(&self.aggregator.device)?;
        let styles = styles.to_device(&self.aggregator.device)?;
        let batches = faces.div_ceil(MAX_BATCH);
        let mut at = 0;
        for batch in 0..batches {
            let size = faces / batches + usize::from(batch < faces % batches);
            self.push_batch(&features.narrow(0, at, size)?, &styles.narrow(0, at, size)?)?;
            at += size;
        }
        Ok(())
    }

    fn push_batch(&mut self, features: &Tensor, styles: &Tensor) -> Result<()> {
        let Aggregator { norm, clusters, .. } = self.aggregator;
        let norms = features.sqr()?.sum_keepdim(1)?.sqrt()?;
        let directions = features.broadcast_div(&(&norms + 1e-5)?)?;
        let inputs = Tensor::cat(&[styles, &norm.forward(&norms)?], 1)?;
        let (assignment, inputs) = clusters.forward(&inputs)?;
        let shares = assignment.sum_keepdim(1)?;
        // A cluster with less than one face in sum is not blown up to a whole one.
        let parts = assignment.broadcast_div(&shares.maximum(1f32)?)?;
        let new = Means { directions: parts.matmul(&directions)?, styles: parts.matmul(&inputs)?, shares, parts };
        self.means = Some(match self.means.take() {
            Some(means) => means.joined(&new)?,
            None => new,
        });
        if self.first.is_none() {
            self.first = Some(directions.get(0)?);
        }
        self.faces += features.dim(0)?;
        Ok(())
    }

    /// The result. A single face is not changed but for its length, and without faces there is nothing.
    pub fn finish(self) -> Result<Option<Aggregated>> {
        match (self.first, self.means) {
            (Some(first), _) if self.faces == 1 => Ok(Some(Aggregated { vector: first.to_vec1()?, parts: vec![1.0] })),
            (_, Some(means)) => {
                let weights = self.aggregator.weights(&means)?;
                let vector = means.directions.broadcast_mul(&weights)?.sum(0)?.to_vec1()?;
                let parts = weights.mean_keepdim(1)?.broadcast_mul(&means.parts)?.sum(0)?.to_vec1()?;
                Ok(Some(Aggregated { vector, parts }))
            }
            _ => Ok(None),
        }
    }
}

impl Aggregator {
    /// How much each cluster counts, in each channel: (K, 512) or (K, 1), the sum over clusters being one.
    fn weights(&self, means: &Means) -> Result<Tensor> {
        let logits = self.confidence.forward(&Tensor::cat(&[&self.clusters.tokens, &means.styles], 1)?)?;
        candle_nn::ops::softmax(&logits, 0)
    }
}

impl Means {
    /// The means over the faces of both.
    fn joined(self, new: &Self) -> Result<Self> {
        let shares = (&self.shares + &new.shares)?;
        let mean = |old: &Tensor, added: &Tensor| {
            let sum = (old.broadcast_mul(&self.shares)? + added.broadcast_mul(&new.shares)?)?;
            sum.broadcast_div(&shares.maximum(1e-6f32)?)
        };
        let directions = mean(&self.directions, &new.directions)?;
        let styles = mean(&self.styles, &new.styles)?;
        let part = |means: &Self| means.parts.broadcast_mul(&means.shares)?.broadcast_div(&shares.maximum(1e-6f32)?);
        let parts = Tensor::cat(&[part(&self)?, part(new)?], 1)?;
        Ok(Self { shares, directions, styles, parts })
    }
}

/// Style (384, 2) to 64 values.
#[derive(Debug)]
struct StyleCompressor {
    weights: Tensor,
    prelu: PReLU,
    linear: Linear,
    norm: BatchNorm,
}

impl StyleCompressor {
    const WEIGHTS: &str = "style_maker.cfc";
    const OTHER_NAME: &str = "style_maker.cfcs.0";

    fn tensors(tensors: &mut Vec<(String, Vec<usize>)>) {
        tensors.push((Self::WEIGHTS.into(), vec![STYLE, 2]));
        tensors.push(("style_maker.relu.weight".into(), vec![1]));
        parts::linear_tensors("style_maker.linear", STYLE, COMPRESSED, tensors);
        for part in ["weight", "bias", "running_mean", "running_var"] {
            tensors.push((format!("style_maker.bn.{part}"), vec![COMPRESSED]));
        }
    }

    fn load(vb: &VarBuilder) -> Result<Self> {
        let own = vb.pp("style_maker");
        Ok(Self {
            weights: vb.get((STYLE, 2), Self::WEIGHTS)?,
            prelu: candle_nn::prelu(None, own.pp("relu"))?,
            linear: candle_nn::linear(STYLE, COMPRESSED, own.pp("linear"))?,
            norm: candle_nn::batch_norm(COMPRESSED, BatchNormConfig::default(), own.pp("bn"))?,
        })
    }

    fn forward(&self, style: &Tensor) -> Result<Tensor> {
        let merged = self.prelu.forward(&style.broadcast_mul(&self.weights)?.sum(D::Minus1)?)?;
        self.norm.forward_t(&self.linear.forward(&merged)?, false)
    }
}

/// The length of a feature as a point on sinusoids.
#[derive(Debug)]
struct NormCode {
    mean: f32,
    deviation: f32,
    /// (61, 64).
    table: Tensor,
}

impl NormCode {
    fn tensors(tensors: &mut Vec<(String, Vec<usize>)>) {
        tensors.push(("norm_emb.scale".into(), vec![]));
        tensors.push(("norm_emb.pe".into(), vec![NORM_STEPS, COMPRESSED]));
        tensors.push(("norm_emb.norm_bn.running_mean".into(), vec![1]));
        tensors.push(("norm_emb.norm_bn.running_var".into(), vec![1]));
    }

    fn load(vb: &VarBuilder) -> Result<Self> {
        let vb = vb.pp("norm_emb");
        let value = |name: &str| vb.get(1, name)?.get(0)?.to_scalar::<f32>();
        let table = vb.get((NORM_STEPS, COMPRESSED), "pe")?.broadcast_mul(&vb.get((), "scale")?)?;
        let deviation = (value("norm_bn.running_var")? + 1e-5).sqrt();
        Ok(Self { mean: value("norm_bn.running_mean")?, deviation, table })
    }

    /// (N, 1) -> (N, 64).
    fn forward(&self, norms: &Tensor) -> Result<Tensor> {
        let middle = (NORM_STEPS / 2) as f32;
        let step = |norm: &f32| {
            let deviations = ((norm - self.mean) / self.deviation).clamp(-3.0, 3.0);
            // Towards the middle; what is not a number lands at 0.
            ((deviations * 10.0).trunc() + middle) as u32
        };
        let steps: Vec<u32> = norms.flatten_all()?.to_vec1::<f32>()?.iter().map(step).collect();
        let count = steps.len();
        self.table.index_select(&Tensor::from_vec(steps, count, norms.device())?, 0)
    }
}

#[cfg(test)]
pub(crate) mod tests;
