//! The detector and the backbones, and the permits that guard them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use image::RgbImage;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::InferError;
use super::models::{Embedder, Models};
use super::queue::{Batch, Counters, Queue, Waiting};
use super::threads::Threads;
use crate::align::AlignedCrop;
use crate::detect::{DetectOptions, Detector};
use crate::face::{DetectedFace, Feature};
use crate::model::{Model, ModelError};

/// Sizes of queue and batches.
#[derive(Debug, Clone, Copy)]
pub struct PipelineConfig {
    /// Images that may be in work at a time; more are refused.
    pub max_queued_images: usize,
    /// Megapixels of photos detected as one batch, each photo counted as at least one.
    pub detect_batch: usize,
}

impl Default for PipelineConfig {
    fn default() -> Self {
        Self { max_queued_images: 256, detect_batch: 8 }
    }
}

/// The right to have images worked on. Returned on drop.
#[derive(Debug)]
pub struct Permit {
    _permits: OwnedSemaphorePermit,
}

/// What the readiness probe and the metrics read.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct PipelineHealth {
    /// Images in work.
    pub in_work: usize,
    /// Batches and requests embedded since the start.
    pub embed_batches: u64,
    /// Embedding requests since the start.
    pub embed_requests: u64,
    /// Requests given up by their callers before their batch started.
    pub withdrawn: u64,
}

/// Detector and backbones behind one bounded queue.
pub struct Pipeline {
    permits: Arc<Semaphore>,
    capacity: usize,
    detector: Queue<DetectInput, Vec<DetectedFace>>,
    models: Arc<Models>,
}

impl Pipeline {
    /// A pipeline whose detector computes on `threads`, as the backbones do.
    pub fn new(detector: Box<dyn Detector>, models: Arc<Models>, threads: Threads, config: PipelineConfig) -> Self {
        let capacity = config.max_queued_images.max(1);
        let lanes = threads.count();
        Self {
            permits: Arc::new(Semaphore::new(capacity)),
            capacity,
            detector: Queue::new(DetectBatch(detector), config.detect_batch, lanes, threads),
            models,
        }
    }

    /// Threads that detect.
    pub fn threads(&self) -> usize {
        self.detector.lanes()
    }

    /// The backbones.
    pub fn models(&self) -> &Arc<Models> {
        &self.models
    }

    /// Asks to have `images` worked on, without waiting.
    pub fn admit(&self, images: usize) -> Result<Permit, InferError> {
        // A request for more than there are permits could never be met; it takes all there are.
        let wanted = u32::try_from(images.clamp(1, self.capacity)).unwrap_or(u32::MAX);
        let permits = Arc::clone(&self.permits).try_acquire_many_owned(wanted).map_err(|_| InferError::QueueFull)?;
        Ok(Permit { _permits: permits })
    }

    /// Finds the faces of a photo.
    pub fn detect(&self, _permit: &Permit, photo: Arc<RgbImage>, options: DetectOptions) -> Waiting<Vec<DetectedFace>> {
        self.detector.submit(DetectInput { photo, options })
    }

    /// Embeds aligned crops with a backbone; the features come in their order.
    pub fn embed(&self, _permit: &Permit, with: &Embedder, crops: Vec<AlignedCrop>) -> Waiting<Vec<Feature>> {
        with.submit(crops)
    }

    /// How busy it is.
    pub fn health(&self) -> PipelineHealth {
        let detect = self.detector.counters();
        let backbones = self.models.in_use();
        let sum = |count: fn(&Counters) -> &AtomicU64| {
            backbones.iter().map(|one| count(one.queue.counters()).load(Ordering::Relaxed)).sum::<u64>()
        };
        PipelineHealth {
            in_work: self.capacity - self.permits.available_permits(),
            embed_batches: sum(|counters| &counters.batches),
            embed_requests: sum(|counters| &counters.requests),
            withdrawn: detect.withdrawn.load(Ordering::Relaxed) + sum(|counters| &counters.withdrawn),
        }
    }
}

struct DetectInput {
    photo: Arc<RgbImage>,
    options: DetectOptions,
}

struct DetectBatch(Box<dyn Detector>);

impl Batch for DetectBatch {
    type Input = DetectInput;
    type Output = Vec<DetectedFace>;

    fn name(&self) -> &'static str {
        "detector"
    }

    /// Megapixels, at least 1: a large photo runs by itself, so that others are not kept waiting for a whole batch of
    /// such, and its request can still be withdrawn while it waits.
    fn cost(&self, input: &DetectInput) -> usize {
        (input.photo.width() as usize * input.photo.height() as usize).div_ceil(1 << 20).max(1)
    }

    fn run(&self, inputs: Vec<DetectInput>) -> Vec<Result<Vec<DetectedFace>, InferError>> {
        let mut outputs: Vec<Option<Result<Vec<DetectedFace>, InferError>>> = inputs.iter().map(|_| None).collect();
        // Requests with the same options go through the network together.
        for start in 0..inputs.len() {
            if outputs[start].is_some() {
                continue;
            }
            let options = &inputs[start].options;
            let group: Vec<usize> = (start..inputs.len()).filter(|&i| inputs[i].options == *options).collect();
            let photos: Vec<&RgbImage> = group.iter().map(|&i| inputs[i].photo.as_ref()).collect();
            match self.0.detect(&photos, options) {
                Ok(found) => group.iter().zip(found).for_each(|(&i, faces)| outputs[i] = Some(Ok(faces))),
                Err(error) => {
                    group.iter().for_each(|&i| outputs[i] = Some(Err(InferError::Failed(error.to_string()))));
                }
            }
        }
        outputs.into_iter().map(|output| output.unwrap_or(Err(InferError::Stopped))).collect()
    }
}

/// A model and the most crops it takes at once.
pub(super) struct EmbedBatch(pub(super) Arc<Model>, pub(super) usize);

impl Batch for EmbedBatch {
    type Input = Vec<AlignedCrop>;
    type Output = Vec<Feature>;

    fn name(&self) -> &'static str {
        "backbone"
    }

    fn cost(&self, crops: &Vec<AlignedCrop>) -> usize {
        crops.len()
    }

    fn run(&self, inputs: Vec<Vec<AlignedCrop>>) -> Vec<Result<Vec<Feature>, InferError>> {
        let sizes: Vec<usize> = inputs.iter().map(Vec::len).collect();
        let crops: Vec<AlignedCrop> = inputs.into_iter().flatten().collect();
        match self.extract(&crops) {
            Ok(features) => {
                let mut features = features.into_iter();
                sizes.into_iter().map(|size| Ok(features.by_ref().take(size).collect())).collect()
            }
            // One crop without a usable feature must not fail its neighbours' requests.
            Err(_) => {
                let mut rest = crops.as_slice();
                let alone = |size| {
                    let (own, others) = rest.split_at(size);
                    rest = others;
                    self.extract(own)
                };
                sizes.into_iter().map(alone).collect()
            }
        }
    }
}

impl EmbedBatch {
    fn extract(&self, crops: &[AlignedCrop]) -> Result<Vec<Feature>, InferError> {
        let mut features = Vec::with_capacity(crops.len());
        for chunk in crops.chunks(self.1) {
            features.extend(self.0.extract(chunk).map_err(|error| match error {
                ModelError::UnusableFeature { .. } => InferError::Unusable,
                error => InferError::Failed(error.to_string()),
            })?);
        }
        Ok(features)
    }
}
