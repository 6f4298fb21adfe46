//! `/v1/galleries/{gallery}/migrations`: a gallery moves to another model without a pause.
//!
//! Faces are embedded with the new model in the background, from the crops the gallery kept, while searches go on with
//! the old one. When all are done, a report says how far the two agree; cutting over and rolling back take one write.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;
use vultus_engine::gallery::{Agreement, Mated, NonMated, Spread};
use vultus_engine::ids::{GalleryId, MigrationId};
use vultus_engine::store::{Migration, Stage};

use super::decision::{self, ThresholdRequest};
use super::params::{GalleryPath, MigrationPath};
use crate::app::App;
use crate::extract::{Json, Path, Query, object};
use crate::problem::Problem;

/// How far a migration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = MigrationStage)]
pub enum StageName {
    /// Faces are being embedded with the new model.
    Embedding,
    /// All faces that can be embedded are; searches still use the old model.
    Ready,
    /// Searches use the new model; the old one is kept up to date.
    CutOver,
    /// Searches use the old model again; the new one is kept up to date.
    RolledBack,
    /// Ended with the new model in use.
    Completed,
    /// Ended with the old model in use.
    Cancelled,
}

impl From<Stage> for StageName {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Embedding => Self::Embedding,
            Stage::Ready => Self::Ready,
            Stage::CutOver => Self::CutOver,
            Stage::RolledBack => Self::RolledBack,
            Stage::Completed => Self::Completed,
            Stage::Cancelled => Self::Cancelled,
        }
    }
}

/// Mean and standard deviation of scores.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[schema(as = ScoreSpread)]
pub struct SpreadView {
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub std: f64,
}

impl From<Spread> for SpreadView {
    fn from(Spread { mean, std }: Spread) -> Self {
        Self { mean, std }
    }
}

/// Searches for people who are there: each face with itself left out of its subject.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[schema(as = MatedAgreement)]
pub struct MatedView {
    /// Faces searched: those of subjects with others.
    pub probes: u64,
    /// Share whose subject came first under the old model.
    pub rank1_before: f64,
    /// The same under the new one.
    pub rank1_after: f64,
    /// Faces whose subject moved up.
    pub improved: u64,
    /// Faces whose subject moved down.
    pub worsened: u64,
    /// Scores against the own subject under the old model.
    pub score_before: SpreadView,
    /// The same under the new one.
    pub score_after: SpreadView,
}

impl From<Mated> for MatedView {
    fn from(of: Mated) -> Self {
        Self {
            probes: of.probes,
            rank1_before: of.rank1_before,
            rank1_after: of.rank1_after,
            improved: of.improved,
            worsened: of.worsened,
            score_before: of.score_before.into(),
            score_after: of.score_after.into(),
        }
    }
}

/// Scores of different people: each face against the best other subject.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[schema(as = NonMatedAgreement)]
pub struct NonMatedView {
    /// Faces searched.
    pub probes: u64,
    /// Share whose best other subject is the same under both models.
    pub same_best: f64,
    /// Scores under the old model.
    pub score_before: SpreadView,
    /// The same under the new one.
    pub score_after: SpreadView,
    /// The highest of them under the old model: a threshold below it gives false matches.
    pub highest_before: f64,
    /// The same under the new one.
    pub highest_after: f64,
}

impl From<NonMated> for NonMatedView {
    fn from(of: NonMated) -> Self {
        Self {
            probes: of.probes,
            same_best: of.same_best,
            score_before: of.score_before.into(),
            score_after: of.score_after.into(),
            highest_before: of.highest_before,
            highest_after: of.highest_after,
        }
    }
}

/// How far the two models agree on the gallery.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[schema(as = Agreement)]
pub struct AgreementView {
    /// Faces of the sample, at most about 1,000, spread evenly over the gallery.
    pub faces: u64,
    /// Searches for people who are there.
    pub mated: MatedView,
    /// Scores of different people.
    pub non_mated: NonMatedView,
}

