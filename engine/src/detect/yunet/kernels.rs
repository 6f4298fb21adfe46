//! YuNet on this crate's CPU kernels: channels-last activations, the four heads of a stride as one.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::{HEADS, STAGES, STRIDES, Unit, pair, stem};
use crate::kernel::conv::{Activation, KernelConv};
use crate::kernel::resample::{AddDoubled, MaxPool2};

/// 1x1 and depthwise convolution.
#[derive(Debug)]
struct Pair([KernelConv; 2]);

impl Pair {
    fn load(name: &str, input: usize, output: usize, vb: &VarBuilder) -> Result<Self> {
        let [pointwise, depthwise] = pair(name, input, output, Activation::Relu);
        Ok(Self([KernelConv::load(&pointwise, vb)?, KernelConv::load(&depthwise, vb)?]))
    }

    /// The heads of a stride side by side: 16 channels instead of 1, 1, 4 and 10.
    fn heads(stride: usize, vb: &VarBuilder) -> Result<Self> {
        let pairs = HEADS.map(|(head, channels)| pair(&format!("head.{head}{stride}"), 64, channels, Activation::None));
        let half = |which: usize| pairs.iter().map(|pair| pair[which].clone()).collect::<Vec<_>>();
        Ok(Self([KernelConv::stacked(&half(0), vb)?, KernelConv::stacked(&half(1), vb)?]))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0[1].forward(&self.0[0].forward(x)?)
    }
}

/// The network.
#[derive(Debug)]
pub(super) struct Network {
    stem: KernelConv,
    stem_unit: Pair,
    stages: Vec<[Pair; 2]>,
    neck: Vec<Pair>,
    heads: Vec<Pair>,
}

impl Network {
    pub(super) fn load(vb: &VarBuilder) -> Result<Self> {
        let stage = |(stage, units): &(&str, [Unit; 2])| {
            let unit = |(unit, input, output): Unit| Pair::load(&format!("backbone.{stage}.{unit}"), input, output, vb);
            Ok([unit(units[0])?, unit(units[1])?])
        };
        let lateral = |stride: &usize| Pair::load(&format!("neck.lateral{stride}"), 64, 64, vb);
        Ok(Self {
            stem: KernelConv::load(&stem(), vb)?,
            stem_unit: Pair::load("backbone.stem.unit", 16, 16, vb)?,
            stages: STAGES.iter().map(stage).collect::<Result<_>>()?,
            neck: STRIDES.iter().map(lateral).collect::<Result<_>>()?,
            heads: STRIDES.iter().map(|stride| Pair::heads(*stride, vb)).collect::<Result<_>>()?,
        })
    }

    /// See [`super::YuNet::forward`]; `tap` sees (N, H, W, C).
    pub(super) fn forward(
        &self,
        input: &Tensor,
        tap: &mut dyn FnMut(&str, &Tensor) -> Result<()>,
    ) -> Result<[Tensor; 3]> {
        let mut x = self.stem_unit.forward(&self.stem.forward(&input.contiguous()?)?)?;
        tap("stem", &x)?;
        x = x.apply_op1_no_bwd(&MaxPool2)?;
        let mut fine = vec![];
        for (index, [first, second]) in self.stages.iter().enumerate() {
            x = second.forward(&first.forward(&x)?)?;
            tap(STAGES[index].0, &x)?;
            if index >= 2 {
                fine.push(x.clone());
            }
            if (1..4).contains(&index) {
                x = x.apply_op1_no_bwd(&MaxPool2)?;
            }
        }
        let p32 = self.neck[2].forward(&fine[2])?;
        tap("lateral32", &p32)?;
        let p16 = self.neck[1].forward(&fine[1].apply_op2_no_bwd(&p32, &AddDoubled)?)?;
        tap("lateral16", &p16)?;
        let p8 = self.neck[0].forward(&fine[0].apply_op2_no_bwd(&p16, &AddDoubled)?)?;
        tap("lateral8", &p8)?;
        Ok([self.heads[0].forward(&p8)?, self.heads[1].forward(&p16)?, self.heads[2].forward(&p32)?])
    }
}
