//! The full check: every row is read and compared with those it belongs to.
//!
//! Findings name galleries, trees and numbers, never a subject or what a record holds.

use std::collections::{HashMap, HashSet};

use ::sled::IVec;

use super::codec::{
    Sets, decode_answer, decode_change, decode_counts, decode_face, decode_gallery, decode_migration, decode_subject,
};
use super::findings::Findings;
use super::layout::{
    GalleryKey, PIECE_BYTES, SetKey, Tree, answer_time, decode_key, document_of_key, face_of_key, gallery_of_key,
    owner_of_value, subject_of_key,
};
use super::sets::FeatureSet;
use super::{Core, Writer, database};
use crate::ids::GalleryId;
use crate::store::{CheckReport, GalleryCounts, StoreError, StoredFace};

/// A gallery with what was counted in it.
struct Found {
    id: GalleryId,
    sets: Sets,
    in_use: FeatureSet,
    standby: Option<FeatureSet>,
    /// Faces the migration under way says the standby set has.
    standby_faces: u64,
    counts: GalleryCounts,
}

type Galleries = HashMap<GalleryKey, Found>;

/// Keys whose rows are leftovers to be purged.
struct Leftovers {
    galleries: HashSet<GalleryKey>,
    sets: HashSet<SetKey>,
}

impl Leftovers {
    fn has(&self, tree: Tree, key: u64) -> bool {
        self.galleries.contains(&GalleryKey(key)) || Tree::OF_SETS.contains(&tree) && self.sets.contains(&SetKey(key))
    }
}

impl Core {
    /// Checks everything. The writer's lock is held by the caller.
    pub(super) fn check(&self, writer: &Writer) -> Result<CheckReport, StoreError> {
        let mut findings = Findings::default();
        let mut galleries = self.check_galleries(writer, &mut findings)?;
        let leftovers = self.leftovers()?;
        self.check_subjects(&mut galleries, &leftovers, &mut findings)?;
        self.check_faces(&mut galleries, &leftovers, &mut findings)?;
        self.check_rows_of_faces(&galleries, &leftovers, &mut findings)?;
        self.check_rows_of_sets(&galleries, &leftovers, &mut findings)?;
        self.check_documents(&galleries, &leftovers, &mut findings)?;
        self.check_counts(&galleries, &mut findings)?;
        let (changes, sequence) = self.check_changes(writer, &mut findings)?;
        self.check_answers(&mut findings)?;
        self.check_overflow(&leftovers, &mut findings)?;
        Ok(CheckReport {
            schema_version: vultus_migrations::SCHEMA_VERSION,
            galleries: galleries.len() as u64,
            subjects: galleries.values().map(|found| found.counts.subjects).sum(),
            faces: galleries.values().map(|found| found.counts.faces).sum(),
            changes,
            sequence,
            problems: findings.into_problems(),
        })
    }

    fn all(&self, tree: Tree) -> impl Iterator<Item = Result<(IVec, IVec), StoreError>> + use<> {
        self.tree(tree).iter().map(|row| row.map_err(database))
    }

    fn has(&self, tree: Tree, key: &[u8]) -> Result<bool, StoreError> {
        self.tree(tree).contains_key(key).map_err(database)
    }

    fn leftovers(&self) -> Result<Leftovers, StoreError> {
        let keys = |tree| self.all(tree).map(move |row| decode_key(tree, &row?.0));
        Ok(Leftovers {
            galleries: keys(Tree::Purges).map(|key| key.map(GalleryKey)).collect::<Result<_, _>>()?,
            sets: keys(Tree::RetiredSets).map(|key| key.map(SetKey)).collect::<Result<_, _>>()?,
        })
    }

