//! The store: the one place where enrolled data is kept. Indexes are caches of it.
//!
//! # Durability
//! When [`Store::commit`] returns `Ok`, the write survives `kill -9` and loss of power. When it returns an error or the
//! process dies before it returns, the write is there in full or not at all.
//!
//! # Ordering
//! Writes are serialised. Each operation of a write takes the next number of one gap-free sequence, starting at 1, and
//! its entry in the change log is part of the same transaction; a reader that has seen change *n* has seen all before
//! it. Reads are never behind a commit that has returned. The caller may not be the only writer: whoever caches what
//! it read follows [`Store::changes`].
//!
//! [`sled::SledStore`] keeps everything in a folder; [`memory::MemoryStore`] is its twin for tests. Both follow the
//! same rules (`rules`) and pass the same suite of tests.

pub mod change;
pub mod document;
pub mod memory;
pub mod migration;
pub mod record;
mod rules;
pub mod sled;
#[cfg(test)]
mod suite;

use std::ops::ControlFlow;

use jiff::Timestamp;

use crate::ids::{FaceId, GalleryId, MigrationId, ModelId, SubjectId};
pub use change::{Change, ChangeKind};
pub use document::{Collection, Document, DocumentKey};
pub use migration::{Migration, Side, Stage, StandbyFace, StandbyFeature};
pub use record::{
    Check, Consent, Face, FaceSource, Gallery, GalleryKind, Guard, Guards, Override, PictureId, StoredAnswer,
    StoredFace, Subject, ThresholdSetting, Thresholds,
};

/// Why the store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such gallery.
    #[error("there is no gallery {0}")]
    NoGallery(GalleryId),
    /// No such subject in the gallery.
    #[error("there is no subject {1} in gallery {0}")]
    NoSubject(GalleryId, SubjectId),
    /// No such face in the gallery.
    #[error("there is no face {1} in gallery {0}")]
    NoFace(GalleryId, FaceId),
    /// A gallery of that id is there already.
    #[error("gallery {0} exists already")]
    GalleryExists(GalleryId),
    /// A subject of that id is there already.
    #[error("subject {1} exists already in gallery {0}")]
    SubjectExists(GalleryId, SubjectId),
    /// A face of that id is in the gallery already.
    #[error("face {1} exists already in gallery {0}")]
    FaceExists(GalleryId, FaceId),
    /// The record changed since the caller read it.
    #[error("the record is at revision {actual}, not {expected}")]
    RevisionMismatch {
        /// What the caller had read.
        expected: u64,
        /// What is stored.
        actual: u64,
    },
    /// The embedding's length is not the gallery's.
    #[error("the embedding has {actual} values, the gallery wants {expected}")]
    WrongDimension {
        /// The gallery's dimension.
        expected: u32,
        /// The embedding's length.
        actual: usize,
    },
    /// The gallery has no migration of that id.
    #[error("there is no migration {1} of gallery {0}")]
    NoMigration(GalleryId, MigrationId),
    /// The gallery has a migration that has not ended.
    #[error("gallery {0} is in the middle of migration {1}")]
    MigrationUnderWay(GalleryId, MigrationId),
    /// The migration is not at a stage at which this can be done.
    #[error("migration {id} is at the stage {}", stage.name())]
    WrongStage {
        /// Which migration.
        id: MigrationId,
        /// Its stage.
        stage: Stage,
    },
    /// Faces of the gallery lack features of the other model.
    #[error("{missing} faces have no feature of the other model yet; the migration's `failure` says which never will")]
    StandbyIncomplete {
        /// How many.
        missing: u64,
    },
    /// The gallery changed its model between two parts of a scan, or while features were made.
    #[error("gallery {0} changed its model in the meantime")]
    Switched(GalleryId),
    /// Another process has the data directory open.
    #[error("the data directory is in use by another process")]
    InUse,
    /// The data directory was written by a newer version of Vultus.
    #[error("the data directory has schema version {found}, newer than this program's {supported}")]
    Newer {
        /// Version found.
        found: u32,
        /// Newest version this program reads.
        supported: u32,
    },
    /// What is on disk does not read back as what was written.
    #[error("the data directory is damaged: {0}")]
    Damaged(String),
    /// The operating system refused a read or write.
    #[error("the data directory cannot be read or written: {0}")]
    Io(#[from] std::io::Error),
}

