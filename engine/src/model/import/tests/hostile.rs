//! Files that are damaged or made to harm: an error each, and nothing left behind.

use super::*;

/// Numbers by a fixed rule.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

#[test]
fn differences_are_named() {
    let place = Place::new();
    let change = |change: &dyn Fn(&mut Vec<Written>)| {
        let mut tensors = embedded("model.");
        change(&mut tensors);
        place.error("a.ckpt", &writer::checkpoint(&tensors))
    };
    let missing = change(&|tensors| tensors.retain(|(name, ..)| name != "model.fc1.bias"));
    assert!(missing.contains("missing: model.fc1.bias"), "{missing}");
    let extra = change(&|tensors| tensors.push(("model.more".into(), vec![1], vec![0.0])));
    assert!(extra.contains("unknown to the network: model.more"), "{extra}");
    let shape = change(&|tensors| {
        let tensor = tensors.iter_mut().find(|(name, ..)| name == "model.conv1.weight").unwrap();
        tensor.1 = vec![64, 27];
    });
    assert!(shape.contains("model.conv1.weight ([64, 27] instead of [64, 3, 3, 3])"), "{shape}");
    for value in [f32::NAN, f32::INFINITY] {
        let infinite = change(&|tensors| tensors[7].2[3] = value);
        assert!(infinite.contains("not finite"), "{infinite}");
    }
    let file = place.write("a.ckpt", &writer::checkpoint(&embedded("model.")));
    let other = Options { architecture: Some(Architecture::Ir50), ..Options::new("x") };
    let error = place.import(&file, &other).unwrap_err().to_string();
    assert!(error.starts_with("the file does not fit ir_50: missing:"), "{error}");
}

#[test]
fn lies_about_storages_are_told() {
    let place = Place::new();
    let tensors = embedded("model.");
    let mut shorter = tensors.clone();
    shorter[5].2.pop();
    let pickle = writer::pickle(&tensors, b"N");
    assert!(place.error("a.ckpt", &writer::file(&pickle, &shorter)).contains("its storage has"));
    assert!(place.error("a.ckpt", &writer::file(&pickle, &tensors[..tensors.len() - 1])).contains("is missing"));
    assert!(place.error("a.ckpt", &writer::file(b"\x80\x02}.", &tensors)).contains("no state dictionary"));
    assert!(place.error("a.ckpt", &writer::file(b"\x80\x02}.N.", &tensors)).contains("goes on"));
}

#[test]
fn hostile_pickles_are_called_so() {
    let place = Place::new();
    let tensors = embedded("model.");
    for extra in [
        &b"cos\nsystem\n(X\x04\x00\x00\x00echotR"[..],
        b"cposix\nsystem\n(X\x04\x00\x00\x00echotR",
        b"(X\x04\x00\x00\x00echoios\nsystem\n",
        b"(csubprocess\nPopen\nX\x04\x00\x00\x00echoo",
        b"cbuiltins\neval\n(X\x01\x00\x00\x001tR",
        b"c__builtin__\nexec\n(X\x01\x00\x00\x001tR",
        b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93(tR",
        b"ctorch.hub\nload\n(tR",
        b"cshutil\nrmtree\n(X\x01\x00\x00\x00/tR",
        b"ccollections\nOrderedDict.__init__.__globals__\n",
    ] {
        let file = writer::file(&writer::pickle(&tensors, extra), &tensors);
        let error = place.error("a.ckpt", &file);
        assert!(error.contains("hostile"), "{error}");
    }
    assert!(place.error("a.pt", b"cos\nsystem\n(X\x04\x00\x00\x00echotR.").contains("os.system"));
    assert!(place.error("a.pt", b"\x80\x02]q\x00.").contains("bare pickle"));
    assert!(place.error("a.pt", b"").contains("no checkpoint"));
    assert!(place.error("a.pt", b"PK\x05\x06").contains("damaged"));
    assert!(place.error("a.pt", &[0x80; 4096]).contains("no checkpoint"));
}

/// A bit that flips in what the file holds is always noticed. One in the zip file's own fields, such as a date that
/// nobody reads, may change nothing.
#[test]
fn mutated_checkpoints_end_in_an_error() {
    let place = Place::new();
    let tensors = with_head(embedded("model."));
    let good = writer::checkpoint(&tensors);
    let mut random = Random(0x5eed);
    let (mut refused, mut same) = (0, 0);
    let reference = place.import(&place.write("a.ckpt", &good), &Options::new("reference")).unwrap().installed;
    for round in 0..120 {
        let mut bytes = good.clone();
        match round % 3 {
            // Anywhere, that is nearly always in values.
            0 => {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
            // In the pickle at the start or the directory at the end.
            1 => {
                let at = random.below(40_000);
                let at = if random.below(2) == 0 { at } else { bytes.len() - 1 - at % 12_000 };
                bytes[at] ^= 1 << random.below(8);
            }
            _ => bytes.truncate(random.below(bytes.len())),
        }
        let file = place.write("a.ckpt", &bytes);
        match place.import(&file, &Options::new("mutated")) {
            Err(_) => refused += 1,
            Ok(done) => {
                assert_eq!(done.installed.manifest.sha256, reference.manifest.sha256, "round {round}");
                std::fs::remove_file(done.installed.path.unwrap()).unwrap();
                std::fs::remove_file(place.registry.directory().join("mutated.json")).unwrap();
                same += 1;
            }
        }
        assert_eq!(place.left(), 2, "round {round}");
    }
    println!("{refused} refused, {same} with nothing of value changed");
    assert!(refused >= 100, "{refused}");
}

#[test]
fn mutated_safetensors_never_panic() {
    let place = Place::new();
    let good = writer::safetensors(&embedded("net."));
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let mut random = Random(0xfeed);
    for round in 0..60 {
        let mut bytes = good.clone();
        if round % 2 == 0 {
            let at = random.below(8 + header);
            bytes[at] ^= 1 << random.below(8);
        } else {
            bytes.truncate(random.below(bytes.len()));
        }
        let file = place.write("model.safetensors", &bytes);
        if place.import(&file, &Options { replace: true, ..Options::new("x") }).is_ok() {
            assert_eq!(round % 2, 0, "a file that is cut short was taken");
        }
    }
}
