//! Search and verification: from a probe template to candidates.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::GalleryError;
use super::calibrate::{CalibrationStatus, Rates};
use super::database::Database;
use super::decision::{Decider, Decision, ServerScores, ThresholdSource};
use super::facts::Filter;
use super::open::{OpenGallery, Side, State, template, template_faces};
use crate::ids::{FaceId, GalleryId, MediaId, ModelId, SubjectId};
use crate::index::{IndexKind, SearchMode, SearchOutcome};
use crate::store::{GalleryKind, StoreError, StoredFace, Thresholds};
use crate::template::{FaceScore, FusionRequest, Template, TemplateError, scores};

/// How a gallery is searched.
#[derive(Debug, Clone)]
pub struct SearchQuery {
    /// Most candidates wanted.
    pub limit: usize,
    /// Exact, graph, or as the index chooses.
    pub mode: SearchMode,
    /// What the request says of thresholds; what it leaves open follows gallery and server.
    pub thresholds: Thresholds,
    /// What a watch says of them, when it is one that searches.
    pub watch: Thresholds,
    /// Which subjects are meant; `None`: all.
    pub filter: Option<Filter>,
    /// Subjects that are passed over, by gallery: the probe's own, and those that are known to be somebody else.
    pub passed_over: HashMap<GalleryId, HashSet<SubjectId>>,
    /// Whether each candidate lists its faces.
    pub explain: bool,
}

/// One face of a candidate.
#[derive(Debug, Clone)]
pub struct CandidateFace {
    /// Which.
    pub id: FaceId,
    /// The photo or video it came from.
    pub media: MediaId,
    /// Length of its raw feature.
    pub norm: f32,
    /// CDF of its standardised norm.
    pub quality: f32,
    /// Its share of the subject's template, and its own score against the probe.
    pub part: FaceScore,
}

/// One subject of a candidate list.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Who.
    pub subject: SubjectId,
    /// Position in the list, from 1.
    pub rank: u32,
    /// Cosine of probe and reference.
    pub score: f32,
    /// The rate at which searches for people who are not enrolled reach this score; `None` while nothing says.
    pub fpir: Option<f64>,
    /// What is said of it, at the thresholds in force.
    pub decision: Decision,
    /// In a gallery of events: the face that was found.
    pub face: Option<FaceId>,
    /// With `explain`: every face of the subject.
    pub faces: Vec<CandidateFace>,
}

/// The answer of one gallery.
#[derive(Debug, Clone)]
pub struct SearchResult {
    /// Sequence number of the last change of the gallery before the search.
    pub revision: u64,
    /// How the index was searched.
    pub kind: IndexKind,
    /// Recall of the graph, when it was walked.
    pub recall: Option<f32>,
    /// The thresholds in force.
    pub decider: Decider,
    /// What says what scores are worth.
    pub calibration: Option<CalibrationStatus>,
    /// Best first, each subject once.
    pub candidates: Vec<Candidate>,
}

impl SearchQuery {
    /// For the best `limit` subjects, with nothing else asked for.
    pub fn plain(limit: usize) -> Self {
        Self {
            limit,
            mode: SearchMode::Auto,
            thresholds: Thresholds::default(),
            watch: Thresholds::default(),
            filter: None,
            passed_over: HashMap::new(),
            explain: false,
        }
    }
}

impl SearchResult {
    /// The decision on the probe: that on its best candidate.
    pub fn decision(&self) -> Decision {
        self.candidates.first().map_or(Decision::None, |candidate| candidate.decision)
    }
}

/// A probe made of what is enrolled.
#[derive(Debug, Clone)]
pub struct StoredProbe {
    /// The model of its features.
    pub model: ModelId,
    /// The template.
    pub template: Template,
    /// The faces it was fused from.
    pub faces: Vec<StoredFace>,
}

/// A probe compared with one subject.
#[derive(Debug, Clone)]
pub struct SubjectMatch {
    /// Cosine of the probe and the subject's template.
    pub score: f32,
    /// Match or not, at the threshold in force.
    pub decision: Decision,
    /// The thresholds in force.
    pub decider: Decider,
    /// ‖Σx‖ / Σnorm of the subject's faces.
    pub coherence: f32,
    /// Every face of the subject.
    pub faces: Vec<CandidateFace>,
}

impl Database {
    /// Searches a gallery with a unit probe vector of a model: the gallery's, or while it moves from one to another,
    /// either of the two, so that a probe made before a switch is still answered after it.
    pub fn search(
        &self,
        gallery: &GalleryId,
        model: &ModelId,
        probe: &[f32],
        query: &SearchQuery,
    ) -> Result<SearchResult, GalleryError> {
        let mut results = self.search_each(gallery, model, &[probe], query)?;
        Ok(results.pop().expect("a result for each probe"))
    }

