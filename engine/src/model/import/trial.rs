//! What a model does with faces right after its import: does it run, which colour order does it like, what norms has it.
//!
//! **Colour order.** A network that was trained with the norm of its feature growing with quality gives larger norms to
//! crops whose red and blue are not exchanged. For each crop the logarithm of the ratio of both norms is taken; their
//! mean over its standard error is the statistic. Measured on two networks whose order is known: on 400 photos the mean
//! is 4.6 % and 4.2 %, seven photos of eight and nine of ten agree with it, and of 24 photos the statistic is above 3
//! nearly always; on the drawn faces the mean is 13 % and 7 %, and all agree. So the other order counts as clearly better
//! from a mean of 2 % and a statistic of 3. It is a hint and no proof: nothing is known of networks trained
//! otherwise, and for one that was not trained at all either answer is chance.
//!
//! **Norms.** Photos say what norms portraits have. Drawn faces have larger ones: 1.30 and 1.19 times those of
//! portraits for the two networks, whose deviation over portraits is 0.12 and 0.11 of the mean. Where there is nothing
//! else, these figures make a guess from drawn faces, and the manifest says that it is one.

use serde::Serialize;

use crate::align::{AlignedCrop, SIZE};
use crate::model::manifest::{NormSource, Norms};
use crate::model::{Color, Model, ModelError};
use crate::quality::NormStats;

/// Crops in a forward pass: speed hardly matters here, and memory does.
const AT_ONCE: usize = 4;
/// Norms of drawn faces over those of portraits.
const DRAWN_OVER_PORTRAITS: f64 = 1.25;
/// Deviation of the norms of portraits, in terms of their mean.
const USUAL_DEVIATION: f64 = 0.115;
/// Fewest photos that norms are taken from.
pub(super) const FEWEST_PHOTOS: usize = 8;
/// From this mean logarithm of the ratio of norms on, and this statistic, an order counts as clearly better.
const CLEAR_MEAN: f64 = 0.02;
const CLEAR_STATISTIC: f64 = 3.0;

/// What the norms say of the colour order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The order of the manifest is clearly better.
    Agrees,
    /// Neither is clearly better.
    Unclear,
    /// The other order is clearly better: the manifest's is probably wrong.
    OtherIsBetter,
}

/// Norms of crops with their colours as the manifest says, against the other order.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ColorCheck {
    /// The order of the manifest.
    pub color: Color,
    /// How many crops were tried.
    pub crops: usize,
    /// Mean logarithm of (norm in the manifest's order / norm in the other): 0.05 says that norms are 5 % larger.
    pub mean: f64,
    /// The mean over its standard error.
    pub statistic: f64,
    /// What they say.
    pub verdict: Verdict,
}

impl ColorCheck {
    /// From the logarithms of the ratios.
    fn new(color: Color, logarithms: &[f64]) -> Self {
        let (mean, deviation) = mean_and_deviation(logarithms);
        let error = deviation / (logarithms.len() as f64).sqrt();
        let statistic = if error > 0.0 { mean / error } else { 0.0 };
        let verdict = if mean.abs() < CLEAR_MEAN || statistic.abs() < CLEAR_STATISTIC {
            Verdict::Unclear
        } else if mean > 0.0 {
            Verdict::Agrees
        } else {
            Verdict::OtherIsBetter
        };
        Self { color, crops: logarithms.len(), mean, statistic, verdict }
    }
}

/// The outcome of a trial.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Trial {
    pub(super) color: ColorCheck,
    pub(super) norms: Norms,
    /// Mean norm of the crops.
    pub(super) measured: f64,
}

/// Runs a model on crops. `photos` says whether they are photos or drawn; `head` are the norms that a loss head has
/// kept, which are better than what a few crops say.
pub(super) fn run(
    model: &Model,
    crops: &[AlignedCrop],
    photos: bool,
    head: Option<NormStats>,
) -> Result<Trial, ModelError> {
    let norms = norms(model, crops)?;
    let exchanged: Vec<AlignedCrop> = crops.iter().map(exchanged).collect();
    let other = self::norms(model, &exchanged)?;
    let logarithms: Vec<f64> = norms.iter().zip(&other).map(|(norm, other)| (norm / other).ln()).collect();
    let (mean, deviation) = mean_and_deviation(&norms);
    let (plain, source) = match head {
        Some(stats) => (stats, NormSource::Head),
        None if photos => (stats(mean, deviation), NormSource::Samples),
        None => {
            let mean = mean / DRAWN_OVER_PORTRAITS;
            (stats(mean, USUAL_DEVIATION * mean), NormSource::Assumed)
        }
    };
    let flip = if photos { flip_ratio(model, crops, mean)? } else { 2.0 };
    let flip = NormStats { mean: plain.mean * flip, std: plain.std * flip };
    let color = ColorCheck::new(model.manifest().input.color, &logarithms);
    Ok(Trial { color, norms: Norms { plain, flip: Some(flip), source: Some(source) }, measured: mean })
}

