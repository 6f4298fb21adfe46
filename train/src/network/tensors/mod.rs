//! Networks in training on candle's tensors: what runs on a GPU, in f32 or bf16, and on the CPU to check it, in f64 too.
//!
//! The units, parameters and formulas are those of the kernels; what differs is where the products are made. Each
//! gradient is written out here in operations that are fast on a GPU: candle's own backward pass is not used, as it
//! makes the gradient of a convolution's input by a loop over taps and keeps every map between.
//!
//! | | forward | gradient |
//! |---|---|---|
//! | convolution ([`conv`]) | cuDNN | of the input: cuDNN, with turned weights; of the weights: cuBLAS, a product a tap |
//! | normalisation, PReLU ([`norm`]) | sums and maps of candle | the same |
//!
//! Parameters are kept on the device, in f32 or, to check, in f64. With bf16, what convolutions and the linear layer take
//! and give is bf16, sums and everything between are f32, and so are gradients and what they are added to. bf16 has the
//! exponents of f32, so small gradients do not vanish and the loss is not scaled.
//!
//! Nothing here is for GPUs only. Bits depend on the device: cuBLAS and cuDNN do not promise an order of sums.

mod conv;
#[cfg(test)]
mod full;
mod norm;
mod unit;

use candle_core::{DType, Device, Tensor};

use super::NetworkError;
use super::parameters::{Gradients, Parameters};
use super::unit::{Pass, Unit};
pub(super) use unit::Kept;

/// What is computed in what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Types {
    /// What convolutions take and give.
    maps: DType,
    /// Parameters, statistics, gradients of parameters, and maps on their way through normalisation and activation.
    sums: DType,
}

/// Which copy of the parameters was changed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Newer {
    Neither,
    Host,
    Device,
}

/// The parameters of a network on a device.
#[derive(Debug)]
pub(super) struct Tensors {
    device: Device,
    types: Types,
    /// By place, in the type of sums.
    values: Vec<Tensor>,
    newer: Newer,
}

impl Tensors {
    pub(super) fn new(device: &Device, dtype: DType) -> Result<Self, NetworkError> {
        let types = match dtype {
            DType::F32 | DType::F64 => Types { maps: dtype, sums: dtype },
            DType::BF16 => Types { maps: dtype, sums: DType::F32 },
            _ => return Err(NetworkError::Precision(dtype)),
        };
        Ok(Self { device: device.clone(), types, values: Vec::new(), newer: Newer::Host })
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// Says that the host's parameters were changed.
    pub(super) fn stale(&mut self) {
        self.newer = Newer::Host;
    }

    /// Brings the host's parameters onto the device where they were changed last.
    pub(super) fn upload(&mut self, parameters: &Parameters) -> Result<(), NetworkError> {
        if self.newer != Newer::Host {
            return Ok(());
        }
        let tensor = |parameter: &super::Parameter| -> candle_core::Result<Tensor> {
            let tensor = Tensor::from_slice(&parameter.values, parameter.shape(), &Device::Cpu)?;
            tensor.to_dtype(self.types.sums)?.to_device(&self.device)
        };
        self.values = parameters.iter().map(tensor).collect::<candle_core::Result<_>>()?;
        self.newer = Newer::Neither;
        Ok(())
    }

    /// Brings the device's parameters to the host where they were changed last.
    pub(super) fn fetch(&mut self, parameters: &mut Parameters) -> Result<(), NetworkError> {
        if self.newer != Newer::Device {
            return Ok(());
        }
        for (parameter, tensor) in parameters.iter_mut().zip(&self.values) {
            parameter.values = host(tensor)?;
        }
        self.newer = Newer::Neither;
        Ok(())
    }

    /// Changes the value of a parameter.
    pub(super) fn set(&mut self, place: usize, value: Tensor) {
        self.values[place] = value;
        self.newer = Newer::Device;
    }

    pub(super) fn value(&self, place: usize) -> &Tensor {
        &self.values[place]
    }

    /// A value for each channel, (1, C, 1, 1).
    fn channels(&self, place: usize) -> candle_core::Result<Tensor> {
        self.values[place].reshape((1, (), 1, 1))
    }

    /// Adds to a parameter's gradient.
    fn add(&self, gradients: &mut Gradients, place: usize, gradient: &Tensor) -> candle_core::Result<()> {
        gradients.add_tensor(place, &gradient.reshape(self.values[place].shape())?)
    }

    /// Crops (N, 3, H, W) on the device.
    pub(super) fn enter(&self, pixels: &Tensor) -> candle_core::Result<Tensor> {
        pixels.to_device(&self.device)?.to_dtype(self.types.maps)?.contiguous()
    }

    /// All units over a map (N, C, H, W). What the first `frozen` ones keep is left out. The output is in the type of sums.
    pub(super) fn run(
        &mut self,
        units: &[Unit],
        frozen: usize,
        mut x: Tensor,
        pass: Pass,
    ) -> Result<(Tensor, Vec<Kept>), NetworkError> {
        let mut kept = Vec::with_capacity(units.len());
        for (index, unit) in units.iter().enumerate() {
            let is_frozen = index < frozen;
            let pass = if is_frozen { Pass::TRAINED } else { pass };
            let (output, of_unit) = unit.forward_tensors(self, x, pass)?;
            if !is_frozen {
                kept.push(of_unit);
            }
            x = if index + 1 == units.len() { output } else { output.to_dtype(self.types.maps)? };
        }
        Ok((x, kept))
    }

    /// All units without keeping anything.
    pub(super) fn embed(&mut self, units: &[Unit], x: Tensor) -> Result<Tensor, NetworkError> {
        Ok(self.run(units, units.len(), x, Pass::TRAINED)?.0)
    }

    /// Adds the gradients of all units that have kept something, from that of the output.
    pub(super) fn run_back(
        &self,
        units: &[Unit],
        kept: Vec<Kept>,
        gradient: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<(), NetworkError> {
        let first = units.len() - kept.len();
        // It comes out of the head's backward pass, of which candle would keep a record in all that is made from it: in weights,
        // momenta and so in every map of every step to come.
        let mut gradient = gradient.detach().to_device(&self.device)?.to_dtype(self.types.sums)?;
        for (index, kept) in kept.into_iter().enumerate().rev() {
            match units[first + index].backward_tensors(self, kept, gradient, gradients, index > 0)? {
                Some(of_input) => gradient = of_input,
                None => break,
            }
        }
        Ok(())
    }
}

/// The values of a tensor as the host keeps them.
pub(super) fn host(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()
}
