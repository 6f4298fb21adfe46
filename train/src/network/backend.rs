//! What a network runs on: the engine's kernels, or tensors on a device.

use candle_core::{DType, Device, Tensor};

use super::tensors::Tensors;
use super::{Gradients, Network, NetworkError, Parameter};

impl Network {
    /// Runs it on candle's tensors on a device from now on, in place of the kernels: products in `dtype`, f32 or bf16, and
    /// everything else in f32; or all of it in f64, to check the others. The parameters move to the device:
    /// [`Self::fetch`] brings them back.
    ///
    /// # Errors
    /// [`NetworkError::Precision`].
    pub fn use_tensors(&mut self, device: &Device, dtype: DType) -> Result<(), NetworkError> {
        self.tensors = Some(Tensors::new(device, dtype)?);
        Ok(())
    }

    /// Whether it runs on tensors.
    pub fn is_on_tensors(&self) -> bool {
        self.tensors.is_some()
    }

    /// Where it runs, and where [`Self::forward`] leaves embeddings.
    pub fn device(&self) -> &Device {
        self.tensors.as_ref().map_or(&Device::Cpu, Tensors::device)
    }

    /// Brings the parameters of a network on tensors to where [`Self::parameters`] finds them. Does nothing on the kernels.
    ///
    /// # Errors
    /// [`NetworkError::Tensor`].
    pub fn fetch(&mut self) -> Result<(), NetworkError> {
        self.tensors.as_mut().map_or(Ok(()), |tensors| tensors.fetch(&mut self.parameters))
    }

    /// Gradients of zero, for [`Self::backward`].
    pub fn gradients(&self) -> Gradients {
        match self.tensors {
            Some(_) => Gradients::on_tensors(&self.parameters),
            None => Gradients::zeros(&self.parameters),
        }
    }

    /// Gives each trained parameter of a network on tensors what `change` makes of it, of its value there and its gradient.
    ///
    /// # Errors
    /// Those of `change`; parameters before it have changed then.
    pub(crate) fn change_tensors<E: From<candle_core::Error>>(
        &mut self,
        gradients: &Gradients,
        mut change: impl FnMut(&Parameter, &Tensor, &Tensor) -> Result<Tensor, E>,
    ) -> Result<(), E> {
        let Some(tensors) = &mut self.tensors else { return Ok(()) };
        for (place, (parameter, gradient)) in self.parameters.iter().zip(gradients.tensors()).enumerate() {
            if parameter.is_trained() {
                let value = tensors.value(place);
                let changed = match gradient {
                    Some(gradient) => change(parameter, value, gradient)?,
                    // It decays all the same.
                    None => change(parameter, value, &value.zeros_like()?)?,
                };
                tensors.set(place, changed);
            }
        }
        Ok(())
    }
}
