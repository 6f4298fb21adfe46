//! What a network is trained with: convolutions and normalisations together with their gradients, in f32 on the CPU.
//!
//! A layer of a face network is a convolution, a batch normalisation and perhaps a PReLU. What a step keeps of it is the
//! convolution's output alone; the normalised and activated map is made again when the gradient of the next weights needs
//! it ([`Workspace::activate`]), which costs one pass over memory and saves half of it.
//!
//! | | forward | gradient |
//! |---|---|---|
//! | convolution | [`Workspace::convolve`] | [`Workspace::input_gradient`], [`Workspace::weight_gradient`] |
//! | normalisation, PReLU, shortcut | [`Workspace::moments`], [`Workspace::activate`] | [`Workspace::sums`], [`Workspace::spread`] |
//!
//! All of it is bit-reproducible, whatever the number of threads: threads divide outputs among themselves, and sums over
//! pixels are made in pieces of fixed size that are added in their order. Work runs on the rayon pool of the caller.

mod channelwise;
mod convolution;
mod geometry;
mod gradients;
mod normalize;
mod outer;
#[cfg(test)]
mod tests;
mod windows;

use std::sync::Arc;

use candle_core::Result;

use super::isa::Isa;
use super::map::{Map, Pool};
use super::network::enter;

pub use geometry::Geometry;
pub use gradients::Sums;
pub use normalize::{Added, Moments, Norm, dropout_factors};

/// Memory that a workspace keeps for the next step, in words: maps of IR-101 at batch 64.
const KEPT: usize = 3 << 30;
/// Pixels whose sums are made at once, in single precision.
const PIECE: usize = 128;

/// A map (N, H, W, C) of activations or their gradients, perhaps in a frame of zeros for the convolution that reads it.
#[derive(Debug)]
pub struct Features(Map<f32>);

impl Features {
    /// (N, H, W, C), the frame left out.
    pub fn shape(&self) -> [usize; 4] {
        self.0.shape()
    }

    /// Zeros on each side.
    pub fn frame(&self) -> usize {
        self.0.frame
    }

    /// All values (N, H, W, C), the frame left out.
    pub fn to_vec(&self) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.0.shape().iter().product());
        for image in 0..self.0.images {
            self.0.lines(image).for_each(|line| values.extend_from_slice(line));
        }
        values
    }
}

/// Where maps of a training step get their memory, and what computes on them. Cheap to clone; clones share their memory.
#[derive(Debug, Clone)]
pub struct Workspace {
    pool: Arc<Pool>,
    isa: Isa,
}

impl Default for Workspace {
    fn default() -> Self {
        Self::new(Isa::current())
    }
}

impl Workspace {
    /// A workspace that computes with an instruction set.
    pub fn new(isa: Isa) -> Self {
        Self { pool: Arc::new(Pool::closely(KEPT)), isa }
    }

    /// Planes (N, C, H, W) as features of the given shape (N, H, W, C), with a frame.
    ///
    /// # Errors
    /// Where there are not so many values.
    pub fn planes(&self, planes: &[f32], shape: [usize; 4], frame: usize) -> Result<Features> {
        if planes.len() != shape.iter().product::<usize>() {
            candle_core::bail!("{} values are no map of {shape:?}", planes.len())
        }
        Ok(Features(enter(&self.pool, planes, shape, frame)))
    }

    /// A map whose values are yet to be written.
    fn map(&self, shape: [usize; 4], frame: usize) -> Map<f32> {
        self.pool.map(shape, frame)
    }
}

/// Rows of a map that make a piece of about [`PIECE`] pixels.
fn rows_of_piece(width: usize) -> usize {
    (PIECE / width.max(1)).max(1)
}

/// Fails unless two maps have the same shape.
fn same(what: &str, a: [usize; 4], b: [usize; 4]) -> Result<()> {
    if a == b { Ok(()) } else { candle_core::bail!("{what} of {a:?} for a map of {b:?}") }
}
