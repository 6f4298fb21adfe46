//! Crops of a set where some images may be damaged, for what looks at them outside of training.

use super::{Crop, Damaged, DataError, Dataset};

/// What could be read.
#[derive(Debug, Default)]
pub struct Readable {
    /// The samples.
    pub indices: Vec<usize>,
    /// Their crops, as they are.
    pub crops: Vec<Crop>,
    /// What was wrong with images that were left out.
    pub skipped: Vec<String>,
}

impl Readable {
    /// Reads samples in this order until there are `most`.
    ///
    /// # Errors
    /// Those of [`Dataset::image`]; with [`Damaged::Skip`] none that is about one image.
    pub fn read(
        dataset: &dyn Dataset,
        indices: impl IntoIterator<Item = usize>,
        most: usize,
        damaged: Damaged,
    ) -> Result<Self, DataError> {
        let mut found = Self::default();
        for index in indices {
            if found.crops.len() == most {
                break;
            }
            match dataset.image(index) {
                Ok(crop) => {
                    found.indices.push(index);
                    found.crops.push(crop);
                }
                Err(error) if damaged == Damaged::Skip && error.is_one_image() => found.skipped.push(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// A sentence about what was left out; none where nothing was.
    pub fn warning(&self, what: &str) -> Option<String> {
        warning(&self.skipped, what)
    }
}

/// A sentence about images that were left out; none where none was.
pub fn warning(skipped: &[String], what: &str) -> Option<String> {
    let first = skipped.first()?;
    Some(format!("{} {what} left out as damaged, the first: {first}", skipped.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Half;

    impl Dataset for Half {
        fn len(&self) -> usize {
            8
        }
        fn classes(&self) -> usize {
            1
        }
        fn label(&self, _: usize) -> u32 {
            0
        }
        fn name(&self, index: usize) -> String {
            index.to_string()
        }
        fn image(&self, index: usize) -> Result<Crop, DataError> {
            if index % 2 == 1 {
                return Err(DataError::WrongSize { name: self.name(index), width: 1, height: 1, wanted: "112" });
            }
            if index == 6 {
                return Err(DataError::ThreadLost);
            }
            Ok(Crop::from_bgr(vec![index as u8; Crop::BYTES]))
        }
    }

    #[test]
    fn damaged_images_are_left_out_where_that_is_asked_for() {
        let found = Readable::read(&Half, [4, 3, 1, 0, 2], 2, Damaged::Skip).unwrap();
        assert_eq!((found.indices.as_slice(), found.crops.len(), found.skipped.len()), (&[4, 0][..], 2, 2));
        let told = found.warning("images").unwrap();
        assert!(told.starts_with("2 images left out as damaged, the first: 3 has 1x1 pixels"), "{told}");
        assert!(Readable::read(&Half, [4, 3], 8, Damaged::Stop).is_err());
        assert!(Readable::read(&Half, [4, 6], 8, Damaged::Skip).is_err(), "not about one image");
        assert_eq!(Readable::read(&Half, [4], 8, Damaged::Stop).unwrap().warning("images"), None);
    }
}
