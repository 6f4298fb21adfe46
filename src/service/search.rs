//! Search: images become probe templates, galleries answer with candidates.

use std::time::Instant;

use vultus_engine::detect::DetectorKind;
use vultus_engine::gallery::{SearchQuery, SearchResult};
use vultus_engine::ids::GalleryId;
use vultus_engine::template::{Fusion, Template, TemplateFace, fuse};

use super::examine::{Sample, Wanted, embed_all};
use super::select::Select;
use super::timing::{TimingsMs, since};
use crate::app::App;
use crate::extract::submission::Item;
use crate::problem::Problem;

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
    /// The probe.
    pub probe: Probe,
    /// Each gallery's answer.
    pub results: Vec<(GalleryId, SearchResult)>,
}

/// Probes made from a request's images.
pub struct Probes {
    /// At least one.
    pub probes: Vec<Probe>,
    /// Images that gave no face, and why.
    pub rejected: Vec<Problem>,
    /// By stage.
    pub timings: TimingsMs,
}

/// Makes probes of a request's images, their faces found by the given detector or else by the server's. Fails when no
/// image gives a face.
pub async fn probes(
    app: &App,
    items: Vec<Item>,
    grouping: Grouping,
    fusion: Option<Fusion>,
    detector: Option<DetectorKind>,
) -> Result<Probes, Problem> {
    let wanted = match grouping {
        Grouping::Fuse(select) => Wanted::One(select),
        Grouping::Each => Wanted::Every,
    };
    let examined = embed_all(app, items, wanted, detector).await?.or_problem()?;
    let (mut samples, mut rejected) = (Vec::new(), Vec::new());
    for result in examined.images {
        match result {
            Ok(more) => samples.extend(more),
            Err(problem) => rejected.push(problem),
        }
    }
    let fusion = fusion.unwrap_or(app.database.model().fusion);
    let probes = match grouping {
        Grouping::Fuse(_) => vec![probe(app, samples, fusion)?],
        Grouping::Each => samples.into_iter().map(|s| probe(app, vec![s], fusion)).collect::<Result<_, _>>()?,
    };
    Ok(Probes { probes, rejected, timings: examined.timings })
}

fn probe(app: &App, samples: Vec<Sample>, fusion: Fusion) -> Result<Probe, Problem> {
    let faces: Vec<TemplateFace<'_>> = samples
        .iter()
        .map(|s| TemplateFace { embedding: &s.feature.embedding, norm: s.feature.norm, media: s.media.as_str() })
        .collect();
    let template = fuse(&faces, fusion, app.database.model().norm_stats)?;
    Ok(Probe { samples, template })
}

/// Searches galleries with each probe.
pub async fn search(
    app: &App,
    galleries: Vec<GalleryId>,
    probes: Vec<Probe>,
    query: SearchQuery,
) -> Result<(Vec<Searched>, f64), Problem> {
    app.blocking(move |app| {
        let started = Instant::now();
        let mut searched = Vec::with_capacity(probes.len());
        for probe in probes {
            let mut results = Vec::with_capacity(galleries.len());
            for gallery in &galleries {
                results.push((gallery.clone(), app.database.search(gallery, &probe.template.vector, query)?));
            }
            searched.push(Searched { probe, results });
        }
        Ok((searched, since(started)))
    })
    .await
}
