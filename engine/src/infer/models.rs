//! The backbones in use: the server's own and those that galleries are bound to.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use parking_lot::{Mutex, RwLock};

use super::InferError;
use super::pipeline::EmbedBatch;
use super::queue::{Queue, Waiting};
use super::threads::Threads;
use crate::align::AlignedCrop;
use crate::face::Feature;
use crate::ids::ModelId;
use crate::model::{
    Form, Installed, Manifest, Model, ModelSource, ModelUnavailable, Precision, Registry, RegistryError, ServedModel,
};

/// Threshold of a model without measurements and without one in its manifest: usual for networks of the AdaFace family.
pub const UNMEASURED_THRESHOLD: f32 = 0.3;
/// Crops of a background job that go through a network at once, so that a request never waits long behind them.
const BACKGROUND_BATCH: usize = 4;

/// How backbones are run.
#[derive(Debug, Clone)]
pub struct EmbedConfig {
    /// Most crops of a batch.
    pub batch: usize,
    /// Who computes.
    pub threads: Threads,
}

/// One backbone with what waits for it.
pub struct Embedder {
    served: Arc<ServedModel>,
    model: Arc<Model>,
    pub(super) queue: Queue<Vec<AlignedCrop>, Vec<Feature>>,
}

impl std::fmt::Debug for Embedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedder").field("model", &self.served.id).finish_non_exhaustive()
    }
}

impl Embedder {
    /// Puts a model to use. `threshold` stands before the model's own.
    ///
    /// On a CPU its batches leave one thread to the detector, whose short ones need not wait behind long ones then; where
    /// there is nothing to detect, that thread takes part in them. A model on another device has threads of its own, which
    /// wait more than they compute, and one batch at a time.
    pub fn start(model: Model, threshold: Option<f32>, config: EmbedConfig) -> std::io::Result<Self> {
        let model = Arc::new(model);
        let (manifest, impostors) = (model.manifest(), model.impostor_scores());
        let measured = impostors.score_at(manifest.threshold_fmr);
        let served = ServedModel {
            id: model.id().clone(),
            dim: model.dim(),
            norm_stats: model.norm_stats(),
            fusion: manifest.fusion,
            threshold: threshold.or(measured).or(manifest.threshold).unwrap_or(UNMEASURED_THRESHOLD),
            impostors,
            network: model.set_fusion(),
        };
        let batch = config.batch.max(1);
        let (threads, lanes) = if model.device().is_cpu() {
            let lanes = config.threads.count() - 1;
            (config.threads, lanes)
        } else {
            (Threads::start(config.threads.count())?, 1)
        };
        let queue = Queue::new(EmbedBatch(Arc::clone(&model), batch), batch, lanes, threads);
        Ok(Self { served: Arc::new(served), model, queue })
    }

    /// What galleries need of it.
    pub fn served(&self) -> &Arc<ServedModel> {
        &self.served
    }

    /// What it says of itself.
    pub fn manifest(&self) -> &Manifest {
        self.model.manifest()
    }

    /// The network.
    pub fn model(&self) -> &Model {
        &self.model
    }

    pub(super) fn submit(&self, crops: Vec<AlignedCrop>) -> Waiting<Vec<Feature>> {
        self.queue.submit(crops)
    }
}

/// All backbones in use.
#[derive(Debug)]
pub struct Models {
    default: Arc<Embedder>,
    registry: Registry,
    device: Device,
    config: EmbedConfig,
    loaded: RwLock<HashMap<ModelId, Arc<Embedder>>>,
    /// Held while a model is loaded, so that none is loaded twice.
    loading: Mutex<()>,
}

impl Models {
    /// Over the server's own model; others are looked for in `registry` when a gallery needs them.
    pub fn new(default: Embedder, registry: Registry, device: Device, config: EmbedConfig) -> Self {
        let default = Arc::new(default);
        let loaded = HashMap::from([(default.served.id.clone(), Arc::clone(&default))]);
        Self { default, registry, device, config, loaded: RwLock::new(loaded), loading: Mutex::new(()) }
    }

    /// The server's own model.
    pub fn default_model(&self) -> &Arc<Embedder> {
        &self.default
    }

