//! Batches, made ahead by threads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use candle_core::{Device, Tensor};
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use super::augment::{AugmentConfig, augment, stream};
use super::sampler::{Sampler, SamplerState, Step};
use super::{Crop, DataError, Dataset, SIDE, check_setting};

/// What a damaged image does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Damaged {
    /// Ends the run with an error that names it.
    #[default]
    Stop,
    /// Is left out of its batch, which says so.
    Skip,
}

/// How batches are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoaderConfig {
    /// Threads that decode and augment.
    pub threads: usize,
    /// Batches that are made or being made at a time; they lie in memory, 147 KiB an image. As each is made by one thread,
    /// there are at least as many as threads.
    pub ahead: usize,
    /// What a damaged image does.
    pub damaged: Damaged,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self { threads: 2, ahead: 4, damaged: Damaged::Stop }
    }
}

impl LoaderConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`DataError::BadSetting`].
    pub fn check(&self) -> Result<(), DataError> {
        check_setting("loader threads", self.threads as f64, "from 1 to 1024", (1..=1024).contains(&self.threads))?;
        check_setting("batches ahead", self.ahead as f64, "at least 1", self.ahead >= 1)
    }
}

/// The samples of one step.
#[derive(Clone, PartialEq)]
pub struct Batch {
    /// The epoch, from 0.
    pub epoch: u64,
    /// The step within the epoch, from 0.
    pub step: u64,
    /// Whether the next batch is of another epoch.
    pub ends_epoch: bool,
    /// From where to go on after this batch; a checkpoint keeps it.
    pub after: SamplerState,
    /// Images (n, 3, 112, 112): blue, green, red, in −1 to 1.
    pub images: Vec<f32>,
    /// Classes (n).
    pub labels: Vec<u32>,
    /// Which samples they are (n).
    pub indices: Vec<u32>,
    /// What was wrong with images that were left out.
    pub skipped: Vec<String>,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Batch(epoch {}, step {}, {} images)", self.epoch, self.step, self.labels.len())
    }
}

impl Batch {
    /// Images (n, 3, 112, 112) in f32 and labels (n) in u32.
    ///
    /// # Errors
    /// Those of candle, where the device has no room.
    pub fn into_tensors(self, device: &Device) -> candle_core::Result<(Tensor, Tensor)> {
        let count = self.labels.len();
        let images = Tensor::from_vec(self.images, (count, 3, SIDE, SIDE), device)?;
        Ok((images, Tensor::from_vec(self.labels, count, device)?))
    }
}

struct Queue {
    sampler: Sampler,
    /// Batches whose making has begun.
    begun: u64,
    /// Batches that have been handed out.
    taken: u64,
    made: BTreeMap<u64, Result<Batch, DataError>>,
    /// Number of batches, once it is known.
    end: Option<u64>,
    stop: bool,
    lost: bool,
}

struct Shared {
    dataset: Arc<dyn Dataset>,
    augment: AugmentConfig,
    config: LoaderConfig,
    seed: u64,
    queue: Mutex<Queue>,
    /// A batch was taken, or there are no more to make.
    room: Condvar,
    /// A batch was made, or there will be none.
    ready: Condvar,
}

/// An iterator over the batches of a sampler, in its order whatever the number of threads. After an error there is
/// nothing more. Dropping it stops the threads.
pub struct Loader {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Loader {
    /// Starts making batches. Augmentations are drawn from the sampler's seed.
    ///
    /// # Errors
    /// [`DataError::BadSetting`], [`DataError::ThreadLost`] where the system gives no thread.
    pub fn new(
        dataset: Arc<dyn Dataset>,
        sampler: Sampler,
        augment: AugmentConfig,
        config: LoaderConfig,
    ) -> Result<Self, DataError> {
        augment.check()?;
        config.check()?;
        let seed = sampler.state().seed;
        let queue = Queue { sampler, begun: 0, taken: 0, made: BTreeMap::new(), end: None, stop: false, lost: false };
        let (room, ready) = (Condvar::new(), Condvar::new());
        let shared = Arc::new(Shared { dataset, augment, config, seed, queue: Mutex::new(queue), room, ready });
        // Made before the threads, so that those that have started are stopped if another cannot.
        let mut loader = Self { shared, threads: Vec::new() };
        for number in 0..config.threads {
            let shared = loader.shared.clone();
            let thread = std::thread::Builder::new().name(format!("loader-{number}"));
            let started = thread.spawn(move || shared.work()).map_err(|_| DataError::ThreadLost)?;
            loader.threads.push(started);
        }
        Ok(loader)
    }
}

impl Iterator for Loader {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut queue = self.shared.queue.lock();
        loop {
            let wanted = queue.taken;
            if queue.end.is_some_and(|end| wanted >= end) {
                return None;
            }
            if let Some(batch) = queue.made.remove(&wanted) {
                queue.taken += 1;
                self.shared.room.notify_all();
                return Some(batch);
            }
            if queue.lost {
                queue.end = Some(wanted);
                return Some(Err(DataError::ThreadLost));
            }
            self.shared.ready.wait(&mut queue);
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.queue.lock().stop = true;
        self.shared.room.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so, and `next` has told of it.
            let _ = thread.join();
        }
    }
}

