//! Vectors as small whole numbers.
//!
//! A value is its **code**, −119 to 119, times the vector's scale, within a rest. A code is 16 times a **coarse** digit, −7 to
//! 7, and a **fine** digit, −8 to 7. Digits are kept apart, each as a nibble, so that a scan reads the coarse half of all rows
//! and the fine half of few.
//!
//! What digits leave out of a row is kept as its length, the **rest**: it tells how high a score can be (`bounds`).
//!
//! Rows may be coded in a basis in which their heads hold most of what there is of them (`basis`). Then digits are of heads, and
//! tails are whole codes apart.

use std::sync::Arc;

use super::basis::Basis;
use super::mapped::Plane;
use crate::kernel::ask_for;
use crate::kernel::isa::Isa;
use crate::kernel::nibbles::{STEP, pack};
use crate::kernel::plain::{Plain, plainly};

/// What a coarse digit counts.
pub(super) const COARSE: i32 = 16;
/// What is added to both digits, to keep them as 0 to 15.
pub(super) const LIFT: i32 = 8;
/// The largest code: its coarse digit is 7.
const LARGEST: f32 = 119.0;
/// The largest code of a probe, which is not cut into digits.
const LARGEST_OF_PROBE: f32 = 127.0;

/// Codes of a vector of `dim` values, padding included.
pub(super) fn coded_len(dim: usize) -> usize {
    dim.next_multiple_of(STEP)
}

/// Rows as digits, in the order they came.
#[derive(Clone, Default)]
pub(super) struct CodedRows {
    /// In which they are coded; as they came without one.
    pub(super) basis: Option<Arc<Basis>>,
    /// Bytes that the coarse digits of a row take, and as many the fine ones.
    digits_width: usize,
    /// Of heads, half as many bytes a row as codes. Without a basis a head is all of a row.
    pub(super) coarse: Plane,
    /// Likewise.
    pub(super) fine: Plane,
    /// Codes of tails; none without a basis.
    pub(super) tails: Plane,
    /// Value of a code, for each row.
    pub(super) scales: Vec<f32>,
    /// At least the length of what the coarse digits leave out of a head.
    pub(super) coarse_rests: Vec<f32>,
    /// At least the length of what the codes leave out of a row.
    pub(super) rests: Vec<f32>,
    /// The same of its head, and at least the length of its tail; none without a basis.
    pub(super) head_rests: Vec<f32>,
    pub(super) tail_lengths: Vec<f32>,
}

/// What of rows is kept, as bytes.
pub(super) struct Parts<'a> {
    pub(super) coarse: &'a [u8],
    pub(super) fine: &'a [u8],
    pub(super) tails: &'a [u8],
    /// Numbers of a row: three without a basis, five with one.
    pub(super) numbers: Vec<&'a [f32]>,
}

impl CodedRows {
    /// Memory that a row of `dim` values takes, in bytes, coded in a basis or as it came.
    pub(super) fn row_bytes(dim: usize, basis: Option<&Basis>) -> usize {
        let (digits, tail) = Self::widths(dim, basis);
        2 * digits + tail + Self::numbers(basis) * size_of::<f32>()
    }

    /// Bytes that the coarse digits of a row take, and as many the fine ones, and those of its tail.
    pub(super) fn widths(dim: usize, basis: Option<&Basis>) -> (usize, usize) {
        let head = basis.map_or(dim, Basis::head);
        (coded_len(head) / 2, coded_len(dim - head))
    }

    /// How many numbers a row has beside codes.
    pub(super) fn numbers(basis: Option<&Basis>) -> usize {
        if basis.is_some() { 5 } else { 3 }
    }

    /// In which they are coded.
    pub(super) fn basis(&self) -> Option<&Arc<Basis>> {
        self.basis.as_ref()
    }

