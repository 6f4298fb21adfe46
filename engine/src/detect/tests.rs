//! Detection against reference values, its twin, and over large photos.

use std::path::{Path, PathBuf};

use image::Rgb;
use serde::Deserialize;

use super::pyramid::{Plan, scan_with};
use super::*;

fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(path);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is missing", path.display());
    None
}

fn open(path: &Path) -> RgbImage {
    image::open(path).unwrap().to_rgb8()
}

fn detector() -> YuNetDetector {
    YuNetDetector::embedded(&Device::Cpu).unwrap()
}

#[derive(Deserialize)]
struct Golden {
    images: std::collections::BTreeMap<String, GoldenPhoto>,
}

#[derive(Deserialize)]
struct GoldenPhoto {
    file: String,
    runs: Vec<GoldenRun>,
}

#[derive(Deserialize)]
struct GoldenRun {
    score_threshold: f32,
    nms_threshold: f32,
    faces: Vec<GoldenFace>,
}

#[derive(Deserialize)]
struct GoldenFace {
    box_xywh: [f32; 4],
    landmarks: [[f32; 2]; 5],
    score: f32,
}

#[test]
fn faces_agree_with_opencv() {
    let Some(folder) = shared("golden/models/yunet") else { return };
    let golden: Golden =
        serde_json::from_str(&std::fs::read_to_string(folder.join("detections.json")).unwrap()).unwrap();
    let detector = detector();
    let (mut count, mut worst_px, mut worst_score) = (0, 0f32, 0f32);
    for (name, photo) in &golden.images {
        let image = open(&folder.join(&photo.file));
        for run in &photo.runs {
            let options =
                DetectOptions { min_score: run.score_threshold, nms: run.nms_threshold, ..Default::default() };
            let found = detector.detect(&[&image], &options).unwrap().remove(0);
            assert_eq!(found.len(), run.faces.len(), "{name} at {}", run.score_threshold);
            for (found, expected) in found.iter().zip(&run.faces) {
                let [x, y, width, height] = expected.box_xywh;
                let bbox = found.bbox;
                let mut pairs = vec![(bbox.x1, x), (bbox.y1, y), (bbox.width(), width), (bbox.height(), height)];
                for (found, expected) in found.landmarks.0.iter().zip(&expected.landmarks) {
                    pairs.extend([(found[0], expected[0]), (found[1], expected[1])]);
                }
                worst_px = pairs.iter().fold(worst_px, |worst, (a, b)| worst.max((a - b).abs()));
                worst_score = worst_score.max((found.score - expected.score).abs());
                count += 1;
            }
        }
    }
    println!("{count} faces, boxes and landmarks within {worst_px:.1e} px, scores within {worst_score:.1e}");
    assert_eq!(count, 183);
    assert!(worst_px < 0.01 && worst_score < 1e-5);
}

#[test]
fn raw_heads_and_stages_agree_with_the_published_network() {
    let Some(folder) = shared("golden/models/yunet") else { return };
    let golden = candle_core::safetensors::load(folder.join("raw_heads.safetensors"), &Device::Cpu).unwrap();
    let mut worst = 0f32;
    for arithmetic in [Arithmetic::Kernels, Arithmetic::Stock, Arithmetic::Gpu] {
        let detector = YuNetDetector::embedded_with(&Device::Cpu, arithmetic).unwrap();
        for name in ["img1", "lfw_Colin_Powell_0005"] {
            let photo = open(&folder.join(format!("{name}.png")));
            let heads = detector.network().forward(&detector.network().input(&[&photo]).unwrap()).unwrap();
            for (stride, head) in yunet::STRIDES.iter().zip(heads) {
                let cells = head.flatten(0, 2).unwrap().to_vec2::<f32>().unwrap();
                let mut from = 0;
                for (part, channels) in yunet::HEADS {
                    let expected = golden[&format!("{name}.{part}_{stride}")].flatten_all().unwrap();
                    let expected = expected.to_vec1::<f32>().unwrap();
                    assert_eq!(expected.len(), cells.len() * channels);
                    for (cell, expected) in cells.iter().zip(expected.chunks(channels)) {
                        for (found, expected) in cell[from..from + channels].iter().zip(expected) {
                            let found = if channels == 1 { decode::sigmoid(*found) } else { *found };
                            worst = worst.max((found - expected).abs());
                        }
                    }
                    from += channels;
                }
            }
        }
    }
    println!("raw heads within {worst:.1e}");
    assert!(worst < 1e-4);
    stages_agree(&folder);
}

