//! The three stages of the cascade, each from the boxes of the one before.
//!
//! ```text
//! photo ─► pyramid ─► P-Net ─► propose ─► merge ─► 24x24 crops ─► R-Net ─► refine ─► 48x48 crops ─► O-Net ─► finish
//! ```
//!
//! Memory does not grow with the photo beyond twice what the photo itself takes: P-Net sees bands of rows, crops are made in
//! batches, and the number of boxes after P-Net is bounded. Bands and batches are what threads share: each is scaled, seen
//! and read by one.

use std::ops::Range;

use image::RgbImage;

use super::abreast::Abreast;
use super::boxes::{Candidate, Measure, suppress};
use super::networks::{Answers, Networks};
use super::pillow::{Scaled, Window};
use super::{DetectError, Form};
use crate::face::{BoundingBox, DetectedFace, Landmarks};

/// Smallest face in pixels where no larger one is asked for.
pub(crate) const MIN_FACE_PX: f64 = 20.0;
/// Each level of the pyramid is this much smaller than the one before.
const FACTOR: f64 = 0.85;
/// Pixels that a cell of P-Net sees in both directions, and by which neighbouring cells are apart.
const CELL_PX: usize = 12;
const STRIDE_PX: usize = 2;
/// A face has more than this probability by P-Net, R-Net, O-Net.
const THRESHOLDS: [f32; 3] = [0.6, 0.7, 0.9];
/// Most overlap of two boxes of one level.
const LEVEL_OVERLAP: f64 = 0.5;
/// Most overlap of two boxes after each network.
const OVERLAP: f64 = 0.7;
/// Most boxes that R-Net looks at, the best of P-Net. A photo of two megapixels full of faces has some thousands.
pub(crate) const MAX_PROPOSALS: usize = 30_000;

/// The scales at which P-Net sees a photo, finest first.
pub(crate) fn scales(width: u32, height: u32, min_face_px: f64) -> Vec<f64> {
    let first = CELL_PX as f64 / min_face_px;
    let (mut shorter, mut scales) = (f64::from(width.min(height)) * first, vec![]);
    while shorter > CELL_PX as f64 {
        scales.push(first * FACTOR.powf(scales.len() as f64));
        shorter *= FACTOR;
    }
    scales
}

/// P-Net's boxes at one scale, overlapping ones removed.
pub(crate) fn propose(
    networks: &Networks,
    photo: &Abreast,
    form: Form,
    scale: f64,
) -> Result<Vec<Candidate>, DetectError> {
    let size = |side: usize| (side as f64 * scale).ceil() as usize;
    let (width, height) = (size(photo.width()), size(photo.height()));
    if width < CELL_PX || height < CELL_PX {
        return Ok(vec![]);
    }
    let level = Scaled::whole(photo, width, height);
    // The pooling makes a row of cells of an odd last row of pixels too.
    let cells = (height - 2).div_ceil(STRIDE_PX) - 4;
    let band = (networks.portion().band_px / width / STRIDE_PX).max(16);
    let bands: Vec<Range<usize>> = (0..cells).step_by(band).map(|first| first..(first + band).min(cells)).collect();
    let found = networks.each(&bands, |cells| {
        let rows = STRIDE_PX * cells.start..(STRIDE_PX * (cells.end - 1) + CELL_PX).min(height);
        let answers = networks.propose(&level.rows(rows), width)?;
        let mut found = vec![];
        for (row, cells) in cells.clone().zip(answers.values.chunks_exact(answers.columns)) {
            let chances = form.chances(cells);
            for ((column, cell), score) in cells.iter().enumerate().zip(chances) {
                if score > THRESHOLDS[0] {
                    let at = |cell: usize, further: usize| {
                        ((STRIDE_PX * cell + 1 + further) as f64 / scale).round_ties_even()
                    };
                    let corners = [at(column, 0), at(row, 0), at(column, CELL_PX), at(row, CELL_PX)];
                    found.push(Candidate { corners, score, offsets: [cell[2], cell[3], cell[4], cell[5]] });
                }
            }
        }
        Ok(found)
    })?;
    let found = found.concat();
    Ok(suppress(found, LEVEL_OVERLAP, Measure::Union))
}

/// The boxes of all levels together, overlapping ones removed: the first stage's result before calibration.
pub(crate) fn merge(levels: Vec<Vec<Candidate>>) -> Vec<Candidate> {
    let mut merged = suppress(levels.into_iter().flatten().collect(), OVERLAP, Measure::Union);
    merged.truncate(MAX_PROPOSALS);
    merged
}

/// Moved and made square: what the next network looks at.
pub(crate) fn next(candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.into_iter().map(|candidate| candidate.calibrated().squared()).collect()
}

