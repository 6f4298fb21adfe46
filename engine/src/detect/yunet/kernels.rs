//! YuNet on this crate's CPU kernels, the four heads of a stride as one.

use std::sync::Arc;

use candle_core::{Result, Shape, Tensor};
use candle_nn::VarBuilder;
use parking_lot::Mutex;

use super::{HEADS, STAGES, STRIDES, Unit, pair, stem};
use crate::kernel::conv::Activation;
use crate::kernel::isa::Isa;
use crate::kernel::map::{Map, Pool};
use crate::kernel::network::{Step, apply, enter, leave};
use crate::kernel::resample::{add_doubled, max_pool};

/// Sees the output (N, H, W, C) of each stage by name.
pub(super) type Tap<'a> = &'a mut dyn FnMut(&str, &Tensor) -> Result<()>;

/// 1x1 and depthwise convolution.
#[derive(Debug)]
struct Pair([Step; 2]);

impl Pair {
    fn load(name: &str, input: usize, output: usize, vb: &VarBuilder) -> Result<Self> {
        let [pointwise, depthwise] = pair(name, input, output, Activation::Relu);
        Ok(Self([Step::load(&pointwise, vb)?, Step::load(&depthwise, vb)?]))
    }

    /// The heads of a stride side by side: 16 channels instead of 1, 1, 4 and 10.
    fn heads(stride: usize, vb: &VarBuilder) -> Result<Self> {
        let pairs = HEADS.map(|(head, channels)| pair(&format!("head.{head}{stride}"), 64, channels, Activation::None));
        let half = |which: usize| pairs.iter().map(|pair| pair[which].clone()).collect::<Vec<_>>();
        Ok(Self([Step::stacked(&half(0), vb)?, Step::stacked(&half(1), vb)?]))
    }

    fn forward(&self, isa: Isa, pool: &Arc<Pool>, x: &Map<f32>) -> Result<Map<f32>> {
        let [pointwise, depthwise] = &self.0;
        depthwise.forward(isa, pool, &pointwise.forward(isa, pool, x, None, depthwise.frame())?, None, 0)
    }
}

/// The network.
#[derive(Debug)]
pub(super) struct Network {
    isa: Isa,
    stem: Step,
    stem_unit: Pair,
    stages: Vec<[Pair; 2]>,
    neck: Vec<Pair>,
    heads: Vec<Pair>,
    pool: Arc<Pool>,
}

impl Network {
    pub(super) fn load(vb: &VarBuilder, isa: Isa) -> Result<Self> {
        let stage = |(stage, units): &(&str, [Unit; 2])| {
            let unit = |(unit, input, output): Unit| Pair::load(&format!("backbone.{stage}.{unit}"), input, output, vb);
            Ok([unit(units[0])?, unit(units[1])?])
        };
        let lateral = |stride: &usize| Pair::load(&format!("neck.lateral{stride}"), 64, 64, vb);
        Ok(Self {
            isa,
            stem: Step::load(&stem(), vb)?,
            stem_unit: Pair::load("backbone.stem.unit", 16, 16, vb)?,
            stages: STAGES.iter().map(stage).collect::<Result<_>>()?,
            neck: STRIDES.iter().map(lateral).collect::<Result<_>>()?,
            heads: STRIDES.iter().map(|stride| Pair::heads(*stride, vb)).collect::<Result<_>>()?,
            pool: Arc::default(),
        })
    }