/// One step of a write. The steps of a write happen together or not at all, in order.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Adds a gallery; refused when the id is taken.
    CreateGallery(Gallery),
    /// Replaces a gallery's settings; `expected` is the revision the caller read, when it cares.
    UpdateGallery {
        /// The new settings. `id` names the gallery; `kind`, `model_id`, `dim` and `created_at` stay as stored.
        gallery: Gallery,
        /// Refuse unless the stored revision is this.
        expected: Option<u64>,
    },
    /// Removes a gallery with its subjects, faces, vectors and crops.
    DeleteGallery {
        /// Which.
        gallery: GalleryId,
        /// Refuse unless the stored revision is this.
        expected: Option<u64>,
    },
    /// Adds a subject; refused when the id is taken.
    CreateSubject {
        /// Where.
        gallery: GalleryId,
        /// Whom.
        subject: Subject,
    },
    /// Adds a subject unless the id is there; then does nothing and logs nothing.
    EnsureSubject {
        /// Where.
        gallery: GalleryId,
        /// Whom.
        subject: Subject,
    },
    /// Replaces a subject's record; refused when it is not there.
    UpdateSubject {
        /// Where.
        gallery: GalleryId,
        /// The new record; `created_at` stays as stored.
        subject: Subject,
        /// Refuse unless the stored revision is this.
        expected: Option<u64>,
    },
    /// Removes a subject with its faces.
    DeleteSubject {
        /// Where.
        gallery: GalleryId,
        /// Whom.
        subject: SubjectId,
        /// Refuse unless the stored revision is this.
        expected: Option<u64>,
    },
    /// Adds a face to a subject that is there.
    AddFace {
        /// Where.
        gallery: GalleryId,
        /// The face with its unit embedding.
        face: StoredFace,
        /// The aligned crop as an encoded image, when the gallery keeps crops.
        crop: Option<Vec<u8>>,
    },
    /// Removes a face with its vector and crop.
    DeleteFace {
        /// Where.
        gallery: GalleryId,
        /// Whose.
        subject: SubjectId,
        /// Which.
        face: FaceId,
    },
    /// Gives a face to another subject, with all that is kept of it. Nothing when it is that subject's already.
    MoveFace {
        /// Where.
        gallery: GalleryId,
        /// Whose it is.
        from: SubjectId,
        /// Whose it is to be.
        to: SubjectId,
        /// Which.
        face: FaceId,
    },
    /// Adds a subject exactly as it was before, revision included; refused when the id is taken.
    RestoreSubject {
        /// Where.
        gallery: GalleryId,
        /// Whom.
        subject: Subject,
    },
    /// Adds or replaces a document. Not part of the change log.
    PutDocument {
        /// Its name. Its gallery has to be there.
        key: DocumentKey,
        /// JSON text, or bytes.
        body: Vec<u8>,
    },
    /// Removes a document, if it is there. Not part of the change log.
    RemoveDocument {
        /// Its name.
        key: DocumentKey,
    },
    /// Starts a gallery's move to another model, with an empty standby set; refused while another is under way.
    StartMigration {
        /// Where.
        gallery: GalleryId,
        /// What is started. Of its sides only `to` is taken; the rest follows from the gallery.
        migration: Migration,
    },
    /// Puts features into the standby set. Faces that are not there any more are passed over.
    PutStandby {
        /// Where.
        gallery: GalleryId,
        /// The migration under way.
        migration: MigrationId,
        /// The model of the features; refused when the standby set is of the other one.
        model: ModelId,
        /// What to put.
        features: Vec<StandbyFeature>,
    },
    /// Notes what the migration under way has come to.
    NoteMigration {
        /// Where.
        gallery: GalleryId,
        /// The migration under way.
        migration: MigrationId,
        /// Whether all faces are embedded: the stage [`Stage::Embedding`] then becomes [`Stage::Ready`].
        ready: bool,
        /// See [`Migration::failure`].
        failure: Option<String>,
        /// See [`Migration::report`]; `None` leaves the one that is there.
        report: Option<String>,
    },
    /// Exchanges the two feature sets, and with them model, dimension and threshold of the gallery. Refused while the
    /// standby set lacks faces.
    SwitchModel {
        /// Where.
        gallery: GalleryId,
        /// The migration under way.
        migration: MigrationId,
        /// Whether the new model is wanted: cut over, or roll back.
        to_new: bool,
    },
    /// Ends the migration under way and drops the standby set.
    EndMigration {
        /// Where.
        gallery: GalleryId,
        /// The migration under way.
        migration: MigrationId,
    },
}

/// What a commit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Sequence number of the last change in the store once this write was in. Of no write without changes.
    pub last_seq: u64,
    /// How many entries the write added to the change log.
    pub changes: u64,
}

/// Sizes of a gallery, kept in the same transactions as its contents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct GalleryCounts {
    /// Subjects enrolled, with or without faces.
    pub subjects: u64,
    /// Faces enrolled.
    pub faces: u64,
    /// Sequence number of the last change of anything in the gallery.
    pub revision: u64,
}

