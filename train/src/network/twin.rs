//! Units, on the kernels and on tensors, against the same in candle's own operations, in double precision, with candle's
//! gradients.

use std::cell::Cell;
use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor, Var};
use vultus_engine::kernel::conv::{Activation, ConvSpec, Kind};
use vultus_engine::model::Architecture;
use vultus_engine::model::ir::Design;
use vultus_engine::model::mobilefacenet::Step;
use vultus_engine::random::Random;

use super::layout::Builder;
use super::parameters::{Gradients, Parameters};
use super::tensors::Tensors;
use super::unit::{BatchNorm, Fused, Pass, Shortcut, Unit};
use super::{Network, Settings};
use vultus_engine::kernel::training::Workspace;

/// Parameters as variables, by place.
struct Twin {
    vars: HashMap<usize, Var>,
    of_batch: bool,
    /// The smallest magnitude that went into a PReLU.
    nearest: Cell<f64>,
}

impl Twin {
    fn new(parameters: &Parameters, of_batch: bool) -> Self {
        let var = |(place, one): (usize, &super::Parameter)| {
            let values: Vec<f64> = one.values.iter().map(|value| f64::from(*value)).collect();
            (place, Var::from_vec(values, one.shape(), &Device::Cpu).unwrap())
        };
        let vars = parameters.iter().enumerate().map(var).collect();
        Self { vars, of_batch, nearest: Cell::new(f64::MAX) }
    }

    fn channels(&self, place: usize) -> Result<Tensor> {
        self.vars[&place].as_tensor().reshape((1, (), 1, 1))
    }

    fn norm(&self, norm: &BatchNorm, x: &Tensor) -> Result<Tensor> {
        let (mean, variance) = if self.of_batch {
            let over = |x: &Tensor| x.mean_keepdim(0)?.mean_keepdim(2)?.mean_keepdim(3);
            let mean = over(x)?;
            let variance = over(&x.broadcast_sub(&mean)?.sqr()?)?;
            (mean, variance)
        } else {
            (self.channels(norm.running[0])?.detach(), self.channels(norm.running[1])?.detach())
        };
        let hat = x.broadcast_sub(&mean)?.broadcast_div(&(variance + 1e-5)?.sqrt()?)?;
        match norm.affine {
            Some([weight, bias]) => hat.broadcast_mul(&self.channels(weight)?)?.broadcast_add(&self.channels(bias)?),
            None => Ok(hat),
        }
    }

    fn fused(&self, fused: &Fused, x: &Tensor) -> Result<Tensor> {
        let geometry = &fused.geometry;
        let [before, after] = geometry.padding;
        let x = x.pad_with_zeros(2, before, after)?.pad_with_zeros(3, before, after)?;
        let groups = if geometry.channelwise { geometry.input } else { 1 };
        let weight = self.vars[&fused.weight].as_tensor().reshape(geometry.weight_shape().as_slice())?;
        let mut y = x.conv2d(&weight, 0, geometry.stride, 1, groups)?;
        if let Some(bias) = fused.bias {
            y = y.broadcast_add(&self.channels(bias)?)?;
        }
        let z = self.norm(&fused.norm, &y)?;
        if fused.slopes.is_some() {
            self.nearest.set(self.nearest.get().min(z.abs()?.min_all()?.to_scalar::<f64>()?));
        }
        match fused.slopes {
            Some(slopes) => z.relu()? - z.neg()?.relu()?.broadcast_mul(&self.channels(slopes)?)?,
            None => Ok(z),
        }
    }

    fn unit(&self, unit: &Unit, x: &Tensor) -> Result<Tensor> {
        let lead = unit.lead.as_ref().map_or(Ok(x.clone()), |lead| self.norm(lead, x))?;
        let inner = unit.convolutions.iter().try_fold(lead, |x, fused| self.fused(fused, &x))?;
        match &unit.shortcut {
            Shortcut::None => Ok(inner),
            Shortcut::Projected(projected) => inner + self.fused(projected, x)?,
            Shortcut::Skip { stride } => {
                let every = |side: usize| {
                    let at: Vec<u32> = (0..side as u32).step_by(*stride).collect();
                    Tensor::new(at, &Device::Cpu)
                };
                let (_, _, height, width) = x.dims4()?;
                inner + x.index_select(&every(height)?, 2)?.index_select(&every(width)?, 3)?
            }
        }
    }
}

/// Numbers around 0, and what the rest of a network might ask of an output.
fn random(seed: u64, count: usize) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..count).map(|_| random.normal() as f32).collect()
}

