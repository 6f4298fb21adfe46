//! Crops to the input of a network on a GPU: a byte a value in one copy, arithmetic on the device.
//!
//! All crops of a batch lie in one buffer, 37 kB each, which is copied at once; planes, colour order and scale are made on the
//! device. Values are those that the CPU makes, bit for bit.
//!
//! The buffer is ordinary memory, which the driver copies through page-locked memory of its own. Page-locked memory of ours
//! would save that step, but candle makes tensors of ordinary memory only, and the call of cudarc that allocates the other
//! kind is unsafe. A batch of 256 is 9.6 MB.

use candle_core::{DType, Device, Result, Tensor};

use super::Manifest;
use super::manifest::Color;
use crate::align::{AlignedCrop, SIZE};

/// What turns bytes into values on a device.
#[derive(Debug)]
pub(super) struct Upload {
    device: Device,
    /// Blue first: the channels in that order.
    order: Option<Tensor>,
    mean: f64,
    scale: f64,
}

impl Upload {
    pub(super) fn new(manifest: &Manifest, device: &Device) -> Result<Self> {
        let order = match manifest.input.color {
            Color::Rgb => None,
            Color::Bgr => Some(Tensor::new(&[2u32, 1, 0], device)?),
        };
        let (mean, scale) = (f64::from(manifest.input.mean), f64::from(manifest.input.scale));
        Ok(Self { device: device.clone(), order, mean, scale })
    }

    /// (N, 3, 112, 112) of crops, each mirrored where asked.
    pub(super) fn pixels(&self, images: &[(&AlignedCrop, bool)]) -> Result<Tensor> {
        let side = SIZE as usize;
        let mut bytes = Vec::with_capacity(images.len() * side * side * 3);
        for (crop, mirrored) in images {
            let crop = crop.image().as_raw();
            if *mirrored {
                for row in crop.chunks_exact(3 * side) {
                    row.rchunks_exact(3).for_each(|pixel| bytes.extend_from_slice(pixel));
                }
            } else {
                bytes.extend_from_slice(crop);
            }
        }
        let pixels = Tensor::from_vec(bytes, (images.len(), side, side, 3), &self.device)?;
        let pixels = match &self.order {
            Some(order) => pixels.index_select(order, 3)?,
            None => pixels,
        };
        let pixels = pixels.permute((0, 3, 1, 2))?.contiguous()?.to_dtype(DType::F32)?;
        // In two steps, each rounded once, as on the CPU.
        pixels.affine(1.0, -self.mean)?.affine(self.scale, 0.0)
    }
}
