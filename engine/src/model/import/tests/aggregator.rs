//! Networks for set fusion, in the forms that training leaves.

use super::*;
use crate::model::caface::{Aggregator, tests::small_tensors};

/// A registry with a model of an architecture, of which only the manifest is looked at.
fn place(architecture: Architecture) -> Place {
    let place = Place::new();
    let mut manifest = Manifest::parse(crate::model::EMBEDDED_MANIFEST).unwrap();
    (manifest.name, manifest.architecture, manifest.dim) = ("big".to_owned(), architecture, 512);
    let weights = place.registry.weights_path("big");
    std::fs::create_dir_all(place.registry.directory()).unwrap();
    std::fs::write(weights.with_extension(MANIFEST_EXTENSION), json(&manifest)).unwrap();
    std::fs::write(weights, "").unwrap();
    place
}

fn tensors(prefix: &str) -> Vec<Written> {
    small_tensors().into_iter().map(|(name, shape, values)| (format!("{prefix}{name}"), shape, values)).collect()
}

#[test]
fn every_form_becomes_the_same_file_beside_its_model() {
    let place = place(Architecture::Ir101);
    let mut lightning = tensors("aggregator.");
    lightning.retain(|(name, ..)| name != "aggregator.style_maker.cfc");
    lightning.push(("aggregator.style_maker.bn.num_batches_tracked".into(), vec![], vec![3.0]));
    lightning.push(("model.input_layer.0.weight".into(), vec![2], vec![0.0; 2]));
    let mut ids = Vec::new();
    for (name, bytes) in [
        ("best.ckpt", writer::checkpoint(&lightning)),
        ("plain.pt", writer::checkpoint(&tensors(""))),
        ("plain.safetensors", writer::safetensors(&tensors("module."))),
    ] {
        let file = place.write(name, &bytes);
        let done = import_aggregator(&file, &place.registry, "big", !ids.is_empty()).unwrap();
        assert_eq!(done.model.aggregator.as_ref(), Some(&done.path));
        assert!(done.path.ends_with("models/big.caface.safetensors"));
        let loaded = Aggregator::load(&std::fs::read(&done.path).unwrap(), &Device::Cpu).unwrap();
        assert_eq!(loaded.id(), done.id);
        ids.push(done.id);
    }
    assert!(ids[0] == ids[1] && ids[1] == ids[2]);
    assert_eq!((place.left(), place.registry.list().unwrap().len()), (3, 2));
    let file = place.write("again.pt", &writer::checkpoint(&tensors("")));
    let error = import_aggregator(&file, &place.registry, "big", false).unwrap_err();
    assert!(matches!(error, ImportError::AggregatorExists(name) if name == "big"));
}

#[test]
fn what_does_not_fit_is_named_and_leaves_nothing() {
    let place = self::place(Architecture::Ir101);
    let error = |tensors: &[Written]| {
        let file = place.write("x.pt", &writer::checkpoint(tensors));
        let error = import_aggregator(&file, &place.registry, "big", false).unwrap_err().to_string();
        assert_eq!(place.left(), 2, "{error}");
        error
    };
    let mut wrong = tensors("aggregator.");
    wrong.retain(|(name, ..)| name != "aggregator.norm_emb.scale");
    wrong.push(("aggregator.surprise".into(), vec![1], vec![0.0]));
    for (name, shape, _) in &mut wrong {
        if name == "aggregator.style_maker.linear.bias" {
            *shape = vec![8, 8];
        }
    }
    assert_eq!(
        error(&wrong),
        "the file does not fit a CAFace network: missing: aggregator.norm_emb.scale; wrongly shaped: \
         aggregator.style_maker.linear.bias ([8, 8] instead of [64]); unknown to the network: aggregator.surprise"
    );
    let mut infinite = tensors("");
    infinite[3].2[0] = f32::INFINITY;
    assert!(error(&infinite).contains("not finite"));
    assert!(error(&embedded("")).contains("no CAFace network"));
    let small = self::place(Architecture::Ir50);
    let file = small.write("x.pt", &writer::checkpoint(&tensors("")));
    for model in ["big", "mobilefacenet"] {
        let error = import_aggregator(&file, &small.registry, model, false).unwrap_err();
        assert!(matches!(error, ImportError::NoStyle(_)), "{error}");
    }
    assert!(import_aggregator(&file, &small.registry, "none", false).is_err());
}

#[test]
fn another_model_of_the_same_name_loses_the_network() {
    let place = place(Architecture::Ir101);
    let beside = aggregator_path(&place.registry.weights_path("big"));
    let file = place.write("mine.safetensors", EMBEDDED_WEIGHTS);
    let options = Options { replace: true, ..Options::new("big") };
    place.import(&file, &options).unwrap();
    std::fs::write(&beside, "").unwrap();
    // The same weights once more.
    place.import(&file, &options).unwrap();
    assert!(beside.exists());
    let manifest = place.registry.weights_path("big").with_extension(MANIFEST_EXTENSION);
    let mut other = Manifest::parse(&std::fs::read_to_string(&manifest).unwrap()).unwrap();
    other.sha256 = "0".repeat(64);
    std::fs::write(&manifest, json(&other)).unwrap();
    let warnings = place.import(&file, &options).unwrap().warnings;
    assert!(!beside.exists() && warnings.iter().any(|warning| warning.contains("CAFace")), "{warnings:?}");
}
