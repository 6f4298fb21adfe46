//! `vultus-train eval` as it is called, on small made-up sets.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::Value;
use tempfile::TempDir;
use vultus_train::eval::Rows;
use vultus_train::eval::features::Features;
use vultus_train::eval::fusion::Normed;

fn eval(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("vultus-train").unwrap();
    command.arg("eval").args(arguments);
    command
}

/// Standard output of a run that succeeds, and standard error.
#[track_caller]
fn run(arguments: &[&str]) -> (String, String) {
    let output = eval(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{arguments:?}: {err}");
    (out, err)
}

/// The one line of a run that fails.
#[track_caller]
fn fail(arguments: &[&str]) -> String {
    let output = eval(arguments).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(output.stdout.is_empty());
    text
}

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_owned()
}

/// Unit vectors along the axes of a space of eight, given by their number, with labels.
fn write_features(file: &str, axes: &[usize], labels: Option<Vec<i64>>) {
    let values = axes.iter().flat_map(|axis| (0..8).map(move |at| if at == *axis { 1.0 } else { 0.0 })).collect();
    let plain = Normed::new(Rows::new("row", 8, values).unwrap(), vec![20.0; axes.len()]).unwrap();
    Features { plain, flipped: None, labels }.write(Path::new(file)).unwrap();
}

fn picture(seed: u32) -> RgbImage {
    RgbImage::from_fn(112, 112, |x, y| {
        let value = |shift: u32| ((x * (3 + seed % 5) + y * (2 + seed % 7) + seed * 31 + shift) % 256) as u8;
        Rgb([value(0), value(80), value(160)])
    })
}

fn png(picture: &RgbImage) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// A verification set as Python 3 pickles it.
fn write_bin(file: &str, images: &[Vec<u8>], same: &[bool]) {
    let mut bytes = b"\x80\x03](".to_vec();
    for image in images {
        bytes.push(b'B');
        bytes.extend((image.len() as u32).to_le_bytes());
        bytes.extend(image);
    }
    bytes.extend(b"e](");
    bytes.extend(same.iter().map(|same| if *same { 0x88 } else { 0x89 }));
    bytes.extend(b"e\x86.");
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn a_verification_set_of_drawn_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let same: Vec<bool> = (0..20).map(|pair| pair % 2 == 0).collect();
    let images: Vec<Vec<u8>> = (0..20u32)
        .flat_map(|pair| [picture(pair), picture(if pair % 2 == 0 { pair } else { pair + 40 })].map(|p| png(&p)))
        .collect();
    write_bin(&path(&folder, "lfw.bin"), &images, &same);
    let svg = path(&folder, "roc.svg");
    let (table, err) = run(&["verify", "--device", "cpu", "--svg", &svg, folder.path().to_str().unwrap()]);
    assert!(table.contains("LFW") && table.contains("100.00") && table.contains("mobilefacenet"), "{table}");
    // Equal pictures have equal features, so all is decided rightly; the other four sets are told to be missing.
    assert_eq!(err.lines().filter(|line| line.contains("is left out")).count(), 4, "{err}");
    assert!(std::fs::read_to_string(&svg).unwrap().contains("<polyline"));
    let (json, _) = run(&["verify", "--device", "cpu", "--json", &path(&folder, "lfw.bin")]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["sets"][0]["verification"]["accuracy"], 1.0);
    assert_eq!((&json["sets"][0]["pairs"], &json["average"]), (&Value::from(20), &Value::Null));

    write_bin(&path(&folder, "bad.bin"), &images[..3], &same[..1]);
    assert!(fail(&["verify", &path(&folder, "bad.bin")]).contains("3 images and 1 labels"));
    write_bin(&path(&folder, "bad.bin"), &vec![b"no image".to_vec(); 40], &same);
    assert!(fail(&["verify", &path(&folder, "bad.bin")]).contains("bad.bin"));
    assert!(fail(&["verify", &path(&folder, "none.bin")]).contains("is not there"));
}

