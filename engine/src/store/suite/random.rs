//! Random writes on sled with the memory store as the model.

use proptest::prelude::*;

use super::*;
use crate::store::memory::MemoryStore;
use crate::store::sled::SledStore;

/// One step of a run.
#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<Operation>),
    PutAnswer(u8, i64),
    Forget(i64),
    Reopen,
}

fn expected() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![4 => Just(None), 1 => (1..20_u64).prop_map(Some)]
}

/// Few ids, so that operations meet.
fn operation() -> impl Strategy<Value = Operation> {
    let ids = (prop::sample::select(vec!["a", "b"]), prop::sample::select(vec!["x", "x-", "y"]));
    (ids, 0..8_u128, expected(), 0..18_u8).prop_map(|((g, s), number, expected, kind)| {
        let consent = if number % 2 == 0 { Consent::NotRecorded } else { Consent::Withdrawn };
        let labelled = Subject { labels: vec![format!("l{number}")], consent, ..subject(s) };
        match kind {
            0 | 1 => create_gallery(g),
            2 => {
                Operation::UpdateGallery { gallery: Gallery { thresholds: thresholds(number), ..gallery(g) }, expected }
            }
            3 => Operation::DeleteGallery { gallery: gid(g), expected },
            4 => create_subject(g, s),
            5 | 6 => Operation::EnsureSubject { gallery: gid(g), subject: labelled },
            7 => Operation::UpdateSubject { gallery: gid(g), subject: labelled, expected },
            8 => Operation::DeleteSubject { gallery: gid(g), subject: sid(s), expected },
            9..=11 => add_face(g, s, number),
            12 => Operation::AddFace { gallery: gid(g), face: face(s, number), crop: None },
            13 => delete_face(g, s, number),
            14 => {
                let to = sid(if number % 2 == 0 { "x" } else { "x-" });
                Operation::MoveFace { gallery: gid(g), from: sid(s), to, face: fid(number) }
            }
            15 => Operation::RestoreSubject { gallery: gid(g), subject: Subject { revision: 7, ..labelled } },
            16 => {
                let scope = (number > 2).then_some(g);
                put_document(scope, Collection::Pairs, s.as_bytes(), vec![b'p'; number as usize * 1366])
            }
            _ => {
                let gallery = (number > 2).then(|| gid(g));
                let key = DocumentKey { gallery, collection: Collection::Pairs, id: s.as_bytes().to_vec() };
                Operation::RemoveDocument { key }
            }
        }
    })
}

fn thresholds(number: u128) -> Thresholds {
    let review = (number > 4).then_some(ThresholdSetting::Fpir(0.01));
    Thresholds { review, ..score(number as f32) }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        // One operation mostly works, several mostly fail somewhere; both are wanted.
        12 => prop::collection::vec(operation(), 1..2).prop_map(Step::Commit),
        6 => prop::collection::vec(operation(), 2..5).prop_map(Step::Commit),
        1 => (0..3_u8, -5..5_i64).prop_map(|(key, created_s)| Step::PutAnswer(key, created_s)),
        1 => (-5..6_i64).prop_map(Step::Forget),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        max_shrink_iters: 400,
        rng_seed: proptest::test_runner::RngSeed::Fixed(20_260_401),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn sled_behaves_like_memory(steps in prop::collection::vec(step(), 1..60)) {
        let folder = tempfile::tempdir().unwrap();
        let mut sled = SledStore::open(folder.path()).unwrap();
        let memory = MemoryStore::new();
        for (second, step) in (0..).zip(steps) {
            match step {
                Step::Commit(operations) => {
                    let results = (sled.commit(at(second), &operations), memory.commit(at(second), &operations));
                    match results {
                        (Ok(of_sled), Ok(of_memory)) => prop_assert_eq!(of_sled, of_memory),
                        (Err(of_sled), Err(of_memory)) => {
                            prop_assert_eq!(of_sled.to_string(), of_memory.to_string());
                        }
                        (of_sled, of_memory) => prop_assert!(false, "{of_sled:?} is not {of_memory:?}"),
                    }
                }
                Step::PutAnswer(key, created_s) => {
                    let answer = answer(created_s, vec![key; usize::from(key) * 4096]);
                    sled.put_answer(&[key; 32], &answer).unwrap();
                    memory.put_answer(&[key; 32], &answer).unwrap();
                }
                Step::Forget(before_s) => {
                    let forgotten = sled.forget_answers(before_s).unwrap();
                    prop_assert_eq!(forgotten, memory.forget_answers(before_s).unwrap());
                }
                Step::Reopen => {
                    drop(sled);
                    sled = SledStore::open(folder.path()).unwrap();
                }
            }
        }
        prop_assert_eq!(dump(&sled), dump(&memory));
        drop(sled);
        let sled = SledStore::open(folder.path()).unwrap();
        prop_assert_eq!(dump(&sled), dump(&memory));
        for key in 0..3 {
            prop_assert_eq!(sled.answer(&[key; 32]).unwrap(), memory.answer(&[key; 32]).unwrap());
        }
    }
}
