//! A face as the engine sees it: where it is in a photo, what the network made of it.
//!
//! Pixel coordinates are those of the upright photo (after EXIF orientation), x to the right, y downwards, the
//! centre of the first pixel at (0, 0).

use serde::{Deserialize, Serialize};

/// A box in pixels: left, top, right, bottom. It may reach beyond the photo.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BoundingBox {
    /// Left edge.
    pub x1: f32,
    /// Top edge.
    pub y1: f32,
    /// Right edge.
    pub x2: f32,
    /// Bottom edge.
    pub y2: f32,
}

impl BoundingBox {
    /// Width in pixels, never negative.
    pub fn width(&self) -> f32 {
        (self.x2 - self.x1).max(0.0)
    }

    /// Height in pixels, never negative.
    pub fn height(&self) -> f32 {
        (self.y2 - self.y1).max(0.0)
    }

    /// Area in square pixels.
    pub fn area(&self) -> f32 {
        self.width() * self.height()
    }

    /// Centre (x, y).
    pub fn centre(&self) -> [f32; 2] {
        [(self.x1 + self.x2) / 2.0, (self.y1 + self.y2) / 2.0]
    }

    /// Intersection over union with another box, 0 to 1.
    pub fn iou(&self, other: &Self) -> f32 {
        let width = (self.x2.min(other.x2) - self.x1.max(other.x1)).max(0.0);
        let height = (self.y2.min(other.y2) - self.y1.max(other.y1)).max(0.0);
        let intersection = width * height;
        let union = self.area() + other.area() - intersection;
        if union > 0.0 { intersection / union } else { 0.0 }
    }
}

/// Five landmarks in pixels, in the order of the alignment template: the eye, then the other eye (left of the picture
/// first), nose tip, mouth corners (left of the picture first).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Landmarks(pub [[f32; 2]; 5]);

impl Landmarks {
    /// Those of the mirror image of a picture of this width. Pixel centres have whole coordinates, so column 0 goes to
    /// column `width - 1` and x to `width - 1 - x`; left and right eye and mouth corner change places.
    pub fn mirrored(&self, width: u32) -> Self {
        let [left_eye, right_eye, nose, left_corner, right_corner] = self.0;
        let last = width as f32 - 1.0;
        Self([right_eye, left_eye, nose, right_corner, left_corner].map(|[x, y]| [last - x, y]))
    }
}

/// One face found by a detector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DetectedFace {
    /// Where the face is.
    pub bbox: BoundingBox,
    /// Eyes, nose, mouth corners.
    pub landmarks: Landmarks,
    /// The detector's score, 0 to 1.
    pub score: f32,
}

/// What a backbone made of one aligned crop: x = norm · embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Feature {
    /// Unit vector.
    pub embedding: Vec<f32>,
    /// Euclidean length of the raw feature, which grows with the quality of the image (AdaFace, section 3).
    pub norm: f32,
    /// How the face was taken, for set fusion; only where the model has a network for it.
    pub style: Option<Style>,
}

/// How a face was taken, as a network for set fusion sees it: statistics of inner maps of the backbone, compressed by
/// that network. It tells blur, pose and light from each other but says nothing without the network that made it.
#[derive(Debug, Clone, PartialEq)]
pub struct Style {
    /// Names the network ([`SetFusion::id`](crate::template::SetFusion::id)).
    pub network: [u8; 8],
    /// 64 values.
    pub values: Vec<f32>,
}

impl Feature {
    /// Splits a raw feature into direction and length. `None` when it is zero or not finite.
    pub fn from_raw(mut raw: Vec<f32>) -> Option<Self> {
        let norm = raw.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
        if !norm.is_finite() || norm < 1e-12 {
            return None;
        }
        for value in &mut raw {
            *value = (f64::from(*value) / norm) as f32;
        }
        Some(Self { embedding: raw, norm: norm as f32, style: None })
    }
}
