//! What a search request can say.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;
use vultus_engine::gallery::SearchQuery;
use vultus_engine::ids::{FaceId, GalleryId, SubjectId, TrackId};
use vultus_engine::index::SearchMode;

use crate::api::decision::{ThresholdRequest, thresholds};
use crate::api::filter::FilterSpec;
use crate::api::wire::{DetectorName, FusionSpec, RuleName, fusion_params};
use crate::extract::object;
use crate::extract::submission::{Body, EmbeddingItem, ImageItem, ImageParams};
use crate::problem::{Code, Problem};
use crate::service::search::Grouping;
use crate::service::select::Select;
use crate::service::tracks::HeldProbe;

/// Candidates where the request does not say.
const DEFAULT_LIMIT: u32 = 10;
/// Most candidates of a search.
const MAX_LIMIT: u32 = 1000;

/// How a gallery is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = SearchMode)]
pub enum ModeName {
    /// The index chooses.
    Auto,
    /// Every row is compared.
    Exact,
    /// Bits of all rows are looked at, and the rows that look nearest are compared; exact until that is prepared, and always with
    /// fewer than 8,192 rows.
    Cascade,
    /// A graph is walked; exact until it is built, and always with fewer than 2,000 rows.
    Ann,
}

/// How faces become probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = FaceGrouping)]
pub enum FacesName {
    /// One face of each image, all fused into one probe.
    Fuse,
    /// Every face of every image is a probe of its own.
    Each,
}

/// Options of a search as query parameters or form parts.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SearchParams {
    /// Most candidates wanted; 10 where left out.
    #[param(minimum = 1, maximum = 1000, nullable = false)]
    pub limit: Option<u32>,
    /// Score (−1 to 1) from which a candidate is a match; the gallery's, else the server's where left out.
    #[param(minimum = -1.0, maximum = 1.0, nullable = false)]
    pub threshold: Option<f32>,
    /// The rate of false positives to keep, in place of `threshold`.
    #[param(exclusive_minimum = 0.0, exclusive_maximum = 1.0, nullable = false)]
    pub fpir: Option<f64>,
    /// Score from which a person should look at a candidate; the gallery's where left out.
    #[param(minimum = -1.0, maximum = 1.0, nullable = false)]
    pub review_threshold: Option<f32>,
    /// The rate that stands for the review threshold, in its place.
    #[param(exclusive_minimum = 0.0, exclusive_maximum = 1.0, nullable = false)]
    pub review_fpir: Option<f64>,
    /// Fusion rule of the probe; the model's where left out.
    #[param(nullable = false)]
    pub fusion: Option<RuleName>,
    /// τ of `softmax_quality`.
    #[param(minimum = 0.05, maximum = 100.0, nullable = false)]
    pub tau: Option<f32>,
    /// Damp faces of the probe that disagree with the rest.
    #[param(nullable = false)]
    pub robust: Option<bool>,
    /// `auto` where left out.
    #[param(nullable = false)]
    pub mode: Option<ModeName>,
    /// `fuse` where left out.
    #[param(nullable = false)]
    pub faces: Option<FacesName>,
    /// Which face of each photo goes into a fused probe; `main` where left out.
    #[param(nullable = false)]
    pub select: Option<Select>,
    /// Who looks for faces; the server's choice where left out.
    #[param(nullable = false)]
    pub detector: Option<DetectorName>,
    /// List every face of each candidate with its weight and score.
    #[param(nullable = false)]
    pub explain: Option<bool>,
    /// The photo or video the images come from: 1 to 256 bytes. Left out, each is a media of its own.
    #[param(min_length = 1, max_length = 256, nullable = false)]
    pub media: Option<String>,
    /// The images are 112×112 crops that were aligned already.
    #[param(nullable = false)]
    pub aligned: Option<bool>,
    /// Which subjects the search is about, as JSON text; see the member `filter` of the JSON body.
    #[param(max_length = 2000, nullable = false)]
    pub filter: Option<String>,
    /// A watch on the gallery: its thresholds go before the gallery's, and what it finds is a hit.
    #[param(nullable = false)]
    pub watch: Option<Uuid>,
    /// For `/v1/search`: the galleries, separated by commas.
    #[param(max_length = 2100, nullable = false)]
    pub galleries: Option<String>,
}

