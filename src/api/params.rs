//! Path and header parameters that several resources share.

use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;
use vultus_engine::ids::{GalleryId, SubjectId, TrackId};

/// A gallery in the path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct GalleryPath {
    /// Gallery id.
    #[param(value_type = String, pattern = "^[A-Za-z0-9_.:-]{1,128}$", example = "staff")]
    pub gallery: GalleryId,
}

/// A subject in the path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct SubjectPath {
    /// Gallery id.
    #[param(value_type = String, pattern = "^[A-Za-z0-9_.:-]{1,128}$", example = "staff")]
    pub gallery: GalleryId,
    /// Subject id.
    #[param(value_type = String, pattern = "^[A-Za-z0-9_.:-]{1,128}$", example = "ada")]
    pub subject: SubjectId,
}

/// A face in the path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct FacePath {
    /// Gallery id.
    #[param(value_type = String, pattern = "^[A-Za-z0-9_.:-]{1,128}$", example = "staff")]
    pub gallery: GalleryId,
    /// Subject id.
    #[param(value_type = String, pattern = "^[A-Za-z0-9_.:-]{1,128}$", example = "ada")]
    pub subject: SubjectId,
    /// Face id.
    pub face: Uuid,
}

/// A track in the path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct TrackPath {
    /// Track id.
    #[param(value_type = String, pattern = "^[A-Za-z0-9_.:-]{1,128}$", example = "door-17")]
    pub track: TrackId,
}

/// A migration in the path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct MigrationPath {
    /// Gallery id.
    #[param(value_type = String, pattern = "^[A-Za-z0-9_.:-]{1,128}$", example = "staff")]
    pub gallery: GalleryId,
    /// Migration id.
    pub migration: Uuid,
}

/// A condition on the revision.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "documents the header that the IfMatch extractor reads")]
pub struct IfMatchHeader {
    /// Act only if this is still the resource's `ETag`.
    #[param(
        rename = "If-Match",
        required = false,
        nullable = false,
        pattern = "^(\\*|\"[0-9]{1,19}\")$",
        example = "\"17\""
    )]
    pub if_match: Option<String>,
}
