//! Vision transformers for faces, without and with position encoding relative to landmarks: 112x112 to 512 dimensions.
//!
//! Dosovitskiy et al., 2021, in the form of CVLFace: patches of 8 pixels, no class token, normalisation ahead of
//! attention and perceptron (ReLU6), and a head that reads all tokens. With landmarks it is KP-RPE (Kim et al., 2024).
//!
//! Nearly all of the work is matrix products, which candle does well on every device, so there is one implementation.

mod position;
mod table;

use candle_core::{D, Module, ModuleT, Result, Tensor};
use candle_nn::{Activation, BatchNorm, Conv2d, Conv2dConfig, LayerNorm, Linear, VarBuilder};

use super::{Backbone, Batch};
use position::Keypoints;
use table::{BLOCKS, HEADS, INNER, PATCH, TOKENS, WIDTH};

pub(crate) use table::tensors;

const NORM_EPS: f64 = 1e-5;
/// Of the two batch normalisations of the head.
const HEAD_EPS: f64 = 2e-5;

/// A transformer with its weights.
#[derive(Debug)]
pub struct Vit {
    dim: usize,
    patches: Conv2d,
    positions: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
    feature: [(Linear, BatchNorm); 2],
    keypoints: Option<Keypoints>,
}

#[derive(Debug)]
struct Block {
    before_attention: LayerNorm,
    qkv: Linear,
    projection: Linear,
    before_perceptron: LayerNorm,
    widen: Linear,
    narrow: Linear,
}

impl Block {
    fn load(vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            before_attention: candle_nn::layer_norm(WIDTH, NORM_EPS, vb.pp("norm1"))?,
            qkv: candle_nn::linear_no_bias(WIDTH, 3 * WIDTH, vb.pp("attn.qkv"))?,
            projection: candle_nn::linear(WIDTH, WIDTH, vb.pp("attn.proj"))?,
            before_perceptron: candle_nn::layer_norm(WIDTH, NORM_EPS, vb.pp("norm2"))?,
            widen: candle_nn::linear(WIDTH, INNER, vb.pp("mlp.fc1"))?,
            narrow: candle_nn::linear(INNER, WIDTH, vb.pp("mlp.fc2"))?,
        })
    }

    /// `bias` (N, heads, 196, 196) is added to the attention before its softmax.
    fn forward(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let x = (self.attention(&self.before_attention.forward(x)?, bias)? + x)?;
        let inner = Activation::Relu6.forward(&self.widen.forward(&self.before_perceptron.forward(&x)?)?)?;
        self.narrow.forward(&inner)? + x
    }

    fn attention(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let images = x.dim(0)?;
        let length = WIDTH / HEADS;
        let qkv = self.qkv.forward(x)?.reshape((images, TOKENS, 3, HEADS, length))?.permute((2, 0, 3, 1, 4))?;
        let part = |index: usize| qkv.get(index)?.contiguous();
        let queries = (part(0)? * (length as f64).powf(-0.5))?;
        let mut logits = queries.matmul(&part(1)?.t()?)?;
        if let Some(bias) = bias {
            logits = (logits + bias)?;
        }
        let mixed = candle_nn::ops::softmax_last_dim(&logits)?.matmul(&part(2)?)?;
        self.projection.forward(&mixed.transpose(1, 2)?.reshape((images, TOKENS, WIDTH))?)
    }
}

impl Vit {
    /// Builds the network from tensors that have been checked against [`super::Architecture::tensors`]. With
    /// `keypoints` it looks at landmarks.
    pub fn new(keypoints: bool, dim: usize, vb: &VarBuilder) -> Result<Self> {
        let patches = Conv2dConfig { stride: PATCH, ..Default::default() };
        let feature = |index: usize, input: usize, output: usize| {
            let vb = vb.pp("feature");
            let linear = candle_nn::linear_no_bias(input, output, vb.pp(index))?;
            Ok::<_, candle_core::Error>((linear, candle_nn::batch_norm(output, HEAD_EPS, vb.pp(index + 1))?))
        };
        Ok(Self {
            dim,
            patches: candle_nn::conv2d(3, WIDTH, PATCH, patches, vb.pp("patch_embed.proj"))?,
            positions: vb.get((1, TOKENS, WIDTH), "pos_embed")?,
            blocks: (0..BLOCKS).map(|block| Block::load(&vb.pp("blocks").pp(block))).collect::<Result<_>>()?,
            norm: candle_nn::layer_norm(WIDTH, NORM_EPS, vb.pp("norm"))?,
            feature: [feature(0, TOKENS * WIDTH, WIDTH)?, feature(2, WIDTH, dim)?],
            keypoints: if keypoints { Some(Keypoints::load(vb)?) } else { None },
        })
    }

    /// The first tokens: (N, 3, 112, 112) -> (N, 196, 512), patches row by row, with their positions.
    fn tokens(&self, pixels: &Tensor) -> Result<Tensor> {
        self.patches.forward(pixels)?.flatten_from(2)?.transpose(1, 2)?.contiguous()?.broadcast_add(&self.positions)
    }
}

impl Backbone for Vit {
    /// Without landmarks in the batch, a network that looks at them takes the places where alignment puts them.
    fn forward(&self, batch: &Batch) -> Result<Tensor> {
        let mut x = self.tokens(&batch.pixels)?;
        let images = x.dim(0)?;
        let keypoints = match &self.keypoints {
            Some(layer) => {
                let landmarks = position::landmarks(batch.landmarks.as_ref(), images, x.device())?;
                Some((layer, position::differences(&landmarks)?))
            }
            None => None,
        };
        for (index, block) in self.blocks.iter().enumerate() {
            let bias = keypoints.as_ref().map(|(layer, differences)| layer.bias(index, differences)).transpose()?;
            x = block.forward(&x, bias.as_ref())?;
        }
        let mut x = self.norm.forward(&x)?.flatten(1, D::Minus1)?;
        for (linear, norm) in &self.feature {
            x = norm.forward_t(&linear.forward(&x)?, false)?;
        }
        Ok(x)
    }

    fn dim(&self) -> usize {
        self.dim
    }
}

#[cfg(test)]
mod tests;
