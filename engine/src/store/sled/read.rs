//! Reads.

use std::ops::{Bound, ControlFlow};

use ::sled::IVec;
use jiff::Timestamp;

use super::codec::{
    decode_answer, decode_change, decode_counts, decode_face, decode_gallery, decode_migration, decode_subject,
};
use super::layout::{
    GalleryKey, Tree, decode_key, document_of_key, gallery_of_key, join_pieces, migration_of_key, owner_of_value,
    subject_of_key,
};
use super::sets::FeatureSet;
use super::{Core, SledStore, database, guarded};
use crate::ids::{FaceId, GalleryId, SubjectId};
use crate::store::{
    Change, CheckReport, Collection, Committed, Document, DocumentKey, Gallery, GalleryCounts, Migration, Operation,
    StandbyFace, Store, StoreError, StoredAnswer, StoredFace, Subject,
};

/// Faces read in one go of a scan, between which writers get their turn.
const SCAN_AT_ONCE: usize = 512;

impl Core {
    pub(super) fn row(&self, tree: Tree, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        self.tree(tree).get(key).map_err(database)
    }

    /// The whole of the value whose first piece is `first`.
    pub(super) fn whole(&self, tree: Tree, key: &[u8], first: IVec) -> Result<IVec, StoreError> {
        join_pieces(tree, key, first, |piece| self.row(Tree::Overflow, piece))
    }

    pub(super) fn value(&self, tree: Tree, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        self.row(tree, key)?.map(|first| self.whole(tree, key, first)).transpose()
    }

    /// Rows from a bound on whose keys start with `prefix`, in order, with the first pieces of their values.
    pub(super) fn rows<'a>(
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

    /// Visits what `read` gives part by part: the set it reads from, items from a bound on, the key of the last.
    fn scan<T>(
        &self,
        gallery: &GalleryId,
        read: impl Fn(&Core, GalleryKey, &Gallery, Bound<Vec<u8>>) -> Result<Part<T>, StoreError>,
        visit: &mut dyn FnMut(T) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut from = Bound::Unbounded;
        let mut of = None;
        loop {
            let (items, last) = self.read(|core| {
                let (key, found) = core.existing(gallery)?;
                let (set, items, last) = read(core, key, &found, from.clone())?;
                match *of.get_or_insert((key, set)) {
                    // Deleted and created anew.
                    (first, _) if first != key => Err(StoreError::NoGallery(gallery.clone())),
                    (_, first) if first != set => Err(StoreError::Switched(gallery.clone())),
                    _ => Ok((items, last)),
                }
            })?;
            for item in items {
                if visit(item).is_break() {
                    return Ok(());
                }
            }
            match last {
                Some(key) => from = Bound::Excluded(key.to_vec()),
                None => return Ok(()),
            }
        }
    }
}

/// A part of a scan.
type Part<T> = (Option<FeatureSet>, Vec<T>, Option<IVec>);

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
            let set = core.in_use(key, &gallery)?;
            let (faces, _) = core.faces_from(set, &key.faces_of(subject), Bound::Unbounded, usize::MAX)?;
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
            let set = core.in_use(key, &gallery)?;
            let vector = core.row(Tree::Vectors, &set.key.of_face(&row))?;
            let vector = vector.ok_or_else(|| Tree::Vectors.damaged("a face has no vector"))?;
            core.stored(set, &row, decode_face(subject, face, &record)?, vector).map(Some)
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
    /// number read before it. When the gallery is deleted meanwhile, it ends with [`StoreError::NoGallery`], when it
    /// changes its model, with [`StoreError::Switched`].
    fn scan_faces(
        &self,
        gallery: &GalleryId,
        visit: &mut dyn FnMut(StoredFace) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let read = |core: &Core, key: GalleryKey, found: &Gallery, from| {
            let set = core.in_use(key, found)?;
            let (faces, last) = core.faces_from(set, &key.prefix(), from, SCAN_AT_ONCE)?;
            Ok((Some(set), faces, last))
        };
        self.scan(gallery, read, visit)
    }

    fn migrations(&self, gallery: &GalleryId) -> Result<Vec<Migration>, StoreError> {
        self.read(|core| {
            let (key, _) = core.existing(gallery)?;
            core.rows(Tree::Migrations, &key.prefix(), Bound::Unbounded)
                .map(|row| {
                    let (key, first) = row?;
                    decode_migration(migration_of_key(&key)?, &core.whole(Tree::Migrations, &key, first)?)
                })
                .collect()
        })
    }

    fn standby_faces(&self, gallery: &GalleryId, subject: &SubjectId) -> Result<Vec<StoredFace>, StoreError> {
        self.read(|core| {
            let (key, _) = core.existing(gallery)?;
            let Some(set) = core.standby(key)? else { return Ok(Vec::new()) };
            let (faces, _) = core.standby_from(set, &key.faces_of(subject), Bound::Unbounded, usize::MAX)?;
            Ok(faces.into_iter().filter_map(|face| face.stored).collect())
        })
    }

    /// Not of one moment, as [`SledStore::scan_faces`].
    fn scan_standby(
        &self,
        gallery: &GalleryId,
        visit: &mut dyn FnMut(StandbyFace) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let read = |core: &Core, key: GalleryKey, _: &Gallery, from| match core.standby(key)? {
            None => Ok((None, Vec::new(), None)),
            Some(set) => {
                let (faces, last) = core.standby_from(set, &key.prefix(), from, SCAN_AT_ONCE)?;
                Ok((Some(set), faces, last))
            }
        };
        self.scan(gallery, read, visit)
    }

    fn document(&self, key: &DocumentKey) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|core| {
            let scope = match &key.gallery {
                None => Some(GalleryKey::NONE),
                Some(gallery) => core.entry(gallery)?.map(|(key, _)| key),
            };
            let Some(scope) = scope else { return Ok(None) };
            let value = core.value(Tree::Documents, &scope.document(key.collection, &key.id))?;
            Ok(value.map(|value| value.to_vec()))
        })
    }

    fn documents(
        &self,
        gallery: Option<&GalleryId>,
        collection: Collection,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Document>, StoreError> {
        self.read(|core| {
            let scope = gallery.map_or(Ok(GalleryKey::NONE), |gallery| core.existing(gallery).map(|(key, _)| key))?;
            let from = after.filter(|after| *after >= prefix);
            let from = from.map_or(Bound::Unbounded, |after| Bound::Excluded(scope.document(collection, after)));
            core.rows(Tree::Documents, &scope.document(collection, prefix), from)
                .take(limit)
                .map(|row| {
                    let (key, first) = row?;
                    let value = core.whole(Tree::Documents, &key, first)?;
                    Ok((document_of_key(&key)?, value.to_vec()))
                })
                .collect()
        })
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
