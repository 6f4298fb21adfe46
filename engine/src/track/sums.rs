//! What a track's frames add up to, kept while they come.
//!
//! The template is T = Σ over media of (1 / k_m) Σ over its faces of w_i · e_i. Media with one face are summed together;
//! a media with more has a sum of its own, since its divisor still changes. Weights are exponentials of a standardised
//! norm, which reach further than numbers do: they are kept relative to a reference that moves up with the best face,
//! and everything is scaled down when it does.

use std::collections::{BTreeMap, HashMap};

use super::{Frame, Summary};
use crate::ids::MediaId;
use crate::model::ServedModel;
use crate::quality::NormStats;
use crate::template::{Fusion, FusionRule, TemplateError};

/// Logarithm of the weight above the reference at which everything is scaled down.
const MAX_EXPONENT: f64 = 32.0;
/// Length of a sum, relative to the largest weight, below which its direction says nothing; as in [`crate::template`].
const DEGENERATE: f64 = 1e-9;
/// What a media takes beside its sum and its name: the entry, allocator rounding.
pub(super) const GROUP_OVERHEAD_BYTES: usize = size_of::<(MediaId, Group)>() + 32;

/// Most bytes that a frame of a new media adds to the sums.
pub(super) fn bytes_per_media(frame: &Frame) -> usize {
    GROUP_OVERHEAD_BYTES + frame.media.as_str().len() + frame.feature.embedding.len() * size_of::<f64>()
}

/// The faces of one media.
#[derive(Debug)]
enum Group {
    /// One, which is among the singles: the frame's number and weight.
    One { frame: u64, log_weight: f64 },
    /// Several: how many, and their weighted sum.
    Many { faces: f64, sum: Vec<f64> },
}

/// Sums over weighted embeddings.
#[derive(Debug)]
struct Weighted {
    media: HashMap<MediaId, Group>,
    /// Weighted sum over the media with one face.
    singles: Vec<f64>,
    /// Weights are e to the power of their logarithm less this.
    reference: f64,
    /// The largest logarithm of a weight.
    highest: f64,
    /// Bytes of the groups.
    bytes: usize,
}

/// What the rule needs.
#[derive(Debug)]
enum Kind {
    /// A weight for each face, independent of the others.
    Weighted(Weighted),
    /// The best face's number.
    Best(Option<u64>),
}

/// The running sums of a track.
#[derive(Debug)]
pub(super) struct Sums {
    kind: Kind,
    fusion: Fusion,
    stats: NormStats,
    /// Σ norm · embedding, for the coherence.
    raw: Vec<f64>,
    /// Σ norm.
    norms: f64,
}

impl Sums {
    /// Empty sums; `None` for a rule that looks at all faces at once.
    pub(super) fn new(fusion: Fusion, model: &ServedModel) -> Option<Self> {
        let kind = match (fusion.rule, fusion.log_weight(model.norm_stats.mean.max(1.0), model.norm_stats)) {
            (FusionRule::Best, _) => Kind::Best(None),
            (_, Some(_)) => Kind::Weighted(Weighted {
                media: HashMap::new(),
                singles: vec![0.0; model.dim],
                reference: f64::NEG_INFINITY,
                highest: f64::NEG_INFINITY,
                bytes: 0,
            }),
            (_, None) => return None,
        };
        Some(Self { kind, fusion, stats: model.norm_stats, raw: vec![0.0; model.dim], norms: 0.0 })
    }

    pub(super) fn bytes(&self) -> usize {
        let own = match &self.kind {
            Kind::Weighted(weighted) => weighted.bytes + weighted.singles.len() * size_of::<f64>(),
            Kind::Best(_) => 0,
        };
        own + self.raw.len() * size_of::<f64>()
    }

    /// Adds a frame. `frames` are all those before it.
    pub(super) fn add(&mut self, number: u64, frame: &Frame, frames: &BTreeMap<u64, Frame>) {
        let norm = f64::from(frame.feature.norm);
        add_scaled(&mut self.raw, norm, &frame.feature.embedding);
        self.norms += norm;
        match &mut self.kind {
            Kind::Best(best) => {
                let before = best.and_then(|best| frames.get(&best));
                if before.is_none_or(|before| is_better(frame, before)) {
                    *best = Some(number);
                }
            }
            Kind::Weighted(weighted) => {
                let log_weight = self.fusion.log_weight(frame.feature.norm, self.stats).unwrap_or(f64::NEG_INFINITY);
                weighted.add(number, frame, log_weight, frames);
            }
        }
    }

