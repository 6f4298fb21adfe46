//! PartialFC (An et al. 2022, "Killing Two Birds with One Stone: Efficient and Robust Training of Face Recognition CNNs
//! by Partial FC"): a head over many classes, in shards and by samples.
//!
//! Classes lie in contiguous shards, one a rank. Every rank has the embeddings of all ranks' batches and the logits of
//! its own classes; the softmax over all is put together from the largest logit, the sum of exponentials and the own
//! logit of each embedding, three numbers a row. With a sampling rate below 1 a rank looks at the classes that its
//! embeddings belong to and at some others by chance, anew each step, and nothing touches the rest: its gradient is
//! not computed and its weights and momentum stay.
//!
//! The margin sees the norms of all ranks together, so that running statistics are the same on every rank.
//!
//! # Use
//! ```
//! use candle_core::{DType, Device, Tensor, Var};
//! use vultus_train::head::{
//!     AdaFaceConfig, AdaFaceMargin, Alone, MarginGradient, PartialConfig, PartialFc, RowSgd, Shard, ShardKernel,
//!     split_norm,
//! };
//!
//! # fn main() -> Result<(), vultus_train::head::HeadError> {
//! let margin = AdaFaceMargin::new(AdaFaceConfig::default(), MarginGradient::Exact)?;
//! let kernel = ShardKernel::seeded(Shard::new(1000, 0, 1)?, 16, 1, DType::F32, &Device::Cpu)?;
//! let mut head = PartialFc::new(margin, kernel, Alone, PartialConfig { rate: 0.1, seed: 1 })?;
//! let raw = Var::from_tensor(&Tensor::arange(0f32, 64., &Device::Cpu)?.reshape((4, 16))?.sin()?)?;
//! let (unit, norms) = split_norm(&raw)?;
//! let step = head.forward(&unit, &norms, &Tensor::new(&[3u32, 1, 4, 1], &Device::Cpu)?)?;
//! assert_eq!(step.gradient.rows.len(), 100);
//! assert!(step.carrier.backward()?.get(&raw).is_some());
//! head.update(&step.gradient, RowSgd { rate: 0.1, momentum: 0.9, weight_decay: 5e-4 })?;
//! # Ok(())
//! # }
//! ```

mod collective;
mod sample;
mod shard;

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};
use vultus_engine::random::Random;

pub use collective::{Alone, Collective, InProcess};
pub use shard::{RowGradient, RowSgd, Shard, ShardKernel};

use super::kernel::keep_from_ends;
use super::margin::number;
use super::target::Targets;
use super::{HeadError, Margin, check_setting, check_shape};

/// The names of a checkpoint's tensors.
const WEIGHT: &str = "weight";
const MOMENTUM: &str = "momentum";
const STEPS: &str = "steps";

/// Settings of [`PartialFc`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PartialConfig {
    /// The share of a shard's classes that a step looks at, above 0 to 1. All classes of the batch are among them, even
    /// where these are more.
    pub rate: f64,
    /// What classes are sampled by, the same on all ranks.
    pub seed: u64,
}

/// What a step came to.
#[derive(Debug)]
pub struct PartialStep {
    /// The loss over the batches of all ranks: mean cross entropy and what the margin adds. The same on all ranks.
    pub loss: f64,
    /// A scalar on the graph of this rank's embeddings. Its value has no meaning; its gradient is that of
    /// [`loss`](Self::loss). The loss is a mean over all ranks' embeddings, so a network on several ranks sums its
    /// gradients over them; one that takes their mean multiplies by the number of ranks.
    pub carrier: Tensor,
    /// The gradient of the loss to the sampled rows of this rank's shard, complete: nothing is to be added to it by
    /// other ranks.
    pub gradient: RowGradient,
}

/// One rank's part of a head over sharded, sampled classes.
#[derive(Debug)]
pub struct PartialFc<M, C> {
    margin: M,
    kernel: ShardKernel,
    collective: C,
    config: PartialConfig,
    steps: u64,
}

impl<M: Margin, C: Collective> PartialFc<M, C> {
    /// A head of `margin` over the shard of `collective`'s rank.
    ///
    /// # Errors
    /// [`HeadError::BadSetting`] where the rate is out of range or the shard is another rank's.
    pub fn new(margin: M, kernel: ShardKernel, collective: C, config: PartialConfig) -> Result<Self, HeadError> {
        check_setting("rate", config.rate, "above 0, 1 at most", config.rate > 0.0 && config.rate <= 1.0)?;
        let own = Shard::new(kernel.shard().classes(), collective.rank(), collective.ranks())?;
        let first = kernel.shard().first() as f64;
        check_setting("the first class of the shard", first, "that of the rank's shard", own == kernel.shard())?;
        Ok(Self { margin, kernel, collective, config, steps: 0 })
    }

