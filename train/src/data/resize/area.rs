//! Means over the area of each new pixel.

use super::{CHANNELS, Side};

/// Where each new pixel covers a whole number of old ones.
pub(super) fn whole(pixels: &[u8], x: Side, y: Side, (wide, high): (usize, usize)) -> Vec<u8> {
    let row = x.from * CHANNELS;
    let scale = 1.0 / (wide * high) as f32;
    let mut out = Vec::with_capacity(x.to * y.to * CHANNELS);
    for top in (0..y.to).map(|to| to * high) {
        for left in (0..x.to).map(|to| to * wide) {
            for channel in 0..CHANNELS {
                let at = top * row + left * CHANNELS + channel;
                let column = |at: usize| (0..wide).map(|x| u32::from(pixels[at + x * CHANNELS])).sum::<u32>();
                let sum: u32 = (0..high).map(|y| column(at + y * row)).sum();
                // Halving has a vector form in OpenCV that rounds up from the middle, the others round to even.
                out.push(if (wide, high) == (2, 2) {
                    ((sum + 2) >> 2) as u8
                } else {
                    (sum as f32 * scale).round_ties_even() as u8
                });
            }
        }
    }
    out
}

/// One old pixel's share of a new one.
struct Share {
    to: usize,
    from: usize,
    weight: f32,
}

/// Which old pixels each new one covers, and how much of it each makes up.
fn shares(side: Side) -> Vec<Share> {
    /// Less than this of a pixel is taken for nothing.
    const NOTHING: f64 = 1e-3;
    let mut shares = Vec::new();
    for to in 0..side.to {
        let start = to as f64 * side.scale;
        let end = start + side.scale;
        let covered = side.scale.min(side.from as f64 - start);
        let last = (end.floor() as usize).min(side.from - 1);
        let first = (start.ceil() as usize).min(last);
        let mut share = |from, weight: f64| shares.push(Share { to, from, weight: weight as f32 });
        if first as f64 - start > NOTHING {
            share(first - 1, (first as f64 - start) / covered);
        }
        (first..last).for_each(|from| share(from, 1.0 / covered));
        if end - last as f64 > NOTHING {
            share(last, (end - last as f64).min(1.0).min(covered) / covered);
        }
    }
    shares
}

/// Where new pixels cover parts of old ones.
pub(super) fn parts(pixels: &[u8], x: Side, y: Side) -> Vec<u8> {
    let (across, down) = (shares(x), shares(y));
    let length = x.to * CHANNELS;
    let mut out = vec![0; length * y.to];
    let mut row = vec![0f32; length];
    let mut sums = vec![0f32; length];
    for rows in down.chunk_by(|a, b| a.to == b.to) {
        for (place, share) in rows.iter().enumerate() {
            row.fill(0.0);
            let source = &pixels[share.from * x.from * CHANNELS..][..x.from * CHANNELS];
            for Share { to, from, weight } in &across {
                let (to, from) = (to * CHANNELS, from * CHANNELS);
                for channel in 0..CHANNELS {
                    row[to + channel] += f32::from(source[from + channel]) * weight;
                }
            }
            for (sum, value) in sums.iter_mut().zip(&row) {
                *sum = if place == 0 { share.weight * value } else { *sum + share.weight * value };
            }
        }
        let target = &mut out[rows[0].to * length..][..length];
        target.iter_mut().zip(&sums).for_each(|(target, sum)| *target = sum.round_ties_even() as u8);
    }
    out
}
