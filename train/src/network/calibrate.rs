//! Batch normalisation with statistics of its own, for weights that were published without them.

use candle_core::Tensor;

use super::parameters::Role;
use super::unit::MOMENTUM;
use super::{Network, NetworkError};

/// What the kernels add to a variance.
const EPSILON: f64 = 1e-5;
/// A relative change of weights from one pass to the next below which they have settled.
const SETTLED: f64 = 1e-5;

/// A normalisation: the beginning of its parameters' names, and what it does to each channel, y ↦ scale·y + shift.
struct Layer {
    name: String,
    scale: Vec<f64>,
    shift: Vec<f64>,
}

impl Network {
    /// Gives every trained batch normalisation the statistics of a batch of crops (N, 3, 112, 112) without changing what
    /// the network does: weight and bias are chosen so that each channel is scaled and shifted as before. A network whose
    /// normalisation was folded, and put back as one that does nothing, can then be trained by the statistics of its
    /// batches, which keeps it stable at rates that it would not bear without.
    ///
    /// A layer is right once all before it are, so there are as many passes as layers at most. The batch should be large
    /// and of ordinary crops.
    ///
    /// # Errors
    /// As for [`Network::forward`].
    pub fn calibrate(&mut self, pixels: &Tensor) -> Result<(), NetworkError> {
        self.fetch()?;
        let settings = self.settings;
        self.settings.dropout = false;
        self.settings.constant_statistics = false;
        let layers = self.layers();
        let mut done = Ok(());
        for _ in 0..=layers.len() {
            match self.pass(&layers, pixels) {
                Ok(change) if change >= SETTLED => {}
                Ok(_) => break,
                Err(error) => {
                    done = Err(error);
                    break;
                }
            }
        }
        self.settings = settings;
        done
    }

    fn values(&self, layer: &str, part: &str) -> Vec<f64> {
        let parameter = self.parameters.get(&format!("{layer}.{part}"));
        parameter.map_or(Vec::new(), |parameter| parameter.values.iter().map(|value| f64::from(*value)).collect())
    }

    fn set(&mut self, layer: &str, part: &str, values: impl Iterator<Item = f64>) {
        if let Some(parameter) = self.parameters_mut().get_mut(&format!("{layer}.{part}")) {
            parameter.values.iter_mut().zip(values).for_each(|(old, new)| *old = new as f32);
        }
    }

    fn layers(&self) -> Vec<Layer> {
        let weights = self.parameters.iter().filter(|one| one.role() == Role::Norm && one.is_trained());
        let names = weights.filter_map(|one| one.name().strip_suffix(".weight").map(str::to_owned));
        let layer = |name: String| {
            let [weight, bias, mean, variance] =
                ["weight", "bias", "running_mean", "running_var"].map(|part| self.values(&name, part));
            let scale: Vec<f64> = weight.iter().zip(variance).map(|(w, v)| w / (v + EPSILON).sqrt()).collect();
            let shift = bias.iter().zip(&scale).zip(mean).map(|((bias, scale), mean)| bias - scale * mean).collect();
            Layer { name, scale, shift }
        };
        names.map(layer).collect()
    }

    /// One pass; the largest relative change of a weight.
    fn pass(&mut self, layers: &[Layer], pixels: &Tensor) -> Result<f64, NetworkError> {
        for Layer { name, .. } in layers {
            // So that what a pass moves them by is all there is in them.
            self.set(name, "running_mean", std::iter::repeat(0.0));
            self.set(name, "running_var", std::iter::repeat(0.0));
        }
        self.forward(pixels, 0)?;
        self.fetch()?;
        let mut most = 0f64;
        for Layer { name, scale, shift } in layers {
            let of_batch =
                |values: Vec<f64>| -> Vec<f64> { values.into_iter().map(|value| value / MOMENTUM).collect() };
            let mean = of_batch(self.values(name, "running_mean"));
            let variance = of_batch(self.values(name, "running_var"));
            let before = self.values(name, "weight");
            let weight: Vec<f64> = scale.iter().zip(&variance).map(|(a, v)| a * (v + EPSILON).sqrt()).collect();
            let size = weight.iter().fold(1e-12f64, |most, value| most.max(value.abs()));
            let change = weight.iter().zip(before).map(|(new, old)| (new - old).abs()).fold(0.0, f64::max);
            most = most.max(change / size);
            let bias: Vec<f64> =
                shift.iter().zip(scale).zip(&mean).map(|((shift, a), mean)| shift + a * mean).collect();
            self.set(name, "weight", weight.into_iter());
            self.set(name, "bias", bias.into_iter());
            self.set(name, "running_mean", mean.into_iter());
            self.set(name, "running_var", variance.into_iter());
        }
        Ok(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use vultus_engine::model::{Architecture, embedded_parts};
    use vultus_engine::random::Random;

    /// With the built-in weights: the same embeddings as before, and those of the batch's own statistics are near them.
    #[test]
    fn a_folded_network_gets_statistics_and_stays_what_it_is() {
        let tensors = candle_core::safetensors::load_buffer(embedded_parts().0, &Device::Cpu).unwrap();
        let mut network = Network::new(Architecture::Mobilefacenet, 192, 0).unwrap();
        network.load(&tensors).unwrap();
        let mut random = Random::new(3);
        let pixels: Vec<f32> = (0..8 * 3 * 112 * 112)
            .map(|at| ((at / 112 + at % 112) as f64 / 30.0 + random.uniform(-0.3, 0.3)).sin() as f32)
            .collect();
        let pixels = Tensor::from_vec(pixels, (8, 3, 112, 112), &Device::Cpu).unwrap();
        let values = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let expected = values(network.embed(&pixels).unwrap());
        let share = |found: Vec<f32>| {
            let size = expected.iter().fold(0f32, |most, value| most.max(value.abs()));
            found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / size
        };
        // The least cosine of a row: few crops have variances that differ in length from the unbiased ones kept.
        let nearness = |found: Vec<f32>| {
            let rows = found.chunks(192).zip(expected.chunks(192));
            let cosine = |(a, b): (&[f32], &[f32])| {
                let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
                dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
            };
            rows.map(cosine).fold(1.0, f64::min)
        };
        let by_batch = nearness(values(network.forward(&pixels, 0).unwrap().0));
        network.load(&tensors).unwrap();
        network.calibrate(&pixels).unwrap();
        let trained = share(values(network.embed(&pixels).unwrap()));
        let calibrated = nearness(values(network.forward(&pixels, 0).unwrap().0));
        println!("after: {trained:.1e}; cosines by its batch: {calibrated}, {by_batch} without");
        assert!(trained < 1e-4 && calibrated > 0.99 && by_batch < 0.9, "{trained} {calibrated} {by_batch}");
    }
}
