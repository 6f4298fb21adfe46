//! MobileFaceNet on this crate's CPU kernels.

use std::sync::Arc;

use candle_core::{Result, Shape, Tensor};
use candle_nn::VarBuilder;
use parking_lot::Mutex;

use super::Step;
use crate::kernel::crew::{alone, each, threads};
use crate::kernel::isa::Isa;
use crate::kernel::map::{Map, Pool};
use crate::kernel::network::{self, apply, enter, leave};

/// Sees the output (N, H, W, C) of each step by name.
pub(super) type Tap<'a> = &'a mut dyn FnMut(&str, &Tensor) -> Result<()>;

/// The steps with their weights.
#[derive(Debug)]
pub(super) struct Network {
    isa: Isa,
    steps: Vec<(String, Vec<network::Step>, bool)>,
    pool: Arc<Pool>,
}

impl Network {
    pub(super) fn load(steps: &[Step], vb: &VarBuilder, isa: Isa) -> Result<Self> {
        let load = |step: &Step| {
            let convolutions: Result<_> = step.convolutions.iter().map(|spec| network::Step::load(spec, vb)).collect();
            Ok((step.name.clone(), convolutions?, step.residual))
        };
        Ok(Self { isa, steps: steps.iter().map(load).collect::<Result<_>>()?, pool: Arc::default() })
    }

    /// (N, 3, H, W) -> (N, dim).
    pub(super) fn forward(&self, pixels: &Tensor, tap: Option<Tap>) -> Result<Tensor> {
        let (images, channels, height, width) = pixels.dims4()?;
        let seen: Mutex<Vec<(usize, Tensor)>> = Mutex::default();
        let wanted = tap.is_some();
        let see = |index: usize, map: &Map<f32>| {
            if wanted {
                seen.lock().push((index, leave(map)?));
            }
            Ok(())
        };
        let features = apply("mobilefacenet", &pixels.contiguous()?, |pixels: &[f32]| {
            let image = |pixels| {
                let x = enter(&self.pool, pixels, [1, height, width, channels], self.frame(0));
                Ok(self.part(x, &see)?.values().to_vec())
            };
            let pixels: Vec<&[f32]> = pixels.chunks_exact((channels * height * width).max(1)).collect();
            // An image's maps stay in a core's own cache, and its weights are few: as many as there are threads are best
            // done side by side. What is left over is shared, as are all where somebody looks at the maps in order.
            let side_by_side = if wanted { 0 } else { images - images % threads() };
            let mut features: Vec<Mutex<Result<Vec<f32>>>> = Vec::with_capacity(images);
            features.resize_with(side_by_side, || Mutex::new(Ok(Vec::new())));
            each(side_by_side, |at| *features[at].lock() = alone(|| image(pixels[at])));
            features.extend(pixels[side_by_side..].iter().map(|pixels| Mutex::new(image(pixels))));
            let features: Result<Vec<_>> = features.into_iter().map(Mutex::into_inner).collect();
            let features = features?.concat();
            let dim = features.len() / images.max(1);
            Ok((features, Shape::from((images, dim))))
        })?;
        if let Some(tap) = tap {
            let seen = seen.into_inner();
            for (index, (name, ..)) in self.steps.iter().enumerate() {
                let parts: Vec<&Tensor> = seen.iter().filter(|(at, _)| *at == index).map(|(_, part)| part).collect();
                tap(name, &Tensor::cat(&parts, 0)?)?;
            }
        }
        Ok(features)
    }

    /// Zeros that a step needs around its input.
    fn frame(&self, step: usize) -> usize {
        self.steps.get(step).and_then(|(_, convolutions, _)| convolutions.first()).map_or(0, network::Step::frame)
    }

    fn part(&self, mut x: Map<f32>, see: &dyn Fn(usize, &Map<f32>) -> Result<()>) -> Result<Map<f32>> {
        for (index, (_, convolutions, residual)) in self.steps.iter().enumerate() {
            let mut y: Option<Map<f32>> = None;
            for (at, convolution) in convolutions.iter().enumerate() {
                let next = convolutions.get(at + 1);
                let frame = next.map_or_else(|| self.frame(index + 1), network::Step::frame);
                let other = (*residual && next.is_none()).then_some(&x);
                y = Some(convolution.forward(self.isa, &self.pool, y.as_ref().unwrap_or(&x), other, frame)?);
            }
            x = y.unwrap_or(x);
            see(index, &x)?;
        }
        Ok(x)
    }
}
