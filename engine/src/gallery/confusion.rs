//! The leave-one-out report of a gallery: how surely its own faces find their subjects, who is confused with whom, and
//! which faces are probably under the wrong name.
//!
//! Each face is searched with itself left out of its subject. Its own score is that against the template of the subject's
//! other faces, in a gallery of events that against the most alike of them; it is compared with the best score of
//! another subject. A subject's only face has nothing to be compared with and is not measured.
//!
//! A face is a suspect if its own score is below the other subject's, or below what the guard of enrolment asks
//! (`wrong_person`). How far it is below the higher of the two is its suspicion. Pairs of subjects that are kept apart
//! count like others: who is known to look alike can be mislabelled all the same.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::ControlFlow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::GalleryError;
use super::database::{Database, now};
use super::guard::wrong_person_rule;
use super::open::{Side, State, template_faces};
use super::walk::Best;
use crate::ids::{FaceId, GalleryId, MediaId, ModelId, SubjectId};
use crate::store::{GalleryKind, Guard};
use crate::template::{TemplateFace, score};

/// Other subjects looked at: a face whose subject comes behind all of them has no rank.
const DEPTH: usize = 20;

/// What is told of a gallery.
#[derive(Debug, Clone, Copy)]
pub struct LeaveOneOutOptions {
    /// Most suspects told, and most pairs of subjects.
    pub limit: usize,
}

/// A distribution of scores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ScoreSpread {
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub std: f64,
    /// The lowest.
    pub lowest: f64,
    /// 5 % are below it.
    pub p05: f64,
    /// Half are below it.
    pub median: f64,
    /// 95 % are below it.
    pub p95: f64,
    /// The highest.
    pub highest: f64,
}

/// Faces of one subject that are more like another one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Confusion {
    /// Whose faces.
    pub subject: SubjectId,
    /// Whom they are more like than anybody else.
    pub other: SubjectId,
    /// How many.
    pub faces: u64,
    /// The highest score of one of them against `other`.
    pub score: f32,
}

/// A face that is probably under the wrong name, or good for nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Suspect {
    /// The subject it is under.
    pub subject: SubjectId,
    /// Face id.
    pub face: FaceId,
    /// The photo or video it came from.
    pub media: MediaId,
    /// CDF of the standardised norm, 0 to 1.
    pub quality: f32,
    /// Its score against its subject's other faces.
    pub own_score: f32,
    /// Where its subject would come in a search; `None` behind the first 20 others.
    pub own_rank: Option<u64>,
    /// The other subject it is most like; `None` where there is no other.
    pub best_other: Option<SubjectId>,
    /// Its score against that one.
    pub best_other_score: Option<f32>,
    /// How far the own score is below the higher of the other subject's and the one that enrolment asks.
    pub suspicion: f32,
}

/// The report.
#[derive(Debug, Clone, Serialize)]
pub struct LeaveOneOut {
    /// When it was begun.
    pub at: Timestamp,
    /// The gallery's revision then.
    pub revision: u64,
    /// The model of the scores.
    pub model_id: ModelId,
    /// Faces of subjects with others.
    pub measured: u64,
    /// Faces that are their subject's only one.
    pub not_measurable: u64,
    /// Share of the measured faces whose subject comes first; `None` where none was measured.
    pub rank1: Option<f64>,
    /// Own scores.
    pub own_scores: Option<ScoreSpread>,
    /// Best scores of another subject.
    pub other_scores: Option<ScoreSpread>,
    /// Who is confused with whom, most faces first.
    pub confusions: Vec<Confusion>,
    /// All such pairs.
    pub confusions_total: u64,
    /// The most suspicious first.
    pub suspects: Vec<Suspect>,
    /// All of them.
    pub suspects_total: u64,
}

