//! Enrolment of people whom nobody has named: each face becomes a subject of its own.
//!
//! For photos of crowds and for galleries of events, whose clusters then tell which of these subjects are one person. Faces
//! of one photo keep that they are, so they are never taken for one.

use uuid::Uuid;
use vultus_engine::detect::DetectorKind;
use vultus_engine::gallery::NewFace;
use vultus_engine::ids::{GalleryId, IdError, SubjectId};
use vultus_engine::model::ServedModel;
use vultus_engine::store::{Check, Face};

use super::enrol::{Allowed, Enrolment, encode_crops, finding_problem, gate, required_quality, store_under};
use super::examine::{Embedding, Sample, Wanted, embed_all};
use super::select::corners;
use super::timing::since;
use crate::app::App;
use crate::extract::submission::Item;
use crate::problem::{Problem, ProblemFace};
use crate::watches::look;

/// Characters of the longest prefix that leaves room for a UUID in a subject's id.
pub const MAX_PREFIX: usize = 128 - 36;

/// What the ids of unknown subjects start with; a UUIDv7 follows.
#[derive(Debug, Clone)]
pub struct Prefix(String);

impl Prefix {
    /// This one.
    ///
    /// # Errors
    /// When no subject's id can start with it and go on with a UUID.
    pub fn new(text: String) -> Result<Self, IdError> {
        let prefix = Self(text);
        prefix.subject().map(|_| prefix)
    }

    fn subject(&self) -> Result<SubjectId, IdError> {
        SubjectId::try_from(format!("{}{}", self.0, Uuid::now_v7()))
    }
}

/// How to enrol unknown faces.
#[derive(Debug, Clone)]
pub struct UnknownOptions {
    /// What the new subjects' ids start with.
    pub prefix: Prefix,
    /// Who looks for faces; the server's where left out.
    pub detector: Option<DetectorKind>,
    /// Quality a face must have, beside the gallery's own requirement.
    pub min_quality: Option<f32>,
    /// Do everything but store.
    pub dry_run: bool,
    /// Checks that are overridden.
    pub allow: Allowed,
}

/// Enrols every face of a request's images as a new subject. Fails when no image shows a face.
pub async fn enrol(
    app: &App,
    gallery: GalleryId,
    items: Vec<Item>,
    options: UnknownOptions,
) -> Result<Enrolment, Problem> {
    let started = std::time::Instant::now();
    let settings = {
        let id = gallery.clone();
        app.blocking(move |app| Ok(app.database.gallery(&id)?)).await?
    };
    let mut model = app.model_of(&gallery).await?;
    let how = Embedding { model: &model, wanted: Wanted::Every, detector: options.detector };
    let examined = embed_all(app, items, how).await?.or_problem()?;
    let mut timings = examined.timings;
    let required = required_quality(&settings, options.min_quality);
    let (mut accepted, mut rejected) = (Vec::new(), Vec::new());
    for result in examined.images {
        match result {
            Ok(samples) => {
                for sample in samples {
                    let place = place(&sample);
                    match gate(sample, &settings, required, options.allow) {
                        Ok(gated) => accepted.push(gated),
                        Err(problem) => rejected.push(Problem { faces: place, ..problem }),
                    }
                }
            }
            Err(problem) => rejected.push(problem),
        }
    }
    let mut accepted = encode_crops(app, accepted, settings.keep_crops).await?;
    let (of_gallery, whole) = (gallery.clone(), options);
    let store = move |app: &App, served: &ServedModel, new: Vec<(usize, NewFace)>| {
        store_each(app, &of_gallery, served, &whole, new)
    };
    let (faces, refused, revision) = store_under(app, &gallery, &mut model, &mut accepted, store).await?;
    if revision.is_some() {
        let stored = faces.iter().map(|(_, face)| (face.subject.clone(), face.id)).collect();
        look::enrolment(app, &gallery, stored).await?;
    }
    rejected.extend(refused);
    rejected.sort_by_key(|problem| problem.image);
    timings.total = since(started);
    let model = model.served().id.clone();
    Ok(Enrolment { faces, rejected, revision, model, timings })
}

/// Faces that are stored, each with its image, problems of the others, and the revision.
type Stored = (Vec<(usize, Face)>, Vec<Problem>, Option<u64>);

fn store_each(
    app: &App,
    gallery: &GalleryId,
    served: &ServedModel,
    options: &UnknownOptions,
    new: Vec<(usize, NewFace)>,
) -> Result<Stored, Problem> {
    let (images, new): (Vec<usize>, Vec<NewFace>) = new.into_iter().unzip();
    let subjects = new.iter().map(|_| options.prefix.subject()).collect::<Result<Vec<_>, _>>();
    let new: Vec<(SubjectId, NewFace)> = subjects.map_err(Problem::internal)?.into_iter().zip(new).collect();
    let stay = options.allow.allows(Check::DuplicateSubject);
    let findings = app.database.inspect_each(gallery, &served.id, &new, stay)?;
    let (mut kept, mut passed, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for ((image, (subject, mut face)), findings) in images.into_iter().zip(new).zip(findings) {
        match findings.first().filter(|_| !stay) {
            Some(first) => {
                let at = face.bbox.zip(face.detection_score);
                let faces = at.map(|(b, score)| ProblemFace { bbox: [b.x1, b.y1, b.x2, b.y2], score });
                let problem = finding_problem(first, &findings).at_image(image);
                refused.push(Problem { faces: faces.into_iter().collect(), ..problem });
            }
            None => {
                face.overrides.extend(findings);
                kept.push(image);
                passed.push((subject, face));
            }
        }
    }
    if passed.is_empty() {
        return Ok((Vec::new(), refused, None));
    }
    let (faces, revision) = if options.dry_run {
        let preview =
            |(subject, face): &(SubjectId, NewFace)| app.database.preview(subject, served, std::slice::from_ref(face));
        (passed.iter().flat_map(preview).collect(), None)
    } else {
        let enrolled = app.database.enrol_each(gallery, &served.id, passed)?;
        (enrolled.faces, Some(enrolled.revision))
    };
    Ok((kept.into_iter().zip(faces).collect(), refused, revision))
}

/// Where a sample's face is, as problems tell it.
fn place(sample: &Sample) -> Vec<ProblemFace> {
    let face = sample.detection.iter();
    face.map(|face| ProblemFace { bbox: corners(face), score: face.score }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_leaves_room_for_a_uuid() {
        for good in ["", "unknown-", "gate.2:", &"x".repeat(MAX_PREFIX)] {
            let prefix = Prefix::new(good.to_owned()).unwrap();
            assert!(prefix.subject().unwrap().as_str().starts_with(good));
        }
        for bad in ["a b", "ü", "a/b", &"x".repeat(MAX_PREFIX + 1)] {
            assert!(Prefix::new(bad.to_owned()).is_err(), "{bad:?}");
        }
    }
}
