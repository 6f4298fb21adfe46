//! Weighted sums of the pixels around a place, across and then down.

use super::{CHANNELS, Interpolation, Side};

/// Weights are whole numbers of this.
const ONE: f32 = (1 << BITS) as f32;
const BITS: u32 = 11;
/// Most pixels that are looked at along a side.
const MOST: usize = 8;
/// Values that OpenCV's vector code takes at a time.
const VECTOR: usize = 8;

/// The pixels from `start` on, clamped to the side, and their weights.
struct Taps {
    start: isize,
    weights: [i32; MOST],
}

/// Pixels looked at along a side.
fn count(interpolation: Interpolation) -> usize {
    match interpolation {
        Interpolation::Nearest => 1,
        Interpolation::Linear | Interpolation::Area => 2,
        Interpolation::Cubic => 4,
        Interpolation::Lanczos4 => 8,
    }
}

/// Taps of every new pixel along a side. `ends` says whether a place outside of the outermost pixels is moved onto them.
fn taps(side: Side, interpolation: Interpolation, ends: bool) -> Vec<Taps> {
    let count = count(interpolation);
    (0..side.to)
        .map(|to| {
            let (mut pixel, mut beyond) = if interpolation == Interpolation::Area {
                let pixel = (to as f64 * side.scale).floor();
                let beyond = ((to + 1) as f64 - (pixel + 1.0) * side.inverse) as f32;
                (pixel as isize, if beyond <= 0.0 { 0.0 } else { beyond - beyond.floor() })
            } else {
                let place = ((to as f64 + 0.5) * side.scale - 0.5) as f32;
                (place.floor() as isize, place - place.floor())
            };
            if ends && count == 2 && (pixel < 0 || pixel >= side.from as isize - 1) {
                (pixel, beyond) = (pixel.clamp(0, side.from as isize - 1), 0.0);
            }
            let weights = weights(interpolation, beyond).map(|weight| (weight * ONE).round_ties_even() as i32);
            Taps { start: pixel - (count as isize / 2 - 1), weights }
        })
        .collect()
}

/// Weights of the pixels around a place that lies `x`, from 0 to 1, beyond the pixel in their middle.
fn weights(interpolation: Interpolation, x: f32) -> [f32; MOST] {
    let mut weights = [0.0; MOST];
    match interpolation {
        Interpolation::Nearest => weights[0] = 1.0,
        Interpolation::Linear | Interpolation::Area => weights[..2].copy_from_slice(&[1.0 - x, x]),
        Interpolation::Cubic => weights[..4].copy_from_slice(&cubic(x)),
        Interpolation::Lanczos4 => weights = lanczos(x),
    }
    weights
}

fn cubic(x: f32) -> [f32; 4] {
    const A: f32 = -0.75;
    let outer = ((A * (x + 1.0) - 5.0 * A) * (x + 1.0) + 8.0 * A) * (x + 1.0) - 4.0 * A;
    let inner = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let (left, right) = (inner(x), inner(1.0 - x));
    [outer, left, right, 1.0 - outer - left - right]
}

fn lanczos(x: f32) -> [f32; 8] {
    use std::f64::consts::{FRAC_1_SQRT_2 as S, FRAC_PI_4};
    /// Sine and cosine of multiples of −135 degrees, from which those of every tap follow.
    const TURNS: [(f64, f64); 8] = [(1., 0.), (-S, -S), (0., 1.), (S, -S), (-1., 0.), (S, S), (0., -1.), (-S, S)];
    let (sine, cosine) = (-f64::from(x + 3.0) * FRAC_PI_4).sin_cos();
    let mut weights = std::array::from_fn(|tap| {
        let distance = x + 3.0 - tap as f32;
        if distance.abs() < 1e-6 {
            // On the pixel, where the formula divides by zero: this outweighs all others.
            return 1e30;
        }
        let angle = -f64::from(distance) * FRAC_PI_4;
        ((TURNS[tap].0 * sine + TURNS[tap].1 * cosine) / (angle * angle)) as f32
    });
    let scale = 1.0 / weights.iter().sum::<f32>();
    weights.iter_mut().for_each(|weight| *weight *= scale);
    weights
}

