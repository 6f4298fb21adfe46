//! Detection and recognition on one machine, with inputs made of numbers.
//!
//! `cargo bench -p vultus-engine --bench inference`; threads as rayon finds them, or `RAYON_NUM_THREADS`.

use std::hint::black_box;

use candle_core::Device;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use image::{Rgb, RgbImage};
use vultus_engine::align::{AlignedCrop, SIZE};
use vultus_engine::detect::{DetectOptions, Detector, DetectorKind, Detectors};
use vultus_engine::model::Model;

/// Blocks of pseudo-random colour, the same on every run.
fn picture(width: u32, height: u32, seed: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let mut value = (x / 4).wrapping_mul(0x9e37_79b1) ^ (y / 4).wrapping_mul(0x85eb_ca6b) ^ seed;
        value = (value ^ (value >> 13)).wrapping_mul(0xc2b2_ae35);
        Rgb([(value >> 24) as u8, (value >> 16) as u8, (value >> 8) as u8])
    })
}

fn detect(criterion: &mut Criterion) {
    let detectors = Detectors::embedded(&Device::Cpu).expect("the embedded detectors load");
    let mut group = criterion.benchmark_group("detect");
    group.sample_size(20);
    for (detector, prefix) in [(DetectorKind::Yunet, ""), (DetectorKind::Mtcnn, "mtcnn/")] {
        let options = DetectOptions { detector, ..DetectOptions::default() };
        for (width, height) in [(250, 250), (640, 640), (4000, 3000)] {
            let photo = picture(width, height, 1);
            group.bench_function(format!("{prefix}{width}x{height}"), |bencher| {
                bencher.iter(|| detectors.detect(black_box(&[&photo]), &options).expect("detection runs"));
            });
        }
    }
    group.finish();
}

fn embed(criterion: &mut Criterion) {
    let model = Model::embedded(false, &Device::Cpu).expect("the embedded model loads");
    let mut group = criterion.benchmark_group("embed");
    group.sample_size(20);
    for batch in [1u32, 8] {
        let crop = |seed| AlignedCrop::new(picture(SIZE, SIZE, seed)).expect("the size is right");
        let crops: Vec<AlignedCrop> = (0..batch).map(crop).collect();
        group.throughput(Throughput::Elements(u64::from(batch)));
        group.bench_with_input(BenchmarkId::new("batch", batch), &crops, |bencher, crops| {
            bencher.iter(|| model.extract(black_box(crops)).expect("the network runs"));
        });
    }
    group.finish();
}

criterion_group!(benches, detect, embed);
criterion_main!(benches);
