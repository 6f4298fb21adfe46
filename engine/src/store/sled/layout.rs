//! Where things lie in sled: trees, keys, pieces of long values. The values are in [`codec`](super::codec).
//!
//! This is the current schema version of `vultus-migrations`, whose newest step describes it in full and holds the same
//! structures frozen; tests keep the two alike. Nothing outside of these two files knows a key or a record.

use ::sled::IVec;
use uuid::Uuid;

use crate::ids::{FaceId, GalleryId, MigrationId, SubjectId};
use crate::store::{Collection, StoreError};

/// A tree. The number stands in keys of [`Tree::Overflow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(super) enum Tree {
    Meta,
    Galleries,
    Counts,
    Subjects,
    Faces,
    Vectors,
    Crops,
    FaceSubjects,
    Changes,
    Answers,
    AnswersByTime,
    Purges,
    Overflow,
    Measures,
    Sets,
    Migrations,
    RetiredSets,
    Documents,
}

impl Tree {
    /// All trees, each at the index of its number.
    pub(super) const ALL: [Self; 18] = [
        Self::Meta,
        Self::Galleries,
        Self::Counts,
        Self::Subjects,
        Self::Faces,
        Self::Vectors,
        Self::Crops,
        Self::FaceSubjects,
        Self::Changes,
        Self::Answers,
        Self::AnswersByTime,
        Self::Purges,
        Self::Overflow,
        Self::Measures,
        Self::Sets,
        Self::Migrations,
        Self::RetiredSets,
        Self::Documents,
    ];

    /// The trees with many rows whose keys start with a gallery key, which is also the key of the gallery's first
    /// feature set.
    pub(super) const OF_GALLERIES: [Self; 7] =
        [Self::Subjects, Self::Faces, Self::Vectors, Self::Crops, Self::FaceSubjects, Self::Measures, Self::Documents];

    /// The trees whose keys start with a set key.
    pub(super) const OF_SETS: [Self; 2] = [Self::Vectors, Self::Measures];

    /// Name in sled.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Galleries => "galleries",
            Self::Counts => "counts",
            Self::Subjects => "subjects",
            Self::Faces => "faces",
            Self::Vectors => "vectors",
            Self::Crops => "crops",
            Self::FaceSubjects => "face_subjects",
            Self::Changes => "changes",
            Self::Answers => "answers",
            Self::AnswersByTime => "answers_by_time",
            Self::Purges => "purges",
            Self::Overflow => "overflow",
            Self::Measures => "measures",
            Self::Sets => "sets",
            Self::Migrations => "migrations",
            Self::RetiredSets => "retired_sets",
            Self::Documents => "documents",
        }
    }

    /// Says what is damaged without showing it.
    pub(super) fn damaged(self, what: &str) -> StoreError {
        StoreError::Damaged(format!("tree {}: {what}", self.name()))
    }
}

/// Length of a piece of a value. Leaves of sled hold up to 20 rows; with rows of this size they stay below the 128 KiB
/// from which sled writes a page to a file of its own, which it never syncs.
pub(super) const PIECE_BYTES: usize = 4096;

/// Key in [`Tree::Meta`] of the gallery or set key given out next.
pub(super) const NEXT_GALLERY: &[u8] = b"next_gallery";

/// A number given to a gallery when it is created and never again; first part of the keys of all that is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct GalleryKey(pub(super) u64);

impl GalleryKey {
    /// In place of a gallery's key in keys of documents that are of no gallery. Never given out.
    pub(super) const NONE: Self = Self(u64::MAX);

