//! Search: images become probe templates, galleries answer with candidates.

use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;
use vultus_engine::detect::DetectorKind;
use vultus_engine::gallery::{SearchQuery, SearchResult};
use vultus_engine::ids::GalleryId;
use vultus_engine::infer::Embedder;
use vultus_engine::model::ServedModel;
use vultus_engine::template::{Fusion, FusionRequest, Template, TemplateFace};

use super::examine::{Embedding, Sample, Wanted, embed_again, embed_all};
use super::select::Select;
use super::timing::{TimingsMs, since};
use crate::app::App;
use crate::extract::submission::Item;
use crate::problem::{Code, Problem};

/// How often probes are made for galleries that change their model in the meantime.
pub const ATTEMPTS: u32 = 4;

/// How faces become probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grouping {
    /// One face of each image, all fused into one probe.
    Fuse(Select),
    /// Every face of every image is a probe of its own.
    Each,
}

/// Faces fused into one probe.
pub struct Probe {
    /// The faces, in the order of the request.
    pub samples: Vec<Sample>,
    /// What they were fused into.
    pub template: Template,
}

/// A probe with the answers of the galleries, in the order they were asked.
pub struct Searched {
    /// Names this search.
    pub id: Uuid,
    /// The probe.
    pub probe: Probe,
    /// Each gallery's answer.
    pub results: Vec<(GalleryId, SearchResult)>,
}

/// Probes made from a request's images.
pub struct Probes {
    /// At least one.
    pub probes: Vec<Probe>,
    /// The backbone that made them.
    pub model: Arc<Embedder>,
    /// Images that gave no face, and why.
    pub rejected: Vec<Problem>,
    /// By stage.
    pub timings: TimingsMs,
}

/// How a request's images become probes.
#[derive(Debug, Clone)]
pub struct ProbeOptions {
    /// Fused, or each for itself.
    pub grouping: Grouping,
    /// The rule; the model's where left out.
    pub fusion: Option<FusionRequest>,
    /// Who looks for faces; the server's choice where left out.
    pub detector: Option<DetectorKind>,
}

/// Makes probes of a request's images with a backbone. Fails when no image gives a face.
pub async fn probes(
    app: &App,
    items: Vec<Item>,
    model: Arc<Embedder>,
    options: &ProbeOptions,
) -> Result<Probes, Problem> {
    let wanted = match options.grouping {
        Grouping::Fuse(select) => Wanted::One(select),
        Grouping::Each => Wanted::Every,
    };
    let how = Embedding { model: &model, wanted, detector: options.detector };
    let examined = embed_all(app, items, how).await?.or_problem()?;
    let (mut samples, mut rejected) = (Vec::new(), Vec::new());
    for result in examined.images {
        match result {
            Ok(more) => samples.extend(more),
            Err(problem) => rejected.push(problem),
        }
    }
    let probes = group(samples, &model, options)?;
    Ok(Probes { probes, model, rejected, timings: examined.timings })
}

fn group(samples: Vec<Sample>, model: &Embedder, options: &ProbeOptions) -> Result<Vec<Probe>, Problem> {
    let served = model.served();
    let fusion = options.fusion.map_or(served.fusion, |fusion| fusion.resolve(served.fusion));
    match options.grouping {
        Grouping::Fuse(_) => Ok(vec![probe(served, samples, fusion)?]),
        Grouping::Each => samples.into_iter().map(|sample| probe(served, vec![sample], fusion)).collect(),
    }
}

fn probe(model: &ServedModel, samples: Vec<Sample>, fusion: Fusion) -> Result<Probe, Problem> {
    let faces: Vec<TemplateFace<'_>> = samples
        .iter()
        .map(|Sample { feature, media, .. }| TemplateFace {
            embedding: &feature.embedding,
            norm: feature.norm,
            media: media.as_str(),
            style: feature.style.as_ref(),
        })
        .collect();
    let template = model.fuse(&faces, fusion)?;
    Ok(Probe { samples, template })
}

