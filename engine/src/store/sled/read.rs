//! Reads.

use std::ops::{Bound, ControlFlow};

use ::sled::IVec;
use jiff::Timestamp;

use super::codec::decode_vector;
use super::codec::{decode_answer, decode_change, decode_counts, decode_face, decode_gallery, decode_subject};
use super::layout::{
    GalleryKey, Tree, decode_key, face_of_key, gallery_of_key, join_pieces, owner_of_value, subject_of_key,
};
use super::{Core, SledStore, database, guarded};
use crate::ids::{FaceId, GalleryId, SubjectId};
use crate::store::{
    Change, CheckReport, Committed, Gallery, GalleryCounts, Operation, Store, StoreError, StoredAnswer, StoredFace,
    Subject,
};

/// Faces read in one go of a scan, between which writers get their turn.
const SCAN_AT_ONCE: usize = 512;

impl Core {
    fn row(&self, tree: Tree, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        self.tree(tree).get(key).map_err(database)
    }

    /// The whole of the value whose first piece is `first`.
    pub(super) fn whole(&self, tree: Tree, key: &[u8], first: IVec) -> Result<IVec, StoreError> {
        join_pieces(tree, key, first, |piece| self.row(Tree::Overflow, piece))
    }

    fn value(&self, tree: Tree, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        self.row(tree, key)?.map(|first| self.whole(tree, key, first)).transpose()
    }

    /// Rows from a bound on whose keys start with `prefix`, in order, with the first pieces of their values.
    fn rows<'a>(
        &self,
        tree: Tree,
        prefix: &'a [u8],
        from: Bound<Vec<u8>>,
    ) -> impl Iterator<Item = Result<(IVec, IVec), StoreError>> + use<'a> {
        let from = if let Bound::Unbounded = from { Bound::Included(prefix.to_vec()) } else { from };
        let rows = self.tree(tree).range::<Vec<u8>, _>((from, Bound::Unbounded)).map(|row| row.map_err(database));
        rows.take_while(move |row| row.as_ref().map_or(true, |(key, _)| key.starts_with(prefix)))
    }

    fn entry(&self, id: &GalleryId) -> Result<Option<(GalleryKey, Gallery)>, StoreError> {
        let value = self.value(Tree::Galleries, id.as_str().as_bytes())?;
        value.map(|value| decode_gallery(id.clone(), &value)).transpose()
    }

    fn existing(&self, id: &GalleryId) -> Result<(GalleryKey, Gallery), StoreError> {
        self.entry(id)?.ok_or_else(|| StoreError::NoGallery(id.clone()))
    }

    fn owner(&self, key: GalleryKey, face: FaceId) -> Result<Option<SubjectId>, StoreError> {
        self.row(Tree::FaceSubjects, &key.owner(face))?.map(|value| owner_of_value(&value)).transpose()
    }

    /// At most `limit` faces whose keys start with `prefix`, from a bound on, and the key of the last.
    ///
    /// Faces and vectors have the same keys, so both trees are walked in step instead of looking up each vector.
    fn faces_from(
        &self,
        dim: u32,
        prefix: &[u8],
        from: Bound<Vec<u8>>,
        limit: usize,
    ) -> Result<(Vec<StoredFace>, Option<IVec>), StoreError> {
        let mut vectors = self.rows(Tree::Vectors, prefix, from.clone());
        let mut faces = Vec::new();
        let mut last = None;
        for row in self.rows(Tree::Faces, prefix, from).take(limit) {
            let (key, face) = row?;
            let vector = match vectors.next().transpose()? {
                Some((other, vector)) if other == key => self.whole(Tree::Vectors, &key, vector)?,
                _ => return Err(Tree::Vectors.damaged("faces and vectors do not match")),
            };
            let (subject, id) = face_of_key(&key)?;
            let face = decode_face(subject, id, &self.whole(Tree::Faces, &key, face)?)?;
            faces.push(StoredFace { face, embedding: decode_vector(&vector, dim)? });
            last = Some(key);
        }
        Ok((faces, last))
    }
}

impl SledStore {
    /// Reads while no write is halfway, and answers when what was read is durable.
    fn read<T>(&self, read: impl FnOnce(&Core) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let result = {
            let _whole = self.core.visible.read();
            guarded(|| read(&self.core))
        };
        self.committer.settle()?;
        result
    }
}

impl Store for SledStore {
    fn galleries(&self) -> Result<Vec<Gallery>, StoreError> {
        self.read(|core| {
            core.rows(Tree::Galleries, &[], Bound::Unbounded)
                .map(|row| {
                    let (key, first) = row?;
                    let value = core.whole(Tree::Galleries, &key, first)?;
                    decode_gallery(gallery_of_key(&key)?, &value).map(|(_, gallery)| gallery)
                })
                .collect()
        })
    }

    fn gallery(&self, gallery: &GalleryId) -> Result<Option<Gallery>, StoreError> {
        self.read(|core| Ok(core.entry(gallery)?.map(|(_, gallery)| gallery)))
    }

    fn counts(&self, gallery: &GalleryId) -> Result<GalleryCounts, StoreError> {
        self.read(|core| {
            let (key, _) = core.existing(gallery)?;
            let row = core.row(Tree::Counts, &key.prefix())?;
            decode_counts(&row.ok_or_else(|| Tree::Counts.damaged("a gallery has no counts"))?)
        })
    }

