//! Images a second that the loader makes, for some numbers of threads.
//!
//! ```text
//! cargo run --release -p vultus-train --example loader_speed -- train.rec|FOLDER [THREADS]...
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use vultus_train::data::{
    AugmentConfig, DataError, Dataset, FolderDataset, Loader, LoaderConfig, RecordDataset, Sampler, SamplerConfig,
};

const BATCH: usize = 128;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: loader_speed train.rec|FOLDER [THREADS]...")?;
    let threads: Vec<usize> = arguments.map(|argument| argument.parse()).collect::<Result<_, _>>()?;
    let path = Path::new(&path);
    let dataset: Arc<dyn Dataset> =
        if path.is_dir() { Arc::new(FolderDataset::open(path)?) } else { Arc::new(RecordDataset::open(path)?) };
    println!("{} images of {} identities", dataset.len(), dataset.classes());
    for (name, augment) in [("as they are", AugmentConfig::none()), ("augmented", AugmentConfig::default())] {
        for &threads in if threads.is_empty() { &[1, 2][..] } else { &threads } {
            println!("{threads} threads, {name}: {:.0} images/s", speed(&dataset, augment, threads)?);
        }
    }
    Ok(())
}

/// Images a second over two epochs, of which the first is not counted: it brings the files into memory.
fn speed(dataset: &Arc<dyn Dataset>, augment: AugmentConfig, threads: usize) -> Result<f64, DataError> {
    let batch = BATCH.min(dataset.len());
    let settings = SamplerConfig { batch, epochs: Some(2), ..SamplerConfig::default() };
    let sampler = Sampler::new(1, settings, dataset.as_ref())?;
    let loader = Loader::new(
        dataset.clone(),
        sampler,
        augment,
        LoaderConfig { threads, ahead: threads, ..LoaderConfig::default() },
    )?;
    let (mut start, mut images) = (None, 0);
    for batch in loader {
        let batch = batch?;
        if start.is_some() {
            images += batch.labels.len();
        } else if batch.ends_epoch {
            start = Some(Instant::now());
        }
    }
    Ok(images as f64 / start.map_or(f64::NAN, |start| start.elapsed().as_secs_f64()))
}
