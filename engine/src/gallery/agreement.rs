//! How far two models agree on a gallery: measured before anybody relies on the new one.
//!
//! A sample of enrolled faces is searched under both models. A face is mated with its subject's other faces, itself
//! left out, where the subject has any; its non-mated score is the best score of another subject.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::GalleryError;
use super::database::Database;
use super::open::{Side, template};
use crate::ids::{FaceId, GalleryId, SubjectId};
use crate::index::SearchMode;
use crate::store::{GalleryKind, StandbyFace, StoredFace};
use crate::template::score;

/// Most faces searched.
const SAMPLE: u64 = 1_000;
/// Candidates looked at: a mate behind all of them has no rank.
const DEPTH: usize = 20;

/// Mean and standard deviation of scores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub std: f64,
}

/// Searches for people who are there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Mated {
    /// Faces of subjects with others, each searched with itself left out.
    pub probes: u64,
    /// Share whose subject came first under the model in use.
    pub rank1_before: f64,
    /// The same under the other model.
    pub rank1_after: f64,
    /// Faces whose subject moved up.
    pub improved: u64,
    /// Faces whose subject moved down.
    pub worsened: u64,
    /// Scores against the own subject under the model in use.
    pub score_before: Spread,
    /// The same under the other model.
    pub score_after: Spread,
}

/// Scores of different people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct NonMated {
    /// Faces searched.
    pub probes: u64,
    /// Share whose best other subject is the same under both models.
    pub same_best: f64,
    /// Best scores of another subject under the model in use.
    pub score_before: Spread,
    /// The same under the other model.
    pub score_after: Spread,
    /// The highest of them under the model in use.
    pub highest_before: f64,
    /// The same under the other model.
    pub highest_after: f64,
}

/// The agreement report of a migration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Faces of the sample, spread evenly over the gallery.
    pub faces: u64,
    /// Searches for people who are there.
    pub mated: Mated,
    /// Scores of different people.
    pub non_mated: NonMated,
}

/// What one model says of one face.
struct View {
    mate: Option<(f32, usize)>,
    best_other: Option<(SubjectId, f32)>,
}

/// Compares the side in use with the standby side.
pub(super) fn measure(
    database: &Database,
    gallery: &GalleryId,
    in_use: &Side,
    standby: &Side,
    kind: GalleryKind,
) -> Result<Agreement, GalleryError> {
    let step = database.counts(gallery)?.faces.div_ceil(SAMPLE).max(1);
    let (mut seen, mut sample) = (0u64, Vec::new());
    database.store().scan_standby(gallery, &mut |StandbyFace { subject, face, stored }| {
        if seen.is_multiple_of(step) && stored.is_some() {
            sample.push((subject, face));
        }
        seen += 1;
        ControlFlow::Continue(())
    })?;
    let mut sums = Sums::default();
    for (subject, face) in sample {
        let before = database.store().faces(gallery, &subject)?;
        let after = database.store().standby_faces(gallery, &subject)?;
        let views = (view(in_use, kind, &subject, face, &before)?, view(standby, kind, &subject, face, &after)?);
        if let (Some(before), Some(after)) = views {
            sums.add(before, after);
        }
    }
    Ok(sums.report())
}

/// Searches a face under one model. `None` when it has gone.
fn view(
    side: &Side,
    kind: GalleryKind,
    subject: &SubjectId,
    face: FaceId,
    stored: &[StoredFace],
) -> Result<Option<View>, GalleryError> {
    let Some(probe) = stored.iter().find(|stored| stored.face.id == face) else { return Ok(None) };
    let hits = side.index.search(&probe.embedding, DEPTH + 1, SearchMode::Exact)?.hits;
    let others: Vec<_> = hits.into_iter().filter(|hit| hit.subject != *subject).take(DEPTH).collect();
    let rest: Vec<StoredFace> = stored.iter().filter(|stored| stored.face.id != face).cloned().collect();
    let mated = match kind {
        GalleryKind::Consolidated => template(&rest, side.model.fusion, &side.model)
            .ok()
            .map(|template| score(&template.vector, &probe.embedding)),
        GalleryKind::Events => rest.iter().map(|stored| score(&stored.embedding, &probe.embedding)).reduce(f32::max),
    };
    let mate = mated.map(|mated| (mated, 1 + others.iter().filter(|hit| hit.score > mated).count()));
    let best_other = others.into_iter().next().map(|hit| (hit.subject, hit.score));
    Ok(Some(View { mate, best_other }))
}

/// Sums over faces, under the model in use and the other.
#[derive(Default)]
struct Sums {
    faces: u64,
    mated: [Moments; 2],
    first: [u64; 2],
    improved: u64,
    worsened: u64,
    others: [Moments; 2],
    same_best: u64,
}

impl Sums {
    fn add(&mut self, before: View, after: View) {
        self.faces += 1;
        if let (Some(before), Some(after)) = (before.mate, after.mate) {
            for (side, (score, rank)) in [before, after].into_iter().enumerate() {
                self.mated[side].add(score);
                self.first[side] += u64::from(rank == 1);
            }
            self.improved += u64::from(after.1 < before.1);
            self.worsened += u64::from(after.1 > before.1);
        }
        if let (Some(before), Some(after)) = (before.best_other, after.best_other) {
            self.others[0].add(before.1);
            self.others[1].add(after.1);
            self.same_best += u64::from(before.0 == after.0);
        }
    }

    fn report(&self) -> Agreement {
        let share = |count: u64, of: &Moments| if of.count == 0 { 0.0 } else { count as f64 / of.count as f64 };
        let [mated_before, mated_after] = &self.mated;
        let [others_before, others_after] = &self.others;
        Agreement {
            faces: self.faces,
            mated: Mated {
                probes: mated_before.count,
                rank1_before: share(self.first[0], mated_before),
                rank1_after: share(self.first[1], mated_after),
                improved: self.improved,
                worsened: self.worsened,
                score_before: mated_before.spread(),
                score_after: mated_after.spread(),
            },
            non_mated: NonMated {
                probes: others_before.count,
                same_best: share(self.same_best, others_before),
                score_before: others_before.spread(),
                score_after: others_after.spread(),
                highest_before: others_before.highest,
                highest_after: others_after.highest,
            },
        }
    }
}

#[derive(Default)]
struct Moments {
    count: u64,
    sum: f64,
    squares: f64,
    highest: f64,
}

impl Moments {
    fn add(&mut self, score: f32) {
        let score = f64::from(score);
        self.highest = if self.count == 0 { score } else { self.highest.max(score) };
        self.count += 1;
        self.sum += score;
        self.squares += score * score;
    }

    fn spread(&self) -> Spread {
        if self.count == 0 {
            return Spread::default();
        }
        let mean = self.sum / self.count as f64;
        Spread { mean, std: (self.squares / self.count as f64 - mean * mean).max(0.0).sqrt() }
    }
}
