//! From folders to a record file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, RgbImage};
use rayon::prelude::*;
use tempfile::NamedTempFile;
use vultus_engine::align::SIZE;

use super::crop::{SIDE, decode_picture};
use super::folder::FolderDataset;
use super::recordio::{Header, Labels, RecordWriter};
use super::resize::{Interpolation, Size, resize};
use super::{DataError, Dataset, check_setting, read_file};

/// Images that are read at a time.
const CHUNK: usize = 256;

/// How a record says the class of its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LabelForm {
    /// An array `[class, 1]`, as the published sets do.
    #[default]
    Array,
    /// One label.
    Scalar,
}

/// How a record file is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackConfig {
    /// JPEG quality of images that are encoded anew, 1 to 100.
    pub quality: u8,
    /// Form of the labels.
    pub labels: LabelForm,
    /// Whether damaged images are left out. Otherwise the first ends it.
    pub skip_damaged: bool,
}

impl Default for PackConfig {
    fn default() -> Self {
        Self { quality: 95, labels: LabelForm::Array, skip_damaged: false }
    }
}

/// What was packed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Packed {
    /// Identities.
    pub classes: usize,
    /// Images whose files were taken over byte for byte.
    pub kept: usize,
    /// Images that were resized or encoded anew.
    pub encoded: usize,
    /// What was wrong with images that were left out.
    pub skipped: Vec<String>,
    /// Identities that were left out, as all of their images were.
    pub without: Vec<String>,
}

/// Bytes of an image for the record, and whether they are those of its file.
struct Encoded {
    bytes: Vec<u8>,
    kept: bool,
}

/// Writes `train.rec`, `train.idx` and `property` (`CLASSES,112,112`) to a folder that may not have them yet.
///
/// The order is that of the published sets: record 0 with `[A, B]`, images by class with the keys 1 to A − 1, then for each
/// class a record with the first and one beyond the last of its keys. JPEG files of 112×112 pixels are taken over as they
/// are, after they have been decoded once to see that they are whole. Other images are resized and encoded as JPEG; they
/// have to be square, since an aligned crop is. Identities are numbered in the order of the folder; one without an image
/// that can be read has no number. `progress` is called with the number of images done, and can end it.
///
/// Files appear under their names only when all is written.
///
/// # Errors
/// [`DataError`] that names the file; [`DataError::Nothing`] where no image can be read; [`DataError::Stopped`].
pub fn pack(
    folder: &FolderDataset,
    out: &Path,
    config: &PackConfig,
    mut progress: impl FnMut(usize) -> ControlFlow<()>,
) -> Result<Packed, DataError> {
    check_setting("JPEG quality", f64::from(config.quality), "from 1 to 100", (1..=100).contains(&config.quality))?;
    // Record 0 says how many there are in an f32.
    let records = folder.len() + folder.classes() + 1;
    check_setting(
        "number of records",
        records as f64,
        "at most 2^24, as the format says it in f32",
        records <= 1 << 24,
    )?;
    std::fs::create_dir_all(out).map_err(DataError::writing(out))?;
    let names = ["train.rec", "train.idx", "property"].map(|name| out.join(name));
    if let Some(name) = names.iter().find(|name| name.exists()) {
        return Err(DataError::Exists(name.clone()));
    }
    let (packed, records) = write_images(folder, out, config, &mut progress)?;
    let mut property = NamedTempFile::new_in(out).map_err(DataError::writing(out))?;
    writeln!(property, "{},{SIZE},{SIZE}", packed.classes).map_err(DataError::writing(&names[2]))?;
    // The records come last, so that whoever finds them finds the rest.
    let [records, index] = records;
    for (file, name) in [(property, &names[2]), (index, &names[1]), (records, &names[0])] {
        file.as_file().sync_all().map_err(DataError::writing(name))?;
        readable(file.as_file()).map_err(DataError::writing(name))?;
        file.persist_noclobber(name).map_err(|error| DataError::writing(name)(error.error))?;
    }
    Ok(packed)
}