/// The backbone of the model that all of these galleries are of.
pub async fn common_model(app: &App, galleries: &[GalleryId]) -> Result<Arc<Embedder>, Problem> {
    let galleries = galleries.to_vec();
    app.blocking(move |app| {
        let mut common: Option<Arc<ServedModel>> = None;
        for gallery in &galleries {
            let model = app.database.model_of(gallery)?;
            let first = common.get_or_insert_with(|| Arc::clone(&model));
            if first.id != model.id {
                return Err(Problem {
                    expected_model_id: Some(first.id.to_string()),
                    ..Problem::with(
                        Code::ModelMismatch,
                        format!("gallery {gallery} is of model {}, another is of {}", model.id, first.id),
                    )
                });
            }
        }
        let common = common.ok_or_else(|| Problem::internal("a search names a gallery"))?;
        Ok(app.pipeline.models().get(&common.id)?)
    })
    .await
}

/// Searches galleries with each probe, and says how long that took.
///
/// When the galleries have left the probes' model in the meantime, the probes are made again with the new one.
pub async fn search(
    app: &App,
    galleries: Vec<GalleryId>,
    mut made: Probes,
    options: &ProbeOptions,
    query: &SearchQuery,
) -> Result<(Vec<Searched>, Arc<Embedder>, f64), Problem> {
    for attempt in 1.. {
        let (probes, outcome) = search_once(app, &galleries, made.probes, &made.model, query).await?;
        made.probes = probes;
        match outcome {
            // A held probe that lists no faces has nothing to be made of again.
            Err(problem)
                if problem.code == Code::ModelMismatch
                    && attempt < ATTEMPTS
                    && made.probes.iter().all(|probe| !probe.samples.is_empty()) =>
            {
                made.model = common_model(app, &galleries).await?;
                made = again(app, made, options).await?;
            }
            outcome => {
                let (results, took) = outcome?;
                let pairs = made.probes.into_iter().zip(results);
                let searched = pairs.map(|(probe, results)| Searched { id: Uuid::now_v7(), probe, results }).collect();
                return Ok((searched, made.model, took));
            }
        }
    }
    Err(Problem::internal("a search ends in an answer"))
}

/// Makes probes again with the model they name by now.
pub async fn again(app: &App, made: Probes, options: &ProbeOptions) -> Result<Probes, Problem> {
    let mut samples: Vec<Sample> = made.probes.into_iter().flat_map(|probe| probe.samples).collect();
    embed_again(app, samples.iter_mut(), &made.model).await?;
    Ok(Probes { probes: group(samples, &made.model, options)?, ..made })
}

/// Each gallery's answer to each probe, in order.
type Results = Vec<Vec<(GalleryId, SearchResult)>>;

async fn search_once(
    app: &App,
    galleries: &[GalleryId],
    probes: Vec<Probe>,
    model: &Arc<Embedder>,
    query: &SearchQuery,
) -> Result<(Vec<Probe>, Result<(Results, f64), Problem>), Problem> {
    let (galleries, model, query) = (galleries.to_vec(), Arc::clone(model), query.clone());
    app.blocking(move |app| {
        let started = Instant::now();
        let vectors: Vec<&[f32]> = probes.iter().map(|probe| &probe.template.vector[..]).collect();
        let mut results: Results = probes.iter().map(|_| Vec::with_capacity(galleries.len())).collect();
        let searched = galleries.iter().try_for_each(|gallery| {
            let of_gallery = app.database.search_each(gallery, &model.served().id, &vectors, &query)?;
            results.iter_mut().zip(of_gallery).for_each(|(all, result)| all.push((gallery.clone(), result)));
            Ok(())
        });
        let results = searched.map(|()| results);
        Ok((probes, results.map(|results| (results, since(started)))))
    })
    .await
}
