//! A part of the image, where it was, in black.

use vultus_engine::random::Random;

use crate::data::crop::{Crop, SIDE};

/// Smallest and largest area, as a share of the crop's.
const AREA: (f64, f64) = (0.2, 1.0);
/// Smallest and largest ratio of width to height.
const ASPECT: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
/// How often a rectangle is drawn that does not fit before the whole crop is taken.
const TRIES: usize = 10;

/// A part of a crop, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rectangle {
    /// First column.
    pub left: usize,
    /// First row.
    pub top: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl Rectangle {
    /// The rectangle of torchvision's `RandomResizedCrop`: area uniform, logarithm of the aspect uniform, place uniform.
    pub fn draw(random: &mut Random) -> Self {
        for _ in 0..TRIES {
            let area = (SIDE * SIDE) as f64 * random.uniform(AREA.0, AREA.1);
            let aspect = random.uniform(ASPECT.0.ln(), ASPECT.1.ln()).exp();
            let side = |length: f64| length.sqrt().round_ties_even() as usize;
            let (width, height) = (side(area * aspect), side(area / aspect));
            if (1..=SIDE).contains(&width) && (1..=SIDE).contains(&height) {
                let top = random.below(SIDE - height + 1);
                let left = random.below(SIDE - width + 1);
                return Self { left, top, width, height };
            }
        }
        Self { left: 0, top: 0, width: SIDE, height: SIDE }
    }
}

/// Makes everything outside of a rectangle black.
pub fn black_outside(crop: &mut Crop, rectangle: Rectangle) {
    let Rectangle { left, top, width, height } = rectangle;
    for (y, row) in crop.pixels_mut().chunks_exact_mut(3 * SIDE).enumerate() {
        let kept = if (top..top + height).contains(&y) { left.min(SIDE)..(left + width).min(SIDE) } else { 0..0 };
        row[..3 * kept.start].fill(0);
        row[3 * kept.end..].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inside_stays_in_its_place() {
        let original = Crop::from_bgr((0..Crop::BYTES).map(|at| (at % 251 + 1) as u8).collect());
        let mut crop = original.clone();
        black_outside(&mut crop, Rectangle { left: 10, top: 20, width: 30, height: 92 });
        for y in 0..SIDE {
            for x in 0..SIDE {
                let at = 3 * (y * SIDE + x);
                let inside = (10..40).contains(&x) && (20..112).contains(&y);
                let expected = if inside { &original.pixels()[at..at + 3] } else { &[0; 3][..] };
                assert_eq!(&crop.pixels()[at..at + 3], expected, "{x} {y}");
            }
        }
    }

    #[test]
    fn rectangles_have_area_and_aspect_in_range_and_reach_every_edge() {
        let mut random = Random::new(1);
        let drawn: Vec<Rectangle> = (0..5_000).map(|_| Rectangle::draw(&mut random)).collect();
        let mut areas = 0.0;
        for Rectangle { left, top, width, height } in &drawn {
            assert!(left + width <= SIDE && top + height <= SIDE);
            let (area, aspect) = ((width * height) as f64 / (SIDE * SIDE) as f64, *width as f64 / *height as f64);
            // Sides are rounded to whole pixels.
            assert!((0.195..=1.0).contains(&area) && (0.73..=1.37).contains(&aspect), "{area} {aspect}");
            areas += area / 5_000.0;
        }
        // Uniform would be 0.6; large rectangles of another aspect than the crop's do not fit and are drawn again.
        assert!((0.53..0.6).contains(&areas), "{areas}");
        assert!(drawn.iter().any(|r| r.left == 0) && drawn.iter().any(|r| r.left + r.width == SIDE));
        assert!(drawn.iter().any(|r| r.top == 0) && drawn.iter().any(|r| r.top + r.height == SIDE));
    }
}
