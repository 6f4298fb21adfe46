//! `/v1/galleries/{gallery}/search` and `/v1/search`: who is this?

mod answer;
mod request;

use std::time::Instant;

use axum::extract::State;
use axum::response::IntoResponse;
use vultus_engine::ids::{GalleryId, WatchId};

pub use answer::{
    AnswerView, AnswersView, CandidateFaceView, CandidateView, GallerySearched, KindName, ProbeView, SearchResponse,
};
pub(crate) use answer::{probe_view, view as answer_view};
pub use request::{FacesName, ModeName, SearchBody, SearchParams};

use super::faces::ImageForm;
use super::params::GalleryPath;
use super::wire::FusionSpec;
use crate::app::App;
use crate::extract::Path;
use crate::extract::submission::Submission;
use crate::problem::{Code, Problem};
use crate::service::search::{Grouping, ProbeOptions, common_model, probes, search as search_galleries};
use crate::service::timing::{TimingsMs, since};
use crate::service::tracks::{passed_over, probe as held_probe};
use crate::watches::look;

/// Most galleries of a search.
const MAX_GALLERIES: usize = 16;

/// Searches one gallery.
///
/// With `faces=fuse` (the default) one face of every image goes into one quality-weighted probe; images without a face
/// are listed under `rejected` as long as another has one. With `faces=each` every face is searched on its own. In place
/// of images a request can name a `template` or a `track`.
#[utoipa::path(post, path = "/v1/galleries/{gallery}/search", operation_id = "search_gallery", tag = "search",
    params(GalleryPath, SearchParams),
    request_body(content((SearchBody = "application/json"), (ImageForm = "multipart/form-data"),
        (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/png"), (Vec<u8> = "image/webp"))),
    responses((status = 200, description = "The candidates.", body = SearchResponse)),
    extensions(("x-problems" = json!(["gallery_not_found", "template_not_found", "track_not_found", "several_faces",
        "subject_not_found", "face_not_found", "subject_has_no_faces", "consent_missing",
        "faces_contradict", "calibration_missing", "watch_not_found"])), ("x-images" = json!(true))))]
pub async fn gallery(
    State(app): State<App>,
    Path(GalleryPath { gallery }): Path<GalleryPath>,
    submission: Submission<SearchBody>,
) -> Result<impl IntoResponse, Problem> {
    if submission.options.galleries.is_some() {
        return Err(Problem::with(Code::InvalidRequest, "galleries goes with /v1/search; this searches one"));
    }
    serve(&app, vec![gallery], submission).await
}

/// Searches several galleries at once; each candidate says where it is enrolled.
#[utoipa::path(post, path = "/v1/search", operation_id = "search", tag = "search",
    params(SearchParams),
    request_body(content((SearchBody = "application/json"), (ImageForm = "multipart/form-data"),
        (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/png"), (Vec<u8> = "image/webp"))),
    responses((status = 200, description = "The candidates.", body = SearchResponse)),
    extensions(("x-problems" = json!(["gallery_not_found", "template_not_found", "track_not_found", "several_faces",
        "subject_not_found", "face_not_found", "subject_has_no_faces",
        "faces_contradict", "calibration_missing", "watch_not_found"])), ("x-images" = json!(true))))]
pub async fn several(State(app): State<App>, submission: Submission<SearchBody>) -> Result<impl IntoResponse, Problem> {
    let mut galleries = submission.options.galleries.clone().unwrap_or_default();
    galleries.sort();
    galleries.dedup();
    if !(1..=MAX_GALLERIES).contains(&galleries.len()) {
        return Err(Problem::with(Code::InvalidRequest, format!("galleries names 1 to {MAX_GALLERIES} galleries")));
    }
    serve(&app, galleries, submission).await
}

async fn serve(
    app: &App,
    galleries: Vec<GalleryId>,
    submission: Submission<SearchBody>,
) -> Result<axum::Json<SearchResponse>, Problem> {
    let started = Instant::now();
    let Submission { items, options, .. } = submission;
    let mut query = options.query()?;
    let grouping = options.grouping();
    let fusion = options.fusion.map(FusionSpec::checked).transpose()?;
    let held = options.held()?;
    let named = options.watch.map(|id| app.watches.book().watch(WatchId(id))).transpose()?;
    if let Some(watch) = &named {
        if galleries != [watch.settings.gallery.clone()] {
            return Err(Problem::with(Code::InvalidRequest, "a watch goes with a search of its own gallery alone"));
        }
        query.watch = watch.settings.thresholds;
    }
    let how = ProbeOptions { grouping, fusion, detector: options.detector.map(Into::into) };
    let mut made = match held {
        Some(held) => {
            query.passed_over = passed_over(app, &held, &galleries).await?;
            held_probe(app, held, fusion, query.explain).await?
        }
        None => {
            // A gallery that cannot be searched is not worth an inference.
            let model = common_model(app, &galleries).await?;
            probes(app, items, model, &how).await?
        }
    };
    let (rejected, timings) = (std::mem::take(&mut made.rejected), made.timings);
    let (searched, model, search_ms) = search_galleries(app, galleries, made, &how, &query).await?;
    let named = named.map(|watch| watch.id);
    let searched = look::searches(app, searched, &model.served().id, named, &query).await?;
    let timings_ms = TimingsMs { search: search_ms, total: since(started), ..timings };
    let (limit, model) = (query.limit, &model.served().id);
    let mut answers = searched.into_iter().map(|one| answer::view(model, one, limit, timings_ms));
    Ok(axum::Json(match grouping {
        Grouping::Fuse(_) => {
            let answer = answers.next().ok_or_else(|| Problem::internal("a fused search has one answer"))?;
            SearchResponse::Fused(AnswerView { rejected, ..answer })
        }
        Grouping::Each => SearchResponse::Each(AnswersView { searches: answers.collect(), rejected, timings_ms }),
    }))
}
