//! Registers of f32 as a trait: the same inner loop for each instruction set, with a portable twin.
//!
//! A kernel is written once, over [`Lanes`], as the `run` of a [`Work`], and [`on`] compiles it for the instruction set
//! it is asked for. Every function on the way from `run` to a register is `#[inline(always)]`: one that is not would be
//! compiled for the oldest machine, without the instructions.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
#[cfg(test)]
mod tests;

use super::isa::Isa;

/// Operations on a register of f32 values. Loads and stores need no alignment.
///
/// # Safety
///
/// All of them must run inside of [`on`] for an instruction set that the machine has; pointers must be valid for what is
/// read or written at them.
pub(crate) trait Lanes: Copy + Send + Sync + 'static {
    /// Values of a register.
    const WIDTH: usize;
    /// Whether there are registers for a tile of fourteen pixels by two registers of outputs; otherwise a tile is cut
    /// into pieces of at most ten sums.
    const WIDE: bool;
    /// A register.
    type F: Copy;

    /// The same value throughout.
    unsafe fn splat(value: f32) -> Self::F;
    /// `WIDTH` values.
    unsafe fn load(from: *const f32) -> Self::F;
    /// `WIDTH` values.
    unsafe fn store(to: *mut f32, value: Self::F);
    /// a + b.
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    /// a - b.
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    /// a * b.
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// a * b + c, rounded once where the machine can.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// c - a * b, likewise.
    unsafe fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The value where it is positive, else the value times the slope. NaN stays NaN.
    unsafe fn activate(value: Self::F, slope: Self::F) -> Self::F;
    /// The larger of two; the second where one of them is NaN.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;

    /// `WIDTH` pairs of bf16 values, and the same pair throughout, as the bits of a register.
    unsafe fn splat_pair(from: *const u32) -> Self::F;
    /// Adds to each sum the products of two pairs.
    unsafe fn dot_pairs(sum: Self::F, a: Self::F, b: Self::F) -> Self::F;
    /// `WIDTH` values rounded to bf16.
    unsafe fn store_bf16(to: *mut u16, value: Self::F);
    /// `WIDTH` bf16 values.
    unsafe fn load_bf16(from: *const u16) -> Self::F;

    /// Asks for memory that will be read soon. Any address will do.
    #[inline(always)]
    unsafe fn ask_for(_: *const u32) {}
}

/// A piece of work that is worth compiling for each instruction set.
pub(crate) trait Work {
    /// Does it.
    ///
    /// # Safety
    ///
    /// Called by [`on`] only; implementations are `#[inline(always)]`.
    unsafe fn run<L: Lanes>(self);
}

/// Does work with an instruction set, which an [`Isa`] only names when the machine has it.
pub(crate) fn on<W: Work>(isa: Isa, work: W) {
    match isa {
        // SAFETY: `Isa` values other than `Portable` come from `Isa::available` only, which asks the processor.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => unsafe { avx512::run_bf16(work) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::run(work) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::run(work) },
        // SAFETY: the portable registers are arrays and need no instruction of their own.
        _ => unsafe { work.run::<portable::Portable>() },
    }
}
