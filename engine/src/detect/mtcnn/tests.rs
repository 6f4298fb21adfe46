//! The cascade against the published code, stage by stage, and against its own twin.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::boxes::Candidate;
use super::pillow::{Scaled, Window};
use super::*;
use crate::align::{align_compat, compat_transform};
use crate::face::Landmarks;

const REFERENCE: &str = include_str!("../../../tests/data/mtcnn/reference.json");
const DRAWN: &[u8] = include_bytes!("../../../tests/data/mtcnn/drawn.png");

#[derive(Deserialize)]
struct Reference {
    faces: HashMap<String, Vec<ReferenceFace>>,
    transforms: Vec<ReferenceTransform>,
    networks: HashMap<String, ReferenceNetwork>,
    resize: Vec<ReferenceResize>,
}

#[derive(Deserialize)]
struct ReferenceFace {
    #[serde(rename = "box")]
    corners: [f64; 4],
    score: f64,
    landmarks: [[f64; 2]; 5],
    transform: [[f64; 3]; 2],
}

#[derive(Deserialize)]
struct ReferenceTransform {
    landmarks: [[f32; 2]; 5],
    transform: [[f64; 3]; 2],
}

#[derive(Deserialize)]
struct ReferenceNetwork {
    size: [u32; 2],
    columns: usize,
    values: Vec<f64>,
}

#[derive(Deserialize)]
struct ReferenceResize {
    source: [u32; 2],
    target: [usize; 2],
    window: Option<(i64, i64, usize, usize)>,
    sha256: String,
    #[serde(default)]
    values: Vec<u8>,
}

fn reference() -> Reference {
    serde_json::from_str(REFERENCE).unwrap()
}

fn drawn() -> RgbImage {
    image::load_from_memory(DRAWN).unwrap().to_rgb8()
}

/// See the README beside the reference values.
fn pattern(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let value = |c: u32| ((3 * x * x + 7 * y + 50 * c + 9 * (x * y % 13) + x * (c + 1)) % 256) as u8;
        image::Rgb([value(0), value(1), value(2)])
    })
}

fn mtcnn() -> Mtcnn {
    Mtcnn::embedded(&Device::Cpu).unwrap()
}

fn form(name: &str) -> Form {
    if name == "compat" { Form::Compat } else { Form::Correct }
}

fn worst(worst: f64, found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).fold(worst, |worst, (found, expected)| worst.max((found - expected).abs()))
}

fn corners(face: &DetectedFace) -> [f64; 4] {
    [face.bbox.x1, face.bbox.y1, face.bbox.x2, face.bbox.y2].map(f64::from)
}

#[test]
fn resizing_is_pillows_to_the_bit() {
    for ReferenceResize { source: [width, height], target: [columns, rows], window, sha256, values } in
        reference().resize
    {
        let photo = pattern(width, height);
        let abreast = Abreast::of(&photo);
        let scaled = match window {
            None => Scaled::whole(&abreast, columns, rows),
            Some((left, top, width, height)) => {
                Scaled::window(&photo, Window { left, top, width, height }, columns, rows)
            }
        };
        let whole = scaled.rows(0..rows);
        if !values.is_empty() {
            assert_eq!(whole, values, "{width}x{height} to {columns}x{rows}");
        }
        let hash: String = Sha256::digest(&whole).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash, sha256, "{width}x{height} to {columns}x{rows}");
        // Bands put together are the whole.
        let bands: Vec<u8> = (0..rows).step_by(5).flat_map(|row| scaled.rows(row..(row + 5).min(rows))).collect();
        assert_eq!(bands, whole);
    }
}

#[test]
fn networks_agree_with_pytorch_in_both_implementations() {
    for arithmetic in [Arithmetic::Kernels, Arithmetic::Stock] {
        let networks = Mtcnn::embedded_with(&Device::Cpu, arithmetic).unwrap().networks;
        for (name, ReferenceNetwork { size: [width, height], columns, values }) in reference().networks {
            let photo = pattern(width, height);
            let (found, found_columns) = match name.as_str() {
                "pnet" => {
                    let answers = networks.propose(photo.as_raw(), width as usize).unwrap();
                    (answers.values.concat(), answers.columns)
                }
                "rnet" => (networks.refine(photo.as_raw()).unwrap().values.concat(), 1),
                _ => (networks.output(photo.as_raw()).unwrap().values.concat(), 1),
            };
            assert_eq!(found_columns, columns);
            let found: Vec<f64> = found.into_iter().map(f64::from).collect();
            let largest = values.iter().fold(1f64, |largest, value| largest.max(value.abs()));
            assert!(worst(0.0, &found, &values) < 1e-5 * largest, "{name} {arithmetic:?}");
        }
    }
}