    /// The template of at least one frame.
    pub(super) fn summary(&self, fusion: Fusion, frames: &BTreeMap<u64, Frame>) -> Result<Summary, TemplateError> {
        let (total, scale) = match &self.kind {
            Kind::Best(best) => {
                let best = best.and_then(|best| frames.get(&best)).ok_or(TemplateError::Empty)?;
                (best.feature.embedding.iter().copied().map(f64::from).collect(), 1.0)
            }
            Kind::Weighted(weighted) => weighted.total(),
        };
        let length = length(&total);
        if !length.is_finite() || length < DEGENERATE * scale {
            return Err(TemplateError::Degenerate);
        }
        Ok(Summary {
            vector: total.iter().map(|value| (value / length) as f32).collect(),
            fusion,
            coherence: (self::length(&self.raw) / self.norms).min(1.0) as f32,
        })
    }
}

impl Weighted {
    fn add(&mut self, number: u64, frame: &Frame, log_weight: f64, frames: &BTreeMap<u64, Frame>) {
        self.highest = self.highest.max(log_weight);
        if log_weight - self.reference > MAX_EXPONENT {
            self.scale((self.reference - log_weight).exp());
            self.reference = log_weight;
        }
        let reference = self.reference;
        let weight = |log: f64| (log - reference).exp();
        let embedding = &frame.feature.embedding;
        match self.media.get_mut(&frame.media) {
            None => {
                add_scaled(&mut self.singles, weight(log_weight), embedding);
                self.bytes += GROUP_OVERHEAD_BYTES + frame.media.as_str().len();
                self.media.insert(frame.media.clone(), Group::One { frame: number, log_weight });
            }
            Some(group) => match group {
                Group::Many { faces, sum } => {
                    *faces += 1.0;
                    add_scaled(sum, weight(log_weight), embedding);
                }
                Group::One { frame: first, log_weight: first_log } => {
                    let mut sum = vec![0.0; embedding.len()];
                    if let Some(first) = frames.get(first) {
                        // The face stays in the template with half its weight at least, so what rounding leaves of it
                        // among the singles does not count.
                        let first_weight = weight(*first_log);
                        add_scaled(&mut self.singles, -first_weight, &first.feature.embedding);
                        add_scaled(&mut sum, first_weight, &first.feature.embedding);
                    }
                    add_scaled(&mut sum, weight(log_weight), embedding);
                    self.bytes += sum.len() * size_of::<f64>();
                    *group = Group::Many { faces: 2.0, sum };
                }
            },
        }
    }

    fn scale(&mut self, factor: f64) {
        let sums = self.media.values_mut().filter_map(|group| match group {
            Group::Many { sum, .. } => Some(sum),
            Group::One { .. } => None,
        });
        for value in sums.flatten().chain(&mut self.singles) {
            *value *= factor;
        }
    }

    /// The sum over all media, and the largest weight of a face on its scale.
    fn total(&self) -> (Vec<f64>, f64) {
        let mut total = self.singles.clone();
        // In an order that does not change from one run to the next.
        let mut many: Vec<(&MediaId, f64, &Vec<f64>)> = self
            .media
            .iter()
            .filter_map(|(media, group)| match group {
                Group::Many { faces, sum } => Some((media, *faces, sum)),
                Group::One { .. } => None,
            })
            .collect();
        many.sort_unstable_by_key(|(media, ..)| *media);
        for (_, faces, sum) in many {
            total.iter_mut().zip(sum).for_each(|(total, value)| *total += value / faces);
        }
        (total, (self.highest - self.reference).exp())
    }
}

/// Whether `best` picks a frame before another: by norm, and among equals the one that sorts first by content.
fn is_better(frame: &Frame, before: &Frame) -> bool {
    let key = |frame: &Frame| {
        let bits = frame.feature.embedding.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        (frame.media.clone(), bits)
    };
    match frame.feature.norm.total_cmp(&before.feature.norm) {
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => key(frame) < key(before),
    }
}

fn add_scaled(sum: &mut [f64], weight: f64, embedding: &[f32]) {
    sum.iter_mut().zip(embedding).for_each(|(sum, value)| *sum += weight * f64::from(*value));
}

fn length(vector: &[f64]) -> f64 {
    vector.iter().map(|value| value * value).sum::<f64>().sqrt()
}
