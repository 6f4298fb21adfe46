//! Probes that are held: made of images, grown by frames, searched with.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;
use vultus_engine::detect::DetectorKind;
use vultus_engine::face::Feature;
use vultus_engine::gallery::StoredProbe;
use vultus_engine::ids::{FaceId, GalleryId, SubjectId, TrackId};
use vultus_engine::infer::Embedder;
use vultus_engine::quality::quality;
use vultus_engine::store::StoredFace;
use vultus_engine::template::{FusionRequest, Template, TemplateError};
use vultus_engine::track::{Frame, Summary, Track};

use super::examine::{Embedding, Sample, Wanted, embed_all};
use super::probes::Held;
use super::search::{Probe, Probes};
use super::select::Select;
use super::timing::TimingsMs;
use crate::app::App;
use crate::extract::submission::Item;
use crate::problem::{Code, Problem};

/// A probe that is held already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeldProbe {
    /// A template.
    Template(Uuid),
    /// A track.
    Track(TrackId),
    /// What is enrolled in a gallery: a subject, or one of its faces.
    Enrolled(GalleryId, SubjectId, Option<FaceId>),
}

/// Which model a probe is of: a gallery's, one named, or the server's own.
pub async fn bind(app: &App, gallery: Option<&GalleryId>, model: Option<String>) -> Result<Arc<Embedder>, Problem> {
    match (gallery, model) {
        (Some(_), Some(_)) => Err(Problem::with(Code::InvalidRequest, "give a gallery or a model, not both")),
        (Some(gallery), None) => app.model_of(gallery).await,
        (None, Some(wanted)) => {
            app.blocking(move |app| {
                let models = app.pipeline.models();
                Ok(models.get(&models.resolve(&wanted)?)?)
            })
            .await
        }
        (None, None) => Ok(app.default_model()),
    }
}

/// Faces of a request.
pub struct Taken {
    /// In the order of the images.
    pub samples: Vec<Sample>,
    /// Images that gave no face, and why.
    pub rejected: Vec<Problem>,
    /// By stage.
    pub timings: TimingsMs,
}

/// One face of each image, embedded. Fails when none gives one.
pub async fn take(
    app: &App,
    items: Vec<Item>,
    model: &Embedder,
    select: Select,
    detector: Option<DetectorKind>,
) -> Result<Taken, Problem> {
    let how = Embedding { model, wanted: Wanted::One(select), detector };
    let examined = embed_all(app, items, how).await?.or_problem()?;
    let (mut samples, mut rejected) = (Vec::new(), Vec::new());
    for result in examined.images {
        match result {
            Ok(more) => samples.extend(more),
            Err(problem) => rejected.push(problem),
        }
    }
    Ok(Taken { samples, rejected, timings: examined.timings })
}

/// A sample as a frame. Its crop, if any, is let go.
pub fn frame(sample: Sample) -> Frame {
    Frame { feature: sample.feature, media: sample.media, source: sample.source }
}

/// The probe's template; `None` while it has no frames or they cancel each other out.
pub fn summary(track: &mut Track) -> Result<Option<Arc<Summary>>, Problem> {
    match track.template() {
        Ok(summary) => Ok(Some(summary)),
        Err(TemplateError::Empty | TemplateError::Degenerate) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Finds a held probe, which is thereby used.
pub fn find(app: &App, which: &HeldProbe) -> Result<Arc<Held>, Problem> {
    match which {
        HeldProbe::Template(id) => app.probes.template(*id),
        HeldProbe::Track(id) => app.probes.track(id),
        HeldProbe::Enrolled(..) => Err(Problem::internal("what is enrolled is not held")),
    }
}

/// A held probe, to be searched with. With `explain` the answer lists its frames; a rule of the request's own fuses
/// them anew.
///
/// A search that meets galleries of another model ends in `model_mismatch`: no crops are kept to embed again.
pub async fn probe(
    app: &App,
    which: HeldProbe,
    fusion: Option<FusionRequest>,
    explain: bool,
) -> Result<Probes, Problem> {
    app.blocking(move |app| {
        if let HeldProbe::Enrolled(gallery, subject, face) = which {
            return enrolled(app, &gallery, &subject, face, fusion);
        }
        let held = find(app, &which)?;
        let mut track = held.track();
        if track.is_empty() {
            return Err(Problem::with(Code::InvalidRequest, "the track has no frames yet"));
        }
        let own = track.model().fusion;
        let fusion = fusion.map_or(track.fusion(), |fusion| fusion.resolve(own));
        let (samples, template) = if explain || matches!(which, HeldProbe::Template(_)) {
            (samples(&track), track.explain(fusion)?)
        } else if fusion == track.fusion() {
            let Summary { vector, fusion, coherence } = Summary::clone(&*track.template()?);
            (Vec::new(), Template::unlisted(vector, fusion, coherence))
        } else {
            (Vec::new(), track.explain(fusion)?)
        };
        let probes = vec![Probe { samples, template }];
        Ok(Probes { probes, model: Arc::clone(&held.model), rejected: Vec::new(), timings: TimingsMs::default() })
    })
    .await
}

/// A probe of what is enrolled.
fn enrolled(
    app: &App,
    gallery: &GalleryId,
    subject: &SubjectId,
    face: Option<FaceId>,
    fusion: Option<FusionRequest>,
) -> Result<Probes, Problem> {
    let StoredProbe { model, template, faces } = app.database.stored_probe(gallery, subject, face, fusion)?;
    let model = app.pipeline.models().get(&model)?;
    let sample = |(image, stored): (usize, StoredFace)| Sample {
        image,
        media: stored.face.media,
        source: stored.face.source,
        quality: stored.face.quality,
        feature: Feature { embedding: stored.embedding, norm: stored.face.norm, style: stored.style },
        detection: None,
        crop: None,
        picture: None,
    };
    let samples = faces.into_iter().enumerate().map(sample).collect();
    let probes = vec![Probe { samples, template }];
    Ok(Probes { probes, model, rejected: Vec::new(), timings: TimingsMs::default() })
}

/// Subjects that a search with a held probe passes over: in its own gallery, what is enrolled is not searched for, nor
/// is who it is known not to be.
pub async fn passed_over(
    app: &App,
    held: &HeldProbe,
    galleries: &[GalleryId],
) -> Result<HashMap<GalleryId, HashSet<SubjectId>>, Problem> {
    let HeldProbe::Enrolled(gallery, subject, _) = held.clone() else { return Ok(HashMap::new()) };
    if !galleries.contains(&gallery) {
        return Ok(HashMap::new());
    }
    app.blocking(move |app| {
        let mut passed_over: HashSet<SubjectId> =
            app.database.pairs(&gallery, &subject)?.into_iter().map(|pair| pair.other).collect();
        passed_over.insert(subject);
        Ok(HashMap::from([(gallery, passed_over)]))
    })
    .await
}

/// The frames as faces of a probe; their number stands for the image.
fn samples(track: &Track) -> Vec<Sample> {
    let stats = track.model().norm_stats;
    let sample = |(number, frame): (u64, &Frame)| Sample {
        image: usize::try_from(number).unwrap_or(usize::MAX),
        media: frame.media.clone(),
        source: frame.source,
        quality: quality(frame.feature.norm, stats),
        feature: frame.feature.clone(),
        detection: None,
        crop: None,
        picture: None,
    };
    track.frames(0).map(sample).collect()
}
