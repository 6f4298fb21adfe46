//! From a photo and five landmarks to the 112x112 crop that recognition networks see.
//!
//! A similarity (scale, rotation, shift; never a reflection) takes the landmarks as near as possible, in the crop, to
//! the places of [`REFERENCE`]: Umeyama's least-squares fit, which is what the networks were trained and are
//! evaluated with. The crop is then sampled bilinearly, black outside of the photo.

mod compat;

use image::RgbImage;

pub use compat::{align_compat, compat_transform};

use crate::face::Landmarks;

/// Side of an aligned crop in pixels.
pub const SIZE: u32 = 112;

/// Where eyes, nose and mouth corners lie in an aligned crop (x, y). The ArcFace template: the five points of the
/// 96x112 crops of SphereFace moved right by 8 pixels.
pub const REFERENCE: [[f32; 2]; 5] =
    [[38.294_6, 51.696_3], [73.531_8, 51.501_4], [56.025_2, 71.736_6], [41.549_3, 92.365_5], [70.729_9, 92.204_1]];

/// Why a crop cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum AlignError {
    /// A landmark that is not a number, or infinite.
    #[error("a landmark is not finite")]
    NotFinite,
    /// Landmarks that fall together, or so arranged that no orientation fits better than another.
    #[error("the landmarks do not determine a position")]
    Degenerate,
    /// An image of another size.
    #[error("an aligned crop has {SIZE}x{SIZE} pixels, not {width}x{height}")]
    WrongSize {
        /// Its width.
        width: u32,
        /// Its height.
        height: u32,
    },
}

/// An aligned crop: 112x112 pixels, RGB, and where its landmarks lie if that is known. Its debug form does not show the
/// pixels.
#[derive(Clone, PartialEq)]
pub struct AlignedCrop {
    image: RgbImage,
    landmarks: Option<Landmarks>,
}

impl std::fmt::Debug for AlignedCrop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AlignedCrop")
    }
}

impl AlignedCrop {
    /// Takes an image that is aligned already. Its landmarks are not known; networks that look at them take
    /// [`REFERENCE`].
    pub fn new(image: RgbImage) -> Result<Self, AlignError> {
        let (width, height) = image.dimensions();
        if (width, height) == (SIZE, SIZE) {
            Ok(Self { image, landmarks: None })
        } else {
            Err(AlignError::WrongSize { width, height })
        }
    }

    /// The same crop with its landmarks, in pixels of the crop.
    pub fn with_landmarks(self, landmarks: Landmarks) -> Self {
        Self { landmarks: Some(landmarks), ..self }
    }

    /// Where the landmarks lie, in pixels of the crop.
    pub fn landmarks(&self) -> Option<&Landmarks> {
        self.landmarks.as_ref()
    }

    /// The pixels.
    pub fn image(&self) -> &RgbImage {
        &self.image
    }

    /// A copy whose pixels were changed in place.
    pub(crate) fn edited(&self, edit: impl FnOnce(&mut RgbImage)) -> Self {
        let mut copy = self.clone();
        edit(&mut copy.image);
        debug_assert_eq!(copy.image.dimensions(), (SIZE, SIZE));
        copy
    }

    /// The pixels, taken out.
    pub fn into_image(self) -> RgbImage {
        self.image
    }
}

/// A similarity of the plane without reflection: (x, y) -> (a x - b y + tx, b x + a y + ty).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Similarity {
    /// Scale times cosine of the angle.
    pub a: f64,
    /// Scale times sine of the angle.
    pub b: f64,
    /// Shift to the right.
    pub tx: f64,
    /// Shift downwards.
    pub ty: f64,
}

impl Similarity {
    /// The similarity minimising the sum of squared distances between the images of `from` and `to`.
    ///
    /// In two dimensions Umeyama's fit has a closed form: with centred points, a and b are the sums of inner and
    /// cross products over the sum of squares of `from`.
    pub fn fit(from: &[[f32; 2]; 5], to: &[[f32; 2]; 5]) -> Result<Self, AlignError> {
        if from.iter().chain(to).flatten().any(|value| !value.is_finite()) {
            return Err(AlignError::NotFinite);
        }
        let (from_mean, to_mean) = (mean(from), mean(to));
        let (mut inner, mut cross, mut square, mut target) = (0.0, 0.0, 0.0, 0.0);
        for (p, q) in from.iter().zip(to) {
            let (x, y) = (f64::from(p[0]) - from_mean[0], f64::from(p[1]) - from_mean[1]);
            let (u, v) = (f64::from(q[0]) - to_mean[0], f64::from(q[1]) - to_mean[1]);
            inner += x * u + y * v;
            cross += x * v - y * u;
            square += x * x + y * y;
            target += u * u + v * v;
        }
        // Points closer together than a thousandth of a pixel, or a fit that shrinks everything to one point.
        let strength = inner.hypot(cross) / (square * target).sqrt();
        if square < 1e-6 || target < 1e-6 || strength.is_nan() || strength < 1e-3 {
            return Err(AlignError::Degenerate);
        }
        let (a, b) = (inner / square, cross / square);
        let tx = to_mean[0] - a * from_mean[0] + b * from_mean[1];
        let ty = to_mean[1] - b * from_mean[0] - a * from_mean[1];
        // Landmarks far beyond any photo would overflow later on.
        let usable = (1e-6..1e6).contains(&a.hypot(b)) && tx.abs() < 1e9 && ty.abs() < 1e9;
        if usable { Ok(Self { a, b, tx, ty }) } else { Err(AlignError::Degenerate) }
    }

