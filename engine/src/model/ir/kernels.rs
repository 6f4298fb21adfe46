//! The folded networks on this crate's CPU kernels.

use std::sync::Arc;

use candle_core::{Device, Result, Shape, Tensor};
use candle_nn::VarBuilder;
use parking_lot::Mutex;

use super::fold::{HEAD, Table};
use super::table::LAST_SIDE;
use super::unfolded::Squeeze;
use super::{Tap, Wanted};
use crate::kernel::convolution::{Convolution, Given, Other, Target};
use crate::kernel::isa::Isa;
use crate::kernel::map::Pool;
use crate::kernel::network::{Activations, Layer, Operand, Tensors, apply, enter, leave};
use crate::kernel::scale::scale_channels;

/// Images that go through the network together; longer batches are split. It bounds the memory, and more images at a time
/// are no faster.
const TOGETHER: usize = 8;
/// Units of the deepest network whose embeddings stay within a cosine of 0.9999 in bf16 by Winograd's products.
const DEEP: usize = 24;
/// Side of the input.
const SIDE: usize = 112;

/// The units with their weights; products are of `V`.
#[derive(Debug)]
pub(super) struct Network<V: Operand> {
    isa: Isa,
    /// Three channels only, in f32 always.
    input: Convolution<f32>,
    body: Vec<Unit<V>>,
    /// A convolution of the whole last map to one pixel.
    head: Convolution<V>,
    dim: usize,
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Unit<V: Operand> {
    name: String,
    stride: usize,
    shortcut: Option<Layer<V>>,
    residual: Vec<Layer<V>>,
    squeeze: Option<Squeeze>,
}

impl<V: Operand> Network<V> {
    pub(super) fn load(table: &Table, vb: &VarBuilder, isa: Isa) -> Result<Self> {
        // Winograd's form doubles the rounding error of bf16, and errors add up over units.
        let filtered = V::PER_WORD == 1 || table.body.len() <= DEEP;
        let mut side = SIDE;
        let mut body = Vec::with_capacity(table.body.len());
        for unit in &table.body {
            let lead = match &unit.lead {
                Some((name, channels)) => {
                    let get = |part| vb.get(*channels, &format!("{name}.{part}"))?.to_vec1::<f32>();
                    Some([get("scale")?, get("shift")?])
                }
                None => None,
            };
            let load = |spec, lead: Option<[&[f32]; 2]>| Layer::load(spec, lead, side, filtered, vb);
            let shortcut = unit.shortcut.as_ref().map(|spec| load(spec, None)).transpose()?;
            let mut residual = Vec::with_capacity(unit.residual.len());
            for (index, spec) in unit.residual.iter().enumerate() {
                // The first takes it along.
                let lead = lead.as_ref().filter(|_| index == 0);
                residual.push(load(spec, lead.map(|[scale, shift]| [&scale[..], &shift[..]]))?);
            }
            let squeeze = unit.squeeze.as_ref().map(|(name, channels)| Squeeze::load(*channels, &vb.pp(name)));
            let (name, stride) = (unit.name.clone(), unit.stride);
            body.push(Unit { name, stride, shortcut, residual, squeeze: squeeze.transpose()? });
            side /= stride;
        }
        let head = vb.pp(HEAD);
        let weight = head.get((table.dim, table.last * LAST_SIDE * LAST_SIDE), "weight")?;
        let given = Given {
            kernel: LAST_SIDE,
            stride: 1,
            padding: [0, 0],
            input: table.last,
            output: table.dim,
            weight: &weight.flatten_all()?.to_vec1::<f32>()?,
            bias: &head.get(table.dim, "bias")?.to_vec1::<f32>()?,
            slopes: None,
            lead: None,
        };
        let input = Convolution::new(&Tensors::load(&table.input, vb)?.given(&table.input, None))?;
        Ok(Self { isa, input, body, head: Convolution::new(&given)?, dim: table.dim, pool: Arc::default() })
    }

    /// (N, 3, 112, 112) -> (N, dim); `tap` sees (N, H, W, C) of the layers that `wanted` names.
    pub(super) fn forward(&self, pixels: &Tensor, wanted: &Wanted, tap: Tap) -> Result<Tensor> {
        let images = pixels.dim(0)?;
        let seen: Mutex<Vec<(String, Vec<Tensor>)>> = Mutex::default();
        let see = |name: &str, map: &Activations| {
            if wanted(name) {
                let map = leave(map.exact()?)?;
                let mut seen = seen.lock();
                match seen.iter_mut().find(|(known, _)| known == name) {
                    Some((_, parts)) => parts.push(map),
                    None => seen.push((name.to_owned(), vec![map])),
                }
            }
            Ok(())
        };
        let features = apply("improved-residual", &pixels.contiguous()?, |pixels: &[f32]| {
            let mut features = Vec::with_capacity(images * self.dim);
            for pixels in pixels.chunks(TOGETHER * 3 * SIDE * SIDE) {
                self.part(pixels, &see, &mut features)?;
            }
            Ok((features, Shape::from((images, self.dim))))
        })?;
        for (name, parts) in seen.into_inner() {
            tap(&name, &Tensor::cat(&parts, 0)?)?;
        }
        Ok(features)
    }

