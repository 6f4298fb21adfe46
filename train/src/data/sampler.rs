//! Which samples come when.

use serde::{Deserialize, Serialize};
use vultus_engine::random::Random;

use super::{DataError, Dataset, check_setting};

/// How samples are dealt out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplerConfig {
    /// Samples of a step in each shard.
    pub batch: usize,
    /// Shards: processes that train together, each with its own samples of every step.
    pub shards: usize,
    /// Which of them this is, from 0.
    pub shard: usize,
    /// Whether each epoch has an order of its own; otherwise samples come as they are numbered.
    pub shuffle: bool,
    /// Whether what is left of an epoch after its last whole step is left out. Otherwise the last step is smaller; all
    /// shards get the same number, for which up to `shards` − 1 samples of the epoch's beginning come again.
    pub drop_last: bool,
    /// Epochs after which it ends; never where there are none.
    pub epochs: Option<u64>,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        Self { batch: 128, shards: 1, shard: 0, shuffle: true, drop_last: true, epochs: None }
    }
}

/// Where a sampler stands: all that a checkpoint has to keep of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SamplerState {
    /// What the order of every epoch is drawn from.
    pub seed: u64,
    /// The epoch, from 0.
    pub epoch: u64,
    /// Samples of the epoch that have been dealt out to all shards together.
    pub position: u64,
}

/// The samples of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The epoch, from 0.
    pub epoch: u64,
    /// The step within the epoch, from 0.
    pub step: u64,
    /// Whether the next step is of another epoch.
    pub ends_epoch: bool,
    /// The samples of this shard.
    pub indices: Vec<u32>,
    /// From where to go on after this step.
    pub after: SamplerState,
}

/// Deals out all samples once an epoch, in an order drawn from (seed, epoch).
#[derive(Debug, Clone)]
pub struct Sampler {
    config: SamplerConfig,
    samples: u64,
    state: SamplerState,
    /// The order of `state.epoch`, once it has begun.
    order: Option<Vec<u32>>,
}

impl Sampler {
    /// Starts at the first epoch.
    ///
    /// # Errors
    /// [`DataError::BadSetting`], also where a dataset is too small for one step.
    pub fn new(seed: u64, config: SamplerConfig, dataset: &dyn Dataset) -> Result<Self, DataError> {
        Self::resume(SamplerState { seed, epoch: 0, position: 0 }, config, dataset)
    }

    /// Goes on from where a sampler stood. Steps are the same as they would have been if settings and dataset are.
    ///
    /// # Errors
    /// As [`Self::new`]; also where the dataset has fewer samples than have been dealt out.
    pub fn resume(state: SamplerState, config: SamplerConfig, dataset: &dyn Dataset) -> Result<Self, DataError> {
        let samples = dataset.len() as u64;
        let all = config.batch.saturating_mul(config.shards);
        let counts = |value: usize| (1..=1 << 24).contains(&value);
        check_setting("samples of a step", config.batch as f64, "from 1 to 2^24", counts(config.batch))?;
        check_setting("number of shards", config.shards as f64, "from 1 to 2^24", counts(config.shards))?;
        check_setting("shard", config.shard as f64, "below the number of shards", config.shard < config.shards)?;
        let least = if config.drop_last { all as u64 } else { 1 };
        let range = format!("from {least} to 2^32 - 1 to fill a step");
        check_setting("number of samples", samples as f64, range, samples >= least && samples <= u64::from(u32::MAX))?;
        let range = format!("at most {samples}, the number of samples");
        check_setting("position in the epoch", state.position as f64, range, state.position <= samples)?;
        Ok(Self { config, samples, state, order: None })
    }

    /// Where it stands.
    pub fn state(&self) -> SamplerState {
        self.state
    }

    /// Steps of an epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        let all = self.whole_step();
        if self.config.drop_last { self.samples / all } else { self.samples.div_ceil(all) }
    }

    /// Samples of a whole step of all shards.
    fn whole_step(&self) -> u64 {
        (self.config.batch * self.config.shards) as u64
    }

    /// How many samples the next step takes off this epoch; 0 where it has no more step.
    fn next_take(&self) -> u64 {
        let left = self.samples - self.state.position;
        if left >= self.whole_step() {
            self.whole_step()
        } else if self.config.drop_last {
            0
        } else {
            left
        }
    }

    fn begin_epoch(&mut self, epoch: u64) {
        self.state = SamplerState { epoch, position: 0, ..self.state };
        self.order = None;
    }
}

impl Iterator for Sampler {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        // Only a state from elsewhere stands at an epoch's end.
        if self.next_take() == 0 {
            self.begin_epoch(self.state.epoch + 1);
        }
        if self.config.epochs.is_some_and(|epochs| self.state.epoch >= epochs) {
            return None;
        }
        let SamplerState { seed, epoch, position } = self.state;
        let (samples, shuffle, take) = (self.samples, self.config.shuffle, self.next_take());
        let order = self.order.get_or_insert_with(|| {
            let mut order: Vec<u32> = (0..samples as u32).collect();
            if shuffle {
                Random::named(seed, &format!("order of epoch {epoch}")).shuffle(&mut order);
            }
            order
        });
        let padded = take.next_multiple_of(self.config.shards as u64);
        let indices = (self.config.shard as u64..padded)
            .step_by(self.config.shards)
            .map(|place| order[((position + place) % samples) as usize])
            .collect();
        let step = position / self.whole_step();
        self.state.position += take;
        let ends_epoch = self.next_take() == 0;
        if ends_epoch {
            self.begin_epoch(epoch + 1);
        }
        Some(Step { epoch, step, ends_epoch, indices, after: self.state })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Crop;

