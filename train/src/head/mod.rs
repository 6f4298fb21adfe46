//! Margin heads: from embeddings and labels to the logits that a face network is trained on.
//!
//! A head holds one direction per class, the columns of its [`ClassKernel`], and scores an embedding by its cosine to
//! each. The cosine to its own class is made worse by a margin before the softmax, so that training goes on until
//! classes are apart by it. The heads differ in the margin:
//!
//! | head | own class, θ the angle to it | source |
//! |---|---|---|
//! | [`CosFace`] | cos θ − m | Wang et al. 2018, "CosFace: Large Margin Cosine Loss for Deep Face Recognition" |
//! | [`ArcFace`] | cos(θ + m) | Deng et al. 2019, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition" |
//! | [`CurricularFace`] | cos(θ + m), and others that come closer grow | Huang et al. 2020, "CurricularFace: Adaptive Curriculum Learning Loss for Deep Face Recognition" |
//! | [`MagFace`] | cos(θ + m(a)), a the norm | Meng et al. 2021, "MagFace: A Universal Representation for Face Recognition and Quality Assessment" |
//! | [`AdaFace`] | cos(θ − m·ẑ) − (m + m·ẑ) | Kim et al. 2022, "AdaFace: Quality Adaptive Margin for Face Recognition" |
//!
//! ẑ is how far the embedding's norm is from the norms seen so far, in −1 to 1: the norm before normalisation goes with
//! the quality of the image.
//!
//! [`PartialFc`] is for more classes than one device or one step can take: classes in shards, and of each shard a
//! sample. It takes every [`Margin`], which is all of these but CurricularFace's.
//!
//! # Use
//! ```
//! use candle_core::{DType, Device, Tensor, Var};
//! use vultus_train::head::{AdaFace, AdaFaceConfig, ClassKernel, MarginHead, split_norm};
//!
//! # fn main() -> Result<(), vultus_train::head::HeadError> {
//! let kernel = ClassKernel::seeded(16, 10, 1, DType::F32, &Device::Cpu)?;
//! let mut head = AdaFace::new(AdaFaceConfig::default(), kernel)?;
//! let raw = Var::from_tensor(&Tensor::arange(0f32, 64., &Device::Cpu)?.reshape((4, 16))?.sin()?)?;
//! let labels = Tensor::new(&[3u32, 1, 4, 1], &Device::Cpu)?;
//! let (unit, norms) = split_norm(&raw)?;
//! let logits = head.forward(&unit, &norms, &labels)?;
//! let grads = head.loss(&logits, &norms, &labels)?.backward()?;
//! assert!(grads.get(&raw).is_some() && grads.get(head.kernel().var()).is_some());
//! # Ok(())
//! # }
//! ```

mod adaface;
mod arcface;
mod cosface;
mod curricularface;
mod kernel;
mod magface;
mod margin;
mod partial;
mod target;

use std::collections::HashMap;

use candle_core::{DType, Tensor};

pub use adaface::{AdaFace, AdaFaceConfig, AdaFaceMargin, AdaFaceState};
pub use arcface::{ArcFace, ArcFaceConfig, ArcFaceMargin};
pub use cosface::{CosFace, CosFaceConfig, CosFaceMargin};
pub use curricularface::{CurricularFace, CurricularFaceConfig};
pub use kernel::ClassKernel;
pub use magface::{MagFace, MagFaceConfig, MagFaceMargin};
pub use margin::{Head, Margin, MarginGradient, Margins};
pub use partial::{
    Alone, Collective, InProcess, PartialConfig, PartialFc, PartialStep, RowGradient, RowSgd, Shard, ShardKernel,
};

/// Squared norms below this are taken as this, so that an embedding of zeros is not divided by zero.
const MIN_SQUARED_NORM: f64 = 1e-12;

/// Why a head did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A setting outside of what makes sense.
    #[error("the head's {setting} is {value}, it has to be {range}")]
    BadSetting {
        /// Which setting.
        setting: &'static str,
        /// Its value.
        value: f64,
        /// What it has to be.
        range: &'static str,
    },
    /// A tensor of another shape than the head wants.
    #[error("{what} has shape {actual:?}, the head wants {expected:?}")]
    WrongShape {
        /// Which tensor.
        what: &'static str,
        /// The shape the head wants.
        expected: Vec<usize>,
        /// The tensor's shape.
        actual: Vec<usize>,
    },
    /// A batch without the spread that the head needs: AdaFace takes the standard deviation of a batch's norms, and one
    /// embedding has none.
    #[error("a batch of {actual} is too small, the head wants at least {least}")]
    BatchTooSmall {
        /// The smallest batch.
        least: usize,
        /// The batch.
        actual: usize,
    },
    /// A label that is no class.
    #[error("label {label} is not one of {classes} classes")]
    NoSuchClass {
        /// The label.
        label: i64,
        /// Number of classes.
        classes: usize,
    },
    /// A norm that is NaN, infinite or negative: training has come apart.
    #[error("the norm of embedding {row} is {value}")]
    BadNorm {
        /// Which embedding of the batch.
        row: usize,
        /// Its norm.
        value: f64,
    },
    /// The mean cosine of a batch to its own classes is NaN: training has come apart.
    #[error("the mean cosine to the own classes is {0}")]
    BadMean(f64),
    /// A checkpoint lacks a buffer of the head, or what it has does not fit it: a number is not finite, a tensor has
    /// another shape.
    #[error("the checkpoint has no usable {0} for the head")]
    BadBuffer(&'static str),
    /// Ranks did not come together: one has left, or what they brought does not fit.
    #[error("the ranks did not come together: {0}")]
    Ranks(String),
}

