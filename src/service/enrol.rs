//! Enrolment: images become faces of a subject.

use std::sync::Arc;

use vultus_engine::detect::DetectorKind;
use vultus_engine::gallery::{GalleryError, Inspection, NewFace};
use vultus_engine::ids::{GalleryId, ModelId, SubjectId};
use vultus_engine::image::encode_png;
use vultus_engine::infer::Embedder;
use vultus_engine::model::ServedModel;
use vultus_engine::store::{Check, Face, FaceSource, Gallery, Override};

use super::examine::{Embedding, Sample, Wanted, embed_again, embed_all};
use super::select::Select;
use super::timing::{TimingsMs, since};
use crate::app::App;
use crate::extract::submission::Item;
use crate::problem::{Code, Problem, as_written};
use crate::watches::look;

/// How to enrol.
#[derive(Debug, Clone, Copy)]
pub struct EnrolOptions {
    /// Which face of each photo.
    pub select: Select,
    /// Who looks for faces; the server's where left out.
    pub detector: Option<DetectorKind>,
    /// Quality a face must have, beside the gallery's own requirement.
    pub min_quality: Option<f32>,
    /// Do everything but store.
    pub dry_run: bool,
    /// Checks that are overridden.
    pub allow: Allowed,
}

/// Checks that an enrolment overrides.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowed {
    quality: bool,
    wrong_person: bool,
    duplicate_subject: bool,
}

impl Allowed {
    /// These checks.
    pub fn of(checks: impl IntoIterator<Item = Check>) -> Self {
        let mut allowed = Self::default();
        for check in checks {
            match check {
                Check::Quality => allowed.quality = true,
                Check::WrongPerson => allowed.wrong_person = true,
                Check::DuplicateSubject => allowed.duplicate_subject = true,
            }
        }
        allowed
    }

    pub(super) fn allows(self, check: Check) -> bool {
        match check {
            Check::Quality => self.quality,
            Check::WrongPerson => self.wrong_person,
            Check::DuplicateSubject => self.duplicate_subject,
        }
    }
}

/// What an enrolment did.
pub struct Enrolment {
    /// Faces stored (or, in a dry run, that would be), with the image each came from.
    pub faces: Vec<(usize, Face)>,
    /// Images that gave no face and faces that were kept out, and why.
    pub rejected: Vec<Problem>,
    /// The gallery's revision with these faces; `None` where nothing was stored.
    pub revision: Option<u64>,
    /// The model of the features.
    pub model: ModelId,
    /// By stage.
    pub timings: TimingsMs,
}

/// Enrols the faces of a request's images. Fails when none of them can be enrolled.
pub async fn enrol(
    app: &App,
    gallery: GalleryId,
    subject: SubjectId,
    items: Vec<Item>,
    options: EnrolOptions,
) -> Result<Enrolment, Problem> {
    let started = std::time::Instant::now();
    let id = gallery.clone();
    let (settings, mut model) =
        app.blocking(move |app| Ok((app.database.gallery(&id)?, app.model_in_use(&id)?))).await?;
    let how = Embedding { model: &model, wanted: Wanted::One(options.select), detector: options.detector };
    let examined = embed_all(app, items, how).await?;
    let mut timings = examined.timings;
    let required = required_quality(&settings, options.min_quality);
    let (mut accepted, mut rejected) = (Vec::new(), Vec::new());
    for result in examined.images {
        let gated = result.and_then(|samples| {
            samples
                .into_iter()
                .map(|sample| gate(sample, &settings, required, options.allow))
                .collect::<Result<Vec<_>, _>>()
        });
        match gated {
            Ok(samples) => accepted.extend(samples),
            Err(problem) if problem.code.status().is_server_error() => return Err(problem),
            Err(problem) => rejected.push(problem),
        }
    }
    if accepted.is_empty() {
        return Err(rejected.into_iter().next().unwrap_or_else(|| Problem::new(Code::NoFace)));
    }
    let mut accepted = encode_crops(app, accepted, settings.keep_crops).await?;
    let (of_gallery, whose) = (gallery.clone(), subject.clone());
    let store = move |app: &App, served: &ServedModel, new: Vec<(usize, NewFace)>| {
        let (images, new): (Vec<usize>, Vec<NewFace>) = new.into_iter().unzip();
        let inspected = app.database.inspect(&of_gallery, &whose, &served.id, &new)?;
        let (passed, refused) = guard(images, new, inspected, options.allow);
        let (images, new): (Vec<usize>, Vec<NewFace>) = passed.into_iter().unzip();
        if new.is_empty() {
            return Err(refused.into_iter().next().unwrap_or_else(|| Problem::new(Code::NoFace)));
        }
        if options.dry_run {
            let faces = app.database.preview(&whose, served, &new);
            return Ok((images.into_iter().zip(faces).collect::<Vec<_>>(), refused, None));
        }
        let enrolled = app.database.enrol(&of_gallery, &whose, &served.id, new)?;
        Ok((images.into_iter().zip(enrolled.faces).collect(), refused, Some(enrolled.revision)))
    };
    let (faces, refused, revision) = store_under(app, &gallery, &mut model, &mut accepted, store).await?;
    if revision.is_some() {
        let stored = faces.iter().map(|(_, face)| (subject.clone(), face.id)).collect();
        look::enrolment(app, &gallery, stored).await?;
    }
    rejected.extend(refused);
    rejected.sort_by_key(|problem| problem.image);
    timings.total = since(started);
    let model = model.served().id.clone();
    Ok(Enrolment { faces, rejected, revision, model, timings })
}

