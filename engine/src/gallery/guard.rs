//! Guards: what a face is compared with before it is enrolled, so that nobody poisons a gallery by mistake.
//!
//! - `wrong_person`: the face against the template of its subject's other faces, those that come with it included. Where
//!   faces that come together disagree, the one that agrees least is found fault with first and then left out, so that
//!   one stranger among them does not take the others along. Of the first faces of a subject, one that is left alone like
//!   this is found fault with as well: nothing says which of them is the person.
//! - `duplicate_subject`: the face against all other subjects. Another subject counts only if the face is more like it than
//!   like its own, and not if the two are known to be two people. Where each face is to be a subject of its own, those
//!   before it count as well, unless they are of the same picture.
//!
//! Where a gallery does not say which score is wanted, it follows from what scores of strangers are worth under the
//! gallery's model ([`ImpostorScores`](crate::model::ImpostorScores)): a face of the right person is to pass. Galleries
//! of events, whose subjects come and go, are then not guarded.

use std::sync::Arc;

use super::GalleryError;
use super::calibrate::Rates;
use super::database::Database;
use super::open::{Side, State};
use super::{NewFace, open};
use crate::ids::{GalleryId, ModelId, SubjectId};
use crate::store::{Check, Consent, GalleryKind, Guard, Override, StoreError, StoredFace};
use crate::template::{TemplateFace, score};

/// False match rate that a face reaches against its own subject at least, while that has few faces. A genuine face of
/// poor quality can be this unlike a single other one.
const WRONG_PERSON_FMR: f64 = 0.1;
/// The same once the subject has [`SEVERAL`] other faces, whose template is surer.
const WRONG_PERSON_FMR_OF_SEVERAL: f64 = 0.05;
const SEVERAL: usize = 3;
/// Share of enrolments of new people that may be taken for somebody who is there.
const DUPLICATE_FPIR: f64 = 0.01;
/// Two subjects are never taken for one at a false match rate above this, however small the gallery.
const DUPLICATE_MOST_FMR: f64 = 1e-4;

/// What the guards say of faces.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    /// What they find fault with, face by face.
    pub findings: Vec<Vec<Override>>,
    /// The subject has no faces yet: a `wrong_person` says that those looked at disagree with each other.
    pub first: bool,
}

impl Database {
    /// What the guards find fault with, face by face. Nothing is stored.
    ///
    /// # Errors
    /// [`GalleryError::ConsentMissing`] for a subject that took its consent back, [`GalleryError::ModelMismatch`] when
    /// the faces are not of the gallery's model.
    pub fn inspect(
        &self,
        gallery: &GalleryId,
        subject: &SubjectId,
        model: &ModelId,
        faces: &[NewFace],
    ) -> Result<Inspection, GalleryError> {
        let state = self.guarded(gallery, model)?;
        let side = &state.in_use;
        let record = self.store.subject(gallery, subject)?;
        if record.as_ref().is_some_and(|record| record.consent == Consent::Withdrawn) {
            return Err(GalleryError::ConsentMissing(subject.clone()));
        }
        let stored = if record.is_some() { self.store.faces(gallery, subject)? } else { Vec::new() };
        if stored.iter().any(|face| face.embedding.len() != side.model.dim) {
            return Err(StoreError::Switched(gallery.clone()).into());
        }
        let (own, mut findings) = against_own(&state, side, &stored, faces);
        if let Some(required) = duplicate_score(&state, side) {
            let mut passed_over = self.kept_apart_from(gallery, subject)?;
            passed_over.insert(subject.clone());
            for ((face, own), findings) in faces.iter().zip(own).zip(&mut findings) {
                let accept = |other: &SubjectId| !passed_over.contains(other);
                let best = side.index.search_where(&face.feature.embedding, 1, &accept)?.hits.into_iter().next();
                if let Some(best) = best.filter(|best| best.score >= required && own.is_none_or(|own| best.score > own))
                {
                    let (check, subject) = (Check::DuplicateSubject, Some(best.subject));
                    findings.push(Override { check, value: best.score, required, subject });
                }
            }
        }
        Ok(Inspection { findings, first: stored.is_empty() })
    }

    /// What the guards find fault with where each face is to be a subject of its own: whom it is like. A face that is
    /// like one that comes before it in `faces` is found fault with too; where `duplicates_stay`, that one counts even if
    /// it is itself like somebody. Nothing is stored.
    ///
    /// # Errors
    /// [`GalleryError::ModelMismatch`] when the faces are not of the gallery's model.
    pub fn inspect_each(
        &self,
        gallery: &GalleryId,
        model: &ModelId,
        faces: &[(SubjectId, NewFace)],
        duplicates_stay: bool,
    ) -> Result<Vec<Vec<Override>>, GalleryError> {
        let state = self.guarded(gallery, model)?;
        let side = &state.in_use;
        let Some(required) = duplicate_score(&state, side) else { return Ok(vec![Vec::new(); faces.len()]) };
        let mut before: Vec<&(SubjectId, NewFace)> = Vec::with_capacity(faces.len());
        let mut findings = Vec::with_capacity(faces.len());
        for one in faces {
            let (_, face) = one;
            let hits = side.index.search_where(&face.feature.embedding, 1, &|_| true)?.hits;
            let there = hits.into_iter().next().map(|hit| (hit.subject, hit.score));
            let apart = |other: &NewFace| other.picture.is_some() && other.picture == face.picture;
            let come = before
                .iter()
                .filter(|(_, other)| !apart(other))
                .map(|(subject, other)| (subject.clone(), score(&other.feature.embedding, &face.feature.embedding)));
            let best = come.chain(there).max_by(|a, b| a.1.total_cmp(&b.1));
            let like = best.filter(|(_, score)| *score >= required);
            if like.is_none() || duplicates_stay {
                before.push(one);
            }
            let finding = like.map(|(subject, value)| Override {
                check: Check::DuplicateSubject,
                value,
                required,
                subject: Some(subject),
            });
            findings.push(finding.into_iter().collect());
        }
        Ok(findings)
    }