impl Database {
    /// Searches each face of a gallery with itself left out. `progress` hears how many subjects are done, of how many,
    /// and can stop it ([`GalleryError::Stopping`]); it is asked at each face.
    pub fn leave_one_out(
        &self,
        gallery: &GalleryId,
        options: &LeaveOneOutOptions,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<LeaveOneOut, GalleryError> {
        let open = self.gallery_in_use(gallery)?;
        open.expire();
        let (at, revision) = (now(), self.store.counts(gallery)?.revision);
        let state = open.state();
        let side = &state.in_use;
        let total = side.index.subjects() as u64;
        let mut found = Found::new(options.limit);
        let mut done = 0;
        self.walk(&open, &side.model.id, |subject, faces| {
            if faces.len() == 1 {
                found.not_measurable += 1;
            }
            let set = template_faces(faces);
            let required = required(&state, side, faces.len() - 1);
            for (at, stored) in faces.iter().enumerate() {
                if progress(done, total.max(done)).is_break() {
                    return Err(GalleryError::Stopping);
                }
                let Some(own_score) = own_score(&state, side, &set, at) else { continue };
                let hits = side.index.search_where(&stored.embedding, DEPTH, &|other| other != subject)?.hits;
                let before = hits.iter().filter(|hit| hit.score > own_score).count();
                let best = hits.into_iter().next();
                let best_other_score = best.as_ref().map(|best| best.score);
                let bar = required.into_iter().chain(best_other_score).reduce(f32::max);
                found.add(Suspect {
                    subject: subject.clone(),
                    face: stored.face.id,
                    media: stored.face.media.clone(),
                    quality: stored.face.quality,
                    own_score,
                    own_rank: (before < DEPTH).then_some(before as u64 + 1),
                    best_other: best.map(|best| best.subject),
                    best_other_score,
                    suspicion: bar.map_or(0.0, |bar| bar - own_score),
                });
            }
            done += 1;
            if progress(done, total.max(done)).is_break() { Err(GalleryError::Stopping) } else { Ok(()) }
        })?;
        Ok(found.report(at, revision, side.model.id.clone(), options.limit))
    }
}

/// The score that enrolment asks of a face whose subject has `others` more, also in galleries that do not ask.
fn required(state: &State, side: &Side, others: usize) -> Option<f32> {
    match state.settings.guards.wrong_person {
        Guard::Score(score) => Some(score),
        Guard::Auto | Guard::Off => wrong_person_rule(side, others),
    }
}

/// A face's score against the others of its set. `None` when there are none, or when they cancel each other out.
fn own_score(state: &State, side: &Side, set: &[TemplateFace<'_>], at: usize) -> Option<f32> {
    let face = set.get(at)?;
    let others = || set.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, other)| other);
    match state.settings.kind {
        GalleryKind::Events => others().map(|other| score(other.embedding, face.embedding)).reduce(f32::max),
        GalleryKind::Consolidated => {
            let rest: Vec<TemplateFace<'_>> = others().copied().collect();
            let fusion = state.fusion(&side.model);
            let fused = side.model.fuse(&rest, fusion).or_else(|_| side.model.fuse(&rest, side.model.fusion)).ok()?;
            Some(score(&fused.vector, face.embedding))
        }
    }
}

/// What was found so far.
struct Found {
    not_measurable: u64,
    first: u64,
    own: Vec<f32>,
    other: Vec<f32>,
    confusions: HashMap<(SubjectId, SubjectId), (u64, f32)>,
    suspects: Best<Suspect>,
    suspects_total: u64,
}

impl Found {
    fn new(limit: usize) -> Self {
        Self {
            not_measurable: 0,
            first: 0,
            own: Vec::new(),
            other: Vec::new(),
            confusions: HashMap::new(),
            suspects: Best::new(limit, |a: &Suspect, b| {
                b.suspicion.total_cmp(&a.suspicion).then_with(|| (&a.subject, a.face).cmp(&(&b.subject, b.face)))
            }),
            suspects_total: 0,
        }
    }

    /// Takes a measured face into account.
    fn add(&mut self, face: Suspect) {
        self.first += u64::from(face.own_rank == Some(1));
        self.own.push(face.own_score);
        self.other.extend(face.best_other_score);
        if let (Some(other), Some(score)) = (&face.best_other, face.best_other_score)
            && score > face.own_score
        {
            let (faces, best) = self.confusions.entry((face.subject.clone(), other.clone())).or_insert((0, score));
            *faces += 1;
            *best = best.max(score);
        }
        if face.suspicion > 0.0 {
            self.suspects_total += 1;
            self.suspects.offer(face);
        }
    }

    fn report(self, at: Timestamp, revision: u64, model_id: ModelId, limit: usize) -> LeaveOneOut {
        let measured = self.own.len() as u64;
        let confusions_total = self.confusions.len() as u64;
        let mut confusions: Vec<Confusion> = self
            .confusions
            .into_iter()
            .map(|((subject, other), (faces, score))| Confusion { subject, other, faces, score })
            .collect();
        confusions.sort_by(|a, b| {
            let ids = |of: &Confusion| (of.subject.clone(), of.other.clone());
            (Reverse(a.faces).cmp(&Reverse(b.faces)))
                .then(b.score.total_cmp(&a.score))
                .then_with(|| ids(a).cmp(&ids(b)))
        });
        confusions.truncate(limit);
        LeaveOneOut {
            at,
            revision,
            model_id,
            measured,
            not_measurable: self.not_measurable,
            rank1: (measured > 0).then(|| self.first as f64 / measured as f64),
            own_scores: spread(self.own),
            other_scores: spread(self.other),
            confusions,
            confusions_total,
            suspects: self.suspects.finish().0,
            suspects_total: self.suspects_total,
        }
    }
}

fn spread(mut scores: Vec<f32>) -> Option<ScoreSpread> {
    scores.sort_by(f32::total_cmp);
    let (lowest, highest) = (f64::from(*scores.first()?), f64::from(*scores.last()?));
    let count = scores.len() as f64;
    let mean = scores.iter().map(|score| f64::from(*score)).sum::<f64>() / count;
    let squares = scores.iter().map(|score| (f64::from(*score) - mean).powi(2)).sum::<f64>();
    let at = |share: f64| f64::from(scores[(share * (count - 1.0)).round() as usize]);
    Some(ScoreSpread {
        mean,
        std: (squares / count).sqrt(),
        lowest,
        p05: at(0.05),
        median: at(0.5),
        p95: at(0.95),
        highest,
    })
}
