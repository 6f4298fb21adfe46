//! Whole imports, with the weights of the embedded model in the forms that others use.
//!
//! The fixtures were written by PyTorch 2.15: tensors of several types, turned and shared, in a dictionary beside what
//! Lightning saves, among it objects of classes that exist nowhere (`lightning.data.AttributeDict`).

mod aggregator;
mod hostile;
mod writer;

use ::safetensors::SafeTensors;

use super::color::usual_color;
use super::*;
use crate::model::EMBEDDED_WEIGHTS;
use crate::model::manifest::{ColorSource, NormSource};
use writer::Tensor as Written;

/// A folder with a file to import and a registry.
struct Place {
    folder: tempfile::TempDir,
    registry: Registry,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::new(folder.path().join("models"));
        Self { folder, registry }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn import(&self, file: &Path, options: &Options) -> Result<Imported, ImportError> {
        import(file, &self.registry, options, &Device::Cpu)
    }

    /// The error of an import, which leaves nothing behind.
    fn error(&self, name: &str, bytes: &[u8]) -> String {
        let file = self.write(name, bytes);
        let error = self.import(&file, &Options::new("x")).unwrap_err().to_string();
        assert_eq!(self.left(), 0, "{error}");
        error
    }

    fn left(&self) -> usize {
        std::fs::read_dir(self.registry.directory()).map_or(0, |entries| entries.count())
    }
}

/// The embedded model's tensors, under a prefix.
fn embedded(prefix: &str) -> Vec<Written> {
    let file = SafeTensors::deserialize(EMBEDDED_WEIGHTS).unwrap();
    let mut names = file.names();
    names.sort_unstable();
    let tensor = |name: &str| {
        let view = file.tensor(name).unwrap();
        let values = view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
        (format!("{prefix}{name}"), view.shape().to_vec(), values.collect())
    };
    names.into_iter().map(tensor).collect()
}

fn with_head(mut tensors: Vec<Written>) -> Vec<Written> {
    tensors.push(("head.kernel".into(), vec![2, 3], vec![0.5; 6]));
    tensors.push(("head.batch_mean".into(), vec![1], vec![21.5]));
    tensors.push(("head.batch_std".into(), vec![1], vec![3.25]));
    tensors
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/model/import/tests/fixtures").join(name)
}

#[test]
fn files_of_pytorch_are_read() {
    for name in ["lightning.ckpt", "lightning4.ckpt", "legacy.pt"] {
        let mut file = Checkpoint::open(&fixture(name)).unwrap();
        let lightning = if name == "legacy.pt" { Writer::Torch } else { Writer::Lightning };
        assert_eq!((file.writer, file.tensors.len()), (lightning, 10), "{name}");
        let turned: Vec<f32> = (0..12).map(|at| (at % 3 * 4 + at / 3) as f32).collect();
        for (tensor, shape, values) in [
            ("model.plain", &[2, 3][..], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0][..]),
            ("model.turned", &[4, 3], &turned),
            ("model.part", &[3], &[20.0, 21.0, 22.0]),
            ("model.half", &[2], &[1.5, -2.25]),
            ("model.brain", &[2], &[1.5, -2.25]),
            ("model.double", &[1, 1], &[0.1]),
            ("model.parameter", &[1], &[7.0]),
            ("model.bn.num_batches_tracked", &[], &[3.0]),
            ("head.batch_mean", &[1], &[21.5]),
        ] {
            let view = file.tensors[tensor].clone().unwrap();
            assert_eq!(view.shape, shape, "{name} {tensor}");
            assert_eq!(file.values(tensor).unwrap(), values, "{name} {tensor}");
        }
        // Turned and part share a storage, which is read once and let go after the second.
        let shared = ["model.turned".to_owned(), "model.part".to_owned()];
        file.plan(&shared).unwrap();
        assert_eq!(file.values("model.turned").unwrap(), turned);
        assert_eq!(file.values("model.part").unwrap(), [20.0, 21.0, 22.0]);
        file.finish().unwrap();
    }
}

