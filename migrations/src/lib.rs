//! Schema versions of the Vultus data directory, oldest first.
//!
//! The data directory is a sled database. Its tree `meta` holds the number of the schema version that its contents are
//! in. [`prepare`] brings a database to [`SCHEMA_VERSION`] before anything else touches it:
//!
//! - an empty database runs through all steps and is stamped,
//! - an older one runs through the steps it lacks, with the stamp moved after each of them,
//! - a newer one is refused, because a program cannot know what later versions mean,
//! - one without a readable stamp is refused as damaged.
//!
//! Each step is a file `vNNNN_name.rs` that is never changed once released: it holds its layouts itself instead of
//! using those of the engine, so that it still reads the old form when the engine has moved on. `README.md` says how to
//! add one. A stamp is on disk (`fdatasync`) before [`prepare`] returns.

pub mod v0001_initial;
pub mod v0002_feature_sets;
pub mod v0003_decisions;

use std::fs::File;
use std::io;
use std::path::Path;

/// The schema version this program writes.
pub const SCHEMA_VERSION: u32 = 3;

/// Name of the tree that holds the stamp.
pub const META_TREE: &str = "meta";

/// Key of the stamp in [`META_TREE`]; the value is the version as `u32`, little-endian.
pub const STAMP_KEY: &str = "schema_version";

/// Name sled gives to the tree every database has.
const DEFAULT_TREE: &[u8] = b"__sled__default";

/// Why a database could not be brought to [`SCHEMA_VERSION`].
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// A later version of the program wrote it.
    #[error("schema version {found} is newer than the newest known, {supported}")]
    Newer {
        /// Version found.
        found: u32,
        /// Newest version this program knows.
        supported: u32,
    },
    /// The stamp or a record is not what was written.
    #[error("damaged: {0}")]
    Damaged(String),
    /// sled refused.
    #[error("the database cannot be read or written: {0}")]
    Database(#[from] sled::Error),
    /// The operating system refused.
    #[error("the database cannot be synced: {0}")]
    Io(#[from] io::Error),
}

/// What [`prepare`] found and left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prepared {
    /// Version found; `None` when the database was empty.
    pub from: Option<u32>,
    /// Version the database is in now.
    pub to: u32,
}

/// One version. `run` takes a database from the version before it and may be cut off anywhere: as the stamp moves only
/// after it, it is then run again from its start and has to cope with what it left.
struct Step {
    to: u32,
    run: fn(&sled::Db) -> Result<(), MigrationError>,
}

/// All versions, oldest first, without gaps from 1.
const STEPS: &[Step] = &[
    Step { to: 1, run: v0001_initial::run },
    Step { to: 2, run: v0002_feature_sets::run },
    Step { to: 3, run: v0003_decisions::run },
];

/// Brings the database in `folder` (the one `db` was opened from) to [`SCHEMA_VERSION`], durably.
///
/// # Errors
/// [`MigrationError::Newer`] and [`MigrationError::Damaged`] leave the database as it is; after the others, calling
/// again goes on where it stopped.
pub fn prepare(db: &sled::Db, folder: &Path) -> Result<Prepared, MigrationError> {
    prepare_with(db, folder, STEPS)
}

fn prepare_with(db: &sled::Db, folder: &Path, steps: &[Step]) -> Result<Prepared, MigrationError> {
    let supported = steps.last().map_or(0, |step| step.to);
    let from = stamp(db)?;
    if let Some(found) = from.filter(|found| *found > supported) {
        return Err(MigrationError::Newer { found, supported });
    }
    for step in steps.iter().filter(|step| step.to > from.unwrap_or(0)) {
        (step.run)(db)?;
        db.open_tree(META_TREE)?.insert(STAMP_KEY, &step.to.to_le_bytes())?;
        sync(db, folder)?;
    }
    Ok(Prepared { from, to: supported })
}

/// Reads the stamp. `None` for a database in which nothing was stored yet.
fn stamp(db: &sled::Db) -> Result<Option<u32>, MigrationError> {
    let names = db.tree_names();
    if names.iter().any(|name| name == META_TREE.as_bytes())
        && let Some(value) = db.open_tree(META_TREE)?.get(STAMP_KEY)?
    {
        let bytes: [u8; 4] = value
            .as_ref()
            .try_into()
            .map_err(|_| MigrationError::Damaged(format!("the schema version has {} bytes, not 4", value.len())))?;
        return match u32::from_le_bytes(bytes) {
            0 => Err(MigrationError::Damaged("the schema version is 0".to_owned())),
            version => Ok(Some(version)),
        };
    }
    // The first step may have been cut off between its trees and the stamp; contents are never written before it.
    for name in names.iter().filter(|name| name.as_ref() != DEFAULT_TREE) {
        if !db.open_tree(name)?.is_empty() {
            return Err(MigrationError::Damaged("there are contents but no schema version".to_owned()));
        }
    }
    if !db.is_empty() {
        return Err(MigrationError::Damaged("this is a database of another program".to_owned()));
    }
    Ok(None)
}

