//! Faces to try a model on when nobody gave photos: drawn from ellipses by a fixed rule, in several tones of skin, hair
//! and light. No photo of anybody is needed for them.
//!
//! They are good enough to tell the colour orders of a network apart (`super::trial` says how well), not to say what
//! norms it gives to portraits.

use image::{Rgb, RgbImage};

use crate::align::{AlignedCrop, SIZE};

/// How many are drawn.
pub(super) const COUNT: usize = 24;

/// Colours as red, green, blue, 0 to 255.
type Tone = [f64; 3];

const SKIN: [Tone; 6] = [
    [255., 219., 190.],
    [234., 192., 160.],
    [198., 140., 105.],
    [150., 100., 70.],
    [105., 70., 50.],
    [241., 194., 155.],
];
const HAIR: [Tone; 5] = [[40., 30., 25.], [90., 60., 35.], [160., 120., 70.], [20., 18., 18.], [120., 70., 40.]];
const IRIS: [Tone; 3] = [[70., 45., 30.], [60., 90., 130.], [40., 30., 25.]];

/// The drawn faces, always the same.
pub(super) fn drawn() -> Vec<AlignedCrop> {
    (0..COUNT).filter_map(|seed| AlignedCrop::new(face(seed)).ok()).collect()
}

/// Numbers from -1 to 1 by a fixed rule (splitmix64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        (x >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// An ellipse: centre and radii in pixels, and the share of the radius over which its edge fades.
#[derive(Clone, Copy)]
struct Ellipse {
    centre: [f64; 2],
    radii: [f64; 2],
    edge: f64,
}

impl Ellipse {
    /// How much of a pixel it covers, 0 to 1.
    fn covers(&self, x: f64, y: f64) -> f64 {
        let (dx, dy) = ((x - self.centre[0]) / self.radii[0], (y - self.centre[1]) / self.radii[1]);
        ((1.0 - dx.hypot(dy)) / self.edge).clamp(0.0, 1.0)
    }
}

fn ellipse(x: f64, y: f64, rx: f64, ry: f64, edge: f64) -> Ellipse {
    Ellipse { centre: [x, y], radii: [rx, ry], edge }
}

struct Canvas(Vec<Tone>);

impl Canvas {
    fn each(&mut self, mut change: impl FnMut(f64, f64, &mut Tone)) {
        for (at, pixel) in self.0.iter_mut().enumerate() {
            change((at % SIZE as usize) as f64, (at / SIZE as usize) as f64, pixel);
        }
    }

    fn paint(&mut self, ellipse: Ellipse, tone: Tone, opacity: f64) {
        self.each(|x, y, pixel| {
            let share = ellipse.covers(x, y) * opacity;
            for (value, wanted) in pixel.iter_mut().zip(tone) {
                *value += share * (wanted - *value);
            }
        });
    }

    /// The pixels, slightly blurred.
    fn image(&self) -> RgbImage {
        let side = SIZE as usize;
        let at = |x: i64, y: i64, c: usize| {
            let inside = |v: i64| v.clamp(0, side as i64 - 1) as usize;
            self.0[inside(y) * side + inside(x)][c]
        };
        RgbImage::from_fn(SIZE, SIZE, |x, y| {
            let value = |c: usize| {
                let mut sum = 0.0;
                for (dy, wy) in [(-1, 0.25), (0, 0.5), (1, 0.25)] {
                    for (dx, wx) in [(-1, 0.25), (0, 0.5), (1, 0.25)] {
                        sum += wy * wx * at(i64::from(x) + dx, i64::from(y) + dy, c);
                    }
                }
                sum.clamp(0.0, 255.0) as u8
            };
            Rgb([value(0), value(1), value(2)])
        })
    }
}

fn scaled(tone: Tone, by: f64) -> Tone {
    tone.map(|value| value * by)
}

/// A face whose eyes and mouth lie where they lie in aligned crops.
fn face(seed: usize) -> RgbImage {
    let mut noise = Noise(seed as u64);
    let skin = scaled(SKIN[seed % SKIN.len()], 0.95 + 0.1 * noise.next());
    let hair = HAIR[seed % HAIR.len()];
    let grey = 130.0 + 90.0 * noise.next();
    let ground = [0; 3].map(|_| grey + 20.0 * noise.next());
    let mut canvas = Canvas(vec![ground; (SIZE * SIZE) as usize]);

    canvas.paint(ellipse(56., 52., 54., 64., 0.08), hair, 1.0);
    let (wider, longer) = (2.0 * noise.next(), 2.0 * noise.next());
    let head = ellipse(56., 66. + noise.next(), 42. + wider, 56. + longer, 0.08);
    canvas.paint(head, skin, 1.0);
    let light = 0.18 * noise.next();
    canvas.each(|x, y, pixel| {
        let shade = 1.0 + head.covers(x, y) * light * (x - 56.0) / 56.0;
        *pixel = scaled(*pixel, shade);
    });
    for [x, y] in [[38.3, 51.7], [73.5, 51.5]] {
        canvas.paint(ellipse(x, y + 3., 11., 8., 0.6), scaled(skin, 0.82), 0.7);
        canvas.paint(ellipse(x, y, 8., 4.2, 0.2), [235.; 3], 1.0);
        canvas.paint(ellipse(x, y, 3.8, 3.8, 0.3), IRIS[seed % IRIS.len()], 1.0);
        canvas.paint(ellipse(x, y, 1.8, 1.8, 0.4), [10.; 3], 1.0);
        canvas.paint(ellipse(x + 1., y - 1., 0.8, 0.8, 0.6), [250.; 3], 1.0);
        canvas.paint(ellipse(x, y - 10. + noise.next(), 11., 2.4, 0.5), scaled(hair, 0.9), 1.0);
        canvas.paint(ellipse(x, y - 3.6, 8.5, 1.3, 0.8), scaled(skin, 0.45), 1.0);
    }
    canvas.paint(ellipse(56., 71., 6., 9., 0.9), scaled(skin, 1.1), 0.5);
    canvas.paint(ellipse(56., 75., 9., 4.5, 0.8), scaled(skin, 0.86), 0.8);
    for x in [51.5, 60.5] {
        canvas.paint(ellipse(x, 76., 2.2, 1.4, 0.6), scaled(skin, 0.4), 1.0);
    }
    let lips = [skin[0] * 0.85, skin[1] * 0.55, skin[2] * 0.55];
    canvas.paint(ellipse(56., 92.3, 15.5, 4.5, 0.3), lips, 1.0);
    canvas.paint(ellipse(56., 92.3, 14., 0.9, 0.6), scaled(skin, 0.35), 1.0);
    canvas.paint(ellipse(56., 102., 12., 3., 0.9), scaled(skin, 0.85), 0.5);
    canvas.each(|_, _, pixel| *pixel = pixel.map(|value| value + 5.0 * noise.next()));
    canvas.image()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_faces_are_always_the_same_and_all_different() {
        let (one, other) = (drawn(), drawn());
        assert_eq!((one.len(), &one), (COUNT, &other));
        for (at, face) in one.iter().enumerate() {
            assert!(one[at + 1..].iter().all(|other| other != face));
        }
    }
}