#[test]
fn drawn_faces_are_those_of_the_published_code() {
    let photo = drawn();
    for (name, expected) in reference().faces {
        for arithmetic in [Arithmetic::Kernels, Arithmetic::Stock] {
            let mtcnn = Mtcnn::embedded_with(&Device::Cpu, arithmetic).unwrap();
            let found = mtcnn.detect_one(&photo, form(&name), &DetectOptions::default()).unwrap();
            assert_eq!(found.len(), expected.len(), "{name}");
            for (face, expected) in found.iter().zip(&expected) {
                let landmarks = face.landmarks.0.map(|point| point.map(f64::from));
                assert!(worst(0.0, &corners(face), &expected.corners) < 0.01, "{name}");
                assert!(worst(0.0, landmarks.as_flattened(), expected.landmarks.as_flattened()) < 0.01, "{name}");
                assert!((f64::from(face.score) - expected.score).abs() < 1e-4);
                let transform = compat_transform(&face.landmarks).unwrap();
                assert!(worst(0.0, transform.as_flattened(), expected.transform.as_flattened()) < 0.05, "{name}");
            }
        }
    }
}

#[test]
fn options_choose_among_the_faces() {
    let (mtcnn, photo) = (mtcnn(), drawn());
    let all = DetectOptions::default();
    let detect = |options| mtcnn.detect_one(&photo, Form::Correct, &options).unwrap();
    let found = detect(all);
    assert_eq!(found.len(), 4);
    assert_eq!(detect(DetectOptions { max_faces: Some(2), ..all }), found[..2]);
    assert_eq!(detect(DetectOptions { min_score: 0.99999, ..all }), found[..2]);
    assert_eq!(detect(DetectOptions { min_size_px: 12.0, ..all }), found, "below the smallest face of the networks");
    let large = detect(DetectOptions { min_size_px: 30.0, ..all });
    assert_eq!(large.len(), 2);
    assert!(large.iter().all(|face| face.bbox.width() >= 30.0));
    assert!(detect(DetectOptions { min_size_px: f32::INFINITY, ..all }).is_empty());
}

#[test]
fn odd_pictures_have_no_faces_and_no_surprises() {
    let mtcnn = mtcnn();
    for (width, height) in [(0, 0), (1, 1), (19, 400), (20, 20), (21, 300), (900, 22), (64, 64)] {
        for form in [Form::Compat, Form::Correct] {
            let found = mtcnn.detect_one(&pattern(width, height), form, &DetectOptions::default()).unwrap();
            assert!(found.is_empty(), "{width}x{height}: {found:?}");
        }
    }
}

/// Boxes that the first stage put beyond the photo, wholly or in part, are handed to the later stages.
#[test]
fn boxes_beyond_the_photo_are_left_out() {
    let (mtcnn, photo) = (mtcnn(), drawn());
    let candidate = |corners| Candidate { corners, score: 0.9, offsets: [0.0; 4] };
    let face = candidate([20.0, 14.0, 89.0, 83.0]);
    let beyond =
        [[-80.0, 10.0, -11.0, 79.0], [220.0, 0.0, 289.0, 69.0], [10.0, 500.0, 79.0, 569.0], [9.0, 9.0, 8.0, 8.0]];
    let run = |boxes: Vec<Candidate>| {
        let refined = cascade::refine(&mtcnn.networks, &photo, boxes).unwrap();
        cascade::finish(&mtcnn.networks, &photo, cascade::next(refined)).unwrap()
    };
    let alone = run(vec![face]);
    assert_eq!(alone.len(), 1);
    assert_eq!(run(beyond.map(candidate).into_iter().chain([face]).collect()), alone);
    assert!(run(beyond.map(candidate).to_vec()).is_empty());
}

#[test]
fn published_transforms_may_mirror() {
    let mut mirrored = 0;
    for ReferenceTransform { landmarks, transform } in reference().transforms {
        let found = compat_transform(&Landmarks(landmarks)).unwrap();
        assert!(worst(0.0, found.as_flattened(), transform.as_flattened()) < 1e-3);
        mirrored += usize::from(found[0][0] * found[1][1] - found[0][1] * found[1][0] < 0.0);
        let crop = align_compat(&pattern(600, 500), &Landmarks(landmarks)).unwrap();
        assert!(crop.image().as_raw().iter().any(|value| *value != 0));
    }
    assert_eq!(mirrored, 3);
    for broken in [[[50.0, 50.0]; 5], [[f32::NAN; 2]; 5]] {
        assert!(align_compat(&pattern(60, 50), &Landmarks(broken)).is_err());
    }
}

fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(path);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is missing", path.display());
    None
}

/// Reference values of one photo.
struct Golden<'a> {
    tensors: &'a HashMap<String, Tensor>,
    photo: &'a str,
}

