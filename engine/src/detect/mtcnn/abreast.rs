//! A photo with its rows side by side, as the pyramid reads it.
//!
//! Every level of the pyramid first makes all rows of the photo narrower. The same source pixels with the same weights make
//! a column of each row, so sixteen rows are done at once: their values in a column lie next to each other here, as many as
//! three registers of sums. The photo is arranged once for all levels.

use std::ops::Range;

use image::RgbImage;
use rayon::prelude::*;

use super::pillow::{Axis, CHANNELS, HALF, byte};
use crate::kernel::isa::Isa;
use crate::kernel::plain::{Plain, plainly};

/// Rows that lie side by side.
const ROWS: usize = 16;
/// Values of a column of them.
const CELL: usize = ROWS * CHANNELS;

/// A photo in groups of sixteen rows; below the last row it is black.
#[derive(Debug)]
pub(crate) struct Abreast {
    width: usize,
    height: usize,
    /// For each group, for each column, for each row, three values.
    cells: Vec<[u8; CELL]>,
}

impl Abreast {
    /// Arranges a photo.
    pub(crate) fn of(photo: &RgbImage) -> Self {
        let (width, height) = (photo.width() as usize, photo.height() as usize);
        let mut cells = vec![[0u8; CELL]; height.div_ceil(ROWS) * width];
        let line = (width * CHANNELS).max(1);
        let groups = cells.par_chunks_mut(width.max(1)).zip(photo.as_raw().par_chunks(ROWS * line));
        groups.for_each(|(cells, rows)| {
            for (row, pixels) in rows.chunks_exact(line).enumerate() {
                for (cell, pixel) in cells.iter_mut().zip(pixels.chunks_exact(CHANNELS)) {
                    cell[row * CHANNELS..][..CHANNELS].copy_from_slice(pixel);
                }
            }
        });
        Self { width, height, cells }
    }

    /// Pixels in a row.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub(crate) fn height(&self) -> usize {
        self.height
    }

    /// The given rows with the columns of an axis, and the first of them: somewhat more rows than asked for.
    pub(crate) fn narrowed(&self, axis: &Axis, rows: &Range<usize>) -> (Vec<u8>, usize) {
        let isa = Isa::current();
        let groups = rows.start / ROWS..rows.end.div_ceil(ROWS);
        let line = axis.taps.len() * CHANNELS;
        let mut narrow = vec![0u8; groups.len() * ROWS * line];
        let parts = narrow.par_chunks_mut((ROWS * line).max(1)).zip(groups.clone());
        parts.for_each(|(out, group)| {
            let cells = &self.cells[group * self.width..][..self.width];
            plainly(isa, Across { axis, cells, line, out });
        });
        (narrow, groups.start * ROWS)
    }
}

/// Scales the rows of a group; `out` holds one after the other, each of `line` values.
struct Across<'a> {
    axis: &'a Axis,
    cells: &'a [[u8; CELL]],
    line: usize,
    out: &'a mut [u8],
}

impl Plain for Across<'_> {
    #[inline(always)]
    fn run(self) {
        for (column, (first, weights)) in self.axis.taps.iter().enumerate() {
            let weights = &self.axis.weights[weights.clone()];
            let cells = &self.cells[*first..][..weights.len()];
            let mut sums = [HALF; CELL];
            for (cell, weight) in cells.iter().zip(weights) {
                for value in 0..CELL {
                    sums[value] = sums[value].wrapping_add(i32::from(cell[value]).wrapping_mul(*weight));
                }
            }
            let mut bytes = [0u8; CELL];
            for value in 0..CELL {
                bytes[value] = byte(sums[value]);
            }
            let rows = self.out.chunks_exact_mut(self.line);
            for (row, pixel) in rows.zip(bytes.chunks_exact(CHANNELS)) {
                row[column * CHANNELS..][..CHANNELS].copy_from_slice(pixel);
            }
        }
    }
}
