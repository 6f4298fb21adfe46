//! The shape of a convolution, and which windows of the output's gradient make the gradient of its input.

use candle_core::Result;

/// A square convolution without bias, (N, H, W, C) -> (N, H', W', O).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Side of the kernel.
    pub kernel: usize,
    /// Step in both directions.
    pub stride: usize,
    /// Zeros above and left, then below and right.
    pub padding: [usize; 2],
    /// Input channels.
    pub input: usize,
    /// Outputs.
    pub output: usize,
    /// One filter for each channel; `input` and `output` are the same.
    pub channelwise: bool,
}

/// Windows along one axis that make every `stride`-th value of the input's gradient, from `phase` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Phase {
    /// How many taps of the kernel take part, `first_tap` and every `stride`-th after it.
    pub(super) taps: usize,
    pub(super) first_tap: usize,
    /// Where the first window begins in the output's gradient; before it where negative.
    pub(super) start: isize,
    /// How many values there are.
    pub(super) count: usize,
}

impl Geometry {
    /// Shape of the weight: (O, C or 1, k, k).
    pub fn weight_shape(&self) -> [usize; 4] {
        [self.output, if self.channelwise { 1 } else { self.input }, self.kernel, self.kernel]
    }

    /// Values of the weight.
    pub fn weights(&self) -> usize {
        self.weight_shape().iter().product()
    }

    /// Zeros that it needs around its input.
    pub fn frame(&self) -> usize {
        if self.channelwise { 0 } else { self.padding[0].max(self.padding[1]) }
    }

    /// Zeros that [`super::Workspace::input_gradient`] needs around the gradient of an output.
    pub fn gradient_frame(&self, [height, width]: [usize; 2]) -> usize {
        if self.channelwise {
            return 0;
        }
        let beyond = |side: usize| {
            let outputs = self.outputs(side).unwrap_or(0) as isize;
            let phases = (0..self.stride).map(|phase| self.phase(phase, side)).filter(|phase| phase.taps > 0);
            phases
                .map(|phase| (-phase.start).max(phase.start + (phase.count + phase.taps) as isize - 1 - outputs))
                .fold(0, isize::max)
        };
        beyond(height).max(beyond(width)).cast_unsigned()
    }

    /// Outputs along one side; `None` where the kernel does not fit.
    pub(super) fn outputs(&self, side: usize) -> Option<usize> {
        Some((side + self.padding[0] + self.padding[1]).checked_sub(self.kernel)? / self.stride + 1)
    }

    /// Shape of the output for an input.
    ///
    /// # Errors
    /// Where the input is too small or has other channels, or the convolution itself makes no sense.
    pub fn output_shape(&self, [images, height, width, channels]: [usize; 4]) -> Result<[usize; 4]> {
        let Self { kernel, stride, padding, input, output, channelwise } = *self;
        if [kernel, stride, input, output].contains(&0)
            || padding[0].max(padding[1]) >= kernel
            || (channelwise && input != output)
        {
            candle_core::bail!("no convolution: {self:?}")
        }
        match (self.outputs(height), self.outputs(width)) {
            (Some(rows), Some(columns)) if channels == input => Ok([images, rows, columns, output]),
            _ => candle_core::bail!("({height}, {width}, {channels}) does not fit a convolution of {input} channels"),
        }
    }

    /// The windows for inputs `phase`, `phase + stride`, … below `side`. Input `y` was read by output `r` through tap
    /// `t` where `y + padding = r * stride + t`: the taps of a phase are a stride apart, and their outputs follow each
    /// other backwards.
    pub(super) fn phase(&self, phase: usize, side: usize) -> Phase {
        let Self { kernel, stride, padding: [before, _], .. } = *self;
        let first_tap = (phase + before) % stride;
        let taps = kernel.saturating_sub(first_tap).div_ceil(stride);
        let start = ((phase + before - first_tap) / stride) as isize - taps as isize + 1;
        Phase { taps, first_tap, start, count: side.saturating_sub(phase).div_ceil(stride) }
    }
}
