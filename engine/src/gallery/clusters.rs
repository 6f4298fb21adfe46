//! Clusters of a gallery's faces, each of which is one person: who is among people that nobody has named.
//!
//! In a gallery of events each face is clustered by itself, whichever subject it was put under; elsewhere each subject's
//! template stands for its faces. Neighbours come from searches of the index, clusters by average linkage with
//! cannot-link constraints (`agglomerate`): faces of one picture, and subjects that are kept apart, never share a
//! cluster. Faces count by their quality; those of low quality are added to clusters and never join two.
//!
//! Kept in memory are one copy of the vectors, [`NEIGHBOURS`] numbers a vector and at most [`MOST`] vectors.

use std::collections::HashMap;
use std::ops::ControlFlow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::GalleryError;
use super::agglomerate::{Item, Linkage, Mark, agglomerate, coherence};
use super::calibrate::Rates;
use super::database::{Database, now};
use super::decision::{Decider, ServerScores, Threshold, ThresholdSource};
use super::open::{State, template};
use crate::ids::{FaceId, GalleryId, MediaId, ModelId, SubjectId};
use crate::store::{GalleryKind, PictureId, StoredFace, ThresholdSetting, Thresholds};
use crate::template::score;

/// Nearest other subjects, and other faces of the same subject, that a face is compared with at first.
const NEIGHBOURS: usize = 24;
/// Most vectors clustered: those of the subjects whose ids come first.
const MOST: usize = 200_000;
/// False match rate of a single comparison at whose score the average of two clusters joins them.
const LINK_FMR: f64 = 1e-3;
/// The same for faces of low quality among themselves.
const WEAK_FMR: f64 = 1e-4;
/// Below this quality a face is added to clusters only.
const LOW_QUALITY: f32 = 0.05;
/// The weight of a face is its quality, and this at least.
const LEAST_WEIGHT: f32 = 0.05;

/// How clusters are made.
#[derive(Debug, Clone, Copy)]
pub struct ClusterOptions {
    /// Average score from which on two clusters are one person. `None`: what single comparisons of different people
    /// reach at a false match rate of 0.1 %.
    pub threshold: Option<ThresholdSetting>,
    /// Clusters of fewer faces are not told.
    pub min_faces: usize,
    /// Most clusters told.
    pub limit: usize,
}

/// A face of a cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterFace {
    /// Face id.
    pub face: FaceId,
    /// The subject it is under.
    pub subject: SubjectId,
    /// The photo or video it came from.
    pub media: MediaId,
    /// CDF of the standardised norm, 0 to 1.
    pub quality: f32,
}

/// Faces that are probably one person's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Number, from 1; the largest cluster comes first.
    pub cluster: u64,
    /// Best quality first.
    pub faces: Vec<ClusterFace>,
    /// Subjects that the faces are under, by id.
    pub subjects: Vec<SubjectId>,
    /// The average score of all pairs within it, weighted by quality; `None` where there is one vector only.
    pub coherence: Option<f64>,
    /// The face of the highest quality.
    pub best: FaceId,
}

/// What clustering found.
#[derive(Debug, Clone, Serialize)]
pub struct Clusters {
    /// When it was begun.
    pub at: Timestamp,
    /// The gallery's revision then.
    pub revision: u64,
    /// The model of the scores.
    pub model_id: ModelId,
    /// From where on clusters were joined.
    pub threshold: Threshold,
    /// Faces that were clustered.
    pub faces: u64,
    /// Faces that were not, since there were too many.
    pub skipped: u64,
    /// By the number of faces.
    pub clusters: Vec<Cluster>,
    /// Clusters of enough faces, told or not.
    pub total: u64,
    /// Faces in clusters of too few.
    pub left_alone: u64,
}

/// A vector and the faces it stands for.
struct Row {
    subject: SubjectId,
    /// The face in a gallery of events, `None` for a template.
    face: Option<FaceId>,
    faces: Vec<ClusterFace>,
    pictures: Vec<PictureId>,
    vector: Vec<f32>,
}

impl Row {
    fn quality(&self) -> f32 {
        self.faces.iter().map(|face| face.quality).fold(0.0, f32::max)
    }
}