/// A subject, or one of its faces, as a probe.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EnrolledProbe, example = json!({"gallery": "staff", "subject": "ada"}))]
pub struct EnrolledProbe {
    /// Where the subject is enrolled.
    #[schema(value_type = String, pattern = "^[A-Za-z0-9_.:-]{1,128}$")]
    pub gallery: GalleryId,
    /// Who.
    #[schema(value_type = String, pattern = "^[A-Za-z0-9_.:-]{1,128}$")]
    pub subject: SubjectId,
    /// One face of the subject; all of them, fused, where left out.
    #[serde(default)]
    #[schema(nullable = false)]
    pub face: Option<Uuid>,
}

/// A probe and how to search with it.
#[derive(Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = SearchRequest, example = json!({
    "images": [{"data": "/9j/4AAQSkZJRg=="}], "limit": 5, "threshold": {"score": 0.4}, "explain": true
}))]
pub struct SearchBody {
    /// Photos or aligned crops.
    #[serde(deserialize_with = "object::list")]
    #[schema(max_items = 64)]
    pub images: Vec<ImageItem>,
    /// Ready embeddings.
    #[serde(deserialize_with = "object::list")]
    #[schema(max_items = 64)]
    pub embeddings: Vec<EmbeddingItem>,
    /// A probe template of `/v1/templates`, in place of images and embeddings.
    #[schema(nullable = false)]
    pub template: Option<Uuid>,
    /// A track of `/v1/tracks`, in place of images and embeddings. With `explain` the probe lists its frames, their
    /// number as `image`; otherwise it lists no faces.
    #[schema(value_type = Option<String>, pattern = "^[A-Za-z0-9_.:-]{1,128}$", nullable = false)]
    pub track: Option<TrackId>,
    /// What is enrolled already, in place of images and embeddings: a subject or one of its faces. In its own gallery the
    /// subject itself is passed over, and so are those it is kept apart from.
    #[serde(deserialize_with = "object::optional")]
    #[schema(nullable = false)]
    pub enrolled: Option<EnrolledProbe>,
    /// Most candidates wanted; 10 where left out.
    #[schema(minimum = 1, maximum = 1000, nullable = false)]
    pub limit: Option<u32>,
    /// From which score a candidate is a match; the gallery's, else the server's where left out.
    #[serde(deserialize_with = "object::optional")]
    #[schema(nullable = false)]
    pub threshold: Option<ThresholdRequest>,
    /// From where on a person should look at a candidate; the gallery's where left out.
    #[serde(deserialize_with = "object::optional")]
    #[schema(nullable = false)]
    pub review_threshold: Option<ThresholdRequest>,
    /// Fusion rule of the probe; the model's where left out.
    #[serde(deserialize_with = "object::optional")]
    #[schema(nullable = false)]
    pub fusion: Option<FusionSpec>,
    /// `auto` where left out.
    #[schema(nullable = false)]
    pub mode: Option<ModeName>,
    /// `fuse` where left out.
    #[schema(nullable = false)]
    pub faces: Option<FacesName>,
    /// Which face of each photo goes into a fused probe; `main` where left out.
    #[schema(nullable = false)]
    pub select: Option<Select>,
    /// Who looks for faces; the server's choice where left out.
    #[schema(nullable = false)]
    pub detector: Option<DetectorName>,
    /// List every face of each candidate with its weight and score.
    #[schema(nullable = false)]
    pub explain: Option<bool>,
    /// Which subjects the search is about; all where left out. Filtered searches are always exact.
    #[serde(deserialize_with = "object::optional")]
    #[schema(nullable = false)]
    pub filter: Option<FilterSpec>,
    /// A watch on the gallery: its thresholds go before the gallery's, and what it finds is a hit.
    #[schema(nullable = false)]
    pub watch: Option<Uuid>,
    /// For `/v1/search`: the galleries.
    #[schema(value_type = Option<Vec<String>>, max_items = 16, nullable = false)]
    pub galleries: Option<Vec<GalleryId>>,
}