/// The quality that faces of a request need. It can be stricter than its gallery, never laxer.
pub(super) fn required_quality(gallery: &Gallery, wanted: Option<f32>) -> Option<f32> {
    gallery.min_quality.into_iter().chain(wanted).reduce(f32::max)
}

/// A sample that may be enrolled, and what was overridden for that.
pub(super) struct Gated {
    pub(super) sample: Sample,
    pub(super) overrides: Vec<Override>,
}

/// Has accepted faces, each with its crop, stored by `store`, which is told the model they are of. Where the gallery has
/// changed its model in the meantime, they are the same faces, seen by the new one.
pub(super) async fn store_under<T: Send + 'static>(
    app: &App,
    gallery: &GalleryId,
    model: &mut Arc<Embedder>,
    accepted: &mut [(Gated, Option<Vec<u8>>)],
    store: impl Fn(&App, &ServedModel, Vec<(usize, NewFace)>) -> Result<T, Problem> + Clone + Send + 'static,
) -> Result<T, Problem> {
    loop {
        let new: Vec<(usize, NewFace)> =
            accepted.iter().map(|(of, crop)| (of.sample.image, new_face(of, crop.clone()))).collect();
        let (served, store) = (Arc::clone(model.served()), store.clone());
        match app.blocking(move |app| store(app, &served, new)).await {
            Err(problem) if problem.code == Code::ModelMismatch => {
                let now = app.model_of(gallery).await?;
                if now.served().id == model.served().id {
                    return Err(problem);
                }
                *model = now;
                embed_again(app, accepted.iter_mut().map(|(of, _)| &mut of.sample), model).await?;
            }
            stored => return stored,
        }
    }
}

/// Faces the guards let through, each with its image, and problems of the others.
fn guard(
    images: Vec<usize>,
    new: Vec<NewFace>,
    Inspection { findings, first }: Inspection,
    allow: Allowed,
) -> (Vec<(usize, NewFace)>, Vec<Problem>) {
    let (mut passed, mut refused) = (Vec::new(), Vec::new());
    for ((image, mut face), findings) in images.into_iter().zip(new).zip(findings) {
        match findings.iter().find(|finding| !allow.allows(finding.check)) {
            Some(fault) => {
                let problem = finding_problem(fault, &findings);
                let detail = problem.detail.filter(|_| !first || fault.check != Check::WrongPerson);
                let among_themselves = || {
                    let Override { value, required, .. } = fault;
                    format!(
                        "the faces of the request disagree with each other: this one scores {value:.3} against others, \
                         {required:.3} is required"
                    )
                };
                let detail = Some(detail.unwrap_or_else(among_themselves));
                refused.push(Problem { detail, ..problem }.at_image(image));
            }
            None => {
                face.overrides.extend(findings);
                passed.push((image, face));
            }
        }
    }
    (passed, refused)
}

/// The problem of a face that `first` of its findings keeps out.
pub(super) fn finding_problem(first: &Override, all: &[Override]) -> Problem {
    let (value, required) = (first.value, first.required);
    let (code, detail) = match first.check {
        Check::Quality => (Code::QualityTooLow, format!("the face has quality {value:.3}, {required:.3} is required")),
        Check::WrongPerson => (
            Code::WrongPerson,
            format!("the face scores {value:.3} against the subject's other faces, {required:.3} is required"),
        ),
        Check::DuplicateSubject => (
            Code::DuplicateSubject,
            format!("the face scores {value:.3} against another subject, less than {required:.3} is required"),
        ),
    };
    Problem {
        value: Some(as_written(value)),
        required: Some(as_written(required)),
        subject: all.iter().find_map(|finding| finding.subject.as_ref()).map(ToString::to_string),
        ..Problem::with(code, detail)
    }
}

/// The samples with their crops as PNG files, where the gallery keeps them.
pub(super) async fn encode_crops(
    app: &App,
    samples: Vec<Gated>,
    keep: bool,
) -> Result<Vec<(Gated, Option<Vec<u8>>)>, Problem> {
    if !keep {
        return Ok(samples.into_iter().map(|sample| (sample, None)).collect());
    }
    app.blocking(move |_| {
        let encode = |sample: Gated| {
            let crop = sample.sample.crop.as_ref().map(|crop| encode_png(crop.image())).transpose();
            Ok((sample, crop.map_err(Problem::internal)?))
        };
        samples.into_iter().map(encode).collect()
    })
    .await
}

/// Lets a sample of at least the required quality pass.
pub(super) fn gate(sample: Sample, gallery: &Gallery, required: Option<f32>, allow: Allowed) -> Result<Gated, Problem> {
    if gallery.by_caface() && sample.source == FaceSource::Embedding {
        return Err(Problem::from(GalleryError::NeedsImages(gallery.id.clone())).at_image(sample.image));
    }
    let Some(required) = required.filter(|required| sample.quality < *required) else {
        return Ok(Gated { sample, overrides: Vec::new() });
    };
    let finding = Override { check: Check::Quality, value: sample.quality, required, subject: None };
    if allow.allows(Check::Quality) {
        return Ok(Gated { sample, overrides: vec![finding] });
    }
    Err(finding_problem(&finding, &[]).at_image(sample.image))
}

fn new_face(of: &Gated, crop: Option<Vec<u8>>) -> NewFace {
    let Gated { sample, overrides } = of;
    NewFace {
        feature: sample.feature.clone(),
        media: sample.media.clone(),
        source: sample.source,
        bbox: sample.detection.map(|face| face.bbox),
        landmarks: sample.detection.map(|face| face.landmarks),
        detection_score: sample.detection.map(|face| face.score),
        picture: sample.picture,
        overrides: overrides.clone(),
        crop,
    }
}