    /// The margin, with its state.
    pub fn margin(&self) -> &M {
        &self.margin
    }

    /// This rank's classes.
    pub fn kernel(&self) -> &ShardKernel {
        &self.kernel
    }

    /// Loss and gradients of one training step, with margins at each embedding's own class.
    ///
    /// `unit`, `norms` and `labels` are this rank's, as for [`MarginHead::forward`](super::MarginHead::forward): all
    /// ranks bring as many. Labels are numbers of all classes. After an error nothing has changed; an error that not all
    /// ranks have ends the work of this one, which is then to be dropped.
    ///
    /// # Errors
    /// [`HeadError`] on wrong shapes, labels that are no class, a batch too small, bad norms, or ranks that do not come.
    pub fn forward(&mut self, unit: &Tensor, norms: &Tensor, labels: &Tensor) -> Result<PartialStep, HeadError> {
        let batch = unit.dims().first().copied().unwrap_or(0);
        check_shape("the embeddings", unit, &[batch, self.kernel.dim()])?;
        check_shape("the norms", norms, &[batch, 1])?;
        check_shape("the labels", labels, &[batch])?;
        let all_labels = self.gather_labels(labels)?;
        let all_unit = Var::from_tensor(&self.collective.gather(unit)?)?;
        let all_norms = Var::from_tensor(&self.collective.gather(norms)?)?;
        let mut margin = self.margin.clone();
        let margins = margin.at(&all_norms)?;
        let total = all_labels.len();

        // The sample, and the logits of all embeddings to it.
        let rows: Vec<Option<u32>> = all_labels.iter().map(|&class| self.kernel.shard().row(class)).collect();
        let sampled = self.sample(&rows);
        let columns: Vec<Option<u32>> =
            rows.iter().map(|row| row.and_then(|row| sample::column(&sampled, row))).collect();
        let weight = Var::from_tensor(&self.kernel.select(&sampled)?)?;
        let directions = weight.broadcast_div(&weight.sqr()?.sum_keepdim(1)?.sqrt()?)?;
        let cosines = keep_from_ends(&all_unit.matmul(&directions.t()?)?, margin.guard())?;
        let targets = Targets::among(&columns, &cosines)?;
        let change = margins.change(&targets.of(&cosines)?, margin.guard(), margin.gradient())?;
        let logits = (targets.add(&cosines, &change)? * margin.scale())?;

        // The softmax over all ranks' columns. The own logit goes as it is and not as a probability: the published code
        // takes the logarithm of a probability that may have become 0, with a floor of 1e-30.
        let values = logits.detach();
        let largest = self.collective.max(&values.max_keepdim(1)?)?;
        let values = values.broadcast_sub(&largest)?;
        let exponentials = values.exp()?;
        let sum = self.collective.sum(&exponentials.sum_keepdim(1)?)?;
        let own = self.collective.sum(&(&values * targets.mask())?.sum_keepdim(1)?)?;
        let cross_entropy = (sum.log()? - own)?.to_dtype(DType::F64)?.mean_all()?.to_scalar::<f64>()?;
        let slope = ((exponentials.broadcast_div(&sum)? - targets.mask())? / total as f64)?;

        let grads = (logits * slope.detach())?.sum_all()?.backward()?;
        let gradient = |var: &Var| grads.get(var).map_or_else(|| var.zeros_like(), |grad| Ok(grad.detach()));
        // Each rank has what its classes give to the gradients of all embeddings: the sum is the gradient, of which this
        // rank takes that of its own.
        let mine = |gradient: Tensor| -> Result<Tensor, HeadError> {
            Ok(self.collective.sum(&gradient)?.narrow(0, self.collective.rank() * batch, batch)?)
        };
        let unit_gradient = mine(gradient(&all_unit)?)?;
        let norm_gradient = mine(gradient(&all_norms)?)?;
        let carried = (unit * unit_gradient)?.sum_all()?;
        let mut carrier = (carried + (norms * norm_gradient)?.sum_all()?)?;
        let mut loss = cross_entropy;
        if let (Some(whole), Some(mine)) = (margin.regulariser(&all_norms)?, margin.regulariser(norms)?) {
            loss += whole.to_dtype(DType::F64)?.to_scalar::<f64>()?;
            // A mean over this rank's embeddings, where the loss has the mean over all ranks'.
            carrier = (carrier + mine.affine(1.0 / self.collective.ranks() as f64, 0.0)?)?;
        }
        let gradient = RowGradient { values: gradient(&weight)?, rows: sampled };
        self.margin = margin;
        self.steps += 1;
        Ok(PartialStep { loss, carrier, gradient })
    }

