//! From the layer tables of the engine to units that are trained.

use vultus_engine::kernel::conv::{Activation, ConvSpec, Kind};
use vultus_engine::kernel::training::Geometry;
use vultus_engine::model::Architecture;
use vultus_engine::model::ir::table::{Design, LAST_SIDE, Layer, LayerKind};
use vultus_engine::model::mobilefacenet::{Step, Variant, steps};

use super::NetworkError;
use super::parameters::{Parameters, Role, Start};
use super::unit::{BatchNorm, Fused, Shortcut, Unit};

/// The slope that PReLU starts with (He et al. 2015).
const SLOPE: f32 = 0.25;

/// The units of an architecture in the order in which they run, and their parameters in that of registration.
pub(super) fn layout(architecture: Architecture, dim: usize) -> Result<(Vec<Unit>, Parameters), NetworkError> {
    let mut builder = Builder::default();
    let units = match (architecture, architecture.ir()) {
        (_, Some(design)) => builder.residual(design, dim),
        (Architecture::Mobilefacenet, _) => builder.mobile(steps(Variant::Tf, dim)),
        (Architecture::MobilefacenetY1, _) => builder.mobile(steps(Variant::Y1, dim)),
        _ => None,
    };
    let units = units.ok_or(NetworkError::Unsupported(architecture))?;
    Ok((units, builder.parameters))
}

/// Collects parameters.
#[derive(Default)]
pub(super) struct Builder {
    pub(super) parameters: Parameters,
}

impl Builder {
    fn norm(&mut self, name: &str, channels: usize, affine: bool) -> BatchNorm {
        let mut add = |part: &str, role, start| {
            self.parameters.add(format!("{name}.{part}"), &[channels], role, Start::Value(start))
        };
        let affine = affine.then(|| [add("weight", Role::Norm, 1.0), add("bias", Role::Norm, 0.0)]);
        let running = [add("running_mean", Role::Running, 0.0), add("running_var", Role::Running, 1.0)];
        BatchNorm { affine, running }
    }

    /// The weight of a convolution, (O, C or 1, k, k) or as a matrix.
    fn weight(&mut self, name: &str, geometry: &Geometry, matrix: bool) -> usize {
        let [output, input, kernel, _] = geometry.weight_shape();
        let shape = [output, input, kernel, kernel];
        let flat = [output, input * kernel * kernel];
        let reached = if geometry.channelwise { 1 } else { output };
        // A linear layer's outputs are reached once by each value.
        let fan_out = if matrix { output } else { reached * kernel * kernel };
        let shape = if matrix { &flat[..] } else { &shape[..] };
        self.parameters.add(format!("{name}.weight"), shape, Role::Weight, Start::Normal { fan_out })
    }

    fn slopes(&mut self, name: &str, channels: usize) -> usize {
        self.parameters.add(format!("{name}.weight"), &[channels], Role::Weight, Start::Value(SLOPE))
    }

    /// Layers one after the other: a leading normalisation, and convolutions with what follows each. `None` for layers
    /// that are not trained.
    pub(super) fn sequence(&mut self, layers: &[Layer]) -> Option<(Option<BatchNorm>, Vec<Fused>)> {
        let (mut lead, mut convolutions) = (None, Vec::<Fused>::new());
        let mut layers = layers.iter().peekable();
        while let Some(Layer { name, kind }) = layers.next() {
            match *kind {
                LayerKind::Norm { channels } if convolutions.is_empty() && lead.is_none() => {
                    lead = Some(self.norm(name, channels, true));
                }
                LayerKind::Conv { input, output, kernel, stride } => {
                    let padding = [kernel / 2; 2];
                    let geometry = Geometry { kernel, stride, padding, input, output, channelwise: false };
                    let weight = self.weight(name, &geometry, false);
                    let Some(Layer { name, kind: LayerKind::Norm { channels } }) = layers.next() else { return None };
                    let norm = self.norm(name, *channels, true);
                    convolutions.push(Fused { geometry, weight, bias: None, norm, slopes: None });
                }
                LayerKind::PRelu { channels } => convolutions.last_mut()?.slopes = Some(self.slopes(name, channels)),
                _ => return None,
            }
        }
        Some((lead, convolutions))
    }

    /// An improved residual network. The input layer is registered first, then the output layer, then the body.
    fn residual(&mut self, design: Design, dim: usize) -> Option<Vec<Unit>> {
        let (lead, convolutions) = self.sequence(&design.input())?;
        let mut units = vec![Unit { lead, dropout: false, convolutions, shortcut: Shortcut::None }];
        let output = self.output(design.last(), dim);
        for unit in design.body() {
            let shortcut = match (self.sequence(&unit.shortcut)?.1.pop(), unit.stride) {
                (Some(projection), _) => Shortcut::Projected(projection),
                (None, stride) => Shortcut::Skip { stride },
            };
            let (lead, convolutions) = self.sequence(&unit.residual)?;
            units.push(Unit { lead, dropout: false, convolutions, shortcut });
        }
        units.push(output);
        Some(units)
    }

    /// The output layer: normalisation, dropout, a linear layer over the whole map, normalisation without parameters.
    fn output(&mut self, channels: usize, dim: usize) -> Unit {
        let lead = Some(self.norm("output_layer.0", channels, true));
        // Whatever the stride, there is one output. As it is, its gradient knows each tap to have a pixel of its own.
        let geometry = Geometry {
            kernel: LAST_SIDE,
            stride: LAST_SIDE,
            padding: [0; 2],
            input: channels,
            output: dim,
            channelwise: false,
        };
        let weight = self.weight("output_layer.3", &geometry, true);
        let bias = self.parameters.add("output_layer.3.bias".into(), &[dim], Role::Weight, Start::Value(0.0));
        let norm = self.norm("output_layer.4", dim, false);
        let linear = Fused { geometry, weight, bias: Some(bias), norm, slopes: None };
        Unit { lead, dropout: true, convolutions: vec![linear], shortcut: Shortcut::None }
    }

    /// MobileFaceNet, a batch normalisation `<name>.norm` behind every convolution.
    pub(super) fn mobile(&mut self, steps: Vec<Step>) -> Option<Vec<Unit>> {
        let unit = |step: Step| {
            let convolutions = step.convolutions.iter().map(|spec| self.spec(spec)).collect();
            let shortcut = if step.residual { Shortcut::Skip { stride: 1 } } else { Shortcut::None };
            Unit { lead: None, dropout: false, convolutions, shortcut }
        };
        Some(steps.into_iter().map(unit).collect())
    }

    fn spec(&mut self, spec: &ConvSpec) -> Fused {
        let ConvSpec { name, kind, input, output, kernel, stride, padding, activation } = spec;
        let geometry = Geometry {
            kernel: *kernel,
            stride: *stride,
            padding: *padding,
            input: *input,
            output: *output,
            channelwise: *kind == Kind::Depthwise,
        };
        let weight = self.weight(name, &geometry, false);
        let norm = self.norm(&format!("{name}.norm"), *output, true);
        let slopes = (*activation == Activation::PRelu).then(|| self.slopes(&format!("{name}.prelu"), *output));
        Fused { geometry, weight, bias: None, norm, slopes }
    }
}