impl Database {
    /// Clusters a gallery's faces, so that each cluster is one person. `progress` hears how many vectors were searched
    /// with, of how many, and can stop it ([`GalleryError::Stopping`]).
    ///
    /// # Errors
    /// [`GalleryError::CalibrationMissing`] for a rate where the gallery is not calibrated.
    pub fn clusters(
        &self,
        gallery: &GalleryId,
        options: &ClusterOptions,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Clusters, GalleryError> {
        let open = self.gallery_in_use(gallery)?;
        open.expire();
        let (at, revision) = (now(), self.store.counts(gallery)?.revision);
        let state = open.state();
        let side = &state.in_use;
        let impostors = &side.model.impostors;
        let asked = Thresholds { matching: options.threshold, review: None };
        let usual = impostors.score_at(LINK_FMR).unwrap_or(side.model.threshold);
        let rates = Rates::of(&state, side);
        let usual = ServerScores { matching: usual, review: None };
        let threshold = Decider::resolve(&[(ThresholdSource::Request, asked)], usual, &rates)?.matching;
        let mut step = |done: usize, total: usize| match progress(done as u64, total as u64) {
            ControlFlow::Break(()) => Err(GalleryError::Stopping),
            ControlFlow::Continue(()) => Ok(()),
        };

        let (mut rows, mut skipped) = (Vec::new(), 0);
        let mut apart: Vec<(SubjectId, SubjectId)> = Vec::new();
        let expected = side.index.rows();
        self.walk(&open, &side.model.id, |subject, faces| {
            step(0, expected)?;
            let new = rows_of(&state, subject, faces);
            if rows.len() + new.len() > MOST {
                skipped += faces.len() as u64;
                return Ok(());
            }
            apart.extend(self.kept_apart_from(gallery, subject)?.into_iter().map(|other| (subject.clone(), other)));
            rows.extend(new);
            Ok(())
        })?;
        // An order that has nothing to do with when faces came in, for scores that are equal.
        let bits = |row: &Row| row.vector.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        rows.sort_by_cached_key(|row| (bits(row), row.subject.clone(), row.face));

        let number: HashMap<(SubjectId, Option<FaceId>), u32> =
            rows.iter().zip(0..).map(|(row, number)| ((row.subject.clone(), row.face), number)).collect();
        let mut edges = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            step(at + 1, rows.len())?;
            let others = side.index.search_where(&row.vector, NEIGHBOURS, &|other| *other != row.subject)?.hits;
            let near = others.into_iter().filter_map(|hit| number.get(&(hit.subject, hit.face)).copied());
            edges.extend(near.map(|other| (at as u32, other)));
        }
        edges.extend(within_subjects(&rows));

        let marks = marks(&rows, &apart);
        let items: Vec<Item> = rows
            .iter_mut()
            .zip(marks)
            .map(|(row, marks)| {
                let quality = row.quality();
                let (weight, weak) = (quality.max(LEAST_WEIGHT), quality < LOW_QUALITY);
                Item { vector: std::mem::take(&mut row.vector), weight, weak, marks }
            })
            .collect();
        let stern = impostors.score_at(WEAK_FMR).unwrap_or(threshold.score).max(threshold.score);
        let linkage = Linkage { threshold: threshold.score.into(), weak_threshold: stern.into() };
        let groups = agglomerate(&items, &edges, &linkage, &mut || step(rows.len(), rows.len()))?;

        let faces = rows.iter().map(|row| row.faces.len() as u64).sum();
        let mut left_alone = 0;
        let mut clusters = Vec::new();
        for group in groups {
            let coherence = coherence(group.iter().map(|&at| &items[at as usize]));
            let mut faces: Vec<ClusterFace> =
                group.iter().flat_map(|&at| std::mem::take(&mut rows[at as usize].faces)).collect();
            faces.sort_by(|a, b| b.quality.total_cmp(&a.quality).then(a.face.cmp(&b.face)));
            let best = match faces.first() {
                Some(best) if faces.len() >= options.min_faces => best.face,
                _ => {
                    left_alone += faces.len() as u64;
                    continue;
                }
            };
            let mut subjects: Vec<SubjectId> = faces.iter().map(|face| face.subject.clone()).collect();
            subjects.sort_unstable();
            subjects.dedup();
            clusters.push(Cluster { cluster: 0, faces, subjects, coherence, best });
        }
        // Stable, so that clusters of one size stay in the order of their vectors.
        clusters.sort_by_key(|cluster| std::cmp::Reverse(cluster.faces.len()));
        let total = clusters.len() as u64;
        clusters.truncate(options.limit);
        clusters.iter_mut().zip(1..).for_each(|(cluster, number)| cluster.cluster = number);
        let model_id = side.model.id.clone();
        Ok(Clusters { at, revision, model_id, threshold, faces, skipped, clusters, total, left_alone })
    }
}

