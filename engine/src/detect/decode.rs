//! From the outputs of YuNet to candidate faces.
//!
//! Each cell of the grids with 8, 16 and 32 pixels per cell proposes one face. The score is the geometric mean of two
//! probabilities: that the cell shows a face, and that its box fits. Box centre and landmarks are offsets from the
//! cell's corner in cells, without a half-cell shift; width and height are exponentials.

use crate::face::{BoundingBox, DetectedFace, Landmarks};

/// Values of a cell: class logit, object logit, box (4), landmarks (10).
pub const CHANNELS: usize = 16;

/// One output grid of one image.
#[derive(Debug, Clone, Copy)]
pub struct Grid<'a> {
    /// Pixels per cell.
    pub stride: usize,
    /// Cells in a row.
    pub columns: usize,
    /// (rows, columns, [`CHANNELS`]).
    pub values: &'a [f32],
}

/// 1 / (1 + e^-x).
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Appends the candidates of a grid with at least `min_score`, in row order. Values that are not finite give none.
pub fn candidates(grid: Grid<'_>, min_score: f32, out: &mut Vec<DetectedFace>) {
    let stride = grid.stride as f32;
    for (index, cell) in grid.values.chunks_exact(CHANNELS).enumerate() {
        let score = (sigmoid(cell[0]) * sigmoid(cell[1])).sqrt();
        if score < min_score || !cell.iter().all(|value| value.is_finite()) {
            continue;
        }
        let (column, row) = ((index % grid.columns) as f32, (index / grid.columns) as f32);
        let (x, y) = ((column + cell[2]) * stride, (row + cell[3]) * stride);
        let (width, height) = (cell[4].exp() * stride, cell[5].exp() * stride);
        let (x1, y1) = (x - width / 2.0, y - height / 2.0);
        let bbox = BoundingBox { x1, y1, x2: x1 + width, y2: y1 + height };
        let mut landmarks = [[0f32; 2]; 5];
        for (point, offset) in landmarks.iter_mut().zip(cell[6..].chunks_exact(2)) {
            *point = [(column + offset[0]) * stride, (row + offset[1]) * stride];
        }
        if width.is_finite() && height.is_finite() {
            out.push(DetectedFace { bbox, landmarks: Landmarks(landmarks), score });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_becomes_a_face() {
        let mut values = vec![-20f32; 3 * 2 * CHANNELS];
        let cell = &mut values[4 * CHANNELS..5 * CHANNELS];
        cell[..6].copy_from_slice(&[0.0, 0.0, 0.5, 0.25, 2f32.ln(), 0.0]);
        cell[6..].copy_from_slice(&[0.0, 0.0, 1.0, 0.0, 0.5, 0.5, 0.0, 1.0, 1.0, 1.0]);
        let mut faces = vec![];
        candidates(Grid { stride: 8, columns: 3, values: &values }, 0.4, &mut faces);
        assert_eq!(faces.len(), 1);
        // Row 1, column 1: the corner is (8, 8), the centre (12, 10), the size 16 x 8.
        assert_eq!(faces[0].bbox, BoundingBox { x1: 4.0, y1: 6.0, x2: 20.0, y2: 14.0 });
        assert_eq!(faces[0].landmarks.0[2], [12.0, 12.0]);
        assert!((faces[0].score - 0.5).abs() < 1e-6);
    }

    #[test]
    fn values_that_are_not_finite_give_no_face() {
        for broken in [f32::NAN, f32::INFINITY] {
            for channel in 0..CHANNELS {
                let mut values = [5f32; CHANNELS];
                values[channel] = broken;
                let mut faces = vec![];
                candidates(Grid { stride: 8, columns: 1, values: &values }, 0.1, &mut faces);
                assert!(faces.is_empty(), "{channel}");
            }
        }
        let mut values = [5f32; CHANNELS];
        values[4] = 200.0;
        let mut faces = vec![];
        candidates(Grid { stride: 8, columns: 1, values: &values }, 0.1, &mut faces);
        assert!(faces.is_empty(), "e^200 is infinite");
    }
}
