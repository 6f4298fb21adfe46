//! `/v1/models`: the models at hand. They are installed from the command line (`vultus models import`, `pull`).

use axum::extract::State;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use vultus_engine::model::{Color, Form, Installed, RegistryError};
use vultus_engine::quality::NormStats;

use super::paging::{Page, PageParams};
use super::wire::FusionSpec;
use crate::app::App;
use crate::extract::{Path, Query};
use crate::problem::{Code, Problem};

/// A model in the path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct ModelPath {
    /// Name or model id.
    #[param(pattern = "^[a-z0-9_+-]{1,128}$", example = "mobilefacenet")]
    pub model: String,
}

/// Order of colour planes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ColorOrder)]
pub enum ColorName {
    /// Red first.
    Rgb,
    /// Blue first.
    Bgr,
}

/// Norms of ordinary portraits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Norm)]
pub struct NormView {
    /// Mean norm.
    pub mean: f32,
    /// Standard deviation of the norm.
    pub std: f32,
}

/// A model.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Model)]
pub struct ModelView {
    /// Its id without `+bf16` and `+flip`: name and the start of the weights' SHA-256.
    #[schema(example = "mobilefacenet-17d5763f9ac4054b")]
    pub id: String,
    /// Its name.
    #[schema(example = "mobilefacenet")]
    pub name: String,
    /// The network.
    #[schema(example = "mobilefacenet")]
    pub architecture: String,
    /// Length of an embedding.
    pub dim: usize,
    /// Colour order that the network is given. Images are sent as they are.
    pub color: ColorName,
    /// Norms without flip fusion.
    pub norm: NormView,
    /// Norms with flip fusion; null when the model cannot be used with it.
    #[schema(required = true)]
    pub norm_flip: Option<NormView>,
    /// How templates are fused where neither request nor gallery says.
    pub fusion: FusionSpec,
    /// Whether it is compiled in.
    pub embedded: bool,
    /// The ids under which this server runs it now: with and without flip fusion, in f32 and in bf16.
    pub in_use: Vec<String>,
    /// Bytes of its weights.
    pub bytes: u64,
    /// SHA-256 of its weights.
    pub sha256: String,
    /// Licence of its weights (SPDX).
    pub licence: String,
    /// Where its weights come from.
    pub source: String,
}

impl From<NormStats> for NormView {
    fn from(stats: NormStats) -> Self {
        Self { mean: stats.mean, std: stats.std }
    }
}

impl ModelView {
    fn new(app: &App, model: &Installed) -> Self {
        let manifest = &model.manifest;
        let running = app.pipeline.models().in_use();
        let ids = running.iter().map(|one| one.served().id.to_string());
        let mut in_use: Vec<String> = ids.filter(|id| Form::split(id).0 == model.model_id.0).collect();
        in_use.sort_unstable();
        Self {
            id: model.model_id.to_string(),
            name: model.name.clone(),
            architecture: manifest.architecture.name().to_owned(),
            dim: manifest.dim,
            color: match manifest.input.color {
                Color::Rgb => ColorName::Rgb,
                Color::Bgr => ColorName::Bgr,
            },
            norm: manifest.norm.plain.into(),
            norm_flip: manifest.norm.flip.map(NormView::from),
            fusion: manifest.fusion.into(),
            embedded: model.path.is_none(),
            in_use,
            bytes: model.bytes,
            sha256: manifest.sha256.clone(),
            licence: manifest.licence.clone(),
            source: manifest.source.clone(),
        }
    }
}

/// Lists the models at hand by id: the one that is compiled in and those that are installed.
#[utoipa::path(get, path = "/v1/models", operation_id = "list_models", tag = "models",
    params(PageParams),
    responses((status = 200, description = "A page of models.", body = Page<ModelView>)))]
pub async fn list(State(app): State<App>, Query(page): Query<PageParams>) -> Result<impl IntoResponse, Problem> {
    let (limit, after) = (page.limit()?, page.after()?);
    app.blocking(move |app| {
        let mut models = Vec::new();
        for model in app.pipeline.models().list().map_err(Problem::internal)? {
            match model {
                Ok(model) => models.push(model),
                Err(error) => tracing::warn!(%error, "a model cannot be used"),
            }
        }
        models.sort_by(|a, b| a.model_id.cmp(&b.model_id));
        let rest = models.iter().filter(|model| after.as_deref().is_none_or(|after| model.model_id.0.as_str() > after));
        let views = rest.take(limit + 1).map(|model| ModelView::new(app, model)).collect();
        Ok(axum::Json(Page::cut(views, limit, |model: &ModelView| model.id.clone())))
    })
    .await
}

/// Gives one model, by its name or by its id with or without `+bf16` and `+flip`.
#[utoipa::path(get, path = "/v1/models/{model}", operation_id = "get_model", tag = "models",
    params(ModelPath),
    responses((status = 200, description = "The model.", body = ModelView)),
    extensions(("x-problems" = json!(["model_not_found"]))))]
pub async fn get(
    State(app): State<App>,
    Path(ModelPath { model }): Path<ModelPath>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| match app.pipeline.models().find(&model) {
        Ok(found) => Ok(axum::Json(ModelView::new(app, &found))),
        Err(error) => {
            if !matches!(error, RegistryError::NotFound { .. }) {
                tracing::warn!(%error, "a model cannot be used");
            }
            Err(Problem::with(Code::ModelNotFound, format!("there is no model {model:.100}")))
        }
    })
    .await
}