#[test]
fn lfw_of_photos_without_faces() {
    let folder = tempfile::tempdir().unwrap();
    let mut pairs = "2\t1\n".to_owned();
    for name in ["a", "b"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        for number in 1..=2 {
            picture(number).save(folder.path().join(name).join(format!("{name}_{number:04}.jpg"))).unwrap();
        }
        pairs += &format!("{name}\t1\t2\na\t1\tb\t2\n");
    }
    std::fs::write(folder.path().join("pairs.txt"), pairs).unwrap();
    let (json, _) = run(&["lfw", "--device", "cpu", "--json", folder.path().to_str().unwrap()]);
    let json: Value = serde_json::from_str(&json).unwrap();
    // Every pair is decided as of two persons, which is right for half of them.
    assert_eq!(json["faces_not_found"].as_array().unwrap().len(), 4);
    assert_eq!((&json["pairs_without_face"], &json["accuracy_of_pairs_with_faces"]), (&Value::from(4), &Value::Null));
    assert_eq!(json["sides"][0]["verification"]["accuracy"], 0.5);
    assert_eq!((&json["sides"][0]["identification"], &json["sides"][0]["norms"]), (&Value::Null, &Value::Null));
    assert_eq!(json["sides"].as_array().unwrap().len(), 1);
    assert!(fail(&["lfw", &path(&folder, "a")]).contains("pairs.txt is not there"));
    let refused = eval(&["lfw", "--side", "28,15", folder.path().to_str().unwrap()]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    std::fs::write(folder.path().join("b/b_0002.jpg"), "no photo").unwrap();
    let (table, err) = run(&["lfw", "--device", "cpu", folder.path().to_str().unwrap()]);
    assert!(table.contains("4 of 4 photos (1 damaged)") && err.contains("b_0002.jpg"), "{table}{err}");
    std::fs::remove_file(folder.path().join("a/a_0001.jpg")).unwrap();
    assert!(fail(&["lfw", folder.path().to_str().unwrap()]).contains("a_0001.jpg"));
}

#[test]
fn lfw_itself() {
    let lfw: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/lfw");
    if !lfw.join("pairs.txt").exists() {
        eprintln!("skipped: {} is not there", lfw.display());
        return;
    }
    let text = std::fs::read_to_string(lfw.join("pairs.txt")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let folder = tempfile::tempdir().unwrap();
    // Two folds of 15 pairs of each kind, from the first two.
    let mut pairs = vec!["2\t15"];
    for start in [1, 301, 601, 901] {
        pairs.extend(&lines[start..start + 15]);
    }
    let file = path(&folder, "pairs.txt");
    std::fs::write(&file, pairs.join("\n")).unwrap();
    let svg = path(&folder, "lfw.svg");
    let arguments = ["lfw", "--device", "cpu", "--json", "--side", "28,14", "--svg", &svg, "--pairs", &file];
    let (json, _) = run(&[&arguments[..], &[lfw.to_str().unwrap()]].concat());
    let json: Value = serde_json::from_str(&json).unwrap();
    println!("{json}");
    assert!(json["faces_not_found"].as_array().unwrap().len() <= 1);
    let sides = json["sides"].as_array().unwrap();
    assert_eq!(sides.iter().map(|side| side["side_px"].as_u64().unwrap()).collect::<Vec<_>>(), [112, 28, 14]);
    assert!(sides[0]["verification"]["accuracy"].as_f64().unwrap() >= 0.95);
    let number = |side: &Value, path: &str| side.pointer(path).and_then(Value::as_f64).unwrap();
    // Smaller faces are harder to recognise, and their norms are lower.
    for two in sides.windows(2) {
        for what in ["/norms/mean", "/identification/ranks/0/1", "/verification/area_under_roc"] {
            assert!(number(&two[0], what) >= number(&two[1], what) - 0.01, "{what}: {two:?}");
        }
    }
    assert!(number(&sides[0], "/identification/ranks/0/1") >= 0.9);
    assert!(number(&sides[2], "/norms_below_whole") > 0.8 && sides[0]["norms_below_whole"].is_null());
    assert_eq!(std::fs::read_to_string(&svg).unwrap().matches("<g ").count(), 3);
    // A fold's table is printed for whole crops alone.
    let (table, _) = run(&["lfw", "--device", "cpu", "--pairs", &file, lfw.to_str().unwrap()]);
    assert!(table.contains("fold") && table.contains("112 px") && table.contains("separation"), "{table}");
}

#[test]
fn ijb_of_made_up_features() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("meta")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join("meta").join(name), text).unwrap();
    // Templates 1 to 3 are enrolled, 4 to 6 are probes of the same subjects; template 6 looks like subject 10.
    write("ijbc_face_tid_mid.txt", "a 1 1\nb 2 2\nc 3 3\nd 4 4\ne 4 4\nf 5 5\ng 6 6\n");
    write("ijbc_template_pair_label.txt", "1 4 1\n2 5 1\n3 6 1\n1 5 0\n2 4 0\n");
    let features = path(&folder, "made_up.safetensors");
    write_features(&features, &[0, 1, 2, 0, 0, 1, 0], None);
    let at = folder.path().to_str().unwrap();
    let (table, err) = run(&["ijb", "--features", &features, at]);
    assert!(err.contains("1:N is left out") && err.contains("ijbc_1N_gallery_G1.csv is not there"), "{err}");
    assert!(table.contains("1e-6") && table.contains("66.67"), "{table}");
    assert!(
        fail(&["ijb", "--set", "ijbb", "--features", &features, at]).contains("ijbb_face_tid_mid.txt is not there")
    );

    write("ijbc_1N_gallery_G1.csv", "TEMPLATE_ID,SUBJECT_ID\n1,10\n2,20\n");
    write("ijbc_1N_gallery_G2.csv", "TEMPLATE_ID,SUBJECT_ID\n3,30\n");
    write("ijbc_1N_probe_mixed.csv", "TEMPLATE_ID,SUBJECT_ID\n4,10\n5,20\n6,30\n");
    let svg = path(&folder, "curves.svg");
    let (json, _) = run(&["ijb", "--features", &features, "--json", "--svg", &svg, at]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["identification"]["ranks"][0][1].as_f64().unwrap(), 2.0 / 3.0);
    assert_eq!(json["identification"]["retrieval"][0]["threshold"], 1.0);
    assert_eq!(json["verification"]["mated"], 3);
    assert_eq!(std::fs::read_to_string(&svg).unwrap().matches("<g ").count(), 2);
    write_features(&features, &[0, 1], None);
    assert!(fail(&["ijb", "--features", &features, at]).contains("7 templates of images"));
    assert!(fail(&["ijb", "--features", &features, "--fusion", "concat", at]).contains("mirror images"));
    assert!(fail(&["ijb", at]).contains("ijbc_name_5pts_score.txt is not there"));
}

