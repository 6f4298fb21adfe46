//! Reading faces with their features of one set: the one in use, or the standby set of a migration.

use std::ops::Bound;

use ::sled::IVec;

use super::Core;
use super::codec::{Sets, decode_face, decode_measures, decode_migration, decode_sets, decode_vector};
use super::layout::{GalleryKey, SetKey, Tree, face_of_key};
use crate::store::{Face, Gallery, StandbyFace, StoreError, StoredFace};

/// A feature set as reads need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FeatureSet {
    pub(super) key: SetKey,
    pub(super) dim: u32,
}

impl Core {
    /// The gallery's feature sets. `None` when it was never migrated.
    pub(super) fn stored_sets(&self, key: GalleryKey) -> Result<Option<Sets>, StoreError> {
        self.row(Tree::Sets, &key.prefix())?.map(|row| decode_sets(&row)).transpose()
    }

    /// The set that is searched.
    pub(super) fn in_use(&self, key: GalleryKey, gallery: &Gallery) -> Result<FeatureSet, StoreError> {
        let sets = self.stored_sets(key)?.unwrap_or_else(|| Sets::first(key));
        Ok(FeatureSet { key: sets.in_use, dim: gallery.dim })
    }

    /// The standby set, while a migration is under way.
    pub(super) fn standby(&self, key: GalleryKey) -> Result<Option<FeatureSet>, StoreError> {
        let Some((set, id)) = self.stored_sets(key)?.and_then(|sets| sets.standby) else { return Ok(None) };
        let value = self.value(Tree::Migrations, &key.migration(id))?;
        let value = value.ok_or_else(|| Tree::Sets.damaged("a standby set is of no migration"))?;
        let dim = decode_migration(id, &value)?.standby().dim;
        Ok(Some(FeatureSet { key: set, dim }))
    }

    /// A face with its feature of a set. `vector` is the row of the set.
    pub(super) fn stored(
        &self,
        set: FeatureSet,
        key: &[u8],
        face: Face,
        vector: IVec,
    ) -> Result<StoredFace, StoreError> {
        let measures = self.value(Tree::Measures, &set.key.of_face(key))?;
        self.joined(set, key, face, vector, measures)
    }

    /// As [`Core::stored`], with the row of the measures, where there is one, at hand too.
    fn joined(
        &self,
        set: FeatureSet,
        key: &[u8],
        mut face: Face,
        vector: IVec,
        measures: Option<IVec>,
    ) -> Result<StoredFace, StoreError> {
        let vector = self.whole(Tree::Vectors, &set.key.of_face(key), vector)?;
        let mut style = None;
        if let Some(row) = measures {
            let measures = decode_measures(&row)?;
            (face.norm, face.quality, style) = (measures.norm, measures.quality, measures.style);
        }
        Ok(StoredFace { face, embedding: decode_vector(&vector, set.dim)?, style })
    }

    /// At most `limit` faces whose keys start with `prefix`, from a bound on, and the key of the last.
    ///
    /// Faces, vectors and measures have the same keys but for the set, so the trees are walked in step instead of looking
    /// up each row. Measures may be missing.
    pub(super) fn faces_from(
        &self,
        set: FeatureSet,
        prefix: &[u8],
        from: Bound<Vec<u8>>,
        limit: usize,
    ) -> Result<(Vec<StoredFace>, Option<IVec>), StoreError> {
        let of_set = set.key.of_face(prefix);
        let mut vectors = self.rows(Tree::Vectors, &of_set, from.clone().map(|key| set.key.of_face(&key)));
        let mut measures = self.rows(Tree::Measures, &of_set, from.clone().map(|key| set.key.of_face(&key))).peekable();
        let mut faces = Vec::new();
        let mut last = None;
        for row in self.rows(Tree::Faces, prefix, from).take(limit) {
            let (key, face) = row?;
            let vector = match vectors.next().transpose()? {
                Some((other, vector)) if other.get(8..) == key.get(8..) => vector,
                _ => return Err(Tree::Vectors.damaged("faces and vectors do not match")),
            };
            let (subject, id) = face_of_key(&key)?;
            let face = decode_face(subject, id, &self.whole(Tree::Faces, &key, face)?)?;
            // Rows of no face are passed over; the full check tells of them.
            let of_face = &key[8..];
            while measures.next_if(|row| row.as_ref().is_ok_and(|(other, _)| &other[8..] < of_face)).is_some() {}
            let own = measures.next_if(|row| row.as_ref().map_or(true, |(other, _)| &other[8..] == of_face));
            let own = own.transpose()?.map(|(other, row)| self.whole(Tree::Measures, &other, row)).transpose()?;
            faces.push(self.joined(set, &key, face, vector, own)?);
            last = Some(key);
        }
        Ok((faces, last))
    }

    /// As [`Core::faces_from`] for a set in which features may be missing.
    pub(super) fn standby_from(
        &self,
        set: FeatureSet,
        prefix: &[u8],
        from: Bound<Vec<u8>>,
        limit: usize,
    ) -> Result<(Vec<StandbyFace>, Option<IVec>), StoreError> {
        let mut faces = Vec::new();
        let mut last = None;
        for row in self.rows(Tree::Faces, prefix, from).take(limit) {
            let (key, first) = row?;
            let (subject, id) = face_of_key(&key)?;
            let stored = match self.row(Tree::Vectors, &set.key.of_face(&key))? {
                None => None,
                Some(vector) => {
                    let face = decode_face(subject.clone(), id, &self.whole(Tree::Faces, &key, first)?)?;
                    Some(self.stored(set, &key, face, vector)?)
                }
            };
            faces.push(StandbyFace { subject, face: id, stored });
            last = Some(key);
        }
        Ok((faces, last))
    }
}
