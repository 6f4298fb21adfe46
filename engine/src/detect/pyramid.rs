//! Scanning photos of any size with a network that finds faces of a limited range of sizes.
//!
//! Measured on 120 LFW photos, scaled: YuNet at a minimum score of 0.6 finds 99 % of faces that are 24 pixels high, 85 %
//! at 20, 46 % at 16, and next to none below; upwards it finds all up to 600 pixels, with scores falling from 400, and
//! none at 1000. So small faces need the photo in full size, and large ones need it smaller.
//!
//! A photo is therefore scanned in full size and then at a quarter of the scale before ([`Plan::levels`]) until the
//! whole picture is small. A level that is larger than a tile is scanned in overlapping tiles, so that memory does not
//! grow with the photo. A tile answers for the faces whose centre lies in its core, the part up to the middle of each
//! overlap, and drops those that its inner edge cuts; the coarser level, which sees them whole, finds these. The faces
//! of all levels are merged by non-maximum suppression.
//!
//! Tiles start at multiples of 32 pixels, the largest cell of the network, so a face away from the edges of its tile
//! gets very nearly the values that it gets in the whole picture.

use std::borrow::Cow;
use std::collections::BTreeMap;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;
use rayon::prelude::*;

use super::decode::{self, Grid};
use super::nms::suppress;
use super::yunet::{MULTIPLE, STRIDES, YuNet};
use super::{DetectError, DetectOptions};
use crate::face::{BoundingBox, DetectedFace};

/// The sizes of a scan, in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// Levels are added until no side is longer than this.
    pub coarse_px: u32,
    /// How large a face is in a tiled level for the next level to answer for it too; at most the overlap of the tiles.
    pub handover_tiled_px: f32,
    /// The same for a level in one piece.
    pub handover_whole_px: f32,
    /// Longest side of a tile, a multiple of 32.
    pub tile_px: u32,
    /// Overlap of neighbouring tiles, a multiple of 32.
    pub overlap_px: u32,
    /// Most pixels in one forward pass over several photos.
    pub batch_px: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            coarse_px: 640,
            handover_tiled_px: 128.0,
            handover_whole_px: 480.0,
            tile_px: 1280,
            overlap_px: 192,
            batch_px: 1280 * 1280,
        }
    }
}

/// Each level is this much smaller than the one before.
const LEVEL_RATIO: f64 = 4.0;

impl Plan {
    /// The scales at which a photo is scanned, finest first.
    pub fn levels(&self, width: u32, height: u32) -> Vec<f64> {
        let mut levels = vec![1.0];
        let mut longest = f64::from(width.max(height));
        while longest > f64::from(self.coarse_px) {
            longest /= LEVEL_RATIO;
            levels.push(levels[levels.len() - 1] / LEVEL_RATIO);
        }
        levels
    }

    /// The smallest face, in pixels of the photo, for which the level after one of this scale answers.
    fn handover(&self, longest_px: u32, scale: f64) -> f32 {
        let tiled = f64::from(longest_px) * scale > f64::from(self.tile_px);
        let size = if tiled { self.handover_tiled_px } else { self.handover_whole_px };
        size / scale as f32
    }

    /// Tiles along one axis.
    fn spans(&self, size: u32) -> Vec<Span> {
        let step = self.tile_px - self.overlap_px;
        let mut starts = vec![0];
        while starts[starts.len() - 1] + self.tile_px < size {
            starts.push(starts[starts.len() - 1] + step);
        }
        let last = starts.len() - 1;
        let span = |(index, start): (usize, &u32)| {
            let end = (start + self.tile_px).min(size);
            let half = self.overlap_px as f32 / 2.0;
            Span {
                start: *start,
                end,
                inner: [index > 0, index < last],
                core: [
                    if index > 0 { *start as f32 + half } else { f32::NEG_INFINITY },
                    if index < last { end as f32 - half } else { f32::INFINITY },
                ],
            }
        };
        starts.iter().enumerate().map(span).collect()
    }
}

/// A tile along one axis.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Span {
    start: u32,
    end: u32,
    /// Whether the lower and the upper edge lie inside of the picture.
    inner: [bool; 2],
    /// Centres from the first up to the second value belong to this tile.
    core: [f32; 2],
}

impl Span {
    /// Whether a face from `low` to `high` belongs to the tile and is whole.
    fn owns(&self, low: f32, high: f32) -> bool {
        let centre = (low + high) / 2.0;
        let cut = (self.inner[0] && low < self.start as f32) || (self.inner[1] && high > self.end as f32);
        self.core[0] <= centre && centre < self.core[1] && !cut
    }
}

