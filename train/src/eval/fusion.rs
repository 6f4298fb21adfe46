//! One feature of an image and its mirror image: the four ways of the AdaFace repository's IJB evaluation.

use std::str::FromStr;

use serde::Serialize;

use super::error::check_length;
use super::rows::{length, normalise};
use super::{EvalError, Rows};

/// How the features of an image and of its mirror image become one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FlipFusion {
    /// The raw features ê·n are added; direction and norm are those of the sum.
    #[default]
    PreNormVectorAdd,
    /// Unit vectors are weighted by their norms; the norm is the mean. The same direction as by adding raw features.
    NormWeightedAvg,
    /// Unit vectors are added; the norm is the mean.
    Average,
    /// Unit vectors side by side, twice as long; the norm is the mean.
    Concat,
}

/// All of them with their names.
const NAMES: [(FlipFusion, &str); 4] = [
    (FlipFusion::PreNormVectorAdd, "pre_norm_vector_add"),
    (FlipFusion::NormWeightedAvg, "norm_weighted_avg"),
    (FlipFusion::Average, "average"),
    (FlipFusion::Concat, "concat"),
];

/// No such fusion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the fusions are pre_norm_vector_add, norm_weighted_avg, average and concat")]
pub struct UnknownFusion;

impl FromStr for FlipFusion {
    type Err = UnknownFusion;

    fn from_str(text: &str) -> Result<Self, UnknownFusion> {
        NAMES.iter().find(|(_, name)| *name == text).map(|(fusion, _)| *fusion).ok_or(UnknownFusion)
    }
}

impl std::fmt::Display for FlipFusion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(NAMES.iter().find(|(fusion, _)| fusion == self).map_or("", |(_, name)| name))
    }
}

/// Features of images: unit vectors and their norms before normalisation.
#[derive(Debug, Clone, PartialEq)]
pub struct Normed {
    /// Unit vectors ê, one a row.
    pub embeddings: Rows<f32>,
    /// Their norms n.
    pub norms: Vec<f32>,
}

impl Normed {
    /// Takes unit vectors and as many norms.
    ///
    /// # Errors
    /// [`EvalError::Length`] for another number of norms, [`EvalError::NotFinite`] for a norm that is not finite.
    pub fn new(embeddings: Rows<f32>, norms: Vec<f32>) -> Result<Self, EvalError> {
        check_length("norms", norms.len(), embeddings.len())?;
        match norms.iter().position(|norm| !norm.is_finite()) {
            Some(index) => Err(EvalError::NotFinite { what: "the norm of image", index }),
            None => Ok(Self { embeddings, norms }),
        }
    }

    /// The raw features ê·n.
    ///
    /// # Errors
    /// [`EvalError::NotFinite`] where a product is too large.
    pub fn raw(&self) -> Result<Rows<f32>, EvalError> {
        let scaled = self.embeddings.iter().zip(&self.norms);
        let values = scaled.flat_map(|(row, norm)| row.iter().map(move |value| value * norm)).collect();
        Rows::new("image", self.embeddings.dim(), values)
    }
}

impl FlipFusion {
    /// Fuses the features of images and of their mirror images, row by row. A direction that cancels out becomes zeros.
    ///
    /// # Errors
    /// [`EvalError::Length`] where the two differ in number or length.
    pub fn fuse(self, plain: &Normed, flipped: &Normed) -> Result<Normed, EvalError> {
        check_length("mirror images", flipped.embeddings.len(), plain.embeddings.len())?;
        check_length("values of a mirror image", flipped.embeddings.dim(), plain.embeddings.dim())?;
        let dim = plain.embeddings.dim() * if self == Self::Concat { 2 } else { 1 };
        let mut values = Vec::with_capacity(plain.embeddings.len() * dim);
        let mut norms = Vec::with_capacity(plain.embeddings.len());
        for image in 0..plain.embeddings.len() {
            let (a, b) = (plain.embeddings.row(image), flipped.embeddings.row(image));
            let [n, m] = [plain.norms[image], flipped.norms[image]].map(f64::from);
            let weighted = |n: f64, m: f64| -> Vec<f64> {
                a.iter().zip(b).map(|(x, y)| n * f64::from(*x) + m * f64::from(*y)).collect()
            };
            let (mut fused, mut norm) = match self {
                Self::PreNormVectorAdd | Self::NormWeightedAvg => (weighted(n, m), (n + m) / 2.0),
                Self::Average => (weighted(1.0, 1.0), (n + m) / 2.0),
                Self::Concat => (a.iter().chain(b).map(|value| f64::from(*value)).collect(), (n + m) / 2.0),
            };
            if self == Self::PreNormVectorAdd {
                norm = length(&fused);
            }
            if self != Self::Concat {
                normalise(&mut fused);
            }
            values.extend(fused.into_iter().map(|value| value as f32));
            norms.push(norm as f32);
        }
        Normed::new(Rows::new("fused image", dim, values)?, norms)
    }

    /// What templates are made of: raw features where the norm is a part of the fusion, unit vectors otherwise.
    ///
    /// # Errors
    /// As [`Normed::raw`].
    pub fn template_input(self, fused: Normed) -> Result<Rows<f32>, EvalError> {
        if self == Self::PreNormVectorAdd { fused.raw() } else { Ok(fused.embeddings) }
    }
}