/// Tells whoever waits if a thread panics.
struct Watch<'a>(&'a Shared);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.queue.lock().lost = true;
            self.0.ready.notify_all();
            self.0.room.notify_all();
        }
    }
}

impl Shared {
    /// What each thread does.
    fn work(&self) {
        let _watch = Watch(self);
        while let Some((number, step)) = self.begin() {
            let batch = self.make(step);
            let mut queue = self.queue.lock();
            if batch.is_err() {
                // Earlier batches still come; of errors the first counts.
                queue.end = Some(queue.end.map_or(number + 1, |end| end.min(number + 1)));
                self.room.notify_all();
            }
            queue.made.insert(number, batch);
            self.ready.notify_all();
        }
    }

    /// The next step and its number, once there is room for it; none when there is nothing more to do.
    fn begin(&self) -> Option<(u64, Step)> {
        let room = self.config.ahead.max(self.config.threads) as u64;
        let mut queue = self.queue.lock();
        loop {
            if queue.stop || queue.lost || queue.end.is_some() {
                return None;
            }
            if queue.begun - queue.taken < room {
                break;
            }
            self.room.wait(&mut queue);
        }
        let number = queue.begun;
        match queue.sampler.next() {
            Some(step) => {
                queue.begun += 1;
                Some((number, step))
            }
            None => {
                queue.end = Some(number);
                self.ready.notify_all();
                self.room.notify_all();
                None
            }
        }
    }

