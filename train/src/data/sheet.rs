//! Augmented samples in one picture, to be looked at.

use image::{GenericImage, RgbImage};
use vultus_engine::align::SIZE;
use vultus_engine::random::Random;

use super::augment::{AugmentConfig, augment, stream};
use super::{DataError, Dataset, check_setting};

/// Most rows of a sheet.
const MAX_ROWS: usize = 200;
/// Augmented forms beside each image.
const FORMS: u64 = 8;
/// Pixels between images.
const GAP: u32 = 4;

/// A row for each of `rows` images that are drawn from the seed: the image, then what training sees of it in the first
/// eight epochs of a run with the same seed. Colours are turned back, so that faces look natural.
///
/// # Errors
/// [`DataError::BadSetting`] and those of the images.
pub fn contact_sheet(
    dataset: &dyn Dataset,
    rows: usize,
    config: &AugmentConfig,
    seed: u64,
) -> Result<RgbImage, DataError> {
    config.check()?;
    check_setting("rows of the sheet", rows as f64, "from 1 to 200", (1..=MAX_ROWS).contains(&rows))?;
    let mut order = Random::named(seed, "contact sheet").order(dataset.len());
    order.truncate(rows);
    let length = |images: u32| images * (SIZE + GAP) + GAP;
    let mut sheet = RgbImage::from_pixel(length(FORMS as u32 + 1), length(order.len() as u32), image::Rgb([255; 3]));
    for (row, index) in order.into_iter().enumerate() {
        let original = dataset.image(index)?;
        let forms = (0..FORMS).map(|epoch| augment(original.clone(), config, &mut stream(seed, epoch, index as u64)));
        for (column, crop) in std::iter::once(original.clone()).chain(forms).enumerate() {
            let (x, y) = (length(column as u32), length(row as u32));
            sheet.copy_from(&crop.to_rgb(), x, y).expect("the sheet has room for it");
        }
    }
    Ok(sheet)
}