/// Finds the faces of each photo, with the default plan.
pub fn scan(
    network: &YuNet,
    photos: &[&RgbImage],
    options: &DetectOptions,
) -> Result<Vec<Vec<DetectedFace>>, DetectError> {
    scan_with(network, photos, options, &Plan::default())
}

/// Finds the faces of each photo.
pub fn scan_with(
    network: &YuNet,
    photos: &[&RgbImage],
    options: &DetectOptions,
    plan: &Plan,
) -> Result<Vec<Vec<DetectedFace>>, DetectError> {
    let mut found = vec![vec![]; photos.len()];
    let mut groups: BTreeMap<(u32, u32), Vec<usize>> = BTreeMap::new();
    for (index, photo) in photos.iter().enumerate() {
        // Below three pixels there is nothing to see, and nothing to scale.
        if photo.width() >= 3 && photo.height() >= 3 {
            groups.entry(photo.dimensions()).or_default().push(index);
        }
    }
    for ((width, height), members) in groups {
        let at_once = (plan.batch_px / (width as usize * height as usize)).max(1);
        for members in members.chunks(at_once) {
            let stack: Vec<&RgbImage> = members.iter().map(|index| photos[*index]).collect();
            let faces = if network.is_on_cpu() {
                // Each thread takes photos to itself: dividing every layer between threads costs small photos more than it
                // gives. All of them together are as large as one pass may be.
                let share = stack.len().div_ceil(rayon::current_num_threads()).max(1);
                let lanes = stack.par_chunks(share).map(|stack| scan_stack(network, stack, options, plan));
                lanes.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect()
            } else {
                scan_stack(network, &stack, options, plan)?
            };
            for (index, faces) in members.iter().zip(faces) {
                found[*index] = faces;
            }
        }
    }
    Ok(found)
}

/// Photos of one size.
fn scan_stack(
    network: &YuNet,
    photos: &[&RgbImage],
    options: &DetectOptions,
    plan: &Plan,
) -> Result<Vec<Vec<DetectedFace>>, DetectError> {
    let (width, height) = photos[0].dimensions();
    let levels = plan.levels(width, height);
    let mut found: Vec<Vec<DetectedFace>> = vec![vec![]; photos.len()];
    for (depth, scale) in levels.iter().enumerate() {
        let scaled: Vec<Cow<'_, RgbImage>> =
            photos.iter().map(|photo| resize(photo, *scale)).collect::<Result<_, _>>()?;
        let back = [
            width as f32 / scaled[0].width() as f32, // not exactly 1 / scale: sizes are whole
            height as f32 / scaled[0].height() as f32,
        ];
        let smallest = if depth == 0 { 0.0 } else { plan.handover(width.max(height), levels[depth - 1]) };
        for (faces, level) in found.iter_mut().zip(scan_level(network, &scaled, options, plan)?) {
            let level = level.into_iter().map(|face| stretched(face, back));
            faces.extend(level.filter(|face| face.bbox.width().max(face.bbox.height()) >= smallest));
        }
    }
    for faces in &mut found {
        if levels.len() > 1 {
            *faces = suppress(std::mem::take(faces), f32::NEG_INFINITY, options.nms);
        }
        faces.retain(|face| face.bbox.width().min(face.bbox.height()) >= options.min_size_px);
        faces.truncate(options.max_faces.unwrap_or(usize::MAX));
    }
    Ok(found)
}

