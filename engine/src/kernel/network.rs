//! What networks on maps are put together from: values going in and out, and convolutions by name.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};
use candle_nn::VarBuilder;

use super::channelwise::Channelwise;
use super::contiguous;
use super::conv::{ConvSpec, Kind};
use super::convolution::{Convolution, Given, Other, Target};
use super::crew::{in_parallel, together};
use super::isa::Isa;
use super::map::{Bf16, Map, Pool};
use super::winograd::{Points, Winograd};

/// Runs a network over the values of a contiguous tensor as one operation of candle: what happens in between is not its
/// concern.
pub(crate) fn apply(name: &'static str, input: &Tensor, run: impl Run) -> Result<Tensor> {
    struct Whole<F>(&'static str, F);

    impl<F: Run> CustomOp1 for Whole<F> {
        fn name(&self) -> &'static str {
            self.0
        }

        fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
            let values = contiguous(self.0, storage, layout)?;
            let (values, shape) = together(|| (self.1)(values))?;
            Ok((CpuStorage::F32(values), shape))
        }
    }

    input.apply_op1_no_bwd(&Whole(name, run))
}

/// What [`apply`] runs: values in, values and their shape out.
pub(crate) trait Run: Fn(&[f32]) -> Result<(Vec<f32>, Shape)> + Send + Sync {}

impl<F: Fn(&[f32]) -> Result<(Vec<f32>, Shape)> + Send + Sync> Run for F {}

/// Planes (N, C, H, W) as a map.
pub(crate) fn enter(pool: &Arc<Pool>, planes: &[f32], shape: [usize; 4], frame: usize) -> Map<f32> {
    let [images, height, width, channels] = shape;
    let mut map = pool.map::<f32>(shape, frame);
    let to = map.by_row_mut();
    in_parallel(images * height, |first, end| {
        for index in first..end {
            let (image, row) = (index / height, index % height);
            // SAFETY: the row exists, and this job alone has it.
            let line = unsafe { to.row(index) };
            for channel in 0..channels {
                let from = &planes[((image * channels + channel) * height + row) * width..][..width];
                let pixels = line[channel..].iter_mut().step_by(channels);
                pixels.zip(from).for_each(|(to, from)| *to = *from);
            }
        }
    });
    map
}

/// A map as a tensor (N, H, W, C).
pub(crate) fn leave(map: &Map<f32>) -> Result<Tensor> {
    let mut values = Vec::with_capacity(map.shape().iter().product());
    for image in 0..map.images {
        map.lines(image).for_each(|line| values.extend_from_slice(line));
    }
    let [images, height, width, channels] = map.shape();
    Tensor::from_vec(values, (images, height, width, channels), &Device::Cpu)
}

/// A layer's output: f32, rounded to bf16, or both.
#[derive(Debug, Default)]
pub(crate) struct Activations {
    pub(crate) exact: Option<Map<f32>>,
    pub(crate) rounded: Option<Map<Bf16>>,
}

impl Activations {
    /// Where a layer's outputs go.
    pub(crate) fn target(&mut self) -> Target<'_> {
        Target { f32: self.exact.as_mut(), bf16: self.rounded.as_mut() }
    }

    /// The f32 form, for sums.
    pub(crate) fn exact(&self) -> Result<&Map<f32>> {
        self.exact.as_ref().ok_or_else(|| candle_core::Error::Msg("a map was only kept rounded".into()))
    }
}

/// Values that layers multiply, and which form of an output they need.
pub(crate) trait Operand: Points {
    /// The form that the next layer multiplies.
    fn of(activations: &Activations) -> Result<&Map<Self>>;

    /// Maps for an output that is multiplied and, if `summed`, also added to something.
    fn prepare(pool: &Arc<Pool>, shape: [usize; 4], frame: usize, summed: bool) -> Activations;
}

impl Operand for f32 {
    fn of(activations: &Activations) -> Result<&Map<f32>> {
        activations.exact()
    }

    fn prepare(pool: &Arc<Pool>, shape: [usize; 4], frame: usize, _: bool) -> Activations {
        Activations { exact: Some(pool.map(shape, frame)), rounded: None }
    }
}

impl Operand for Bf16 {
    fn of(activations: &Activations) -> Result<&Map<Bf16>> {
        let missing = || candle_core::Error::Msg("a map was not rounded".into());
        activations.rounded.as_ref().ok_or_else(missing)
    }

    fn prepare(pool: &Arc<Pool>, shape: [usize; 4], frame: usize, summed: bool) -> Activations {
        Activations { exact: summed.then(|| pool.map(shape, frame)), rounded: Some(pool.map(shape, frame)) }
    }
}

/// Tensors of a convolution by name.
#[derive(Debug)]
pub(crate) struct Tensors {
    weight: Vec<f32>,
    bias: Vec<f32>,
    slopes: Vec<f32>,
}

impl Tensors {
    /// Loads them.
    pub(crate) fn load(spec: &ConvSpec, vb: &VarBuilder) -> Result<Self> {
        let vb = vb.pp(&spec.name);
        Ok(Self {
            weight: vb.get(&spec.weight_shape(), "weight")?.flatten_all()?.to_vec1()?,
            bias: vb.get(spec.output, "bias")?.to_vec1()?,
            slopes: spec.slopes(&vb)?,
        })
    }