    fn part(
        &self,
        pixels: &[f32],
        see: &dyn Fn(&str, &Activations) -> Result<()>,
        features: &mut Vec<f32>,
    ) -> Result<()> {
        let (isa, pool) = (self.isa, &self.pool);
        let images = pixels.len() / (3 * SIDE * SIDE);
        let input = enter(pool, pixels, [images, SIDE, SIDE, 3], 1);
        let mut x = V::prepare(pool, self.input.shape(input.shape())?, 1, true);
        self.input.forward(isa, &input, None, x.target())?;
        drop(input);
        see("input_layer", &x)?;
        for unit in &self.body {
            x = unit.forward(isa, pool, &x)?;
            see(&unit.name, &x)?;
        }
        // The head reads whole rows, so a frame would be in its way.
        let last = V::of(&x)?;
        let [_, height, width, channels] = last.shape();
        let mut bare = pool.map::<V>([images, height, width, channels], 0);
        let line = width * channels;
        for (image, to) in bare.values_mut().chunks_exact_mut((height * line).max(1)).enumerate() {
            to.chunks_exact_mut(line).zip(last.lines(image)).for_each(|(to, from)| to.copy_from_slice(from));
        }
        let mut out = pool.map::<f32>(self.head.shape(bare.shape())?, 0);
        self.head.forward(isa, &bare, None, Target { f32: Some(&mut out), bf16: None })?;
        features.extend_from_slice(out.values());
        Ok(())
    }
}

impl<V: Operand> Unit<V> {
    fn forward(&self, isa: Isa, pool: &Arc<Pool>, x: &Activations) -> Result<Activations> {
        let operand = V::of(x)?;
        let mut shortcut = None;
        if let Some(layer) = &self.shortcut {
            let mut map = pool.map::<f32>(layer.shape(operand.shape()), 0);
            layer.forward(isa, operand, None, Target { f32: Some(&mut map), bf16: None })?;
            shortcut = Some(map);
        }
        let other = match &shortcut {
            Some(map) => Other { map, stride: 1 },
            None => Other { map: x.exact()?, stride: self.stride },
        };
        let Some((last, before)) = self.residual.split_last() else { candle_core::bail!("{} is empty", self.name) };
        let mut y: Option<Activations> = None;
        for layer in before {
            let from = y.as_ref().unwrap_or(x);
            let mut to = V::prepare(pool, layer.shape(V::of(from)?.shape()), 1, false);
            layer.forward(isa, V::of(from)?, None, to.target())?;
            y = Some(to);
        }
        let from = V::of(y.as_ref().unwrap_or(x))?;
        let shape = last.shape(from.shape());
        let mut to = V::prepare(pool, shape, 1, true);
        let Some(squeeze) = &self.squeeze else {
            last.forward(isa, from, Some(other), to.target())?;
            return Ok(to);
        };
        let mut map = pool.map::<f32>(shape, 0);
        last.forward(isa, from, None, Target { f32: Some(&mut map), bf16: None })?;
        let factors = factors(squeeze, &map)?;
        scale_channels(isa, &map, &factors, other, to.target())?;
        Ok(to)
    }
}

/// The factor of each image's channels (N * C).
fn factors(squeeze: &Squeeze, map: &crate::kernel::map::Map<f32>) -> Result<Vec<f32>> {
    let [images, height, width, channels] = map.shape();
    let mut means = vec![0f32; images * channels];
    for (image, means) in means.chunks_exact_mut(channels).enumerate() {
        let mut sums = vec![0f64; channels];
        for line in map.lines(image) {
            for pixel in line.chunks_exact(channels) {
                sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += f64::from(*value));
            }
        }
        let pixels = (height * width) as f64;
        means.iter_mut().zip(sums).for_each(|(mean, sum)| *mean = (sum / pixels) as f32);
    }
    squeeze.factors(&Tensor::from_vec(means, (images, channels), &Device::Cpu)?)?.flatten_all()?.to_vec1()
}
