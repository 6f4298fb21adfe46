//! Which faces of a photo are meant.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vultus_engine::face::DetectedFace;

use crate::problem::{Code, Problem, ProblemFace};

/// Which face of a photo is taken when there are several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// The only one; several are refused with `several_faces`.
    Only,
    /// Large and central: area minus twice the squared distance of its centre from the photo's.
    #[default]
    Main,
    /// The largest.
    Largest,
    /// The one nearest to the centre of the photo.
    Central,
    /// The one with the highest detector score.
    Best,
}

impl Select {
    /// Picks one of the faces found in a photo of the given size, or says why not.
    pub fn pick(self, faces: &[DetectedFace], width: u32, height: u32) -> Result<DetectedFace, Problem> {
        if faces.is_empty() {
            return Err(Problem::with(Code::NoFace, "no face was found in the image"));
        }
        if self == Self::Only && faces.len() > 1 {
            let found = faces.iter().map(|face| ProblemFace { bbox: corners(face), score: face.score }).collect();
            return Err(Problem {
                faces: found,
                ..Problem::with(
                    Code::SeveralFaces,
                    format!("{} faces were found; choose one with `select`, or send a crop", faces.len()),
                )
            });
        }
        let distance = |face: &DetectedFace| {
            let [x, y] = face.bbox.centre();
            (x - width as f32 / 2.0).powi(2) + (y - height as f32 / 2.0).powi(2)
        };
        let worth = |face: &DetectedFace| match self {
            Self::Only | Self::Best => face.score,
            Self::Main => face.bbox.area() - 2.0 * distance(face),
            Self::Largest => face.bbox.area(),
            Self::Central => -distance(face),
        };
        // Faces come best score first, and only a strictly better one displaces an earlier.
        let mut picked = faces[0];
        for face in &faces[1..] {
            if worth(face) > worth(&picked) {
                picked = *face;
            }
        }
        Ok(picked)
    }
}

/// Left, top, right, bottom.
pub(crate) fn corners(face: &DetectedFace) -> [f32; 4] {
    [face.bbox.x1, face.bbox.y1, face.bbox.x2, face.bbox.y2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use vultus_engine::face::{BoundingBox, Landmarks};

    fn face(x: f32, y: f32, side: f32, score: f32) -> DetectedFace {
        let bbox = BoundingBox { x1: x - side / 2.0, y1: y - side / 2.0, x2: x + side / 2.0, y2: y + side / 2.0 };
        DetectedFace { bbox, landmarks: Landmarks([[0.0; 2]; 5]), score }
    }

    #[test]
    fn each_rule_picks_its_own() {
        let best = face(10.0, 10.0, 10.0, 0.99);
        let central = face(101.0, 99.0, 40.0, 0.8);
        let largest = face(190.0, 100.0, 60.0, 0.9);
        let faces = [best, largest, central];
        let pick = |select: Select| select.pick(&faces, 200, 200);
        assert_eq!(pick(Select::Best).unwrap(), best);
        assert_eq!(pick(Select::Central).unwrap(), central);
        assert_eq!(pick(Select::Largest).unwrap(), largest);
        assert_eq!(pick(Select::Main).unwrap(), central);
        let refused = pick(Select::Only).unwrap_err();
        assert_eq!((refused.code, refused.faces.len()), (Code::SeveralFaces, 3));
        assert_eq!(Select::Only.pick(&faces[..1], 200, 200).unwrap(), best);
        assert_eq!(Select::Main.pick(&[], 200, 200).unwrap_err().code, Code::NoFace);
    }
}
