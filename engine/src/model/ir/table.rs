//! The layer table of the improved residual networks, as data. The list of tensors, all forms of the network, the folding
//! and the network in training follow it.

/// Width of the first convolution.
const STEM: usize = 64;
/// Side of the last feature map.
pub const LAST_SIDE: usize = 7;

/// What tells one network of the family from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Design {
    units: [usize; 4],
    bottleneck: bool,
    squeeze: bool,
}

impl Design {
    /// Basic units (two 3x3 convolutions), so many in each stage.
    pub const fn basic(units: [usize; 4]) -> Self {
        Self { units, bottleneck: false, squeeze: false }
    }

    /// Bottleneck units (1x1, 3x3, 1x1), so many in each stage.
    pub const fn bottleneck(units: [usize; 4]) -> Self {
        Self { units, bottleneck: true, squeeze: false }
    }

    /// The same with squeeze and excitation at the end of each residual.
    pub const fn squeezed(self) -> Self {
        Self { squeeze: true, ..self }
    }

    /// The units whose maps make the style of a face for set fusion (CAFace, which knows IR-101 only).
    pub(crate) fn style_units(self) -> Option<[String; 2]> {
        (self == Self::basic([3, 13, 30, 3])).then(|| ["body.15".into(), "body.45".into()])
    }

    /// Channels of the last feature map.
    pub const fn last(self) -> usize {
        self.width(3)
    }

    const fn width(self, stage: usize) -> usize {
        (if self.bottleneck { 256 } else { 64 }) << stage
    }

    /// The first layers: 112x112 RGB or BGR to 64 channels.
    pub fn input(self) -> Vec<Layer> {
        let mut layers = Sequence::new("input_layer");
        layers.conv(3, STEM, 3, 1);
        layers.norm(STEM);
        layers.prelu(STEM);
        layers.layers
    }

    /// The units of the body, in order.
    pub fn body(self) -> Vec<Unit> {
        let mut units: Vec<Unit> = Vec::with_capacity(self.units.iter().sum());
        let mut input = STEM;
        for (stage, count) in self.units.into_iter().enumerate() {
            let output = self.width(stage);
            for unit in 0..count {
                let stride = if unit == 0 { 2 } else { 1 };
                units.push(self.unit(units.len(), input, output, stride));
                input = output;
            }
        }
        units
    }

    fn unit(self, index: usize, input: usize, output: usize, stride: usize) -> Unit {
        let name = format!("body.{index}");
        let shortcut = if input == output {
            Vec::new()
        } else {
            let mut layers = Sequence::new(&format!("{name}.shortcut_layer"));
            layers.conv(input, output, 1, stride);
            layers.norm(output);
            layers.layers
        };
        let mut residual = Sequence::new(&format!("{name}.res_layer"));
        residual.norm(input);
        // The stride sits on the last convolution.
        if self.bottleneck {
            let middle = output / 4;
            residual.conv(input, middle, 1, 1);
            residual.norm(middle);
            residual.prelu(middle);
            residual.conv(middle, middle, 3, 1);
            residual.norm(middle);
            residual.prelu(middle);
            residual.conv(middle, output, 1, stride);
        } else {
            residual.conv(input, output, 3, 1);
            residual.norm(output);
            residual.prelu(output);
            residual.conv(output, output, 3, stride);
        }
        residual.norm(output);
        if self.squeeze {
            let name = format!("{}.se_block", residual.prefix);
            residual.layers.push(Layer { name, kind: LayerKind::Squeeze { channels: output } });
        }
        Unit { name, stride, shortcut, residual: residual.layers }
    }
}

/// One unit of the body: shortcut plus residual, nothing after the sum.
#[derive(Debug, Clone)]
pub struct Unit {
    /// `body.K`.
    pub name: String,
    /// Stride of the unit. A shortcut without layers takes every `stride`-th row and column.
    pub stride: usize,
    /// Empty or convolution and normalisation.
    pub shortcut: Vec<Layer>,
    /// Layers of the residual, the first a normalisation.
    pub residual: Vec<Layer>,
}

/// One layer with parameters.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Prefix of its tensors.
    pub name: String,
    /// What it is.
    pub kind: LayerKind,
}

/// Kinds of layers.
#[derive(Debug, Clone, Copy)]
pub enum LayerKind {
    /// Batch normalisation with scale and shift, eps 1e-5.
    Norm {
        /// Channels.
        channels: usize,
    },
    /// Square convolution without bias that keeps the size at stride 1.
    Conv {
        /// Input channels.
        input: usize,
        /// Outputs.
        output: usize,
        /// Side of the kernel.
        kernel: usize,
        /// Step.
        stride: usize,
    },
    /// One slope a channel.
    PRelu {
        /// Channels.
        channels: usize,
    },
    /// Squeeze and excitation: every channel times a factor that is computed from the mean of all channels.
    Squeeze {
        /// Channels.
        channels: usize,
    },
}

/// Layers numbered one after the other, as in a sequential module.
struct Sequence {
    prefix: String,
    layers: Vec<Layer>,
}

impl Sequence {
    fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), layers: Vec::new() }
    }

    fn push(&mut self, kind: LayerKind) {
        let name = format!("{}.{}", self.prefix, self.layers.len());
        self.layers.push(Layer { name, kind });
    }

    fn norm(&mut self, channels: usize) {
        self.push(LayerKind::Norm { channels });
    }

    fn conv(&mut self, input: usize, output: usize, kernel: usize, stride: usize) {
        self.push(LayerKind::Conv { input, output, kernel, stride });
    }

    fn prelu(&mut self, channels: usize) {
        self.push(LayerKind::PRelu { channels });
    }
}

impl Layer {
    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let tensor = |suffix: &str, shape: &[usize]| (format!("{}.{suffix}", self.name), shape.to_vec());
        match self.kind {
            LayerKind::Norm { channels } => {
                ["weight", "bias", "running_mean", "running_var"].map(|part| tensor(part, &[channels])).to_vec()
            }
            LayerKind::Conv { input, output, kernel, .. } => vec![tensor("weight", &[output, input, kernel, kernel])],
            LayerKind::PRelu { channels } => vec![tensor("weight", &[channels])],
            LayerKind::Squeeze { channels } => vec![
                tensor("fc1.weight", &[channels / 16, channels, 1, 1]),
                tensor("fc2.weight", &[channels, channels / 16, 1, 1]),
            ],
        }
    }
}

/// Names and shapes of the tensors for an embedding of `dim` values, in the order of registration: input, output,
/// body.
pub(crate) fn tensors(design: Design, dim: usize) -> Vec<(String, Vec<usize>)> {
    let last = design.last();
    let mut tensors: Vec<(String, Vec<usize>)> = design.input().iter().flat_map(Layer::tensors).collect();
    let norm = Layer { name: "output_layer.0".into(), kind: LayerKind::Norm { channels: last } };
    tensors.extend(norm.tensors());
    tensors.extend([
        ("output_layer.3.weight".into(), vec![dim, last * LAST_SIDE * LAST_SIDE]),
        ("output_layer.3.bias".into(), vec![dim]),
        // The last normalisation has neither scale nor shift.
        ("output_layer.4.running_mean".into(), vec![dim]),
        ("output_layer.4.running_var".into(), vec![dim]),
    ]);
    for unit in design.body() {
        tensors.extend(unit.shortcut.iter().chain(&unit.residual).flat_map(Layer::tensors));
    }
    tensors
}