/// Temporary files are their owner's alone; a dataset need not be.
#[cfg(unix)]
fn readable(file: &File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable(_: &File) -> std::io::Result<()> {
    Ok(())
}

fn write_images(
    folder: &FolderDataset,
    out: &Path,
    config: &PackConfig,
    progress: &mut impl FnMut(usize) -> ControlFlow<()>,
) -> Result<(Packed, [NamedTempFile; 2]), DataError> {
    let file = || NamedTempFile::new_in(out).map(BufWriter::new).map_err(DataError::writing(out));
    let mut packed = Packed::default();
    // Record 0 counts the images. Its length does not depend on the counts, so it is put right at the end where some
    // were left out.
    let mut writer = RecordWriter::new(file()?, file()?);
    writer.write(0, &ranges(0, 1 + folder.len() as u64, folder.classes() as u64), &[])?;
    let mut key = 1;
    // Classes of the folder that have images, and the first key of each.
    let mut classes: Vec<(u32, u64)> = Vec::new();
    for start in (0..folder.len()).step_by(CHUNK) {
        let end = (start + CHUNK).min(folder.len());
        let images: Vec<Result<Encoded, DataError>> =
            (start..end).into_par_iter().map(|index| encoded(folder, index, config.quality)).collect();
        for (index, image) in (start..end).zip(images) {
            match image {
                Ok(Encoded { bytes, kept }) => {
                    let class = folder.label(index);
                    if classes.last().is_none_or(|(last, _)| *last != class) {
                        classes.push((class, key));
                    }
                    *(if kept { &mut packed.kept } else { &mut packed.encoded }) += 1;
                    writer.write(key, &header(classes.len() as u32 - 1, key, config.labels), &bytes)?;
                    key += 1;
                }
                Err(error) if config.skip_damaged && error.is_one_image() => packed.skipped.push(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        if progress(end).is_break() {
            return Err(DataError::Stopped);
        }
    }
    if let (true, Some(first)) = (classes.is_empty(), packed.skipped.first()) {
        return Err(DataError::AllDamaged(packed.skipped.len(), first.clone()));
    }
    if classes.is_empty() {
        return Err(DataError::Nothing { path: folder.root().to_owned(), what: "image that can be read" });
    }
    packed.classes = classes.len();
    let without =
        (0..folder.classes() as u32).filter(|class| classes.binary_search_by_key(class, |one| one.0).is_err());
    packed.without = without.map(|class| folder.class_name(class).to_owned()).collect();
    let images = key;
    for (place, (_, first)) in classes.iter().enumerate() {
        let end = classes.get(place + 1).map_or(images, |(_, next)| *next);
        let labels = Labels::Array(vec![*first as f32, end as f32]);
        writer.write(key, &Header { labels, id: key, id2: 0 }, &[])?;
        key += 1;
    }
    let (records, index) = writer.finish()?;
    let into_file =
        |file: BufWriter<NamedTempFile>| file.into_inner().map_err(|error| DataError::writing(out)(error.into_error()));
    let (mut records, index) = (into_file(records)?, into_file(index)?);
    if !packed.skipped.is_empty() {
        rewrite_first(records.as_file_mut(), &ranges(0, images, packed.classes as u64))
            .map_err(DataError::writing(out))?;
    }
    Ok((packed, [records, index]))
}

/// Record 0: keys of images end before `images`, those of classes follow.
fn ranges(id: u64, images: u64, classes: u64) -> Header {
    Header { labels: Labels::Array(vec![images as f32, (images + classes) as f32]), id, id2: 0 }
}

fn header(label: u32, key: u64, form: LabelForm) -> Header {
    let labels = match form {
        LabelForm::Array => Labels::Array(vec![label as f32, 1.0]),
        LabelForm::Scalar => Labels::Scalar(label as f32),
    };
    Header { labels, id: key, id2: 0 }
}

fn rewrite_first(file: &mut File, header: &Header) -> std::io::Result<()> {
    use std::io::{Seek, SeekFrom};
    let mut bytes = Vec::new();
    header.write(&mut bytes);
    // After the magic and the length, which stay.
    file.seek(SeekFrom::Start(8))?;
    file.write_all(&bytes)
}

fn encoded(folder: &FolderDataset, index: usize, quality: u8) -> Result<Encoded, DataError> {
    let bytes = read_file(&folder.path(index))?;
    let picture = decode_picture(&bytes, || folder.name(index))?;
    let (width, height) = picture.dimensions();
    if width != height {
        let (name, wanted) = (folder.name(index), "an aligned crop is square");
        return Err(DataError::WrongSize { name, width, height, wanted });
    }
    if width == SIZE && image::guess_format(&bytes).ok() == Some(ImageFormat::Jpeg) {
        return Ok(Encoded { bytes, kept: true });
    }
    let picture = resized(picture);
    let mut bytes = Vec::new();
    let done = JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(&picture);
    done.map_err(|error| DataError::Encode { name: folder.name(index), reason: error.to_string() })?;
    Ok(Encoded { bytes, kept: false })
}

/// A square picture as a crop: the mean over each pixel's area where it shrinks, linear where it grows.
fn resized(picture: RgbImage) -> RgbImage {
    let from = Size { width: picture.width() as usize, height: picture.height() as usize };
    let way = if from.width > SIDE { Interpolation::Area } else { Interpolation::Linear };
    let pixels = resize(picture.as_raw(), from, Size::square(SIDE), way);
    RgbImage::from_raw(SIZE, SIZE, pixels).expect("as many pixels as the size says")
}
