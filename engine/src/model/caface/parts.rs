//! Layers that the parts of the network share, and the mixer that weighs the clusters.

use candle_core::{Module, Result, Tensor};
use candle_nn::{Activation, LayerNorm, Linear, VarBuilder};

use super::{INPUT, Sizes};

pub(super) const NORM_EPS: f64 = 1e-5;
/// A cluster's token and its mean style.
const CLUSTER: usize = 2 * INPUT;

/// Names and shapes of a linear layer with bias.
pub(super) fn linear_tensors(name: &str, input: usize, output: usize, tensors: &mut Vec<(String, Vec<usize>)>) {
    tensors.push((format!("{name}.weight"), vec![output, input]));
    tensors.push((format!("{name}.bias"), vec![output]));
}

/// Names and shapes of a layer normalisation.
pub(super) fn norm_tensors(name: &str, width: usize, tensors: &mut Vec<(String, Vec<usize>)>) {
    tensors.push((format!("{name}.weight"), vec![width]));
    tensors.push((format!("{name}.bias"), vec![width]));
}

/// Two linear layers with GELU in between.
#[derive(Debug)]
pub(super) struct Perceptron {
    first: Linear,
    second: Linear,
}

impl Perceptron {
    /// Sizes: input, inner, output.
    pub(super) fn tensors(name: &str, [input, inner, output]: [usize; 3], tensors: &mut Vec<(String, Vec<usize>)>) {
        linear_tensors(&format!("{name}.fc1"), input, inner, tensors);
        linear_tensors(&format!("{name}.fc2"), inner, output, tensors);
    }

    pub(super) fn load([input, inner, output]: [usize; 3], vb: &VarBuilder) -> Result<Self> {
        let first = candle_nn::linear(input, inner, vb.pp("fc1"))?;
        Ok(Self { first, second: candle_nn::linear(inner, output, vb.pp("fc2"))? })
    }
}

impl Module for Perceptron {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.second.forward(&Activation::Gelu.forward(&self.first.forward(x)?)?)
    }
}

/// Prefix of a layer of [`Confidence`].
pub(super) fn confidence_name(index: usize) -> String {
    format!("fusion_net.conf_mlp.{index}")
}

/// Clusters (K, 256) to how much they count (K, 512 or 1), before the softmax: mixers (Tolstikhin et al., 2021) and a
/// perceptron.
#[derive(Debug)]
pub(super) struct Confidence {
    mixers: Vec<Mixer>,
    last: Perceptron,
}

/// A mixer: across clusters, then across channels. Its two normalisations share their weights, and the first shortcut
/// has a factor.
#[derive(Debug)]
struct Mixer {
    gate: Tensor,
    norm: LayerNorm,
    clusters: Perceptron,
    channels: Perceptron,
}

impl Confidence {
    pub(super) fn tensors(sizes: Sizes, tensors: &mut Vec<(String, Vec<usize>)>) {
        for index in 0..sizes.blocks {
            let name = confidence_name(index);
            tensors.push((format!("{name}.skip_connect_gate"), vec![]));
            norm_tensors(&format!("{name}.ln"), CLUSTER, tensors);
            let clusters = [sizes.clusters, 2 * sizes.clusters, sizes.clusters];
            Perceptron::tensors(&format!("{name}.tokens_mlp_block"), clusters, tensors);
            Perceptron::tensors(&format!("{name}.channels_mlp_block"), [CLUSTER, CLUSTER / 2, CLUSTER], tensors);
        }
        Perceptron::tensors(&confidence_name(sizes.blocks), [CLUSTER, CLUSTER, sizes.confidence], tensors);
    }

    pub(super) fn load(sizes: Sizes, vb: &VarBuilder) -> Result<Self> {
        let mixer = |index: usize| {
            let vb = vb.pp(confidence_name(index));
            let clusters = [sizes.clusters, 2 * sizes.clusters, sizes.clusters];
            Ok(Mixer {
                gate: vb.get((), "skip_connect_gate")?,
                norm: candle_nn::layer_norm(CLUSTER, NORM_EPS, vb.pp("ln"))?,
                clusters: Perceptron::load(clusters, &vb.pp("tokens_mlp_block"))?,
                channels: Perceptron::load([CLUSTER, CLUSTER / 2, CLUSTER], &vb.pp("channels_mlp_block"))?,
            })
        };
        let last = vb.pp(confidence_name(sizes.blocks));
        Ok(Self {
            mixers: (0..sizes.blocks).map(mixer).collect::<Result<_>>()?,
            last: Perceptron::load([CLUSTER, CLUSTER, sizes.confidence], &last)?,
        })
    }

    pub(super) fn forward(&self, clusters: &Tensor) -> Result<Tensor> {
        let mut x = clusters.clone();
        for mixer in &self.mixers {
            let mixed = mixer.clusters.forward(&mixer.norm.forward(&x)?.t()?.contiguous()?)?.t()?;
            x = (x.broadcast_mul(&mixer.gate)? + mixed)?;
            x = (mixer.channels.forward(&mixer.norm.forward(&x)?)? + x)?;
        }
        self.last.forward(&x)
    }
}