#[test]
fn ijb_of_drawn_pictures() {
    let folder = tempfile::tempdir().unwrap();
    for part in ["meta", "loose_crop"] {
        std::fs::create_dir(folder.path().join(part)).unwrap();
    }
    let landmarks = "38.29 51.70 73.53 51.50 56.03 71.74 41.55 92.37 70.73 92.20";
    let (mut images, mut media) = (String::new(), String::new());
    for image in 0..4u32 {
        picture(image % 2).save(folder.path().join(format!("loose_crop/{image}.png"))).unwrap();
        images += &format!("{image}.png {landmarks} 0.9\n");
        media += &format!("{image}.png {image} {image}\n");
    }
    let write = |name: &str, text: &str| std::fs::write(folder.path().join("meta").join(name), text).unwrap();
    write("ijbb_name_5pts_score.txt", &images);
    write("ijbb_face_tid_mid.txt", &media);
    write("ijbb_template_pair_label.txt", "0 2 1\n1 3 1\n0 1 0\n2 3 0\n");
    let (at, kept) = (folder.path().to_str().unwrap(), path(&folder, "kept.safetensors"));
    let (json, _) = run(&["ijb", "--set", "ijbb", "--device", "cpu", "--json", "--save-features", &kept, at]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["verification"]["tar_at_far"][0]["tar"], 1.0);
    for fusion in ["pre_norm_vector_add", "norm_weighted_avg", "average", "concat"] {
        let (again, _) = run(&["ijb", "--set", "ijbb", "--json", "--features", &kept, "--fusion", fusion, at]);
        let again: Value = serde_json::from_str(&again).unwrap();
        assert_eq!(again["verification"]["area_under_roc"], 1.0, "{fusion}");
        if fusion == "pre_norm_vector_add" {
            assert_eq!(again["verification"], json["verification"]);
        }
    }
}