    /// Image of a point.
    pub fn apply(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [self.a * x - self.b * y + self.tx, self.b * x + self.a * y + self.ty]
    }

    /// The similarity that undoes this one.
    pub fn inverse(&self) -> Self {
        let square = self.a * self.a + self.b * self.b;
        let (a, b) = (self.a / square, -self.b / square);
        Self { a, b, tx: -a * self.tx + b * self.ty, ty: -b * self.tx - a * self.ty }
    }
}

fn mean(points: &[[f32; 2]; 5]) -> [f64; 2] {
    let sum = |axis: usize| points.iter().map(|point| f64::from(point[axis])).sum::<f64>();
    [sum(0) / 5.0, sum(1) / 5.0]
}

/// Cuts the aligned crop of the face with these landmarks out of a photo. The crop knows where they lie in it.
pub fn align(photo: &RgbImage, landmarks: &Landmarks) -> Result<AlignedCrop, AlignError> {
    let to_crop = Similarity::fit(&landmarks.0, &REFERENCE)?;
    let to_photo = to_crop.inverse();
    let crop =
        RgbImage::from_fn(SIZE, SIZE, |x, y| image::Rgb(sample(photo, to_photo.apply([f64::from(x), f64::from(y)]))));
    let landmarks = landmarks.0.map(|point| to_crop.apply(point.map(f64::from)).map(|value| value as f32));
    Ok(AlignedCrop { image: crop, landmarks: Some(Landmarks(landmarks)) })
}

/// Bilinear sample, black outside of the photo.
fn sample(photo: &RgbImage, [x, y]: [f64; 2]) -> [u8; 3] {
    let (width, height) = (i64::from(photo.width()), i64::from(photo.height()));
    let (left, top) = (floor(x), floor(y));
    let (fx, fy) = ((x - left as f64) as f32, (y - top as f64) as f32);
    let weights = [(1.0 - fx) * (1.0 - fy), fx * (1.0 - fy), (1.0 - fx) * fy, fx * fy];
    let mut sum = [0f32; 3];
    if (0..width - 1).contains(&left) && (0..height - 1).contains(&top) {
        // Nearly all pixels: the four neighbours are two runs of six bytes.
        let (row, at) = (3 * width as usize, 3 * (top * width + left) as usize);
        let raw = photo.as_raw();
        if let (Some(upper), Some(lower)) = (raw.get(at..at + 6), raw.get(at + row..at + row + 6)) {
            for channel in 0..3 {
                let neighbours = [upper[channel], upper[channel + 3], lower[channel], lower[channel + 3]];
                for (weight, value) in weights.into_iter().zip(neighbours) {
                    sum[channel] += weight * f32::from(value);
                }
            }
        }
        return sum.map(rounded);
    }
    for ((dx, dy), weight) in [(0, 0), (1, 0), (0, 1), (1, 1)].into_iter().zip(weights) {
        let (x, y) = (left.saturating_add(dx), top.saturating_add(dy));
        if (0..width).contains(&x) && (0..height).contains(&y) {
            let pixel = photo.get_pixel(x as u32, y as u32).0;
            for channel in 0..3 {
                sum[channel] += weight * f32::from(pixel[channel]);
            }
        }
    }
    sum.map(rounded)
}

/// The largest whole number that is not larger. Conversion saturates, so a point far away stays outside. The standard
/// library's is a call for processors that need not have an instruction for it.
fn floor(value: f64) -> i64 {
    let whole = value as i64;
    whole.saturating_sub(i64::from(whole as f64 > value))
}

/// The nearest whole number, halves upwards, of a value from 0 to 255.
fn rounded(value: f32) -> u8 {
    let whole = value as u8;
    whole.saturating_add(u8::from(value - f32::from(whole) >= 0.5))
}

#[cfg(test)]
mod tests;