/// Pictures of one size, at the scale at which they are to be seen.
fn scan_level(
    network: &YuNet,
    pictures: &[Cow<'_, RgbImage>],
    options: &DetectOptions,
    plan: &Plan,
) -> Result<Vec<Vec<DetectedFace>>, DetectError> {
    let (width, height) = pictures[0].dimensions();
    let candidates = if width.max(height) <= plan.tile_px {
        let pictures: Vec<&RgbImage> = pictures.iter().map(AsRef::as_ref).collect();
        forward(network, &pictures, options.min_score)?
    } else {
        pictures.iter().map(|picture| tiled(network, picture, options, plan)).collect::<Result<_, _>>()?
    };
    let suppressed = candidates.into_iter().map(|faces| suppress(faces, options.min_score, options.nms));
    Ok(suppressed.collect())
}

/// Candidates of a picture, tile by tile.
fn tiled(
    network: &YuNet,
    picture: &RgbImage,
    options: &DetectOptions,
    plan: &Plan,
) -> Result<Vec<DetectedFace>, DetectError> {
    let mut found = vec![];
    for rows in plan.spans(picture.height()) {
        for columns in plan.spans(picture.width()) {
            let (width, height) = (columns.end - columns.start, rows.end - rows.start);
            let tile = image::imageops::crop_imm(picture, columns.start, rows.start, width, height).to_image();
            let shift = [columns.start as f32, rows.start as f32];
            for face in forward(network, &[&tile], options.min_score)?.into_iter().flatten() {
                let face = shifted(face, shift);
                if columns.owns(face.bbox.x1, face.bbox.x2) && rows.owns(face.bbox.y1, face.bbox.y2) {
                    found.push(face);
                }
            }
        }
    }
    Ok(found)
}

/// Candidates of pictures of one size, in one forward pass.
fn forward(network: &YuNet, pictures: &[&RgbImage], min_score: f32) -> Result<Vec<Vec<DetectedFace>>, DetectError> {
    let heads = network.forward(&network.input(pictures)?)?;
    let mut found = vec![vec![]; pictures.len()];
    let width = (pictures[0].width() as usize).next_multiple_of(MULTIPLE);
    for (stride, head) in STRIDES.into_iter().zip(heads) {
        let values = head.flatten_from(1)?.to_vec2::<f32>()?;
        for (faces, values) in found.iter_mut().zip(&values) {
            decode::candidates(Grid { stride, columns: width / stride, values }, min_score, faces);
        }
    }
    Ok(found)
}

/// The picture at `scale`, at least one pixel high and wide.
fn resize(photo: &RgbImage, scale: f64) -> Result<Cow<'_, RgbImage>, DetectError> {
    if scale == 1.0 {
        return Ok(Cow::Borrowed(photo));
    }
    let size = |side: u32| ((f64::from(side) * scale).round() as u32).max(1);
    let (width, height) = (size(photo.width()), size(photo.height()));
    let error = |error: &dyn std::fmt::Display| DetectError::Resize(error.to_string());
    let source =
        ImageRef::new(photo.width(), photo.height(), photo.as_raw(), PixelType::U8x3).map_err(|e| error(&e))?;
    let mut target = Image::new(width, height, PixelType::U8x3);
    // A triangle filter over all source pixels of a target pixel: neither aliased nor ringing.
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    Resizer::new().resize(&source, &mut target, &options).map_err(|e| error(&e))?;
    let image = RgbImage::from_raw(width, height, target.into_vec());
    image.map(Cow::Owned).ok_or_else(|| DetectError::Resize("wrong buffer size".into()))
}

fn mapped(mut face: DetectedFace, map: impl Fn([f32; 2]) -> [f32; 2]) -> DetectedFace {
    let ([x1, y1], [x2, y2]) = (map([face.bbox.x1, face.bbox.y1]), map([face.bbox.x2, face.bbox.y2]));
    face.bbox = BoundingBox { x1, y1, x2, y2 };
    face.landmarks.0 = face.landmarks.0.map(map);
    face
}

fn shifted(face: DetectedFace, [dx, dy]: [f32; 2]) -> DetectedFace {
    mapped(face, |[x, y]| [x + dx, y + dy])
}

fn stretched(face: DetectedFace, [sx, sy]: [f32; 2]) -> DetectedFace {
    mapped(face, |[x, y]| [x * sx, y * sy])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_end_with_a_small_picture() {
        let plan = Plan::default();
        assert_eq!(plan.levels(250, 250), [1.0]);
        assert_eq!(plan.levels(640, 480), [1.0]);
        assert_eq!(plan.levels(1280, 720), [1.0, 0.25]);
        assert_eq!(plan.levels(8000, 6000), [1.0, 0.25, 0.0625]);
    }

    #[test]
    fn every_centre_belongs_to_one_tile() {
        let plan = Plan::default();
        for size in [1281u32, 2368, 2369, 5000, 9000] {
            let spans = plan.spans(size);
            assert_eq!(spans[spans.len() - 1].end, size);
            for pair in spans.windows(2) {
                assert_eq!(pair[0].core[1], pair[1].core[0]);
                assert_eq!(pair[1].start % MULTIPLE as u32, 0);
            }
            for step in 0..size * 2 {
                let centre = step as f32 / 2.0;
                let half = plan.overlap_px as f32 / 2.0;
                let low = centre - half;
                let owners = spans.iter().filter(|span| span.owns(low, low + 2.0 * half)).count();
                assert_eq!(owners, 1, "a face as large as the overlap at {centre} of {size}");
            }
        }
    }
}