/// Compares outputs and gradients of some units for an input (N, H, W, C).
fn compare(what: &str, units: Vec<Unit>, mut parameters: Parameters, shape: [usize; 4], constant_statistics: bool) {
    parameters.start(1);
    let mut draw = Random::new(2);
    for parameter in parameters.iter_mut().filter(|parameter| parameter.shape().len() == 1) {
        let name = parameter.name().to_owned();
        for value in &mut parameter.values {
            *value += draw.uniform(if name.ends_with("var") { 0.0 } else { -0.3 }, 0.3) as f32;
        }
    }
    let settings = Settings { dropout: false, constant_statistics, frozen: 0 };
    let workspace = Workspace::default();
    let mut network =
        Network { architecture: Architecture::Ir18, dim: 0, units, parameters, workspace, tensors: None, settings };
    let twin = Twin::new(&network.parameters, !constant_statistics);
    let [images, height, width, channels] = shape;
    // Single and double precision may be on different sides of a PReLU's kink, and then have different gradients.
    let of_seed = |seed: u64| {
        let planes = random(seed, shape.iter().product());
        let x = Tensor::from_slice(&planes, (images, channels, height, width), &Device::Cpu).unwrap();
        let x = x.to_dtype(DType::F64).unwrap();
        twin.nearest.set(f64::MAX);
        let expected = network.units.iter().fold(x, |x, unit| twin.unit(unit, &x).unwrap());
        (twin.nearest.get() > 1e-5).then_some((planes, expected))
    };
    let (planes, expected) = (3..20).find_map(of_seed).unwrap();

    let before = network.parameters.clone();
    let pass = Pass { of_batch: !constant_statistics, seed: None };
    let frame = network.units[0].frame();
    let x = network.workspace.planes(&planes, shape, frame).unwrap();
    let (output, kept) = network.run(x, pass).unwrap();
    let of_output = random(4, output.shape().iter().product());
    let gradient = network.workspace.planes(&of_output, output.shape(), 0).unwrap();
    let mut gradients = Gradients::zeros(&network.parameters);
    network.run_back(kept, gradient, &mut gradients).unwrap();

    let of_output = Tensor::from_vec(of_output, expected.shape(), &Device::Cpu).unwrap();
    let loss = (&expected * of_output.to_dtype(DType::F64).unwrap()).unwrap().sum_all().unwrap();
    let grads = loss.backward().unwrap();
    let get = |place: usize| grads.get(&twin.vars[&place]).map(values);
    let by_pixel = |planes: &Tensor| values(&planes.permute((0, 2, 3, 1)).unwrap());
    let found = Found {
        output: output.to_vec().into_iter().map(f64::from).collect(),
        gradients: gradients.iter().map(|of| of.iter().map(|value| f64::from(*value)).collect()).collect(),
        running: network.parameters.iter().map(|one| one.values.clone()).collect(),
    };
    let expected_output = by_pixel(&expected);
    let kernels = found.far(&network.parameters, &expected_output, get);
    assert!(kernels < 1e-4, "{what} on the kernels: {kernels}");

    for (dtype, limit) in [(DType::F64, 1e-9), (DType::F32, 1e-4)] {
        let mut tensors = Tensors::new(&Device::Cpu, dtype).unwrap();
        tensors.upload(&before).unwrap();
        let x = Tensor::from_slice(&planes, (images, channels, height, width), &Device::Cpu).unwrap();
        let x = tensors.enter(&x).unwrap();
        let (output, kept) = tensors.run(&network.units, 0, x, pass).unwrap();
        let mut gradients = Gradients::on_tensors(&before);
        tensors.run_back(&network.units, kept, &of_output, &mut gradients).unwrap();
        let mut after = before.clone();
        tensors.fetch(&mut after).unwrap();
        let of_tensors = Found {
            output: by_pixel(&output),
            gradients: gradients.tensors().iter().map(|of| of.as_ref().map_or(Vec::new(), values)).collect(),
            running: after.iter().map(|one| one.values.clone()).collect(),
        };
        let error = of_tensors.far(&before, &expected_output, get);
        let running = of_tensors.statistics_far(&found);
        println!("{what}: kernels {kernels:.1e}, tensors in {} {error:.1e}, running {running:.1e}", dtype.as_str());
        assert!(error < limit && running < 1e-5, "{what} on tensors in {}: {error:e} {running:e}", dtype.as_str());
    }
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// What one way of computing came to.
struct Found {
    /// (N, H, W, C).
    output: Vec<f64>,
    /// By place.
    gradients: Vec<Vec<f64>>,
    /// Parameters after the forward pass, by place.
    running: Vec<Vec<f32>>,
}

impl Found {
    /// The largest error of the output and of any gradient, each as a share of the largest value of its tensor.
    fn far(&self, parameters: &Parameters, output: &[f64], gradient: impl Fn(usize) -> Option<Vec<f64>>) -> f64 {
        let far = |found: &[f64], expected: &[f64], size: f64| {
            assert_eq!(found.len(), expected.len());
            found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f64::max) / size
        };
        let most = |values: &[f64]| values.iter().fold(0f64, |most, value| most.max(value.abs()));
        let (mut worst, mut largest) = (far(&self.output, output, most(output)), 0f64);
        for (place, parameter) in parameters.iter().enumerate().filter(|(_, one)| one.is_trained()) {
            let expected = gradient(place).unwrap();
            largest = largest.max(most(&expected));
            // Biases ahead of a normalisation have none, beside those of their neighbours.
            let size = most(&expected).max(1e-2 * largest);
            let found = &self.gradients[place];
            if found.is_empty() {
                assert!(most(&expected) < 1e-9 * largest, "{} has no gradient", parameter.name());
                continue;
            }
            worst = worst.max(far(found, &expected, size));
        }
        worst
    }

    /// The largest difference of a running statistic.
    fn statistics_far(&self, other: &Self) -> f64 {
        let pairs = self.running.iter().flatten().zip(other.running.iter().flatten());
        pairs.map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
    }
}