    /// The gallery as it is searched by guards of faces of `model`.
    fn guarded(&self, gallery: &GalleryId, model: &ModelId) -> Result<Arc<State>, GalleryError> {
        let open = self.gallery_in_use(gallery)?;
        open.expire();
        let state = open.state();
        let expected = &state.in_use.model.id;
        if expected != model {
            let (expected, actual) = (expected.clone(), model.clone());
            return Err(GalleryError::ModelMismatch { gallery: gallery.clone(), expected, actual });
        }
        Ok(state)
    }
}

/// Each face's score against its subject's others, and what the check of it finds.
fn against_own(
    state: &State,
    side: &Side,
    stored: &[StoredFace],
    faces: &[NewFace],
) -> (Vec<Option<f32>>, Vec<Vec<Override>>) {
    let mut own: Vec<Option<f32>> = vec![None; faces.len()];
    let mut findings: Vec<Vec<Override>> = vec![Vec::new(); faces.len()];
    let mut among: Vec<usize> = (0..faces.len()).collect();
    loop {
        for &at in &among {
            // One that is left alone keeps what it scored against those that were left out.
            own[at] = own_score(state, side, stored, faces, &among, at).or(own[at]);
        }
        if stored.is_empty() && among.len() < 2 {
            break;
        }
        let others = stored.len() + among.len().saturating_sub(1);
        let Some(required) = wrong_person_score(state, side, others) else { break };
        // The least alike, and of those that are equally unlike the poorer one.
        let worst = among.iter().copied().filter(|&at| own[at].is_some_and(|own| own < required)).min_by(|&a, &b| {
            let norm = |at: usize| faces[at].feature.norm;
            own[a].unwrap_or(1.0).total_cmp(&own[b].unwrap_or(1.0)).then(norm(a).total_cmp(&norm(b)))
        });
        let Some(worst) = worst else { break };
        let value = own[worst].unwrap_or_default();
        findings[worst].push(Override { check: Check::WrongPerson, value, required, subject: None });
        among.retain(|&at| at != worst);
    }
    // Nothing bears out the one that is left, and those before it were left out for being unlike it.
    if let ([alone], true, Some(required)) = (&among[..], stored.is_empty(), wrong_person_score(state, side, 1))
        && let Some(value) = own[*alone]
    {
        findings[*alone].push(Override { check: Check::WrongPerson, value, required, subject: None });
    }
    (own, findings)
}

/// A face's score against the template of the stored faces and the others of `among`. `None` when there are none.
fn own_score(
    state: &State,
    side: &Side,
    stored: &[StoredFace],
    faces: &[NewFace],
    among: &[usize],
    at: usize,
) -> Option<f32> {
    let others = among.iter().filter(|&&other| other != at).map(|&other| &faces[other]);
    let new = others.map(|face| TemplateFace {
        embedding: &face.feature.embedding,
        norm: face.feature.norm,
        media: face.media.as_str(),
        style: face.feature.style.as_ref(),
    });
    let set: Vec<TemplateFace<'_>> = open::template_faces(stored).into_iter().chain(new).collect();
    let fusion = state.fusion(&side.model);
    let fused = side.model.fuse(&set, fusion).or_else(|_| side.model.fuse(&set, side.model.fusion)).ok()?;
    Some(score(&fused.vector, &faces[at].feature.embedding))
}

fn wrong_person_score(state: &State, side: &Side, others: usize) -> Option<f32> {
    match state.settings.guards.wrong_person {
        Guard::Off => None,
        Guard::Score(score) => Some(score),
        Guard::Auto if state.settings.kind == GalleryKind::Events => None,
        Guard::Auto => wrong_person_rule(side, others),
    }
}

/// The score that a face is to reach against its subject's `others` faces where nobody says which.
pub(super) fn wrong_person_rule(side: &Side, others: usize) -> Option<f32> {
    side.model.impostors.score_at(if others < SEVERAL { WRONG_PERSON_FMR } else { WRONG_PERSON_FMR_OF_SEVERAL })
}

fn duplicate_score(state: &State, side: &Side) -> Option<f32> {
    match state.settings.guards.duplicate_subject {
        Guard::Off => None,
        Guard::Score(score) => Some(score),
        Guard::Auto if state.settings.kind == GalleryKind::Events => None,
        Guard::Auto => duplicate_rule(state, side),
    }
}

/// The score from which two subjects are taken for one where nobody says which.
pub(super) fn duplicate_rule(state: &State, side: &Side) -> Option<f32> {
    let calibrated = Rates::of(state, side).score_at(DUPLICATE_FPIR).ok().map(|(score, _)| score);
    let fmr = DUPLICATE_FPIR / side.index.rows().max(1) as f64;
    let lowest = side.model.impostors.score_at(DUPLICATE_MOST_FMR)?;
    Some(calibrated.or_else(|| side.model.impostors.score_beyond(fmr))?.max(lowest))
}
