//! The boxes of the cascade: overlaps, calibration, squares, and what a box sees of the photo.
//!
//! Corners are pixels that belong to the box, so a box from 3 to 5 is 3 wide. They are 64-bit floats, as in the published
//! code, because rounding decides which pixels a network sees.

use std::collections::{BTreeSet, HashMap};

use super::pillow::Window;

/// A box on its way through the cascade.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    /// Left, top, right, bottom.
    pub(crate) corners: [f64; 4],
    /// Probability of a face by the latest network.
    pub(crate) score: f32,
    /// How far the latest network would move the corners, in widths and heights.
    pub(crate) offsets: [f32; 4],
}

impl AsRef<Self> for Candidate {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl Candidate {
    pub(crate) fn width(&self) -> f64 {
        self.corners[2] - self.corners[0] + 1.0
    }

    pub(crate) fn height(&self) -> f64 {
        self.corners[3] - self.corners[1] + 1.0
    }

    fn area(&self) -> f64 {
        self.width() * self.height()
    }

    fn intersection(&self, other: &Self) -> f64 {
        let along = |low: usize, high: usize| {
            let length = self.corners[high].min(other.corners[high]) - self.corners[low].max(other.corners[low]) + 1.0;
            length.max(0.0)
        };
        along(0, 2) * along(1, 3)
    }

    /// The corners moved by the offsets.
    pub(crate) fn calibrated(mut self) -> Self {
        let (width, height) = (self.width(), self.height());
        let sizes = [width, height, width, height];
        for ((corner, size), offset) in self.corners.iter_mut().zip(sizes).zip(self.offsets) {
            *corner += size * f64::from(offset);
        }
        self
    }

    /// The smallest square around the box with the same centre, on whole pixels.
    pub(crate) fn squared(mut self) -> Self {
        let (width, height) = (self.width(), self.height());
        let side = width.max(height);
        let left = self.corners[0] + width * 0.5 - side * 0.5;
        let top = self.corners[1] + height * 0.5 - side * 0.5;
        self.corners = [left, top, left + side - 1.0, top + side - 1.0].map(f64::round_ties_even);
        self
    }

    /// What the box sees of a photo of this size, after which the box itself ends at the photo's edges: the published
    /// code cuts its boxes while it crops, and all that follows works with the cut ones.
    ///
    /// `None` for a box without a pixel of the photo, of which the published code makes nothing either: it fails.
    pub(crate) fn look(&mut self, [photo_width, photo_height]: [u32; 2]) -> Option<Window> {
        let [left, top, right, bottom] = self.corners;
        let (last_column, last_row) = (f64::from(photo_width) - 1.0, f64::from(photo_height) - 1.0);
        // Written so that a corner that is no number is outside too.
        let inside = left <= last_column && top <= last_row && right >= 0.0 && bottom >= 0.0;
        // Sizes that no calibration gives would cost memory.
        let most = 8.0 * (last_column.max(last_row) + 1.0);
        let usable = (1.0..=most).contains(&self.width()) && (1.0..=most).contains(&self.height());
        if !inside || !usable {
            return None;
        }
        let window =
            Window { left: left as i64, top: top as i64, width: self.width() as usize, height: self.height() as usize };
        self.corners = [left.max(0.0), top.max(0.0), right.min(last_column), bottom.min(last_row)];
        Some(window)
    }
}

/// What an overlap is measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    /// The area that either box covers.
    Union,
    /// The area of the smaller box.
    Smaller,
}

/// Lists of up to this many boxes are sorted by insertion in the published code.
const SHORT: usize = 16;

/// Of boxes that overlap by more than `threshold`, keeps those with the higher score, by descending score.
///
/// Equal scores are not rare where a photo repeats itself, and their order decides which box stays. The published code
/// takes boxes from the end of an ascending sort that is stable for short lists only: there the later box comes first. In
/// long lists its order is that of an unstable sort, different from machine to machine; here the earlier box comes first.
pub(crate) fn suppress<T: AsRef<Candidate>>(mut boxes: Vec<T>, threshold: f64, measure: Measure) -> Vec<T> {
    if boxes.len() <= SHORT {
        boxes.reverse();
    }
    boxes.sort_by(|a, b| b.as_ref().score.total_cmp(&a.as_ref().score));
    let mut kept: Vec<T> = vec![];
    let mut grid = Grid::default();
    for next in boxes {
        let candidate = next.as_ref();
        let overlaps = |other: &T| {
            let other = other.as_ref();
            let intersection = candidate.intersection(other);
            let whole = match measure {
                Measure::Union => candidate.area() + other.area() - intersection,
                Measure::Smaller => candidate.area().min(other.area()),
            };
            intersection / whole > threshold
        };
        let free = match measure {
            Measure::Union => !grid.any_near(candidate, threshold, |index| overlaps(&kept[index])),
            Measure::Smaller => !kept.iter().any(overlaps),
        };
        if free {
            grid.insert(candidate, kept.len());
            kept.push(next);
        }
    }
    kept
}

/// Boxes by size and place, so that among very many only those that can overlap are compared.
///
/// Sizes are powers of two of the longer side; within one, the centre of a box falls into a cell as wide as the largest
/// box of that size.
#[derive(Debug, Default)]
struct Grid {
    cells: HashMap<(i32, i64, i64), Vec<usize>>,
    sizes: BTreeSet<i32>,
}

impl Grid {
    fn size(side: f64) -> i32 {
        side.max(1.0).log2().floor() as i32
    }