impl From<Agreement> for AgreementView {
    fn from(of: Agreement) -> Self {
        Self { faces: of.faces, mated: of.mated.into(), non_mated: of.non_mated.into() }
    }
}

/// A gallery's move from one model to another.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Migration)]
pub struct MigrationView {
    /// Its id.
    pub id: Uuid,
    /// The gallery.
    pub gallery: String,
    /// The model before.
    pub from_model_id: String,
    /// The model after.
    pub to_model_id: String,
    /// How far it is.
    pub stage: StageName,
    /// Faces in the gallery.
    pub faces: u64,
    /// Faces with features of both models; 0 once it has ended.
    pub embedded: u64,
    /// Why faces could not be embedded, where that was so.
    #[schema(required = true)]
    pub failure: Option<String>,
    /// How far the models agree, once all faces were embedded.
    #[schema(required = true)]
    pub agreement: Option<AgreementView>,
    /// When it was started.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: jiff::Timestamp,
    /// When its stage last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: jiff::Timestamp,
}

/// A gallery's migrations.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Migrations)]
pub struct MigrationsView {
    /// Newest first; at most one of them has not ended.
    pub items: Vec<MigrationView>,
}

/// A migration to start.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewMigration, example = json!({"model": "mobilefacenet-17d5763f9ac4054b+flip"}))]
pub struct StartMigration {
    /// Name or id of an installed model.
    #[schema(max_length = 128)]
    pub model: String,
    /// From which score a candidate is a match under the new model; null follows the model.
    #[serde(default, deserialize_with = "object::optional")]
    pub threshold: Option<ThresholdRequest>,
    /// From where on a person should look at a candidate under the new model; null follows the server.
    #[serde(default, deserialize_with = "object::optional")]
    pub review_threshold: Option<ThresholdRequest>,
}

/// How to cut over.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CutOverParams {
    /// Remove faces that have no crop to embed, for good. Otherwise they stop the cut over.
    #[param(nullable = false)]
    pub discard_missing: Option<bool>,
}

fn view(app: &App, gallery: &GalleryId, migration: &Migration) -> Result<MigrationView, Problem> {
    let report = migration.report.as_deref().map(serde_json::from_str::<Agreement>).transpose();
    Ok(MigrationView {
        id: migration.id.0,
        gallery: gallery.to_string(),
        from_model_id: migration.from.model_id.to_string(),
        to_model_id: migration.to.model_id.to_string(),
        stage: migration.stage.into(),
        faces: app.database.counts(gallery)?.faces,
        embedded: migration.standby_faces,
        failure: migration.failure.clone(),
        agreement: report.map_err(Problem::internal)?.map(AgreementView::from),
        created_at: migration.created_at,
        updated_at: migration.updated_at,
    })
}

/// Lists a gallery's migrations, newest first.
#[utoipa::path(get, path = "/v1/galleries/{gallery}/migrations", operation_id = "list_migrations", tag = "migrations",
    params(GalleryPath),
    responses((status = 200, description = "The migrations.", body = MigrationsView)),
    extensions(("x-problems" = json!(["gallery_not_found"]))))]
pub async fn list(
    State(app): State<App>,
    Path(GalleryPath { gallery }): Path<GalleryPath>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| {
        let migrations = app.database.migrations(&gallery)?;
        let items = migrations.iter().map(|migration| view(app, &gallery, migration)).collect::<Result<_, _>>()?;
        Ok(axum::Json(MigrationsView { items }))
    })
    .await
}

/// Starts moving a gallery to another model. Searches and enrolments go on meanwhile.
///
/// Faces are embedded from their kept crops. A gallery that did not keep them (`keep_crops`) has nothing to embed.
#[utoipa::path(post, path = "/v1/galleries/{gallery}/migrations", operation_id = "start_migration", tag = "migrations",
    params(GalleryPath),
    request_body = StartMigration,
    responses((status = 201, description = "Started.", body = MigrationView,
        headers(("Location" = String, description = "Where it is.")))),
    extensions(("x-problems" = json!(["gallery_not_found", "migration_under_way", "model_mismatch", "unknown_model"]))))]