    fn check_galleries(&self, writer: &Writer, findings: &mut Findings) -> Result<Galleries, StoreError> {
        let mut galleries = Galleries::new();
        for row in self.all(Tree::Galleries) {
            let (key, first) = row?;
            let value = self.whole(Tree::Galleries, &key, first);
            let gallery = value.and_then(|value| decode_gallery(gallery_of_key(&key)?, &value));
            let Some((key, gallery)) = findings.keep(gallery)? else { continue };
            if key.0 >= writer.next_gallery {
                findings.lines.push(format!("gallery {}: its key will be given out again", gallery.id));
            }
            let sets = self.stored_sets(key).map(|sets| sets.unwrap_or_else(|| Sets::first(key)));
            let Some(sets) = findings.keep(sets)? else { continue };
            if sets.all().any(|set| set.0 >= writer.next_gallery) {
                findings
                    .lines
                    .push(format!("gallery {}: a key of its feature sets will be given out again", gallery.id));
            }
            let Some(in_use) = findings.keep(self.in_use(key, &gallery))? else { continue };
            let standby = findings.keep(self.standby(key))?.flatten();
            let standby_faces = match sets.standby {
                Some((_, id)) => {
                    let value = self.value(Tree::Migrations, &key.migration(id))?;
                    let migration = value.map(|value| decode_migration(id, &value)).transpose();
                    findings.keep(migration)?.flatten().map_or(0, |migration| migration.standby_faces)
                }
                None => 0,
            };
            let counts = GalleryCounts::default();
            let found = Found { id: gallery.id, sets, in_use, standby, standby_faces, counts };
            if let Some(other) = galleries.insert(key, found) {
                findings.lines.push(format!("gallery {}: its key is also that of another", other.id));
            }
        }
        Ok(galleries)
    }

    fn check_subjects(
        &self,
        galleries: &mut Galleries,
        leftovers: &Leftovers,
        findings: &mut Findings,
    ) -> Result<(), StoreError> {
        for row in self.all(Tree::Subjects) {
            let (key, first) = row?;
            let Some(found) = known(galleries, leftovers, Tree::Subjects, &key, findings) else { continue };
            found.counts.subjects += 1;
            let value = self.whole(Tree::Subjects, &key, first);
            findings.keep(value.and_then(|value| decode_subject(subject_of_key(&key)?, &value)))?;
        }
        Ok(())
    }

    /// Faces against vectors, owners and subjects.
    fn check_faces(
        &self,
        galleries: &mut Galleries,
        leftovers: &Leftovers,
        findings: &mut Findings,
    ) -> Result<(), StoreError> {
        // Faces of a subject stand together, so one look-up serves all of them.
        let mut subject_seen: Option<(Vec<u8>, bool)> = None;
        for row in self.all(Tree::Faces) {
            let (key, first) = row?;
            let Some(found) = known(galleries, leftovers, Tree::Faces, &key, findings) else { continue };
            found.counts.faces += 1;
            let place = format!("gallery {}", found.id);
            let Some((subject, face)) = findings.keep(face_of_key(&key))? else { continue };
            let value = self.whole(Tree::Faces, &key, first);
            let Some(value) = findings.keep(value.and_then(|value| decode_face(subject.clone(), face, &value)))? else {
                continue;
            };

            let gallery = GalleryKey(decode_key(Tree::Faces, &key[..8])?);
            let of = gallery.subject(&subject);
            let there = match subject_seen.take() {
                Some((seen, there)) if seen == of => there,
                _ => self.has(Tree::Subjects, &of)?,
            };
            subject_seen = Some((of, there));
            if !there {
                findings.count(&place, "a face has no subject");
            }
            match self.tree(Tree::FaceSubjects).get(gallery.owner(face)).map_err(database)? {
                Some(owner) if findings.keep(owner_of_value(&owner))?.as_ref() == Some(&subject) => {}
                _ => findings.count(&place, "a face cannot be found by its id"),
            }
            for set in std::iter::once(found.in_use).chain(found.standby) {
                match self.row(Tree::Vectors, &set.key.of_face(&key))? {
                    None if set == found.in_use => findings.count(&place, "a face has no vector"),
                    None => {}
                    Some(first) => {
                        let stored = findings.keep(self.stored(set, &key, value.clone(), first))?;
                        let finite = |stored: &StoredFace| stored.embedding.iter().all(|value| value.is_finite());
                        if stored.as_ref().is_some_and(|stored| !finite(stored)) {
                            findings.count(&place, "a vector has a value that is no number");
                        }
                        found.standby_faces = found.standby_faces.wrapping_sub(u64::from(set != found.in_use));
                    }
                }
            }
        }
        for found in galleries.values().filter(|found| found.standby_faces != 0) {
            findings.lines.push(format!("gallery {}: the standby set does not match its count", found.id));
        }
        Ok(())
    }

