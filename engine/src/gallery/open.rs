//! One gallery in use: its settings and its index.

use std::ops::ControlFlow;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{GalleryError, ServedModel};
use crate::ids::{FaceId, SubjectId};
use crate::index::{GalleryIndex, IndexConfig, RowKey};
use crate::store::{Gallery, GalleryKind, Store, StoredFace};
use crate::template::{Fusion, Template, TemplateError, TemplateFace, fuse};

/// A gallery with its index.
pub(super) struct OpenGallery {
    settings: ArcSwap<Gallery>,
    index: ArcSwap<GalleryIndex>,
    /// Held while rows are made again from the store.
    writer: Mutex<()>,
}

impl OpenGallery {
    /// An index built from all the store holds of the gallery.
    pub(super) fn load(
        store: &dyn Store,
        gallery: Gallery,
        model: &ServedModel,
        config: IndexConfig,
    ) -> Result<Self, GalleryError> {
        let index = build_index(store, &gallery, model, config)?;
        Ok(Self {
            settings: ArcSwap::from_pointee(gallery),
            index: ArcSwap::from_pointee(index),
            writer: Mutex::new(()),
        })
    }

    /// The settings as last published.
    pub(super) fn settings(&self) -> Arc<Gallery> {
        self.settings.load_full()
    }

    /// The index as last published.
    pub(super) fn index(&self) -> Arc<GalleryIndex> {
        self.index.load_full()
    }

    /// Publishes new settings. Another fusion rule means other templates, so the index is then built again beside the
    /// old one, which answers until it is done.
    pub(super) fn update(
        &self,
        store: &dyn Store,
        gallery: Gallery,
        model: &ServedModel,
        config: IndexConfig,
    ) -> Result<(), GalleryError> {
        let _writer = self.writer.lock();
        let refuse = self.settings.load().fusion != gallery.fusion && gallery.kind == GalleryKind::Consolidated;
        if refuse {
            self.index.store(Arc::new(build_index(store, &gallery, model, config)?));
        }
        self.settings.store(Arc::new(gallery));
        Ok(())
    }

    /// Makes a subject's rows agree with the store. `faces` are those that were added or removed.
    pub(super) fn refresh(
        &self,
        store: &dyn Store,
        subject: &SubjectId,
        faces: &[FaceId],
        model: &ServedModel,
    ) -> Result<(), GalleryError> {
        let _writer = self.writer.lock();
        let (settings, index) = (self.settings.load(), self.index.load());
        match settings.kind {
            GalleryKind::Consolidated => {
                let stored = store.faces(&settings.id, subject)?;
                refresh_template(&index, subject, &stored, model.fusion_of(&settings), model)
            }
            GalleryKind::Events => {
                for &id in faces {
                    let key = RowKey { subject: subject.clone(), face: Some(id) };
                    match store.face(&settings.id, id)? {
                        Some(stored) if stored.face.subject == *subject => index.upsert(key, &stored.embedding)?,
                        _ => drop(index.remove(&key)),
                    }
                }
                Ok(())
            }
        }
    }

    /// Drops a subject's rows after it was removed from the store, unless it is there again.
    pub(super) fn forget(&self, store: &dyn Store, subject: &SubjectId) -> Result<(), GalleryError> {
        let _writer = self.writer.lock();
        let settings = self.settings.load();
        if store.subject(&settings.id, subject)?.is_none() {
            self.index.load().remove_subject(subject);
        }
        Ok(())
    }
}

fn refresh_template(
    index: &GalleryIndex,
    subject: &SubjectId,
    stored: &[StoredFace],
    fusion: Fusion,
    model: &ServedModel,
) -> Result<(), GalleryError> {
    let key = RowKey { subject: subject.clone(), face: None };
    match template(stored, fusion, model) {
        Ok(template) => Ok(index.upsert(key, &template.vector)?),
        Err(TemplateError::Empty) => {
            index.remove(&key);
            Ok(())
        }
        // Such a subject is kept but cannot be found; its faces contradict each other completely.
        Err(error) => {
            tracing::warn!(%subject, %error, "the subject has no template");
            index.remove(&key);
            Ok(())
        }
    }
}

/// The template of a subject's stored faces.
pub(super) fn template(stored: &[StoredFace], fusion: Fusion, model: &ServedModel) -> Result<Template, TemplateError> {
    fuse(&template_faces(stored), fusion, model.norm_stats)
}

/// Stored faces as the template module takes them.
pub(super) fn template_faces(stored: &[StoredFace]) -> Vec<TemplateFace<'_>> {
    stored
        .iter()
        .map(|s| TemplateFace { embedding: &s.embedding, norm: s.face.norm, media: s.face.media.as_str() })
        .collect()
}

fn build_index(
    store: &dyn Store,
    gallery: &Gallery,
    model: &ServedModel,
    config: IndexConfig,
) -> Result<GalleryIndex, GalleryError> {
    let index = GalleryIndex::new(gallery.dim as usize, config);
    let fusion = model.fusion_of(gallery);
    let add = |faces: &mut Vec<StoredFace>| {
        let Some(subject) = faces.first().map(|stored| stored.face.subject.clone()) else { return Ok(()) };
        let added = match gallery.kind {
            GalleryKind::Consolidated => refresh_template(&index, &subject, faces, fusion, model),
            GalleryKind::Events => faces.iter().try_for_each(|stored| {
                let key = RowKey { subject: subject.clone(), face: Some(stored.face.id) };
                Ok(index.upsert(key, &stored.embedding)?)
            }),
        };
        faces.clear();
        added
    };
    // The scan goes subject by subject, so only one subject's faces are held at a time.
    let mut pending: Vec<StoredFace> = Vec::new();
    let mut failed = None;
    store.scan_faces(&gallery.id, &mut |stored| {
        if pending.first().is_some_and(|first| first.face.subject != stored.face.subject)
            && let Err(error) = add(&mut pending)
        {
            failed = Some(error);
            return ControlFlow::Break(());
        }
        pending.push(stored);
        ControlFlow::Continue(())
    })?;
    add(&mut pending)?;
    failed.map_or(Ok(index), Err)
}
