//! A convolution as it is given, and what its weights become.

use candle_core::Result;

use super::tile::PANEL;

/// A convolution as given: shape, weight (O, I, k, k), bias (O) and slopes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given<'a> {
    /// Side of the kernel.
    pub(crate) kernel: usize,
    /// Step in both directions.
    pub(crate) stride: usize,
    /// Zeros above and left, then below and right.
    pub(crate) padding: [usize; 2],
    /// Input channels.
    pub(crate) input: usize,
    /// Outputs.
    pub(crate) output: usize,
    /// (O, I, k, k).
    pub(crate) weight: &'a [f32],
    /// (O).
    pub(crate) bias: &'a [f32],
    /// Slopes of the negative side (O), where an activation follows.
    pub(crate) slopes: Option<&'a [f32]>,
    /// Scale and shift (I) of the input, ahead of the zeros.
    pub(crate) lead: Option<[&'a [f32]; 2]>,
}

impl Given<'_> {
    pub(super) fn check(&self) -> Result<()> {
        let Self { kernel, stride, padding: [before, after], input, output, .. } = *self;
        let lead = self.lead.iter().flatten().all(|values| values.len() == input);
        let fits = self.weight.len() == output * input * kernel * kernel
            && self.bias.len() == output
            && self.slopes.is_none_or(|slopes| slopes.len() == output)
            && lead;
        if !fits || [kernel, stride, input, output].contains(&0) || before.max(after) >= kernel {
            candle_core::bail!("a convolution of {input} to {output} channels does not fit its weights")
        }
        if self.lead.is_some() && (kernel > 3 || before.max(after) > 1) {
            candle_core::bail!("a scaled input is only known for kernels of side 3 with one zero around")
        }
        Ok(())
    }

    /// The weight of one tap, with the scale of the input.
    pub(crate) fn tap(&self, output: usize, input: usize, row: usize, column: usize) -> f32 {
        let Self { kernel, .. } = *self;
        let weight = self.weight[((output * self.input + input) * kernel + row) * kernel + column];
        self.lead.map_or(weight, |[scale, _]| weight * scale[input])
    }

    /// The bias of each output: one row, or with a lead one for each [`Border`], because what lies outside of the map
    /// is zero and not what the shift makes of zero.
    pub(crate) fn biases(&self) -> Vec<f32> {
        let padded = self.output.next_multiple_of(PANEL);
        let Some([_, shift]) = self.lead else {
            let mut bias = self.bias.to_vec();
            bias.resize(padded, 0.0);
            return bias;
        };
        let kernel = self.kernel;
        let mut biases = vec![0f32; Border::COUNT * padded];
        for (border, row) in biases.chunks_exact_mut(padded).enumerate() {
            for (output, value) in row[..self.output].iter_mut().enumerate() {
                let mut sum = f64::from(self.bias[output]);
                for ky in 0..kernel {
                    for kx in 0..kernel {
                        if Border(border).misses(ky, kx, kernel) {
                            continue;
                        }
                        for (input, shift) in shift.iter().enumerate() {
                            let at = ((output * self.input + input) * kernel + ky) * kernel + kx;
                            sum += f64::from(self.weight[at]) * f64::from(*shift);
                        }
                    }
                }
                *value = sum as f32;
            }
        }
        biases
    }

    /// The slopes of each output, 1 where there is none.
    pub(crate) fn padded_slopes(&self) -> Option<Vec<f32>> {
        self.slopes.map(|slopes| {
            let mut slopes = slopes.to_vec();
            slopes.resize(self.output.next_multiple_of(PANEL), 1.0);
            slopes
        })
    }
}

/// Which sides of a map a pixel's kernel reaches over: bits for top, bottom, left and right.
#[derive(Clone, Copy)]
pub(crate) struct Border(pub(crate) usize);

impl Border {
    pub(crate) const COUNT: usize = 16;

    /// Of the output pixel whose kernel begins at (`top`, `left`), counted from `before` zeros outside of the map.
    #[inline(always)]
    pub(crate) fn of([top, left]: [usize; 2], kernel: usize, before: usize, [height, width]: [usize; 2]) -> Self {
        let bits = usize::from(top < before)
            | usize::from(top + kernel > height + before) << 1
            | usize::from(left < before) << 2
            | usize::from(left + kernel > width + before) << 3;
        Self(bits)
    }

    /// Whether a tap falls on zeros outside of the map.
    fn misses(self, row: usize, column: usize, kernel: usize) -> bool {
        let has = |bit: usize| self.0 >> bit & 1 == 1;
        (has(0) && row == 0)
            || (has(1) && row + 1 == kernel)
            || (has(2) && column == 0)
            || (has(3) && column + 1 == kernel)
    }
}