    /// Crops and owners that belong to no face.
    fn check_rows_of_faces(
        &self,
        galleries: &Galleries,
        leftovers: &Leftovers,
        findings: &mut Findings,
    ) -> Result<(), StoreError> {
        for tree in [Tree::Crops, Tree::FaceSubjects] {
            for row in self.all(tree) {
                let (key, first) = row?;
                let gallery = gallery_of(&key);
                let Some(found) = gallery.and_then(|key| galleries.get(&key)) else {
                    if !gallery.is_some_and(|key| leftovers.has(tree, key.0)) {
                        findings.count(tree.name(), "a row is of no gallery");
                    }
                    continue;
                };
                let place = format!("gallery {}", found.id);
                if tree == Tree::FaceSubjects {
                    let face_key = key.get(8..).map(|face| [&key[..8], &first, &[0], face].concat());
                    if !face_key.map_or(Ok(false), |key| self.has(Tree::Faces, &key))? {
                        findings.count(&place, "a face id leads to no face");
                    }
                    continue;
                }
                if !self.has(Tree::Faces, &key)? {
                    findings.count(&place, "a crop is of no face");
                }
                findings.keep(self.whole(tree, &key, first))?;
            }
        }
        Ok(())
    }

    /// Vectors and measures that belong to no face.
    fn check_rows_of_sets(
        &self,
        galleries: &Galleries,
        leftovers: &Leftovers,
        findings: &mut Findings,
    ) -> Result<(), StoreError> {
        let of_sets: HashMap<u64, (&GalleryId, GalleryKey)> =
            galleries.iter().flat_map(|(key, found)| found.sets.all().map(|set| (set.0, (&found.id, *key)))).collect();
        for tree in Tree::OF_SETS {
            for row in self.all(tree) {
                let (key, _) = row?;
                let set = gallery_of(&key).map_or(0, |key| key.0);
                let Some((gallery, of)) = of_sets.get(&set) else {
                    if !leftovers.has(tree, set) {
                        findings.count(tree.name(), "a row is of no gallery");
                    }
                    continue;
                };
                // The keys differ in their first number alone.
                if !self.has(Tree::Faces, &SetKey(of.0).of_face(&key))? {
                    let what = if tree == Tree::Vectors { "a vector is of no face" } else { "measures are of no face" };
                    findings.count(&format!("gallery {gallery}"), what);
                }
            }
        }
        Ok(())
    }

    /// Documents of no gallery that is there. What they say is for those who keep them.
    fn check_documents(
        &self,
        galleries: &Galleries,
        leftovers: &Leftovers,
        findings: &mut Findings,
    ) -> Result<(), StoreError> {
        for row in self.all(Tree::Documents) {
            let (key, first) = row?;
            findings.keep(document_of_key(&key))?;
            findings.keep(self.whole(Tree::Documents, &key, first))?;
            let scope = gallery_of(&key).unwrap_or(GalleryKey::NONE);
            if scope != GalleryKey::NONE && !galleries.contains_key(&scope) && !leftovers.has(Tree::Documents, scope.0)
            {
                findings.count(Tree::Documents.name(), "a row is of no gallery");
            }
        }
        Ok(())
    }

    fn check_counts(&self, galleries: &Galleries, findings: &mut Findings) -> Result<(), StoreError> {
        let mut with_counts = HashSet::new();
        for row in self.all(Tree::Counts) {
            let (key, value) = row?;
            let key = decode_key(Tree::Counts, &key).map(GalleryKey);
            let Some(key) = findings.keep(key)? else { continue };
            let Some(stored) = findings.keep(decode_counts(&value))? else { continue };
            let Some(found) = galleries.get(&key) else {
                findings.count(Tree::Counts.name(), "a row is of no gallery");
                continue;
            };
            with_counts.insert(key);
            let id = &found.id;
            if stored.subjects != found.counts.subjects {
                let (stored, found) = (stored.subjects, found.counts.subjects);
                findings.lines.push(format!("gallery {id}: {stored} subjects are counted, {found} are there"));
            }
            if stored.faces != found.counts.faces {
                let (stored, found) = (stored.faces, found.counts.faces);
                findings.lines.push(format!("gallery {id}: {stored} faces are counted, {found} are there"));
            }
        }
        for (_, found) in galleries.iter().filter(|(key, _)| !with_counts.contains(key)) {
            findings.lines.push(format!("gallery {}: it has no counts", found.id));
        }
        Ok(())
    }