#[test]
fn a_lightning_checkpoint_becomes_the_same_model() {
    let place = Place::new();
    let file = place.write("best.ckpt", &writer::checkpoint(&with_head(embedded("model."))));
    let done = place.import(&file, &Options::new("mine")).unwrap();
    let manifest = &done.installed.manifest;
    assert_eq!((manifest.architecture, manifest.dim), (Architecture::Mobilefacenet, 192));
    assert_eq!((manifest.norm.plain.mean, manifest.norm.plain.std), (21.5, 3.25));
    assert_eq!((manifest.norm.source, manifest.norm.flip.unwrap().mean), (Some(NormSource::Head), 43.0));
    assert_eq!(manifest.threshold, Some(ASSUMED_THRESHOLD));
    assert_eq!((manifest.source.as_str(), manifest.licence.as_str()), ("imported from best.ckpt", "NOASSERTION"));
    assert_eq!(done.left_out, ["head.batch_mean", "head.batch_std", "head.kernel"]);
    assert_eq!(done.color_check.verdict, Verdict::Agrees);
    assert!(done.warnings.len() == 1 && done.warnings[0].contains("threshold"), "{:?}", done.warnings);

    let (mine, original) =
        (done.installed.load(true, &Device::Cpu).unwrap(), Model::embedded(true, &Device::Cpu).unwrap());
    let crops = samples::drawn();
    assert_eq!(mine.extract(&crops[..4]).unwrap(), original.extract(&crops[..4]).unwrap());
    assert_eq!(done.installed.model_id, place.registry.find("mine").unwrap().model_id);
}

