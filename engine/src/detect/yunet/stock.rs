//! YuNet on candle's operations, as they are or arranged for a GPU: any device, and the reference for the kernels.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::{HEADS, STAGES, STRIDES, Unit, pair, stem};
use crate::kernel::conv::{Activation, CandleConv};

/// 1x1 and depthwise convolution.
#[derive(Debug)]
struct Pair<C>([C; 2]);

impl<C: CandleConv> Pair<C> {
    fn load(name: &str, [input, output]: [usize; 2], activation: Activation, vb: &VarBuilder) -> Result<Self> {
        let [pointwise, depthwise] = pair(name, input, output, activation);
        Ok(Self([C::load(&pointwise, vb)?, C::load(&depthwise, vb)?]))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0[1].forward(&self.0[0].forward(x)?)
    }
}

/// The network.
#[derive(Debug)]
pub(super) struct Network<C> {
    stem: C,
    stem_unit: Pair<C>,
    stages: Vec<[Pair<C>; 2]>,
    neck: Vec<Pair<C>>,
    heads: Vec<Vec<Pair<C>>>,
}

impl<C: CandleConv> Network<C> {
    pub(super) fn load(vb: &VarBuilder) -> Result<Self> {
        let relu = Activation::Relu;
        let stage = |(stage, units): &(&str, [Unit; 2])| {
            let unit = |(unit, input, output): Unit| {
                Pair::load(&format!("backbone.{stage}.{unit}"), [input, output], relu, vb)
            };
            Ok([unit(units[0])?, unit(units[1])?])
        };
        let lateral = |stride: &usize| Pair::load(&format!("neck.lateral{stride}"), [64, 64], relu, vb);
        let heads = |stride: &usize| {
            let head = |(head, channels): &(&str, usize)| {
                Pair::load(&format!("head.{head}{stride}"), [64, *channels], Activation::None, vb)
            };
            HEADS.iter().map(head).collect::<Result<_>>()
        };
        Ok(Self {
            stem: C::load(&stem(), vb)?,
            stem_unit: Pair::load("backbone.stem.unit", [16, 16], relu, vb)?,
            stages: STAGES.iter().map(stage).collect::<Result<_>>()?,
            neck: STRIDES.iter().map(lateral).collect::<Result<_>>()?,
            heads: STRIDES.iter().map(heads).collect::<Result<_>>()?,
        })
    }

    /// See [`super::YuNet::forward`]; `tap` sees (N, C, H, W).
    pub(super) fn forward(
        &self,
        input: &Tensor,
        tap: &mut dyn FnMut(&str, &Tensor) -> Result<()>,
    ) -> Result<[Tensor; 3]> {
        let mut x = self.stem_unit.forward(&self.stem.forward(input)?)?;
        tap("stem", &x)?;
        x = x.max_pool2d(2)?;
        let mut fine = vec![];
        for (index, [first, second]) in self.stages.iter().enumerate() {
            x = second.forward(&first.forward(&x)?)?;
            tap(STAGES[index].0, &x)?;
            if index >= 2 {
                fine.push(x.clone());
            }
            if (1..4).contains(&index) {
                x = x.max_pool2d(2)?;
            }
        }
        let p32 = self.neck[2].forward(&fine[2])?;
        tap("lateral32", &p32)?;
        let p16 = self.neck[1].forward(&(&fine[1] + doubled(&p32)?)?)?;
        tap("lateral16", &p16)?;
        let p8 = self.neck[0].forward(&(&fine[0] + doubled(&p16)?)?)?;
        tap("lateral8", &p8)?;
        let head = |heads: &[Pair<C>], x: &Tensor| {
            let outputs = heads.iter().map(|head| head.forward(x)).collect::<Result<Vec<_>>>()?;
            Tensor::cat(&outputs, 1)?.permute((0, 2, 3, 1))?.contiguous()
        };
        Ok([head(&self.heads[0], &p8)?, head(&self.heads[1], &p16)?, head(&self.heads[2], &p32)?])
    }
}

/// Each pixel repeated in a 2x2 square.
fn doubled(x: &Tensor) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    x.upsample_nearest2d(2 * height, 2 * width)
}