    /// All there is of the rows.
    pub(super) fn parts(&self) -> Parts<'_> {
        let Self { coarse, fine, tails, scales, coarse_rests, rests, head_rests, tail_lengths, basis, .. } = self;
        let all: [&[f32]; 5] = [scales, coarse_rests, rests, head_rests, tail_lengths];
        Parts { coarse, fine, tails, numbers: all[..Self::numbers(basis.as_deref())].to_vec() }
    }

    /// The rows of which [`CodedRows::parts`] were these.
    pub(super) fn of_parts(
        basis: Option<Arc<Basis>>,
        coarse: Plane,
        fine: Plane,
        tails: Plane,
        numbers: Vec<Vec<f32>>,
    ) -> Self {
        let mut numbers = numbers.into_iter();
        let mut next = || numbers.next().unwrap_or_default();
        let (scales, coarse_rests, rests, head_rests, tail_lengths) = (next(), next(), next(), next(), next());
        let digits_width = coarse.len() / scales.len().max(1);
        Self { basis, digits_width, coarse, fine, tails, scales, coarse_rests, rests, head_rests, tail_lengths }
    }

    /// Rows of checked vectors, which lie one after the other, in a basis.
    pub(super) fn turned(vectors: &[f32], dim: usize, basis: &Arc<Basis>) -> Self {
        let mut rows = Self { basis: Some(Arc::clone(basis)), ..Self::default() };
        basis.turn(vectors).chunks_exact(dim).for_each(|vector| rows.push_coded(vector));
        rows.settle();
        rows
    }

    /// Appends a checked vector, as it came.
    pub(super) fn push(&mut self, vector: &[f32]) {
        debug_assert!(self.basis.is_none());
        self.push_coded(vector);
    }

    fn push_coded(&mut self, vector: &[f32]) {
        let Coded { codes, scale, rest } = encode(vector, LARGEST);
        let head = self.basis.as_ref().map_or(vector.len(), |basis| basis.head());
        let of_head = &codes[..coded_len(head)];
        self.digits_width = of_head.len() / 2;
        let coarse: Vec<u8> = of_head.iter().map(|code| lifted(coarse(*code))).collect();
        let fine: Vec<u8> =
            of_head.iter().map(|code| lifted(i32::from(*code) - COARSE * self::coarse(*code))).collect();
        self.coarse.change(|plane| pack(&coarse, plane));
        self.fine.change(|plane| pack(&fine, plane));
        self.scales.push(scale);
        self.coarse_rests.push(rest_of::<true>(&vector[..head], scale, of_head));
        self.rests.push(rest);
        if self.basis.is_some() {
            self.head_rests.push(rest_of::<false>(&vector[..head], scale, of_head));
            self.tail_lengths.push(length_of(&vector[head..]));
            self.tails.change(|plane| plane.extend_from_slice(bytemuck::cast_slice(&codes[head..])));
        }
    }

    /// A copy with room for so many rows, as they came.
    pub(super) fn with_room(&self, rows: usize) -> Self {
        let (now, row) = (self.scales.len(), self.digits_width);
        debug_assert!(rows >= now && self.basis.is_none());
        fn copy<T: Copy>(values: &[T], room: usize) -> Vec<T> {
            let mut copy = Vec::with_capacity(room);
            copy.extend_from_slice(values);
            copy
        }
        Self {
            coarse: Plane::from(copy(&self.coarse, row * rows)),
            fine: Plane::from(copy(&self.fine, row * rows)),
            scales: copy(&self.scales, rows),
            coarse_rests: copy(&self.coarse_rests, rows),
            rests: copy(&self.rests, rows),
            digits_width: row,
            ..Self::default()
        }
    }

    /// At least the length of a row's tail.
    pub(super) fn tail_length(&self, row: usize) -> f32 {
        self.tail_lengths.get(row).copied().unwrap_or_default()
    }

    /// At least the length of what the codes leave out of a row's head.
    pub(super) fn head_rest(&self, row: usize) -> f32 {
        *self.head_rests.get(row).unwrap_or(&self.rests[row])
    }

    /// Asks for what the coarse bound of a row is made of, which will be looked at soon.
    pub(super) fn ask_for_coarse(&self, row: usize) {
        let width = self.digits_width;
        ask_for(&self.coarse[row * width..(row + 1) * width]);
        ask_for(bytemuck::bytes_of(&self.scales[row]));
        ask_for(bytemuck::bytes_of(&self.coarse_rests[row]));
        self.tail_lengths.get(row).into_iter().for_each(|length| ask_for(bytemuck::bytes_of(length)));
    }

    /// Asks for what its likely range is made of.
    pub(super) fn ask_for_likely(&self, row: usize) {
        let width = self.digits_width;
        ask_for(&self.coarse[row * width..(row + 1) * width]);
        ask_for(bytemuck::bytes_of(&self.scales[row]));
    }

    /// Asks for what the bound out of its head is made of beside that.
    pub(super) fn ask_for_fine(&self, row: usize) {
        let width = self.digits_width;
        ask_for(&self.fine[row * width..(row + 1) * width]);
        ask_for(bytemuck::bytes_of(self.head_rests.get(row).unwrap_or(&self.rests[row])));
    }

    /// Asks for what its closest bounds are made of beside that.
    pub(super) fn ask_for_tail(&self, row: usize) {
        if let Some(basis) = &self.basis {
            let (_, width) = Self::widths(basis.dim(), Some(basis));
            ask_for(&self.tails[row * width..(row + 1) * width]);
        }
        ask_for(bytemuck::bytes_of(&self.rests[row]));
    }

    /// Gives back room that is not used, and lays what every search reads where it is read fast.
    pub(super) fn settle(&mut self) {
        self.coarse.settle();
        self.fine.settle();
        self.tails.settle();
        let Self { scales, coarse_rests, rests, head_rests, tail_lengths, .. } = self;
        [scales, coarse_rests, rests, head_rests, tail_lengths].into_iter().for_each(Vec::shrink_to_fit);
    }
}

