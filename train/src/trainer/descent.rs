//! The optimiser of a learner, where its network's parameters are.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::TrainError;
use super::learner::NETWORK;
use crate::head::{ClassKernel, RowSgd};
use crate::network::{Gradients, Network};
use crate::optimise::{Sgd, SgdConfig, TensorSgd, Update, length, tensor_length};

/// The class kernel's name.
const KERNEL: &str = "head.kernel";

/// Stochastic gradient descent, on the host's buffers or on tensors.
#[derive(Debug)]
pub(super) enum Descent {
    Host(Sgd),
    Tensors(TensorSgd),
}

/// Rate of a step, and what its gradients are multiplied by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stride {
    pub(super) rate: f64,
    pub(super) scale: f64,
}

impl Descent {
    /// For a network as it runs.
    pub(super) fn new(network: &Network, config: SgdConfig) -> Result<Self, TrainError> {
        Ok(if network.is_on_tensors() {
            Self::Tensors(TensorSgd::new(config, network.device())?)
        } else {
            Self::Host(Sgd::new(config)?)
        })
    }

    /// The length of all gradients together, those of the network and that of classes.
    pub(super) fn length(&self, gradients: &Gradients, of_classes: Option<&Tensor>) -> Result<f64, TrainError> {
        Ok(match self {
            Self::Host(_) => {
                let of_classes = of_classes.map_or(Ok(Vec::new()), host)?;
                length(gradients.iter().chain([of_classes.as_slice()]))
            }
            Self::Tensors(_) => tensor_length(gradients.tensors().iter().flatten().chain(of_classes))?,
        })
    }

    /// Changes the network.
    pub(super) fn step(
        &mut self,
        network: &mut Network,
        gradients: &Gradients,
        Stride { rate, scale }: Stride,
    ) -> Result<(), TrainError> {
        let update = |decays| Update { rate, decays, scale };
        let name_of = |name: &str| format!("{NETWORK}{name}");
        match self {
            Self::Host(sgd) => {
                for (parameter, gradient) in network.parameters_mut().iter_mut().zip(gradients.iter()) {
                    if parameter.is_trained() {
                        let (name, update) = (name_of(parameter.name()), update(parameter.decays()));
                        sgd.update(&name, &mut parameter.values, gradient, update)?;
                    }
                }
                Ok(())
            }
            Self::Tensors(sgd) => network.change_tensors(gradients, |parameter, value, gradient| {
                Ok(sgd.update(&name_of(parameter.name()), value, gradient, update(parameter.decays()))?)
            }),
        }
    }

    /// Changes the class kernel.
    pub(super) fn step_kernel(
        &mut self,
        kernel: &ClassKernel,
        gradient: &Tensor,
        Stride { rate, scale }: Stride,
    ) -> Result<(), TrainError> {
        let (var, update) = (kernel.var(), Update { rate, decays: true, scale });
        let value = match self {
            Self::Host(sgd) => {
                let mut values = host(var)?;
                sgd.update(KERNEL, &mut values, &host(gradient)?, update)?;
                Tensor::from_vec(values, var.shape(), &Device::Cpu)?
            }
            Self::Tensors(sgd) => sgd.update(KERNEL, &var.as_detached_tensor(), gradient, update)?,
        };
        Ok(var.set(&value)?)
    }

    /// How sampled rows of classes follow their gradient, which is to be scaled first: their momentum is kept beside them.
    pub(super) fn of_rows(&self, Stride { rate, .. }: Stride) -> RowSgd {
        let SgdConfig { momentum, weight_decay } = match self {
            Self::Host(sgd) => sgd.config(),
            Self::Tensors(sgd) => sgd.config(),
        };
        RowSgd { rate, momentum, weight_decay }
    }

    pub(super) fn momenta(&self) -> Result<BTreeMap<String, Vec<f32>>, TrainError> {
        Ok(match self {
            Self::Host(sgd) => sgd.momenta().clone(),
            Self::Tensors(sgd) => sgd.momenta()?,
        })
    }

    pub(super) fn set_momenta(&mut self, momenta: BTreeMap<String, Vec<f32>>) -> Result<(), TrainError> {
        match self {
            Self::Host(sgd) => sgd.set_momenta(momenta),
            Self::Tensors(sgd) => sgd.set_momenta(momenta)?,
        }
        Ok(())
    }
}

fn host(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()
}