/// Mean norm of the sum with the mirror image, in terms of the mean norm.
fn flip_ratio(model: &Model, crops: &[AlignedCrop], mean: f64) -> Result<f32, ModelError> {
    let mirrored: Vec<AlignedCrop> = crops.iter().map(mirrored).collect();
    let (plain, other) = (model.raw_features(crops)?, model.raw_features(&mirrored)?);
    let sums = plain
        .iter()
        .zip(&other)
        .map(|(plain, other)| plain.iter().zip(other).map(|(a, b)| f64::from(a + b).powi(2)).sum::<f64>().sqrt());
    Ok((sums.sum::<f64>() / crops.len() as f64 / mean) as f32)
}

pub(super) fn norms(model: &Model, crops: &[AlignedCrop]) -> Result<Vec<f64>, ModelError> {
    let mut norms = Vec::with_capacity(crops.len());
    for crops in crops.chunks(AT_ONCE) {
        norms.extend(model.extract(crops)?.into_iter().map(|feature| f64::from(feature.norm)));
    }
    Ok(norms)
}

/// The crop with red and blue exchanged.
fn exchanged(crop: &AlignedCrop) -> AlignedCrop {
    crop.edited(|image| image.pixels_mut().for_each(|pixel| pixel.0.swap(0, 2)))
}

/// The crop as in a mirror.
fn mirrored(crop: &AlignedCrop) -> AlignedCrop {
    let image = crop.edited(image::imageops::flip_horizontal_in_place);
    match crop.landmarks() {
        Some(landmarks) => image.with_landmarks(landmarks.mirrored(SIZE)),
        None => image,
    }
}

fn stats(mean: f64, deviation: f64) -> NormStats {
    // A deviation of nothing, as of a single crop repeated, would make quality infinite.
    NormStats { mean: mean as f32, std: deviation.max(mean * 1e-3) as f32 }
}

/// Mean and sample deviation.
fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let square = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    (mean, (square / (count - 1.0).max(1.0)).sqrt())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::samples;
    use super::*;
    use crate::model::EMBEDDED_MANIFEST;

    fn embedded(color: &str) -> Model {
        let manifest = EMBEDDED_MANIFEST.replace("\"rgb\"", &format!("{color:?}"));
        let (weights, device) = (crate::model::EMBEDDED_WEIGHTS, Device::Cpu);
        Model::from_parts(weights, &manifest, false, &device, crate::model::Arithmetic::Kernels).unwrap()
    }

    #[test]
    fn drawn_faces_tell_the_colour_order() {
        let crops = samples::drawn();
        let right = run(&embedded("rgb"), &crops, false, None).unwrap();
        assert_eq!(right.color.verdict, Verdict::Agrees, "{:?}", right.color);
        let wrong = run(&embedded("bgr"), &crops, false, None).unwrap();
        assert_eq!(wrong.color.verdict, Verdict::OtherIsBetter, "{:?}", wrong.color);
        println!("{:?}\n{:?}\n{:?}", right.color, wrong.color, right.norms);
        // The guess is near the measured 68.8 and 8.2.
        assert!((right.norms.plain.mean - 68.8).abs() < 10.0 && (right.norms.plain.std - 8.2).abs() < 2.0);
        assert_eq!(right.norms.source, Some(NormSource::Assumed));
    }

    #[test]
    fn norms_come_from_the_best_there_is() {
        let (model, crops) = (embedded("rgb"), samples::drawn());
        let head = NormStats { mean: 20.0, std: 3.0 };
        let kept = run(&model, &crops, true, Some(head)).unwrap().norms;
        assert_eq!((kept.plain, kept.source), (head, Some(NormSource::Head)));
        let measured = run(&model, &crops, true, None).unwrap().norms;
        assert_eq!(measured.source, Some(NormSource::Samples));
        let ratio = measured.flip.unwrap().mean / measured.plain.mean;
        assert!((1.8..2.0).contains(&ratio), "{ratio}");
    }

    #[test]
    fn small_and_scattered_differences_are_unclear() {
        let check = |logarithms: &[f64]| ColorCheck::new(Color::Rgb, logarithms).verdict;
        assert_eq!(check(&[0.01, 0.011, 0.009, 0.01]), Verdict::Unclear);
        assert_eq!(check(&[0.5, -0.4, 0.3, -0.3]), Verdict::Unclear);
        assert_eq!(check(&[-0.05, -0.06, -0.04, -0.05]), Verdict::OtherIsBetter);
        assert_eq!(check(&[0.1]), Verdict::Unclear);
        assert_eq!(check(&[0.1, 0.1]), Verdict::Unclear);
    }
}
