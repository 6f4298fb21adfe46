//! Enrolment: images become faces of a subject.

use vultus_engine::detect::DetectorKind;
use vultus_engine::gallery::NewFace;
use vultus_engine::ids::{GalleryId, SubjectId};
use vultus_engine::image::encode_png;
use vultus_engine::store::{Face, Gallery};

use super::examine::{Sample, Wanted, embed_all};
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
        app.blocking(move |app| open_gallery(app, &id)).await?
    };
    let examined = embed_all(app, items, Wanted::One(options.select), options.detector).await?;
    let mut timings = examined.timings;
    // A request can be stricter than its gallery, never laxer.
    let required = settings.min_quality.into_iter().chain(options.min_quality).reduce(f32::max);
    let (mut accepted, mut rejected) = (Vec::new(), Vec::new());
    for result in examined.images {
        let gated = result.and_then(|samples| {
            samples.into_iter().map(|sample| gate(sample, required)).collect::<Result<Vec<_>, _>>()
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
    let (faces, revision) = app
        .blocking(move |app| {
            let keep = settings.keep_crops;
            let new = accepted.into_iter().map(|sample| new_face(sample, keep)).collect::<Result<Vec<_>, _>>()?;
            if options.dry_run {
                return Ok((app.database.preview(&subject, &new), None));
            }
            let enrolled = app.database.enrol(&gallery, &subject, new)?;
            Ok((enrolled.faces, Some(enrolled.revision)))
        })
        .await?;
    timings.total = since(started);
    Ok(Enrolment { faces: images.into_iter().zip(faces).collect(), rejected, revision, timings })
}

/// A gallery that can be written with the model in use.
fn open_gallery(app: &App, id: &GalleryId) -> Result<Gallery, Problem> {
    let gallery = app.database.gallery(id)?;
    app.database.check_model(&gallery)?;
    Ok(gallery)
}

fn gate(sample: Sample, required: Option<f32>) -> Result<Sample, Problem> {
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

fn new_face(sample: Sample, keep_crop: bool) -> Result<NewFace, Problem> {
    let crop = sample.crop.filter(|_| keep_crop).map(|crop| encode_png(crop.image())).transpose();
    Ok(NewFace {
        feature: sample.feature,
        media: sample.media,
        source: sample.source,
        bbox: sample.detection.map(|face| face.bbox),
        landmarks: sample.detection.map(|face| face.landmarks),
        detection_score: sample.detection.map(|face| face.score),
        crop: crop.map_err(Problem::internal)?,
    })
}