/// Runs a network over what the boxes see, cutting them at the photo's edges. Boxes that see nothing are left out.
fn look<const N: usize>(
    networks: &Networks,
    photo: &RgbImage,
    candidates: Vec<Candidate>,
    (side, batch): (usize, usize),
    network: impl Fn(&[u8]) -> candle_core::Result<Answers<N>> + Sync + Send,
) -> Result<Vec<(Candidate, [f32; N])>, DetectError> {
    let size = [photo.width(), photo.height()];
    let windows: Vec<(Candidate, Window)> = candidates
        .into_iter()
        .filter_map(|mut candidate| candidate.look(size).map(|window| (candidate, window)))
        .collect();
    let batches: Vec<&[(Candidate, Window)]> = windows.chunks(batch).collect();
    let seen = networks.each(&batches, |windows| {
        let mut pixels = Vec::with_capacity(windows.len() * side * side * 3);
        for (_, window) in *windows {
            pixels.extend_from_slice(&Scaled::window(photo, *window, side, side).rows(0..side));
        }
        let candidates = windows.iter().map(|(candidate, _)| *candidate);
        Ok(candidates.zip(network(&pixels)?.values).collect::<Vec<_>>())
    })?;
    Ok(seen.concat())
}

/// R-Net: the boxes that it takes for faces, overlapping ones removed, before calibration.
pub(crate) fn refine(
    networks: &Networks,
    photo: &RgbImage,
    candidates: Vec<Candidate>,
) -> Result<Vec<Candidate>, DetectError> {
    let seen = look(networks, photo, candidates, (24, networks.portion().crops[0]), |pixels| networks.refine(pixels))?;
    let scored = seen.into_iter().map(|(candidate, answer)| {
        let [none, face, offsets @ ..] = answer;
        Candidate { score: chance(none, face), offsets, ..candidate }
    });
    Ok(suppress(scored.filter(|candidate| candidate.score > THRESHOLDS[1]).collect(), OVERLAP, Measure::Union))
}

/// O-Net: the faces, best first.
pub(crate) fn finish(
    networks: &Networks,
    photo: &RgbImage,
    candidates: Vec<Candidate>,
) -> Result<Vec<DetectedFace>, DetectError> {
    let mut faces = vec![];
    for (candidate, answer) in
        look(networks, photo, candidates, (48, networks.portion().crops[1]), |pixels| networks.output(pixels))?
    {
        let [none, face, x1, y1, x2, y2, places @ ..] = answer;
        let score = chance(none, face);
        if score > THRESHOLDS[2] {
            // Landmarks are relative to the box before it is moved.
            let (left, top) = (candidate.corners[0], candidate.corners[1]);
            let (width, height) = (candidate.width(), candidate.height());
            let point = |index: usize| {
                let (x, y) = (f64::from(places[index]), f64::from(places[index + 5]));
                [(left + width * x) as f32, (top + height * y) as f32]
            };
            let landmarks = Landmarks(std::array::from_fn(point));
            let candidate = Candidate { score, offsets: [x1, y1, x2, y2], ..candidate }.calibrated();
            faces.push(Face { candidate, landmarks });
        }
    }
    let faces = suppress(faces, OVERLAP, Measure::Smaller).into_iter().map(|Face { candidate, landmarks }| {
        let [x1, y1, x2, y2] = candidate.corners.map(|corner| corner as f32);
        DetectedFace { bbox: BoundingBox { x1, y1, x2, y2 }, landmarks, score: candidate.score }
    });
    Ok(faces.collect())
}

/// A box of O-Net with its landmarks.
struct Face {
    candidate: Candidate,
    landmarks: Landmarks,
}

impl AsRef<Candidate> for Face {
    fn as_ref(&self) -> &Candidate {
        &self.candidate
    }
}

/// Probability of a face from the two logits.
fn chance(none: f32, face: f32) -> f32 {
    let largest = none.max(face);
    let (none, face) = ((none - largest).exp(), (face - largest).exp());
    face / (none + face)
}

impl Form {
    /// P-Net's probability of a face in each cell of a row.
    fn chances(self, cells: &[[f32; 6]]) -> Vec<f32> {
        match self {
            Self::Correct => cells.iter().map(|cell| chance(cell[0], cell[1])).collect(),
            Self::Compat => {
                let largest = cells.iter().map(|cell| cell[1]).fold(f32::NEG_INFINITY, f32::max);
                let powers: Vec<f32> = cells.iter().map(|cell| (cell[1] - largest).exp()).collect();
                let sum: f32 = powers.iter().sum();
                powers.into_iter().map(|power| power / sum).collect()
            }
        }
    }
}
