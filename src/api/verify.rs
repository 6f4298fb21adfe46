//! `/v1/verify` and a subject's `/verify`: is this the same person?

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use vultus_engine::gallery::{Decider, ServerScores};
use vultus_engine::template::score;

use super::decision::{DecisionName, ThresholdInForce, ThresholdRequest, in_force, thresholds};
use super::faces::ImageForm;
use super::params::SubjectPath;
use super::search::{CandidateFaceView, ProbeView, probe_view};
use super::wire::{DetectorName, FusionSpec, ProbeFace, RuleName, fusion_params};
use crate::app::App;
use crate::extract::submission::{Body, EmbeddingItem, ImageItem, ImageParams, Submission};
use crate::extract::{Path, object};
use crate::problem::{Code, Problem};
use crate::service::examine::{Embedding, Wanted, embed_all};
use crate::service::search::{ATTEMPTS, Grouping, ProbeOptions, again, probes};
use crate::service::select::Select;
use crate::service::timing::{TimingsMs, since};

/// Options of a verification as query parameters or form parts.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct VerifyParams {
    /// Score (−1 to 1) from which it is a match; the gallery's, else the server's where left out.
    #[param(minimum = -1.0, maximum = 1.0, nullable = false)]
    pub threshold: Option<f32>,
    /// The rate of false positives to keep, in place of a threshold.
    #[param(exclusive_minimum = 0.0, exclusive_maximum = 1.0, nullable = false)]
    pub fpir: Option<f64>,
    /// Fusion rule of the probe; the model's where left out.
    #[param(nullable = false)]
    pub fusion: Option<RuleName>,
    /// τ of `softmax_quality`.
    #[param(minimum = 0.05, maximum = 100.0, nullable = false)]
    pub tau: Option<f32>,
    /// Damp faces that disagree with the rest.
    #[param(nullable = false)]
    pub robust: Option<bool>,
    /// Which face of each photo; `main` where left out.
    #[param(nullable = false)]
    pub select: Option<Select>,
    /// Who looks for faces; the server's choice where left out.
    #[param(nullable = false)]
    pub detector: Option<DetectorName>,
    /// The images are 112×112 crops that were aligned already.
    #[param(nullable = false)]
    pub aligned: Option<bool>,
}

/// A probe to compare with a subject.
#[derive(Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = VerifyRequest, example = json!({"images": [{"data": "/9j/4AAQSkZJRg=="}]}))]
pub struct VerifyBody {
    /// Photos or aligned crops.
    #[serde(deserialize_with = "object::list")]
    #[schema(max_items = 64)]
    pub images: Vec<ImageItem>,
    /// Ready embeddings.
    #[serde(deserialize_with = "object::list")]
    #[schema(max_items = 64)]
    pub embeddings: Vec<EmbeddingItem>,
    /// From which score it is a match; the gallery's, else the server's where left out.
    #[serde(deserialize_with = "object::optional")]
    #[schema(nullable = false)]
    pub threshold: Option<ThresholdRequest>,
    /// From which score on a person should look at it; the gallery's where left out.
    #[serde(deserialize_with = "object::optional")]
    #[schema(nullable = false)]
    pub review_threshold: Option<ThresholdRequest>,
    /// Fusion rule of the probe; the model's where left out.
    #[serde(deserialize_with = "object::optional")]
    #[schema(nullable = false)]
    pub fusion: Option<FusionSpec>,
    /// Which face of each photo; `main` where left out.
    #[schema(nullable = false)]
    pub select: Option<Select>,
    /// Who looks for faces; the server's choice where left out.
    #[schema(nullable = false)]
    pub detector: Option<DetectorName>,
}

impl Body for VerifyBody {
    type Params = VerifyParams;

    fn take(&mut self) -> (Vec<ImageItem>, Vec<EmbeddingItem>) {
        (std::mem::take(&mut self.images), std::mem::take(&mut self.embeddings))
    }