/// A vector as codes.
pub(super) struct Coded {
    /// As many as values, and zeros up to a multiple of [`STEP`].
    pub(super) codes: Vec<i8>,
    /// Value of a code.
    pub(super) scale: f32,
    /// At least the length of what the codes leave out.
    pub(super) rest: f32,
}

/// The codes of a vector with a value other than 0, as large as bytes allow.
pub(super) fn encode_largest(vector: &[f32]) -> Coded {
    encode(vector, LARGEST_OF_PROBE)
}

/// The codes of a vector with a value other than 0, at most `largest`.
fn encode(vector: &[f32], largest: f32) -> Coded {
    let (isa, mut scale) = (Isa::current(), 0.0);
    let mut codes = vec![0; coded_len(vector.len())];
    plainly(isa, Encode { vector, largest, codes: &mut codes[..vector.len()], scale: &mut scale });
    let rest = rest_of::<false>(vector, scale, &codes);
    Coded { codes, scale, rest }
}

/// Values whose sums are kept apart.
const LANES: usize = 16;

struct Encode<'a> {
    vector: &'a [f32],
    largest: f32,
    codes: &'a mut [i8],
    scale: &'a mut f32,
}

impl Plain for Encode<'_> {
    #[inline(always)]
    fn run(self) {
        /// Added to a small number it leaves the nearest whole one in the lowest bits.
        const TO_WHOLE: f32 = 12_582_912.0;
        let Self { vector, largest, codes, scale } = self;
        let (blocks, rest) = vector.as_chunks::<LANES>();
        let mut most = [0f32; LANES];
        for block in blocks {
            most.iter_mut().zip(block).for_each(|(most, value)| *most = most.max(value.abs()));
        }
        let most = most.iter().chain(rest).fold(0f32, |most, value| most.max(value.abs()));
        *scale = most / largest;
        for (code, value) in codes.iter_mut().zip(vector) {
            let whole = (value / *scale).clamp(-largest, largest) + TO_WHOLE;
            *code = whole.to_bits().wrapping_sub(TO_WHOLE.to_bits()) as i8;
        }
    }
}

/// At least the length of what is left of a vector without its codes, or without their coarse digits.
fn rest_of<const COARSE_ONLY: bool>(vector: &[f32], scale: f32, codes: &[i8]) -> f32 {
    let mut square = 0.0;
    plainly(Isa::current(), Square::<COARSE_ONLY> { vector, scale, codes, square: &mut square });
    // Rounded up.
    square.sqrt() as f32 * (1.0 + 1e-6)
}

/// At least the length of a vector, a part of another.
pub(super) fn length_of(part: &[f32]) -> f32 {
    rest_of::<false>(part, 0.0, &vec![0; part.len()])
}

struct Square<'a, const COARSE_ONLY: bool> {
    vector: &'a [f32],
    scale: f32,
    codes: &'a [i8],
    square: &'a mut f64,
}

impl<const COARSE_ONLY: bool> Plain for Square<'_, COARSE_ONLY> {
    #[inline(always)]
    fn run(self) {
        let Self { vector, scale, codes, square } = self;
        let scale = f64::from(scale);
        let mut sums = [0f64; LANES];
        for (values, codes) in vector.chunks(LANES).zip(codes.chunks(LANES)) {
            for ((sum, value), code) in sums.iter_mut().zip(values).zip(codes) {
                let code = if COARSE_ONLY { COARSE * coarse(*code) } else { i32::from(*code) };
                let left = f64::from(*value) - scale * f64::from(code);
                *sum += left * left;
            }
        }
        *square = sums.iter().sum();
    }
}

/// The coarse digit of a code.
#[inline(always)]
fn coarse(code: i8) -> i32 {
    (i32::from(code) + LIFT).div_euclid(COARSE)
}

/// A digit as it is kept.
fn lifted(digit: i32) -> u8 {
    (digit + LIFT) as u8
}