    /// As a convolution of every output from every input channel; `lead` scales and shifts its input.
    pub(crate) fn given<'a>(&'a self, spec: &ConvSpec, lead: Option<[&'a [f32]; 2]>) -> Given<'a> {
        Given {
            kernel: spec.kernel,
            stride: spec.stride,
            padding: spec.padding,
            input: spec.input,
            output: spec.output,
            weight: &self.weight,
            bias: &self.bias,
            slopes: self.slopes.iter().any(|slope| *slope != 1.0).then_some(&self.slopes[..]),
            lead,
        }
    }
}

/// A convolution in the form that suits its size.
#[derive(Debug)]
pub(crate) struct Layer<V: Points> {
    direct: Option<Convolution<V>>,
    winograd: Option<Winograd<V>>,
    output: usize,
    stride: usize,
}

/// Images from which on Winograd pays for maps of [`SMALL_SIDE`] and less, whose weights are read for few tiles each.
const MANY_IMAGES: usize = 4;
/// See [`MANY_IMAGES`].
const SMALL_SIDE: usize = 7;

impl<V: Operand> Layer<V> {
    /// Packs a convolution of maps of `side` by `side`; `filtered` lets Winograd's form be taken where it pays.
    pub(crate) fn new(given: &Given, side: usize, filtered: bool) -> Result<Self> {
        // In bf16 the products of narrow layers are made faster than the transforms around them.
        let narrow = V::PER_WORD > 1 && given.input <= 64;
        let filtered = filtered && !narrow && Winograd::<V>::fits(given);
        let winograd = filtered.then(|| Winograd::new(given)).transpose()?;
        let direct = winograd.is_none() || side <= SMALL_SIDE;
        let direct = direct.then(|| Convolution::new(given)).transpose()?;
        Ok(Self { direct, winograd, output: given.output, stride: given.stride })
    }

    /// Loads a convolution by name.
    pub(crate) fn load(
        spec: &ConvSpec,
        lead: Option<[&[f32]; 2]>,
        side: usize,
        filtered: bool,
        vb: &VarBuilder,
    ) -> Result<Self> {
        Self::new(&Tensors::load(spec, vb)?.given(spec, lead), side, filtered)
    }

    /// Shape of its output. Padding keeps the size but for the stride.
    pub(crate) fn shape(&self, [images, height, width, _]: [usize; 4]) -> [usize; 4] {
        [images, height.div_ceil(self.stride), width.div_ceil(self.stride), self.output]
    }

    /// Convolves a map; see [`Convolution::forward`].
    pub(crate) fn forward(&self, isa: Isa, x: &Map<V>, other: Option<Other>, to: Target) -> Result<()> {
        let few = x.images < MANY_IMAGES && x.height.max(x.width) <= SMALL_SIDE;
        match (&self.winograd, &self.direct) {
            (_, Some(direct)) if few => direct.forward(isa, x, other, to),
            (Some(winograd), _) => winograd.forward(isa, x, other, to),
            (None, Some(direct)) => direct.forward(isa, x, other, to),
            (None, None) => candle_core::bail!("a layer without weights"),
        }
    }
}

/// A convolution of a small network, in f32.
#[derive(Debug)]
pub(crate) enum Step {
    /// Every output from every input channel.
    Full(Convolution<f32>),
    /// One filter per channel.
    Channelwise(Channelwise),
}

impl Step {
    /// Loads one convolution.
    pub(crate) fn load(spec: &ConvSpec, vb: &VarBuilder) -> Result<Self> {
        Self::stacked(std::slice::from_ref(spec), vb)
    }

    /// Several convolutions of the same kind and size as one, their outputs side by side. Used for heads, which are too
    /// narrow each. Depthwise ones have inputs side by side too.
    pub(crate) fn stacked(specs: &[ConvSpec], vb: &VarBuilder) -> Result<Self> {
        let Some(first) = specs.first() else { candle_core::bail!("nothing to stack") };
        let mut all = Tensors { weight: vec![], bias: vec![], slopes: vec![] };
        for spec in specs {
            let Tensors { weight, bias, slopes } = Tensors::load(spec, vb)?;
            all.weight.extend(weight);
            all.bias.extend(bias);
            all.slopes.extend(slopes);
        }
        let spec = ConvSpec { output: all.bias.len(), ..first.clone() };
        let given = all.given(&spec, None);
        Ok(if first.kind == Kind::Depthwise {
            let Given { kernel, stride, padding, weight, bias, slopes, .. } = given;
            Self::Channelwise(Channelwise::new([kernel, stride], padding, weight, bias, slopes)?)
        } else {
            Self::Full(Convolution::new(&given)?)
        })
    }

    /// Zeros that it needs around its input.
    pub(crate) fn frame(&self) -> usize {
        match self {
            Self::Full(convolution) => convolution.frame(),
            Self::Channelwise(convolution) => convolution.frame(),
        }
    }

    /// Convolves a map into a new one with a frame, `other` added.
    pub(crate) fn forward(
        &self,
        isa: Isa,
        pool: &Arc<Pool>,
        x: &Map<f32>,
        other: Option<&Map<f32>>,
        frame: usize,
    ) -> Result<Map<f32>> {
        let shape = match self {
            Self::Full(convolution) => convolution.shape(x.shape())?,
            Self::Channelwise(convolution) => convolution.shape(x.shape())?,
        };
        let mut to = pool.map(shape, frame);
        let other = other.map(|map| Other { map, stride: 1 });
        let target = Target { f32: Some(&mut to), bf16: None };
        match self {
            Self::Full(convolution) => convolution.forward(isa, x, other, target)?,
            Self::Channelwise(convolution) => convolution.forward(isa, x, other, target)?,
        }
        Ok(to)
    }
}
