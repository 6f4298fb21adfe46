//! Recognition models: from aligned crops to features.
//!
//! A [`Model`] is weights plus [`Manifest`] plus the flip setting. Its id names all three, because features of
//! different models, or of one model with and without flip fusion, must never be compared. Crops go in as RGB; the
//! colour order and scale that the network wants are applied in one place ([`Model::extract`]).
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use vultus_engine::{align::AlignedCrop, model::Model};
//! let model = Model::embedded(true, &candle_core::Device::Cpu)?;
//! let crop = AlignedCrop::new(image::open("crop.png")?.to_rgb8())?;
//! let features = model.extract(&[crop])?;
//! println!("{} {}", model.id(), features[0].norm);
//! # Ok(())
//! # }
//! ```

mod architecture;
pub mod caface;
mod device;
mod error;
#[cfg(test)]
pub(crate) mod fill;
mod form;
pub mod import;
mod impostor;
pub mod ir;
mod made;
pub mod manifest;
pub mod mobilefacenet;
pub mod registry;
mod served;
mod upload;
pub mod vit;
pub mod weights;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use candle_core::Device;
use candle_core::{DType, Tensor};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

pub use architecture::{Architecture, UnknownArchitecture};
pub use device::{DeviceError, select_device};
pub use error::ModelError;
pub use form::{Form, Precision, UnknownPrecision};
pub use impostor::ImpostorScores;
pub use manifest::{Color, ImpostorScore, Manifest};
pub use registry::{Installed, Registry, RegistryError};
pub use served::{ModelSource, ModelUnavailable, ServedModel};
pub use weights::WeightsError;

use crate::align::{AlignedCrop, REFERENCE, SIZE};
use crate::face::{Feature, Landmarks, Style};
use crate::ids::ModelId;
pub use crate::kernel::conv::Arithmetic;
use crate::kernel::isa::Isa;
use crate::quality::NormStats;
use crate::template::SetFusion;
use caface::Aggregator;
use ir::Ir;
use mobilefacenet::{MobileFaceNet, Variant};
use upload::Upload;
use vit::Vit;

/// Most images in one forward pass; longer lists are split. It bounds the memory of a call.
const MAX_BATCH: usize = 32;
/// The same on a GPU, which gains from more.
const MAX_BATCH_GPU: usize = 256;

const EMBEDDED_WEIGHTS: &[u8] = include_bytes!("../../assets/mobilefacenet.safetensors");
const EMBEDDED_MANIFEST: &str = include_str!("../../assets/mobilefacenet.json");

/// Weights (a safetensors file) and manifest of the model that is compiled in, for who wants to train on from it.
pub fn embedded_parts() -> (&'static [u8], &'static str) {
    (EMBEDDED_WEIGHTS, EMBEDDED_MANIFEST)
}

/// Input of a [`Backbone`].
#[derive(Debug, Clone)]
pub struct Batch {
    /// (N, 3, 112, 112), normalised and in the colour order of the manifest.
    pub pixels: Tensor,
    /// (N, 5, 2) landmarks in the crop, for networks that look at them.
    pub landmarks: Option<Tensor>,
}

/// A network: a batch to raw features, neither normalised nor fused.
pub trait Backbone: Send + Sync {
    /// Raw features (N, dim), f32, on the device of the batch.
    fn forward(&self, batch: &Batch) -> candle_core::Result<Tensor>;

    /// As [`Backbone::forward`], and the style of each face for set fusion: mean and standard deviation of channels of
    /// inner maps, (N, 384, 2). Only some networks have one.
    fn forward_with_style(&self, batch: &Batch) -> candle_core::Result<(Tensor, Option<Tensor>)> {
        Ok((self.forward(batch)?, None))
    }

    /// Length of a feature.
    fn dim(&self) -> usize;
}

/// The fastest implementation of a form on a device: on the CPU, bf16 is for the kernels only.
fn arithmetic(form: Form, device: &Device) -> Arithmetic {
    let any = Arithmetic::for_device(device);
    if form.precision == Precision::Bf16 && device.is_cpu() { Arithmetic::Kernels } else { any }
}