    struct Counted(usize);

    impl Dataset for Counted {
        fn len(&self) -> usize {
            self.0
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
        fn image(&self, _: usize) -> Result<Crop, DataError> {
            unreachable!("a sampler looks at no image")
        }
    }

    fn config(batch: usize) -> SamplerConfig {
        SamplerConfig { batch, ..SamplerConfig::default() }
    }

    fn steps(samples: usize, config: &SamplerConfig, count: usize) -> Vec<Step> {
        Sampler::new(5, config.clone(), &Counted(samples)).unwrap().take(count).collect()
    }

    #[test]
    fn every_sample_comes_once_an_epoch_in_an_order_of_its_own() {
        let all = SamplerConfig { drop_last: false, epochs: Some(3), ..config(4) };
        let steps = steps(10, &all, usize::MAX);
        assert_eq!(steps.len(), 9);
        let mut orders = Vec::new();
        for (epoch, steps) in steps.chunks(3).enumerate() {
            assert_eq!(steps.iter().map(|step| step.indices.len()).collect::<Vec<_>>(), [4, 4, 2]);
            assert!(steps.iter().zip(0..).all(|(step, number)| (step.epoch, step.step) == (epoch as u64, number)));
            assert_eq!(steps.iter().map(|step| step.ends_epoch).collect::<Vec<_>>(), [false, false, true]);
            let order: Vec<u32> = steps.iter().flat_map(|step| step.indices.clone()).collect();
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
            orders.push(order);
        }
        assert!(orders[0] != orders[1] && orders[1] != orders[2]);
        let plain = SamplerConfig { shuffle: false, epochs: Some(1), ..config(3) };
        assert_eq!(
            self::steps(7, &plain, 9).iter().map(|s| s.indices.clone()).collect::<Vec<_>>(),
            [[0, 1, 2], [3, 4, 5]]
        );
    }

    #[test]
    fn it_goes_on_from_any_step() {
        for drop_last in [true, false] {
            let config = SamplerConfig { drop_last, ..config(4) };
            let whole = steps(10, &config, 12);
            for (done, step) in whole.iter().enumerate() {
                let rest: Vec<Step> =
                    Sampler::resume(step.after, config.clone(), &Counted(10)).unwrap().take(11 - done).collect();
                assert_eq!(rest, whole[done + 1..]);
            }
        }
        // A state at the very end of an epoch, which this sampler does not leave, is taken as the next one's beginning.
        let state = SamplerState { seed: 5, epoch: 0, position: 10 };
        assert_eq!(Sampler::resume(state, config(4), &Counted(10)).unwrap().next().unwrap().epoch, 1);
    }

    #[test]
    fn shards_share_each_step() {
        for (samples, drop_last) in [(20, true), (20, false), (23, true), (23, false), (2, false)] {
            let one = SamplerConfig { drop_last, epochs: Some(2), ..config(6) };
            let whole = steps(samples, &one, usize::MAX);
            let shards: Vec<Vec<Step>> = (0..3)
                .map(|shard| steps(samples, &SamplerConfig { batch: 2, shards: 3, shard, ..one.clone() }, usize::MAX))
                .collect();
            for (number, step) in whole.iter().enumerate() {
                let length = shards[0][number].indices.len();
                let mut together = Vec::new();
                for place in 0..length {
                    together.extend(shards.iter().map(|shard| shard[number].indices[place]));
                }
                assert!(shards.iter().all(|shard| shard[number].indices.len() == length && shard.len() == whole.len()));
                assert!(shards.iter().all(|shard| shard[number].after == step.after));
                assert_eq!(together[..step.indices.len()], step.indices);
                assert_eq!(together.len(), step.indices.len().next_multiple_of(3));
            }
        }
    }

    #[test]
    fn settings_that_make_no_step_are_refused() {
        let refused = |config, samples, message: &str| {
            let actual = Sampler::new(1, config, &Counted(samples)).unwrap_err().to_string();
            assert!(actual.contains(message), "{actual}");
        };
        refused(config(0), 10, "samples of a step is 0");
        refused(config(11), 10, "number of samples is 10, it has to be from 11");
        refused(SamplerConfig { shards: 2, shard: 2, ..config(1) }, 10, "shard is 2");
        refused(SamplerConfig { drop_last: false, ..config(1) }, 0, "number of samples is 0");
        let state = SamplerState { seed: 1, epoch: 0, position: 11 };
        assert!(Sampler::resume(state, config(1), &Counted(10)).is_err());
        assert_eq!(Sampler::new(1, config(4), &Counted(10)).unwrap().steps_per_epoch(), 2);
        let state = Sampler::new(1, config(4), &Counted(10)).unwrap().next().unwrap().after;
        assert_eq!(serde_json::from_str::<SamplerState>(&serde_json::to_string(&state).unwrap()).unwrap(), state);
    }
}