/// A unit of each kind of improved residual networks, after an input layer.
#[test]
fn residual_units() {
    let mut designs = vec![("basic", Design::basic([2, 1, 0, 0])), ("bottleneck", Design::bottleneck([2, 1, 0, 0]))];
    for (what, design) in designs.drain(..) {
        for constant_statistics in [false, true] {
            let mut builder = Builder::default();
            let (lead, convolutions) = builder.sequence(&design.input()).unwrap();
            let mut units = vec![Unit { lead, dropout: false, convolutions, shortcut: Shortcut::None }];
            for unit in design.body() {
                let shortcut = match builder.sequence(&unit.shortcut).unwrap().1.pop() {
                    Some(projection) => Shortcut::Projected(projection),
                    None => Shortcut::Skip { stride: unit.stride },
                };
                let (lead, convolutions) = builder.sequence(&unit.residual).unwrap();
                units.push(Unit { lead, dropout: false, convolutions, shortcut });
            }
            compare(what, units, builder.parameters, [2, 10, 14, 3], constant_statistics);
        }
    }
}

/// Convolutions of each kind of a MobileFaceNet, with both kinds of padding.
#[test]
fn mobile_units() {
    for padding in [[0, 1], [1, 1]] {
        let convolution = |name: &str, kind, [input, output]: [usize; 2], [kernel, stride]: [usize; 2], padding| {
            let activation = if kind == Kind::Pointwise { Activation::None } else { Activation::PRelu };
            ConvSpec { name: name.into(), kind, input, output, kernel, stride, padding, activation }
        };
        let step = |name: &str, convolutions, residual| Step { name: name.into(), convolutions, residual };
        let bottleneck = |name: &str, stride| {
            let part = |part: &str| format!("{name}.{part}");
            let padding = if stride == 2 { padding } else { [1, 1] };
            vec![
                convolution(&part("expand"), Kind::Full, [12, 20], [1, 1], [0, 0]),
                convolution(&part("dw"), Kind::Depthwise, [20, 20], [3, stride], padding),
                convolution(&part("project"), Kind::Pointwise, [20, 12], [1, 1], [0, 0]),
            ]
        };
        let steps = vec![
            step("conv1", vec![convolution("conv1", Kind::Full, [3, 12], [3, 2], padding)], false),
            step("dw1", vec![convolution("dw1", Kind::Depthwise, [12, 12], [3, 1], [1, 1])], false),
            step("a", bottleneck("a", 2), false),
            step("b", bottleneck("b", 1), true),
            step("gdc", vec![convolution("gdc", Kind::Depthwise, [12, 12], [4, 1], [0, 0])], false),
            step("head", vec![convolution("head", Kind::Pointwise, [12, 9], [1, 1], [0, 0])], false),
        ];
        for constant_statistics in [false, true] {
            let mut builder = Builder::default();
            let units = builder.mobile(steps.clone()).unwrap();
            compare("mobile", units, builder.parameters, [4, 16, 16, 3], constant_statistics);
        }
    }
}
