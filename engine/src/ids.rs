//! Identifiers. Each is a checked newtype, so that a gallery id cannot stand where a subject id belongs and a value
//! that exists is valid.
//!
//! Gallery and subject ids are chosen by the caller (`[A-Za-z0-9_.:-]{1,128}`); a face id is always a UUIDv7 of ours,
//! so that faces of a subject sort by the time they were enrolled. A media id names the photo or video a face came
//! from and is free text of at most 256 bytes without control characters.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Longest gallery or subject id in bytes.
pub const MAX_ID_BYTES: usize = 128;
/// Longest media id in bytes.
pub const MAX_MEDIA_BYTES: usize = 256;

/// A text that is not an identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Characters or length outside `[A-Za-z0-9_.:-]{1,128}`.
    #[error("a {kind} id has 1 to 128 characters out of A-Z a-z 0-9 _ . : -")]
    BadName {
        /// Which identifier was wanted: `gallery`, `subject`, `model` or `track`.
        kind: &'static str,
    },
    /// A media id that is empty, too long or holds control characters.
    #[error("a media id has 1 to 256 bytes and no control characters")]
    BadMedia,
    /// Not a UUID.
    #[error("a {kind} id is a UUID")]
    BadUuid {
        /// Which identifier was wanted.
        kind: &'static str,
    },
}

fn is_name(text: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b':' | b'-'))
        // `.` and `..` are path segments that clients and proxies resolve away.
        && text != "."
        && text != ".."
}

macro_rules! name_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $name {
            type Error = IdError;
            fn try_from(text: &str) -> Result<Self, IdError> {
                if is_name(text) { Ok(Self(text.into())) } else { Err(IdError::BadName { kind: $kind }) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::try_from(text.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::try_from(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

name_id!(
    /// Names a gallery. Chosen by the caller.
    GalleryId,
    "gallery"
);
name_id!(
    /// Names a subject within its gallery. Chosen by the caller, or a UUIDv7.
    SubjectId,
    "subject"
);
name_id!(
    /// Names a track: the frames of one face in one camera. Chosen by the caller, or a UUIDv7.
    TrackId,
    "track"
);

impl TrackId {
    /// A fresh UUIDv7.
    pub fn generate() -> Self {
        Self(Uuid::now_v7().to_string().into())
    }
}

impl SubjectId {
    /// A fresh UUIDv7.
    pub fn generate() -> Self {
        Self(Uuid::now_v7().to_string().into())
    }
}

/// Names an embedding space: model name, first 16 hex digits of the weights' SHA-256, and a suffix for each setting
/// that changes the embeddings (`+flip`). Embeddings of different model ids are never compared.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
#[serde(transparent)]
pub struct ModelId(pub String);

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A fresh UUIDv7.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Uuid::parse_str(text).map(Self).map_err(|_| IdError::BadUuid { kind: $kind })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

uuid_id!(
    /// Names one enrolled face. UUIDv7, assigned at enrolment.
    FaceId,
    "face"
);
uuid_id!(
    /// Names a gallery's move to another model. UUIDv7, so that migrations sort by the time they were started.
    MigrationId,
    "migration"
);
uuid_id!(
    /// Names a merge, a split or a move of faces. UUIDv7, so that they sort by the time they were done.
    RegroupingId,
    "regrouping"
);
uuid_id!(
    /// Names what a person said of a candidate. UUIDv7, so that reviews sort by the time they were given.
    ReviewId,
    "review"
);
uuid_id!(
    /// Names a standing search. UUIDv7, so that watches sort by the time they were made.
    WatchId,
    "watch"
);

/// Names the photo or video a face came from. Faces with the same media id count as one view in a template.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
#[serde(try_from = "String", into = "String")]
pub struct MediaId(Arc<str>);

impl MediaId {
    /// A fresh UUIDv7.
    pub fn generate() -> Self {
        Self(Uuid::now_v7().to_string().into())
    }

    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for MediaId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        let valid = (1..=MAX_MEDIA_BYTES).contains(&text.len()) && !text.chars().any(char::is_control);
        if valid { Ok(Self(text.into())) } else { Err(IdError::BadMedia) }
    }
}

impl From<MediaId> for String {
    fn from(id: MediaId) -> String {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for MediaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "A.b_c:d-9", &"x".repeat(128)] {
            assert_eq!(SubjectId::try_from(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "ü", "a/b", ".", "..", "a\n", &"x".repeat(129)] {
            assert!(GalleryId::try_from(bad).is_err(), "{bad:?}");
        }
        assert!(SubjectId::try_from(SubjectId::generate().as_str()).is_ok());
    }

    #[test]
    fn media_ids_are_checked() {
        assert!(MediaId::try_from("Jahr 2026/Foto ü.jpg".to_owned()).is_ok());
        for bad in [String::new(), "a\u{0}".to_owned(), "x".repeat(257)] {
            assert!(MediaId::try_from(bad).is_err());
        }
    }
}
