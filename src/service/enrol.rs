//! Enrolment: images become faces of a subject.

use std::sync::Arc;

use vultus_engine::detect::DetectorKind;
use vultus_engine::gallery::{GalleryError, NewFace};
use vultus_engine::ids::{GalleryId, ModelId, SubjectId};
use vultus_engine::image::encode_png;
use vultus_engine::store::{Face, FaceSource, Gallery};

use super::examine::{Embedding, Sample, Wanted, embed_again, embed_all};
use super::select::Select;
use super::timing::{TimingsMs, since};
use crate::app::App;
use crate::extract::submission::Item;
use crate::problem::{Code, Problem};

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
}

/// What an enrolment did.
pub struct Enrolment {
    /// Faces stored (or, in a dry run, that would be), with the image each came from.
    pub faces: Vec<(usize, Face)>,
    /// Images that gave no face, and why.
    pub rejected: Vec<Problem>,
    /// The gallery's revision with these faces; `None` in a dry run.
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
    let settings = {
        let id = gallery.clone();
        app.blocking(move |app| Ok(app.database.gallery(&id)?)).await?
    };
    let mut model = app.model_of(&gallery).await?;
    let how = Embedding { model: &model, wanted: Wanted::One(options.select), detector: options.detector };
    let examined = embed_all(app, items, how).await?;
    let mut timings = examined.timings;
    // A request can be stricter than its gallery, never laxer.
    let required = settings.min_quality.into_iter().chain(options.min_quality).reduce(f32::max);
    let (mut accepted, mut rejected) = (Vec::new(), Vec::new());
    for result in examined.images {
        let gated = result.and_then(|samples| {
            samples.into_iter().map(|sample| gate(sample, &settings, required)).collect::<Result<Vec<_>, _>>()
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
    let images: Vec<usize> = accepted.iter().map(|sample| sample.image).collect();
    let mut accepted = encode_crops(app, accepted, settings.keep_crops).await?;
    let (faces, revision) = loop {
        let new: Vec<NewFace> = accepted.iter().map(|(sample, crop)| new_face(sample, crop.clone())).collect();
        let (gallery, subject, served) = (gallery.clone(), subject.clone(), Arc::clone(model.served()));
        let stored = app.blocking(move |app| {
            if options.dry_run {
                return Ok((app.database.preview(&subject, &served, &new), None));
            }
            let enrolled = app.database.enrol(&gallery, &subject, &served.id, new)?;
            Ok((enrolled.faces, Some(enrolled.revision)))
        });
        match stored.await {
            // The gallery changed its model in the meantime: the same faces, seen by the new one.
            Err(problem) if problem.code == Code::ModelMismatch => {
                let now = app.model_of(&settings.id).await?;
                if now.served().id == model.served().id {
                    return Err(problem);
                }
                model = now;
                let (mut samples, crops): (Vec<_>, Vec<_>) = accepted.into_iter().unzip();
                embed_again(app, &mut samples, &model).await?;
                accepted = samples.into_iter().zip(crops).collect();
            }
            stored => break stored?,
        }
    };
    timings.total = since(started);
    let model = model.served().id.clone();
    Ok(Enrolment { faces: images.into_iter().zip(faces).collect(), rejected, revision, model, timings })
}

/// The samples with their crops as PNG files, where the gallery keeps them.
async fn encode_crops(app: &App, samples: Vec<Sample>, keep: bool) -> Result<Vec<(Sample, Option<Vec<u8>>)>, Problem> {
    app.blocking(move |_| {
        let encode = |sample: Sample| {
            let crop = sample.crop.as_ref().filter(|_| keep).map(|crop| encode_png(crop.image())).transpose();
            Ok((sample, crop.map_err(Problem::internal)?))
        };
        samples.into_iter().map(encode).collect()
    })
    .await
}

fn gate(sample: Sample, gallery: &Gallery, required: Option<f32>) -> Result<Sample, Problem> {
    if gallery.by_caface() && sample.source == FaceSource::Embedding {
        return Err(Problem::from(GalleryError::NeedsImages(gallery.id.clone())).at_image(sample.image));
    }
    match required {
        Some(required) if sample.quality < required => Err(Problem {
            value: Some(f64::from(sample.quality)),
            required: Some(f64::from(required)),
            ..Problem::with(
                Code::QualityTooLow,
                format!("the face has quality {:.3}, {required:.3} is required", sample.quality),
            )
            .at_image(sample.image)
        }),
        _ => Ok(sample),
    }
}

fn new_face(sample: &Sample, crop: Option<Vec<u8>>) -> NewFace {
    NewFace {
        feature: sample.feature.clone(),
        media: sample.media.clone(),
        source: sample.source,
        bbox: sample.detection.map(|face| face.bbox),
        landmarks: sample.detection.map(|face| face.landmarks),
        detection_score: sample.detection.map(|face| face.score),
        picture: None,
        overrides: Vec::new(),
        crop,
    }
}
