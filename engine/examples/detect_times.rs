//! Milliseconds a photo with each detector.
//!
//! ```text
//! cargo run --release -p vultus-engine --example detect_times -- SIZE ROUNDS PHOTO...
//! ```
//!
//! Photos are scaled to SIZE by SIZE pixels. Prints, for each detector and photo, the faces found and the median and least
//! time over the rounds. `VULTUS_KERNELS` chooses the instruction set, `RAYON_NUM_THREADS` the threads.

use std::time::Instant;

use candle_core::Device;
use image::imageops::FilterType;
use vultus_engine::detect::{DetectOptions, Detector, DetectorKind, Detectors};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [size, rounds, photos @ ..] = &arguments[..] else { return Err("detect_times SIZE ROUNDS PHOTO...".into()) };
    let (size, rounds): (u32, usize) = (size.parse()?, rounds.parse::<usize>()?.max(1));
    let detectors = Detectors::embedded(&Device::Cpu)?;
    for path in photos {
        let photo = image::open(path)?.resize_exact(size, size, FilterType::Triangle).to_rgb8();
        for detector in [DetectorKind::Yunet, DetectorKind::Mtcnn, DetectorKind::MtcnnCompat] {
            let options = DetectOptions { detector, ..DetectOptions::default() };
            let found = detectors.detect(&[&photo], &options)?[0].len();
            let mut times: Vec<f64> = Vec::with_capacity(rounds);
            for _ in 0..rounds {
                let start = Instant::now();
                detectors.detect(&[&photo], &options)?;
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
            times.sort_by(f64::total_cmp);
            println!(
                "{path} {size} {detector:?}: {found} faces, median {:.2} ms, least {:.2} ms",
                times[rounds / 2],
                times[0]
            );
        }
    }
    Ok(())
}
