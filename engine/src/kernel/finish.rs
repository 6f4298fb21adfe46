//! What follows the sums of a convolution: bias, activation, another map, and rounding.

use super::activate;
use super::lanes::Lanes;
use super::places::{Exact, Place};
use super::tile::PANEL;

/// What all pixels of a tile have in common when they are finished in f32: biases and slopes (null for no activation) of the
/// outputs from `from` on, and the maps.
#[derive(Clone, Copy)]
pub(crate) struct Alike {
    pub(crate) bias: *const f32,
    pub(crate) slopes: *const f32,
    pub(crate) from: usize,
    pub(crate) maps: Exact,
}

impl Alike {
    /// Finishes the first `outputs` sums, whole registers, of each pixel. It decides once for a tile what [`Finish`] decides
    /// for each register, which is most of the work of layers with few inputs.
    ///
    /// # Safety
    ///
    /// As for [`Lanes`]; pointers that are not null are good for so many values, those into maps at each place, and `sums`
    /// holds [`PANEL`] values for each place.
    #[inline(always)]
    pub(crate) unsafe fn tile<L: Lanes>(self, sums: *const f32, places: &[Place], outputs: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            match (self.slopes.is_null(), self.maps.other.is_null()) {
                (true, true) => self.each::<L, false, false>(sums, places, outputs),
                (true, false) => self.each::<L, false, true>(sums, places, outputs),
                (false, true) => self.each::<L, true, false>(sums, places, outputs),
                (false, false) => self.each::<L, true, true>(sums, places, outputs),
            }
        }
    }

    /// # Safety
    ///
    /// As for [`Alike::tile`].
    #[inline(always)]
    unsafe fn each<L: Lanes, const ACTIVATED: bool, const SUMMED: bool>(
        self,
        sums: *const f32,
        places: &[Place],
        outputs: usize,
    ) {
        let Self { bias, slopes, from, maps: Exact { other, to } } = self;
        for part in (0..outputs).step_by(L::WIDTH) {
            // SAFETY: the caller's promise.
            unsafe {
                let bias = L::load(bias.add(part));
                let slope = if ACTIVATED { L::load(slopes.add(part)) } else { bias };
                let at = from + part;
                for (pixel, place) in places.iter().enumerate() {
                    let mut value = L::add(L::load(sums.add(pixel * PANEL + part)), bias);
                    if ACTIVATED {
                        value = L::activate(value, slope);
                    }
                    if SUMMED {
                        value = L::add(value, L::load(other.add(place.other + at)));
                    }
                    L::store(to.add(place.to + at), value);
                }
            }
        }
    }
}

/// Where the outputs of one pixel and panel come from and go to.
#[derive(Clone, Copy)]
pub(crate) struct Finish {
    /// A bias for each output.
    pub(crate) bias: *const f32,
    /// A slope for each output; null for no activation.
    pub(crate) slopes: *const f32,
    /// What is added in the end; null for nothing.
    pub(crate) other: *const f32,
    /// Where the outputs go, as f32; null for nowhere.
    pub(crate) to: *mut f32,
    /// Where they go rounded; null for nowhere.
    pub(crate) to_bf16: *mut u16,
}

impl Finish {
    /// The same some outputs further on.
    #[inline(always)]
    pub(crate) fn shifted(self, outputs: usize) -> Self {
        // Null stays null; `wrapping_add` because null is moved by none of the branches that use it.
        let shift = |pointer: *const f32| if pointer.is_null() { pointer } else { pointer.wrapping_add(outputs) };
        Self {
            bias: self.bias.wrapping_add(outputs),
            slopes: shift(self.slopes),
            other: shift(self.other),
            to: if self.to.is_null() { self.to } else { self.to.wrapping_add(outputs) },
            to_bf16: if self.to_bf16.is_null() { self.to_bf16 } else { self.to_bf16.wrapping_add(outputs) },
        }
    }

