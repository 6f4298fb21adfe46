//! Templates of images and videos, as IJB-A, -B and -C define them.
//!
//! A template is a set of media of one person; a medium is a photo or the frames of a video. So that a long video does not
//! outvote everything else, its frames are first averaged: template = normalise(Σ over media of the mean over images).

use rayon::prelude::*;

use super::error::check_length;
use super::rows::normalise;
use super::{EvalError, Rows};

/// Templates by id.
#[derive(Debug, Clone, PartialEq)]
pub struct Templates {
    /// Ids, ascending.
    pub ids: Vec<i64>,
    /// Unit vectors in the order of the ids; zeros for a template without images or of images that cancel out.
    pub vectors: Rows<f64>,
    /// How many of the vectors are zeros.
    pub empty: usize,
}

impl Templates {
    /// The row of an id.
    pub fn position(&self, id: i64) -> Option<usize> {
        self.ids.binary_search(&id).ok()
    }
}

/// Makes templates of the features of images.
///
/// Of each image `templates` says to which template it belongs and `media` to which medium of it; media of different
/// templates may have the same number. `chosen` are the templates wanted, in any order, each made once; `None` makes all.
///
/// # Errors
/// [`EvalError::Length`] for lists of different lengths, [`EvalError::None`] where no template is to be made.
pub fn fuse_media<T: Copy + Into<f64> + Sync>(
    images: &Rows<T>,
    templates: &[i64],
    media: &[i64],
    chosen: Option<&[i64]>,
) -> Result<Templates, EvalError> {
    check_length("templates of images", templates.len(), images.len())?;
    check_length("media of images", media.len(), images.len())?;
    let mut order: Vec<usize> = (0..images.len()).collect();
    order.sort_by_key(|&image| (templates[image], media[image]));
    let mut ids = chosen.unwrap_or(templates).to_vec();
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Err(EvalError::None("templates"));
    }
    let dim = images.dim();
    let one = |id: &i64| {
        let start = order.partition_point(|&image| templates[image] < *id);
        let end = order.partition_point(|&image| templates[image] <= *id);
        let mut sum = vec![0.0; dim];
        for medium in order[start..end].chunk_by(|&a, &b| media[a] == media[b]) {
            let mut mean = vec![0.0; dim];
            for &image in medium {
                mean.iter_mut().zip(images.row(image)).for_each(|(sum, value)| *sum += (*value).into());
            }
            sum.iter_mut().zip(mean).for_each(|(sum, value)| *sum += value / medium.len() as f64);
        }
        normalise(&mut sum);
        sum
    };
    let vectors: Vec<Vec<f64>> = ids.par_iter().map(one).collect();
    let empty = vectors.iter().filter(|vector| vector.iter().all(|value| *value == 0.0)).count();
    Ok(Templates { ids, vectors: Rows::new("template", dim, vectors.concat())?, empty })
}