    fn cell(size: i32) -> f64 {
        f64::from(size + 1).exp2()
    }

    fn centre(candidate: &Candidate) -> [f64; 2] {
        let [left, top, right, bottom] = candidate.corners;
        [(left + right) / 2.0, (top + bottom) / 2.0]
    }

    fn insert(&mut self, candidate: &Candidate, index: usize) {
        let size = Self::size(candidate.width().max(candidate.height()));
        let [x, y] = Self::centre(candidate).map(|at| (at / Self::cell(size)).floor() as i64);
        self.sizes.insert(size);
        self.cells.entry((size, x, y)).or_default().push(index);
    }

    /// Whether the test holds for any box whose overlap with the candidate can exceed `threshold` of their union.
    fn any_near(&self, candidate: &Candidate, threshold: f64, test: impl Fn(usize) -> bool) -> bool {
        let side = candidate.width().max(candidate.height());
        // The other's area, and with it the square of its longer side, is more than this share of ours.
        let smallest = Self::size((threshold * candidate.area()).max(0.0).sqrt());
        let centre = Self::centre(candidate);
        self.sizes.range(smallest..).any(|size| {
            let cell = Self::cell(*size);
            let reach = (side + cell) / 2.0;
            let [xs, ys] = centre.map(|at| {
                let place = |at: f64| (at / cell).floor() as i64;
                place(at - reach)..=place(at + reach)
            });
            ys.flat_map(|y| xs.clone().map(move |x| (*size, x, y)))
                .filter_map(|key| self.cells.get(&key))
                .any(|indices| indices.iter().any(|index| test(*index)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(corners: [f64; 4], score: f32) -> Candidate {
        Candidate { corners, score, offsets: [0.0; 4] }
    }

    #[test]
    fn the_highest_score_stays_and_the_threshold_is_strict() {
        // 10 wide each; 5 columns in common: a third of the union, half of the smaller.
        let pair = vec![candidate([0.0, 0.0, 9.0, 9.0], 0.7), candidate([5.0, 0.0, 14.0, 9.0], 0.9)];
        let kept = |threshold, measure| suppress(pair.clone(), threshold, measure).len();
        assert_eq!(kept(1.0 / 3.0, Measure::Union), 2);
        assert_eq!(kept(0.33, Measure::Union), 1);
        assert_eq!(kept(0.5, Measure::Smaller), 2);
        assert_eq!(kept(0.49, Measure::Smaller), 1);
        assert_eq!(suppress(pair, 0.3, Measure::Union)[0].score, 0.9);
    }

    #[test]
    fn of_equal_scores_the_later_comes_first_in_short_lists() {
        let apart = |at: usize| candidate([100.0 * at as f64, 0.0, 100.0 * at as f64 + 9.0, 9.0], 0.5);
        let first = |count: usize| suppress((0..count).map(apart).collect(), 0.5, Measure::Union)[0];
        assert_eq!(first(16), apart(15));
        assert_eq!(first(17), apart(0));
    }

    #[test]
    fn squares_have_whole_corners() {
        let square = candidate([1.0, 2.0, 4.5, 9.0], 0.5).squared();
        // 4.5 by 8: half of the difference to the left, and ties go to the even number.
        assert_eq!(square.corners, [-1.0, 2.0, 6.0, 9.0]);
        let moved = Candidate { offsets: [0.5, -0.25, 0.0, 1.0], ..candidate([0.0, 0.0, 9.0, 19.0], 0.5) };
        assert_eq!(moved.calibrated().corners, [5.0, -5.0, 9.0, 39.0]);
    }

    #[test]
    fn looking_cuts_the_box() {
        let mut reaching = candidate([-3.0, 5.0, 6.0, 14.0], 0.5);
        let window = reaching.look([100, 10]).unwrap();
        assert_eq!(window, Window { left: -3, top: 5, width: 10, height: 10 });
        assert_eq!(reaching.corners, [0.0, 5.0, 6.0, 9.0]);
        for outside in [
            [-9.0, 0.0, -1.0, 8.0],
            [100.0, 0.0, 108.0, 8.0],
            [0.0, 10.0, 8.0, 18.0],
            [5.0, 5.0, 3.0, 8.0],
            [f64::NAN; 4],
            [-1e300, -1e300, 1e300, 1e300],
        ] {
            assert_eq!(candidate(outside, 0.5).look([100, 10]), None, "{outside:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// The grid changes nothing.
        #[test]
        fn near_boxes_are_all_that_matter(
            boxes in prop::collection::vec((-20.0..60.0f64, -20.0..60.0f64, -2.0..40.0f64, 0.0..40.0f64, 0u8..9), 0..80),
            threshold in 0.05..0.9f64,
        ) {
            let candidates: Vec<Candidate> = boxes
                .iter()
                .map(|(x, y, w, h, score)| candidate([*x, *y, x + w, y + h], f32::from(*score) / 9.0))
                .collect();
            let mut expected: Vec<Candidate> = vec![];
            let mut sorted = candidates.clone();
            if sorted.len() <= SHORT {
                sorted.reverse();
            }
            sorted.sort_by(|a, b| b.score.total_cmp(&a.score));
            for next in sorted {
                let overlap = |other: &Candidate| {
                    let common = next.intersection(other);
                    common / (next.area() + other.area() - common)
                };
                if !expected.iter().any(|other| overlap(other) > threshold) {
                    expected.push(next);
                }
            }
            prop_assert_eq!(suppress(candidates, threshold, Measure::Union), expected);
        }
    }
}