#[derive(Deserialize)]
struct Stages {
    blocks: Vec<Stage>,
}

#[derive(Deserialize)]
struct Stage {
    layer: String,
    mean: f32,
    first5: Vec<f32>,
    last5: Vec<f32>,
}

fn stages_agree(folder: &Path) {
    let file = std::fs::read_to_string(folder.join("layers_img1.json")).unwrap();
    let stages: Stages = serde_json::from_str(&file).unwrap();
    let detector = detector();
    let mut outputs = std::collections::HashMap::new();
    let input = detector.network().input(&[&open(&folder.join("img1.png"))]).unwrap();
    let mut tap = |name: &str, x: &candle_core::Tensor| {
        outputs.insert(name.to_owned(), x.flatten_all()?.to_vec1::<f32>()?);
        Ok(())
    };
    detector.network().forward_tapped(&input, &mut tap).unwrap();
    for stage in &stages.blocks {
        let values = &outputs[&stage.layer];
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
        assert!((mean as f32 - stage.mean).abs() < 1e-3, "{}", stage.layer);
        let ends = values[..5].iter().zip(&stage.first5).chain(values[values.len() - 5..].iter().zip(&stage.last5));
        for (found, expected) in ends {
            assert!((found - expected).abs() < 1e-3, "{}: {found} {expected}", stage.layer);
        }
    }
}

/// A picture without photos: blocks of pseudo-random colour.
fn synthetic(width: u32, height: u32, seed: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let mut value = (x / 8).wrapping_mul(0x9e37_79b1) ^ (y / 8).wrapping_mul(0x85eb_ca6b) ^ seed;
        value = (value ^ (value >> 13)).wrapping_mul(0xc2b2_ae35);
        Rgb([(value >> 24) as u8, (value >> 16) as u8, (value >> 8) as u8])
    })
}

#[test]
fn kernels_and_stock_operations_agree() {
    let stock = YuNetDetector::embedded_with(&Device::Cpu, Arithmetic::Stock).unwrap();
    let photos = [synthetic(100, 61, 1), synthetic(100, 61, 2)];
    let stack: Vec<&RgbImage> = photos.iter().collect();
    let input = stock.network().input(&stack).unwrap();
    assert_eq!(input.dims(), [2, 3, 64, 128]);
    let expected = stock.network().forward(&input).unwrap();
    let found = detector().network().forward(&input).unwrap();
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found.dims(), expected.dims());
        let difference = (found - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(difference < 1e-4, "{difference}");
    }
}

#[test]
fn tiny_photos_have_no_faces() {
    let photos: Vec<RgbImage> =
        [(0, 0), (1, 1), (5, 3), (1, 2000), (3000, 1), (31, 33)].map(|(w, h)| synthetic(w, h, 3)).into();
    let found = detector().detect(&photos.iter().collect::<Vec<_>>(), &DetectOptions::default()).unwrap();
    assert_eq!(found, vec![vec![]; photos.len()]);
    assert!(detector().detect(&[], &DetectOptions::default()).unwrap().is_empty());
}