    fn make(&self, step: Step) -> Result<Batch, DataError> {
        let Step { epoch, step, ends_epoch, indices, after } = step;
        let mut batch = Batch {
            epoch,
            step,
            ends_epoch,
            after,
            images: Vec::with_capacity(indices.len() * Crop::BYTES),
            labels: Vec::with_capacity(indices.len()),
            indices: Vec::with_capacity(indices.len()),
            skipped: Vec::new(),
        };
        for index in indices {
            match self.dataset.image(index as usize) {
                Ok(crop) => {
                    let mut random = stream(self.seed, epoch, u64::from(index));
                    augment(crop, &self.augment, &mut random).normalise_into(&mut batch.images);
                    batch.labels.push(self.dataset.label(index as usize));
                    batch.indices.push(index);
                }
                Err(error) if self.config.damaged == Damaged::Skip && error.is_one_image() => {
                    batch.skipped.push(error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        match batch.skipped.first() {
            Some(first) if batch.labels.is_empty() => Err(DataError::AllDamaged(batch.skipped.len(), first.clone())),
            _ => Ok(batch),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::data::SamplerConfig;
    use vultus_engine::image::DecodeError;

    /// Crops of one colour, some of them slow, some damaged, one of which no thread comes back.
    #[derive(Default)]
    struct Drawn {
        damaged: Vec<usize>,
        fatal: Option<usize>,
        read: AtomicUsize,
    }

    impl Dataset for Drawn {
        fn len(&self) -> usize {
            50
        }
        fn classes(&self) -> usize {
            5
        }
        fn label(&self, index: usize) -> u32 {
            index as u32 % 5
        }
        fn name(&self, index: usize) -> String {
            format!("drawn {index}")
        }
        fn image(&self, index: usize) -> Result<Crop, DataError> {
            self.read.fetch_add(1, Ordering::Relaxed);
            assert_ne!(self.fatal, Some(index), "this test's own panic");
            if index.is_multiple_of(7) {
                std::thread::sleep(Duration::from_millis(2));
            }
            if self.damaged.contains(&index) {
                return Err(DataError::Image { name: self.name(index), source: DecodeError::Empty });
            }
            Ok(Crop::from_bgr((0..Crop::BYTES).map(|at| (at * 7 + index * 31) as u8).collect()))
        }
    }

    fn loader(dataset: Arc<Drawn>, config: LoaderConfig) -> Loader {
        let settings = SamplerConfig { batch: 8, drop_last: false, epochs: Some(2), ..SamplerConfig::default() };
        let sampler = Sampler::new(3, settings, dataset.as_ref()).unwrap();
        Loader::new(dataset, sampler, AugmentConfig::default(), config).unwrap()
    }

    #[test]
    fn batches_are_the_same_for_any_number_of_threads() {
        let all = |threads, ahead| -> Vec<Batch> {
            let config = LoaderConfig { threads, ahead, ..LoaderConfig::default() };
            loader(Arc::default(), config).map(Result::unwrap).collect()
        };
        let one = all(1, 1);
        assert_eq!(one.len(), 14);
        assert_eq!(one.iter().map(|batch| batch.labels.len()).sum::<usize>(), 100);
        assert!(
            one.iter().all(|batch| batch.indices.iter().zip(&batch.labels).all(|(index, label)| index % 5 == *label))
        );
        for (threads, ahead) in [(2, 4), (3, 1), (8, 5)] {
            assert!(all(threads, ahead) == one, "{threads} threads, {ahead} ahead");
        }
        let (images, labels) = one[6].clone().into_tensors(&Device::Cpu).unwrap();
        assert_eq!((images.dims(), labels.dims()), (&[2, 3, 112, 112][..], &[2][..]));
        assert_eq!(images.flatten_all().unwrap().to_vec1::<f32>().unwrap(), one[6].images);
    }

    #[test]
    fn a_run_goes_on_after_any_batch() {
        let whole: Vec<Batch> = loader(Arc::default(), LoaderConfig::default()).map(Result::unwrap).collect();
        let settings = SamplerConfig { batch: 8, drop_last: false, epochs: Some(2), ..SamplerConfig::default() };
        let dataset: Arc<Drawn> = Arc::default();
        let sampler = Sampler::resume(whole[4].after, settings, dataset.as_ref()).unwrap();
        let rest = Loader::new(dataset, sampler, AugmentConfig::default(), LoaderConfig::default()).unwrap();
        assert!(rest.map(Result::unwrap).collect::<Vec<_>>() == whole[5..]);
    }

    #[test]
    fn a_damaged_image_ends_the_run_by_name() {
        let whole: Vec<Batch> = loader(Arc::default(), LoaderConfig::default()).map(Result::unwrap).collect();
        let (first, other) = (whole[2].indices[3], whole[3].indices[0]);
        for threads in [1, 4] {
            let dataset = Arc::new(Drawn { damaged: vec![first as usize, other as usize], ..Drawn::default() });
            let mut loader = loader(dataset, LoaderConfig { threads, ..LoaderConfig::default() });
            assert!(loader.by_ref().take(2).map(Result::unwrap).eq(whole[..2].iter().cloned()));
            let message = loader.next().unwrap().unwrap_err().to_string();
            assert_eq!(message, format!("drawn {first}: the image is empty"));
            assert!(loader.next().is_none());
        }
    }

    #[test]
    fn a_damaged_image_can_be_left_out() {
        let config = LoaderConfig { damaged: Damaged::Skip, ..LoaderConfig::default() };
        let batches: Vec<Batch> =
            loader(Arc::new(Drawn { damaged: vec![4, 9], ..Drawn::default() }), config).map(Result::unwrap).collect();
        assert_eq!(batches.iter().map(|batch| batch.labels.len()).sum::<usize>(), 96);
        let skipped: Vec<&String> = batches.iter().flat_map(|batch| &batch.skipped).collect();
        assert_eq!(skipped.len(), 4);
        assert!(skipped.iter().filter(|reason| reason.starts_with("drawn 9: ")).count() == 2);
        assert!(batches.iter().all(|batch| batch.images.len() == batch.labels.len() * Crop::BYTES));
        let all = Arc::new(Drawn { damaged: (0..50).collect(), ..Drawn::default() });
        let message = loader(all, config).next().unwrap().unwrap_err().to_string();
        assert!(message.starts_with("all 8 images are damaged, the first: drawn "), "{message}");
    }

    #[test]
    fn it_makes_no_more_than_asked_ahead_and_stops_when_dropped() {
        let dataset: Arc<Drawn> = Arc::default();
        let mut loader = loader(dataset.clone(), LoaderConfig { threads: 2, ahead: 2, damaged: Damaged::Stop });
        loader.next().unwrap().unwrap();
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(dataset.read.load(Ordering::Relaxed), 24);
        drop(loader);
        assert_eq!(Arc::strong_count(&dataset), 1);
    }

    #[test]
    fn every_thread_has_a_batch_to_make() {
        let dataset: Arc<Drawn> = Arc::default();
        let _loader = loader(dataset.clone(), LoaderConfig { threads: 4, ahead: 1, damaged: Damaged::Stop });
        let begun = Instant::now();
        while dataset.read.load(Ordering::Relaxed) < 32 {
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?} images read", dataset.read);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_lost_thread_is_told_of() {
        let dataset = Arc::new(Drawn { fatal: Some(11), ..Drawn::default() });
        let mut loader = loader(dataset, LoaderConfig::default());
        let last = loader.by_ref().last().unwrap();
        assert!(matches!(last, Err(DataError::ThreadLost)));
        assert!(loader.next().is_none());
    }

    #[test]
    fn settings_are_checked() {
        let dataset: Arc<Drawn> = Arc::default();
        let sampler =
            Sampler::new(3, SamplerConfig { batch: 8, ..SamplerConfig::default() }, dataset.as_ref()).unwrap();
        for (threads, ahead) in [(0, 1), (1, 0)] {
            let config = LoaderConfig { threads, ahead, damaged: Damaged::Stop };
            assert!(Loader::new(dataset.clone(), sampler.clone(), AugmentConfig::default(), config).is_err());
        }
    }
}