    fn fill(&mut self, params: VerifyParams) -> Result<(), Problem> {
        self.threshold = self.threshold.or(ThresholdRequest::from_params(params.threshold, params.fpir));
        self.fusion = self.fusion.or(fusion_params(params.fusion, params.tau, params.robust)?);
        self.select = self.select.or(params.select);
        self.detector = self.detector.or(params.detector);
        Ok(())
    }

    fn image_params(params: &VerifyParams) -> ImageParams {
        ImageParams { media: None, aligned: params.aligned.unwrap_or(false) }
    }
}

/// A probe compared with all faces of a subject.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = SubjectVerification)]
pub struct SubjectVerification {
    /// The gallery.
    pub gallery: String,
    /// The subject.
    pub subject: String,
    /// The model of both sides.
    pub model_id: String,
    /// Cosine of the probe and the subject's template, −1 to 1; in a gallery of events, of its best face.
    pub score: f32,
    /// What is said of it.
    pub decision: DecisionName,
    /// The threshold in force.
    pub threshold: ThresholdInForce,
    /// The review threshold in force; null when nothing sets one.
    #[schema(required = true)]
    pub review_threshold: Option<ThresholdInForce>,
    /// What the score is worth.
    pub same_at: SameAt,
    /// ‖Σx‖ / Σnorm of the subject's faces.
    pub coherence: f32,
    /// The subject's faces, each with its weight and own score.
    pub faces: Vec<CandidateFaceView>,
    /// The probe.
    pub probe: ProbeView,
    /// Images that gave no face, each with its problem.
    pub rejected: Vec<Problem>,
    /// Milliseconds by stage.
    pub timings_ms: TimingsMs,
}

/// What a score is worth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = SameAt)]
pub struct SameAt {
    /// The lowest false match rate at which the two would be called the same person, as measured on the model's
    /// development set; the smallest rate measured stands for all below it. Null for a model without measurements.
    #[schema(required = true)]
    pub fmr: Option<f64>,
}

/// Two images compared.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = Verification)]
pub struct Verification {
    /// The model of both sides.
    pub model_id: String,
    /// Cosine of the two embeddings, −1 to 1.
    pub score: f32,
    /// What is said of it.
    pub decision: DecisionName,
    /// The threshold in force.
    pub threshold: ThresholdInForce,
    /// The review threshold in force; null when nothing sets one.
    #[schema(required = true)]
    pub review_threshold: Option<ThresholdInForce>,
    /// What the score is worth.
    pub same_at: SameAt,
    /// The two faces, in the order of the request.
    #[schema(min_items = 2, max_items = 2)]
    pub faces: Vec<ProbeFace>,
    /// Milliseconds by stage.
    pub timings_ms: TimingsMs,
}

