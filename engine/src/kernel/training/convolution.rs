//! Convolutions and their gradients.

use candle_core::Result;
use rayon::prelude::*;

use super::outer::Outer;
use super::windows::{Goal, Panels, Windows, multiply};
use super::{Features, Geometry, Workspace, channelwise, same};
use crate::kernel::tile::PANEL;

/// Input channels whose gradients are put in their places together.
const TOGETHER: usize = 8;

impl Geometry {
    fn check_weight(&self, weight: &[f32]) -> Result<()> {
        if weight.len() != self.weights() {
            candle_core::bail!("{} weights for a convolution of {:?}", weight.len(), self.weight_shape())
        }
        Ok(())
    }

    fn check_frame(&self, x: &Features) -> Result<()> {
        if x.frame() < self.frame() {
            candle_core::bail!("a frame of {} around a padding of {:?}", x.frame(), self.padding)
        }
        Ok(())
    }
}

impl Workspace {
    /// Convolves features in a frame of [`Geometry::frame`] zeros or more with a weight (O, C or 1, k, k). The output has
    /// no frame.
    ///
    /// # Errors
    /// Where shapes do not fit.
    pub fn convolve(&self, geometry: &Geometry, x: &Features, weight: &[f32]) -> Result<Features> {
        let shape = geometry.output_shape(x.shape())?;
        geometry.check_weight(weight)?;
        geometry.check_frame(x)?;
        let mut to = self.map(shape, 0);
        if geometry.channelwise {
            channelwise::convolve(self.isa, geometry, &x.0, weight, &mut to);
            return Ok(Features(to));
        }
        let Geometry { kernel, stride, padding, input, output, .. } = *geometry;
        let panels = Panels::pack(&self.pool, [kernel, kernel, input, output], |of, from, row, column| {
            weight[((of * input + from) * kernel + row) * kernel + column]
        });
        let inset = x.frame() - padding[0];
        let windows = Windows { x: &x.0, corner: [inset; 2], stride, grid: [shape[1], shape[2]] };
        multiply(self.isa, windows, &panels, Goal { first: [0; 2], stride: 1 }, &mut to)?;
        Ok(Features(to))
    }

    /// The gradient of a convolution's input, which has `[H, W]` pixels, from that of its output in a frame of
    /// [`Geometry::gradient_frame`] zeros or more. Without a frame.
    ///
    /// # Errors
    /// Where shapes do not fit.
    pub fn input_gradient(
        &self,
        geometry: &Geometry,
        gradient: &Features,
        weight: &[f32],
        side: [usize; 2],
    ) -> Result<Features> {
        let Geometry { kernel, stride, input, output, .. } = *geometry;
        let shape = [gradient.shape()[0], side[0], side[1], input];
        same("a gradient", gradient.shape(), geometry.output_shape(shape)?)?;
        geometry.check_weight(weight)?;
        let mut to = self.map(shape, 0);
        if geometry.channelwise {
            channelwise::input_gradient(self.isa, geometry, &gradient.0, weight, &mut to);
            return Ok(Features(to));
        }
        let frame = gradient.frame() as isize;
        if frame.cast_unsigned() < geometry.gradient_frame(side) {
            candle_core::bail!("a frame of {frame} is too narrow for the gradient of {geometry:?}")
        }
        let phases =
            |axis: usize| (0..stride.min(side[axis])).map(move |phase| (phase, geometry.phase(phase, side[axis])));
        if stride > kernel {
            // Some of the input was never read.
            to.values_mut().fill(0.0);
        }
        for (down, rows) in phases(0) {
            for (right, columns) in phases(1) {
                if rows.taps * columns.taps == 0 {
                    continue;
                }
                // Outputs follow each other backwards as taps go on.
                let panels =
                    Panels::pack(&self.pool, [rows.taps, columns.taps, output, input], |of, from, row, column| {
                        let row = rows.first_tap + (rows.taps - 1 - row) * stride;
                        let column = columns.first_tap + (columns.taps - 1 - column) * stride;
                        weight[((from * input + of) * kernel + row) * kernel + column]
                    });
                let corner = [(rows.start + frame).cast_unsigned(), (columns.start + frame).cast_unsigned()];
                let windows = Windows { x: &gradient.0, corner, stride: 1, grid: [rows.count, columns.count] };
                multiply(self.isa, windows, &panels, Goal { first: [down, right], stride }, &mut to)?;
            }
        }
        Ok(Features(to))
    }

    /// Adds the gradient of a convolution's weight to `sums` (O, C or 1, k, k), from its input, framed as for
    /// [`Workspace::convolve`], and the gradient of its output.
    ///
    /// # Errors
    /// Where shapes do not fit.
    pub fn weight_gradient(
        &self,
        geometry: &Geometry,
        x: &Features,
        gradient: &Features,
        sums: &mut [f32],
    ) -> Result<()> {
        same("a gradient", gradient.shape(), geometry.output_shape(x.shape())?)?;
        geometry.check_weight(sums)?;
        geometry.check_frame(x)?;
        if geometry.channelwise {
            channelwise::weight_gradient(self.isa, geometry, &x.0, &gradient.0, sums);
            return Ok(());
        }
        let Geometry { kernel, stride, padding, input, .. } = *geometry;
        let inset = x.frame() - padding[0];
        let outer = Outer { x: &x.0, gradient: &gradient.0, kernel, stride, inset };
        let parts = outer.parts(self.isa, rayon::current_num_threads());
        let of_panel = parts.iter().filter(|part| part.panel == 0).count();
        let area = kernel * kernel;
        sums.par_chunks_mut(PANEL * input * area).zip(parts.par_chunks(of_panel)).for_each(|(sums, parts)| {
            let lanes = sums.len() / (input * area);
            for part in parts {
                for (index, row) in part.rows.clone().enumerate() {
                    for first in (0..input).step_by(TOGETHER) {
                        for lane in 0..lanes {
                            for from in first..input.min(first + TOGETHER) {
                                for column in 0..kernel {
                                    sums[(lane * input + from) * area + row * kernel + column] +=
                                        part.sums[(index * part.step + column * input + from) * PANEL + lane];
                                }
                            }
                        }
                    }
                }
            }
        });
        Ok(())
    }
}
