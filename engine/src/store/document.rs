//! Documents: what is kept beside subjects and faces, as JSON text under a key; of jobs also bytes.
//!
//! Each collection has one owner in the engine, which knows the shape of its texts; to the store they are bytes. A
//! document is written in the same transaction as what it tells of, and is not part of the change log.

use crate::ids::GalleryId;

/// What a document is about. The numbers stand on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Collection {
    /// What scores are worth in a gallery, by model.
    Calibrations = 0,
    /// Merges, splits and moves of faces, with what undoes them.
    Regroupings = 1,
    /// Pairs of subjects that are known to be two people.
    Pairs = 2,
    /// What persons said of candidates.
    Reviews = 3,
    /// Standing searches.
    Watches = 4,
    /// What they found.
    Hits = 5,
    /// Long work, finished or cut off, with what it found.
    Jobs = 6,
    /// How far a delivery is.
    Cursors = 7,
}

impl Collection {
    /// Every collection, each at the index of its number.
    pub const ALL: [Self; 8] = [
        Self::Calibrations,
        Self::Regroupings,
        Self::Pairs,
        Self::Reviews,
        Self::Watches,
        Self::Hits,
        Self::Jobs,
        Self::Cursors,
    ];
}

/// Names a document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentKey {
    /// The gallery it goes with; `None` for what belongs to no gallery.
    pub gallery: Option<GalleryId>,
    /// What it is about.
    pub collection: Collection,
    /// Names it within the collection; documents are listed in the order of these bytes. At most 600 bytes.
    pub id: Vec<u8>,
}

/// A document as a list shows it: its id and its text.
pub type Document = (Vec<u8>, Vec<u8>);
