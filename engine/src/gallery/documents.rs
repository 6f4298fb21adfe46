//! Documents of the store as values: JSON in and out.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ids::GalleryId;
use crate::store::{Collection, DocumentKey, Operation, Store, StoreError};

/// The operation that puts a value under a key.
pub(super) fn put<T: Serialize>(
    gallery: Option<&GalleryId>,
    collection: Collection,
    id: &[u8],
    value: &T,
) -> Result<Operation, StoreError> {
    let body = serde_json::to_vec(value).map_err(|error| StoreError::Io(error.into()))?;
    Ok(Operation::PutDocument { key: key(gallery, collection, id), body })
}

/// The operation that removes what is under a key.
pub(super) fn remove(gallery: Option<&GalleryId>, collection: Collection, id: &[u8]) -> Operation {
    Operation::RemoveDocument { key: key(gallery, collection, id) }
}

/// The value under a key.
pub(super) fn get<T: DeserializeOwned>(
    store: &dyn Store,
    gallery: Option<&GalleryId>,
    collection: Collection,
    id: &[u8],
) -> Result<Option<T>, StoreError> {
    store.document(&key(gallery, collection, id))?.map(|body| read(collection, &body)).transpose()
}

/// Values whose ids start with `prefix`, after an id, in order of id.
pub(super) fn list<T: DeserializeOwned>(
    store: &dyn Store,
    gallery: Option<&GalleryId>,
    collection: Collection,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<T>, StoreError> {
    let documents = store.documents(gallery, collection, prefix, after, limit)?;
    documents.iter().map(|(_, body)| read(collection, body)).collect()
}

fn key(gallery: Option<&GalleryId>, collection: Collection, id: &[u8]) -> DocumentKey {
    DocumentKey { gallery: gallery.cloned(), collection, id: id.to_vec() }
}

fn read<T: DeserializeOwned>(collection: Collection, body: &[u8]) -> Result<T, StoreError> {
    // The text of the error could show what the document holds.
    serde_json::from_slice(body)
        .map_err(|_| StoreError::Damaged(format!("a document of the collection {collection:?} does not read")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A calibration is stored once and read often; what is read is what was stored.
    #[test]
    fn numbers_come_back_to_the_last_digit() {
        let mut state = 7_u64;
        let drawn = (0..10_000).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 53) as f64
        });
        let stored: Vec<f64> = drawn.collect();
        let body = serde_json::to_vec(&stored).unwrap();
        let back: Vec<f64> = read(Collection::Calibrations, &body).unwrap();
        assert_eq!(back, stored);
    }
}
