//! A write that is being planned: what the rules ask of the store, as rows to put and remove.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ::sled::IVec;

use super::codec::{
    Measures, Sets, decode_answer, decode_counts, decode_gallery, decode_migration, decode_sets, decode_subject,
    encode_change, encode_counts, encode_face, encode_gallery, encode_measures, encode_migration, encode_sets,
    encode_subject, encode_vector,
};
use super::layout::{
    GalleryKey, NEXT_GALLERY, PIECE_BYTES, SetKey, Tree, answer_time, face_of_key, join_pieces, owner_of_value,
    piece_key, pieces,
};
use super::{Core, database};
use crate::face::Feature;
use crate::ids::{FaceId, GalleryId, MigrationId, SubjectId};
use crate::store::rules::{Ledger, Removed};
use crate::store::{
    Change, DocumentKey, Gallery, GalleryCounts, Migration, StandbyFeature, StoreError, StoredFace, Subject,
};

/// Rows to put (`Some`) or remove.
pub(super) type Rows = BTreeMap<(Tree, Vec<u8>), Option<Vec<u8>>>;

/// A write that is being planned: the trees as they are with the rows that will change on top.
pub(super) struct Draft<'a> {
    pub(super) core: &'a Core,
    pub(super) last_seq: u64,
    pub(super) next_gallery: u64,
    /// Galleries looked up so far, as they are in this draft.
    pub(super) galleries: HashMap<GalleryId, Option<(GalleryKey, Gallery)>>,
    pub(super) rows: Rows,
}