    fn check_changes(&self, writer: &Writer, findings: &mut Findings) -> Result<(u64, Option<(u64, u64)>), StoreError> {
        let (mut changes, mut sequence) = (0, None);
        for row in self.all(Tree::Changes) {
            let (key, value) = row?;
            let seq = decode_key(Tree::Changes, &key);
            let Some(seq) = findings.keep(seq)? else { continue };
            let (first, last) = sequence.unwrap_or((seq, seq.wrapping_sub(1)));
            if seq != last.wrapping_add(1) {
                findings.lines.push(format!("change log: {seq} follows on {last}"));
            }
            sequence = Some((first, seq));
            changes += 1;
            let value = self.whole(Tree::Changes, &key, value);
            findings.keep(value.and_then(|value| decode_change(seq, &value)))?;
        }
        if let Some((first, _)) = sequence.filter(|(first, _)| *first != 1) {
            findings.lines.push(format!("change log: it starts at {first}"));
        }
        let last = sequence.map_or(0, |(_, last)| last);
        if last != writer.last_seq {
            findings.lines.push(format!("change log: it ends at {last}, the next write follows {}", writer.last_seq));
        }
        Ok((changes, sequence))
    }

    fn check_answers(&self, findings: &mut Findings) -> Result<(), StoreError> {
        let mut answers = 0_u64;
        for row in self.all(Tree::Answers) {
            let (key, first) = row?;
            answers += 1;
            let answer = self.whole(Tree::Answers, &key, first).and_then(|value| decode_answer(&value));
            let Some(answer) = findings.keep(answer)? else { continue };
            let by_time = <&[u8; 32]>::try_from(key.as_ref()).map(|key| answer_time(answer.created_s, key));
            if !by_time.map_or(Ok(false), |key| self.has(Tree::AnswersByTime, &key))? {
                findings.count(Tree::Answers.name(), "an answer would never be forgotten");
            }
        }
        if self.all(Tree::AnswersByTime).count() as u64 != answers {
            findings.lines.push("answers_by_time: there are not as many rows as answers".to_owned());
        }
        Ok(())
    }

    /// Pieces that follow on no full piece. Missing pieces are found where the value is read.
    fn check_overflow(&self, leftovers: &Leftovers, findings: &mut Findings) -> Result<(), StoreError> {
        for row in self.all(Tree::Overflow) {
            let (key, _) = row?;
            let parts = key.split_first().and_then(|(tree, rest)| {
                let (base, piece) = rest.split_last_chunk::<4>()?;
                Some((*Tree::ALL.get(usize::from(*tree))?, base, u32::from_be_bytes(*piece)))
            });
            let Some((tree, base, piece)) = parts else {
                findings.count(Tree::Overflow.name(), "a key is not that of a piece");
                continue;
            };
            if Tree::OF_GALLERIES.contains(&tree) && gallery_of(base).is_some_and(|key| leftovers.has(tree, key.0)) {
                continue;
            }
            let before = match piece {
                0 | 1 => self.tree(tree).get(base),
                _ => self.tree(Tree::Overflow).get(super::layout::piece_key(tree, base, piece - 1)),
            };
            if before.map_err(database)?.is_none_or(|before| before.len() != PIECE_BYTES) {
                findings.count(tree.name(), "a piece is of no value");
            }
        }
        Ok(())
    }
}

fn gallery_of(key: &[u8]) -> Option<GalleryKey> {
    key.first_chunk::<8>().map(|key| GalleryKey(u64::from_be_bytes(*key)))
}

/// The gallery a key is of. Rows of purged galleries are passed over, others of no gallery are a finding.
fn known<'a>(
    galleries: &'a mut Galleries,
    leftovers: &Leftovers,
    tree: Tree,
    key: &[u8],
    findings: &mut Findings,
) -> Option<&'a mut Found> {
    let gallery = gallery_of(key);
    if gallery.is_some_and(|key| leftovers.has(tree, key.0)) {
        return None;
    }
    let found = gallery.and_then(|key| galleries.get_mut(&key));
    if found.is_none() {
        findings.count(tree.name(), "a row is of no gallery");
    }
    found
}
