//! Non-maximum suppression: of boxes that show the same face, the one with the highest score stays.
//!
//! The details follow OpenCV's `FaceDetectorYN`, so that the results are the same to the last face: a single candidate
//! is kept whatever its score; otherwise scores must lie above the threshold, and overlaps are taken between boxes
//! whose corner and size are truncated to whole pixels.

use crate::face::{BoundingBox, DetectedFace};

/// Most candidates that are looked at.
pub const TOP_K: usize = 5000;

/// The faces that stay, by descending score; equal scores keep their order.
pub fn suppress(mut faces: Vec<DetectedFace>, min_score: f32, overlap: f32) -> Vec<DetectedFace> {
    if faces.len() <= 1 {
        return faces;
    }
    faces.retain(|face| face.score > min_score);
    faces.sort_by(|a, b| b.score.total_cmp(&a.score));
    faces.truncate(TOP_K);
    let mut kept: Vec<(DetectedFace, BoundingBox)> = vec![];
    for face in faces {
        let whole = truncated(face.bbox);
        if kept.iter().all(|(_, other)| whole.iou(other) <= overlap) {
            kept.push((face, whole));
        }
    }
    kept.into_iter().map(|(face, _)| face).collect()
}

/// Left, top, width and height without their fractions.
fn truncated(bbox: BoundingBox) -> BoundingBox {
    let (x1, y1) = (bbox.x1.trunc(), bbox.y1.trunc());
    BoundingBox { x1, y1, x2: x1 + bbox.width().trunc(), y2: y1 + bbox.height().trunc() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::face::Landmarks;

    fn face(x1: f32, score: f32) -> DetectedFace {
        let bbox = BoundingBox { x1, y1: 0.0, x2: x1 + 10.0, y2: 10.0 };
        DetectedFace { bbox, landmarks: Landmarks([[0.0; 2]; 5]), score }
    }

    #[test]
    fn the_highest_score_stays() {
        let kept = suppress(vec![face(0.0, 0.7), face(2.0, 0.9), face(40.0, 0.8)], 0.6, 0.3);
        assert_eq!(kept.iter().map(|f| f.score).collect::<Vec<_>>(), [0.9, 0.8]);
        // Intersection 4 of 16: below the threshold.
        assert_eq!(suppress(vec![face(0.0, 0.7), face(6.0, 0.9)], 0.6, 0.3).len(), 2);
    }

    #[test]
    fn one_candidate_may_lie_on_the_threshold_and_two_may_not() {
        assert_eq!(suppress(vec![face(0.0, 0.6)], 0.6, 0.3).len(), 1);
        assert_eq!(suppress(vec![face(0.0, 0.6), face(40.0, 0.6)], 0.6, 0.3).len(), 0);
    }

    #[test]
    fn overlaps_are_taken_between_whole_pixels() {
        // 4.5 truncates to 4: intersection 6 of 14 (0.43) instead of 5.5 of 14.5 (0.38).
        let faces = vec![face(0.0, 0.9), face(4.5, 0.8)];
        assert_eq!(suppress(faces.clone(), 0.6, 0.4).len(), 1);
        assert_eq!(suppress(faces, 0.6, 0.45).len(), 2);
    }
}