    /// See [`super::YuNet::forward`].
    pub(super) fn forward(&self, input: &Tensor, tap: Option<Tap>) -> Result<[Tensor; 3]> {
        let (images, channels, height, width) = input.dims4()?;
        let seen: Mutex<Vec<(&'static str, Tensor)>> = Mutex::default();
        let wanted = tap.is_some();
        let see = |name: &'static str, map: &Map<f32>| {
            if wanted {
                seen.lock().push((name, leave(map)?));
            }
            Ok(())
        };
        let sides = STRIDES.map(|stride| [height / stride, width / stride]);
        let sizes = sides.map(|[rows, columns]| rows * columns * 16);
        let image: usize = sizes.iter().sum();
        let all = apply("yunet", &input.contiguous()?, |planes: &[f32]| {
            let mut values = Vec::with_capacity(images * image);
            // One after the other: a photo's maps are large, and its rows keep all threads busy.
            for planes in planes.chunks_exact((channels * height * width).max(1)) {
                for head in self.photo(planes, [1, height, width, channels], &see)? {
                    values.extend_from_slice(head.values());
                }
            }
            Ok((values, Shape::from((images, image))))
        })?;
        if let Some(tap) = tap {
            let seen = seen.into_inner();
            // Photo by photo, so the first ones name every stage.
            for (name, _) in seen.iter().take(seen.len() / images.max(1)) {
                let parts: Vec<&Tensor> = seen.iter().filter(|(of, _)| of == name).map(|(_, part)| part).collect();
                tap(name, &Tensor::cat(&parts, 0)?)?;
            }
        }
        let mut first = 0;
        let mut heads = Vec::with_capacity(3);
        for (size, [rows, columns]) in sizes.into_iter().zip(sides) {
            heads.push(all.narrow(1, first, size)?.reshape((images, rows, columns, 16))?);
            first += size;
        }
        heads.try_into().map_err(|_| candle_core::Error::Msg("three heads".into()))
    }

    fn photo(
        &self,
        planes: &[f32],
        shape: [usize; 4],
        see: &dyn Fn(&'static str, &Map<f32>) -> Result<()>,
    ) -> Result<[Map<f32>; 3]> {
        let (isa, pool) = (self.isa, &self.pool);
        let x = self.stem.forward(isa, pool, &enter(pool, planes, shape, self.stem.frame()), None, 0)?;
        let mut x = self.stem_unit.forward(isa, pool, &x)?;
        see("stem", &x)?;
        x = halved(isa, pool, &x)?;
        // At strides 8, 16 and 32, the last ones of which stay for the neck.
        let mut fine = Vec::with_capacity(3);
        for (index, [first, second]) in self.stages.iter().enumerate() {
            let y = second.forward(isa, pool, &first.forward(isa, pool, &x)?)?;
            see(STAGES[index].0, &y)?;
            x = match index {
                0 => y,
                1 => halved(isa, pool, &y)?,
                2 | 3 => {
                    let next = halved(isa, pool, &y)?;
                    fine.push(y);
                    next
                }
                _ => {
                    fine.push(y);
                    break;
                }
            };
        }
        let [c8, c16, c32] = &fine[..] else { candle_core::bail!("five stages") };
        let p32 = self.neck[2].forward(isa, pool, c32)?;
        see("lateral32", &p32)?;
        let p16 = self.neck[1].forward(isa, pool, &sum(isa, pool, c16, &p32)?)?;
        see("lateral16", &p16)?;
        let p8 = self.neck[0].forward(isa, pool, &sum(isa, pool, c8, &p16)?)?;
        see("lateral8", &p8)?;
        let head = |at: usize, x| self.heads[at].forward(isa, pool, x);
        Ok([head(0, &p8)?, head(1, &p16)?, head(2, &p32)?])
    }
}

fn halved(isa: Isa, pool: &Arc<Pool>, x: &Map<f32>) -> Result<Map<f32>> {
    let [images, height, width, channels] = x.shape();
    let mut to = pool.map([images, height / 2, width / 2, channels], 0);
    max_pool(isa, x, &mut to)?;
    Ok(to)
}

fn sum(isa: Isa, pool: &Arc<Pool>, fine: &Map<f32>, coarse: &Map<f32>) -> Result<Map<f32>> {
    let mut to = pool.map(fine.shape(), 0);
    add_doubled(isa, fine, coarse, &mut to)?;
    Ok(to)
}
