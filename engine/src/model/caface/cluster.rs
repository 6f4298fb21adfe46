//! From what is seen of the faces to their assignment to clusters.

use candle_core::{Module, Result, Tensor};
use candle_nn::{LayerNorm, Linear, VarBuilder};

use super::INPUT;
use super::parts::{NORM_EPS, Perceptron, linear_tensors, norm_tensors};

const HEADS: usize = 8;
/// Prefix of the tensors.
const NAME: &str = "fusion_net.clustering_layer";
/// One learned token a cluster (1, K, 128).
pub(super) const TOKENS: &str = "fusion_net.clustering_layer.group_token";

/// Prefix of a block of attention.
pub(super) fn block_name(index: usize) -> String {
    format!("{NAME}.blocks.{index}")
}

/// Attention among faces and clusters, then assignment.
#[derive(Debug)]
pub(super) struct ClusterNetwork {
    /// (K, 128).
    pub(super) tokens: Tensor,
    blocks: Vec<Block>,
    face_norm: LayerNorm,
    /// The clusters as queries (K, 128), which do not depend on the faces, times the scale of the product.
    queries: Tensor,
    keys: Linear,
}

impl ClusterNetwork {
    pub(super) fn tensors(blocks: usize, clusters: usize, tensors: &mut Vec<(String, Vec<usize>)>) {
        tensors.push((TOKENS.into(), vec![1, clusters, INPUT]));
        for block in 0..blocks {
            let name = block_name(block);
            norm_tensors(&format!("{name}.norm1"), INPUT, tensors);
            linear_tensors(&format!("{name}.attn.qkv"), INPUT, 3 * INPUT, tensors);
            linear_tensors(&format!("{name}.attn.proj"), INPUT, INPUT, tensors);
            norm_tensors(&format!("{name}.norm2"), INPUT, tensors);
            Perceptron::tensors(&format!("{name}.mlp"), [INPUT, 4 * INPUT, INPUT], tensors);
        }
        let name = format!("{NAME}.cluster_block");
        norm_tensors(&format!("{name}.norm_tokens"), INPUT, tensors);
        norm_tensors(&format!("{name}.norm_x"), INPUT, tensors);
        linear_tensors(&format!("{name}.assign.q_proj"), INPUT, INPUT, tensors);
        linear_tensors(&format!("{name}.assign.k_proj"), INPUT, INPUT, tensors);
    }

    pub(super) fn load(blocks: usize, clusters: usize, vb: &VarBuilder) -> Result<Self> {
        let tokens = vb.get((1, clusters, INPUT), TOKENS)?.get(0)?;
        let last = vb.pp(NAME).pp("cluster_block");
        // The tokens take part in the attention, but what it makes of them is dropped: clusters keep their meaning.
        let queries = candle_nn::layer_norm(INPUT, NORM_EPS, last.pp("norm_tokens"))?.forward(&tokens)?;
        let queries = candle_nn::linear(INPUT, INPUT, last.pp("assign.q_proj"))?.forward(&queries)?;
        Ok(Self {
            tokens,
            blocks: (0..blocks).map(|block| Block::load(&vb.pp(block_name(block)))).collect::<Result<_>>()?,
            face_norm: candle_nn::layer_norm(INPUT, NORM_EPS, last.pp("norm_x"))?,
            queries: (queries * (INPUT as f64).powf(-0.5))?,
            keys: candle_nn::linear(INPUT, INPUT, last.pp("assign.k_proj"))?,
        })
    }

    /// Inputs (N, 128) to the assignment (K, N), each face's adding up to one, and to the inputs as the faces see each
    /// other (N, 128).
    pub(super) fn forward(&self, inputs: &Tensor) -> Result<(Tensor, Tensor)> {
        let faces = inputs.dim(0)?;
        let mut all = Tensor::cat(&[inputs, &self.tokens], 0)?;
        for block in &self.blocks {
            all = block.forward(&all)?;
        }
        let inputs = self.face_norm.forward(&all.narrow(0, 0, faces)?)?;
        let logits = self.queries.matmul(&self.keys.forward(&inputs)?.t()?)?;
        Ok((candle_nn::ops::softmax(&logits, 0)?, inputs))
    }
}

/// A transformer block, normalised ahead of each part.
#[derive(Debug)]
struct Block {
    before_attention: LayerNorm,
    qkv: Linear,
    projection: Linear,
    before_perceptron: LayerNorm,
    perceptron: Perceptron,
}

impl Block {
    fn load(vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            before_attention: candle_nn::layer_norm(INPUT, NORM_EPS, vb.pp("norm1"))?,
            qkv: candle_nn::linear(INPUT, 3 * INPUT, vb.pp("attn.qkv"))?,
            projection: candle_nn::linear(INPUT, INPUT, vb.pp("attn.proj"))?,
            before_perceptron: candle_nn::layer_norm(INPUT, NORM_EPS, vb.pp("norm2"))?,
            perceptron: Perceptron::load([INPUT, 4 * INPUT, INPUT], &vb.pp("mlp"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = (self.attention(&self.before_attention.forward(x)?)? + x)?;
        self.perceptron.forward(&self.before_perceptron.forward(&x)?)? + x
    }

    fn attention(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, length) = (x.dim(0)?, INPUT / HEADS);
        let qkv = self.qkv.forward(x)?.reshape((rows, 3, HEADS, length))?.permute((1, 2, 0, 3))?;
        let part = |index: usize| qkv.get(index)?.contiguous();
        let logits = ((part(0)? * (length as f64).powf(-0.5))?).matmul(&part(1)?.t()?)?;
        let mixed = candle_nn::ops::softmax_last_dim(&logits)?.matmul(&part(2)?)?;
        self.projection.forward(&mixed.transpose(0, 1)?.reshape((rows, INPUT))?)
    }
}