/// What a full check of the store found.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct CheckReport {
    /// Schema version of the data directory.
    pub schema_version: u32,
    /// Galleries, subjects, faces and changes read.
    pub galleries: u64,
    /// Subjects read.
    pub subjects: u64,
    /// Faces read, each with its vector.
    pub faces: u64,
    /// Change-log entries read.
    pub changes: u64,
    /// First and last sequence number of the change log; `None` when it is empty.
    pub sequence: Option<(u64, u64)>,
    /// One line for each thing that is not as it should be, at most 100.
    pub problems: Vec<String>,
}

/// Keeps galleries, subjects and faces. See the module's notes on durability and ordering.
///
/// Every method may block on the disk: call none of them on an async runtime's own threads.
pub trait Store: Send + Sync + 'static {
    /// All galleries, by id.
    fn galleries(&self) -> Result<Vec<Gallery>, StoreError>;

    /// One gallery.
    fn gallery(&self, gallery: &GalleryId) -> Result<Option<Gallery>, StoreError>;

    /// A gallery's sizes and revision.
    fn counts(&self, gallery: &GalleryId) -> Result<GalleryCounts, StoreError>;

    /// One subject. [`StoreError::NoGallery`] when the gallery is not there.
    fn subject(&self, gallery: &GalleryId, subject: &SubjectId) -> Result<Option<Subject>, StoreError>;

    /// At most `limit` subjects in order of id, those after `after`.
    fn subjects(
        &self,
        gallery: &GalleryId,
        after: Option<&SubjectId>,
        limit: usize,
    ) -> Result<Vec<Subject>, StoreError>;

    /// All faces of a subject in order of face id; empty when the subject is not there.
    fn faces(&self, gallery: &GalleryId, subject: &SubjectId) -> Result<Vec<StoredFace>, StoreError>;

    /// One face.
    fn face(&self, gallery: &GalleryId, face: FaceId) -> Result<Option<StoredFace>, StoreError>;

    /// A face's aligned crop as it was given to [`Operation::AddFace`].
    fn crop(&self, gallery: &GalleryId, face: FaceId) -> Result<Option<Vec<u8>>, StoreError>;

    /// Visits every face of a gallery, subject after subject in order of id, a subject's faces in order of face id.
    fn scan_faces(
        &self,
        gallery: &GalleryId,
        visit: &mut dyn FnMut(StoredFace) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;

    /// The gallery's migrations, those that have ended included, in the order they were started.
    fn migrations(&self, gallery: &GalleryId) -> Result<Vec<Migration>, StoreError>;

    /// A subject's faces with their features of the standby set, in order of face id; faces that lack one are left
    /// out. Empty when no migration is under way.
    fn standby_faces(&self, gallery: &GalleryId, subject: &SubjectId) -> Result<Vec<StoredFace>, StoreError>;

    /// Visits every face of a gallery in the order of [`Store::scan_faces`], with its feature of the standby set.
    /// Visits nothing when no migration is under way.
    fn scan_standby(
        &self,
        gallery: &GalleryId,
        visit: &mut dyn FnMut(StandbyFace) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;

    /// One document. `None` also where its gallery is not there.
    fn document(&self, key: &DocumentKey) -> Result<Option<Vec<u8>>, StoreError>;

    /// At most `limit` documents of a collection in order of id: those whose ids start with `prefix` and come after
    /// `after`. [`StoreError::NoGallery`] when the gallery is not there.
    fn documents(
        &self,
        gallery: Option<&GalleryId>,
        collection: Collection,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Document>, StoreError>;

    /// Does all of `operations`, durably, or none of them. `at` is the time the change log states.
    fn commit(&self, at: Timestamp, operations: &[Operation]) -> Result<Committed, StoreError>;

    /// At most `limit` entries of the change log with sequence numbers above `after`, in order.
    fn changes(&self, after: u64, limit: usize) -> Result<Vec<Change>, StoreError>;

    /// Sequence number of the last change, 0 when there was none.
    fn last_seq(&self) -> Result<u64, StoreError>;

    /// The stored answer under an idempotency key.
    fn answer(&self, key: &[u8; 32]) -> Result<Option<StoredAnswer>, StoreError>;

    /// Stores an answer durably. Not part of the change log.
    fn put_answer(&self, key: &[u8; 32], answer: &StoredAnswer) -> Result<(), StoreError>;

    /// Forgets answers stored before the given second of the Unix epoch and says how many.
    fn forget_answers(&self, before_s: i64) -> Result<u64, StoreError>;

    /// Reads everything and compares: records against each other, counts, vectors, the change log against its sequence.
    fn check(&self) -> Result<CheckReport, StoreError>;

    /// Bytes the store takes on disk.
    fn size_on_disk(&self) -> Result<u64, StoreError>;
}