    /// Some pixels of a row on, from a channel on: biases and slopes are shifted by the channel only.
    #[inline(always)]
    pub(crate) fn pixel(self, pixel: usize, channels: usize, channel: usize) -> Self {
        let of = self.shifted(pixel * channels);
        Self { bias: self.bias, slopes: self.slopes, ..of }.shifted(channel)
    }

    /// Finishes one sum.
    ///
    /// # Safety
    ///
    /// Pointers that are not null are good for a value.
    #[inline(always)]
    pub(crate) unsafe fn one(self, sum: f32) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut value = sum + self.bias.read();
            if !self.slopes.is_null() {
                value = activate(value, self.slopes.read());
            }
            if !self.other.is_null() {
                value += self.other.read();
            }
            if !self.to.is_null() {
                self.to.write(value);
            }
            if !self.to_bf16.is_null() {
                self.to_bf16.write(half::bf16::from_f32(value).to_bits());
            }
        }
    }

    /// Finishes a register of sums.
    ///
    /// # Safety
    ///
    /// As for [`Lanes`]; pointers that are not null are good for a register of values.
    #[inline(always)]
    pub(crate) unsafe fn register<L: Lanes>(self, sums: L::F) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut value = L::add(sums, L::load(self.bias));
            if !self.slopes.is_null() {
                value = L::activate(value, L::load(self.slopes));
            }
            if !self.other.is_null() {
                value = L::add(value, L::load(self.other));
            }
            if !self.to.is_null() {
                L::store(self.to, value);
            }
            if !self.to_bf16.is_null() {
                L::store_bf16(self.to_bf16, value);
            }
        }
    }

    /// Finishes any number of sums.
    ///
    /// # Safety
    ///
    /// As for [`Finish::panel`].
    #[inline(always)]
    pub(crate) unsafe fn channels<L: Lanes>(self, sums: *const f32, channels: usize) {
        let mut done = 0;
        while done < channels {
            // SAFETY: the caller's promise.
            unsafe { self.shifted(done).panel::<L>(sums.add(done), PANEL.min(channels - done)) };
            done += PANEL;
        }
    }

    /// Finishes the first `outputs` (1 to [`PANEL`]) sums of a panel.
    ///
    /// # Safety
    ///
    /// As for [`Lanes`]; `sums` and pointers that are not null are good for so many values.
    #[inline(always)]
    pub(crate) unsafe fn panel<L: Lanes>(self, sums: *const f32, outputs: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut done = 0;
            while done + L::WIDTH <= outputs {
                self.shifted(done).register::<L>(L::load(sums.add(done)));
                done += L::WIDTH;
            }
            if done == outputs {
                return;
            }
            // The last ones by way of a panel of their own, which whole registers may be read from and written to.
            let mut own = [[0f32; PANEL]; 4];
            let mut rounded = [0u16; PANEL];
            let [bias, slopes, other, to] = &mut own;
            let rest = outputs - done;
            let from = self.shifted(done);
            std::ptr::copy_nonoverlapping(from.bias, bias.as_mut_ptr(), rest);
            let mut part = Self { bias: bias.as_ptr(), to: to.as_mut_ptr(), to_bf16: rounded.as_mut_ptr(), ..from };
            if !from.slopes.is_null() {
                std::ptr::copy_nonoverlapping(from.slopes, slopes.as_mut_ptr(), rest);
                part.slopes = slopes.as_ptr();
            }
            if !from.other.is_null() {
                std::ptr::copy_nonoverlapping(from.other, other.as_mut_ptr(), rest);
                part.other = other.as_ptr();
            }
            for at in (0..rest).step_by(L::WIDTH) {
                part.shifted(at).register::<L>(L::load(sums.add(done + at)));
            }
            if !from.to.is_null() {
                std::ptr::copy_nonoverlapping(to.as_ptr(), from.to, rest);
            }
            if !from.to_bf16.is_null() {
                std::ptr::copy_nonoverlapping(rounded.as_ptr(), from.to_bf16, rest);
            }
        }
    }
}
