//! Whole networks at full size: single precision on the kernels, and PyTorch's, against double precision on tensors.
//!
//! A gradient jumps where a PReLU's input passes 0. Of the millions that a network has, a few lie nearer to 0 than single
//! precision is exact to, and there it may take the other side. [`Flips`] finds those on which kernels and double precision
//! differ and has double precision take the kernels' side: what difference is left is that of the arithmetic.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};
use vultus_engine::kernel::training::Workspace;
use vultus_engine::model::Architecture;

use super::super::{Gradients, Network, Path, Tape};
use super::Kept;
use crate::head::{AdaFace, AdaFaceConfig, ClassKernel, MarginHead, loss, split_norm};

#[path = "../../../../engine/src/model/fill.rs"]
mod fill;

const LABELS: [u32; 4] = [1, 4, 1, 7];

/// A network with the weights of the reference values' rule.
fn filled(architecture: Architecture) -> Network {
    let mut network = Network::new(architecture, architecture.default_dim(), 0).unwrap();
    let table: Vec<(String, Vec<usize>)> =
        network.parameters().iter().map(|one| (one.name().to_owned(), one.shape().to_vec())).collect();
    network.load(&fill::weights(&table)).unwrap();
    network.set_dropout(false);
    network
}

/// Both pictures and, as the reference step has them, the first mirrored and one less the second.
fn batch(images: usize) -> Tensor {
    let both = fill::pictures();
    let mirrored = both.narrow(0, 0, 1).unwrap().flip(&[3]).unwrap();
    let inverted = both.narrow(0, 1, 1).unwrap().affine(-1.0, 1.0).unwrap();
    Tensor::cat(&[&both, &mirrored, &inverted], 0).unwrap().narrow(0, 0, images).unwrap()
}

/// The loss and the gradient of the embeddings, in their type.
fn head(raw: &Tensor) -> (f64, Tensor) {
    let (images, dim) = raw.dims2().unwrap();
    let directions: Vec<f64> = (0..10 * dim as u32).map(|index| 2.0 * fill::uniform(500, index) - 1.0).collect();
    let directions = Tensor::from_vec(directions, (dim, 10), &Device::Cpu).unwrap();
    let norms = directions.sqr().unwrap().sum_keepdim(0).unwrap().sqrt().unwrap();
    // Rounded as the reference has them.
    let kernel = directions.broadcast_div(&norms).unwrap().to_dtype(DType::F32).unwrap();
    let kernel = ClassKernel::new(&kernel.to_dtype(raw.dtype()).unwrap()).unwrap();
    let mut head = AdaFace::new(AdaFaceConfig::default(), kernel).unwrap();
    let labels = Tensor::new(&LABELS[..images], &Device::Cpu).unwrap();
    let raw = Var::from_tensor(raw).unwrap();
    let (unit, norms) = split_norm(&raw).unwrap();
    let loss = loss(&head.forward(&unit, &norms, &labels).unwrap(), &labels).unwrap();
    let of_raw = loss.backward().unwrap().get(&raw).unwrap().clone();
    (loss.to_dtype(DType::F64).unwrap().to_scalar().unwrap(), of_raw)
}

/// Gradients by place.
type All = Vec<Vec<f64>>;

/// A step in double precision, which can be gone back through again and again.
struct Truth {
    network: Network,
    kept: Vec<Kept>,
    of_raw: Tensor,
    loss: f64,
}

impl Truth {
    fn new(mut network: Network, pixels: &Tensor) -> Self {
        network.use_tensors(&Device::Cpu, DType::F64).unwrap();
        let (raw, tape) = network.forward(pixels, 0).unwrap();
        let (loss, of_raw) = head(&raw);
        let Tape(Path::Tensors { kept, .. }) = tape else { panic!("it is on tensors") };
        Self { network, kept, of_raw, loss }
    }

    fn gradients(&self, kept: &[Kept]) -> All {
        let tape = Tape(Path::Tensors { kept: kept.to_vec(), images: self.of_raw.dims()[0] });
        let mut gradients = self.network.gradients();
        self.network.backward(tape, &self.of_raw, &mut gradients).unwrap();
        let of = |name: &str| gradients.tensor(name).map_or(Vec::new(), numbers);
        self.network.parameters().iter().map(|parameter| of(parameter.name())).collect()
    }

    /// The input of the PReLU behind a convolution, (N, C, H, W).
    fn z(&self, [unit, convolution]: [usize; 2]) -> Tensor {
        let output = &self.kept[unit].outputs[convolution];
        output.norm.apply(&output.y).unwrap()
    }

    /// What would have been kept with other values at some places of such an input.
    fn with(&self, kept: &mut [Kept], [unit, convolution]: [usize; 2], z: &Tensor) {
        let output = &mut kept[unit].outputs[convolution];
        let scale = output.norm.scale().unwrap().reshape((1, (), 1, 1)).unwrap();
        let moved = (z - output.norm.apply(&output.y).unwrap()).unwrap().broadcast_div(&scale).unwrap();
        output.y = (&output.y + moved).unwrap();
    }