#[test]
fn photos_together_give_what_each_gives_alone() {
    let Some(folder) = shared("golden/models/yunet") else { return };
    let names = ["lfw_Colin_Powell_0005", "office2", "lfw_Laura_Bush_0007", "lfw_Hu_Jintao_0003", "img2"];
    let photos: Vec<RgbImage> = names.iter().map(|name| open(&folder.join(format!("{name}.png")))).collect();
    let detector = detector();
    let options = DetectOptions::default();
    let together = detector.detect(&photos.iter().collect::<Vec<_>>(), &options).unwrap();
    for (photo, found) in photos.iter().zip(&together) {
        let alone = detector.detect(&[photo], &options).unwrap().remove(0);
        assert!(!found.is_empty());
        assert_eq!(found.len(), alone.len());
        for (a, b) in found.iter().zip(&alone) {
            assert!(a.bbox.iou(&b.bbox) > 0.999);
        }
    }
    let most = DetectOptions { max_faces: Some(1), ..options };
    let best = detector.detect(&[&photos[1]], &most).unwrap().remove(0);
    assert_eq!(best, together[1][..1]);
    let large = DetectOptions { min_size_px: 1000.0, ..options };
    assert!(detector.detect(&[&photos[1]], &large).unwrap()[0].is_empty());
}

/// A face of a golden photo, cut out with its surroundings and scaled so that its box is `face_px` high.
fn face_of_height(folder: &Path, name: &str, face_px: f32) -> RgbImage {
    let photo = open(&folder.join(format!("{name}.png")));
    let face = detector().detect(&[&photo], &DetectOptions::default()).unwrap().remove(0)[0];
    let scale = face_px / face.bbox.height();
    let side = |side: u32| ((side as f32 * scale).round() as u32).max(1);
    let filter = image::imageops::FilterType::Triangle;
    image::imageops::resize(&photo, side(photo.width()), side(photo.height()), filter)
}

fn paste(canvas: &mut RgbImage, picture: &RgbImage, x: i64, y: i64) {
    image::imageops::replace(canvas, picture, x, y);
}

#[test]
fn small_and_large_faces_are_found_in_a_large_photo() {
    let Some(folder) = shared("golden/models/yunet") else { return };
    let mut canvas = synthetic(4000, 3000, 9);
    for value in canvas.iter_mut() {
        *value = 90 + *value / 8; // a quiet background
    }
    let small = face_of_height(&folder, "lfw_Laura_Bush_0007", 24.0);
    // Also across the edges of tiles, which lie at multiples of 1088.
    let places = [(700, 900), (1150, 400), (2300, 2220), (3900, 2900)];
    for (x, y) in places {
        paste(&mut canvas, &small, x, y);
    }
    let large = face_of_height(&folder, "lfw_Colin_Powell_0005", 900.0);
    paste(&mut canvas, &large, 100, 1100);
    let found = detector().detect(&[&canvas], &DetectOptions::default()).unwrap().remove(0);
    for (x, y) in places {
        let near = |face: &&DetectedFace| {
            let [cx, cy] = face.bbox.centre();
            // In the middle of the pasted photo, whose corner shows half of somebody else.
            let middle = |at: f32, low: i64, size: u32| (at - low as f32 - size as f32 / 2.0).abs() < size as f32 / 5.0;
            middle(cx, x, small.width()) && middle(cy, y, small.height()) && face.bbox.height() < 40.0
        };
        assert_eq!(found.iter().filter(near).count(), 1, "small face at {x}, {y}: {found:?}");
    }
    assert_eq!(found.iter().filter(|face| face.bbox.height() > 600.0).count(), 1, "{found:?}");
}

#[test]
fn a_tiled_scan_equals_an_untiled_one() {
    let Some(folder) = shared("golden/models/yunet") else { return };
    let detector = detector();
    let whole = Plan { coarse_px: u32::MAX, ..Plan::default() };
    // Without coarser levels, so that tiling alone is compared.
    let tiled = Plan { tile_px: 512, ..whole };
    let options = DetectOptions::default();
    let mut count = 0;
    for name in ["office1", "office2", "office3", "office4", "office5"] {
        let photo = open(&folder.join(format!("{name}.png")));
        let expected = scan_with(detector.network(), &[&photo], &options, &whole).unwrap().remove(0);
        let found = scan_with(detector.network(), &[&photo], &options, &tiled).unwrap().remove(0);
        assert_eq!(found.len(), expected.len(), "{name}");
        for face in &expected {
            let best = found.iter().map(|other| other.bbox.iou(&face.bbox)).fold(0.0, f32::max);
            assert!(best > 0.9, "{name}: {face:?}");
        }
        count += found.len();
    }
    assert!(count > 20);
}