/// See [`Model::kernels`].
fn kernels(architecture: Architecture, device: &Device, arithmetic: Arithmetic, precision: Precision) -> &'static str {
    let has_kernels = architecture.ir().is_some()
        || matches!(architecture, Architecture::Mobilefacenet | Architecture::MobilefacenetY1);
    if !device.is_cpu() {
        "cuda"
    } else if arithmetic == Arithmetic::Stock || !has_kernels {
        "stock"
    } else {
        match (Isa::current(), precision) {
            // Only products of bf16 need what this one has more.
            (Isa::Avx512Bf16, Precision::F32) => Isa::Avx512.name(),
            (isa, _) => isa.name(),
        }
    }
}

/// The id of a model: what its manifest says of weights and input, and the form it is used in.
pub(crate) fn id_of(manifest: &Manifest, form: Form) -> ModelId {
    let Manifest { name, sha256, input, architecture, .. } = manifest;
    let mut id = format!("{name}-{}", sha256.get(..16).unwrap_or(sha256));
    let usual = architecture.default_input();
    if input.color != usual.color {
        id += match input.color {
            Color::Rgb => "+rgb",
            Color::Bgr => "+bgr",
        };
    }
    if (input.mean, input.scale) != (usual.mean, usual.scale) {
        id += &format!("+in{:08x}{:08x}", input.mean.to_bits(), input.scale.to_bits());
    }
    id += &form.suffix();
    ModelId(id)
}

/// A network ready for use.
pub struct Model {
    manifest: Manifest,
    id: ModelId,
    form: Form,
    norm_stats: NormStats,
    device: Device,
    backbone: Box<dyn Backbone>,
    kernels: &'static str,
    /// For set fusion. The styles of crops are compressed by it.
    aggregator: Option<Arc<Aggregator>>,
    /// (byte - mean) * scale for each byte.
    levels: [f32; 256],
    /// Does the same on a GPU.
    upload: Option<Upload>,
    path: Option<PathBuf>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("id", &self.id).field("device", &self.device).finish_non_exhaustive()
    }
}

impl Model {
    /// The model that is compiled in.
    pub fn embedded(form: impl Into<Form>, device: &Device) -> Result<Self, ModelError> {
        let form = form.into();
        Self::embedded_with(form, device, arithmetic(form, device))
    }

    /// The model that is compiled in, with the given implementation.
    pub fn embedded_with(form: impl Into<Form>, device: &Device, arithmetic: Arithmetic) -> Result<Self, ModelError> {
        Self::from_parts(EMBEDDED_WEIGHTS, EMBEDDED_MANIFEST, form, device, arithmetic)
    }

    /// A model from a safetensors file and the manifest beside it (same name, extension `json`). Where a network for set
    /// fusion lies beside ([`registry::aggregator_path`]), it is loaded too, unless the model is used with flip fusion:
    /// such a network has only ever seen features of single crops.
    pub fn from_file(weights: &Path, form: impl Into<Form>, device: &Device) -> Result<Self, ModelError> {
        let form = form.into();
        let manifest_path = weights.with_extension("json");
        let manifest = std::fs::read_to_string(&manifest_path)
            .map_err(|source| ModelError::Io { path: manifest_path.clone(), source })?;
        let bytes = std::fs::read(weights).map_err(|source| ModelError::Io { path: weights.to_path_buf(), source })?;
        let model = Self::from_parts(&bytes, &manifest, form, device, arithmetic(form, device))?;
        let model = Self { path: Some(weights.to_path_buf()), ..model };
        let beside = registry::aggregator_path(weights);
        if form.flip || !beside.exists() { Ok(model) } else { model.with_aggregator(&beside) }
    }

