//! Tracks: the frames of one face in one camera, fused into a probe that is ready at any time.
//!
//! A [`Track`] grows by thousands of frames while it is searched again and again, so its template is not fused anew each
//! time: `sums` keeps what the formula of [`crate::template`] adds up, and a frame costs one pass over its values. The
//! frames themselves are kept too. What was summed is thus never subtracted: a removal marks the sums as stale, and the
//! next template adds up what is left, so that a removed frame leaves no trace, not even of rounding.
//!
//! Templates agree with [`crate::template::fuse`] over the same frames to about 1e-12 (sums here run in the order of
//! arrival, there in an order of their own). Rules that look at all faces at once are fused by that function.
//!
//! [`associate`] says which faces of a video are one track.

pub mod associate;
mod sums;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::face::Feature;
use crate::ids::MediaId;
use crate::model::ServedModel;
use crate::store::FaceSource;
use crate::template::{Fusion, Template, TemplateError, TemplateFace};
use sums::Sums;

/// One frame of a track. Its debug form does not show the embedding.
#[derive(Clone, PartialEq)]
pub struct Frame {
    /// Embedding and norm.
    pub feature: Feature,
    /// The photo or video it is of; usually that of the whole track.
    pub media: MediaId,
    /// How it came in.
    pub source: FaceSource,
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frame").field("norm", &self.feature.norm).field("media", &self.media).finish_non_exhaustive()
    }
}

impl Frame {
    fn face(&self) -> TemplateFace<'_> {
        TemplateFace {
            embedding: &self.feature.embedding,
            norm: self.feature.norm,
            media: self.media.as_str(),
            style: self.feature.style.as_ref(),
        }
    }

    /// Bytes it takes, with its place in the track.
    fn bytes(&self) -> usize {
        let style = self.feature.style.as_ref().map_or(0, |style| style.values.len());
        let values = self.feature.embedding.len() + style;
        // A text shared with other frames is counted for each of them: the bound errs on the safe side.
        FRAME_OVERHEAD_BYTES + values * size_of::<f32>() + self.media.as_str().len()
    }
}

/// What a frame takes beside its values: the record, its share of a tree node, allocator rounding.
const FRAME_OVERHEAD_BYTES: usize = size_of::<Frame>() + 64;

/// A track's frames as one unit vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Unit vector.
    pub vector: Vec<f32>,
    /// The rule that was used.
    pub fusion: Fusion,
    /// ‖Σ x_i‖ / Σ n_i over raw features, 0 to 1. Low: the frames are of several people.
    pub coherence: f32,
}

/// The frames of one face, numbered from 0 in the order they came; a number is never used again.
#[derive(Debug)]
pub struct Track {
    model: Arc<ServedModel>,
    fusion: Fusion,
    frames: BTreeMap<u64, Frame>,
    next: u64,
    frame_bytes: usize,
    /// What the frames add up to; `None` when that must be done anew or the rule has no such sums.
    sums: Option<Sums>,
    /// Bytes the sums will take when they are made anew, at most.
    stale_bytes: usize,
    /// The template of the frames as they are.
    ready: Option<Arc<Summary>>,
}

impl Track {
    /// An empty track of a model's features.
    pub fn new(model: Arc<ServedModel>, fusion: Fusion) -> Self {
        let sums = Sums::new(fusion, &model);
        Self { model, fusion, frames: BTreeMap::new(), next: 0, frame_bytes: 0, sums, stale_bytes: 0, ready: None }
    }

    /// The model of its features.
    pub fn model(&self) -> &Arc<ServedModel> {
        &self.model
    }

    /// How its frames are fused.
    pub fn fusion(&self) -> Fusion {
        self.fusion
    }

    /// Frames in it.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Bytes it takes, rounded up.
    pub fn bytes(&self) -> usize {
        let ready = self.ready.as_ref().map_or(0, |ready| ready.vector.len() * size_of::<f32>());
        size_of::<Self>() + self.frame_bytes + self.sums.as_ref().map_or(self.stale_bytes, Sums::bytes) + ready
    }

    /// Most bytes that one more frame would add, before it is made: for a bound that is checked first. A frame whose
    /// media has one frame so far adds a sum for it.
    pub fn bytes_per_frame(model: &ServedModel, media_bytes: usize) -> usize {
        let style = if model.network.is_some() { STYLE_VALUES } else { 0 };
        FRAME_OVERHEAD_BYTES
            + (model.dim + style) * size_of::<f32>()
            + model.dim * size_of::<f64>()
            + sums::GROUP_OVERHEAD_BYTES
            + 2 * media_bytes
    }

    /// Adds a frame and gives its number. Takes O(dim).
    ///
    /// Refuses an embedding of another length than the model's and a norm that is not a positive number.
    pub fn add(&mut self, frame: Frame) -> Result<u64, TemplateError> {
        if frame.feature.embedding.len() != self.model.dim {
            return Err(TemplateError::MixedDimensions);
        }
        if !frame.feature.norm.is_finite() || frame.feature.norm <= 0.0 {
            return Err(TemplateError::BadNorm);
        }
        let number = self.next;
        self.next += 1;
        self.frame_bytes += frame.bytes();
        self.ready = None;
        match &mut self.sums {
            Some(sums) => sums.add(number, &frame, &self.frames),
            None if self.stale_bytes > 0 => self.stale_bytes += sums::bytes_per_media(&frame),
            None => {}
        }
        self.frames.insert(number, frame);
        Ok(number)
    }

    /// Takes a frame out, as if it had never come.
    pub fn remove(&mut self, number: u64) -> Option<Frame> {
        let frame = self.frames.remove(&number)?;
        self.frame_bytes -= frame.bytes();
        self.ready = None;
        if let Some(sums) = self.sums.take() {
            self.stale_bytes = sums.bytes();
        }
        Some(frame)
    }

    /// One frame.
    pub fn frame(&self, number: u64) -> Option<&Frame> {
        self.frames.get(&number)
    }

    /// The frames with a number of at least `from`, in order.
    pub fn frames(&self, from: u64) -> impl Iterator<Item = (u64, &Frame)> {
        self.frames.range(from..).map(|(number, frame)| (*number, frame))
    }

    /// The template of the frames as they are. Takes O(dim) for each media after frames were added, O(frames · dim)
    /// after one was removed, and nothing when it is asked for again.
    pub fn template(&mut self) -> Result<Arc<Summary>, TemplateError> {
        if let Some(ready) = &self.ready {
            return Ok(Arc::clone(ready));
        }
        if self.frames.is_empty() {
            return Err(TemplateError::Empty);
        }
        if self.sums.is_none()
            && let Some(mut sums) = Sums::new(self.fusion, &self.model)
        {
            self.frames.iter().for_each(|(number, frame)| sums.add(*number, frame, &self.frames));
            self.sums = Some(sums);
        }
        let summary = match &self.sums {
            Some(sums) => sums.summary(self.fusion, &self.frames)?,
            None => {
                let Template { vector, fusion, coherence, .. } = self.explain(self.fusion)?;
                Summary { vector, fusion, coherence }
            }
        };
        let summary = Arc::new(summary);
        self.ready = Some(Arc::clone(&summary));
        Ok(summary)
    }

    /// The template by a rule of the caller's, with each frame's share, in the order of the frames. Takes
    /// O(frames · dim).
    pub fn explain(&self, fusion: Fusion) -> Result<Template, TemplateError> {
        let faces: Vec<TemplateFace<'_>> = self.frames.values().map(Frame::face).collect();
        self.model.fuse(&faces, fusion)
    }
}

/// Values of a [`Style`](crate::face::Style).
const STYLE_VALUES: usize = 64;
