//! The evaluations against the published code on random vectors.
//!
//! What is in `tests/golden` (its README says how it was made) always runs. The scores of IJB, 16,110 pairs, are too many for
//! the repository and run where they are found.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use vultus_train::eval::dir_far::{Rule, closed_set, open_set};
use vultus_train::eval::fusion::{FlipFusion, Normed};
use vultus_train::eval::roc::{IJB_RATES, Roc};
use vultus_train::eval::search::{Labelled, Ties, search};
use vultus_train::eval::{Rows, folds, ijb, ijbs, media, tinyface};

struct Golden {
    tensors: HashMap<String, Tensor>,
    values: Value,
}

impl Golden {
    fn load(folder: &Path, name: &str) -> Self {
        let tensors = candle_core::safetensors::load(folder.join(format!("{name}.safetensors")), &Device::Cpu).unwrap();
        let text = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
        Self { tensors, values: serde_json::from_str(&text).unwrap() }
    }

    fn small() -> Self {
        Self::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"), "eval_small")
    }

    /// All values, where they are.
    fn whole() -> Option<Self> {
        let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/golden");
        if !folder.join("eval.safetensors").exists() {
            eprintln!("skipped: {} is not there", folder.display());
            return None;
        }
        Some(Self::load(&folder, "eval"))
    }