    /// Key in [`Tree::Counts`], [`Tree::Sets`] and [`Tree::Purges`], prefix in [`Tree::OF_GALLERIES`].
    pub(super) fn prefix(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// Key in [`Tree::Subjects`].
    pub(super) fn subject(self, subject: &SubjectId) -> Vec<u8> {
        [&self.prefix(), subject.as_str().as_bytes()].concat()
    }

    /// Prefix of a subject's faces in [`Tree::Faces`] and [`Tree::Crops`].
    pub(super) fn faces_of(self, subject: &SubjectId) -> Vec<u8> {
        [&self.prefix(), subject.as_str().as_bytes(), &[0]].concat()
    }

    /// Key in [`Tree::Faces`] and [`Tree::Crops`].
    pub(super) fn face(self, subject: &SubjectId, face: FaceId) -> Vec<u8> {
        [&self.prefix(), subject.as_str().as_bytes(), &[0], face.0.as_bytes()].concat()
    }

    /// Key in [`Tree::FaceSubjects`].
    pub(super) fn owner(self, face: FaceId) -> Vec<u8> {
        [&self.prefix()[..], face.0.as_bytes()].concat()
    }

    /// Key in [`Tree::Documents`], or prefix for a prefix of an id.
    pub(super) fn document(self, collection: Collection, id: &[u8]) -> Vec<u8> {
        [&self.prefix()[..], &[collection as u8], id].concat()
    }

    /// Key in [`Tree::Migrations`].
    pub(super) fn migration(self, id: MigrationId) -> Vec<u8> {
        [&self.prefix()[..], id.0.as_bytes()].concat()
    }
}

/// A number given to a feature set when it is opened and never again. A gallery's first set has the gallery's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SetKey(pub(super) u64);

impl SetKey {
    /// Key in [`Tree::RetiredSets`], prefix in [`Tree::OF_SETS`].
    pub(super) fn prefix(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// Key in [`Tree::OF_SETS`] of the face with this key in [`Tree::Faces`], or prefix for a prefix there.
    pub(super) fn of_face(self, key: &[u8]) -> Vec<u8> {
        [&self.prefix(), key.get(8..).unwrap_or_default()].concat()
    }
}

/// The id in a key of [`Tree::Documents`].
pub(super) fn document_of_key(key: &[u8]) -> Result<Vec<u8>, StoreError> {
    let known = key.get(8).is_some_and(|number| usize::from(*number) < Collection::ALL.len());
    let id = key.get(9..).filter(|_| known);
    id.map(<[u8]>::to_vec).ok_or_else(|| Tree::Documents.damaged("a key is not that of a document"))
}

/// The subject id in a key of [`Tree::Subjects`].
pub(super) fn subject_of_key(key: &[u8]) -> Result<SubjectId, StoreError> {
    key.get(8..).and_then(subject_id).ok_or_else(|| Tree::Subjects.damaged("a key is not that of a subject"))
}

/// Subject and face in a key of [`Tree::Faces`].
pub(super) fn face_of_key(key: &[u8]) -> Result<(SubjectId, FaceId), StoreError> {
    let split = || {
        let (subject, face) = key.get(8..)?.split_last_chunk::<16>()?;
        Some((subject_id(subject.strip_suffix(&[0])?)?, FaceId(Uuid::from_bytes(*face))))
    };
    split().ok_or_else(|| Tree::Faces.damaged("a key is not that of a face"))
}

/// The migration id in a key of [`Tree::Migrations`].
pub(super) fn migration_of_key(key: &[u8]) -> Result<MigrationId, StoreError> {
    let id = key.get(8..).and_then(|id| id.try_into().ok());
    let id = id.ok_or_else(|| Tree::Migrations.damaged("a key is not that of a migration"))?;
    Ok(MigrationId(Uuid::from_bytes(id)))
}

/// The subject id that is a value of [`Tree::FaceSubjects`].
pub(super) fn owner_of_value(value: &[u8]) -> Result<SubjectId, StoreError> {
    subject_id(value).ok_or_else(|| Tree::FaceSubjects.damaged("a value is not a subject id"))
}

fn subject_id(bytes: &[u8]) -> Option<SubjectId> {
    SubjectId::try_from(std::str::from_utf8(bytes).ok()?).ok()
}

/// The gallery id in a key of [`Tree::Galleries`].
pub(super) fn gallery_of_key(key: &[u8]) -> Result<GalleryId, StoreError> {
    let id = std::str::from_utf8(key).ok().and_then(|id| GalleryId::try_from(id).ok());
    id.ok_or_else(|| Tree::Galleries.damaged("a key is not a gallery id"))
}

/// Key in [`Tree::AnswersByTime`]: sorts by time, then by idempotency key.
pub(super) fn answer_time(created_s: i64, key: &[u8; 32]) -> Vec<u8> {
    [&time_prefix(created_s)[..], key].concat()
}

/// Smallest key in [`Tree::AnswersByTime`] of a second. The sign bit is flipped so that times before 1970 sort first.
pub(super) fn time_prefix(created_s: i64) -> [u8; 8] {
    (created_s.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

/// Key in [`Tree::Overflow`] of a further piece (from 1) of a value.
pub(super) fn piece_key(tree: Tree, key: &[u8], piece: u32) -> Vec<u8> {
    [&[tree as u8], key, &piece.to_be_bytes()].concat()
}

/// Cuts a value into the piece of its own row and the further ones.
pub(super) fn pieces(value: &[u8]) -> (&[u8], impl Iterator<Item = (u32, &[u8])>) {
    let piece = |start: usize| &value[start..value.len().min(start + PIECE_BYTES)];
    // One piece more than full ones, so that the last one is shorter, if only empty.
    (piece(0), (1..).zip((PIECE_BYTES..=value.len()).step_by(PIECE_BYTES).map(piece)))
}

/// Puts a value together from the piece in its own row and `next`, which reads keys of [`Tree::Overflow`].
pub(super) fn join_pieces(
    tree: Tree,
    key: &[u8],
    first: IVec,
    mut next: impl FnMut(&[u8]) -> Result<Option<IVec>, StoreError>,
) -> Result<IVec, StoreError> {
    if first.len() < PIECE_BYTES {
        return Ok(first);
    }
    let mut whole = first.to_vec();
    for number in 1.. {
        let piece = next(&piece_key(tree, key, number))?.ok_or_else(|| tree.damaged("a value lacks a piece"))?;
        whole.extend_from_slice(&piece);
        if piece.len() < PIECE_BYTES {
            break;
        }
    }
    Ok(whole.into())
}

/// Decodes a number of [`Tree::Meta`].
pub(super) fn decode_number(bytes: &[u8]) -> Result<u64, StoreError> {
    bytes.try_into().map(u64::from_le_bytes).map_err(|_| Tree::Meta.damaged("a number is not of 8 bytes"))
}

/// Decodes a key that is one number: of a gallery, a set or a change.
pub(super) fn decode_key(tree: Tree, bytes: &[u8]) -> Result<u64, StoreError> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| tree.damaged("a key is not of 8 bytes"))
}