/// The vectors that a subject has in the index.
fn rows_of(state: &State, subject: &SubjectId, faces: &[StoredFace]) -> Vec<Row> {
    let told = |stored: &StoredFace| ClusterFace {
        face: stored.face.id,
        subject: subject.clone(),
        media: stored.face.media.clone(),
        quality: stored.face.quality,
    };
    match state.settings.kind {
        GalleryKind::Events => faces
            .iter()
            .map(|stored| Row {
                subject: subject.clone(),
                face: Some(stored.face.id),
                faces: vec![told(stored)],
                pictures: stored.face.picture.into_iter().collect(),
                vector: stored.embedding.clone(),
            })
            .collect(),
        GalleryKind::Consolidated => {
            let model = &state.in_use.model;
            // Faces that contradict each other completely have no template, and are clustered with nobody.
            let template = template(faces, state.fusion(model), model).ok();
            let row = template.map(|template| Row {
                subject: subject.clone(),
                face: None,
                faces: faces.iter().map(told).collect(),
                pictures: faces.iter().filter_map(|stored| stored.face.picture).collect(),
                vector: template.vector,
            });
            row.into_iter().collect()
        }
    }
}

/// For each face its nearest ones under the same subject, which searches do not give.
fn within_subjects(rows: &[Row]) -> Vec<(u32, u32)> {
    let mut of: HashMap<&SubjectId, Vec<u32>> = HashMap::new();
    for (row, number) in rows.iter().zip(0..) {
        of.entry(&row.subject).or_default().push(number);
    }
    let mut edges = Vec::new();
    for rows_of_one in of.into_values().filter(|rows| rows.len() > 1) {
        for &at in &rows_of_one {
            let others = rows_of_one.iter().filter(|&&other| other != at);
            let mut near: Vec<(f32, u32)> =
                others.map(|&other| (score(&rows[at as usize].vector, &rows[other as usize].vector), other)).collect();
            near.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            edges.extend(near.into_iter().take(NEIGHBOURS).map(|(_, other)| (at, other)));
        }
    }
    edges
}

/// What forbids rows to share a cluster: a group for each picture with a side for each of its rows, and a group for each
/// pair of subjects with a side for each of the two.
fn marks(rows: &[Row], apart: &[(SubjectId, SubjectId)]) -> Vec<Vec<Mark>> {
    let mut of_picture: HashMap<PictureId, Vec<u32>> = HashMap::new();
    let mut of_subject: HashMap<&SubjectId, Vec<u32>> = HashMap::new();
    for (row, number) in rows.iter().zip(0..) {
        row.pictures.iter().for_each(|picture| of_picture.entry(*picture).or_default().push(number));
        of_subject.entry(&row.subject).or_default().push(number);
    }
    let mut marks: Vec<Vec<Mark>> = vec![Vec::new(); rows.len()];
    let mut groups = 0..;
    for sides in of_picture.into_values().filter(|sides| sides.len() > 1) {
        let group = groups.next().unwrap_or(u32::MAX);
        sides.into_iter().for_each(|row| marks[row as usize].push((group, row)));
    }
    // Each pair is told by both of its subjects, and once is enough.
    for (subject, other) in apart.iter().filter(|(subject, other)| subject < other) {
        let group = groups.next().unwrap_or(u32::MAX);
        for (of, side) in [(subject, 0), (other, 1)] {
            of_subject.get(of).into_iter().flatten().for_each(|row| marks[*row as usize].push((group, side)));
        }
    }
    for marks in &mut marks {
        marks.sort_unstable();
        marks.dedup();
    }
    marks
}