pub(super) fn resize(pixels: &[u8], x: Side, y: Side, interpolation: Interpolation) -> Vec<u8> {
    let count = count(interpolation);
    let length = x.to * CHANNELS;
    let across = across(pixels, x, interpolation);
    let mut out = vec![0; length * y.to];
    for (taps, target) in taps(y, interpolation, false).iter().zip(out.chunks_exact_mut(length)) {
        let rows: [&[i32]; MOST] = std::array::from_fn(|tap| {
            let row = (taps.start + tap.min(count - 1) as isize).clamp(0, y.from as isize - 1) as usize;
            &across[row * length..][..length]
        });
        match interpolation {
            Interpolation::Cubic => {
                let vectors = length - length % VECTOR;
                cubic_down(&rows, &taps.weights, &mut target[..vectors]);
                down(&rows.map(|row| &row[vectors..]), &taps.weights[..count], &mut target[vectors..]);
            }
            Interpolation::Lanczos4 | Interpolation::Nearest => down(&rows, &taps.weights[..count], target),
            Interpolation::Linear | Interpolation::Area => linear_down(&rows, &taps.weights, target),
        }
    }
    out
}

/// Every row of the picture with its new width, in units of 1 / 2048.
fn across(pixels: &[u8], x: Side, interpolation: Interpolation) -> Vec<i32> {
    let count = count(interpolation);
    let taps = taps(x, interpolation, true);
    // Places of all taps, so that the loop over rows does not clamp.
    let places: Vec<[usize; MOST]> = taps
        .iter()
        .map(|taps| {
            std::array::from_fn(|tap| CHANNELS * (taps.start + tap as isize).clamp(0, x.from as isize - 1) as usize)
        })
        .collect();
    let mut out = Vec::with_capacity(pixels.len() / x.from * x.to);
    for row in pixels.chunks_exact(x.from * CHANNELS) {
        for (places, taps) in places.iter().zip(&taps) {
            let mut sums = [0; CHANNELS];
            for (place, weight) in places.iter().zip(&taps.weights).take(count) {
                let pixel = &row[*place..place + CHANNELS];
                sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += i32::from(*value) * weight);
            }
            out.extend(sums);
        }
    }
    out
}

/// The sum of rows in fixed point, rounded up from the middle. It stays below 2³¹: 2,109,474,272 is the most, for Lanczos.
fn down(rows: &[&[i32]; MOST], weights: &[i32], target: &mut [u8]) {
    for (at, target) in target.iter_mut().enumerate() {
        let sum: i32 = rows.iter().zip(weights).map(|(row, weight)| row[at] * weight).sum();
        *target = ((sum + (1 << (2 * BITS - 1))) >> (2 * BITS)).clamp(0, 255) as u8;
    }
}

/// As OpenCV's vector code sums four rows.
fn cubic_down(rows: &[&[i32]; MOST], weights: &[i32; MOST], target: &mut [u8]) {
    let weights: [f32; 4] = std::array::from_fn(|tap| weights[tap] as f32 * (1.0 / (ONE * ONE)));
    let [first, second, third, fourth] = std::array::from_fn(|tap| &rows[tap][..target.len()]);
    for (at, target) in target.iter_mut().enumerate() {
        let value = |row: &[i32], tap: usize| row[at] as f32 * weights[tap];
        let sum = value(first, 0) + (value(second, 1) + (value(third, 2) + value(fourth, 3)));
        *target = sum.round_ties_even() as u8;
    }
}

/// As OpenCV sums two rows, with less precision than it has.
fn linear_down(rows: &[&[i32]; MOST], weights: &[i32; MOST], target: &mut [u8]) {
    let (first, second) = (&rows[0][..target.len()], &rows[1][..target.len()]);
    for ((target, first), second) in target.iter_mut().zip(first).zip(second) {
        let part = |value: i32, weight: i32| (weight * (value >> 4)) >> 16;
        *target = ((part(*first, weights[0]) + part(*second, weights[1]) + 2) >> 2) as u8;
    }
}
