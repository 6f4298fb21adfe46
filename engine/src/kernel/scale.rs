//! A map times a factor for each image and channel, plus another map: the end of a unit with squeeze and excitation.

use candle_core::Result;

use super::convolution::{Other, Places, Target};
use super::crew::in_parallel;
use super::isa::Isa;
use super::lanes::{Lanes, Work, on};
use super::map::Map;

/// Writes `x * factors + other`. `factors` holds a value for each image and channel.
pub(crate) fn scale_channels(isa: Isa, x: &Map<f32>, factors: &[f32], other: Other, to: Target) -> Result<()> {
    let [images, height, _, channels] = x.shape();
    if factors.len() != images * channels {
        candle_core::bail!("{} factors for {images} images of {channels} channels", factors.len())
    }
    let places = Places::new(x.shape(), Some(other), to)?;
    // What a convolution adds to its sums; here nothing.
    let zeros = vec![0f32; channels];
    in_parallel(images * height, |first, end| on(isa, Rows { x, factors, places, zeros: &zeros, first, end }));
    Ok(())
}

/// Some rows, counted through all images.
struct Rows<'a> {
    x: &'a Map<f32>,
    factors: &'a [f32],
    places: Places<'a>,
    zeros: &'a [f32],
    first: usize,
    end: usize,
}

impl Work for Rows<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Self { x, factors, places, zeros, first, end } = self;
        let channels = x.channels;
        let mut scaled = vec![0f32; channels];
        for index in first..end {
            let (image, row) = (index / x.height, index % x.height);
            let factors = &factors[image * channels..][..channels];
            for column in 0..x.width {
                let pixel = &x.values()[x.at(image, row + x.frame, column + x.frame)..][..channels];
                for ((scaled, value), factor) in scaled.iter_mut().zip(pixel).zip(factors) {
                    *scaled = value * factor;
                }
                let finish = places.finish(places.of([image, row, column]), 0, zeros.as_ptr(), std::ptr::null());
                // SAFETY: all slices hold a value for each channel; this job alone writes these rows.
                unsafe { finish.channels::<L>(scaled.as_ptr(), channels) };
            }
        }
    }
}
