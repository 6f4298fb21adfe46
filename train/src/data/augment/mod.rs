//! What is done to training images so that networks meet poor ones.
//!
//! The augmentations of Kim et al. 2022, "AdaFace: Quality Adaptive Margin for Face Recognition", section 4.1, as the
//! published code does them and in its order: a part of the image alone, low resolution, light and colour, each with a
//! probability of its own; then a reflection. Every step ends in 8 bits. They act on blue, green, red as if it were red,
//! green, blue (see [`crate::data`]).

mod photometric;
mod rectangle;

use serde::{Deserialize, Serialize};
use vultus_engine::random::Random;

pub use photometric::{brightness, contrast, saturation};
pub use rectangle::{Rectangle, black_outside};

use super::crop::{Crop, SIDE};
use super::resize::{Interpolation, Size, resize};
use super::{DataError, check_setting};

/// Changes a crop by a factor.
type Step = fn(&mut Crop, f32);

/// Smallest side of a low resolution, as a share of the crop's.
const LEAST_RESOLUTION: f64 = 0.2;
/// Factors of brightness, contrast and saturation are from 1 − this to 1 + this.
const JITTER: f64 = 0.5;

/// With which probability each augmentation is applied. The default is that of the published runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AugmentConfig {
    /// Black outside of a random rectangle.
    pub crop: f64,
    /// Small and large again.
    pub low_resolution: f64,
    /// Brightness, contrast and saturation, in random order.
    pub photometric: f64,
    /// Left and right exchanged.
    pub flip: f64,
}

impl Default for AugmentConfig {
    fn default() -> Self {
        Self { crop: 0.2, low_resolution: 0.2, photometric: 0.2, flip: 0.5 }
    }
}

impl AugmentConfig {
    /// Images as they are.
    pub fn none() -> Self {
        Self { crop: 0.0, low_resolution: 0.0, photometric: 0.0, flip: 0.0 }
    }

    /// Checks that all are probabilities.
    ///
    /// # Errors
    /// [`DataError::BadSetting`].
    pub fn check(&self) -> Result<(), DataError> {
        let all = [
            ("probability of a crop", self.crop),
            ("probability of a low resolution", self.low_resolution),
            ("probability of other light", self.photometric),
            ("probability of a flip", self.flip),
        ];
        all.into_iter()
            .try_for_each(|(name, value)| check_setting(name, value, "from 0 to 1", (0.0..=1.0).contains(&value)))
    }
}

/// The random numbers of one sample in one epoch.
pub fn stream(seed: u64, epoch: u64, index: u64) -> Random {
    // Each number goes through the generator's mixing before the next is added, so that no two triples meet by design.
    let mixed = [epoch, index]
        .iter()
        .fold(Random::named(seed, "augmentation").next(), |mixed, number| Random::new(mixed ^ number).next());
    Random::new(mixed)
}

/// Applies what is drawn from `random` to a crop.
pub fn augment(mut crop: Crop, config: &AugmentConfig, random: &mut Random) -> Crop {
    if happens(config.crop, random) {
        black_outside(&mut crop, Rectangle::draw(random));
    }
    if happens(config.low_resolution, random) {
        crop = low_resolution(&crop, random);
    }
    if happens(config.photometric, random) {
        let all: [Step; 3] = [brightness, contrast, saturation];
        let mut steps = all.map(|step| (step, random.uniform(1.0 - JITTER, 1.0 + JITTER) as f32));
        random.shuffle(&mut steps);
        steps.iter().for_each(|(step, factor)| step(&mut crop, *factor));
    }
    if happens(config.flip, random) {
        flip(&mut crop);
    }
    crop
}

fn happens(probability: f64, random: &mut Random) -> bool {
    random.uniform(0.0, 1.0) < probability
}

/// Down to a random side and up again, each by an interpolation of its own.
fn low_resolution(crop: &Crop, random: &mut Random) -> Crop {
    let side = (random.uniform(LEAST_RESOLUTION, 1.0) * SIDE as f64) as usize;
    let [down, up] = [(); 2].map(|()| Interpolation::ALL[random.below(Interpolation::ALL.len())]);
    let (full, small) = (Size::square(SIDE), Size::square(side));
    Crop::from_bgr(resize(&resize(crop.pixels(), full, small, down), small, full, up))
}

/// Exchanges left and right.
pub fn flip(crop: &mut Crop) {
    for row in crop.pixels_mut().chunks_exact_mut(3 * SIDE) {
        row.as_chunks_mut::<3>().0.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::reference::digest;

    fn drawn() -> Crop {
        Crop::from_bgr((0..Crop::BYTES).map(|at| (at / 3 % SIDE * 2 + at % 3 * 9 + at / 3 / SIDE / 4) as u8).collect())
    }

    #[test]
    fn a_sample_depends_on_seed_epoch_and_index_alone() {
        let numbers = |seed, epoch, index| stream(seed, epoch, index).next();
        let mut all: Vec<u64> =
            (0..4).flat_map(|s| (0..4).flat_map(move |e| (0..4).map(move |i| numbers(s, e, i)))).collect();
        assert_eq!(numbers(3, 2, 1), numbers(3, 2, 1));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 64);
    }

    #[test]
    fn what_is_drawn_stays_the_same() {
        // Runs that go on under another version of this code rely on it.
        let config = AugmentConfig { crop: 0.5, low_resolution: 0.5, photometric: 0.5, flip: 0.5 };
        let digests = [0, 1, 2, 3].map(|index| digest(augment(drawn(), &config, &mut stream(7, 2, index)).pixels()));
        assert_eq!(
            digests,
            [0x49bb_693d_28e7_25a5, 0x36b8_7d41_c39f_423b, 0x9f5f_35d7_b8ff_9a51, 0xced1_8b25_0073_ae35]
        );
    }

    #[test]
    fn each_happens_as_often_as_it_should() {
        let config = AugmentConfig { crop: 0.2, low_resolution: 0.0, photometric: 0.0, flip: 0.0 };
        let changed = |config: &AugmentConfig| {
            let original = drawn();
            (0..500).filter(|index| augment(original.clone(), config, &mut stream(1, 0, *index)) != original).count()
        };
        // Four standard deviations: 36.
        assert!((64..=136).contains(&changed(&config)), "{}", changed(&config));
        assert_eq!(changed(&AugmentConfig::none()), 0);
        let flips = AugmentConfig { flip: 1.0, ..AugmentConfig::none() };
        assert_eq!(changed(&flips), 500);
        for other in [
            AugmentConfig { low_resolution: 1.0, ..AugmentConfig::none() },
            AugmentConfig { photometric: 1.0, ..AugmentConfig::none() },
        ] {
            assert!(changed(&other) > 495);
        }
    }

    #[test]
    fn a_flip_exchanges_left_and_right() {
        let original = drawn();
        let mut flipped = original.clone();
        flip(&mut flipped);
        let pixel = |crop: &Crop, x: usize, y: usize| crop.pixels()[(y * SIDE + x) * 3..][..3].to_vec();
        assert_eq!(pixel(&flipped, 0, 5), pixel(&original, 111, 5));
        assert_eq!(pixel(&flipped, 40, 111), pixel(&original, 71, 111));
    }

    #[test]
    fn probabilities_are_checked() {
        assert!(AugmentConfig::default().check().is_ok());
        for value in [-0.1, 1.1, f64::NAN] {
            let message = AugmentConfig { flip: value, ..AugmentConfig::default() }.check().unwrap_err().to_string();
            assert!(message.starts_with("probability of a flip is"), "{message}");
        }
    }
}