    fn subject(&self, gallery: &GalleryId, subject: &SubjectId) -> Result<Option<Subject>, StoreError> {
        self.read(|core| {
            let (key, _) = core.existing(gallery)?;
            let value = core.value(Tree::Subjects, &key.subject(subject))?;
            value.map(|value| decode_subject(subject.clone(), &value)).transpose()
        })
    }

    fn subjects(
        &self,
        gallery: &GalleryId,
        after: Option<&SubjectId>,
        limit: usize,
    ) -> Result<Vec<Subject>, StoreError> {
        self.read(|core| {
            let (key, _) = core.existing(gallery)?;
            let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(key.subject(after)));
            core.rows(Tree::Subjects, &key.prefix(), from)
                .take(limit)
                .map(|row| {
                    let (key, first) = row?;
                    decode_subject(subject_of_key(&key)?, &core.whole(Tree::Subjects, &key, first)?)
                })
                .collect()
        })
    }

    fn faces(&self, gallery: &GalleryId, subject: &SubjectId) -> Result<Vec<StoredFace>, StoreError> {
        self.read(|core| {
            let (key, gallery) = core.existing(gallery)?;
            let (faces, _) = core.faces_from(gallery.dim, &key.faces_of(subject), Bound::Unbounded, usize::MAX)?;
            Ok(faces)
        })
    }

    fn face(&self, gallery: &GalleryId, face: FaceId) -> Result<Option<StoredFace>, StoreError> {
        self.read(|core| {
            let (key, gallery) = core.existing(gallery)?;
            let Some(subject) = core.owner(key, face)? else { return Ok(None) };
            let row = key.face(&subject, face);
            let record = core.value(Tree::Faces, &row)?;
            let record = record.ok_or_else(|| Tree::Faces.damaged("a face is not where its subject says"))?;
            let vector = core.value(Tree::Vectors, &row)?;
            let vector = vector.ok_or_else(|| Tree::Vectors.damaged("a face has no vector"))?;
            let embedding = decode_vector(&vector, gallery.dim)?;
            Ok(Some(StoredFace { face: decode_face(subject, face, &record)?, embedding }))
        })
    }

    fn crop(&self, gallery: &GalleryId, face: FaceId) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|core| {
            let (key, _) = core.existing(gallery)?;
            let Some(subject) = core.owner(key, face)? else { return Ok(None) };
            Ok(core.value(Tree::Crops, &key.face(&subject, face))?.map(|crop| crop.to_vec()))
        })
    }

    /// The scan is not of one moment: writes come between its parts, and follow in the change log after the sequence
    /// number read before it. When the gallery is deleted meanwhile, it ends with [`StoreError::NoGallery`].
    fn scan_faces(
        &self,
        gallery: &GalleryId,
        visit: &mut dyn FnMut(StoredFace) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut from = Bound::Unbounded;
        let mut of = None;
        loop {
            let (faces, last) = self.read(|core| {
                let (key, found) = core.existing(gallery)?;
                if *of.get_or_insert(key) != key {
                    // Deleted and created anew.
                    return Err(StoreError::NoGallery(gallery.clone()));
                }
                core.faces_from(found.dim, &key.prefix(), from.clone(), SCAN_AT_ONCE)
            })?;
            for face in faces {
                if visit(face).is_break() {
                    return Ok(());
                }
            }
            match last {
                Some(key) => from = Bound::Excluded(key.to_vec()),
                None => return Ok(()),
            }
        }
    }

    fn commit(&self, at: Timestamp, operations: &[Operation]) -> Result<Committed, StoreError> {
        self.write_operations(at, operations)
    }

    fn changes(&self, after: u64, limit: usize) -> Result<Vec<Change>, StoreError> {
        self.read(|core| {
            core.rows(Tree::Changes, &[], Bound::Excluded(after.to_be_bytes().to_vec()))
                .take(limit)
                .map(|row| {
                    let (key, first) = row?;
                    decode_change(decode_key(Tree::Changes, &key)?, &core.whole(Tree::Changes, &key, first)?)
                })
                .collect()
        })
    }

    fn last_seq(&self) -> Result<u64, StoreError> {
        self.read(|core| {
            let last = core.tree(Tree::Changes).last().map_err(database)?;
            last.map_or(Ok(0), |(key, _)| decode_key(Tree::Changes, &key))
        })
    }

    fn answer(&self, key: &[u8; 32]) -> Result<Option<StoredAnswer>, StoreError> {
        self.read(|core| core.value(Tree::Answers, key)?.map(|value| decode_answer(&value)).transpose())
    }

    fn put_answer(&self, key: &[u8; 32], answer: &StoredAnswer) -> Result<(), StoreError> {
        self.write_answer(key, answer)
    }

    fn forget_answers(&self, before_s: i64) -> Result<u64, StoreError> {
        self.remove_answers(before_s)
    }

    fn check(&self) -> Result<CheckReport, StoreError> {
        // Writers wait: a write between two trees would look like a fault.
        let writer = self.core.writer.lock();
        let report = guarded(|| self.core.check(&writer));
        drop(writer);
        self.committer.settle()?;
        report
    }

    fn size_on_disk(&self) -> Result<u64, StoreError> {
        self.core.db.size_on_disk().map_err(database)
    }
}
