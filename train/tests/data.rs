//! Training data as files: record files of the reference writer, and `vultus-train prepare`.
//!
//! The reference set holds face photos, which the repository does not ship; its tests run where it is found. Everything
//! else is drawn here.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use assert_cmd::Command;
use image::{Rgb, RgbImage};
use vultus_train::data::{
    AugmentConfig, Crop, DataError, Dataset, FolderDataset, LabelForm, Loader, LoaderConfig, PackConfig, RecordDataset,
    Sampler, SamplerConfig, hold_out, pack,
};

/// A folder of the reference values, where it is found.
fn golden(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/golden").join(name);
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

fn drawn(seed: u32, side: u32) -> RgbImage {
    RgbImage::from_fn(side, side, |x, y| Rgb([x + seed * 40, y * 2, (x ^ y) + seed].map(|value| value as u8)))
}

fn jpeg(picture: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(picture).unwrap();
    bytes
}

fn write(path: PathBuf, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Three identities with 2, 3 and 1 images: JPEG crops, one larger one and one PNG file.
fn draw_folder(root: &Path) {
    write(root.join("ada/1.jpg"), &jpeg(&drawn(1, 112)));
    write(root.join("ada/2.jpg"), &jpeg(&drawn(2, 112)));
    write(root.join("grace/1.jpg"), &jpeg(&drawn(3, 112)));
    write(root.join("grace/2.jpg"), &jpeg(&drawn(4, 224)));
    write(root.join("grace/3.jpg"), &jpeg(&drawn(5, 112)));
    drawn(6, 112).save(root.join("ada/2.png")).unwrap();
    std::fs::rename(root.join("ada/2.png"), root.join("zuse.png")).unwrap();
    std::fs::create_dir(root.join("zuse")).unwrap();
    std::fs::rename(root.join("zuse.png"), root.join("zuse/1.png")).unwrap();
}

fn prepare(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Command {
    let mut command = Command::cargo_bin("vultus-train").unwrap();
    command.arg("prepare");
    arguments.iter().for_each(|argument| {
        command.arg(argument);
    });
    command
}

#[test]
fn the_reference_set_is_read() {
    let Some(folder) = golden("recordio") else { return };
    for name in ["train", "train_scalar"] {
        let dataset = RecordDataset::open(&folder.join(format!("{name}.rec"))).unwrap();
        let facts: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join(format!("{name}.json"))).unwrap()).unwrap();
        let images = facts["images"].as_array().unwrap();
        assert_eq!((dataset.len(), dataset.classes()), (images.len(), 4));
        for (index, facts) in images.iter().enumerate() {
            assert_eq!(facts["idx"], dataset.key(index));
            assert_eq!(facts["label"], dataset.label(index));
            let encoded = dataset.encoded(index).unwrap();
            assert_eq!(facts["jpeg_sha256"].as_str().unwrap(), sha256(&encoded), "{}", dataset.name(index));
            let expected = image::open(folder.join(format!("{name}_{}.png", dataset.key(index)))).unwrap().into_rgb8();
            let actual = dataset.image(index).unwrap().to_rgb();
            let difference: u64 = actual.iter().zip(expected.iter()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
            let mean = difference as f64 / Crop::BYTES as f64;
            println!("{}: mean difference {mean:.4}", dataset.name(index));
            assert!(mean <= 1.0, "{}: {mean}", dataset.name(index));
        }
    }
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn packing_gives_the_bytes_of_the_reference_writer() {
    let Some(golden) = golden("recordio") else { return };
    for (name, labels) in [("train", "array"), ("train_scalar", "scalar")] {
        let folder = tempfile::tempdir().unwrap();
        let dataset = RecordDataset::open(&golden.join(format!("{name}.rec"))).unwrap();
        for index in 0..dataset.len() {
            let path = format!("faces/{}/{:02}.jpg", dataset.label(index), dataset.key(index));
            write(folder.path().join(path), &dataset.encoded(index).unwrap());
        }
        let out = folder.path().join("out");
        prepare(&[&folder.path().join("faces"), &"--out", &out, &"--labels", &labels])
            .assert()
            .success()
            .stdout("4 identities, 12 images: 12 as they were, 0 encoded anew, 0 left out\n");
        for extension in ["rec", "idx"] {
            let actual = std::fs::read(out.join(format!("train.{extension}"))).unwrap();
            let expected = std::fs::read(golden.join(format!("{name}.{extension}"))).unwrap();
            assert!(actual == expected, "{name}.{extension}");
        }
        assert_eq!(std::fs::read_to_string(out.join("property")).unwrap(), "4,112,112\n");
    }
}

#[test]
fn a_folder_and_its_records_are_the_same_set() {
    let root = tempfile::tempdir().unwrap();
    let (faces, out) = (root.path().join("faces"), root.path().join("out"));
    draw_folder(&faces);
    prepare(&[&faces, &"--out", &out, &"--sheet", &"4"])
        .assert()
        .success()
        .stdout("3 identities, 6 images: 4 as they were, 2 encoded anew, 0 left out\n");
    let folder = FolderDataset::open(&faces).unwrap();
    let records = RecordDataset::open(&out.join("train.rec")).unwrap();
    assert_eq!((records.len(), records.classes()), (folder.len(), folder.classes()));
    for index in 0..folder.len() {
        assert_eq!(records.label(index), folder.label(index));
        let Ok(original) = folder.image(index) else {
            assert!(folder.name(index).ends_with("2.jpg"), "the large one alone has to be resized");
            continue;
        };
        let difference: u64 = original
            .pixels()
            .iter()
            .zip(records.image(index).unwrap().pixels())
            .map(|(a, b)| u64::from(a.abs_diff(*b)))
            .sum();
        // Kept to the byte, or once through JPEG.
        let kept = folder.path(index).extension().unwrap() == "jpg";
        assert!(difference as f64 / Crop::BYTES as f64 <= if kept { 0.0 } else { 6.0 }, "{difference}");
    }
    let sheet = image::open(out.join("sheet.png")).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (9 * 116 + 4, 4 * 116 + 4));

    // What is there is not written over.
    let again = prepare(&[&faces, &"--out", &out]).assert().code(1);
    let message = String::from_utf8(again.get_output().stderr.clone()).unwrap();
    assert!(message.starts_with("vultus-train: ") && message.ends_with("train.rec is there already\n"), "{message}");
}

#[test]
fn damaged_images_end_packing_or_are_left_out() {
    let root = tempfile::tempdir().unwrap();
    let (faces, out) = (root.path().join("faces"), root.path().join("out"));
    draw_folder(&faces);
    let whole = jpeg(&drawn(7, 112));
    write(faces.join("grace/0.jpg"), &whole[..whole.len() / 2]);
    write(faces.join("grace/4.jpg"), b"no image");
    let failed = prepare(&[&faces, &"--out", &out]).assert().code(1);
    let message = String::from_utf8(failed.get_output().stderr.clone()).unwrap();
    assert!(message.contains("0.jpg: the image is cut short") && message.lines().count() == 1, "{message}");
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0, "nothing is left of what failed");

    let folder = FolderDataset::open(&faces).unwrap();
    let config = PackConfig { skip_damaged: true, labels: LabelForm::Scalar, ..PackConfig::default() };
    let mut last = 0;
    let packed = pack(&folder, &out, &config, |done| {
        last = done;
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!((packed.kept, packed.encoded, packed.skipped.len(), last), (4, 2, 2, 8));
    let records = RecordDataset::open(&out.join("train.rec")).unwrap();
    let labels: Vec<u32> = (0..records.len()).map(|index| records.label(index)).collect();
    assert_eq!(labels, [0, 0, 1, 1, 1, 2]);
    assert!((0..6).all(|index| records.image(index).is_ok()));

    write(faces.join("wide/1.png"), &[]);
    RgbImage::new(112, 96).save(faces.join("wide/1.png")).unwrap();
    let folder = FolderDataset::open(&faces).unwrap();
    let out = root.path().join("other");
    let packed = pack(&folder, &out, &config, |_| ControlFlow::Continue(())).unwrap();
    assert!(packed.skipped[2].ends_with("1.png has 112x96 pixels, an aligned crop is square"), "{:?}", packed.skipped);
}

#[test]
fn nothing_is_left_of_what_was_stopped() {
    let root = tempfile::tempdir().unwrap();
    let (faces, out) = (root.path().join("faces"), root.path().join("out"));
    draw_folder(&faces);
    let folder = FolderDataset::open(&faces).unwrap();
    let stopped = pack(&folder, &out, &PackConfig::default(), |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(DataError::Stopped)));
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
}

#[test]
fn identities_without_a_readable_image_have_no_number() {
    let root = tempfile::tempdir().unwrap();
    let (faces, out) = (root.path().join("faces"), root.path().join("out"));
    for (identity, damaged) in [("a", false), ("b", true), ("c", false), ("d", true)] {
        let bytes = if damaged { b"no image".to_vec() } else { jpeg(&drawn(1, 112)) };
        write(faces.join(identity).join("1.jpg"), &bytes);
    }
    let told = prepare(&[&faces, &"--out", &out, &"--skip-damaged"])
        .assert()
        .success()
        .stdout("2 identities, 2 images: 2 as they were, 0 encoded anew, 2 left out\n");
    let told = String::from_utf8(told.get_output().stderr.clone()).unwrap();
    assert!(told.contains("left out: b, which has no image") && told.contains("left out: d, which"), "{told}");
    let records = RecordDataset::open(&out.join("train.rec")).unwrap();
    assert_eq!((records.classes(), records.label(0), records.label(1)), (2, 0, 1));
    assert_eq!(std::fs::read_to_string(out.join("property")).unwrap(), "2,112,112\n");

    ["a", "c"].iter().for_each(|identity| write(faces.join(identity).join("1.jpg"), b"no image"));
    let empty = root.path().join("empty");
    let failed = prepare(&[&faces, &"--out", &empty, &"--skip-damaged"]).assert().code(1);
    let message = String::from_utf8(failed.get_output().stderr.clone()).unwrap();
    assert!(message.contains("all 4 images are damaged, the first: "), "{message}");
    assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0);
}

#[test]
fn damaged_record_files_are_named_and_do_not_panic() {
    let root = tempfile::tempdir().unwrap();
    let (faces, out) = (root.path().join("faces"), root.path().join("out"));
    draw_folder(&faces);
    pack(&FolderDataset::open(&faces).unwrap(), &out, &PackConfig::default(), |_| ControlFlow::Continue(())).unwrap();
    let (records, index) = (out.join("train.rec"), out.join("train.idx"));
    let (whole, lines) = (std::fs::read(&records).unwrap(), std::fs::read_to_string(&index).unwrap());
    let opened = |bytes: &[u8], lines: &str| {
        std::fs::write(&records, bytes).unwrap();
        std::fs::write(&index, lines).unwrap();
        RecordDataset::open(&records).and_then(|set| (0..set.len()).try_for_each(|index| set.image(index).map(drop)))
    };
    assert!(opened(&whole, &lines).is_ok());
    let message = |bytes: &[u8], lines: &str| opened(bytes, lines).unwrap_err().to_string();
    assert!(message(&[], &lines).ends_with("train.rec, at byte 0: the file ends within the record"));
    assert!(message(&whole[..3_000], &lines).contains("train.rec, at byte "));
    assert!(message(&whole, "").ends_with("train.idx has no record 0"));
    assert!(message(&whole, "0\t0\n1\t40\n").ends_with("train.idx has no record 2"));
    assert!(message(&whole, "0\t3\n").contains("at byte 3: no record starts here"));
    // The third image in the place of the second, which would never come.
    let third = lines.lines().nth(3).and_then(|line| line.split_once('\t')).unwrap().1;
    let twice: String = lines
        .lines()
        .enumerate()
        .map(|(at, line)| if at == 2 { format!("2\t{third}\n") } else { format!("{line}\n") })
        .collect();
    assert!(message(&whole, &twice).ends_with(&format!("at byte {third}: two keys of the index name this record")));
    // Record 0 that says there are −1, half an image, no number of them.
    for end in [-1.0f32, 2.5, f32::NAN, f32::INFINITY] {
        let mut changed = whole.clone();
        changed[32..36].copy_from_slice(&end.to_le_bytes());
        assert!(message(&changed, &lines).contains("the first record says that images end before"));
    }
    let mut changed = whole.clone();
    changed[32..36].copy_from_slice(&1f32.to_le_bytes());
    assert!(message(&changed, &lines).ends_with("train.rec has no images"));
    // The label of the first image: record at 40, its array after 8 + 24 bytes.
    for label in [-1.0f32, 0.5, f32::NAN, 1e9] {
        let mut changed = whole.clone();
        changed[72..76].copy_from_slice(&label.to_le_bytes());
        assert!(message(&changed, &lines).contains("at byte 40: the label"));
    }
    // One that is a class, and would ask for gigabytes of class directions.
    let mut changed = whole.clone();
    changed[72..76].copy_from_slice(&4_000_000f32.to_le_bytes());
    assert!(
        message(&changed, &lines).ends_with("at byte 40: the label 4000000 is far beyond the number of identities")
    );
    // Any byte of the first records.
    for place in 0..400 {
        for bits in [0x01, 0x80, 0xff] {
            let mut changed = whole.clone();
            changed[place] ^= bits;
            let _ = opened(&changed, &lines);
        }
    }
}

#[test]
fn a_set_without_ranges_is_all_of_its_records() {
    use vultus_train::data::recordio::{Header, Labels, RecordWriter};
    let root = tempfile::tempdir().unwrap();
    let mut writer = RecordWriter::new(Vec::new(), Vec::new());
    for (key, label) in [(0, 1.0), (5, 0.0), (7, 2.0)] {
        let header = Header { labels: Labels::Scalar(label), id: key, id2: 0 };
        writer.write(key, &header, &jpeg(&drawn(key as u32, 112))).unwrap();
    }
    let (records, index) = writer.finish().unwrap();
    write(root.path().join("all.rec"), &records);
    write(root.path().join("all.idx"), &index);
    let dataset = RecordDataset::open(&root.path().join("all.rec")).unwrap();
    let samples: Vec<(u64, u32)> = (0..dataset.len()).map(|index| (dataset.key(index), dataset.label(index))).collect();
    assert_eq!((samples, dataset.classes()), (vec![(0, 1), (5, 0), (7, 2)], 3));
    assert!(dataset.name(1).ends_with("all.rec, record 5"));
}

#[test]
fn identities_are_held_out_whole() {
    let root = tempfile::tempdir().unwrap();
    for class in 0..10 {
        for image in 0..=class {
            write(root.path().join(format!("{class}/{image}.jpg")), &jpeg(&drawn(class, 112)));
        }
    }
    let whole: Arc<dyn Dataset> = Arc::new(FolderDataset::open(root.path()).unwrap());
    let (rest, held) = hold_out(&whole, 3, 1).unwrap();
    assert_eq!((rest.classes(), held.classes(), rest.len() + held.len()), (7, 3, 55));
    let identities = |part: &vultus_train::data::Subset| -> Vec<u32> {
        (0..part.classes() as u32).map(|class| part.identity(class)).collect()
    };
    let mut all = [identities(&rest), identities(&held)].concat();
    all.sort_unstable();
    assert_eq!(all, (0..10).collect::<Vec<_>>());
    for part in [&rest, &held] {
        for index in 0..part.len() {
            let folder = format!("/{}/", part.identity(part.label(index)));
            assert!(part.name(index).contains(&folder), "{} {folder}", part.name(index));
        }
    }
    let held_by = |seed| identities(&hold_out(&whole, 3, seed).unwrap().1);
    assert_eq!(held_by(1), identities(&held));
    assert!((2..6).any(|seed| held_by(seed) != identities(&held)));
    assert!(matches!(hold_out(&whole, 10, 1), Err(DataError::BadSetting { .. })));
    assert!(matches!(hold_out(&whole, 0, 1), Err(DataError::BadSetting { .. })));

    let rest = Arc::new(rest);
    let sampler =
        Sampler::new(1, SamplerConfig { batch: 4, epochs: Some(1), ..SamplerConfig::default() }, rest.as_ref());
    let loader =
        Loader::new(rest.clone(), sampler.unwrap(), AugmentConfig::default(), LoaderConfig::default()).unwrap();
    let labels: Vec<u32> = loader.flat_map(|batch| batch.unwrap().labels).collect();
    assert_eq!(labels.len(), rest.len() / 4 * 4);
    assert!(labels.iter().all(|label| *label < 7));
}
