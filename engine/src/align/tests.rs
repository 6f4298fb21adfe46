//! Alignment against reference transforms, and its properties.

use std::path::Path;

use candle_core::npy::NpzTensors;
use image::{Rgb, RgbImage};
use proptest::prelude::*;

use super::*;

#[test]
fn the_reference_aligns_to_itself() {
    let photo = RgbImage::from_fn(SIZE, SIZE, |x, y| Rgb([x as u8, y as u8, 7]));
    let crop = align(&photo, &Landmarks(REFERENCE)).unwrap();
    assert_eq!(crop.image(), &photo);
}

#[test]
fn outside_of_the_photo_is_black() {
    let photo = RgbImage::from_pixel(60, 112, Rgb([255; 3]));
    let crop = align(&photo, &Landmarks(REFERENCE)).unwrap();
    assert_eq!(crop.image().get_pixel(30, 50).0, [255; 3]);
    assert_eq!(crop.image().get_pixel(90, 50).0, [0; 3]);
    let empty = align(&RgbImage::new(0, 0), &Landmarks(REFERENCE)).unwrap();
    assert!(empty.image().as_raw().iter().all(|value| *value == 0));
}

#[test]
fn positions_between_pixels_are_interpolated() {
    let photo = RgbImage::from_fn(SIZE, SIZE, |x, _| Rgb([2 * x as u8; 3]));
    let crop = align(&photo, &Landmarks(REFERENCE.map(|[x, y]| [x + 0.5, y]))).unwrap();
    assert_eq!(crop.image().get_pixel(50, 50).0, [101; 3]);
}

/// The four neighbours weighted, as one writes it down.
fn plainly(photo: &RgbImage, [x, y]: [f64; 2]) -> [u8; 3] {
    let (left, top) = (x.floor(), y.floor());
    let (fx, fy) = ((x - left) as f32, (y - top) as f32);
    let pixel = |dx: i64, dy: i64| match (left as i64 + dx, top as i64 + dy) {
        (x, y) if x >= 0 && y >= 0 && x < photo.width().into() && y < photo.height().into() => {
            photo.get_pixel(x as u32, y as u32).0.map(f32::from)
        }
        _ => [0.0; 3],
    };
    let weighted = [
        (pixel(0, 0), (1.0 - fx) * (1.0 - fy)),
        (pixel(1, 0), fx * (1.0 - fy)),
        (pixel(0, 1), (1.0 - fx) * fy),
        (pixel(1, 1), fx * fy),
    ];
    [0, 1, 2]
        .map(|channel| weighted.iter().fold(0f32, |sum, (pixel, weight)| sum + weight * pixel[channel]).round() as u8)
}

proptest! {
    #[test]
    fn samples_are_what_their_definition_says(x in -2.0..14.0f64, y in -2.0..12.0f64, whole in any::<bool>(), seed in 0u32..99) {
        let photo = RgbImage::from_fn(12, 10, |x, y| Rgb([x * 41 + seed, y * 67 + 3 * x, x * y * 29 + seed].map(|v| v as u8)));
        let point = if whole { [x.round(), y] } else { [x, y] };
        prop_assert_eq!(sample(&photo, point), plainly(&photo, point));
    }
}

#[test]
fn landmarks_without_a_position_are_refused() {
    let photo = RgbImage::new(200, 200);
    let fails = |points| align(&photo, &Landmarks(points)).unwrap_err();
    assert_eq!(fails([[50.0, 50.0]; 5]), AlignError::Degenerate);
    for broken in [f32::NAN, f32::INFINITY] {
        let mut points = REFERENCE;
        points[3][1] = broken;
        assert_eq!(fails(points), AlignError::NotFinite);
    }
    assert_eq!(fails(REFERENCE.map(|[x, y]| [x * 1e30, y * 1e30])), AlignError::Degenerate);
}

#[test]
fn a_crop_knows_its_landmarks() {
    let photo = RgbImage::new(300, 200);
    // Turned by a quarter and doubled, with the nose moved, which no similarity undoes.
    let mut points = REFERENCE.map(|[x, y]| [250.0 - 2.0 * y, 2.0 * x - 20.0]);
    let landmarks = *align(&photo, &Landmarks(points)).unwrap().landmarks().unwrap();
    for (found, expected) in landmarks.0.iter().flatten().zip(REFERENCE.iter().flatten()) {
        assert!((found - expected).abs() < 1e-3);
    }
    points[2][0] += 10.0;
    let moved = *align(&photo, &Landmarks(points)).unwrap().landmarks().unwrap();
    // Ten pixels to the right in the photo are five upwards in the crop, of which the fit takes back a fifth.
    assert!((moved.0[2][1] - REFERENCE[2][1] + 4.0).abs() < 0.5, "{moved:?}");
    let aligned = AlignedCrop::new(RgbImage::new(SIZE, SIZE)).unwrap();
    assert_eq!(aligned.landmarks(), None);
    assert_eq!(aligned.with_landmarks(landmarks).landmarks(), Some(&landmarks));
}

