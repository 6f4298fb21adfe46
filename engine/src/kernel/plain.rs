//! Loops in plain Rust that are worth compiling for each instruction set, where the compiler finds the registers by itself.
//!
//! For loops over bytes and whole numbers, which have no registers of their own in [`super::lanes`]. The portable twin is
//! the same loop, compiled for the oldest machine; integer arithmetic makes all of them equal to the bit.

use super::isa::Isa;
use super::lanes::{Lanes, Work, on};

/// A piece of such work. `run` must be `#[inline(always)]`, and what it calls too: a call that is not inlined runs as
/// compiled for the oldest machine.
///
/// A closure would be shorter, but the shim through which it is called is not always inlined.
pub(crate) trait Plain {
    /// Does it.
    fn run(self);
}

struct Of<P>(P);

impl<P: Plain> Work for Of<P> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        self.0.run();
    }
}

/// Does the work with an instruction set.
pub(crate) fn plainly(isa: Isa, work: impl Plain) {
    on(isa, Of(work));
}