/// Compares a probe with all of a subject's faces.
#[utoipa::path(post, path = "/v1/galleries/{gallery}/subjects/{subject}/verify", operation_id = "verify_subject",
    tag = "verify", params(SubjectPath, VerifyParams),
    request_body(content((VerifyBody = "application/json"), (ImageForm = "multipart/form-data"),
        (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/png"), (Vec<u8> = "image/webp"))),
    responses((status = 200, description = "The comparison.", body = SubjectVerification)),
    extensions(("x-problems" = json!(["gallery_not_found", "subject_not_found", "subject_has_no_faces",
        "faces_contradict", "several_faces", "calibration_missing"])), ("x-images" = json!(true))))]
pub async fn subject(
    State(app): State<App>,
    Path(SubjectPath { gallery, subject }): Path<SubjectPath>,
    submission: Submission<VerifyBody>,
) -> Result<impl IntoResponse, Problem> {
    let started = Instant::now();
    let Submission { items, options, .. } = submission;
    let thresholds = thresholds(options.threshold, options.review_threshold)?;
    let fusion = options.fusion.map(FusionSpec::checked).transpose()?;
    let (id, who) = (gallery.clone(), subject.clone());
    app.blocking(move |app| Ok(app.database.subject(&id, &who)?)).await?;
    let model = app.model_of(&gallery).await?;
    let grouping = Grouping::Fuse(options.select.unwrap_or_default());
    let how = ProbeOptions { grouping, fusion, detector: options.detector.map(Into::into) };
    let mut made = probes(&app, items, model, &how).await?;
    let mut attempt = 1;
    let (found, probe, search_ms) = loop {
        let probe = made.probes.first().ok_or_else(|| Problem::internal("a fused probe is one"))?;
        let (id, who, vector) = (gallery.clone(), subject.clone(), probe.template.vector.clone());
        let served = Arc::clone(made.model.served());
        let verified = app.blocking(move |app| {
            let started = Instant::now();
            Ok((app.database.verify(&id, &who, &served.id, &vector, thresholds)?, since(started)))
        });
        match verified.await {
            // The gallery changed its model in the meantime.
            Err(problem) if problem.code == Code::ModelMismatch && attempt < ATTEMPTS => {
                attempt += 1;
                made.model = app.model_of(&gallery).await?;
                made = again(&app, made, &how).await?;
            }
            verified => {
                let (found, took) = verified?;
                let probe = made.probes.swap_remove(0);
                break (found, probe, took);
            }
        }
    };
    let model = Arc::clone(made.model.served());
    let (threshold, review_threshold) = in_force(&found.decider);
    Ok(axum::Json(SubjectVerification {
        gallery: gallery.to_string(),
        subject: subject.to_string(),
        model_id: model.id.to_string(),
        score: found.score,
        decision: found.decision.into(),
        threshold,
        review_threshold,
        same_at: SameAt { fmr: model.impostors.fmr_at(found.score) },
        coherence: found.coherence,
        faces: found.faces.iter().map(CandidateFaceView::from).collect(),
        probe: probe_view(&probe),
        rejected: made.rejected,
        timings_ms: TimingsMs { search: search_ms, total: since(started), ..made.timings },
    }))
}

/// Compares two faces, each given as a photo, an aligned crop or an embedding.
#[utoipa::path(post, path = "/v1/verify", operation_id = "verify", tag = "verify",
    params(VerifyParams),
    request_body(content((VerifyBody = "application/json"), (ImageForm = "multipart/form-data"))),
    responses((status = 200, description = "The comparison.", body = Verification)),
    extensions(("x-problems" = json!(["several_faces"])), ("x-images" = json!(true))))]
pub async fn pair(State(app): State<App>, submission: Submission<VerifyBody>) -> Result<impl IntoResponse, Problem> {
    let started = Instant::now();
    let Submission { items, options, .. } = submission;
    if items.len() != 2 {
        let brought = items.len();
        return Err(Problem::with(
            Code::InvalidRequest,
            format!("two faces are compared; the request brings {brought}"),
        ));
    }
    if options.fusion.is_some() {
        return Err(Problem::with(Code::InvalidRequest, "nothing is fused when two images are compared"));
    }
    thresholds(options.threshold, options.review_threshold)?;
    let score_of = |threshold: Option<ThresholdRequest>| threshold.map(ThresholdRequest::checked_score).transpose();
    let (matching, review) = (score_of(options.threshold)?, score_of(options.review_threshold)?);
    let wanted = Wanted::One(options.select.unwrap_or_default());
    let model = app.default_model();
    let how = Embedding { model: &model, wanted, detector: options.detector.map(Into::into) };
    let examined = embed_all(&app, items, how).await?;
    let timings = examined.timings;
    // Two faces or none: a comparison with one side missing is the missing side's problem.
    let samples: Vec<_> = examined.images.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
    let [a, b] = samples.as_slice() else { return Err(Problem::internal("each image gives one face")) };
    let score = score(&a.feature.embedding, &b.feature.embedding);
    let server = ServerScores { matching: model.served().threshold, review: app.config.search.review_threshold };
    let decider = Decider::of_scores(matching, review, server);
    let (threshold, review_threshold) = in_force(&decider);
    Ok(axum::Json(Verification {
        model_id: model.served().id.to_string(),
        score,
        decision: decider.decide(score).into(),
        threshold,
        review_threshold,
        same_at: SameAt { fmr: model.served().impostors.fmr_at(score) },
        faces: vec![ProbeFace::new(a, 1.0), ProbeFace::new(b, 1.0)],
        timings_ms: TimingsMs { total: since(started), ..timings },
    }))
}
