//! Regrouping: faces go from one subject to another, and back.
//!
//! A merge gives all faces of a subject to another and removes it; a split gives some faces of a subject to a new one; a
//! move gives one face to a subject that is there. Each is one write and leaves a record of what it did, from which it
//! can be undone later: then every face that is still where it was put goes back, and a subject that was removed is
//! there again exactly as it was. What was done to faces in between stays done.
//!
//! While faces are regrouped no face is enrolled into the gallery, so that none comes to a subject that is being removed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::database::{Database, now};
use super::pairs::{self, Pair};
use super::subjects::{SubjectSettings, new_subject};
use super::{GalleryError, documents};
use crate::ids::{FaceId, GalleryId, RegroupingId, SubjectId};
use crate::store::{Collection, Consent, Operation, StoreError, Subject};

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegroupingKind {
    /// All faces of one subject went to another, and it was removed.
    Merge,
    /// Some faces of a subject went to a new one.
    Split,
    /// A face went to another subject.
    Move,
}

/// A regrouping that was done, with what undoes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Regrouping {
    /// Assigned when it was done.
    pub id: RegroupingId,
    /// What was done.
    pub kind: RegroupingKind,
    /// When.
    pub at: Timestamp,
    /// Whose the faces were.
    pub from: SubjectId,
    /// Whose they are since.
    pub into: SubjectId,
    /// The faces.
    pub faces: Vec<FaceId>,
    /// Of a merge: the record of `from`.
    #[serde(default)]
    pub removed: Option<Subject>,
    /// Of a merge: what `from` was kept apart from.
    #[serde(default)]
    pub pairs: Vec<Pair>,
    /// Of a merge: what `into` is kept apart from because `from` was.
    #[serde(default)]
    pub taken_over: Vec<SubjectId>,
    /// Under which terms `into` was matched then.
    #[serde(default)]
    pub terms: Terms,
    /// When it was undone.
    #[serde(default)]
    pub undone_at: Option<Timestamp>,
}

/// What bars a subject from being matched, now or later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// See [`Subject::consent`].
    pub consent: Consent,
    /// See [`Subject::expires_at`].
    pub expires_at: Option<Timestamp>,
}

impl Terms {
    fn of(subject: &Subject) -> Self {
        Self { consent: subject.consent, expires_at: subject.expires_at }
    }

    /// Whether faces under these terms are as well protected under those of another subject.
    fn hold_under(&self, other: &Self) -> bool {
        let bar = |consent: Consent| match consent {
            Consent::NotRecorded | Consent::Granted => 0,
            Consent::Pending => 1,
            Consent::Withdrawn => 2,
        };
        let sooner = match (self.expires_at, other.expires_at) {
            (None, _) => true,
            (Some(own), Some(other)) => other <= own,
            (Some(_), None) => false,
        };
        bar(other.consent) >= bar(self.consent) && sooner
    }
}

/// What undoing a regrouping did.
#[derive(Debug, Clone)]
pub struct Undone {
    /// The regrouping.
    pub regrouping: Regrouping,
    /// Its faces that were not where it had put them, and stay where they are.
    pub left: Vec<FaceId>,
}

impl Database {
    /// Gives all faces of `from` to `into`, and removes `from`. Labels and metadata of `into` stay as they are.
    ///
    /// # Errors
    /// [`GalleryError::KeptApart`] where the two are known to be two people, unless `even_if_kept_apart`.
    pub fn merge(
        &self,
        gallery: &GalleryId,
        into: &SubjectId,
        from: &SubjectId,
        even_if_kept_apart: bool,
    ) -> Result<Regrouping, GalleryError> {
        if into == from {
            return Err(GalleryError::SameSubject(into.clone()));
        }
        self.regroup(gallery, |at| {
            let there = self.subject(gallery, into)?;
            let removed = self.subject(gallery, from)?;
            require_terms(&removed, &there)?;
            let pairs = pairs::pairs_of(self.store(), gallery, from)?;
            if !even_if_kept_apart && pairs.iter().any(|pair| pair.other == *into) {
                return Err(GalleryError::KeptApart(into.clone(), from.clone()));
            }
            let known = self.kept_apart_from(gallery, into)?;
            let (mut operations, mut taken_over) = (Vec::new(), Vec::new());
            let faces: Vec<FaceId> = self.store.faces(gallery, from)?.iter().map(|stored| stored.face.id).collect();
            operations.extend(faces.iter().map(|&face| move_face(gallery, from, into, face)));
            for pair in &pairs {
                operations.extend(pairs::remove(gallery, from, &pair.other));
                if pair.other != *into && !known.contains(&pair.other) {
                    operations.extend(pairs::put(gallery, &Pair { subject: into.clone(), ..pair.clone() })?);
                    taken_over.push(pair.other.clone());
                }
            }
            let expected = Some(removed.revision);
            operations.push(Operation::DeleteSubject { gallery: gallery.clone(), subject: from.clone(), expected });
            let done = Regrouping {
                terms: Terms::of(&there),
                removed: Some(removed),
                pairs,
                taken_over,
                ..done(RegroupingKind::Merge, at, from, into, faces)
            };
            Ok((operations, done))
        })
    }