    /// Moves the rows of a step's gradient; see [`ShardKernel::update`].
    ///
    /// # Errors
    /// As there.
    pub fn update(&mut self, gradient: &RowGradient, sgd: RowSgd) -> Result<(), HeadError> {
        self.kernel.update(gradient, sgd)
    }

    /// Gives classes other directions to begin with; see [`ShardKernel::set_rows`].
    ///
    /// # Errors
    /// As there.
    pub fn set_rows(&mut self, rows: &[u32], values: &Tensor) -> Result<(), HeadError> {
        self.kernel.set_rows(rows, values)
    }

    /// The kernel (dim, classes) of all ranks' classes, as [`ClassKernel`](super::ClassKernel) has it. All ranks call it.
    ///
    /// # Errors
    /// [`HeadError::Ranks`], [`HeadError::Tensor`].
    pub fn whole_kernel(&self) -> Result<Tensor, HeadError> {
        let rows = self.collective.gather(&self.kernel.weight()?)?;
        Ok(rows.narrow(0, 0, self.kernel.shard().classes())?.t()?.contiguous()?)
    }

    /// What a checkpoint of this rank keeps, by name: `weight` and `momentum` of the shard (height, dim), `steps`, by which
    /// samples are drawn, and the margin's state. A run that is taken up again goes on to the bit.
    ///
    /// # Errors
    /// [`HeadError::Tensor`].
    pub fn buffers(&self) -> Result<HashMap<&'static str, Tensor>, HeadError> {
        let mut buffers = self.margin.buffers()?;
        buffers.insert(WEIGHT, self.kernel.weight()?);
        buffers.insert(MOMENTUM, self.kernel.momentum()?);
        buffers.insert(STEPS, Tensor::new(&[self.steps as f64], &Device::Cpu)?);
        Ok(buffers)
    }

    /// Takes over what a checkpoint of this rank kept. Names that the head does not know are left alone.
    ///
    /// # Errors
    /// [`HeadError::BadBuffer`] where a name is missing or what it has does not fit; nothing has changed then.
    pub fn load_buffers(&mut self, buffers: &HashMap<String, Tensor>) -> Result<(), HeadError> {
        let shape = [self.kernel.shard().height(), self.kernel.dim()];
        let tensor = |name: &'static str| {
            buffers.get(name).filter(|tensor| tensor.dims() == shape).ok_or(HeadError::BadBuffer(name))
        };
        let (weight, momentum) = (tensor(WEIGHT)?, tensor(MOMENTUM)?);
        let steps = number(buffers, STEPS)?;
        if steps < 0.0 || steps.fract() != 0.0 {
            return Err(HeadError::BadBuffer(STEPS));
        }
        let mut margin = self.margin.clone();
        margin.load_buffers(buffers)?;
        self.kernel.restore(weight, momentum)?;
        self.margin = margin;
        self.steps = steps as u64;
        Ok(())
    }

    /// The labels of all ranks. What is wrong with them, every rank finds, so that none waits for another.
    fn gather_labels(&self, labels: &Tensor) -> Result<Vec<usize>, HeadError> {
        let labels = labels.to_dtype(DType::I64)?;
        let counts = self.collective.gather(&Tensor::new(&[labels.elem_count() as i64], labels.device())?)?;
        let counts = counts.to_vec1::<i64>()?;
        if counts.iter().any(|count| *count != counts[0]) {
            return Err(HeadError::Ranks(format!("they bring batches of {counts:?}")));
        }
        let classes = self.kernel.shard().classes();
        let labels = self.collective.gather(&labels)?.to_vec1::<i64>()?;
        let class = |label: i64| usize::try_from(label).ok().filter(|class| *class < classes);
        labels.into_iter().map(|label| class(label).ok_or(HeadError::NoSuchClass { label, classes })).collect()
    }

    /// The rows that this step looks at, given those of the batch.
    fn sample(&self, rows: &[Option<u32>]) -> Vec<u32> {
        let shard = self.kernel.shard();
        let mut positives: Vec<u32> = rows.iter().copied().flatten().collect();
        positives.sort_unstable();
        positives.dedup();
        // One at least: a shard without any would have no largest logit.
        let quota = ((self.config.rate * shard.height() as f64) as usize).max(1);
        let stream = format!("rank {} step {}", self.collective.rank(), self.steps);
        sample::sample(shard.rows(), &positives, quota, &mut Random::named(self.config.seed, &stream))
    }
}