#[test]
fn ijbs_of_made_up_features() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("galleries")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), format!("HEADER\n{text}")).unwrap();
    write("cs6_metadata.csv", "1,videos/10.mp4\n2,videos/10.mp4\n3,videos/10.mp4\n1,videos/11.mp4\n2,videos/12.mp4\n");
    for list in ["surveillance_to_single-booking", "surveillance_to_surveillance", "uav_to_single-booking"] {
        write(&format!("cs6_{list}_probe.csv"), "videos/10.mp4\n");
    }
    for kind in ["single", "booking"] {
        write(&format!("galleries/cs6_surveillance_to_{kind}_g1.csv"), "1,1,img/1.jpg\n");
        write(&format!("galleries/cs6_surveillance_to_{kind}_g2.csv"), "2,2,img/2.jpg\n");
    }
    write("galleries/cs6_surveillance_to_surveillance_g1.csv", "1,1,videos/11.mp4\n");
    write("galleries/cs6_surveillance_to_surveillance_g2.csv", "2,2,videos/12.mp4\n");
    let frames = ["1/videos_10_1", "2/videos_10_1", "1/videos_11_1", "2/videos_12_1", "1/img_1", "2/img_2"];
    let list = path(&folder, "frames.txt");
    std::fs::write(&list, frames.map(|frame| format!("{frame}.jpg\n")).concat()).unwrap();
    let features = path(&folder, "made_up.safetensors");
    write_features(&features, &[0, 1, 0, 1, 0, 1], None);
    let at = folder.path().to_str().unwrap();
    let (table, err) = run(&["ijbs", "--images", &list, "--features", &features, at]);
    assert!(err.contains("of 1 persons"), "{err}");
    assert_eq!(table.lines().count(), 6, "{table}");
    for line in table.lines().skip(1) {
        assert_eq!(line.matches("100.00").count(), 5, "{line}");
    }
    let (json, _) = run(&["ijbs", "--images", &list, "--features", &features, "--json", at]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["protocols"][4]["protocol"], "uav_to_booking");
    assert_eq!(json["protocols"][0]["outcome"]["by_gallery"][0][0]["tpir"], 1.0);
    assert!(fail(&["ijbs", "--images", &path(&folder, "none"), "--features", &features, at]).contains("is not there"));
    write_features(&features, &[0], None);
    assert!(fail(&["ijbs", "--images", &list, "--features", &features, at]).contains("1 features for 6 frames"));
}

#[test]
fn tinyface_of_features_and_of_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let (probes, gallery) = (path(&folder, "probes.safetensors"), path(&folder, "gallery.safetensors"));
    write_features(&probes, &[0, 1], Some(vec![1, 2]));
    write_features(&gallery, &[0, 0, 2, 1], Some(vec![1, 1, 2, -100]));
    let (json, _) = run(&["tinyface", "--probes", &probes, "--gallery", &gallery, "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["outcome"]["ranks"][0], serde_json::json!([1, 0.5]));
    assert_eq!(json["outcome"]["ranks"][1], serde_json::json!([5, 1.0]));

    let set = folder.path().join("set");
    for (part, name, seed) in
        [("Probe", "1_1", 1), ("Gallery_Match", "1_2", 1), ("Gallery_Match", "2_1", 2), ("Gallery_Distractor", "x", 3)]
    {
        std::fs::create_dir_all(set.join(part)).unwrap();
        picture(seed).save(set.join(part).join(format!("{name}.png"))).unwrap();
    }
    let (table, _) = run(&["tinyface", "--device", "cpu", set.to_str().unwrap()]);
    assert!(table.contains("100.00") && table.contains("1 probes, 3 enrolled"), "{table}");
    std::fs::remove_dir_all(set.join("Gallery_Distractor")).unwrap();
    assert!(fail(&["tinyface", set.to_str().unwrap()]).contains("Gallery_Distractor is not there"));
}

#[test]
fn the_trade_off_of_features() {
    let folder = tempfile::tempdir().unwrap();
    let (probes, gallery) = (path(&folder, "probes.safetensors"), path(&folder, "gallery.safetensors"));
    // Thirty searches of people who are not enrolled carry a rate of a tenth.
    let axes: Vec<usize> = [0, 1, 2].into_iter().chain((0..30).map(|at| if at < 3 { 0 } else { 5 })).collect();
    let labels: Vec<i64> = [10, 11, 10].into_iter().chain(100..130).collect();
    write_features(&probes, &axes, Some(labels));
    write_features(&gallery, &[0, 1], Some(vec![10, 11]));
    let svg = path(&folder, "det.svg");
    let arguments = ["identify", "--probes", &probes, "--gallery", &gallery, "--svg", &svg];
    let (table, _) = run(&arguments);
    assert!(table.contains("3 mated and 30 non-mated searches of 2 templates"), "{table}");
    assert!(table.contains("FPIR ≤ 10 %") && table.contains("33.33"), "{table}");
    assert_eq!(std::fs::read_to_string(&svg).unwrap().matches("<g ").count(), 2);
    let (json, _) = run(&["identify", "--probes", &probes, "--gallery", &gallery, "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["outcome"]["identification"].as_array().unwrap().len(), 1);
    assert_eq!(json["outcome"]["identification"][0]["measured_fpir"], 0.1);
    write_features(&gallery, &[0, 1], None);
    assert!(fail(&arguments).contains("no labels"));
}
