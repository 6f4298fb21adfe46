//! Depthwise convolutions of maps: one filter per channel.
//!
//! The work is done in groups of pixels of a row, a register of channels at a time. Each input column that a group sees is
//! loaded once for each kernel row and used by all pixels that need it.

use candle_core::Result;

use super::convolution::{Other, Place, Places, Target};
use super::crew::in_parallel;
use super::isa::Isa;
use super::lanes::{Lanes, Work, on};
use super::map::Map;

/// A square depthwise convolution (N, H, W, C) -> (N, H', W', C) with bias and activation.
#[derive(Debug)]
pub(crate) struct Channelwise {
    kernel: usize,
    stride: usize,
    padding: [usize; 2],
    channels: usize,
    /// kernel² rows (top to bottom, left to right) of C values.
    weight: Vec<f32>,
    bias: Vec<f32>,
    /// 1 where there is no activation.
    slopes: Vec<f32>,
}

impl Channelwise {
    /// Takes `weight` in the order channel, row, column.
    pub(crate) fn new(
        [kernel, stride]: [usize; 2],
        padding: [usize; 2],
        weight: &[f32],
        bias: &[f32],
        slopes: Option<&[f32]>,
    ) -> Result<Self> {
        let (channels, area) = (bias.len(), kernel * kernel);
        let fits = weight.len() == channels * area && slopes.is_none_or(|slopes| slopes.len() == channels);
        if !fits || [kernel, stride, channels].contains(&0) || padding[0].max(padding[1]) >= kernel {
            candle_core::bail!("a depthwise convolution of {channels} channels does not fit its weights")
        }
        let mut rows = vec![0f32; weight.len()];
        for (channel, taps) in weight.chunks_exact(area).enumerate() {
            taps.iter().enumerate().for_each(|(tap, value)| rows[tap * channels + channel] = *value);
        }
        let (bias, slopes) = (bias.to_vec(), slopes.map_or_else(|| vec![1.0; channels], <[f32]>::to_vec));
        Ok(Self { kernel, stride, padding, channels, weight: rows, bias, slopes })
    }

    /// Shape of the output for a map.
    pub(crate) fn shape(&self, [images, height, width, channels]: [usize; 4]) -> Result<[usize; 4]> {
        let padded = |side: usize| (side + self.padding[0] + self.padding[1]).checked_sub(self.kernel);
        match (padded(height), padded(width)) {
            (Some(height), Some(width)) if channels == self.channels => {
                Ok([images, height / self.stride + 1, width / self.stride + 1, channels])
            }
            _ => candle_core::bail!("({height}, {width}, {channels}) does not fit {} channels", self.channels),
        }
    }

    /// Zeros that it needs around a map.
    pub(crate) fn frame(&self) -> usize {
        self.padding[0].max(self.padding[1])
    }

    /// Convolves a map whose frame is as wide as the padding. `other` has the shape of the output.
    pub(crate) fn forward(&self, isa: Isa, x: &Map<f32>, other: Option<Other>, to: Target) -> Result<()> {
        let shape = self.shape(x.shape())?;
        if x.frame < self.frame() {
            candle_core::bail!("a frame of {} around a padding of {:?}", x.frame, self.padding)
        }
        let places = Places::new(shape, other, to)?;
        let [images, rows, ..] = shape;
        in_parallel(images * rows, |first, end| on(isa, Rows { convolution: self, x, shape, places, first, end }));
        Ok(())
    }
}

/// Some output rows, counted through all images.
struct Rows<'a> {
    convolution: &'a Channelwise,
    x: &'a Map<f32>,
    shape: [usize; 4],
    places: Places<'a>,
    first: usize,
    end: usize,
}

impl Work for Rows<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Channelwise { kernel, stride, padding: [before, _], .. } = *self.convolution;
        let [_, rows, columns, _] = self.shape;
        let inset = self.x.frame - before;
        for index in self.first..self.end {
            let (image, row) = (index / rows, index % rows);
            let mut column = 0;
            while column < columns {
                let at = self.x.at(image, row * stride + inset, column * stride + inset);
                let place = self.places.of([image, row, column]);
                let rest = columns - column;
                // SAFETY: the frame covers the padding (checked in `forward`), so the windows of these pixels lie in the
                // map; this job alone writes this row.
                column += unsafe {
                    match (kernel, stride) {
                        (3, 1) if rest >= 7 => self.group::<L, 3, 1, 7>(at, place),
                        (3, 2) if rest >= 7 => self.group::<L, 3, 2, 7>(at, place),
                        (3, 1) if rest >= 4 => self.group::<L, 3, 1, 4>(at, place),
                        (3, 2) if rest >= 4 => self.group::<L, 3, 2, 4>(at, place),
                        (3, 1) => self.group::<L, 3, 1, 1>(at, place),
                        (3, 2) => self.group::<L, 3, 2, 1>(at, place),
                        _ => self.pixel::<L>(at, place),
                    }
                };
            }
        }
    }
}