    /// As [`search`](Self::search), for several probes, which is faster than one after the other. A result for each, in order.
    pub fn search_each(
        &self,
        gallery: &GalleryId,
        model: &ModelId,
        probes: &[&[f32]],
        query: &SearchQuery,
    ) -> Result<Vec<SearchResult>, GalleryError> {
        let open = self.gallery_in_use(gallery)?;
        open.expire();
        let state = open.state();
        let side = side_of(&state, model)?;
        let rates = Rates::of(&state, side);
        let decider = decider(side, &rates, query.thresholds, query.watch, self.config.review)?;
        let revision = self.store.counts(gallery)?.revision;
        let outcomes = self.find(&open, side, probes, query)?;
        let mut results = Vec::with_capacity(probes.len());
        for (probe, outcome) in probes.iter().zip(outcomes) {
            let mut candidates = Vec::with_capacity(outcome.hits.len());
            for (hit, rank) in outcome.hits.into_iter().zip(1..) {
                let faces = if query.explain {
                    let stored = self.faces_under(gallery, &hit.subject, model)?;
                    explain(&state, side, &stored, probe)?
                } else {
                    Vec::new()
                };
                candidates.push(Candidate {
                    subject: hit.subject,
                    rank,
                    score: hit.score,
                    fpir: rates.fpir_at(hit.score).map(|estimate| estimate.fpir),
                    decision: decider.decide(hit.score),
                    face: hit.face,
                    faces,
                });
            }
            results.push(SearchResult {
                revision,
                kind: outcome.kind,
                recall: outcome.recall,
                decider,
                calibration: rates.status().cloned(),
                candidates,
            });
        }
        Ok(results)
    }

    /// The subjects that a query is about and that are most like each probe.
    fn find(
        &self,
        open: &OpenGallery,
        side: &Side,
        probes: &[&[f32]],
        query: &SearchQuery,
    ) -> Result<Vec<SearchOutcome>, GalleryError> {
        let SearchQuery { limit, mode, filter, passed_over, .. } = query;
        let passed_over = passed_over.get(&open.state().settings.id);
        let wanted = |subject: &SubjectId| passed_over.is_none_or(|over| !over.contains(subject));
        let index = &side.index;
        let Some(filter) = filter else {
            return Ok(match probes {
                _ if passed_over.is_some() => {
                    probes.iter().map(|probe| index.search_where(probe, *limit, &wanted)).collect::<Result<_, _>>()?
                }
                // One waits for others that come at the same time.
                [probe] => vec![index.search(probe, *limit, *mode)?],
                _ => index.search_many(&probes.iter().map(|probe| (*probe, *limit)).collect::<Vec<_>>(), *mode)?,
            });
        };
        // Only the first filtered search of a gallery waits for its writers.
        if open.care.facts().is_none() {
            let _held = open.hold();
            open.care.load_facts(self.store(), &open.state().settings.id)?;
        }
        let facts = open.care.facts();
        // A subject that has just come or gone is not among the facts; it is as if the search had been before it.
        let accept =
            |subject: &SubjectId| wanted(subject) && facts.as_ref().is_some_and(|facts| facts.selects(filter, subject));
        let mask = facts.as_ref().map(|facts| open.care.mask(filter, index, facts));
        let search = |probe: &&[f32]| match &mask {
            Some(mask) => index.search_masked(probe, *limit, mask, &wanted, &accept),
            None => index.search_where(probe, *limit, &accept),
        };
        Ok(probes.iter().map(search).collect::<Result<_, _>>()?)
    }

    /// A probe made of what is enrolled: the template of a subject, or one face of it, of the gallery's model.
    pub fn stored_probe(
        &self,
        gallery: &GalleryId,
        subject: &SubjectId,
        face: Option<FaceId>,
        fusion: Option<FusionRequest>,
    ) -> Result<StoredProbe, GalleryError> {
        let open = self.gallery_in_use(gallery)?;
        let state = open.state();
        let model = Arc::clone(&state.in_use.model);
        self.matchable_subject(gallery, subject)?;
        let mut stored = self.faces_under(gallery, subject, &model.id)?;
        if let Some(face) = face {
            stored.retain(|stored| stored.face.id == face);
            if stored.is_empty() {
                return Err(StoreError::NoFace(gallery.clone(), face).into());
            }
        }
        let fusion = fusion.map_or_else(|| state.fusion(&model), |fusion| fusion.resolve(model.fusion));
        let template = template(&stored, fusion, &model)?;
        Ok(StoredProbe { model: model.id.clone(), template, faces: stored })
    }