    fn numbers(&self, name: &str) -> Vec<f64> {
        self.tensors[name].to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    fn integers(&self, name: &str) -> Vec<i64> {
        self.tensors[name].to_dtype(DType::I64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    fn rows(&self, name: &str) -> Rows<f64> {
        Rows::new("row", self.tensors[name].dims()[1], self.numbers(name)).unwrap()
    }

    fn rows_f32(&self, name: &str) -> Rows<f32> {
        let tensor = &self.tensors[name];
        Rows::new("row", tensor.dims()[1], tensor.flatten_all().unwrap().to_vec1().unwrap()).unwrap()
    }

    fn labelled(&self, vectors: &str, labels: &str) -> Labelled {
        Labelled::new(self.rows(vectors), self.integers(labels)).unwrap()
    }

    fn expected(&self, path: &str) -> Vec<f64> {
        let value = self.values.pointer(path).unwrap_or_else(|| panic!("no {path}"));
        match value {
            Value::Array(values) => values.iter().map(|value| value.as_f64().unwrap()).collect(),
            value => vec![value.as_f64().unwrap()],
        }
    }
}

#[track_caller]
fn assert_near(actual: &[f64], expected: &[f64], limit: f64) {
    assert_eq!(actual.len(), expected.len());
    for (at, (a, b)) in actual.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= limit, "{at}: {a} instead of {b}");
    }
}

#[test]
fn ten_folds() {
    let golden = Golden::small();
    let distances = folds::squared_distances(&golden.rows_f32("kfold/embeddings")).unwrap();
    let same: Vec<bool> = golden.integers("kfold/issame").into_iter().map(|same| same == 1).collect();
    let outcome = folds::ten_folds(&distances, &same).unwrap();
    assert_near(&outcome.accuracies, &golden.numbers("kfold/acc"), 1e-12);
    assert_near(&outcome.thresholds, &golden.numbers("kfold/best_thresholds"), 1e-12);
    assert_near(&outcome.tpr, &golden.numbers("kfold/tpr"), 1e-12);
    assert_near(&outcome.fpr, &golden.numbers("kfold/fpr"), 1e-12);
    assert_near(&[outcome.accuracy()], &golden.expected("/kfold/acc_mean"), 1e-12);
    assert_near(&[outcome.deviation()], &golden.expected("/kfold/acc_std"), 1e-12);
    assert_near(&[outcome.threshold()], &golden.expected("/kfold/best_threshold_mean"), 1e-12);
}

#[test]
fn fusion_with_mirror_images() {
    let golden = Golden::small();
    let (embeddings, norms) = (&golden.tensors["fuse/emb"], golden.numbers("fuse/norm"));
    let normed = |which: usize| {
        let own = embeddings.get(which).unwrap();
        let rows = Rows::new("row", 16, own.flatten_all().unwrap().to_vec1().unwrap()).unwrap();
        Normed::new(rows, norms[6 * which..6 * (which + 1)].iter().map(|norm| *norm as f32).collect()).unwrap()
    };
    for name in ["pre_norm_vector_add", "norm_weighted_avg", "average", "concat"] {
        let fusion: FlipFusion = name.parse().unwrap();
        assert_eq!(fusion.to_string(), name);
        let fused = fusion.fuse(&normed(0), &normed(1)).unwrap();
        assert_near(fused.embeddings.to_f64().values(), &golden.numbers(&format!("fuse/{name}/emb")), 1e-6);
        let expected = golden.numbers(&format!("fuse/{name}/norm"));
        let ratios: Vec<f64> = fused.norms.iter().zip(&expected).map(|(a, b)| f64::from(*a) / b).collect();
        assert_near(&ratios, &vec![1.0; expected.len()], 1e-6);
        // The sum of raw features has the direction of the norm-weighted mean.
        if name == "norm_weighted_avg" {
            let added = FlipFusion::PreNormVectorAdd.fuse(&normed(0), &normed(1)).unwrap();
            assert_near(fused.embeddings.to_f64().values(), added.embeddings.to_f64().values(), 1e-7);
        }
    }
}

#[test]
fn detection_and_identification_rates() {
    let golden = Golden::small();
    let (scores, labels) = (golden.rows("dirfar/score"), golden.integers("dirfar/label"));
    let searches: Vec<_> = scores
        .iter()
        .enumerate()
        .map(|(probe, row)| search(row, |place| labels[50 * probe + place] == 1, Ties::LaterFirst))
        .collect();
    let closed = closed_set(&searches, &[1, 5, 10], Rule::IJBS).unwrap().unwrap();
    assert_near(&closed, &golden.expected("/ijbs_dirfar/closed_rank1_5_10"), 1e-7);
    let open = open_set(&searches, &[0.01, 0.1], 1, Rule::IJBS).unwrap();
    let column = |value: fn(&vultus_train::eval::dir_far::OpenSet) -> f64| open.iter().map(value).collect::<Vec<f64>>();
    assert_near(&column(|point| point.tpir.unwrap()), &golden.expected("/ijbs_dirfar/open_FPIR_1%_10%"), 1e-7);
    assert_near(&column(|point| point.measured_fpir), &golden.expected("/ijbs_dirfar/measured_far"), 1e-7);
    assert_near(&column(|point| point.threshold), &golden.expected("/ijbs_dirfar/thresholds"), 1e-12);
}

#[test]
fn two_galleries_of_ijbs() {
    let golden = Golden::small();
    let probes = golden.labelled("ijbs/probe", "ijbs/probe_label");
    let [first, second] = ["1", "2"].map(|n| golden.labelled(&format!("ijbs/g{n}"), &format!("ijbs/g{n}_label")));
    let outcome = ijbs::two_galleries(&probes, &first, &second).unwrap();
    let closed: Vec<f64> = outcome.closed.iter().map(|(_, share)| share.unwrap()).collect();
    assert_near(&closed, &golden.expected("/ijbs_identification/closed_rank1_5_10"), 1e-7);
    let open: Vec<f64> = outcome.open.iter().map(|(_, share)| share.unwrap()).collect();
    assert_near(&open, &golden.expected("/ijbs_identification/open_1%_10%"), 1e-7);
}

#[test]
fn tiny_faces() {
    let golden = Golden::small();
    let probes = golden.labelled("tiny/probe", "tiny/probe_label");
    let gallery = golden.labelled("tiny/gallery", "tiny/gallery_label");
    let outcome = tinyface::identify(&probes, &gallery).unwrap();
    let shares: Vec<f64> = outcome.ranks.iter().map(|(_, share)| share.unwrap()).collect();
    assert_near(&shares, &golden.expected("/tinyface/rank1_5_20"), 1e-7);
}

#[test]
fn verification_of_templates() {
    let Some(golden) = Golden::whole() else { return };
    let (templates, media) = (golden.integers("ijb/template"), golden.integers("ijb/media"));
    let made = media::fuse_media(&golden.rows_f32("ijb/feat"), &templates, &media, None).unwrap();
    assert_eq!(made.ids, golden.integers("ijb/unique_templates"));
    assert_near(made.vectors.values(), &golden.numbers("ijb/template_feats"), 1e-6);
    let pairs: Vec<(i64, i64)> = golden.integers("ijb/p1").into_iter().zip(golden.integers("ijb/p2")).collect();
    let scores = ijb::verification_scores(&made, &pairs).unwrap();
    assert_near(&scores, &golden.numbers("ijb/score"), 1e-6);

    let mated: Vec<bool> = golden.integers("ijb/label").into_iter().map(|label| label == 1).collect();
    for scores in [scores, golden.numbers("ijb/score")] {
        let roc = Roc::new(&scores, &mated).unwrap();
        assert_near(&roc.fpr().unwrap(), &golden.numbers("ijb/roc_fpr"), 1e-12);
        assert_near(&roc.tpr().unwrap(), &golden.numbers("ijb/roc_tpr"), 1e-12);
        assert_near(&[roc.area().unwrap()], &golden.expected("/ijb_11/auc"), 1e-12);
        assert_eq!(roc.mated as f64, golden.expected("/ijb_11/n_pos")[0]);
        assert_eq!(roc.non_mated as f64, golden.expected("/ijb_11/n_neg")[0]);
        let printed: Vec<String> =
            roc.table(&IJB_RATES).iter().map(|point| format!("{:.2}", 100.0 * point.tar)).collect();
        let expected: Vec<&str> =
            golden.values["ijb_11"]["table"][1].as_array().unwrap()[1..].iter().map(|v| v.as_str().unwrap()).collect();
        assert_eq!(printed, expected);
    }
}

#[test]
fn identification_of_templates() {
    let Some(golden) = Golden::whole() else { return };
    let images = golden.rows_f32("ijb/feat");
    let (templates, media) = (golden.integers("ijb/template"), golden.integers("ijb/media"));
    let side = |name: &str| {
        let column = |what: &str| golden.integers(&format!("ijb1n/{name}_{what}"));
        let mut records: Vec<(i64, i64)> = column("templates").into_iter().zip(column("ids")).collect();
        let (made, empty) = ijb::labelled_templates(&images, &templates, &media, &records).unwrap();
        assert_eq!(empty, 0);
        records.sort_unstable();
        assert!(made.subjects().iter().eq(records.iter().map(|(_, subject)| subject)));
        assert_near(made.vectors().values(), &golden.numbers(&format!("ijb1n/{name}_feats")), 1e-6);
        made
    };
    let outcome = ijb::identify(&side("probe"), &side("gallery")).unwrap();
    for (rank, share) in &outcome.ranks {
        assert_near(&[*share], &golden.expected(&format!("/ijb_1n/top{rank}")), 1e-12);
    }
    let printed: Vec<String> = outcome
        .retrieval
        .iter()
        .map(|r| format!("far = {:.10} pr = {:.10} th = {:.7}", r.far, r.recall.unwrap(), r.threshold.unwrap()))
        .collect();
    for (ours, theirs) in printed.iter().zip(golden.values["ijb_1n"]["stdout"].as_array().unwrap()) {
        // They print ten digits of a threshold, of which features in f32 give seven.
        assert_eq!(ours.as_str(), &theirs.as_str().unwrap()[..ours.len()]);
    }
    assert_eq!(printed.len(), 2);
}
