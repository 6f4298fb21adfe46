//! YuNet 2023mar (Wu, Peng and Yu, 2023), a face detector with 53 thousand parameters.
//!
//! Input is BGR, 0 to 255, height and width multiples of 32. Its unit, `pair`, is a 1x1 convolution followed by a
//! 3x3 depthwise one, with an activation after the second only. The two must not be merged: the zero padding acts on
//! the output of the first, bias included.

mod kernels;
mod stock;

use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;
use image::RgbImage;

use crate::kernel::conv::{Activation, Arithmetic, ConvSpec, Kind, StockConv};
use crate::kernel::gpu::GpuConv;
use crate::kernel::isa::Isa;

/// Pixels per cell of the three outputs.
pub const STRIDES: [usize; 3] = [8, 16, 32];
/// Height and width of an input are multiples of this.
pub const MULTIPLE: usize = 32;
/// The heads at each stride with their channels, in the order of [`super::decode`].
pub(crate) const HEADS: [(&str, usize); 4] = [("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)];
/// Name, input and output channels of a unit.
pub(crate) type Unit = (&'static str, usize, usize);
/// The two units of each stage of the backbone.
pub(crate) const STAGES: [(&str, [Unit; 2]); 5] = [
    ("stage1", [("unit1", 16, 16), ("unit2", 16, 32)]),
    ("stage2", [("unit1", 32, 32), ("unit2", 32, 64)]),
    ("stage3", [("unit1", 64, 64), ("unit2", 64, 64)]),
    ("stage4", [("unit1", 64, 64), ("unit2", 64, 64)]),
    ("stage5", [("unit1", 64, 64), ("unit2", 64, 64)]),
];

/// The first convolution.
pub(crate) fn stem() -> ConvSpec {
    ConvSpec {
        name: "backbone.stem.conv".into(),
        kind: Kind::Full,
        input: 3,
        output: 16,
        kernel: 3,
        stride: 2,
        padding: [1, 1],
        activation: Activation::Relu,
    }
}

/// A 1x1 convolution and the 3x3 depthwise one after it.
pub(crate) fn pair(name: &str, input: usize, output: usize, activation: Activation) -> [ConvSpec; 2] {
    [
        ConvSpec::pointwise(format!("{name}.pw"), input, output, Activation::None),
        ConvSpec::depthwise(format!("{name}.dw"), output, activation),
    ]
}

/// Names and shapes of all tensors.
pub(crate) fn tensors() -> Vec<(String, Vec<usize>)> {
    let relu = Activation::Relu;
    let mut specs = vec![stem()];
    specs.extend(pair("backbone.stem.unit", 16, 16, relu));
    for (stage, units) in STAGES {
        for (unit, input, output) in units {
            specs.extend(pair(&format!("backbone.{stage}.{unit}"), input, output, relu));
        }
    }
    for stride in STRIDES {
        specs.extend(pair(&format!("neck.lateral{stride}"), 64, 64, relu));
        for (head, channels) in HEADS {
            specs.extend(pair(&format!("head.{head}{stride}"), 64, channels, Activation::None));
        }
    }
    specs.iter().flat_map(ConvSpec::tensors).collect()
}

/// The network with its weights.
#[derive(Debug)]
pub struct YuNet {
    device: Device,
    network: Network,
}

#[derive(Debug)]
enum Network {
    Kernels(Box<kernels::Network>),
    Stock(Box<stock::Network<StockConv>>),
    Gpu(Box<stock::Network<GpuConv>>),
}

impl YuNet {
    /// Builds the network from tensors that have been checked against `tensors`.
    pub fn new(vb: &VarBuilder, device: &Device, arithmetic: Arithmetic) -> Result<Self> {
        let network = match arithmetic {
            Arithmetic::Kernels if !device.is_cpu() => candle_core::bail!("the kernels run on the CPU only"),
            Arithmetic::Kernels => Network::Kernels(Box::new(kernels::Network::load(vb, Isa::current())?)),
            Arithmetic::Stock => Network::Stock(Box::new(stock::Network::load(vb)?)),
            Arithmetic::Gpu => Network::Gpu(Box::new(stock::Network::load(vb)?)),
        };
        Ok(Self { device: device.clone(), network })
    }

    /// Whether it computes on the processor.
    pub(crate) fn is_on_cpu(&self) -> bool {
        self.device.is_cpu()
    }

    /// The input for photos of one size: (N, 3, H, W), zeros below and to the right.
    pub fn input(&self, photos: &[&RgbImage]) -> Result<Tensor> {
        let Some(first) = photos.first() else { candle_core::bail!("no photo") };
        let (width, height) = (first.width() as usize, first.height() as usize);
        let (columns, rows) = (width.next_multiple_of(MULTIPLE), height.next_multiple_of(MULTIPLE));
        let plane = rows * columns;
        let mut values = vec![0f32; photos.len() * 3 * plane];
        for (photo, planes) in photos.iter().zip(values.chunks_exact_mut((3 * plane).max(1))) {
            if photo.dimensions() != first.dimensions() {
                candle_core::bail!("photos of one forward pass have the same size")
            }
            let (blue, rest) = planes.split_at_mut(plane);
            let (green, red) = rest.split_at_mut(plane);
            for (row, line) in photo.as_raw().chunks_exact((3 * width).max(1)).enumerate() {
                let at = row * columns..row * columns + width;
                let targets = red[at.clone()].iter_mut().zip(&mut green[at.clone()]).zip(&mut blue[at]);
                for (((red, green), blue), rgb) in targets.zip(line.chunks_exact(3)) {
                    (*red, *green, *blue) = (f32::from(rgb[0]), f32::from(rgb[1]), f32::from(rgb[2]));
                }
            }
        }
        Tensor::from_vec(values, (photos.len(), 3, rows, columns), &self.device)
    }

    /// The raw heads at strides 8, 16, 32: (N, H / stride, W / stride, 16), in the order of [`super::decode`], before
    /// the sigmoid.
    pub fn forward(&self, input: &Tensor) -> Result<[Tensor; 3]> {
        match &self.network {
            Network::Kernels(network) => network.forward(input, None),
            Network::Stock(network) => network.forward(input, &mut |_, _| Ok(())),
            Network::Gpu(network) => network.forward(input, &mut |_, _| Ok(())),
        }
    }

    /// As [`YuNet::forward`], with the output of each stage (N, C, H, W) given to `tap` by name.
    #[cfg(test)]
    pub(crate) fn forward_tapped(
        &self,
        input: &Tensor,
        tap: &mut dyn FnMut(&str, &Tensor) -> Result<()>,
    ) -> Result<[Tensor; 3]> {
        match &self.network {
            Network::Kernels(network) => {
                network.forward(input, Some(&mut |name, x| tap(name, &x.permute((0, 3, 1, 2))?)))
            }
            Network::Stock(network) => network.forward(input, tap),
            Network::Gpu(network) => network.forward(input, tap),
        }
    }
}