    fn activated(&self) -> Vec<[usize; 2]> {
        let units = self.network.units.iter().enumerate();
        let of_unit = units.flat_map(|(unit, units)| {
            let convolutions = units.convolutions.iter().enumerate();
            convolutions.filter(|(_, one)| one.slopes.is_some()).map(move |(at, _)| [unit, at])
        });
        of_unit.collect()
    }
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Values on whose sign single and double precision differ.
struct Flips {
    /// With the kernels' sides taken.
    kept: Vec<Kept>,
    count: usize,
    values: usize,
    /// The value farthest from 0 among them.
    farthest: f64,
    /// The layer that has the first.
    first: Option<[usize; 2]>,
}

impl Flips {
    fn new(truth: &Truth, kept: &[super::super::unit::Kept], workspace: &Workspace) -> Self {
        let mut flips = Self { kept: truth.kept.clone(), count: 0, values: 0, farthest: 0.0, first: None };
        for place @ [unit, convolution] in truth.activated() {
            let output = &kept[unit].outputs[convolution];
            let single = workspace.activate(&output.y, &output.norm, None, None, 0).unwrap();
            let [images, height, width, channels] = single.shape();
            let single = Tensor::from_vec(single.to_vec(), (images, height, width, channels), &Device::Cpu).unwrap();
            let single = single.permute((0, 3, 1, 2)).unwrap().to_dtype(DType::F64).unwrap().contiguous().unwrap();
            let double = truth.z(place);
            let (of_single, of_double) = (numbers(&single), numbers(&double));
            let differ = |(single, double): (&f64, &f64)| (*single > 0.0) != (*double > 0.0);
            let found = of_single.iter().zip(&of_double).filter(|pair| differ(*pair)).count();
            flips.values += of_double.len();
            if found == 0 {
                continue;
            }
            flips.count += found;
            flips.first.get_or_insert(place);
            let pairs = of_single.iter().zip(&of_double).filter(|pair| differ(*pair));
            flips.farthest = pairs.fold(flips.farthest, |most, (_, double)| most.max(double.abs()));
            let taken = of_single.iter().zip(&of_double);
            let taken = taken.map(|pair| if differ(pair) { *pair.0 } else { *pair.1 }).collect::<Vec<_>>();
            truth.with(&mut flips.kept, place, &Tensor::from_vec(taken, double.shape(), &Device::Cpu).unwrap());
        }
        flips
    }
}

/// The largest error of a gradient in terms of its tensor's length (Euclidean), and the largest of a single value in terms
/// of its tensor's largest, with the parameters that have them. Gradients that vanish, of biases that a normalisation
/// takes away again, are compared with those of the weights beside them.
fn far(network: &Network, found: &All, expected: &All) -> [(f64, String); 2] {
    let length = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let most = |values: &[f64]| values.iter().fold(0f64, |most, value| most.max(value.abs()));
    let mut worst = [(0.0, String::new()), (0.0, String::new())];
    let names: Vec<&str> = network.parameters().iter().map(|parameter| parameter.name()).collect();
    let largest = expected.iter().map(|values| most(values)).fold(0.0, f64::max);
    for (name, (found, expected)) in names.iter().zip(found.iter().zip(expected)) {
        if expected.is_empty() || most(expected) < 1e-9 * largest {
            assert!(most(found) < 1e-4 * largest, "{name}: {:e}", most(found));
            continue;
        }
        let differences: Vec<f64> = found.iter().zip(expected).map(|(a, b)| a - b).collect();
        let errors = [length(&differences) / length(expected), most(&differences) / most(expected)];
        for (worst, error) in worst.iter_mut().zip(errors) {
            if error > worst.0 {
                *worst = (error, (*name).to_owned());
            }
        }
    }
    worst
}

fn step(network: &mut Network, pixels: &Tensor) -> (f64, All, Vec<super::super::unit::Kept>) {
    let (raw, tape) = network.forward(pixels, 0).unwrap();
    let Tape(Path::Kernels { kept, .. }) = tape else { panic!("it is on the kernels") };
    let (loss, of_raw) = head(&raw);
    // Made again, as the way back uses it up.
    let (_, tape) = network.forward(pixels, 0).unwrap();
    let mut gradients = Gradients::zeros(network.parameters());
    network.backward(tape, &of_raw, &mut gradients).unwrap();
    let all = gradients.iter().map(|values| values.iter().map(|value| f64::from(*value)).collect()).collect();
    (loss, all, kept)
}

/// The kernels' gradients of a whole network: with the sides of its kinks that single precision took, they are those of
/// double precision.
fn kernels(architecture: Architecture, images: usize) -> [f64; 2] {
    let pixels = batch(images);
    let mut network = filled(architecture);
    let (loss, found, kept) = step(&mut network, &pixels);
    let truth = Truth::new(filled(architecture), &pixels);
    let straight = far(&truth.network, &found, &truth.gradients(&truth.kept));
    let flips = Flips::new(&truth, &kept, &network.workspace);
    let alike = far(&truth.network, &found, &truth.gradients(&flips.kept));
    println!(
        "{architecture}, {images} images: loss {loss} and {}; {} of {} values on the other side, {:.1e} from it at most, \
         the first at {:?}; gradients by length, by value: {straight:?}, with the same sides {alike:?}",
        truth.loss, flips.count, flips.values, flips.farthest, flips.first
    );
    assert!((loss / truth.loss - 1.0).abs() < 1e-5);
    [alike[0].0, alike[1].0]
}

/// The length of a gradient, summed as the reference summed it: in single precision, by eights. Of the linear layer's twelve
/// million values that is short of the true length by 9e-4.
fn length_in_single_precision(gradient: &[f64]) -> f64 {
    let mut sums = [0f32; 8];
    for values in gradient.chunks(8) {
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += (*value as f32) * (*value as f32));
    }
    f64::from(sums.iter().sum::<f32>().sqrt())
}