impl Draft<'_> {
    fn row(&self, tree: Tree, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        // A key that is asked for is cheap next to the look-up in the tree.
        match self.rows.get(&(tree, key.to_vec())) {
            Some(row) => Ok(row.as_deref().map(IVec::from)),
            None => self.core.tree(tree).get(key).map_err(database),
        }
    }

    fn value(&self, tree: Tree, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        let Some(first) = self.row(tree, key)? else { return Ok(None) };
        join_pieces(tree, key, first, |piece| self.row(Tree::Overflow, piece)).map(Some)
    }

    pub(super) fn put(&mut self, tree: Tree, key: Vec<u8>, value: &[u8]) -> Result<(), StoreError> {
        self.remove_pieces(tree, &key)?;
        let (first, further) = pieces(value);
        for (number, piece) in further {
            self.rows.insert((Tree::Overflow, piece_key(tree, &key, number)), Some(piece.to_vec()));
        }
        self.rows.insert((tree, key), Some(first.to_vec()));
        Ok(())
    }

    pub(super) fn remove(&mut self, tree: Tree, key: Vec<u8>) -> Result<(), StoreError> {
        self.remove_pieces(tree, &key)?;
        self.rows.insert((tree, key), None);
        Ok(())
    }

    fn remove_pieces(&mut self, tree: Tree, key: &[u8]) -> Result<(), StoreError> {
        let mut full = self.row(tree, key)?.is_some_and(|row| row.len() == PIECE_BYTES);
        for number in 1.. {
            if !full {
                break;
            }
            let piece = piece_key(tree, key, number);
            full = self.row(Tree::Overflow, &piece)?.is_some_and(|row| row.len() == PIECE_BYTES);
            self.rows.insert((Tree::Overflow, piece), None);
        }
        Ok(())
    }

    /// All keys with a prefix, in order.
    fn keys(&self, tree: Tree, prefix: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut keys = BTreeSet::new();
        for key in self.core.tree(tree).scan_prefix(prefix).keys() {
            keys.insert(key.map_err(database)?.to_vec());
        }
        for ((_, key), row) in
            self.rows.range((tree, prefix.to_vec())..).take_while(|((t, k), _)| *t == tree && k.starts_with(prefix))
        {
            if row.is_some() {
                keys.insert(key.clone());
            } else {
                keys.remove(key);
            }
        }
        Ok(keys.into_iter().collect())
    }

    fn entry(&mut self, id: &GalleryId) -> Result<Option<&(GalleryKey, Gallery)>, StoreError> {
        if !self.galleries.contains_key(id) {
            let value = self.value(Tree::Galleries, id.as_str().as_bytes())?;
            let entry = value.map(|value| decode_gallery(id.clone(), &value)).transpose()?;
            self.galleries.insert(id.clone(), entry);
        }
        Ok(self.galleries.get(id).and_then(Option::as_ref))
    }

    fn key(&mut self, id: &GalleryId) -> Result<GalleryKey, StoreError> {
        self.entry(id)?.map(|(key, _)| *key).ok_or_else(|| StoreError::NoGallery(id.clone()))
    }

    fn put_gallery(&mut self, key: GalleryKey, gallery: Gallery) -> Result<(), StoreError> {
        self.put(Tree::Galleries, gallery.id.as_str().into(), &encode_gallery(key, &gallery)?)?;
        self.galleries.insert(gallery.id.clone(), Some((key, gallery)));
        Ok(())
    }

    fn next_key(&mut self) -> Result<u64, StoreError> {
        let key = self.next_gallery;
        self.next_gallery += 1;
        self.put(Tree::Meta, NEXT_GALLERY.to_vec(), &self.next_gallery.to_le_bytes())?;
        Ok(key)
    }

    /// The gallery's feature sets. `None` when it was never migrated: then there is the first set alone.
    fn stored_sets(&self, key: GalleryKey) -> Result<Option<Sets>, StoreError> {
        self.row(Tree::Sets, &key.prefix())?.map(|row| decode_sets(&row)).transpose()
    }

    fn sets(&self, key: GalleryKey) -> Result<Sets, StoreError> {
        Ok(self.stored_sets(key)?.unwrap_or_else(|| Sets::first(key)))
    }

    fn put_sets(&mut self, key: GalleryKey, sets: Sets) -> Result<(), StoreError> {
        self.put(Tree::Sets, key.prefix().to_vec(), &encode_sets(sets)?)
    }

    /// Removes a face and says whether the standby set had its feature.
    fn remove_face_rows(&mut self, key: GalleryKey, subject: &SubjectId, face: FaceId) -> Result<bool, StoreError> {
        let row = key.face(subject, face);
        let sets = self.sets(key)?;
        let standby = match sets.standby {
            Some((set, _)) => self.row(Tree::Vectors, &set.of_face(&row))?.is_some(),
            None => false,
        };
        for set in sets.all() {
            self.remove(Tree::Vectors, set.of_face(&row))?;
            self.remove(Tree::Measures, set.of_face(&row))?;
        }
        self.remove(Tree::Faces, row.clone())?;
        self.remove(Tree::Crops, row)?;
        self.remove(Tree::FaceSubjects, key.owner(face))?;
        Ok(standby)
    }

    /// Gives a value another key in its tree.
    fn rename(&mut self, tree: Tree, from: Vec<u8>, to: Vec<u8>) -> Result<(), StoreError> {
        if let Some(value) = self.value(tree, &from)? {
            self.remove(tree, from)?;
            self.put(tree, to, &value)?;
        }
        Ok(())
    }

    pub(super) fn remove_answer(&mut self, key: &[u8; 32]) -> Result<(), StoreError> {
        if let Some(old) = self.value(Tree::Answers, key)? {
            let old = decode_answer(&old)?;
            self.remove(Tree::AnswersByTime, answer_time(old.created_s, key))?;
            self.remove(Tree::Answers, key.to_vec())?;
        }
        Ok(())
    }
}

