//! Writes: a draft is planned against the trees, then applied in one transaction.
//!
//! Planning reads outside of the transaction, which is sound because the writer's lock is held from the first read to
//! the end of the transaction. The transaction itself only puts and removes rows, so that it may run again and keeps
//! sled's lock, which stops all readers, as short as can be.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use ::sled::IVec;
use ::sled::transaction::{TransactionResult, Transactional};
use jiff::Timestamp;

use super::codec::{
    decode_answer, decode_counts, decode_gallery, decode_subject, encode_answer, encode_change, encode_counts,
    encode_face, encode_gallery, encode_subject, encode_vector,
};
use super::layout::{
    GalleryKey, NEXT_GALLERY, PIECE_BYTES, Tree, answer_time, face_of_key, join_pieces, owner_of_value, piece_key,
    pieces, time_prefix,
};
use super::{Core, SledStore, database, guarded};
use crate::ids::{FaceId, GalleryId, SubjectId};
use crate::store::rules::{Ledger, carry_out};
use crate::store::{
    Change, Committed, Gallery, GalleryCounts, Operation, StoreError, StoredAnswer, StoredFace, Subject,
};

/// Answers forgotten in one transaction.
const FORGET_AT_ONCE: usize = 1000;

impl SledStore {
    pub(super) fn write_operations(&self, at: Timestamp, operations: &[Operation]) -> Result<Committed, StoreError> {
        self.write(|draft| carry_out(draft, at, operations))
    }

    pub(super) fn write_answer(&self, key: &[u8; 32], answer: &StoredAnswer) -> Result<(), StoreError> {
        self.write(|draft| {
            draft.remove_answer(key)?;
            draft.put(Tree::Answers, key.to_vec(), &encode_answer(answer)?)?;
            draft.put(Tree::AnswersByTime, answer_time(answer.created_s, key), &[])
        })
    }

    /// Removes answers stored before a second, some at a time so that other writers get their turn.
    pub(super) fn remove_answers(&self, before_s: i64) -> Result<u64, StoreError> {
        let mut removed = 0;
        loop {
            let some = self.write(|draft| {
                let old = draft.core.tree(Tree::AnswersByTime).range(..time_prefix(before_s));
                let keys: Vec<IVec> = old.keys().take(FORGET_AT_ONCE).collect::<Result<_, _>>().map_err(database)?;
                for key in &keys {
                    let answer = key.get(8..).unwrap_or_default();
                    draft.remove(Tree::Answers, answer.to_vec())?;
                    draft.remove(Tree::AnswersByTime, key.to_vec())?;
                }
                Ok(keys.len())
            })?;
            removed += some as u64;
            if some < FORGET_AT_ONCE {
                return Ok(removed);
            }
        }
    }

    /// Plans a write and applies it, durably, or does nothing when planning fails.
    fn write<T>(&self, plan: impl FnOnce(&mut Draft<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let planned = {
            let mut writer = self.core.writer.lock();
            // Asked under the lock: a write that failed halfway must not be built upon.
            self.committer.usable()?;
            let mut draft = Draft {
                core: &self.core,
                last_seq: writer.last_seq,
                next_gallery: writer.next_gallery,
                galleries: HashMap::new(),
                rows: BTreeMap::new(),
            };
            let planned = guarded(|| plan(&mut draft));
            if planned.is_ok() && !draft.rows.is_empty() {
                let purges = draft.rows.keys().any(|(tree, _)| *tree == Tree::Purges);
                (writer.last_seq, writer.next_gallery) = (draft.last_seq, draft.next_gallery);
                self.apply(draft.rows, draft.last_seq)?;
                if purges {
                    self.committer.untidy();
                }
            }
            planned
        };
        // A refusal may rest on a write that is not durable yet, such as the subject that is there already.
        self.committer.settle()?;
        planned
    }

    /// Applies rows in one transaction, after which `last_seq` is the last change.
    fn apply(&self, rows: Rows, last_seq: u64) -> Result<(), StoreError> {
        let rows: Vec<(usize, IVec, Option<IVec>)> =
            rows.into_iter().map(|((tree, key), value)| (tree as usize, key.into(), value.map(Into::into))).collect();
        let _hidden = self.core.visible.write();
        let result = catch_unwind(AssertUnwindSafe(|| -> TransactionResult<(), Infallible> {
            self.core.trees[..].transaction(|trees| {
                for (tree, key, value) in &rows {
                    match value {
                        Some(value) => trees[*tree].insert(key, value)?,
                        None => trees[*tree].remove(key)?,
                    };
                }
                Ok(())
            })
        }));
        let reason = match result {
            Ok(Ok(())) => {
                self.core.applied_seq.store(last_seq, Ordering::Release);
                self.committer.applied();
                return Ok(());
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the database panicked".to_owned(),
        };
        // sled may have applied a part.
        self.committer.fail(&reason);
        self.committer.usable()
    }
}

/// Rows to put (`Some`) or remove.
type Rows = BTreeMap<(Tree, Vec<u8>), Option<Vec<u8>>>;

/// A write that is being planned: the trees as they are with the rows that will change on top.
struct Draft<'a> {
    core: &'a Core,
    last_seq: u64,
    next_gallery: u64,
    /// Galleries looked up so far, as they are in this draft.
    galleries: HashMap<GalleryId, Option<(GalleryKey, Gallery)>>,
    rows: Rows,
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

    fn put(&mut self, tree: Tree, key: Vec<u8>, value: &[u8]) -> Result<(), StoreError> {
        self.remove_pieces(tree, &key)?;
        let (first, further) = pieces(value);
        for (number, piece) in further {
            self.rows.insert((Tree::Overflow, piece_key(tree, &key, number)), Some(piece.to_vec()));
        }
        self.rows.insert((tree, key), Some(first.to_vec()));
        Ok(())
    }

    fn remove(&mut self, tree: Tree, key: Vec<u8>) -> Result<(), StoreError> {
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

    fn remove_face_rows(&mut self, key: GalleryKey, subject: &SubjectId, face: FaceId) -> Result<(), StoreError> {
        for tree in [Tree::Faces, Tree::Vectors, Tree::Crops] {
            self.remove(tree, key.face(subject, face))?;
        }
        self.remove(Tree::FaceSubjects, key.owner(face))
    }

    fn remove_answer(&mut self, key: &[u8; 32]) -> Result<(), StoreError> {
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
        let key = GalleryKey(self.next_gallery);
        self.next_gallery += 1;
        self.put(Tree::Meta, NEXT_GALLERY.to_vec(), &self.next_gallery.to_le_bytes())?;
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

    fn remove_subject(&mut self, gallery: &GalleryId, subject: &SubjectId) -> Result<u64, StoreError> {
        let key = self.key(gallery)?;
        let faces = self.keys(Tree::Faces, &key.faces_of(subject))?;
        for face in &faces {
            let (_, face) = face_of_key(face)?;
            self.remove_face_rows(key, subject, face)?;
        }
        self.remove(Tree::Subjects, key.subject(subject))?;
        Ok(faces.len() as u64)
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
        self.put(Tree::Vectors, row.clone(), &encode_vector(&face.embedding))?;
        if let Some(crop) = crop {
            self.put(Tree::Crops, row, crop)?;
        }
        self.put(Tree::FaceSubjects, key.owner(id), subject.as_str().as_bytes())
    }

    fn remove_face(&mut self, gallery: &GalleryId, subject: &SubjectId, face: FaceId) -> Result<(), StoreError> {
        let key = self.key(gallery)?;
        self.remove_face_rows(key, subject, face)
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