/// A head that is trained together with a network.
pub trait MarginHead {
    /// Name for logs and checkpoints: `adaface`, `arcface`, `cosface`, `curricularface` or `magface`.
    fn name(&self) -> &'static str;

    /// The class directions, the head's one parameter.
    fn kernel(&self) -> &ClassKernel;

    /// Logits (batch, classes) of one training step, scaled and with the margin at each embedding's own class.
    ///
    /// `unit` are embeddings (batch, dim) of length 1 in the kernel's type, `norms` their lengths before normalisation
    /// (batch, 1), `labels` their classes (batch), u32 or i64. Gradients reach `unit` and the kernel, and `norms` with
    /// [`MagFace`] alone. A head with a state, such as the running norms of [`AdaFace`], updates it first; after an
    /// error it is unchanged.
    ///
    /// # Errors
    /// [`HeadError`] on wrong shapes, labels that are no class, a batch too small, or bad norms.
    fn forward(&mut self, unit: &Tensor, norms: &Tensor, labels: &Tensor) -> Result<Tensor, HeadError>;

    /// How the norms (batch, 1) of the last forward pass have acted on its margins, in −1 to 1, for heads whose margins
    /// depend on them: what a training shows of them. Changes nothing.
    ///
    /// # Errors
    /// [`HeadError`] on bad norms.
    fn margin_scalers(&self, _norms: &Tensor) -> Result<Option<Vec<f64>>, HeadError> {
        Ok(None)
    }

    /// What the head adds to the cross entropy, by the norms (batch, 1) of the embeddings: [`MagFace`]'s reward for long
    /// ones. A scalar that gradients go through.
    ///
    /// # Errors
    /// [`HeadError::Tensor`].
    fn regulariser(&self, _norms: &Tensor) -> Result<Option<Tensor>, HeadError> {
        Ok(None)
    }

    /// The loss of a step: mean cross entropy of `logits` (batch, classes) and `labels` (batch), plus the regulariser
    /// where the head has one. A scalar.
    ///
    /// # Errors
    /// [`HeadError::Tensor`].
    fn loss(&self, logits: &Tensor, norms: &Tensor, labels: &Tensor) -> Result<Tensor, HeadError> {
        let cross_entropy = loss(logits, labels)?;
        Ok(match self.regulariser(norms)? {
            Some(regulariser) => (cross_entropy + regulariser)?,
            None => cross_entropy,
        })
    }

    /// What a checkpoint keeps of the head beside the kernel, by name.
    ///
    /// # Errors
    /// [`HeadError::Tensor`].
    fn buffers(&self) -> Result<HashMap<&'static str, Tensor>, HeadError> {
        Ok(HashMap::new())
    }

    /// Takes over what a checkpoint kept. Names that the head does not know are left alone.
    ///
    /// # Errors
    /// [`HeadError::BadBuffer`] where one of the head's names is missing or is not one number in its range.
    fn load_buffers(&mut self, _buffers: &HashMap<String, Tensor>) -> Result<(), HeadError> {
        Ok(())
    }
}

/// Splits embeddings (batch, dim) into unit vectors (batch, dim) and their norms (batch, 1).
///
/// # Errors
/// [`HeadError::Tensor`].
pub fn split_norm(raw: &Tensor) -> Result<(Tensor, Tensor), HeadError> {
    let norms = raw.sqr()?.sum_keepdim(1)?.maximum(MIN_SQUARED_NORM)?.sqrt()?;
    Ok((raw.broadcast_div(&norms)?, norms))
}

/// Mean cross entropy of `logits` (batch, classes) and `labels` (batch). A scalar. [`MarginHead::loss`] is this and the
/// head's regulariser.
///
/// # Errors
/// [`HeadError::Tensor`].
pub fn loss(logits: &Tensor, labels: &Tensor) -> Result<Tensor, HeadError> {
    Ok(candle_nn::loss::cross_entropy(logits, &labels.to_dtype(DType::U32)?.to_device(logits.device())?)?)
}

/// Checks one number of a head's settings.
fn check_setting(setting: &'static str, value: f64, range: &'static str, valid: bool) -> Result<(), HeadError> {
    if value.is_finite() && valid { Ok(()) } else { Err(HeadError::BadSetting { setting, value, range }) }
}

/// Checks a tensor's shape.
fn check_shape(what: &'static str, tensor: &Tensor, expected: &[usize]) -> Result<(), HeadError> {
    if tensor.dims() == expected {
        Ok(())
    } else {
        Err(HeadError::WrongShape { what, expected: expected.to_vec(), actual: tensor.dims().to_vec() })
    }
}
