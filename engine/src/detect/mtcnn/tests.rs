//! The cascade against the published code, stage by stage, and against its own twin.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;

use super::boxes::Candidate;
use super::*;
use crate::align::{align_compat, compat_transform};

fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(path);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is missing", path.display());
    None
}

fn mtcnn() -> Mtcnn {
    Mtcnn::embedded(&Device::Cpu).unwrap()
}

/// Reference values of one photo.
struct Golden<'a> {
    tensors: &'a HashMap<String, Tensor>,
    photo: &'a str,
}

impl Golden<'_> {
    fn rows(&self, name: &str) -> Vec<Vec<f64>> {
        let tensor = self.tensors[&format!("{}/{name}", self.photo)].to_dtype(candle_core::DType::F64).unwrap();
        if tensor.rank() == 1 { vec![tensor.to_vec1().unwrap()] } else { tensor.flatten_from(1).unwrap().to_vec2().unwrap() }
    }

    /// Largest difference of the corners from the first four values of each row; the rows must be as many.
    #[track_caller]
    fn corners(&self, name: &str, found: &[Candidate]) -> f64 {
        let expected = self.rows(name);
        assert_eq!(found.len(), expected.len(), "{} {name}", self.photo);
        let pairs = found.iter().zip(&expected).flat_map(|(found, row)| found.corners.into_iter().zip(row));
        pairs.fold(0.0, |worst, (found, expected)| worst.max((found - expected).abs()))
    }
}

#[test]
fn every_stage_agrees_with_the_published_code() {
    let Some(folder) = shared("golden/mtcnn") else { return };
    let mtcnn = mtcnn();
    for (file, form) in [("mtcnn", Form::Compat), ("mtcnn_dim1fix", Form::Correct)] {
        let tensors = folder.with_file_name(format!("{file}.safetensors"));
        let tensors = candle_core::safetensors::load(tensors, &Device::Cpu).unwrap();
        let mut photos: Vec<&str> = tensors.keys().filter_map(|key| key.strip_suffix("/boxes")).collect();
        photos.sort_unstable();
        let (mut faces, mut box_px, mut landmark_px, mut score, mut transform, mut grey) = (0, 0f64, 0f64, 0f64, 0f64, 0f64);
        for name in photos {
            let golden = Golden { tensors: &tensors, photo: name };
            let photo = image::open(folder.join(format!("{name}_decoded.png"))).unwrap().to_rgb8();
            let scales = cascade::scales(photo.width(), photo.height(), cascade::MIN_FACE_PX);
            assert_eq!(scales, golden.rows("scales")[0], "{name}");
            let propose = |scale: &f64| cascade::propose(&mtcnn.networks, &photo, form, *scale).unwrap();
            let levels: Vec<Vec<Candidate>> = scales.iter().map(propose).collect();
            let counts: Vec<f64> = levels.iter().map(|level| level.len() as f64).collect();
            assert_eq!(counts, golden.rows("pnet_counts")[0], "{name}");
            let all: Vec<Candidate> = levels.iter().flatten().copied().collect();
            assert_eq!(golden.corners("pnet_all", &all), 0.0, "{name}");
            let merged = cascade::merge(levels);
            assert_eq!(golden.corners("pnet_nms", &merged), 0.0, "{name}");
            let proposed = cascade::next(merged);
            assert_eq!(golden.corners("stage1", &proposed), 0.0, "{name}");
            let refined = cascade::next(cascade::refine(&mtcnn.networks, &photo, proposed).unwrap());
            assert_eq!(golden.corners("stage2", &refined), 0.0, "{name}");
            let found = cascade::finish(&mtcnn.networks, &photo, refined).unwrap();
            let options = DetectOptions { min_score: 0.0, ..Default::default() };
            assert_eq!(mtcnn.detect_one(&photo, form, &options).unwrap(), found);

            let (boxes, landmarks) = (golden.rows("boxes"), golden.rows("landmarks"));
            let (transforms, crops) = (golden.rows("tfm"), golden.rows("crops_rgb_u8"));
            assert_eq!(found.len(), boxes.len(), "{name}");
            faces += found.len();
            for (index, face) in found.iter().enumerate() {
                let corners = [face.bbox.x1, face.bbox.y1, face.bbox.x2, face.bbox.y2].map(f64::from);
                box_px = worst(box_px, &corners, &boxes[index][..4]);
                score = score.max((f64::from(face.score) - boxes[index][4]).abs());
                let places: Vec<f64> =
                    [0, 1].iter().flat_map(|axis| face.landmarks.0.map(|point| f64::from(point[*axis]))).collect();
                landmark_px = worst(landmark_px, &places, &landmarks[index]);
                let matrix = compat_transform(&face.landmarks).unwrap();
                transform = worst(transform, matrix.as_flattened(), &transforms[index]);
                let crop = align_compat(&photo, &face.landmarks).unwrap().into_image().into_raw();
                let differences = crop.iter().zip(&crops[index]).map(|(a, b)| (f64::from(*a) - b).abs());
                grey = grey.max(differences.sum::<f64>() / crop.len() as f64);
            }
        }
        println!(
            "{form:?}: {faces} faces, boxes within {box_px:.1e} px, landmarks {landmark_px:.1e} px, scores {score:.1e}, \
             transforms {transform:.1e}, crops {grey:.4} grey levels on average"
        );
        assert_eq!(faces, if form == Form::Compat { 34 } else { 63 });
        assert!(box_px < 0.5 && landmark_px < 0.3 && score < 1e-4 && transform < 1e-2 && grey <= 1.0);
    }
}

fn worst(worst: f64, found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).fold(worst, |worst, (found, expected)| worst.max((found - expected).abs()))
}
