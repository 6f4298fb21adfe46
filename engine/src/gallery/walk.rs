//! Going through a gallery subject by subject, for work that takes long.
//!
//! Nothing of the store is locked between two subjects, so such work may ask the store and the index in between, and
//! nobody waits for it. What changes meanwhile is seen or not seen; a gallery that moved to another model ends it.

use super::GalleryError;
use super::care::is_matchable;
use super::database::{Database, now};
use super::open::OpenGallery;
use crate::ids::{GalleryId, ModelId, SubjectId};
use crate::store::{StoreError, StoredFace};

/// Subjects read at a time.
const PAGE: usize = 500;

impl Database {
    /// Visits the subjects that may be matched and have faces, in order of id. Their embeddings are of `model`.
    pub(super) fn walk(
        &self,
        open: &OpenGallery,
        model: &ModelId,
        mut visit: impl FnMut(&SubjectId, &[StoredFace]) -> Result<(), GalleryError>,
    ) -> Result<(), GalleryError> {
        let gallery: GalleryId = open.state().settings.id.clone();
        let mut after: Option<SubjectId> = None;
        loop {
            let page = self.store.subjects(&gallery, after.as_ref(), PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id.clone());
            for subject in page.iter().filter(|subject| is_matchable(subject, now())) {
                let faces = self.store.faces(&gallery, &subject.id)?;
                // Asked after the faces were read, which are those of the model of that moment or of an earlier one.
                if open.state().in_use.model.id != *model {
                    return Err(StoreError::Switched(gallery).into());
                }
                if !faces.is_empty() {
                    visit(&subject.id, &faces)?;
                }
            }
        }
    }
}

/// Keeps the best of many by a score, and knows whether some were left out.
pub(super) struct Best<T> {
    limit: usize,
    kept: Vec<T>,
    order: fn(&T, &T) -> std::cmp::Ordering,
    left_out: bool,
}

impl<T> Best<T> {
    /// Keeps `limit`, those that `order` puts first.
    pub(super) fn new(limit: usize, order: fn(&T, &T) -> std::cmp::Ordering) -> Self {
        Self { limit, kept: Vec::new(), order, left_out: false }
    }

    /// Takes one into account.
    pub(super) fn offer(&mut self, item: T) {
        self.kept.push(item);
        if self.kept.len() >= 2 * self.limit + 64 {
            self.thin_out();
        }
    }

    /// Says that there was one more that is not known.
    pub(super) fn note_left_out(&mut self) {
        self.left_out = true;
    }

    /// The best, in order, and whether there were more.
    pub(super) fn finish(mut self) -> (Vec<T>, bool) {
        self.thin_out();
        (self.kept, self.left_out)
    }

    fn thin_out(&mut self) {
        self.kept.sort_by(self.order);
        self.left_out |= self.kept.len() > self.limit;
        self.kept.truncate(self.limit);
    }
}