impl Golden<'_> {
    fn rows(&self, name: &str) -> Vec<Vec<f64>> {
        let tensor = self.tensors[&format!("{}/{name}", self.photo)].to_dtype(candle_core::DType::F64).unwrap();
        if tensor.rank() == 1 {
            vec![tensor.to_vec1().unwrap()]
        } else {
            tensor.flatten_from(1).unwrap().to_vec2().unwrap()
        }
    }

    /// How many boxes of a stage are not among the reference's, or the other way round. Their order is that of scores
    /// which can differ in the last bit.
    fn strangers(&self, name: &str, found: &[Candidate]) -> usize {
        let key = |corners: &[f64]| corners.iter().map(|corner| *corner as i64).collect::<Vec<_>>();
        let mut balance: HashMap<Vec<i64>, i64> = HashMap::new();
        found.iter().for_each(|found| *balance.entry(key(&found.corners)).or_default() += 1);
        self.rows(name).iter().for_each(|row| *balance.entry(key(&row[..4])).or_default() -= 1);
        balance.values().map(|count| count.unsigned_abs() as usize).sum()
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
        let (mut strangers, mut seen) = (0, 0);
        let (mut faces, mut box_px, mut landmark_px, mut score, mut transform, mut grey) =
            (0, 0f64, 0f64, 0f64, 0f64, 0f64);
        for name in photos {
            let golden = Golden { tensors: &tensors, photo: name };
            let photo = image::open(folder.join(format!("{name}_decoded.png"))).unwrap().to_rgb8();
            let scales = cascade::scales(photo.width(), photo.height(), cascade::MIN_FACE_PX);
            assert_eq!(scales, golden.rows("scales")[0], "{name}");
            let rows = Abreast::of(&photo);
            let propose = |scale: &f64| cascade::propose(&mtcnn.networks, &rows, form, *scale).unwrap();
            let levels: Vec<Vec<Candidate>> = scales.iter().map(propose).collect();
            let counts: Vec<f64> = levels.iter().map(|level| level.len() as f64).collect();
            assert_eq!(counts, golden.rows("pnet_counts")[0], "{name}");
            let all: Vec<Candidate> = levels.iter().flatten().copied().collect();
            strangers += golden.strangers("pnet_all", &all);
            seen += all.len();
            let merged = cascade::merge(levels);
            strangers += golden.strangers("pnet_nms", &merged);
            seen += merged.len();
            let proposed = cascade::next(merged);
            strangers += golden.strangers("stage1", &proposed);
            seen += proposed.len();
            let refined = cascade::next(cascade::refine(&mtcnn.networks, &photo, proposed).unwrap());
            strangers += golden.strangers("stage2", &refined);
            seen += refined.len();
            let found = cascade::finish(&mtcnn.networks, &photo, refined).unwrap();
            let options = DetectOptions { min_score: 0.0, ..Default::default() };
            assert_eq!(mtcnn.detect_one(&photo, form, &options).unwrap(), found);

            let (boxes, landmarks) = (golden.rows("boxes"), golden.rows("landmarks"));
            let (transforms, crops) = (golden.rows("tfm"), golden.rows("crops_rgb_u8"));
            assert_eq!(found.len(), boxes.len(), "{name}");
            faces += found.len();
            for (index, face) in found.iter().enumerate() {
                box_px = worst(box_px, &corners(face), &boxes[index][..4]);
                score = score.max((f64::from(face.score) - boxes[index][4]).abs());
                let places: Vec<f64> =
                    [0, 1].iter().flat_map(|axis| face.landmarks.0.map(|point| f64::from(point[*axis]))).collect();
                landmark_px = worst(landmark_px, &places, &landmarks[index]);
                let matrix = compat_transform(&face.landmarks).unwrap();
                // The shift grows with the distance from the corner of the photo.
                let shift = [2, 5].map(|at| transforms[index][at].abs().max(1.0));
                let pairs = matrix.as_flattened().iter().zip(&transforms[index]).enumerate();
                transform = pairs.fold(transform, |worst, (at, (found, expected))| {
                    worst.max((found - expected).abs() / if at % 3 == 2 { shift[at / 3] } else { 1.0 })
                });
                let crop = align_compat(&photo, &face.landmarks).unwrap().into_image().into_raw();
                let differences = crop.iter().zip(&crops[index]).map(|(a, b)| (f64::from(*a) - b).abs());
                grey = grey.max(differences.sum::<f64>() / crop.len() as f64);
            }
        }
        println!(
            "{form:?}: {strangers} of {seen} boxes on the way differ; {faces} faces, boxes within {box_px:.1e} px, landmarks {landmark_px:.1e} px, scores {score:.1e}, \
             transforms {transform:.1e}, crops {grey:.4} grey levels on average"
        );
        // Equal scores in one photo decide about a few boxes.
        assert!(strangers <= if form == Form::Compat { 0 } else { 50 });
        assert_eq!(faces, if form == Form::Compat { 34 } else { 63 });
        assert!(box_px < 0.5 && landmark_px < 0.3 && score < 1e-4 && transform < 1e-3 && grey <= 1.0);
    }
}