pub async fn start(
    State(app): State<App>,
    Path(GalleryPath { gallery }): Path<GalleryPath>,
    Json(body): Json<StartMigration>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| {
        let thresholds = decision::thresholds(body.threshold, body.review_threshold)?;
        app.database.gallery(&gallery)?;
        let model = app.pipeline.models().resolve(&body.model)?;
        app.pipeline.models().get(&model)?;
        let migration = app.database.start_migration(&gallery, &model, thresholds)?;
        let mut headers = HeaderMap::new();
        if let Ok(location) = format!("/v1/galleries/{gallery}/migrations/{}", migration.id).try_into() {
            headers.insert(header::LOCATION, location);
        }
        Ok((StatusCode::CREATED, headers, axum::Json(view(app, &gallery, &migration)?)))
    })
    .await
}

/// Gives one migration: how far it is, and how far the models agree.
#[utoipa::path(get, path = "/v1/galleries/{gallery}/migrations/{migration}", operation_id = "get_migration",
    tag = "migrations", params(MigrationPath),
    responses((status = 200, description = "The migration.", body = MigrationView)),
    extensions(("x-problems" = json!(["gallery_not_found", "migration_not_found"]))))]
pub async fn get(
    State(app): State<App>,
    Path(MigrationPath { gallery, migration }): Path<MigrationPath>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| {
        let migration = app.database.migration(&gallery, MigrationId(migration))?;
        Ok(axum::Json(view(app, &gallery, &migration)?))
    })
    .await
}

/// Puts the new model into use, at once and for all searches.
#[utoipa::path(post, path = "/v1/galleries/{gallery}/migrations/{migration}/cut-over", operation_id = "cut_over",
    tag = "migrations", params(MigrationPath, CutOverParams),
    responses((status = 200, description = "The migration.", body = MigrationView)),
    extensions(("x-problems" = json!(["gallery_not_found", "migration_not_found", "migration_stage",
        "migration_incomplete", "model_mismatch"]))))]
pub async fn cut_over(
    State(app): State<App>,
    Path(MigrationPath { gallery, migration }): Path<MigrationPath>,
    Query(params): Query<CutOverParams>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| {
        let discard_missing = params.discard_missing.unwrap_or(false);
        let migration = app.database.cut_over(&gallery, MigrationId(migration), discard_missing)?;
        Ok(axum::Json(view(app, &gallery, &migration)?))
    })
    .await
}

/// Puts the old model back into use.
#[utoipa::path(post, path = "/v1/galleries/{gallery}/migrations/{migration}/roll-back", operation_id = "roll_back",
    tag = "migrations", params(MigrationPath),
    responses((status = 200, description = "The migration.", body = MigrationView)),
    extensions(("x-problems" = json!(["gallery_not_found", "migration_not_found", "migration_stage",
        "migration_incomplete", "model_mismatch"]))))]
pub async fn roll_back(
    State(app): State<App>,
    Path(MigrationPath { gallery, migration }): Path<MigrationPath>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| {
        let migration = app.database.roll_back(&gallery, MigrationId(migration))?;
        Ok(axum::Json(view(app, &gallery, &migration)?))
    })
    .await
}

/// Ends a migration with the model that is in use: the features of the other are dropped, and no way leads back.
#[utoipa::path(post, path = "/v1/galleries/{gallery}/migrations/{migration}/end", operation_id = "end_migration",
    tag = "migrations", params(MigrationPath),
    responses((status = 200, description = "The migration.", body = MigrationView)),
    extensions(("x-problems" = json!(["gallery_not_found", "migration_not_found", "migration_stage",
        "model_mismatch"]))))]
pub async fn end(
    State(app): State<App>,
    Path(MigrationPath { gallery, migration }): Path<MigrationPath>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| {
        let migration = app.database.end_migration(&gallery, MigrationId(migration))?;
        Ok(axum::Json(view(app, &gallery, &migration)?))
    })
    .await
}
