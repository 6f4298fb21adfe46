//! The book of jobs: what is kept of long work, finished or cut off.
//!
//! What a job is, is for those who run it: to the book, its record and its result are JSON texts, and attachments are
//! bytes with a media type. All are documents of [`Collection::Jobs`] that belong to no gallery, since a job can name
//! several. The id of each begins with the job's and goes on with what it is:
//!
//! | after the job's id | what |
//! |---|---|
//! | `0` | its record, small |
//! | `1` | its result |
//! | `2` and a name | an attachment: length of the media type (1 byte), media type, bytes |
//!
//! What holds:
//! - a record is written before anything else of its job, and is the first to be removed;
//! - result and attachments are there when a record that was written by [`JobBook::end`] is;
//! - records are read without results and attachments, and what has no record is removed on the way. Such remains are
//!   of removals that were cut off.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::database::now;
use super::{GalleryError, documents};
use crate::ids::GalleryId;
use crate::store::{Collection, Document, DocumentKey, Operation, Store, StoreError};

/// Bytes of attachments that are written together. More would take memory for a transaction that need not be one.
const WRITTEN_AT_ONCE: usize = 4 << 20;
/// Documents that are removed together. They are read before.
const REMOVED_AT_ONCE: usize = 64;

const RECORD: u8 = 0;
const RESULT: u8 = 1;
const ATTACHMENT: u8 = 2;

/// What is kept of jobs.
pub struct JobBook {
    store: Arc<dyn Store>,
}

/// Bytes to be kept beside a result.
#[derive(Debug, Clone, Copy)]
pub struct NewAttachment<'a> {
    /// Names it within the job; at most 500 bytes.
    pub name: &'a str,
    /// What it is, at most 255 bytes.
    pub media_type: &'a str,
    /// It.
    pub bytes: &'a [u8],
}

impl JobBook {
    /// The book of a store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// The records of all jobs in order of their ids; `None` where one does not read as a `T`.
    pub fn records<T: DeserializeOwned>(&self) -> Result<Vec<(Uuid, Option<T>)>, GalleryError> {
        let (mut records, mut after) = (Vec::new(), None::<Vec<u8>>);
        // One by one, so that results and attachments are passed over without being read.
        while let Some((id, body)) = self.next(after.as_deref())? {
            let Some((job, what)) = split(&id) else {
                let key = DocumentKey { gallery: None, collection: Collection::Jobs, id: id.clone() };
                self.store.commit(now(), &[Operation::RemoveDocument { key }])?;
                after = Some(id);
                continue;
            };
            if what == [RECORD] {
                records.push((job, serde_json::from_slice(&body).ok()));
            } else {
                tracing::warn!(%job, "remains of a job were removed");
                self.remove(job)?;
            }
            // No document of the job comes after this.
            after = Some(id_of(job, u8::MAX, &[]));
        }
        Ok(records)
    }

    /// Writes a job's record, durably.
    pub fn put(&self, job: Uuid, record: &impl Serialize) -> Result<(), GalleryError> {
        let record = documents::put(None, Collection::Jobs, &id_of(job, RECORD, &[]), record)?;
        self.store.commit(now(), &[record])?;
        Ok(())
    }

    /// Writes a job's last record with its result (JSON text) and its attachments, durably. Where this fails the record
    /// is as before.
    pub fn end(
        &self,
        job: Uuid,
        record: &impl Serialize,
        result: Option<&str>,
        attachments: &[NewAttachment<'_>],
    ) -> Result<(), GalleryError> {
        let (mut operations, mut bytes) = (Vec::new(), 0);
        for NewAttachment { name, media_type, bytes: content } in attachments {
            let length = u8::try_from(media_type.len()).map_err(|_| too_long())?;
            let body = [&[length], media_type.as_bytes(), content].concat();
            bytes += body.len();
            operations.push(put(id_of(job, ATTACHMENT, name.as_bytes()), body));
            if bytes >= WRITTEN_AT_ONCE {
                self.store.commit(now(), &std::mem::take(&mut operations))?;
                bytes = 0;
            }
        }
        operations.extend(result.map(|result| put(id_of(job, RESULT, &[]), result.as_bytes().to_vec())));
        operations.push(documents::put(None, Collection::Jobs, &id_of(job, RECORD, &[]), record)?);
        self.store.commit(now(), &operations)?;
        Ok(())
    }

    /// A job's result, the text that was written.
    pub fn result(&self, job: Uuid) -> Result<Option<String>, GalleryError> {
        let body = self.store.document(&key(job, RESULT, &[]))?;
        let text = body.map(|body| String::from_utf8(body).map_err(|_| damaged("the result of a job is not text")));
        Ok(text.transpose()?)
    }

    /// An attachment of a job: its media type and bytes.
    pub fn attachment(&self, job: Uuid, name: &str) -> Result<Option<(String, Vec<u8>)>, GalleryError> {
        let Some(body) = self.store.document(&key(job, ATTACHMENT, name.as_bytes()))? else { return Ok(None) };
        let parts = body.split_first().and_then(|(length, rest)| rest.split_at_checked(usize::from(*length)));
        let (media_type, bytes) = parts.ok_or_else(|| damaged("an attachment of a job is cut short"))?;
        let media_type = std::str::from_utf8(media_type).map_err(|_| damaged("a media type is not text"))?;
        Ok(Some((media_type.to_owned(), bytes.to_vec())))
    }

    /// Removes result and attachments of a job, and leaves its record.
    pub fn strip(&self, job: Uuid) -> Result<(), GalleryError> {
        self.remove_after(job, Some(&id_of(job, RECORD, &[])))
    }

    /// Removes a job, its record first.
    pub fn remove(&self, job: Uuid) -> Result<(), GalleryError> {
        self.remove_after(job, None)
    }

    /// Whether a gallery that was there at a time still is; one that was made later under the same id is another one.
    pub fn is_there(&self, gallery: &GalleryId, since: Timestamp) -> Result<bool, GalleryError> {
        Ok(self.store.gallery(gallery)?.is_some_and(|gallery| gallery.created_at <= since))
    }

    fn remove_after(&self, job: Uuid, after: Option<&[u8]>) -> Result<(), GalleryError> {
        loop {
            let some = self.store.documents(None, Collection::Jobs, job.as_bytes(), after, REMOVED_AT_ONCE)?;
            if some.is_empty() {
                return Ok(());
            }
            let removals = some.iter().map(|(id, _)| documents::remove(None, Collection::Jobs, id));
            self.store.commit(now(), &removals.collect::<Vec<_>>())?;
        }
    }

    /// The first document after an id.
    fn next(&self, after: Option<&[u8]>) -> Result<Option<Document>, GalleryError> {
        Ok(self.store.documents(None, Collection::Jobs, &[], after, 1)?.into_iter().next())
    }
}

/// The job and what follows its id.
fn split(id: &[u8]) -> Option<(Uuid, &[u8])> {
    let (job, what) = id.split_at_checked(size_of::<Uuid>())?;
    Some((Uuid::from_slice(job).ok()?, what))
}

fn id_of(job: Uuid, what: u8, name: &[u8]) -> Vec<u8> {
    [job.as_bytes().as_slice(), &[what], name].concat()
}

fn key(job: Uuid, what: u8, name: &[u8]) -> DocumentKey {
    DocumentKey { gallery: None, collection: Collection::Jobs, id: id_of(job, what, name) }
}

fn put(id: Vec<u8>, body: Vec<u8>) -> Operation {
    Operation::PutDocument { key: DocumentKey { gallery: None, collection: Collection::Jobs, id }, body }
}

fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(what.to_owned())
}