/// sled's own flush hands the data to the kernel without asking the disk to keep it, so the data file is synced too.
fn sync(db: &sled::Db, folder: &Path) -> Result<(), MigrationError> {
    db.flush()?;
    File::open(folder.join("db"))?.sync_data()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> (tempfile::TempDir, sled::Db) {
        let folder = tempfile::tempdir().unwrap();
        let db = sled::open(folder.path()).unwrap();
        (folder, db)
    }

    #[test]
    fn steps_are_contiguous() {
        let versions: Vec<u32> = STEPS.iter().map(|step| step.to).collect();
        assert_eq!(versions, (1..=SCHEMA_VERSION).collect::<Vec<_>>());
    }

    #[test]
    fn an_empty_database_is_stamped_once() {
        let (folder, db) = database();
        assert_eq!(prepare(&db, folder.path()).unwrap(), Prepared { from: None, to: SCHEMA_VERSION });
        assert_eq!(prepare(&db, folder.path()).unwrap(), Prepared { from: Some(SCHEMA_VERSION), to: SCHEMA_VERSION });
        let names = db.tree_names();
        for tree in v0003_decisions::TREES {
            assert!(names.iter().any(|name| name == tree.as_bytes()), "{tree}");
        }
    }

    fn second(db: &sled::Db) -> Result<(), MigrationError> {
        db.open_tree("steps")?.insert("second", &[2])?;
        Ok(())
    }

    fn third(db: &sled::Db) -> Result<(), MigrationError> {
        // Relies on the one before.
        assert!(db.open_tree("steps")?.contains_key("second")?);
        db.open_tree("steps")?.insert("third", &[3])?;
        Ok(())
    }

    fn fails(_: &sled::Db) -> Result<(), MigrationError> {
        Err(MigrationError::Damaged("as asked".to_owned()))
    }

    #[test]
    fn an_older_database_takes_the_steps_it_lacks() {
        let (folder, db) = database();
        let first = || Step { to: 1, run: v0001_initial::run };
        prepare_with(&db, folder.path(), &[first()]).unwrap();
        let broken = [first(), Step { to: 2, run: second }, Step { to: 3, run: fails }];
        assert!(matches!(prepare_with(&db, folder.path(), &broken), Err(MigrationError::Damaged(_))));
        assert_eq!(stamp(&db).unwrap(), Some(2), "the step that worked is kept");
        let whole = [first(), Step { to: 2, run: fails }, Step { to: 3, run: third }];
        assert_eq!(prepare_with(&db, folder.path(), &whole).unwrap(), Prepared { from: Some(2), to: 3 });
        assert!(matches!(
            prepare_with(&db, folder.path(), &whole[..2]),
            Err(MigrationError::Newer { found: 3, supported: 2 })
        ));
        assert_eq!(stamp(&db).unwrap(), Some(3), "a refused database stays as it is");
    }

    #[test]
    fn a_stamp_that_is_none_is_damage() {
        for bad in [&b""[..], b"1", b"12345", &[0; 4]] {
            let (folder, db) = database();
            db.open_tree(META_TREE).unwrap().insert(STAMP_KEY, bad).unwrap();
            assert!(matches!(prepare(&db, folder.path()), Err(MigrationError::Damaged(_))), "{bad:?}");
        }
    }

    #[test]
    fn contents_without_a_stamp_are_damage() {
        let (folder, db) = database();
        db.open_tree("subjects").unwrap().insert("a", "b").unwrap();
        assert!(matches!(prepare(&db, folder.path()), Err(MigrationError::Damaged(_))));
        let (folder, db) = database();
        db.insert("a", "b").unwrap();
        assert!(matches!(prepare(&db, folder.path()), Err(MigrationError::Damaged(_))));
    }

    #[test]
    fn a_first_step_that_was_cut_off_is_taken_again() {
        let (folder, db) = database();
        v0001_initial::run(&db).unwrap();
        assert_eq!(prepare(&db, folder.path()).unwrap().from, None);
    }
}
