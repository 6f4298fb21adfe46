//! Learning from the embeddings of another model (Hinton, Vinyals and Dean 2015; here of directions, not of classes).

use std::path::Path;

use candle_core::{Device, Tensor};
use vultus_engine::align::AlignedCrop;
use vultus_engine::model::Model;

use super::config::{DistillationConfig, EMBEDDED};
use super::{TrainError, input};

/// A model whose embeddings are learnt.
#[derive(Debug)]
pub struct Teacher {
    model: Model,
    config: DistillationConfig,
}

/// What a teacher says of a batch.
#[derive(Debug, Clone)]
pub struct Lesson {
    /// Directions (n, dim).
    pub unit: Tensor,
    /// Norms (n, 1).
    pub norms: Tensor,
}

impl Lesson {
    /// The same on a device.
    pub(super) fn on(&self, device: &Device) -> candle_core::Result<Self> {
        Ok(Self { unit: self.unit.to_device(device)?, norms: self.norms.to_device(device)? })
    }
}

impl Teacher {
    /// Loads the teacher of a configuration.
    ///
    /// # Errors
    /// [`TrainError::Model`]; [`TrainError::Teacher`] where its embeddings are not of `dim` values.
    pub fn load(config: &DistillationConfig, dim: usize) -> Result<Self, TrainError> {
        let model = match config.teacher.as_str() {
            EMBEDDED => Model::embedded(false, &Device::Cpu)?,
            file => Model::from_file(Path::new(file), false, &Device::Cpu)?,
        };
        if model.dim() != dim {
            return Err(TrainError::Teacher { teacher: model.dim(), student: dim });
        }
        Ok(Self { model, config: config.clone() })
    }

    /// What it says of images (n, 3, 112, 112) of a loader: the same crops that are learnt from, augmentations included.
    ///
    /// # Errors
    /// [`TrainError::Model`].
    pub fn look(&self, images: &[f32]) -> Result<Lesson, TrainError> {
        let crops: Result<Vec<AlignedCrop>, _> =
            input::crops(images).iter().map(|crop| AlignedCrop::new(crop.to_rgb())).collect();
        let features = self.model.extract(&crops.map_err(|error| TrainError::Other(error.to_string()))?)?;
        let (count, dim) = (features.len(), self.model.dim());
        let norms: Vec<f32> = features.iter().map(|feature| feature.norm).collect();
        let unit: Vec<f32> = features.into_iter().flat_map(|feature| feature.embedding).collect();
        Ok(Lesson {
            unit: Tensor::from_vec(unit, (count, dim), &Device::Cpu)?,
            norms: Tensor::from_vec(norms, (count, 1), &Device::Cpu)?,
        })
    }

    /// The loss of a student's directions (n, dim) and norms (n, 1), to which gradients reach: see [`loss`].
    ///
    /// # Errors
    /// [`TrainError::Tensor`].
    pub fn loss(&self, unit: &Tensor, norms: &Tensor, lesson: &Lesson) -> Result<Tensor, TrainError> {
        Ok((loss(unit, norms, lesson, self.config.norm_weight)? * self.config.weight)?)
    }
}

/// The mean of 1 − cos, and `norm_weight` times the mean of the squared difference of the logarithms of norms.
///
/// # Errors
/// Those of candle.
pub fn loss(unit: &Tensor, norms: &Tensor, lesson: &Lesson, norm_weight: f64) -> candle_core::Result<Tensor> {
    let away = (unit * &lesson.unit)?.sum(1)?.affine(-1.0, 1.0)?.mean_all()?;
    if norm_weight == 0.0 {
        return Ok(away);
    }
    let difference = (norms.log()? - lesson.norms.log()?)?;
    away + (difference.sqr()?.mean_all()? * norm_weight)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::split_norm;
    use candle_core::Var;

    /// Value and gradient against differences of the formula in double precision.
    #[test]
    fn the_loss_and_its_gradient_are_those_of_the_formula() {
        let (count, dim) = (3usize, 4usize);
        let number = |at: usize| ((at * 37 % 23) as f64 - 11.0) / 5.0;
        let student: Vec<f64> = (0..count * dim).map(number).collect();
        let teacher: Vec<f64> = (0..count * dim).map(|at| number(at + 5)).collect();
        let value = |student: &[f64]| {
            let row = |values: &[f64], row: usize| values[row * dim..][..dim].to_vec();
            let length = |row: &[f64]| row.iter().map(|value| value * value).sum::<f64>().sqrt();
            let of_row = |at: usize| {
                let (a, b) = (row(student, at), row(&teacher, at));
                let dot: f64 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
                let (a, b) = (length(&a), length(&b));
                1.0 - dot / (a * b) + 0.3 * (a.ln() - b.ln()).powi(2)
            };
            (0..count).map(of_row).sum::<f64>() / count as f64
        };
        let of = |values: &[f64]| Tensor::from_slice(values, (count, dim), &Device::Cpu).unwrap();
        let (unit, norms) = split_norm(&of(&teacher)).unwrap();
        let raw = Var::from_tensor(&of(&student)).unwrap();
        let (own, own_norms) = split_norm(&raw).unwrap();
        let found = loss(&own, &own_norms, &Lesson { unit, norms }, 0.3).unwrap();
        assert!((found.to_scalar::<f64>().unwrap() - value(&student)).abs() < 1e-12);
        let gradients = found.backward().unwrap();
        let gradient = gradients.get(&raw).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        for at in 0..student.len() {
            let moved = |by: f64| {
                let mut moved = student.clone();
                moved[at] += by;
                value(&moved)
            };
            let expected = (moved(1e-6) - moved(-1e-6)) / 2e-6;
            assert!((gradient[at] - expected).abs() < 1e-8, "{at}: {} {expected}", gradient[at]);
        }
    }
}