impl Ledger for Draft<'_> {
    fn gallery(&mut self, gallery: &GalleryId) -> Result<Option<Gallery>, StoreError> {
        Ok(self.entry(gallery)?.map(|(_, gallery)| gallery.clone()))
    }

    fn add_gallery(&mut self, gallery: Gallery) -> Result<(), StoreError> {
        let key = GalleryKey(self.next_key()?);
        self.put_gallery(key, gallery)
    }

    fn replace_gallery(&mut self, gallery: Gallery) -> Result<(), StoreError> {
        let key = self.key(&gallery.id)?;
        self.put_gallery(key, gallery)
    }

    /// Only the record and the counts go; rows under the key, those of this draft too, are purged later.
    fn remove_gallery(&mut self, gallery: &GalleryId) -> Result<(), StoreError> {
        let key = self.key(gallery)?;
        self.remove(Tree::Galleries, gallery.as_str().into())?;
        self.remove(Tree::Counts, key.prefix().to_vec())?;
        // A gallery has few migrations, so these rows go at once.
        for migration in self.keys(Tree::Migrations, &key.prefix())? {
            self.remove(Tree::Migrations, migration)?;
        }
        for set in self.sets(key)?.all().filter(|set| set.0 != key.0) {
            self.put(Tree::RetiredSets, set.prefix().to_vec(), &[])?;
        }
        self.remove(Tree::Sets, key.prefix().to_vec())?;
        self.put(Tree::Purges, key.prefix().to_vec(), &[])?;
        self.galleries.insert(gallery.clone(), None);
        Ok(())
    }

    fn counts(&mut self, gallery: &GalleryId) -> Result<GalleryCounts, StoreError> {
        let key = self.key(gallery)?;
        let row = self.row(Tree::Counts, &key.prefix())?;
        decode_counts(&row.ok_or_else(|| Tree::Counts.damaged("a gallery has no counts"))?)
    }

    fn set_counts(&mut self, gallery: &GalleryId, counts: GalleryCounts) -> Result<(), StoreError> {
        let key = self.key(gallery)?;
        self.put(Tree::Counts, key.prefix().to_vec(), &encode_counts(counts)?)
    }

    fn subject(&mut self, gallery: &GalleryId, subject: &SubjectId) -> Result<Option<Subject>, StoreError> {
        let key = self.key(gallery)?;
        let value = self.value(Tree::Subjects, &key.subject(subject))?;
        value.map(|value| decode_subject(subject.clone(), &value)).transpose()
    }

    fn put_subject(&mut self, gallery: &GalleryId, subject: Subject) -> Result<(), StoreError> {
        let key = self.key(gallery)?;
        self.put(Tree::Subjects, key.subject(&subject.id), &encode_subject(&subject)?)
    }

    fn remove_subject(&mut self, gallery: &GalleryId, subject: &SubjectId) -> Result<Removed, StoreError> {
        let key = self.key(gallery)?;
        let mut removed = Removed::default();
        for face in self.keys(Tree::Faces, &key.faces_of(subject))? {
            let (_, face) = face_of_key(&face)?;
            removed.faces += 1;
            removed.standby += u64::from(self.remove_face_rows(key, subject, face)?);
        }
        self.remove(Tree::Subjects, key.subject(subject))?;
        Ok(removed)
    }

    fn face_owner(&mut self, gallery: &GalleryId, face: FaceId) -> Result<Option<SubjectId>, StoreError> {
        let key = self.key(gallery)?;
        self.row(Tree::FaceSubjects, &key.owner(face))?.map(|value| owner_of_value(&value)).transpose()
    }

    fn add_face(&mut self, gallery: &GalleryId, face: &StoredFace, crop: Option<&[u8]>) -> Result<(), StoreError> {
        let (subject, id) = (&face.face.subject, face.face.id);
        let key = self.key(gallery)?;
        let row = key.face(subject, id);
        self.put(Tree::Faces, row.clone(), &encode_face(&face.face)?)?;
        let sets = self.stored_sets(key)?;
        let of_set = sets.unwrap_or_else(|| Sets::first(key)).in_use.of_face(&row);
        self.put(Tree::Vectors, of_set.clone(), &encode_vector(&face.embedding))?;
        // The record of the face states the measures of the first set, but for the style.
        if sets.is_some() || face.style.is_some() {
            let measures = Measures { norm: face.face.norm, quality: face.face.quality, style: face.style.clone() };
            self.put(Tree::Measures, of_set, &encode_measures(&measures)?)?;
        }
        if let Some(crop) = crop {
            self.put(Tree::Crops, row, crop)?;
        }
        self.put(Tree::FaceSubjects, key.owner(id), subject.as_str().as_bytes())
    }

    fn remove_face(&mut self, gallery: &GalleryId, subject: &SubjectId, face: FaceId) -> Result<Removed, StoreError> {
        let key = self.key(gallery)?;
        let standby = self.remove_face_rows(key, subject, face)?;
        Ok(Removed { faces: 1, standby: u64::from(standby) })
    }

    fn move_face(
        &mut self,
        gallery: &GalleryId,
        from: &SubjectId,
        to: &SubjectId,
        face: FaceId,
    ) -> Result<(), StoreError> {
        let key = self.key(gallery)?;
        let (from, row) = (key.face(from, face), key.face(to, face));
        for set in self.sets(key)?.all() {
            for tree in Tree::OF_SETS {
                self.rename(tree, set.of_face(&from), set.of_face(&row))?;
            }
        }
        self.rename(Tree::Crops, from.clone(), row.clone())?;
        self.rename(Tree::Faces, from, row)?;
        self.put(Tree::FaceSubjects, key.owner(face), to.as_str().as_bytes())
    }

    fn set_document(&mut self, key: &DocumentKey, body: Option<&[u8]>) -> Result<(), StoreError> {
        let scope = key.gallery.as_ref().map_or(Ok(GalleryKey::NONE), |gallery| self.key(gallery))?;
        let row = scope.document(key.collection, &key.id);
        match body {
            Some(body) => self.put(Tree::Documents, row, body),
            None => self.remove(Tree::Documents, row),
        }
    }

    fn migration(&mut self, gallery: &GalleryId, id: MigrationId) -> Result<Option<Migration>, StoreError> {
        let key = self.key(gallery)?;
        let value = self.value(Tree::Migrations, &key.migration(id))?;
        value.map(|value| decode_migration(id, &value)).transpose()
    }

    fn put_migration(&mut self, gallery: &GalleryId, migration: Migration) -> Result<(), StoreError> {
        let key = self.key(gallery)?;
        self.put(Tree::Migrations, key.migration(migration.id), &encode_migration(&migration)?)
    }

    fn under_way(&mut self, gallery: &GalleryId) -> Result<Option<MigrationId>, StoreError> {
        let key = self.key(gallery)?;
        Ok(self.sets(key)?.standby.map(|(_, migration)| migration))
    }

    fn open_standby(&mut self, gallery: &GalleryId, migration: MigrationId) -> Result<(), StoreError> {
        let key = self.key(gallery)?;
        let set = SetKey(self.next_key()?);
        let sets = self.sets(key)?;
        self.put_sets(key, Sets { standby: Some((set, migration)), ..sets })
    }

    fn put_standby(&mut self, gallery: &GalleryId, feature: &StandbyFeature) -> Result<bool, StoreError> {
        let key = self.key(gallery)?;
        let Some((set, _)) = self.sets(key)?.standby else { return Ok(false) };
        let row = set.of_face(&key.face(&feature.subject, feature.face));
        let lacked = self.row(Tree::Vectors, &row)?.is_none();
        let Feature { embedding, norm, style } = &feature.feature;
        let measures = Measures { norm: *norm, quality: feature.quality, style: style.clone() };
        self.put(Tree::Vectors, row.clone(), &encode_vector(embedding))?;
        self.put(Tree::Measures, row, &encode_measures(&measures)?)?;
        Ok(lacked)
    }

    fn switch_sets(&mut self, gallery: &GalleryId) -> Result<(), StoreError> {
        let key = self.key(gallery)?;
        let sets = self.sets(key)?;
        let Some((set, migration)) = sets.standby else { return Ok(()) };
        self.put_sets(key, Sets { in_use: set, standby: Some((sets.in_use, migration)) })
    }

    /// Only the mention goes; the rows are purged later.
    fn drop_standby(&mut self, gallery: &GalleryId) -> Result<(), StoreError> {
        let key = self.key(gallery)?;
        let sets = self.sets(key)?;
        let Some((set, _)) = sets.standby else { return Ok(()) };
        self.put(Tree::RetiredSets, set.prefix().to_vec(), &[])?;
        self.put_sets(key, Sets { standby: None, ..sets })
    }

    fn last_seq(&self) -> u64 {
        self.last_seq
    }

    fn log(&mut self, change: Change) -> Result<(), StoreError> {
        self.put(Tree::Changes, change.seq.to_be_bytes().to_vec(), &encode_change(&change)?)?;
        self.last_seq = change.seq;
        Ok(())
    }
}