    /// The models at hand: as [`Registry::list`], and the server's own where it was loaded from elsewhere.
    pub fn list(&self) -> Result<Vec<Result<Installed, RegistryError>>, RegistryError> {
        let mut models = self.registry.list()?;
        let own = self.own();
        if !models.iter().flatten().any(|model| model.model_id == own.model_id) {
            models.push(Ok(own));
        }
        Ok(models)
    }

    /// A model at hand by name, or by id in any form.
    pub fn find(&self, wanted: &str) -> Result<Installed, RegistryError> {
        let own = self.own();
        if wanted == own.name || Form::split(wanted).0 == own.model_id.0 {
            return Ok(own);
        }
        self.registry.find(wanted)
    }

    fn own(&self) -> Installed {
        let (manifest, path) = (self.default.manifest().clone(), self.default.model.path().map(Path::to_path_buf));
        let bytes = path.as_deref().and_then(|path| path.metadata().ok()).map_or(0, |metadata| metadata.len());
        Installed::new(manifest, path, bytes)
    }

    /// The models in use.
    pub fn in_use(&self) -> Vec<Arc<Embedder>> {
        self.loaded.read().values().cloned().collect()
    }

    /// The id of a model asked for by name or id. A bare name takes the form of the server's own model, or f32 where the
    /// network has no other.
    pub fn resolve(&self, wanted: &str) -> Result<ModelId, ModelUnavailable> {
        let default = &self.default;
        let installed = self.find(wanted).map_err(unavailable)?;
        let by_id = wanted != installed.name;
        let mut form = if by_id { Form::split(wanted).1 } else { default.model.form() };
        if !by_id && !installed.manifest.architecture.has(form.precision) {
            form.precision = Precision::F32;
        }
        Ok(installed.id(form))
    }

    /// The backbone of a model id, loaded when it is not in use yet. Blocks while it loads.
    pub fn get(&self, id: &ModelId) -> Result<Arc<Embedder>, ModelUnavailable> {
        if let Some(there) = self.loaded.read().get(id) {
            return Ok(Arc::clone(there));
        }
        let _loading = self.loading.lock();
        if let Some(there) = self.loaded.read().get(id) {
            return Ok(Arc::clone(there));
        }
        let installed = self.find(&id.0).map_err(unavailable)?;
        let model = installed.load(Form::split(&id.0).1, &self.device).map_err(unavailable)?;
        if model.id() != id {
            return Err(ModelUnavailable(format!("the model of that name is {}, not {id}", model.id())));
        }
        let embedder = Embedder::start(model, None, self.config.clone())
            .map_err(|error| ModelUnavailable(format!("no threads for the model: {error}")))?;
        let embedder = Arc::new(embedder);
        tracing::info!(model = %id, "model loaded");
        self.loaded.write().insert(id.clone(), Arc::clone(&embedder));
        Ok(embedder)
    }
}

/// Why a model is not to be had, for clients, who need not know where models are kept.
fn unavailable(error: RegistryError) -> ModelUnavailable {
    ModelUnavailable(match error {
        RegistryError::NotFound { wanted, known, .. } => {
            format!("there is no model {wanted:.100} (known: {})", known.join(", "))
        }
        other => other.to_string(),
    })
}

impl ModelSource for Models {
    fn model(&self, id: &ModelId) -> Result<Arc<ServedModel>, ModelUnavailable> {
        Ok(Arc::clone(self.get(id)?.served()))
    }

    fn embed(&self, id: &ModelId, crops: Vec<AlignedCrop>) -> Result<Vec<Option<Feature>>, ModelUnavailable> {
        let embedder = self.get(id)?;
        let mut features = Vec::with_capacity(crops.len());
        for crops in crops.chunks(BACKGROUND_BATCH) {
            match embedder.submit(crops.to_vec()).wait() {
                Ok(done) => features.extend(done.output.into_iter().map(Some)),
                // One of them has no feature; each for itself then says which.
                Err(InferError::Unusable) => {
                    for crop in crops {
                        match embedder.submit(vec![crop.clone()]).wait() {
                            Ok(done) => features.extend(done.output.into_iter().map(Some)),
                            Err(InferError::Unusable) => features.push(None),
                            Err(error) => return Err(ModelUnavailable(error.to_string())),
                        }
                    }
                }
                Err(error) => return Err(ModelUnavailable(error.to_string())),
            }
        }
        Ok(features)
    }
}