impl Body for SearchBody {
    type Params = SearchParams;

    fn take(&mut self) -> (Vec<ImageItem>, Vec<EmbeddingItem>) {
        (std::mem::take(&mut self.images), std::mem::take(&mut self.embeddings))
    }

    fn fill(&mut self, params: SearchParams) -> Result<(), Problem> {
        let fusion = fusion_params(params.fusion, params.tau, params.robust)?;
        self.limit = self.limit.or(params.limit);
        self.threshold = self.threshold.or(ThresholdRequest::from_params(params.threshold, params.fpir));
        let review = ThresholdRequest::from_params(params.review_threshold, params.review_fpir);
        self.review_threshold = self.review_threshold.or(review);
        self.fusion = self.fusion.or(fusion);
        self.mode = self.mode.or(params.mode);
        self.faces = self.faces.or(params.faces);
        self.select = self.select.or(params.select);
        self.detector = self.detector.or(params.detector);
        self.explain = self.explain.or(params.explain);
        self.watch = self.watch.or(params.watch);
        if let (None, Some(text)) = (&self.filter, params.filter) {
            self.filter = Some(FilterSpec::from_text(&text)?);
        }
        if let (None, Some(list)) = (&self.galleries, params.galleries) {
            let ids = list.split(',').map(GalleryId::try_from).collect::<Result<_, _>>();
            self.galleries = Some(ids.map_err(|error| Problem::with(Code::InvalidParameter, error.to_string()))?);
        }
        Ok(())
    }

    fn names_probe(&self) -> bool {
        self.template.is_some() || self.track.is_some() || self.enrolled.is_some()
    }

    fn image_params(params: &SearchParams) -> ImageParams {
        ImageParams { media: params.media.clone(), aligned: params.aligned.unwrap_or(false) }
    }
}

impl SearchBody {
    /// The probe that is held already, where the request names one.
    pub fn held(&self) -> Result<Option<HeldProbe>, Problem> {
        let held = match (self.template, &self.track, &self.enrolled) {
            (None, None, None) => return Ok(None),
            (Some(template), None, None) => HeldProbe::Template(template),
            (None, Some(track), None) => HeldProbe::Track(track.clone()),
            (None, None, Some(EnrolledProbe { gallery, subject, face })) => {
                HeldProbe::Enrolled(gallery.clone(), subject.clone(), face.map(FaceId))
            }
            _ => {
                let one = "give one of template, track and enrolled";
                return Err(Problem::with(Code::InvalidRequest, one));
            }
        };
        if self.faces == Some(FacesName::Each) {
            return Err(Problem::with(Code::InvalidRequest, "faces=each goes with images, not with a held probe"));
        }
        Ok(Some(held))
    }

    /// How the galleries are searched, checked.
    pub fn query(&self) -> Result<SearchQuery, Problem> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Problem::with(Code::InvalidRequest, format!("limit is a number from 1 to {MAX_LIMIT}")));
        }
        Ok(SearchQuery {
            mode: match self.mode.unwrap_or(ModeName::Auto) {
                ModeName::Auto => SearchMode::Auto,
                ModeName::Exact => SearchMode::Exact,
                ModeName::Cascade => SearchMode::Cascade,
                ModeName::Ann => SearchMode::Ann,
            },
            thresholds: thresholds(self.threshold, self.review_threshold)?,
            explain: self.explain.unwrap_or(false),
            filter: self.filter.clone().map(FilterSpec::checked).transpose()?,
            ..SearchQuery::plain(limit as usize)
        })
    }

    /// How faces become probes.
    pub fn grouping(&self) -> Grouping {
        match self.faces.unwrap_or(FacesName::Fuse) {
            FacesName::Fuse => Grouping::Fuse(self.select.unwrap_or_default()),
            FacesName::Each => Grouping::Each,
        }
    }
}