    /// Compares a probe with all faces of one subject.
    pub fn verify(
        &self,
        gallery: &GalleryId,
        subject: &SubjectId,
        model: &ModelId,
        probe: &[f32],
        thresholds: Thresholds,
    ) -> Result<SubjectMatch, GalleryError> {
        let state = self.gallery_in_use(gallery)?.state();
        let side = side_of(&state, model)?;
        self.matchable_subject(gallery, subject)?;
        let stored = self.faces_under(gallery, subject, model)?;
        let faces = explain(&state, side, &stored, probe)?;
        let fused = template(&stored, state.fusion(&side.model), &side.model);
        let (score, coherence) = match (state.settings.kind, fused) {
            (GalleryKind::Consolidated, fused) => {
                let fused = fused?;
                (crate::template::score(&fused.vector, probe), fused.coherence)
            }
            // An event stands for itself, so the best face speaks for the subject there, as it does in a search.
            (GalleryKind::Events, Ok(fused)) => (best(&faces), fused.coherence),
            (GalleryKind::Events, Err(TemplateError::Degenerate)) => (best(&faces), 0.0),
            (GalleryKind::Events, Err(error)) => return Err(error.into()),
        };
        let decider = decider(side, &Rates::of(&state, side), thresholds, Thresholds::default(), self.config.review)?;
        Ok(SubjectMatch { score, decision: decider.decide(score), decider, coherence, faces })
    }

    /// A subject's faces with their features of one model, whichever set holds them at the moment.
    fn faces_under(
        &self,
        gallery: &GalleryId,
        subject: &SubjectId,
        model: &ModelId,
    ) -> Result<Vec<StoredFace>, GalleryError> {
        loop {
            let before = self.gallery(gallery)?.model_id;
            let stored = if before == *model {
                self.store.faces(gallery, subject)?
            } else {
                // The migration may have ended since the caller looked; then nothing is left of the model.
                let under_way = self
                    .store
                    .migrations(gallery)?
                    .into_iter()
                    .any(|migration| !migration.stage.is_ended() && migration.standby().model_id == *model);
                if !under_way {
                    let (gallery, actual) = (gallery.clone(), model.clone());
                    return Err(GalleryError::ModelMismatch { gallery, expected: before, actual });
                }
                self.store.standby_faces(gallery, subject)?
            };
            // Read again when the sets were exchanged in between.
            if self.gallery(gallery)?.model_id == before {
                return Ok(stored);
            }
        }
    }
}

/// The thresholds in force.
fn decider(
    side: &Side,
    rates: &Rates<'_>,
    request: Thresholds,
    watch: Thresholds,
    review: Option<f32>,
) -> Result<Decider, GalleryError> {
    let asked = [
        (ThresholdSource::Request, request),
        (ThresholdSource::Watch, watch),
        (ThresholdSource::Gallery, side.thresholds),
    ];
    Decider::resolve(&asked, ServerScores { matching: side.model.threshold, review }, rates)
}

/// The side whose embeddings are of a model.
fn side_of<'a>(state: &'a State, model: &ModelId) -> Result<&'a Side, GalleryError> {
    state.side(model).ok_or_else(|| GalleryError::ModelMismatch {
        gallery: state.settings.id.clone(),
        expected: state.in_use.model.id.clone(),
        actual: model.clone(),
    })
}

/// What each face contributes, and its own score.
fn explain(
    state: &State,
    side: &Side,
    stored: &[StoredFace],
    probe: &[f32],
) -> Result<Vec<CandidateFace>, GalleryError> {
    if stored.iter().any(|face| face.embedding.len() != probe.len()) {
        return Err(StoreError::Damaged("a vector's length is not its gallery's dimension".to_owned()).into());
    }
    if stored.is_empty() {
        return Ok(Vec::new());
    }
    let fused = template(stored, state.fusion(&side.model), &side.model);
    let parts = match fused {
        _ if state.settings.kind == GalleryKind::Events => of_events(stored, probe),
        Ok(template) => scores(&template, &template_faces(stored), probe),
        // Faces that cancel out have no template, and so no share in one; each still has its score.
        Err(TemplateError::Degenerate) => stored
            .iter()
            .map(|face| FaceScore {
                weight: 0.0,
                score: crate::template::score(&face.embedding, probe),
                score_without: None,
            })
            .collect(),
        Err(error) => return Err(error.into()),
    };
    let face = |(stored, part): (&StoredFace, FaceScore)| CandidateFace {
        id: stored.face.id,
        media: stored.face.media.clone(),
        norm: stored.face.norm,
        quality: stored.face.quality,
        part,
    };
    Ok(stored.iter().zip(parts).map(face).collect())
}

/// Faces of events: the best one speaks for its subject alone.
fn of_events(stored: &[StoredFace], probe: &[f32]) -> Vec<FaceScore> {
    let scores: Vec<f32> = stored.iter().map(|face| crate::template::score(&face.embedding, probe)).collect();
    let best_of = |left_out: Option<usize>| {
        let others = (0..scores.len()).filter(|&at| Some(at) != left_out);
        others.max_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(b.cmp(&a)))
    };
    let best = best_of(None);
    let part = |(at, &score): (usize, &f32)| FaceScore {
        weight: if Some(at) == best { 1.0 } else { 0.0 },
        score,
        score_without: best_of(Some(at)).map(|other| scores[other]),
    };
    scores.iter().enumerate().map(part).collect()
}

/// The best score among faces.
fn best(faces: &[CandidateFace]) -> f32 {
    faces.iter().map(|face| face.part.score).fold(-1.0, f32::max)
}