#[test]
fn the_form_of_the_file_does_not_change_the_model_id() {
    let place = Place::new();
    let ids: Vec<String> = [
        ("a.ckpt", writer::checkpoint(&embedded("model."))),
        ("b.pt", writer::checkpoint(&embedded(""))),
        ("c.safetensors", writer::safetensors(&embedded("net."))),
        ("d.safetensors", EMBEDDED_WEIGHTS.to_vec()),
    ]
    .into_iter()
    .map(|(name, bytes)| {
        let file = place.write(name, &bytes);
        let options = Options { replace: true, ..Options::new("same") };
        place.import(&file, &options).unwrap().installed.model_id.0
    })
    .collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[test]
fn our_own_file_keeps_its_manifest() {
    let place = Place::new();
    let file = place.write("mobilefacenet.safetensors", EMBEDDED_WEIGHTS);
    place.write("mobilefacenet.json", crate::model::EMBEDDED_MANIFEST.as_bytes());
    let manifest = place.import(&file, &Options::new("copy")).unwrap().installed.manifest;
    let original = Manifest::parse(crate::model::EMBEDDED_MANIFEST).unwrap();
    let same = Manifest { name: original.name.clone(), sha256: original.sha256.clone(), ..manifest };
    assert_eq!(same, original);
    place.write("mobilefacenet.safetensors", &EMBEDDED_WEIGHTS[..EMBEDDED_WEIGHTS.len() - 4]);
    assert!(place.import(&file, &Options::new("other")).is_err());
}

#[test]
fn the_colour_order_comes_from_the_file_beside_and_from_the_operator() {
    let place = Place::new();
    let file = place.write("model.safetensors", &writer::safetensors(&embedded("model.net.")));
    place.write("model.yaml", b"color_space: BGR\nname: x\n");
    let options = Options { replace: true, ..Options::new("cvl") };
    let done = place.import(&file, &options).unwrap();
    let input = done.installed.manifest.input;
    assert_eq!((input.color, input.color_source), (Color::Bgr, Some(ColorSource::Config)));
    // These weights want RGB, and their norms tell.
    assert_eq!(done.color_check.verdict, Verdict::OtherIsBetter);
    assert!(done.warnings.iter().any(|warning| warning.contains("--color rgb")), "{:?}", done.warnings);

    let options = Options { color: Some(Color::Rgb), ..options };
    let done = place.import(&file, &options).unwrap();
    let input = done.installed.manifest.input;
    assert_eq!((input.color, input.color_source), (Color::Rgb, Some(ColorSource::Operator)));
    assert!(done.warnings.iter().any(|warning| warning.contains("says bgr")), "{:?}", done.warnings);

    place.write("model.yaml", b"color_space: mauve\n");
    let error = place.import(&file, &Options { color: None, ..options }).unwrap_err().to_string();
    assert!(error.contains("model.yaml") && error.contains("mauve"), "{error}");
}

#[test]
fn the_colour_order_of_a_network_of_either_kind_is_not_guessed() {
    use Architecture::{Ir50, MobilefacenetY1, VitBase};
    let usual = |architecture, prefix, writer| usual_color(architecture, prefix, writer).ok();
    assert_eq!(usual(Ir50, "model.", Writer::Lightning), Some((Color::Bgr, ColorSource::Layout)));
    assert_eq!(usual(Ir50, "", Writer::Torch), Some((Color::Bgr, ColorSource::Assumed)));
    assert_eq!(usual(MobilefacenetY1, "", Writer::Safetensors), Some((Color::Rgb, ColorSource::Layout)));
    for (architecture, prefix, writer) in [
        (Ir50, "net.", Writer::Torch),
        (Ir50, "model.net.", Writer::Safetensors),
        (Ir50, "model.", Writer::Safetensors),
        (VitBase, "", Writer::Torch),
    ] {
        assert_eq!(usual(architecture, prefix, writer), None);
    }
}

#[test]
fn photos_give_norms() {
    let place = Place::new();
    let file = place.write("a.ckpt", &writer::checkpoint(&embedded("model.")));
    let samples = samples::drawn();
    let options = Options { samples: samples.clone(), ..Options::new("a") };
    let norm = place.import(&file, &options).unwrap().installed.manifest.norm;
    assert_eq!(norm.source, Some(NormSource::Samples));
    let options = Options { samples: samples[..3].to_vec(), ..Options::new("b") };
    let done = place.import(&file, &options).unwrap();
    assert_eq!(done.installed.manifest.norm.source, Some(NormSource::Assumed));
    assert!(done.warnings.iter().any(|warning| warning.contains("too few")), "{:?}", done.warnings);
}

#[test]
fn names_are_checked_and_models_are_not_overwritten_unasked() {
    let place = Place::new();
    let file = place.write("a.ckpt", &writer::checkpoint(&embedded("model.")));
    for name in ["", "Ä", "a/b", "..", "UPPER"] {
        assert!(matches!(place.import(&file, &Options::new(name)), Err(ImportError::Name(_))), "{name}");
    }
    assert!(matches!(place.import(&file, &Options::new("mobilefacenet")), Err(ImportError::Exists(_))));
    place.import(&file, &Options::new("a")).unwrap();
    assert!(matches!(place.import(&file, &Options::new("a")), Err(ImportError::Exists(_))));
    let replaced = place.import(&file, &Options { replace: true, ..Options::new("a") }).unwrap();
    assert_eq!((replaced.installed.name.as_str(), place.left()), ("a", 2));
}

#[test]
fn y1_is_imported_as_it_is_published() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models/mobilefacenet_y1.safetensors");
    if !file.exists() {
        return eprintln!("skipped: {} is missing", file.display());
    }
    let place = Place::new();
    let done = place.import(&file, &Options::new("y1")).unwrap();
    let manifest = &done.installed.manifest;
    assert_eq!((manifest.architecture, manifest.dim), (Architecture::MobilefacenetY1, 128));
    assert_eq!(done.color_check.verdict, Verdict::Agrees, "{:?}", done.color_check);
    println!("{:?} {:?}", done.color_check, manifest.norm);
    assert_eq!(done.installed.load(false, &Device::Cpu).unwrap().dim(), 128);
    let wrong = place.import(&file, &Options { color: Some(Color::Bgr), ..Options::new("y1_wrong") }).unwrap();
    assert_eq!(wrong.color_check.verdict, Verdict::OtherIsBetter, "{:?}", wrong.color_check);
}