    /// With the network for set fusion of a file. It runs on the CPU, wherever the backbone runs: it is small, and
    /// templates are made on any thread.
    fn with_aggregator(self, path: &Path) -> Result<Self, ModelError> {
        let path = path.to_path_buf();
        let architecture = self.manifest.architecture;
        if !architecture.has_style() || self.manifest.dim != architecture.default_dim() {
            return Err(ModelError::NoStyle { path, architecture });
        }
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(source) => return Err(ModelError::Io { path, source }),
        };
        let aggregator =
            Aggregator::load(&bytes, &Device::Cpu).map_err(|source| ModelError::Aggregator { path, source })?;
        Ok(Self { aggregator: Some(Arc::new(aggregator)), ..self })
    }

    /// A model from the bytes of a safetensors file and of its manifest.
    pub fn from_parts(
        weights: &[u8],
        manifest: &str,
        form: impl Into<Form>,
        device: &Device,
        arithmetic: Arithmetic,
    ) -> Result<Self, ModelError> {
        let form = form.into();
        let manifest = Manifest::parse(manifest)?;
        let found: String = Sha256::digest(weights).iter().map(|byte| format!("{byte:02x}")).collect();
        if found != manifest.sha256 {
            return Err(ModelError::Checksum { expected: manifest.sha256, found });
        }
        let norm_stats = match (form.flip, manifest.norm.flip) {
            (false, _) => manifest.norm.plain,
            (true, Some(stats)) => stats,
            (true, None) => return Err(ModelError::NoFlip(manifest.name)),
        };
        let backbone = build(manifest.architecture, manifest.dim, weights, device, arithmetic, form.precision)?;
        let kernels = kernels(manifest.architecture, device, arithmetic, form.precision);
        let id = id_of(&manifest, form);
        let mut levels = [0f32; 256];
        for (byte, level) in levels.iter_mut().enumerate() {
            *level = (byte as f32 - manifest.input.mean) * manifest.input.scale;
        }
        let upload = match arithmetic {
            Arithmetic::Gpu => Some(Upload::new(&manifest, device)?),
            Arithmetic::Kernels | Arithmetic::Stock => None,
        };
        if !device.is_cpu() {
            // Kernels are compiled for the GPU when they are first used: better now than on the first face.
            let side = SIZE as usize;
            let pixels = Tensor::zeros((1, 3, side, side), DType::F32, device)?;
            backbone.forward(&Batch { pixels, landmarks: None })?.to_vec2::<f32>()?;
        }
        Ok(Self {
            manifest,
            id,
            form,
            norm_stats,
            device: device.clone(),
            backbone,
            kernels,
            aggregator: None,
            levels,
            upload,
            path: None,
        })
    }

    /// Names the embedding space: name, first 16 hex digits of the weights' SHA-256, and a suffix for each setting that
    /// changes embeddings: an input that is not the architecture's usual one, `+bf16` in that precision, and `+flip` with
    /// flip fusion.
    pub fn id(&self) -> &ModelId {
        &self.id
    }

    /// The weights file. `None` for the model that is compiled in.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Length of an embedding.
    pub fn dim(&self) -> usize {
        self.backbone.dim()
    }

    /// Whether the features of a crop and of its mirror image are added.
    pub fn flip(&self) -> bool {
        self.form.flip
    }

    /// How it is used.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Where the network runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What computes: `avx512bf16`, `avx512`, `avx2` or `portable` for this crate's kernels, `stock` for candle's own, `cuda`.
    pub fn kernels(&self) -> &'static str {
        self.kernels
    }

    /// Norms of ordinary portraits under this model's flip setting.
    pub fn norm_stats(&self) -> NormStats {
        self.norm_stats
    }

    /// The manifest's impostor scores under this model's flip setting.
    pub fn impostor_scores(&self) -> ImpostorScores {
        self.manifest.impostor_scores.iter().copied().filter(|score| score.flip == self.form.flip).collect()
    }

    /// The network of the rule `caface`, where there is one.
    pub fn set_fusion(&self) -> Option<Arc<dyn SetFusion>> {
        self.aggregator.clone().map(|aggregator| aggregator as Arc<dyn SetFusion>)
    }

    /// The feature of each crop, in order, with its style where there is a network for set fusion. With flip fusion the
    /// raw features of crop and mirror image are added before direction and norm are taken.
    pub fn extract(&self, crops: &[AlignedCrop]) -> Result<Vec<Feature>, ModelError> {
        let (raw, styles) = match &self.aggregator {
            Some(aggregator) => self.raw_features_with_styles(crops, aggregator)?,
            None => (self.raw_features(crops)?, Vec::new()),
        };
        let mut styles = styles.into_iter();
        let feature = |(index, raw)| {
            let style = styles.next();
            let feature = Feature::from_raw(raw).ok_or(ModelError::UnusableFeature { index })?;
            Ok(Feature { style, ..feature })
        };
        raw.into_iter().enumerate().map(feature).collect()
    }

    /// Raw features and compressed styles. A style that is not finite, as that of a crop of one colour can be, is one
    /// reason more to refuse the crop.
    fn raw_features_with_styles(
        &self,
        crops: &[AlignedCrop],
        aggregator: &Aggregator,
    ) -> Result<(Vec<Vec<f32>>, Vec<Style>), ModelError> {
        let (mut features, mut styles) = (Vec::with_capacity(crops.len()), Vec::with_capacity(crops.len()));
        let passes = self.passes(crops, self.max_batch(), |crops| {
            let images: Vec<(&AlignedCrop, bool)> = crops.iter().map(|crop| (crop, false)).collect();
            let (raw, style) = self.backbone.forward_with_style(&self.batch(&images)?)?;
            Ok((raw.to_vec2::<f32>()?, style))
        })?;
        for (raw, style) in passes {
            features.extend(raw);
            let Some(style) = style else { continue };
            for values in aggregator.compress(&style)?.to_vec2::<f32>()? {
                if !values.iter().all(|value| value.is_finite()) {
                    return Err(ModelError::UnusableFeature { index: styles.len() });
                }
                styles.push(Style { network: aggregator.id(), values });
            }
        }
        Ok((features, styles))
    }

    fn max_batch(&self) -> usize {
        if self.device.is_cpu() { MAX_BATCH } else { MAX_BATCH_GPU }
    }

    /// As [`Model::extract`], not yet split into direction and norm.
    pub(crate) fn raw_features(&self, crops: &[AlignedCrop]) -> Result<Vec<Vec<f32>>, ModelError> {
        let crops_at_once = if self.form.flip { self.max_batch() / 2 } else { self.max_batch() };
        let passes = self.passes(crops, crops_at_once, |crops| {
            let mut images: Vec<(&AlignedCrop, bool)> = crops.iter().map(|crop| (crop, false)).collect();
            if self.form.flip {
                images.extend(crops.iter().map(|crop| (crop, true)));
            }
            let raw = self.backbone.forward(&self.batch(&images)?)?.to_vec2::<f32>()?;
            let (plain, mirrored) = raw.split_at(crops.len());
            let whole = |(index, raw): (usize, &Vec<f32>)| match mirrored.get(index) {
                Some(other) => raw.iter().zip(other).map(|(a, b)| a + b).collect(),
                None => raw.clone(),
            };
            Ok(plain.iter().enumerate().map(whole).collect::<Vec<Vec<f32>>>())
        })?;
        Ok(passes.into_iter().flatten().collect())
    }

    /// Passes of at most so many crops through the network, in order. On the CPU each thread of the current pool takes a
    /// share of the crops to itself: threads that divide every layer between them would wait for each other at its end. The
    /// last one's layers still go to whoever has nothing left to do.
    fn passes<T: Send>(
        &self,
        crops: &[AlignedCrop],
        most: usize,
        pass: impl Fn(&[AlignedCrop]) -> candle_core::Result<T> + Send + Sync,
    ) -> candle_core::Result<Vec<T>> {
        if !self.device.is_cpu() {
            return crops.chunks(most).map(pass).collect();
        }
        let share = crops.len().div_ceil(rayon::current_num_threads());
        crops.par_chunks(share.clamp(1, most)).map(pass).collect()
    }

    /// Bytes to what the network wants: planes in its colour order, scaled, mirrored where asked. Colour order and scale are
    /// applied here or in [`Upload::pixels`] and nowhere else.
    fn batch(&self, images: &[(&AlignedCrop, bool)]) -> candle_core::Result<Batch> {
        let pixels = match &self.upload {
            Some(upload) => upload.pixels(images)?,
            None => self.planes(images)?,
        };
        let landmarks = if self.manifest.architecture.needs_landmarks() {
            let points: Vec<f32> = images.iter().flat_map(|(crop, mirrored)| landmarks(crop, *mirrored)).collect();
            Some(Tensor::from_vec(points, (images.len(), 5, 2), &self.device)?)
        } else {
            None
        };
        Ok(Batch { pixels, landmarks })
    }

    /// (N, 3, 112, 112), made on the CPU.
    fn planes(&self, images: &[(&AlignedCrop, bool)]) -> candle_core::Result<Tensor> {
        let side = SIZE as usize;
        let plane = side * side;
        let order = match self.manifest.input.color {
            Color::Rgb => [0, 1, 2],
            Color::Bgr => [2, 1, 0],
        };
        let mut pixels = vec![0f32; images.len() * 3 * plane];
        for ((crop, mirrored), planes) in images.iter().zip(pixels.chunks_exact_mut(3 * plane)) {
            for (at, rgb) in crop.image().as_raw().chunks_exact(3).enumerate() {
                let (row, column) = (at / side, at % side);
                let column = if *mirrored { side - 1 - column } else { column };
                for (channel, source) in order.into_iter().enumerate() {
                    planes[channel * plane + row * side + column] = self.levels[usize::from(rgb[source])];
                }
            }
        }
        Tensor::from_vec(pixels, (images.len(), 3, side, side), &self.device)
    }
}