impl Rows<'_> {
    /// `P` pixels of a row, whose windows begin at `at`. Gives `P`.
    ///
    /// # Safety
    ///
    /// As for [`Lanes`]; the windows lie in the map, and nobody else writes these pixels.
    #[inline(always)]
    unsafe fn group<L: Lanes, const K: usize, const S: usize, const P: usize>(&self, at: usize, place: Place) -> usize {
        let Channelwise { channels, weight, bias, slopes, .. } = self.convolution;
        let channels = *channels;
        let (x, weight, pitch) = (self.x.values().as_ptr(), weight.as_ptr(), self.x.pitch());
        let (bias, slopes) = (bias.as_ptr(), slopes.as_ptr());
        let finish = self.places.finish(place, 0, bias, slopes);
        // What most layers do is decided here, not for each register.
        let plain = self.places.exact().filter(|maps| maps.other.is_null()).map(|maps| maps.to.wrapping_add(place.to));
        let mut channel = 0;
        // SAFETY: the caller's promise; registers end at or before the last channel.
        unsafe {
            while channel + L::WIDTH <= channels {
                let mut sums = [L::splat(0.0); P];
                for ky in 0..K {
                    let line = x.add(at + ky * pitch + channel);
                    let mut taps = [L::splat(0.0); K];
                    for kx in 0..K {
                        taps[kx] = L::load(weight.add((ky * K + kx) * channels + channel));
                    }
                    for column in 0..(P - 1) * S + K {
                        let value = L::load(line.add(column * channels));
                        for kx in 0..K {
                            if column >= kx && (column - kx).is_multiple_of(S) && (column - kx) / S < P {
                                let pixel = (column - kx) / S;
                                sums[pixel] = L::fma(value, taps[kx], sums[pixel]);
                            }
                        }
                    }
                }
                if let Some(to) = plain {
                    let (bias, slope) = (L::load(bias.add(channel)), L::load(slopes.add(channel)));
                    for pixel in 0..P {
                        let value = L::activate(L::add(sums[pixel], bias), slope);
                        L::store(to.add(pixel * channels + channel), value);
                    }
                } else {
                    for pixel in 0..P {
                        finish.pixel(pixel, channels, channel).register::<L>(sums[pixel]);
                    }
                }
                channel += L::WIDTH;
            }
            if channel < channels {
                for pixel in 0..P {
                    self.rest(at + pixel * S * channels, channel, finish.pixel(pixel, channels, channel));
                }
            }
        }
        P
    }

    /// One pixel with a kernel of any size. Gives 1.
    ///
    /// # Safety
    ///
    /// As for [`Rows::group`].
    #[inline(always)]
    unsafe fn pixel<L: Lanes>(&self, at: usize, place: Place) -> usize {
        let Channelwise { kernel, channels, weight, bias, slopes, .. } = self.convolution;
        let (kernel, channels) = (*kernel, *channels);
        let (x, weight, pitch) = (self.x.values().as_ptr(), weight.as_ptr(), self.x.pitch());
        let finish = self.places.finish(place, 0, bias.as_ptr(), slopes.as_ptr());
        let mut channel = 0;
        // SAFETY: the caller's promise; registers end at or before the last channel.
        unsafe {
            while channel + L::WIDTH <= channels {
                // One sum for each kernel column in turn, so that they do not wait for each other.
                let mut sums = [L::splat(0.0); 4];
                for ky in 0..kernel {
                    for kx in 0..kernel {
                        let value = L::load(x.add(at + ky * pitch + kx * channels + channel));
                        let tap = L::load(weight.add((ky * kernel + kx) * channels + channel));
                        sums[kx % 4] = L::fma(value, tap, sums[kx % 4]);
                    }
                }
                let sum = L::add(L::add(sums[0], sums[1]), L::add(sums[2], sums[3]));
                finish.shifted(channel).register::<L>(sum);
                channel += L::WIDTH;
            }
            if channel < channels {
                self.rest(at, channel, finish.shifted(channel));
            }
        }
        1
    }

    /// The channels of a pixel from `channel` on, one by one.
    ///
    /// # Safety
    ///
    /// As for [`Rows::group`]; `finish` begins at `channel`.
    #[inline(always)]
    unsafe fn rest(&self, at: usize, channel: usize, finish: super::finish::Finish) {
        let Channelwise { kernel, channels, weight, .. } = self.convolution;
        let (values, pitch) = (self.x.values(), self.x.pitch());
        for (offset, channel) in (channel..*channels).enumerate() {
            let mut sum = 0f32;
            for ky in 0..*kernel {
                for kx in 0..*kernel {
                    let value = values[at + ky * pitch + kx * channels + channel];
                    sum += value * weight[(ky * kernel + kx) * channels + channel];
                }
            }
            // SAFETY: the caller's promise.
            unsafe { finish.shifted(offset).one(sum) };
        }
    }
}
