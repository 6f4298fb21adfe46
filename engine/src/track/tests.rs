//! Tracks against the template of all their frames, whatever came in whatever order.

use proptest::prelude::*;

use super::*;
use crate::ids::ModelId;
use crate::model::ImpostorScores;
use crate::quality::NormStats;
use crate::template::FusionRule;

const DIM: usize = 16;

fn model(dim: usize) -> Arc<ServedModel> {
    Arc::new(ServedModel {
        id: ModelId("test-0".to_owned()),
        dim,
        norm_stats: NormStats { mean: 68.8, std: 8.2 },
        fusion: FusionRule::SoftmaxQuality.into(),
        threshold: 0.3,
        impostors: [].into_iter().collect::<ImpostorScores>(),
        network: None,
    })
}

fn frame(values: Vec<f32>, norm: f32, media: &str) -> Frame {
    let mut feature = Feature::from_raw(values).unwrap();
    feature.norm = norm;
    Frame { feature, media: MediaId::try_from(media.to_owned()).unwrap(), source: FaceSource::Embedding }
}

/// A seeded generator of numbers in 0..1.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }

    fn values(&mut self, dim: usize) -> Vec<f32> {
        (0..dim).map(|_| self.next() - 0.35).collect()
    }
}

#[track_caller]
fn agrees(track: &mut Track) {
    match (track.template(), track.explain(track.fusion())) {
        (Ok(running), Ok(batch)) => {
            let apart = running.vector.iter().zip(&batch.vector).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart < 1e-6, "{:?}: {apart} apart after {} frames", track.fusion(), track.len());
            assert!((running.coherence - batch.coherence).abs() < 1e-6);
        }
        (running, batch) => assert_eq!(running.err(), batch.err()),
    }
}

fn rules() -> Vec<Fusion> {
    let soft = |tau| Fusion { tau, ..FusionRule::SoftmaxQuality.into() };
    let plain = [FusionRule::Mean, FusionRule::Norm, FusionRule::Best].map(Fusion::from);
    plain.into_iter().chain([soft(1.0), soft(0.05), soft(100.0)]).collect()
}

#[test]
fn thousands_of_frames_agree_with_the_batch_at_any_time() {
    let model = model(192);
    for fusion in rules() {
        let (mut track, mut draw) = (Track::new(Arc::clone(&model), fusion), Draw(1));
        for i in 0..5000u32 {
            // Most frames are of the track's own media, some of a few others, some of one each.
            let media = match i % 10 {
                0..7 => "camera".to_owned(),
                7 | 8 => format!("clip {}", i % 50),
                _ => format!("still {i}"),
            };
            track.add(frame(draw.values(192), 30.0 + 60.0 * draw.next(), &media)).unwrap();
            if i % 1000 == 17 {
                agrees(&mut track);
            }
        }
        agrees(&mut track);
        for number in (0..5000).step_by(7) {
            assert!(track.remove(number).is_some() && track.remove(number).is_none());
        }
        agrees(&mut track);
        assert_eq!(track.len(), 5000 - 5000usize.div_ceil(7));
    }
}

#[test]
fn a_removed_frame_leaves_no_trace() {
    let model = model(DIM);
    for fusion in rules() {
        let mut draw = Draw(7);
        let frames: Vec<Frame> =
            (0..200).map(|i| frame(draw.values(DIM), 40.0 + 30.0 * draw.next(), ["a", "b"][i % 2])).collect();
        let mut without = Track::new(Arc::clone(&model), fusion);
        let mut with = Track::new(Arc::clone(&model), fusion);
        for (i, one) in frames.into_iter().enumerate() {
            if i == 100 {
                // Outweighs all others by far more than numbers resolve.
                with.add(frame(draw.values(DIM), 1e6, "a")).unwrap();
                with.template().unwrap();
            }
            without.add(one.clone()).unwrap();
            with.add(one).unwrap();
        }
        with.template().unwrap();
        with.remove(100).unwrap();
        assert_eq!(with.template().unwrap(), without.template().unwrap());
        assert_eq!(with.bytes(), without.bytes());
    }
}

#[test]
fn memory_is_as_announced() {
    let model = model(512);
    let mut track = Track::new(Arc::clone(&model), FusionRule::SoftmaxQuality.into());
    let (empty, mut draw) = (track.bytes(), Draw(3));
    // The dearest case: two frames of each media.
    for i in 0..1000 {
        track.add(frame(draw.values(512), 60.0, &format!("media {:05}", i / 2))).unwrap();
    }
    let per_frame = Track::bytes_per_frame(&model, "media 00000".len());
    assert!(track.bytes() - empty <= 1000 * per_frame + 512 * 8);
    assert!(per_frame < 7000, "{per_frame}");
    // What a removal makes stale is still counted, since the next template makes it anew.
    let full = track.bytes();
    track.remove(0);
    let stale = track.bytes();
    track.template().unwrap();
    assert!(track.bytes() <= stale + 512 * 4 && stale < full);
}

#[test]
fn what_is_no_frame_is_refused() {
    let mut track = Track::new(model(DIM), FusionRule::Mean.into());
    assert_eq!(track.template().unwrap_err(), TemplateError::Empty);
    let mut draw = Draw(5);
    assert_eq!(track.add(frame(draw.values(DIM + 1), 60.0, "a")).unwrap_err(), TemplateError::MixedDimensions);
    for norm in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert_eq!(track.add(frame(draw.values(DIM), norm, "a")).unwrap_err(), TemplateError::BadNorm);
    }
    let values = draw.values(DIM);
    track.add(frame(values.clone(), 60.0, "a")).unwrap();
    track.add(frame(values.iter().map(|v| -v).collect(), 60.0, "b")).unwrap();
    assert_eq!(track.template().unwrap_err(), TemplateError::Degenerate);
}

#[test]
fn the_network_rule_needs_its_network() {
    let mut track = Track::new(model(DIM), FusionRule::Caface.into());
    track.add(frame(Draw(1).values(DIM), 60.0, "a")).unwrap();
    assert_eq!(track.template().unwrap_err(), TemplateError::NoCaface);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_adds_and_removes_agree_with_the_batch(
        rule in 0usize..6,
        seed in any::<u64>(),
        steps in prop::collection::vec((0u8..10, 0u8..4, 1f32..400.0), 1..120),
    ) {
        let mut track = Track::new(model(DIM), rules()[rule]);
        let mut draw = Draw(seed);
        for (act, media, norm) in steps {
            match act {
                0 => drop(track.remove((draw.next() * 60.0) as u64)),
                1 => agrees(&mut track),
                _ => drop(track.add(frame(draw.values(DIM), norm, &media.to_string())).unwrap()),
            }
        }
        agrees(&mut track);
    }
}
