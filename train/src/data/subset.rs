//! Parts of a dataset, by identity.

use std::sync::Arc;

use vultus_engine::random::Random;

use super::{Crop, DataError, Dataset, check_setting};

/// Some identities of a dataset, numbered anew from 0 in their old order.
pub struct Subset {
    whole: Arc<dyn Dataset>,
    /// Sample of the whole and class here.
    samples: Vec<(u32, u32)>,
    /// Class of the whole, by class here.
    identities: Vec<u32>,
}

impl std::fmt::Debug for Subset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subset").field("samples", &self.samples.len()).field("classes", &self.identities.len()).finish()
    }
}

impl Subset {
    /// The samples of the identities for which `keep` holds. Classes without a sample are left out.
    pub fn of_identities(whole: Arc<dyn Dataset>, keep: impl Fn(u32) -> bool) -> Self {
        let mut used = vec![false; whole.classes()];
        (0..whole.len()).for_each(|index| used[whole.label(index) as usize] = true);
        let identities: Vec<u32> =
            (0..whole.classes() as u32).filter(|class| used[*class as usize] && keep(*class)).collect();
        let mut renumbered = vec![None; whole.classes()];
        identities.iter().zip(0..).for_each(|(old, new)| renumbered[*old as usize] = Some(new));
        let samples = (0..whole.len())
            .filter_map(|index| renumbered[whole.label(index) as usize].map(|class| (index as u32, class)))
            .collect();
        Self { whole, samples, identities }
    }

    /// The class that a class has in the whole dataset.
    ///
    /// # Panics
    /// If there is no such class.
    pub fn identity(&self, class: u32) -> u32 {
        self.identities[class as usize]
    }
}

impl Dataset for Subset {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn classes(&self) -> usize {
        self.identities.len()
    }

    fn label(&self, index: usize) -> u32 {
        self.samples[index].1
    }

    fn name(&self, index: usize) -> String {
        self.whole.name(self.samples[index].0 as usize)
    }

    fn own_name(&self, index: usize) -> String {
        self.whole.own_name(self.samples[index].0 as usize)
    }

    fn image(&self, index: usize) -> Result<Crop, DataError> {
        self.whole.image(self.samples[index].0 as usize)
    }
}

/// Splits a dataset by identity: (rest, held out). Which `count` identities are held out is drawn from the seed; nobody
/// is in both parts.
///
/// # Errors
/// [`DataError::BadSetting`] unless both parts get an identity.
pub fn hold_out(whole: &Arc<dyn Dataset>, count: usize, seed: u64) -> Result<(Subset, Subset), DataError> {
    let classes = whole.classes();
    let range = format!("from 1 to {} of {classes} identities", classes.saturating_sub(1));
    check_setting("identities held out", count as f64, range, count >= 1 && count < classes)?;
    let mut held = vec![false; classes];
    Random::named(seed, "held out identities").order(classes)[..count].iter().for_each(|class| held[*class] = true);
    let part = |wanted: bool| Subset::of_identities(whole.clone(), |class| held[class as usize] == wanted);
    Ok((part(false), part(true)))
}
