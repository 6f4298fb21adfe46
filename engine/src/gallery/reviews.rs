//! Reviews: a person confirms or rejects a candidate. Both are kept.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::database::{Database, now};
use super::pairs::{self, Pair};
use super::{GalleryError, documents};
use crate::ids::{FaceId, GalleryId, ReviewId, SubjectId};
use crate::store::Collection;

/// What a person said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Probe and candidate are the same person.
    Confirmed,
    /// They are not.
    Rejected,
}

/// What the candidate was found with, as far as it can be named.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReviewedProbe {
    /// The search that found it.
    #[serde(default)]
    pub search_id: Option<Uuid>,
    /// The track that was searched.
    #[serde(default)]
    pub track: Option<String>,
    /// The hit of a watch.
    #[serde(default)]
    pub hit: Option<String>,
    /// The enrolled subject that was searched.
    #[serde(default)]
    pub subject: Option<SubjectId>,
    /// The enrolled face that was searched.
    #[serde(default)]
    pub face: Option<FaceId>,
}

/// A review to keep.
#[derive(Debug, Clone)]
pub struct NewReview {
    /// The candidate.
    pub subject: SubjectId,
    /// What was said.
    pub verdict: Verdict,
    /// What the candidate was found with.
    pub probe: ReviewedProbe,
    /// The score that was looked at.
    pub score: Option<f32>,
    /// Who said it.
    pub reviewer: Option<String>,
    /// Why.
    pub note: Option<String>,
}

/// A review that is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Review {
    /// Assigned when it was given.
    pub id: ReviewId,
    /// When.
    pub at: Timestamp,
    /// The candidate. It may be gone since.
    pub subject: SubjectId,
    /// What was said.
    pub verdict: Verdict,
    /// What the candidate was found with.
    #[serde(default)]
    pub probe: ReviewedProbe,
    /// The score that was looked at.
    #[serde(default)]
    pub score: Option<f32>,
    /// Who said it.
    #[serde(default)]
    pub reviewer: Option<String>,
    /// Why.
    #[serde(default)]
    pub note: Option<String>,
    /// The revision of the gallery at that time.
    #[serde(default)]
    pub revision: u64,
}

impl Database {
    /// Keeps a review. One that rejects a candidate found with an enrolled subject of the same gallery also notes that
    /// the two are two people.
    pub fn add_review(&self, gallery: &GalleryId, review: NewReview) -> Result<Review, GalleryError> {
        self.subject(gallery, &review.subject)?;
        let NewReview { subject, verdict, probe, score, reviewer, note } = review;
        let (id, at) = (ReviewId::generate(), now());
        let revision = self.store.counts(gallery)?.revision;
        let review = Review { id, at, subject, verdict, probe, score, reviewer, note, revision };
        let mut operations = vec![documents::put(Some(gallery), Collection::Reviews, id.0.as_bytes(), &review)?];
        if let Some(other) = review.probe.subject.clone() {
            if other == review.subject {
                return Err(GalleryError::SameSubject(other));
            }
            self.subject(gallery, &other)?;
            if verdict == Verdict::Rejected {
                let note = Some(format!("review {id}"));
                operations.extend(pairs::put(gallery, &Pair { subject: review.subject.clone(), other, note, at })?);
            }
        }
        self.store.commit(at, &operations)?;
        Ok(review)
    }

    /// One review of any gallery, and the gallery it is of.
    pub fn find_review(&self, id: ReviewId) -> Result<(GalleryId, Review), GalleryError> {
        for gallery in self.galleries()? {
            let found = documents::get(self.store(), Some(&gallery.id), Collection::Reviews, id.0.as_bytes())?;
            if let Some(review) = found {
                return Ok((gallery.id, review));
            }
        }
        Err(GalleryError::NoReview(id))
    }

    /// Reviews of a gallery in the order they were given, after one.
    pub fn reviews(
        &self,
        gallery: &GalleryId,
        after: Option<ReviewId>,
        limit: usize,
    ) -> Result<Vec<Review>, GalleryError> {
        let after = after.as_ref().map(|id| id.0.as_bytes().as_slice());
        Ok(documents::list(self.store(), Some(gallery), Collection::Reviews, &[], after, limit)?)
    }
}
