//! What heads bring into a run: their state across a stop, directions of classes to begin with, export.

use super::{config, exported, identities, last, records, stop_after};
use candle_core::{DType, Tensor};
use vultus_train::data::AugmentConfig;
use vultus_train::trainer::{Checkpoint, HeadKind, KernelStart, Outcome, Trainer};

fn number(tensor: &Tensor) -> f64 {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap()[0]
}

/// CurricularFace has a running cosine to carry on, MagFace a loss of its own: stopped and taken up again, each ends with
/// the bytes of a run that went through, and is exported with norms measured on crops.
#[test]
fn runs_with_other_heads_stop_and_go_on_and_are_exported() {
    let folder = identities(4, 6);
    for (kind, name) in [(HeadKind::CurricularFace, "curricularface"), (HeadKind::MagFace, "magface")] {
        let mut config = config(folder.path());
        config.head.kind = kind;
        let whole = folder.path().join(format!("whole-{name}"));
        let (outcome, through) = records(&mut Trainer::start(config.clone(), &whole).unwrap());
        assert_eq!((outcome, through.len()), (Outcome::Finished, 6));
        assert!(through.iter().all(|record| record.loss.is_finite() && record.margin_scaler.is_none()));
        let parts = folder.path().join(format!("parts-{name}"));
        stop_after(&mut Trainer::start(config, &parts).unwrap(), 4);
        let kept = Checkpoint::open(&parts.join("checkpoints/step-0000000004.ckpt")).unwrap();
        let t = kept.tensors.get("head.t").map(number);
        assert_eq!(t.is_some_and(|t| t != 0.0), kind == HeadKind::CurricularFace, "{t:?}");
        let (_, rest) = records(&mut Trainer::resume(&parts).unwrap());
        assert_eq!(rest.len(), 2);
        assert!(last(&parts) == last(&whole), "{name}");

        let norm = exported(&whole, name).installed.manifest.norm.plain;
        assert!(norm.mean > 0.0 && norm.std > 0.0, "{norm:?}");
    }
}

/// A network that knows faces finds classes where it has them, and needs no steps to learn where they were drawn.
#[test]
fn classes_begin_where_the_network_has_them() {
    let folder = identities(4, 4);
    let mut config = config(folder.path());
    config.network.architecture = None;
    config.network.dim = None;
    config.network.start = Some("embedded".into());
    config.augment = AugmentConfig::none();
    config.run.steps = Some(1);
    config.run.batch = 16;
    let mut loss = |start: KernelStart, rate: f64| {
        config.head.start = start;
        config.head.rate = rate;
        let run = folder.path().join(format!("{start:?}-{rate}"));
        let (_, records) = records(&mut Trainer::start(config.clone(), &run).unwrap());
        // The start is part of what a run was, and a run that is taken up before its first checkpoint has it again.
        assert_eq!(Trainer::resume(&run).unwrap().config().head.start, start);
        records[0].loss
    };
    // Sampled classes, too: the batch has them all.
    for rate in [1.0, 0.5] {
        let (drawn, means) = (loss(KernelStart::Random, rate), loss(KernelStart::Means, rate));
        println!("rate {rate}: loss of the first step {drawn:.2} with drawn directions, {means:.2} with means");
        assert!(means < 0.8 * drawn, "{rate}: {means} {drawn}");
    }
}