/// Landmarks of a crop or of its mirror image, x before y. A crop that came without has them where alignment puts them.
fn landmarks(crop: &AlignedCrop, mirrored: bool) -> [f32; 10] {
    let landmarks = crop.landmarks().copied().unwrap_or(Landmarks(REFERENCE));
    let landmarks = if mirrored { landmarks.mirrored(SIZE) } else { landmarks };
    let mut points = [0.0; 10];
    for (to, from) in points.iter_mut().zip(landmarks.0.iter().flatten()) {
        *to = *from;
    }
    points
}

/// The network of an architecture with the weights of a safetensors file.
fn build(
    architecture: Architecture,
    dim: usize,
    weights: &[u8],
    device: &Device,
    arithmetic: Arithmetic,
    precision: Precision,
) -> Result<Box<dyn Backbone>, ModelError> {
    if !architecture.has(precision) {
        return Err(ModelError::NoPrecision { architecture, precision });
    }
    // Weights that are arranged anew for a GPU are so on the CPU; the others go where they are used.
    let arranged = arithmetic == Arithmetic::Gpu && architecture.ir().is_some();
    let vb = weights::load(weights, &architecture.tensors(dim), if arranged { &Device::Cpu } else { device })?;
    Ok(match architecture {
        Architecture::Mobilefacenet => Box::new(MobileFaceNet::new(Variant::Tf, dim, &vb, device, arithmetic)?),
        Architecture::MobilefacenetY1 => Box::new(MobileFaceNet::new(Variant::Y1, dim, &vb, device, arithmetic)?),
        Architecture::Ir18
        | Architecture::Ir34
        | Architecture::Ir50
        | Architecture::Ir101
        | Architecture::Ir152
        | Architecture::Ir200
        | Architecture::IrSe50
        | Architecture::IrSe101 => Box::new(Ir::new(architecture, dim, &vb, device, arithmetic, precision)?),
        Architecture::VitBase | Architecture::VitBaseKprpe => {
            Box::new(Vit::new(architecture.needs_landmarks(), dim, &vb)?)
        }
    })
}

#[cfg(test)]
mod tests;
