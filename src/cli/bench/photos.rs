//! The photos of a benchmark: found, aligned, made worse and embedded, one by one.
//!
//! Of a photo nothing is kept but the features of its main face, one in each condition: some kilobytes. At most as
//! many photos are decoded at a time as there are threads, each with its crops.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use vultus_engine::align::AlignedCrop;
use vultus_engine::evaluate::{Degradation, Person};
use vultus_engine::face::Feature;
use vultus_engine::random::Random;

use crate::cli::enrol::subject_folders;
use crate::cli::local::{Local, progress};
use crate::cli::parallel;
use crate::problem::Problem;
use crate::service::select::Select;

/// How photos become features.
pub(super) struct Embedding<'a> {
    pub(super) local: &'a Local,
    /// Photos are 112×112 crops already.
    pub(super) aligned: bool,
    pub(super) seed: u64,
    /// Conditions 1, 2 and so on; condition 0 is the photo as it is.
    pub(super) degradations: &'a [Degradation],
}

/// What was found in a folder.
pub(super) struct Photos {
    /// Subjects with at least one usable photo, by name.
    pub(super) people: Vec<Person>,
    /// Photos without a usable face, by reason.
    pub(super) rejected: BTreeMap<String, usize>,
}

impl Photos {
    pub(super) fn count(&self) -> usize {
        self.people.iter().map(|person| person.photos.len()).sum()
    }
}

/// Reads FOLDER/SUBJECT/PHOTO. What fails is told on stderr and counted, and the rest goes on.
pub(super) fn read(folder: &Path, most: Option<usize>, how: &Embedding<'_>) -> anyhow::Result<Photos> {
    let subjects = subject_folders(folder, most)?;
    let photos: Vec<(usize, PathBuf)> = subjects
        .iter()
        .enumerate()
        .flat_map(|(subject, found)| found.photos.iter().map(move |photo| (subject, photo.clone())))
        .collect();
    anyhow::ensure!(!photos.is_empty(), "{} holds no folder with photos in it", folder.display());
    let mut people: Vec<Person> =
        subjects.into_iter().map(|subject| Person { name: subject.name, photos: Vec::new() }).collect();
    let mut rejected: BTreeMap<String, usize> = BTreeMap::new();
    let bar = progress(photos.len(), "photos");
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    parallel::ordered(
        &photos,
        threads,
        |(_, path)| embed(path, how),
        |(subject, path), features| {
            bar.inc(1);
            match features {
                Ok(features) => people[*subject].photos.push(features),
                Err(error) => {
                    let code = error.downcast_ref::<Problem>().map_or("unusable", |problem| problem.code.text());
                    *rejected.entry(code.to_owned()).or_default() += 1;
                    bar.suspend(|| eprintln!("{}: {error:#}", path.display()));
                }
            }
            Ok(())
        },
    )?;
    bar.finish_and_clear();
    people.retain(|person| !person.photos.is_empty());
    Ok(Photos { people, rejected })
}

/// The features of a photo's main face, in every condition.
fn embed(path: &Path, how: &Embedding<'_>) -> anyhow::Result<Vec<Feature>> {
    let crop = crop(path, how)?;
    // Seeded by the photo's own name, so that other photos in the folder change nothing.
    let parent = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut crops = vec![crop];
    for degradation in how.degradations {
        let mut random = Random::named(how.seed, &format!("{} {parent}/{name}", degradation.name));
        crops.push(degradation.apply(&crops[0], &mut random)?);
    }
    how.local.embed(crops)
}

fn crop(path: &Path, how: &Embedding<'_>) -> anyhow::Result<AlignedCrop> {
    let photo = how.local.read(path)?;
    if how.aligned {
        return Ok(AlignedCrop::new(photo)?);
    }
    let photo = Arc::new(photo);
    let faces = how.local.detect(&photo)?;
    let face = Select::Main.pick(&faces, photo.width(), photo.height())?;
    how.local.align(&photo, &[face])?.pop().context("the face could not be aligned")
}