    /// Gives some faces of a subject to a new subject.
    pub fn split(
        &self,
        gallery: &GalleryId,
        from: &SubjectId,
        faces: &[FaceId],
        into: SubjectId,
    ) -> Result<Regrouping, GalleryError> {
        self.regroup(gallery, |at| {
            // What bars the one from being matched bars the other.
            let terms = Terms::of(&self.subject(gallery, from)?);
            let settings = SubjectSettings {
                labels: Vec::new(),
                metadata: SubjectSettings::empty_metadata(),
                expires_at: terms.expires_at,
                consent: terms.consent,
            };
            let subject = new_subject(into.clone(), settings);
            let mut operations = vec![Operation::CreateSubject { gallery: gallery.clone(), subject }];
            operations.extend(faces.iter().map(|&face| move_face(gallery, from, &into, face)));
            Ok((operations, Regrouping { terms, ..done(RegroupingKind::Split, at, from, &into, faces.to_vec()) }))
        })
    }

    /// Gives a face of a subject to another subject that is there.
    pub fn move_face(
        &self,
        gallery: &GalleryId,
        from: &SubjectId,
        into: &SubjectId,
        face: FaceId,
    ) -> Result<Regrouping, GalleryError> {
        if into == from {
            return Err(GalleryError::SameSubject(into.clone()));
        }
        self.regroup(gallery, |at| {
            let there = self.subject(gallery, into)?;
            require_terms(&self.subject(gallery, from)?, &there)?;
            let operations = vec![move_face(gallery, from, into, face)];
            let done = done(RegroupingKind::Move, at, from, into, vec![face]);
            Ok((operations, Regrouping { terms: Terms::of(&there), ..done }))
        })
    }

    /// Undoes a regrouping.
    ///
    /// # Errors
    /// [`GalleryError::AlreadyUndone`]; those of the store where a subject that has to be there is gone by now, or the id
    /// of one that has to come back is taken.
    pub fn undo(&self, gallery: &GalleryId, id: RegroupingId) -> Result<Undone, GalleryError> {
        let mut left = Vec::new();
        let regrouping = self.regroup(gallery, |at| {
            left.clear();
            let regrouping = self.regrouping(gallery, id)?;
            if regrouping.undone_at.is_some() {
                return Err(GalleryError::AlreadyUndone(id));
            }
            let Regrouping { from, into, .. } = &regrouping;
            let there = self.store.subject(gallery, into)?;
            let there = there.ok_or_else(|| GalleryError::UndoneInOrder(id, into.clone()))?;
            // Consent that was taken back since, or an expiry that was set, is not to be lost on the way.
            if Terms::of(&there) != regrouping.terms {
                let back = match &regrouping.removed {
                    Some(removed) => removed.clone(),
                    None => self.subject(gallery, from)?,
                };
                require_terms(&there, &back)?;
            }
            let mut operations = Vec::new();
            if let Some(subject) = regrouping.removed.clone() {
                operations.push(Operation::RestoreSubject { gallery: gallery.clone(), subject });
            }
            for &face in &regrouping.faces {
                let owner = self.store.face(gallery, face)?.map(|stored| stored.face.subject);
                if owner.as_ref() == Some(into) {
                    operations.push(move_face(gallery, into, from, face));
                } else {
                    left.push(face);
                }
            }
            for other in &regrouping.taken_over {
                operations.extend(pairs::remove(gallery, into, other));
            }
            for pair in &regrouping.pairs {
                operations.extend(pairs::put(gallery, pair)?);
            }
            // A subject that a split made goes with the last of its faces, unless somebody has described it since.
            let faces = self.store.faces(gallery, into)?;
            let emptied = faces.iter().all(|stored| regrouping.faces.contains(&stored.face.id));
            let untouched = there.created_at == there.updated_at && there.created_at == regrouping.at;
            if regrouping.kind == RegroupingKind::Split && emptied && untouched {
                let (subject, expected) = (into.clone(), Some(there.revision));
                operations.push(Operation::DeleteSubject { gallery: gallery.clone(), subject, expected });
            }
            Ok((operations, Regrouping { undone_at: Some(at), ..regrouping }))
        })?;
        Ok(Undone { regrouping, left })
    }