#[test]
fn landmarks_are_mirrored_with_the_pixels() {
    let photo = RgbImage::from_fn(SIZE, SIZE, |x, y| Rgb([x as u8, y as u8, 7]));
    let landmarks = Landmarks([[10.0, 20.0], [70.0, 21.0], [40.0, 50.0], [15.0, 80.0], [60.0, 81.0]]);
    let flipped = image::imageops::flip_horizontal(&photo);
    let mirrored = landmarks.mirrored(SIZE);
    for (point, other) in [(0, 1), (1, 0), (2, 2), (3, 4), (4, 3)] {
        let pixel = |photo: &RgbImage, [x, y]: [f32; 2]| photo.get_pixel(x as u32, y as u32).0;
        assert_eq!(pixel(&photo, landmarks.0[point]), pixel(&flipped, mirrored.0[other]));
    }
    assert_eq!(mirrored.mirrored(SIZE), landmarks);
}

#[test]
fn crops_have_one_size() {
    assert!(AlignedCrop::new(RgbImage::new(112, 112)).is_ok());
    assert_eq!(AlignedCrop::new(RgbImage::new(112, 96)).unwrap_err(), AlignError::WrongSize { width: 112, height: 96 });
}

/// Transforms for 48 sets of landmarks: as scikit-image's SimilarityTransform estimates them, and the inverse of the
/// fit from the reference to the photo, which some published code uses instead.
#[test]
fn transforms_agree_with_umeyama() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/golden/similarity.npz");
    if !path.exists() {
        eprintln!("skipped: {} is missing", path.display());
        return;
    }
    let file = NpzTensors::new(&path).unwrap();
    let points: Vec<Vec<Vec<f32>>> = file.get("src").unwrap().unwrap().to_vec3().unwrap();
    for name in ["tfm_umeyama", "tfm_nonreflective"] {
        let expected: Vec<Vec<Vec<f64>>> = file.get(name).unwrap().unwrap().to_vec3().unwrap();
        let mut worst = 0f64;
        for (points, expected) in points.iter().zip(&expected) {
            let mut from = [[0f32; 2]; 5];
            for (to, from) in from.iter_mut().zip(points) {
                to.copy_from_slice(from);
            }
            let fit = match name {
                "tfm_umeyama" => Similarity::fit(&from, &REFERENCE).unwrap(),
                _ => Similarity::fit(&REFERENCE, &from).unwrap().inverse(),
            };
            let found = [[fit.a, -fit.b, fit.tx], [fit.b, fit.a, fit.ty]];
            for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                worst = worst.max((found - expected).abs() / expected.abs().max(1.0));
            }
        }
        println!("{name}: largest relative difference {worst:.2e}");
        assert!(worst < 1e-4, "{name}: {worst}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_similarity_is_found_again(
        scale in 0.05f64..20.0, angle in -3.1f64..3.1, tx in -500f64..500.0, ty in -500f64..500.0,
    ) {
        let truth = Similarity { a: scale * angle.cos(), b: scale * angle.sin(), tx, ty };
        let moved = REFERENCE.map(|[x, y]| truth.apply([f64::from(x), f64::from(y)]).map(|v| v as f32));
        let fit = Similarity::fit(&REFERENCE, &moved).unwrap();
        let back = fit.inverse();
        for point in REFERENCE {
            let point = point.map(f64::from);
            let (there, wanted) = (fit.apply(point), truth.apply(point));
            prop_assert!((there[0] - wanted[0]).hypot(there[1] - wanted[1]) < 1e-2);
            let again = back.apply(there);
            prop_assert!((again[0] - point[0]).hypot(again[1] - point[1]) < 1e-6);
        }
    }

    /// Whatever the landmarks, also mirrored ones, the crop is never a mirror image: the determinant is positive.
    #[test]
    fn a_crop_is_never_mirrored(points in prop::array::uniform5(prop::array::uniform2(-1e4f32..1e4)), mirror: bool) {
        let points = if mirror { REFERENCE.map(|[x, y]| [200.0 - x, y]) } else { points };
        if let Ok(fit) = Similarity::fit(&points, &REFERENCE) {
            let origin = fit.apply([0.0, 0.0]);
            let (right, down) = (fit.apply([1.0, 0.0]), fit.apply([0.0, 1.0]));
            let right = [right[0] - origin[0], right[1] - origin[1]];
            let down = [down[0] - origin[0], down[1] - origin[1]];
            prop_assert!(right[0] * down[1] - right[1] * down[0] > 0.0);
        }
    }
}