fn too_long() -> StoreError {
    StoreError::Io(std::io::Error::new(std::io::ErrorKind::InvalidInput, "a media type is too long"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::store::sled::SledStore;

    fn both(test: impl Fn(Arc<dyn Store>)) {
        test(Arc::new(MemoryStore::new()));
        let folder = tempfile::tempdir().unwrap();
        test(Arc::new(SledStore::open(folder.path()).unwrap()));
    }

    fn attachment<'a>(name: &'a str, bytes: &'a [u8]) -> NewAttachment<'a> {
        NewAttachment { name, media_type: "image/png", bytes }
    }

    fn ids(store: &dyn Store) -> Vec<Vec<u8>> {
        store.documents(None, Collection::Jobs, &[], None, usize::MAX).unwrap().into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn texts_and_bytes_come_back_as_they_were() {
        both(|store| {
            let (book, job, other) = (JobBook::new(Arc::clone(&store)), Uuid::now_v7(), Uuid::now_v7());
            book.put(job, &json!({ "state": "queued" })).unwrap();
            book.put(other, &json!({ "state": "queued" })).unwrap();
            // More than is written at once, and a text that no reader of numbers would give back.
            let large = vec![7; WRITTEN_AT_ONCE];
            let attachments = [attachment("a", &large), attachment("b", b"b"), attachment("c", b"")];
            let text = r#"{ "score" : 0.30000001192092896000 }"#;
            book.end(job, &json!({ "state": "done" }), Some(text), &attachments).unwrap();
            assert_eq!(book.result(job).unwrap().unwrap(), text);
            assert_eq!(book.attachment(job, "a").unwrap().unwrap(), ("image/png".to_owned(), large));
            assert_eq!(book.attachment(job, "c").unwrap().unwrap().1, b"");
            assert!(book.attachment(job, "d").unwrap().is_none() && book.result(other).unwrap().is_none());
            let records: Vec<(Uuid, Option<Value>)> = book.records().unwrap();
            let told = |state: &str| Some(json!({ "state": state }));
            assert_eq!(records, [(job, told("done")), (other, told("queued"))]);
            book.strip(job).unwrap();
            assert!(book.attachment(job, "a").unwrap().is_none() && book.result(job).unwrap().is_none());
            book.remove(other).unwrap();
            assert_eq!(ids(&*store), [id_of(job, RECORD, &[])]);
        });
    }

    #[test]
    fn what_has_no_record_is_removed() {
        both(|store| {
            let (book, job) = (JobBook::new(Arc::clone(&store)), Uuid::now_v7());
            let name = |number: u32| format!("{number:03}");
            let names: Vec<String> = (0..200).map(name).collect();
            let attachments: Vec<NewAttachment<'_>> = names.iter().map(|name| attachment(name, b"x")).collect();
            for job in [Uuid::from_u128(job.as_u128() - 1), job, Uuid::from_u128(job.as_u128() + 1)] {
                book.end(job, &json!({}), Some("{}"), &attachments).unwrap();
            }
            let record = Operation::RemoveDocument { key: key(job, RECORD, &[]) };
            store.commit(now(), &[record, put(b"no job".to_vec(), b"x".to_vec())]).unwrap();
            store.commit(now(), &[put(id_of(Uuid::max(), RECORD, &[]), b"not JSON".to_vec())]).unwrap();
            let records: Vec<(Uuid, Option<Value>)> = book.records().unwrap();
            assert_eq!(records.len(), 3);
            assert!(records.iter().all(|(id, record)| *id != job && record.is_some() == (*id != Uuid::max())));
            assert_eq!(ids(&*store).len(), 2 * 202 + 1);
            assert_eq!(store.check().unwrap().problems, [""; 0]);
        });
    }
}