    /// One regrouping.
    pub fn regrouping(&self, gallery: &GalleryId, id: RegroupingId) -> Result<Regrouping, GalleryError> {
        let found = documents::get(self.store(), Some(gallery), Collection::Regroupings, id.0.as_bytes())?;
        if found.is_none() {
            self.gallery(gallery)?;
        }
        found.ok_or_else(|| GalleryError::NoRegrouping(gallery.clone(), id))
    }

    /// Regroupings of a gallery in the order they were done, after one.
    pub fn regroupings(
        &self,
        gallery: &GalleryId,
        after: Option<RegroupingId>,
        limit: usize,
    ) -> Result<Vec<Regrouping>, GalleryError> {
        let after = after.as_ref().map(|id| id.0.as_bytes().as_slice());
        Ok(documents::list(self.store(), Some(gallery), Collection::Regroupings, &[], after, limit)?)
    }

    /// Carries out what `plan` gives, with its record, and makes the rows of both subjects again.
    fn regroup(
        &self,
        gallery: &GalleryId,
        mut plan: impl FnMut(Timestamp) -> Result<(Vec<Operation>, Regrouping), GalleryError>,
    ) -> Result<Regrouping, GalleryError> {
        let open = self.gallery_in_use(gallery)?;
        let _alone = open.members.write();
        let (at, done) = loop {
            let at = now();
            let (mut operations, done) = plan(at)?;
            let id = done.id.0.as_bytes();
            operations.push(documents::put(Some(gallery), Collection::Regroupings, id, &done)?);
            match self.store.commit(at, &operations) {
                Ok(_) => break (at, done),
                // A record was changed or a face removed since they were read.
                Err(StoreError::RevisionMismatch { .. }) => {}
                Err(StoreError::NoFace(..)) if reads_faces(&done) => {}
                Err(error) => return Err(error.into()),
            }
        };
        open.refresh(self.store(), &[&done.from, &done.into], &done.faces)?;
        tracing::info!(%gallery, regrouping = %done.id, kind = ?done.kind, undone = done.undone_at == Some(at), "faces were regrouped");
        Ok(done)
    }
}

/// Whether the plan took its faces from the store and not from its caller.
fn reads_faces(done: &Regrouping) -> bool {
    done.kind == RegroupingKind::Merge || done.undone_at.is_some()
}

fn require_terms(from: &Subject, into: &Subject) -> Result<(), GalleryError> {
    if Terms::of(from).hold_under(&Terms::of(into)) {
        return Ok(());
    }
    Err(GalleryError::LaxerTerms { from: from.id.clone(), into: into.id.clone() })
}

fn move_face(gallery: &GalleryId, from: &SubjectId, to: &SubjectId, face: FaceId) -> Operation {
    Operation::MoveFace { gallery: gallery.clone(), from: from.clone(), to: to.clone(), face }
}

fn done(kind: RegroupingKind, at: Timestamp, from: &SubjectId, into: &SubjectId, faces: Vec<FaceId>) -> Regrouping {
    Regrouping {
        id: RegroupingId::generate(),
        kind,
        at,
        from: from.clone(),
        into: into.clone(),
        faces,
        removed: None,
        pairs: Vec::new(),
        taken_over: Vec::new(),
        terms: Terms::default(),
        undone_at: None,
    }
}
