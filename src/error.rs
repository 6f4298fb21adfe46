//! The one mapping from the engine's errors to problems.

use vultus_engine::align::AlignError;
use vultus_engine::gallery::GalleryError;
use vultus_engine::image::DecodeError;
use vultus_engine::index::IndexError;
use vultus_engine::infer::InferError;
use vultus_engine::model::ModelUnavailable;
use vultus_engine::store::StoreError;
use vultus_engine::template::TemplateError;

use crate::problem::{Code, Problem};
use crate::video::VideoError;

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::NoGallery(_) => Code::GalleryNotFound,
            StoreError::NoSubject(..) => Code::SubjectNotFound,
            StoreError::NoFace(..) => Code::FaceNotFound,
            StoreError::GalleryExists(_) => Code::GalleryExists,
            StoreError::SubjectExists(..) => Code::SubjectExists,
            StoreError::RevisionMismatch { .. } => Code::RevisionMismatch,
            StoreError::WrongDimension { .. } => Code::InvalidRequest,
            StoreError::NoMigration(..) => Code::MigrationNotFound,
            StoreError::MigrationUnderWay(..) => Code::MigrationUnderWay,
            StoreError::WrongStage { .. } => Code::MigrationStage,
            StoreError::StandbyIncomplete { .. } => Code::MigrationIncomplete,
            StoreError::Switched(_) => Code::ModelMismatch,
            StoreError::Io(_) => {
                tracing::error!(%error, "the store failed");
                return Self::new(Code::StorageUnavailable);
            }
            StoreError::FaceExists(..) | StoreError::InUse | StoreError::Newer { .. } | StoreError::Damaged(_) => {
                return Self::internal(error);
            }
        };
        Self::with(code, error.to_string())
    }
}

impl From<GalleryError> for Problem {
    fn from(error: GalleryError) -> Self {
        match error {
            GalleryError::Store(error) => error.into(),
            GalleryError::Index(error) => error.into(),
            GalleryError::Template(error) => error.into(),
            GalleryError::ModelMismatch { ref expected, .. }
            | GalleryError::ModelUnavailable { model: ref expected, .. } => Self {
                expected_model_id: Some(expected.to_string()),
                ..Self::with(Code::ModelMismatch, error.to_string())
            },
            GalleryError::Calibration(_) => Self::with(Code::CalibrationImpossible, error.to_string()),
            GalleryError::CalibrationMissing(_) => Self::with(Code::CalibrationMissing, error.to_string()),
            GalleryError::Stopping => Self::new(Code::NotReady),
            GalleryError::NotMatchable(_) | GalleryError::ConsentMissing(_) | GalleryError::LaxerTerms { .. } => {
                Self::with(Code::ConsentMissing, error.to_string())
            }
            GalleryError::KeptApart(..) => Self::with(Code::KeptApart, error.to_string()),
            GalleryError::UndoneInOrder(..) => Self::with(Code::SubjectNotFound, error.to_string()),
            GalleryError::AlreadyUndone(_) => Self::with(Code::AlreadyUndone, error.to_string()),
            GalleryError::NoRegrouping(..) => Self::with(Code::RegroupingNotFound, error.to_string()),
            GalleryError::NoWatch(_) => Self::with(Code::WatchNotFound, error.to_string()),
            GalleryError::NoReview(_) => Self::with(Code::ReviewNotFound, error.to_string()),
            GalleryError::SameSubject(_) => Self::with(Code::InvalidRequest, error.to_string()),
            GalleryError::SameModel(..) | GalleryError::NoCaface { .. } | GalleryError::NeedsImages(_) => {
                Self::with(Code::InvalidRequest, error.to_string())
            }
        }
    }
}

impl From<ModelUnavailable> for Problem {
    fn from(error: ModelUnavailable) -> Self {
        Self::with(Code::UnknownModel, error.to_string())
    }
}

impl From<IndexError> for Problem {
    fn from(error: IndexError) -> Self {
        Self::with(Code::InvalidRequest, error.to_string())
    }
}

impl From<TemplateError> for Problem {
    fn from(error: TemplateError) -> Self {
        let code = match error {
            TemplateError::Network(error) => return Self::internal(error),
            TemplateError::Empty => Code::SubjectHasNoFaces,
            TemplateError::Degenerate => Code::FacesContradict,
            TemplateError::MixedDimensions
            | TemplateError::BadNorm
            | TemplateError::BadTau
            | TemplateError::NoCaface => Code::InvalidRequest,
        };
        Self::with(code, error.to_string())
    }
}

impl From<InferError> for Problem {
    fn from(error: InferError) -> Self {
        match error {
            InferError::QueueFull => Self::new(Code::QueueFull),
            InferError::Stopped => Self::new(Code::NotReady),
            InferError::Unusable => Self::new(Code::FaceUnusable),
            InferError::Failed(cause) => Self::internal(cause),
        }
    }
}

impl From<VideoError> for Problem {
    fn from(error: VideoError) -> Self {
        let code = match &error {
            VideoError::NoFfmpeg => Code::FfmpegMissing,
            VideoError::Unsupported => Code::UnsupportedVideo,
            VideoError::Undecodable(_) | VideoError::Stalled => Code::UnreadableVideo,
            VideoError::Io(cause) => return Self::internal(format!("{error}: {cause}")),
        };
        Self::with(code, error.to_string())
    }
}

impl From<AlignError> for Problem {
    fn from(error: AlignError) -> Self {
        Self::with(Code::FaceUnusable, error.to_string())
    }
}

impl From<DecodeError> for Problem {
    fn from(error: DecodeError) -> Self {
        let code = match &error {
            DecodeError::Empty => Code::EmptyImage,
            DecodeError::TooManyBytes { .. } | DecodeError::TooManyPixels { .. } | DecodeError::TooLong { .. } => {
                Code::ImageTooLarge
            }
            DecodeError::Unsupported { .. } => Code::UnsupportedImage,
            DecodeError::NotAnImage => Code::NotAnImage,
            DecodeError::Truncated { .. } => Code::TruncatedImage,
            DecodeError::Corrupt { .. } => Code::CorruptImage,
        };
        Self::with(code, error.to_string())
    }
}