/// Biases that move all pixels of a channel alike, up to a normalisation that takes them away again.
fn takes_no_gradient(name: &str) -> bool {
    name.ends_with(".bias")
        && (name.starts_with("output_layer") || name.contains("res_layer.5") || name.contains("shortcut_layer"))
}

/// The errors of gradients against the reference step's, which has the length of each parameter's and its first values: of the
/// length as a share of it, of values in terms of the larger of their largest and the root mean square of the tensor. The
/// worst come first. Gradients that vanish are asked to be nothing beside that of the weight.
fn far_from_reference(network: &Network, golden: &HashMap<String, Tensor>, found: &All) -> Vec<(f64, String)> {
    let mut errors = Vec::new();
    let mut vanishing = 0;
    for (parameter, found) in network.parameters().iter().zip(found) {
        let name = parameter.name();
        let Some(expected) = golden.get(&format!("grad/{name}")).map(numbers) else {
            assert!(golden.contains_key(&format!("buffer_after/{name}")), "{name}");
            continue;
        };
        let length = length_in_single_precision(found);
        if takes_no_gradient(name) {
            let weight = numbers(&golden[&format!("grad/{}", name.replace(".bias", ".weight"))]);
            assert!(length < 1e-4 * weight[0] && expected[0] < 1e-4 * weight[0], "{name}: {length} {expected:?}");
            vanishing += 1;
            continue;
        }
        let scale = expected[1..].iter().fold(expected[0] / (found.len() as f64).sqrt(), |most, v| most.max(v.abs()));
        let errors_of = found.iter().zip(&expected[1..]).map(|(found, expected)| (found - expected).abs() / scale);
        errors.push((errors_of.fold((length / expected[0] - 1.0).abs(), f64::max), name.to_owned()));
    }
    assert_eq!(vanishing, 2 + 8 + 3);
    assert_eq!(errors.len() + vanishing, golden.keys().filter(|name| name.starts_with("grad/")).count());
    errors.sort_by(|a, b| b.0.total_cmp(&a.0));
    errors
}

/// The gradients of the reference step (PyTorch on the CPU) are those of double precision, and those of the kernels less
/// what the values make that single precision had on the other side of a kink. Which those are depends on the
/// instruction set; double precision tells what they make.
#[test]
fn the_gradients_of_the_reference_step_are_those_of_the_kernels_and_of_double_precision() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ir_18_step.safetensors");
    let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let pixels = batch(4);
    let mut network = filled(Architecture::Ir18);
    let (_, mut found, kept) = step(&mut network, &pixels);
    let truth = Truth::new(filled(Architecture::Ir18), &pixels);
    assert!((numbers(&golden["loss"])[0] / truth.loss - 1.0).abs() < 1e-6);
    let straight = truth.gradients(&truth.kept);
    let flips = Flips::new(&truth, &kept, &network.workspace);
    let flipped = truth.gradients(&flips.kept);
    for ((found, straight), flipped) in found.iter_mut().zip(&straight).zip(&flipped) {
        for ((found, straight), flipped) in found.iter_mut().zip(straight).zip(flipped) {
            *found -= flipped - straight;
        }
    }
    for (what, gradients) in [("double precision", &straight), ("kernels", &found)] {
        let errors = far_from_reference(&truth.network, &golden, gradients);
        println!("{what}, {} values on the other side: {:?}", flips.count, &errors[..3]);
        assert!(errors[0].0 < 1e-4, "{what}: {:?}", errors[0]);
    }
}

#[test]
fn small_networks_have_the_gradients_of_double_precision() {
    for architecture in [Architecture::Ir18, Architecture::Mobilefacenet, Architecture::MobilefacenetY1] {
        let errors = kernels(architecture, 4);
        assert!(errors[0].max(errors[1]) < 1e-4, "{architecture}: {errors:?}");
    }
}

#[test]
fn deep_networks_have_the_gradients_of_double_precision() {
    // Fewer images than four, normalised by themselves, leave little but rounding behind the last normalisation.
    for architecture in [Architecture::Ir50, Architecture::Ir101] {
        let errors = kernels(architecture, 4);
        assert!(errors[0].max(errors[1]) < 1e-3, "{architecture}: {errors:?}");
    }
}
